"""Every table of a report, and the numbers behind every picture, as flat rows.

A row is a plain mapping of column to value, so that the page, the Markdown twin, the CSV file
and the chart all show the same numbers. Knows nothing of files except how a CSV looks.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from whytune.evidence.metrics import BINS
from whytune.records import Kind
from whytune.study.folder import Answer, Part, Student
from whytune.study.stored import Agreement, Contrast, Record, Row
from whytune.study.titles import METRICS, Metric

SCORE_STEP = 0.05
"""Width of the bins of the score distribution; they are centred on the labels of 3, 5, 11 or 21
points, so that no label falls on an edge."""


def metrics_of(rows: Sequence[Row]) -> list[Metric]:
    """The main figures that at least one row defines; a nominal task has no squared error."""
    return [m for m in METRICS if m.main and any(_value(row, m.name) is not None for row in rows)]


def best(rows: Sequence[Row], metric: Metric) -> set[str]:
    """Names of the arms with the best value; empty where there is only one arm to choose from."""
    values = {row.name: _value(row, metric.name) for row in rows if row.role == "arm"}
    known = {name: value for name, value in values.items() if value is not None}
    if len(known) < 2:
        return set()
    top = min(known.values()) if metric.better == "lower" else max(known.values())
    return {name for name, value in known.items() if value == top}


def _value(row: Row, metric: str) -> float | None:
    interval = row.scorecard.metrics.get(metric)
    return interval.value if interval else None


def scores(rows: Sequence[Row]) -> list[Record]:
    """One line per arm or baseline: every figure with its interval."""
    lines = []
    for row in rows:
        line: Record = {
            "name": row.name,
            "role": row.role,
            "layout": row.layout,
            "explanation": row.explanation,
            "reference": row.scorecard.reference,
            "seeds": len(row.seeds),
            "n": row.scorecard.n,
            "unreadable": row.scorecard.unreadable,
        }
        for metric in METRICS:
            interval = row.scorecard.metrics.get(metric.name)
            for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                line[metric.name + suffix] = getattr(interval, end, None)
        lines.append(line)
    return lines


def standing(part: Part) -> list[Record]:
    """The figure that a section is judged by and the label loss, of every row with its interval,
    and what raters score where that is known.
    """
    judged = "mse" if part.kind is Kind.ORDINAL else "accuracy"
    titles = {metric.name: metric for metric in METRICS}
    rows: list[Record] = []
    for name in (judged, "label_nll"):
        figure = f"{titles[name].title} ({titles[name].better} is better)"
        for row in part.rows:
            interval = row.scorecard.metrics.get(name)
            if interval is not None and interval.value is not None:
                rows.append({"figure": figure, "name": row.name, "role": row.role,
                             **interval.model_dump()})  # fmt: skip
        if part.ceiling and part.ceiling.get(name) is not None:
            ends = {"value": part.ceiling[name], "low": part.ceiling[f"{name}_low"],
                    "high": part.ceiling[f"{name}_high"]}  # fmt: skip
            rows.append({"figure": figure, "name": "raters", "role": "ceiling", **ends})
    return rows


def by_slice(slices: Sequence[Record], arms: Sequence[str], metric: str) -> list[Record]:
    """One figure of some arms, slice by slice; those too small to be measured are left out."""
    return [
        {"arm": row["name"], "cut": row["cut"], "slice": row["slice"], "value": row[metric],
         "low": row[f"{metric}_low"], "high": row[f"{metric}_high"]}
        for row in slices
        if row["name"] in arms and row[metric] is not None
    ]  # fmt: skip


def comparisons(contrasts: Sequence[Contrast]) -> list[Record]:
    """One line per pair of rows and figure."""
    return [
        {
            "base": c.base,
            "arm": c.arm,
            "metric": c.metric,
            "difference": c.difference.value,
            "low": c.difference.low,
            "high": c.difference.high,
            "p": c.p,
            "p_holm": c.p_holm,
            "detectable": c.detectable,
            "n": c.n,
            "groups": c.groups,
            "sentence": c.sentence,
        }
        for c in contrasts
    ]


def runs(students: Mapping[str, Sequence[Student]]) -> list[Record]:
    """What each student saw and how long it took."""
    return [
        {
            "arm": arm,
            "seed": student.run.seed,
            "lessons": student.run.lessons,
            "conversations": student.run.conversations,
            "updates": student.run.updates,
            "label_tokens": student.run.tokens.get("supervised_label"),
            "explanation_tokens": student.run.tokens.get("supervised_explanation"),
            "all_tokens": student.run.tokens.get("total"),
            "cut": student.run.cut,
            "seconds": sum(value or 0 for value in student.run.seconds.values()),
        }
        for arm, cohort in students.items()
        for student in cohort
    ]


def agreement(entries: Sequence[Agreement]) -> list[Record]:
    """One line per corpus and task."""
    return [
        {
            "corpus": e.corpus,
            "task": e.task,
            "examples": e.examples,
            "teachers": len(e.teachers) if isinstance(e.teachers, list) else e.teachers,
            "votes": e.votes,
            "unread": sum(e.unread.values()) if isinstance(e.unread, dict) else e.unread,
            "alpha": e.alpha,
            "pair_agreement": e.pair_agreement,
        }
        for e in entries
    ]


def curves(students: Mapping[str, Sequence[Student]]) -> list[Record]:
    """Label loss through training: a line per seed, and the mean where all seeds were measured."""
    return [row for arm, cohort in students.items() for row in _arm_curves(arm, cohort)]


def _arm_curves(arm: str, cohort: Sequence[Student]) -> Iterator[Record]:
    measured: dict[tuple[int, float], list[float]] = {}
    for student in cohort:
        for moment in student.history:
            if moment.label_nll is None:
                continue
            place = {"step": moment.step, "epoch": moment.epoch}
            yield {"arm": arm, "seed": str(student.run.seed), **place,
                   "label_nll": moment.label_nll}  # fmt: skip
            measured.setdefault((moment.step, moment.epoch), []).append(moment.label_nll)
    for (step, epoch), losses in sorted(measured.items()):
        # A seed that stopped early would bend the mean where it leaves.
        if len(losses) == len(cohort):
            yield {"arm": arm, "seed": "mean", "step": step, "epoch": epoch,
                   "label_nll": float(np.mean(losses))}  # fmt: skip


def distribution(answers: Mapping[str, Sequence[Answer]]) -> list[Record]:
    """Ordinal: share of references and of expected scores near each score, by arm."""
    centres = [round(i * SCORE_STEP, 4) for i in range(round(1 / SCORE_STEP) + 1)]
    rows = []
    for arm, given in answers.items():
        true = Counter(_near(a.score) for a in given if a.score is not None)
        said = Counter(
            _near(a.prediction.expected) for a in given if a.prediction.expected is not None
        )
        rows += [
            {
                "arm": arm,
                "score": centre,
                "reference": _share(true, centre),
                "predicted": _share(said, centre),
            }
            for centre in centres
        ]
    return rows


def frequencies(answers: Mapping[str, Sequence[Answer]], labels: Sequence[str]) -> list[Record]:
    """Nominal: share of references and of answers with each label, by arm."""
    rows = []
    for arm, given in answers.items():
        true = Counter(a.label for a in given)
        said = Counter(a.prediction.label for a in given if a.prediction.label is not None)
        rows += [
            {
                "arm": arm,
                "label": label,
                "reference": _share(true, label),
                "predicted": _share(said, label),
            }
            for label in labels
        ]
    return rows


def _near(score: float) -> float:
    return round(round(score / SCORE_STEP) * SCORE_STEP, 4)


def _share(counts: Counter[Any], key: float | str) -> float:
    return counts[key] / (counts.total() or 1)


def reliability(answers: Mapping[str, Sequence[Answer]]) -> list[Record]:
    """Stated probability of the chosen label against the share correct, in equal-mass bins."""
    return [
        {"arm": arm, "bin": index + 1, "n": len(bin_), "stated": float(bin_[:, 0].mean()),
         "correct": float(bin_[:, 1].mean())}
        for arm, given in answers.items()
        for index, bin_ in enumerate(np.array_split(_stated(given), BINS))
        if len(bin_)
    ]  # fmt: skip


def _stated(answers: Sequence[Answer]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """[answer, (stated probability, correct)], from the least to the most sure."""
    known = [a for a in answers if a.prediction.label is not None and a.prediction.log_probs]
    stated = np.array([max(a.prediction.probs.values()) for a in known])
    correct = np.array([a.prediction.label == a.label for a in known], dtype=np.float64)
    levels, place, sizes = np.unique(stated, return_inverse=True, return_counts=True)
    # Equally sure answers share their share correct, so that a bin's edge among them cannot
    # depend on the order of the examples.
    shared = np.bincount(place, weights=correct, minlength=len(levels)) / sizes
    return np.column_stack((np.repeat(levels, sizes), np.repeat(shared, sizes)))


def confusion(answers: Sequence[Answer], labels: Sequence[str]) -> list[Record]:
    """Counts of (reference, answer), and the share of each within its reference label."""
    counts = Counter((a.label, a.prediction.label) for a in answers)
    rows = []
    for true in labels:
        total = sum(counts[true, said] for said in labels)
        for said in labels:
            count = counts[true, said]
            share = count / total if total else 0.0
            rows.append({"reference": true, "predicted": said, "count": count, "share": share})
    return rows


def pooled(part: Part) -> dict[str, list[Answer]]:
    """Arm -> the answers of all its seeds together."""
    return {
        arm: [answer for student in cohort for answer in student.answers]
        for arm, cohort in part.students.items()
    }


def as_csv(rows: Sequence[Record]) -> str:
    """Rows as CSV; what is not defined is an empty field."""
    page = io.StringIO()
    if rows:
        writer = csv.DictWriter(page, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return page.getvalue()
