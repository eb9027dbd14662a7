"""Any finished students and baselines beside one another, on the examples that all of them answered.

From what their folders hold: no corpus is read and no model. Where a study compares its own arms,
the figures here are the study's own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whytune import store
from whytune.errors import FolderError, InputError
from whytune.evidence import compare as evidence
from whytune.evidence.family import corrected, sign_sentence
from whytune.evidence.metrics import metrics_of, scorecard
from whytune.records import Comparison
from whytune.settings import hint
from whytune.study import tables
from whytune.study.contestants import Contestant, read
from whytune.study.contrasts import DEPENDENT, FEWEST_SETTINGS
from whytune.study.meetings import Meeting, Pairs, meet, paired
from whytune.study.page import environment
from whytune.study.stored import Card, Contrast, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One corpus and task with those who answered it."""

    corpus: str
    task: str
    n: int
    """Examples that all of them answered; every figure stands on these alone."""
    left_out: int
    """Examples that some answered, but not all."""
    metrics: tuple[str, ...]
    """Figures that are compared."""
    rows: list[Row]
    comparisons: list[dict[str, Any]]
    """As in `summary.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What was found, sentences first."""

    sentences: list[str]
    """Over settings first, then one for each comparison."""
    notes: list[str]
    """What could not be compared, and which seeds were."""
    settings: list[Setting]


def compare(
    paths: Sequence[Path],
    *,
    base: str | None = None,
    metrics: Sequence[str] = (),
    draws: int = 2000,
) -> Compared:
    """Every contestant against one of them, on every corpus and task that two or more answered.

    Each p is corrected for the number of comparisons of its figure (Holm), over all settings.

    Args:
        paths: folders of finished studies and runs, at least one.
        base: name of the contestant with whom the others are compared; without it, the first one
            of each setting.
        metrics: figures to compare; without any, `evidence.compare.default_metrics`. A task that
            lacks some of them is compared on the others.
        draws: for intervals and permutation tests.

    Raises:
        FolderError: what `contestants.read` or `meetings.meet` refuses, or no task of a corpus
            that two contestants answered.
        InputError: no contestant has the name `base`, or no task the figure.
    """
    contestants = read(paths)
    names = [one.name for one in contestants]
    if base is not None and base not in names:
        raise InputError(f"--base {base}: no such contestant; {hint(base, names)}")
    keys = dict.fromkeys(key for one in contestants for key in one.answers)
    present = {key: [one for one in contestants if key in one.answers] for key in keys}
    meetings = [meet(key, own) for key, own in present.items() if len(own) > 1]
    if not meetings:
        raise FolderError(
            f"{', '.join(map(str, paths))}: found {', '.join(names) or 'nobody'}, expected two that "
            "answered the same task of the same corpus; give folders of such"
        )
    _check_metrics(metrics, meetings)
    notes = [f"{', '.join(key)}: {own[0].name} alone answered it; nothing is compared."
             for key, own in present.items() if len(own) == 1]  # fmt: skip
    found: list[Comparison] = []
    sizes = []
    for meeting in meetings:
        own, said = _comparisons(meeting, base, metrics, draws)
        found += own
        notes += said
        sizes.append(len(own))
    final = iter(_corrected(found))
    settings = [
        _setting(meeting, [next(final) for _ in range(size)], metrics, draws)
        for meeting, size in zip(meetings, sizes, strict=True)
    ]
    counted = _counted(found)
    return Compared(
        sentences=[*counted, *(_sentence(row, len(settings) > 1)
                               for one in settings for row in one.comparisons)],
        notes=[*notes, DEPENDENT] if counted else notes,
        settings=settings,
    )  # fmt: skip


def _check_metrics(metrics: Sequence[str], meetings: Sequence[Meeting]) -> None:
    known = {name: None for meeting in meetings for name in metrics_of(meeting.first.task)}
    for name in metrics:
        if name not in known:
            raise InputError(f"--metric {name}: no task here has it; {hint(name, known)}")


def _chosen(meeting: Meeting, metrics: Sequence[str]) -> tuple[str, ...]:
    """The figures to compare; none where the task has none of those asked for."""
    task = meeting.first.task
    known = metrics_of(task)
    asked = dict.fromkeys(name for name in metrics if name in known)
    return tuple(asked) if metrics else evidence.default_metrics(task)


