"""A study folder as a page: tables, pictures, examples, and where it all comes from.

The page stands for itself: no network, no script, nothing beside it but the links to the CSV
files. Everything shown is computed from what the study folder holds, so the same folder always
gives the same page, byte for byte.
"""

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
from whytune.study.folder import Part, Shown, Summary, parts, read_summary
from whytune.study.page import UNKNOWN, duration, environment, minute

EXAMPLES = 10
BARS = 7
"""Labels whose probabilities are drawn for an example; of more, the most probable."""


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
    rows: list[tables.Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One corpus and task as the page shows it."""

    key: str
    intro: str
    part: Part
    scores: Table
    comparisons: Table | None
    runs: Table | None
    pictures: list[Picture]
    examples: list[tables.Record]


def build(folder: Path, *, examples: bool = True) -> Path:
    """Write `tables/`, `figures/`, `report.md` and `report.html` into a study folder.

    Args:
        folder: What `whytune study` wrote.
        examples: Quote rows of the data. Off, the page holds figures only and can be published
            where the data may not.

    Returns:
        The page.

    Raises:
        FolderError: no finished study, or one that is not whole.
    """
    summary = read_summary(folder)
    sections = [_section(folder, part, examples) for part in parts(folder, summary)]
    agreement = tables.agreement(summary.agreement)
    _write_table(folder, "agreement", agreement)
    shown = {"summary": summary, "sections": sections, "agreement": agreement,
             "provenance": list(_provenance(summary))}  # fmt: skip
    pages = environment()
    store.write_text(folder / "report.md", pages.get_template("report.md.jinja").render(shown))
    page = folder / "report.html"
    store.write_text(page, pages.get_template("report.html.jinja").render(shown))
    return page


def _section(folder: Path, part: Part, examples: bool) -> Section:
    key = _key(part.corpus, part.task)
    contrasts = tables.comparisons(part.comparisons)
    # Students of several tasks are shown once, so that nobody adds up their cost twice.
    runs = tables.runs(part.students) if part.task == part.tasks[0] else []
    return Section(
        key=key,
        intro=_intro(part),
        part=part,
        scores=_write_table(folder, f"{key}--scores", tables.scores(part.rows)),
        comparisons=_write_table(folder, f"{key}--comparisons", contrasts) if contrasts else None,
        runs=_write_table(folder, f"{key}--runs", runs) if runs else None,
        pictures=list(_pictures(folder, key, part)),
        examples=list(_examples(part)) if examples else [],
    )


def _intro(part: Part) -> str:
    card = part.rows[0].scorecard
    people = card.reference == "gold"
    source = "what people said" if people else "the verdicts of the teachers"
    return (
        f"{part.kind.capitalize()} task with {len(card.labels)} labels, measured against {source}, "
        f"on the test part; n counts answers, all seeds together.{_shared(part)}"
    )


def _shared(part: Part) -> str:
    if len(part.tasks) == 1:
        return ""
    *others, last = part.tasks
    return (
        f" Each student was taught {', '.join(others)} and {last} together and answers them all; "
        f"what it saw and how long that took is told once, under {part.tasks[0]}."
    )


def _key(*names: str) -> str:
    # The names of corpora and arms never hold two dashes in a row, so keys cannot meet.
    return "--".join(re.sub(r"[^A-Za-z0-9._-]+", "_", name) for name in names)


def _write_table(folder: Path, name: str, rows: list[tables.Record]) -> Table:
    data = f"tables/{name}.csv"
    store.write_text(folder / data, tables.as_csv(rows))
    return Table(data=data, rows=rows)


def _pictures(folder: Path, key: str, part: Part) -> Iterator[Picture]:
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
        yield _picture(folder, f"{key}--curves", "Label loss through training", caption, losses,
                       [("", chart)])  # fmt: skip
    if not answers:
        return
    yield _spread(folder, key, part, answers)
    calibration = tables.reliability(answers)
    if calibration:
        arms = list(dict.fromkeys(row["arm"] for row in calibration))
        caption = (
            "Probability that an arm gives its chosen label, against how often it is right, in "
            f"{BINS} bins of equally many answers. On the dashed diagonal it is as sure as "
            f"it should be; below, too sure. {_sizes(answers)}"
        )
        chart_of_bins = figures.reliability(calibration, arms)
        yield _picture(folder, f"{key}--reliability", "Reliability", caption, calibration,
                       [("", chart_of_bins)])  # fmt: skip
    yield _confusions(folder, key, part, answers)


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
    return _picture(folder, f"{key}--distribution", title, caption, rows, [("", chart)])


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
    return _picture(folder, f"{key}--confusion", "Reference and prediction", caption, rows, charts)


def _picture(
    folder: Path,
    key: str,
    title: str,
    caption: str,
    rows: list[tables.Record],
    charts: Sequence[tuple[str, Any]],
) -> Picture:
    files, drawings = [], []
    for arm, chart in charts:
        name = _key(key, arm) if arm else key
        drawing = figures.svg(chart)
        files.append(f"figures/{name}.svg")
        store.write_text(folder / files[-1], drawing)
        # Safe: vega escapes every text that it draws.
        drawings.append(Markup(figures.inline(drawing, name)))
    data = _write_table(folder, key, rows).data
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


def _examples(part: Part) -> Iterator[tables.Record]:
    """The first examples of each arm's first seed, side by side."""
    answers = {arm: {shown.example_id: shown for shown in cohort[0].examples}
               for arm, cohort in part.students.items() if cohort}  # fmt: skip
    ids = list(dict.fromkeys(name for shown in answers.values() for name in shown))
    for name in ids[:EXAMPLES]:
        by_arm = {arm: shown[name] for arm, shown in answers.items() if name in shown}
        first = next(iter(by_arm.values()))
        yield {
            "source": first.source,
            "earlier": first.turns[:-2],
            "turns": first.turns[-2:],
            "reference": first.reference,
            "answers": [
                {"arm": arm, "shown": shown, "bars": _bars(shown)} for arm, shown in by_arm.items()
            ],
        }


def _bars(shown: Shown) -> list[tuple[str, float]]:
    bars = list(shown.probs.items())
    if len(bars) > BARS:
        bars = sorted(bars, key=lambda bar: -bar[1])[:BARS]
    return bars


def _provenance(summary: Summary) -> Iterator[tuple[str, str]]:
    yield "Model", summary.model
    yield "Command", summary.command
    yield "Started", minute(summary.started)
    yield "Duration", duration(summary.seconds)
    peak = summary.peak_rss_mb
    yield "Peak memory", UNKNOWN if peak is None else f"{peak:,.0f} MB".replace(",", " ")
    yield "Versions", ", ".join(f"{name} {value}" for name, value in summary.versions.items())
    yield "Hardware", ", ".join(f"{name} {value}" for name, value in summary.hardware.items())
