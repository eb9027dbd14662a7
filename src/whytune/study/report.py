"""A study folder as a page: tables, pictures, examples, and where it all comes from.

The page stands for itself: no network, no script, nothing beside it but the links to the CSV
files. Everything shown is computed from what the study folder holds, so the same folder always
gives the same page, byte for byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whytune import recipe_file, store
from whytune.errors import RecipeError
from whytune.recipe import Recipe
from whytune.records import Kind
from whytune.study import grids, inside_page, matrix_page, paper_grids, tables
from whytune.study.folder import Part, parts, read_summary
from whytune.study.grids import Grid
from whytune.study.page import UNKNOWN, duration, environment, minute
from whytune.study.pictures import Picture, Table, key_of, pictures, write_table
from whytune.study.stored import Record, Shown, Summary

EXAMPLES = 10
BARS = 7
"""Labels whose probabilities are drawn for an example; of more, the most probable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One corpus and task as the page shows it."""

    key: str
    intro: str
    part: Part
    scores: Table
    comparisons: Table | None
    sentences: list[str]
    """Of the comparisons, the figures that the section is judged by first."""
    grids: list[Grid]
    runs: Table | None
    pictures: list[Picture]
    examples: list[Record]


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
    recipe = _recipe(folder)
    sections = [_section(folder, part, summary, recipe, examples)
                for part in parts(folder, summary)]  # fmt: skip
    agreement = tables.agreement(summary.agreement)
    write_table(folder, "agreement", agreement)
    shown = {"summary": summary, "sections": sections, "agreement": agreement,
             "grids": [*grids.of_study(folder, summary),
                       *paper_grids.of_matrix(folder, summary.matrix, recipe)],
             "matrices": list(matrix_page.of_study(folder, summary.matrix)),
             "inside": list(inside_page.of_study(folder)),
             "provenance": list(_provenance(summary))}  # fmt: skip
    pages = environment()
    store.write_text(folder / "report.md", pages.get_template("report.md.jinja").render(shown))
    page = folder / "report.html"
    store.write_text(page, pages.get_template("report.html.jinja").render(shown))
    return page


def _section(
    folder: Path, part: Part, summary: Summary, recipe: Recipe | None, examples: bool
) -> Section:
    key = key_of(part.corpus, part.task)
    contrasts = tables.comparisons(part.comparisons)
    about = f"{part.task} on {part.corpus}"
    grids.typeset_scores(folder, f"{key}--scores", f"{about}: {_intro(part)}", part.rows)
    if contrasts:
        grids.typeset_comparisons(
            folder, f"{key}--comparisons", f"{about}: differences, arm less base.", contrasts
        )
    main = ("label_nll", "mse" if part.kind is Kind.ORDINAL else "accuracy")
    # Students of several tasks are shown once, so that nobody adds up their cost twice.
    runs = tables.runs(part.students) if part.task == part.tasks[0] else []
    return Section(
        key=key,
        intro=_intro(part),
        part=part,
        scores=write_table(folder, f"{key}--scores", tables.scores(part.rows)),
        comparisons=write_table(folder, f"{key}--comparisons", contrasts) if contrasts else None,
        sentences=[
            *(c.sentence for c in part.comparisons if c.metric in main),
            *(
                row["sentence"]
                for row in summary.explanations
                if (row["corpus"], row["task"]) == (part.corpus, part.task)
            ),
            *(c.sentence for c in part.comparisons if c.metric not in main),
        ],
        grids=[
            *grids.of_section(folder, key, part, summary),
            *paper_grids.of_section(folder, key, part, recipe),
        ],
        runs=write_table(folder, f"{key}--runs", runs) if runs else None,
        pictures=list(pictures(folder, key, part, summary)),
        examples=list(_examples(part)) if examples else [],
    )


def _recipe(folder: Path) -> Recipe | None:
    """None for a study of a version whose recipes this one does not read: its own figures are in its
    summary, and the papers' are left out.
    """
    try:
        return recipe_file.load(folder / "recipe.yaml")
    except RecipeError:
        return None


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


def _examples(part: Part) -> Iterator[Record]:
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
