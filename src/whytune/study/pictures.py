"""The tables and pictures of one corpus and task, written as CSV and SVG beside the page."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from whytune import store
from whytune.evidence.metrics import BINS
from whytune.records import Kind
from whytune.study import figures, tables
from whytune.study.folder import Part
from whytune.study.stored import Record, Summary
from whytune.study.titles import METRICS

FAR = 3
"""Times the worst arm's figure beyond which a baseline is not drawn beside the arms."""
ARMS_BY_SLICE = 3
"""Arms that the picture of slices shows; the table has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure of the page; several drawings where each arm has its own."""

    title: str
    caption: str
    data: str
    """The CSV file, relative to the study folder."""
    files: list[str]
    drawings: list[Markup]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page, and its file."""

    data: str
    rows: list[Record]


def key_of(*names: str) -> str:
    """A name for files and anchors."""
    # The names of corpora and arms never hold two dashes in a row, so keys cannot meet.
    return "--".join(re.sub(r"[^A-Za-z0-9._-]+", "_", name) for name in names)


def write_table(folder: Path, name: str, rows: list[Record]) -> Table:
    """Write rows as CSV."""
    data = f"tables/{name}.csv"
    store.write_text(folder / data, tables.as_csv(rows))
    return Table(data=data, rows=rows)


def pictures(folder: Path, key: str, part: Part, summary: Summary) -> Iterator[Picture]:
    """What there is to see about one corpus and task, the answer first."""
    yield _standing(folder, key, part)
    slices = [r for r in summary.slices if (r["corpus"], r["task"]) == (part.corpus, part.task)]
    if slices:
        yield _slices(folder, key, part, slices)
    answers = {arm: given for arm, given in tables.pooled(part).items() if given}
    losses = tables.curves(part.students)
    if losses:
        arms = list(dict.fromkeys(row["arm"] for row in losses))
        chart = figures.curves(losses, arms)
        caption = (
            f"Loss on the label alone, on the {_curve_split(part)} part; the loss on explanations "
            "is not in it, so arms can be compared. Lower is better. Bold: mean of an arm's seeds; thin: "
            f"each seed. n = {_curve_size(part)} students."
        )
        yield picture(folder, f"{key}--curves", "Label loss through training", caption, losses,
                       [("", chart)])  # fmt: skip
    if not answers:
        return
    yield _spread(folder, key, part, answers)
    calibration = tables.reliability(answers | part.calibrated)
    if calibration:
        arms = list(dict.fromkeys(row["arm"] for row in calibration))
        caption = (
            "Probability that an arm gives its chosen label, against how often it is right, in "
            f"{BINS} bins of equally many answers. On the dashed diagonal it is as sure as "
            f"it should be; below, too sure. {_sizes(answers)}"
        )
        chart_of_bins = figures.reliability(calibration, arms)
        yield picture(folder, f"{key}--reliability", "Reliability", caption, calibration,
                       [("", chart_of_bins)])  # fmt: skip
    yield _confusions(folder, key, part, answers)


def _standing(folder: Path, key: str, part: Part) -> Picture:
    rows = tables.standing(part)
    near = [row for row in rows if not _far(row, rows)]
    caption = (
        "Every arm and baseline with its 95 % interval. An arm is worth its training where it stands "
        "clear of the baselines."
    )
    if any(row["role"] == "ceiling" for row in rows):
        caption += " Dashed: a rater held against the other raters."
    if far := [f"{row['name']} ({row['value']:.1f})" for row in rows if row not in near]:
        caption += f" Too far off to be drawn: {', '.join(far)}."
    names = list(dict.fromkeys(row["name"] for row in rows if row["role"] != "ceiling"))
    chart = figures.standing(near, names)
    return picture(folder, f"{key}--standing", "Where the arms stand", caption, rows, [("", chart)])


def _far(row: Record, rows: Sequence[Record]) -> bool:
    """Whether a baseline is so much worse than all arms that it would push them together."""
    arms = [r["value"] for r in rows if r["figure"] == row["figure"] and r["role"] == "arm"]
    return row["role"] == "baseline" and bool(arms) and row["value"] > FAR * max(arms)


def _slices(folder: Path, key: str, part: Part, slices: list[Record]) -> Picture:
    arms = list(dict.fromkeys(row["name"] for row in slices))[:ARMS_BY_SLICE]
    metric = "mse" if part.kind is Kind.ORDINAL else "accuracy"
    rows = tables.by_slice(slices, arms, metric)
    title = next(one.title for one in METRICS if one.name == metric)
    caption = (
        f"{title} by slice, of {', '.join(arms)}, with 95 % intervals; slices below 20 examples are "
        "left out. A place to look, not a finding: there are many slices."
    )
    chart = figures.by_slice(rows, arms, title)
    return picture(folder, f"{key}--by-slice", "Where an arm is good", caption, rows,
                    [("", chart)])  # fmt: skip


def _spread(folder: Path, key: str, part: Part, answers: dict[str, list[Any]]) -> Picture:
    arms, labels = list(answers), part.rows[0].scorecard.labels
    if part.kind is Kind.ORDINAL:
        rows = tables.distribution(answers)
        chart: Any = figures.distribution(rows, arms)
        caption = (
            "Grey bars: the references. Outline: the arm's expected scores. An outline narrower "
            "than the bars hedges towards the middle."
        )
        title = "Scores given and scores expected"
    else:
        rows = tables.frequencies(answers, labels)
        chart = figures.frequencies(rows, arms, labels)
        caption = (
            "Grey bars: how often each label is the reference. Points: how often an arm chooses "
            "it. A point right of its bar's end is a label chosen too often."
        )
        title = "Labels given and labels chosen"
    caption = f"{caption} {_sizes(answers)}"
    return picture(folder, f"{key}--distribution", title, caption, rows, [("", chart)])


def _confusions(folder: Path, key: str, part: Part, answers: dict[str, list[Any]]) -> Picture:
    labels = part.rows[0].scorecard.labels
    rows, charts = [], []
    for arm, given in answers.items():
        cells = tables.confusion(given, labels)
        rows += [{"arm": arm, **cell} for cell in cells]
        charts.append((arm, figures.confusion(cells, labels, arm)))
    written = len(labels) <= figures.MOST_WRITTEN_CELLS
    what = "Counts, and their share within the reference label" if written else (
        "Shade: share within the reference label; the counts are in the table")  # fmt: skip
    caption = (
        f"{what}. Right answers stand on the diagonal. Unreadable answers are left out. "
        f"{_sizes(answers)}"
    )
    return picture(folder, f"{key}--confusion", "Reference and prediction", caption, rows, charts)


def picture(
    folder: Path,
    key: str,
    title: str,
    caption: str,
    rows: list[Record],
    charts: Sequence[tuple[str, Any]],
) -> Picture:
    """Write rows as CSV and charts as SVG.

    Args:
        folder: of the study.
        key: of the files.
        title: of the figure.
        caption: what it shows.
        rows: what it was drawn from.
        charts: (name, chart); one without a name needs none to tell it apart.
    """
    files, drawings = [], []
    for arm, chart in charts:
        name = key_of(key, arm) if arm else key
        drawing = figures.svg(chart)
        files.append(f"figures/{name}.svg")
        store.write_text(folder / files[-1], drawing)
        # Safe: vega escapes every text that it draws.
        drawings.append(Markup(figures.inline(drawing, name)))
    data = write_table(folder, key, rows).data
    return Picture(title=title, caption=caption, data=data, files=files, drawings=drawings)


def _curve_size(part: Part) -> int:
    return sum(any(m.label_nll is not None for m in s.history)
               for cohort in part.students.values() for s in cohort)  # fmt: skip


def _curve_split(part: Part) -> str:
    splits = {student.run.eval_split for cohort in part.students.values() for student in cohort}
    return " and ".join(sorted(splits))


def _sizes(answers: dict[str, list[Any]]) -> str:
    counts = {len(given) for given in answers.values()}
    if len(counts) == 1:
        return f"n = {counts.pop()} answers per arm, all seeds together."
    return "n = " + ", ".join(f"{len(given)} ({arm})" for arm, given in answers.items()) + "."