def _comparisons(
    meeting: Meeting, name: str | None, metrics: Sequence[str], draws: int
) -> tuple[list[Comparison], list[str]]:
    """All others against the base, and what there is to say about it."""
    where, chosen = ", ".join(meeting.key), _chosen(meeting, metrics)
    base = next((one for one in meeting.own if name in (None, one.name)), None)
    if base is None:
        return [], [f"{where}: {name} did not answer it; nothing is compared."]
    if not chosen:
        return [], [f"{where}: has no {' or '.join(metrics)}; nothing is compared."]
    found, notes = [], []
    for one in meeting.own:
        if one is not base:
            pairs, note = paired(meeting, base, one)
            found += _against(meeting, pairs, (base.name, one.name), chosen, draws)
            notes += [note] if note else []
    return found, notes


def _against(
    meeting: Meeting, pairs: Pairs, names: tuple[str, str], metrics: Sequence[str], draws: int
) -> list[Comparison]:
    return evidence.compare(
        meeting.predictions([one for one, _ in pairs]),
        meeting.predictions([other for _, other in pairs]),
        meeting.references, meeting.groups, meeting.first.task, names=names, metrics=metrics,
        draws=draws, seed=0,
    )  # fmt: skip


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """With p corrected among all comparisons of a figure; in the order given."""
    families: dict[str, list[Comparison]] = {}
    for one in found:
        families.setdefault(one.metric, []).append(one)
    final = {metric: iter(corrected(own)) for metric, own in families.items()}
    return [next(final[one.metric]) for one in found]


def _setting(
    meeting: Meeting, found: Sequence[Comparison], metrics: Sequence[str], draws: int
) -> Setting:
    corpus, task = meeting.key
    return Setting(
        corpus=corpus, task=task, n=len(meeting.ids), left_out=meeting.left_out,
        metrics=_chosen(meeting, metrics),
        rows=[_row(meeting, one, draws) for one in meeting.own],
        comparisons=[
            {"corpus": corpus, "task": task, "family": "contestants", **store.plain(one),
             "sentence": evidence.sentence(one, meeting.first.task)}
            for one in found
        ],
    )  # fmt: skip


def _row(meeting: Meeting, one: Contestant, draws: int) -> Row:
    (corpus, task), seeds = meeting.key, meeting.seeds(one)
    answers = list(seeds.values())
    card = scorecard(
        meeting.predictions(answers), meeting.references, meeting.groups, meeting.first.task,
        reference=answers[0].reference, draws=draws, seed=0,
    )  # fmt: skip
    return Row(
        corpus=corpus, task=task, name=one.name, role=one.role,
        seeds=[] if one.role == "baseline" else list(seeds),
        scorecard=Card.model_validate(store.plain(card)),
    )  # fmt: skip


def _counted(found: Sequence[Comparison]) -> list[str]:
    """In how many settings one is better than the other, where they meet often enough."""
    met: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in found:
        if one.metric not in evidence.NOT_JUDGED:
            met.setdefault((one.base, one.arm, one.metric), []).append(one)
    return [sign_sentence(own) for own in met.values() if len(own) >= FEWEST_SETTINGS]


def _sentence(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['corpus']}: {row['sentence']}" if several else str(row["sentence"])


def facts(found: Compared) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "settings": [
            {
                "corpus": one.corpus, "task": one.task, "n": one.n, "left_out": one.left_out,
                "rows": [
                    {"name": row.name, "role": row.role, "seeds": row.seeds, "n": row.scorecard.n,
                     "metrics": {k: v.model_dump() for k, v in row.scorecard.metrics.items()}}
                    for row in one.rows
                ],
                "comparisons": one.comparisons,
            }
            for one in found.settings
        ],
        "sentences": found.sentences,
        "notes": found.notes,
    }  # fmt: skip


def write(found: Compared, folder: Path) -> Path:
    """Write `compare.md` and `tables/*.csv`.

    Returns:
        The page.

    Raises:
        FolderError: the folder cannot be written.
    """
    page, sections = folder / "compare.md", []
    try:
        for one in found.settings:
            # Not the names that a study gives its own tables: the folder may be a study's.
            key = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{one.corpus}--{one.task}")
            contrasts = tables.comparisons([Contrast.model_validate(c) for c in one.comparisons])
            files = {f"tables/{key}--compared.csv": tables.scores(one.rows),
                     f"tables/{key}--differences.csv": contrasts}  # fmt: skip
            for name, rows in files.items():
                store.write_text(folder / name, tables.as_csv(rows))
            sections.append({"setting": one, "contrasts": contrasts, "files": list(files)})
        template = environment().get_template("compare.md.jinja")
        store.write_text(page, template.render({"found": found, "sections": sections}))
    except OSError as error:
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    return page
