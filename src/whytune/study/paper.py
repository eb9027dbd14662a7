"""The papers' own figures, as printed, and which of them belong beside ours.

Tables 2 to 11 of arXiv 2511.02044, and the gain of arXiv 2507.00214; `data/paper/` has them with
their units and with what is odd about them. Where a study of ours has the paper's corpus and task,
its figure of just that stands beside ours; elsewhere the mean over all of its settings, with the
smallest and the largest.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import fmean
from typing import NamedTuple

from whytune.errors import EvidenceError
from whytune.evidence.blocks import pools
from whytune.evidence.delta_tables import PROJECTIONS
from whytune.recipe import Recipe
from whytune.recipe_arms import Arm

REASONING, TWO_STAGE = "2511.02044", "2507.00214"
"""The papers, by their numbers at arXiv."""
UNTAUGHT = "zero-shot"
"""`matrix.BASELINE`, which this torch-free module cannot import."""
EXPLAINED = " (E)"
"""Ends the name of a row whose students were taught with explanations."""
_CORPORA = {"chatbot_arena": "ChatbotAC", "amazonqa": "AmazonQA", "coqa": "CoQA",
            "cornell": "Movies", "mixed": "Mixed"}  # fmt: skip
_JUDGES = {
    "scale-1-4": "Scale 1-4", "scale-1-4-examples": "Scale 1-4 with Examples",
    "scale-1-5": "Scale 1-5", "scale-1-5-examples": "Scale 1-5 with Examples",
    "average": "Average", "most-frequent": "Most Occurrence", "merger": "LLM",
}  # fmt: skip
_ERRORS = {
    ("naturalness", "mse"): "3", ("naturalness", "mae"): "7",
    ("comprehensiveness", "mse"): "8", ("comprehensiveness", "mae"): "9",
    ("on_topic", "mse"): "10", ("on_topic", "mae"): "11",
}  # fmt: skip
"""(task, figure) -> the table that has it from corpus to corpus."""
_WORDS = {
    "none": "Mixed", "assessment": "Mixed (E)", "random-fully": "Fully",
    "random-shuffle": "Shuffle", "random-associated": "Associated",
    "random-w-shuffle": "W-Shuffle", "random-w-associated": "W-Associated",
}  # fmt: skip
"""`explanation` of an arm -> its row of table 4."""
_WEIGHTS = {"label_weight", "explanation_weight", "loss"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """One figure of a paper's table, about one task."""

    paper: str
    """arXiv number."""
    number: str
    """Of the table; or `abstract`."""
    task: str
    figure: str
    """`mae`, `mse`, `share`, `entropy` or `accuracy_gain`."""
    unit: str
    digits: int
    """Decimals that are printed."""
    about: str
    notes: tuple[str, ...]
    """What is odd about it."""
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    """Row -> one number a column."""

    @property
    def place(self) -> str:
        """Where it is printed."""
        kind = f"table {self.number}" if self.number.isdigit() else self.number
        return f"{kind} of arXiv {self.paper}"

    def value(self, row: str, column: str) -> float:
        """One number.

        Raises:
            EvidenceError: no such row or column.
        """
        if row not in self.rows or column not in self.columns:
            raise EvidenceError(
                f"{self.place}, {self.task}: found no {row!r} x {column!r}, expected one of "
                f"{', '.join(self.rows)} x {', '.join(self.columns)}; correct it"
            )
        return self.rows[row][self.columns.index(column)]


class Figure(NamedTuple):
    """One number of a paper."""

    paper: str
    number: str
    task: str
    figure: str
    row: str
    column: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a paper found where we found something."""

    value: float
    """The paper's number, or the mean of several."""
    low: float
    """The smallest of them."""
    high: float
    """The largest."""
    settings: int
    """How many they are."""
    unit: str
    digits: int
    source: str

    @property
    def text(self) -> str:
        """As a page shows it."""
        value, low, high = (f"{x:.{self.digits}f}" for x in (self.value, self.low, self.high))
        return value if self.settings == 1 else f"{value} ({low} to {high})"


@cache
def tables() -> tuple[Printed, ...]:
    """All that is transcribed, in the papers' order."""
    found = []
    for name in (REASONING, TWO_STAGE):
        place = resources.files("whytune") / "data" / "paper" / f"{name}.json"
        paper = json.loads(place.read_text(encoding="utf-8"))
        for table in paper["tables"]:
            lists = {"notes": tuple(table["notes"]), "columns": tuple(table["columns"]),
                     "rows": {row: tuple(cells) for row, cells in table["rows"].items()}}  # fmt: skip
            found.append(Printed(**{**table, **lists, "paper": paper["paper"]}))
    return tuple(found)


def figures() -> Iterator[Figure]:
    """The same, number by number."""
    for table in tables():
        for row, cells in table.rows.items():
            for column, value in zip(table.columns, cells, strict=True):
                yield Figure(
                    table.paper, table.number, table.task, table.figure, row, column, value
                )


def printed(number: str, task: str, figure: str) -> Printed:
    """One figure of a table of arXiv 2511.02044.

    Raises:
        EvidenceError: it has none such.
    """
    own = [t for t in tables() if t.paper == REASONING and t.number == number]
    for table in own:
        if (table.task, table.figure) == (task, figure):
            return table
    known = ", ".join(f"{t.task} ({t.figure})" for t in own) or "tables 2 to 11"
    raise EvidenceError(
        f"table {number} of arXiv {REASONING}: found no {task} ({figure}), expected {known}; "
        "correct it"
    )


def called(recipe: Recipe, corpus: str) -> str | None:
    """How the paper calls a corpus of a recipe; None for one that it has not."""
    spec = recipe.corpora[corpus]
    loader = spec.loader or corpus
    if loader == "hh_rlhf":
        return "HH-R" if spec.part == "rejected" else "HH-C"
    return "Golden" if loader.startswith("golden_") else _CORPORA.get(loader)


def merging(task: str, figure: str) -> dict[str, Beside]:
    """Table 2: prompt or merge, as `golden.table` calls its judges, -> `mae` or `mse` against the
    golden set; empty for a task or figure that is not the paper's.
    """
    own = [t for t in tables() if (t.number, t.task, t.figure) == ("2", task, figure)]
    return (
        {judge: _beside(own, row, own[0].columns) for judge, row in _JUDGES.items()} if own else {}
    )


def matrix(recipe: Recipe, task: str, figure: str) -> dict[tuple[str | None, str, str], Beside]:
    """Tables 3 and 7 to 11, for the places of a matrix of ours that the paper has, too.

    Returns:
        (trained, tested, arm), as the cells of `matrix.build` have them, -> the paper's figure. Arms
        that are matched: without an explanation, and with a whole assessment or both. Empty for
        tasks and figures that are not the paper's.
    """
    if (task, figure) not in _ERRORS:
        return {}
    table = printed(_ERRORS[task, figure], task, figure)
    names = {corpus: called(recipe, corpus) for corpus in recipe.corpora}
    rows: dict[tuple[str | None, str], str] = {(None, UNTAUGHT): "Baseline"}
    for corpus, name in names.items():
        for key, arm in recipe.arms.items():
            if name is not None and (end := _end(arm)) is not None:
                rows[corpus, key] = f"{name}{end}"
    return {
        (trained, tested, arm): _beside([table], row, [name])
        for (trained, arm), row in rows.items()
        for tested, name in names.items()
        if row in table.rows and name in table.columns
    }


def words(recipe: Recipe, *, relative: bool = False) -> dict[str, Beside]:
    """Table 4: MSE of students taught random words in place of explanations.

    Args:
        recipe: whose arms are looked up; those with fewer words have no match.
        relative: as a share of the figure without explanations, less 1, corpus by corpus: what can
            stand beside studies of other corpora, tasks and figures. Below 0 is better.

    Returns:
        Arm -> the mean over the seven corpora that were tested on.
    """
    table = printed("4", "naturalness", "mse")
    found = {}
    for name, arm in recipe.arms.items():
        if arm.explanation in _WORDS and _whole(arm):
            row = _WORDS[arm.explanation]
            plain = _beside([table], row, table.columns)
            found[name] = _relative(table, row) if relative else plain
    return found


def projections(task: str | None = None, corpus: str | None = None) -> dict[str, Beside]:
    """Table 5: projection, as `delta_tables.PROJECTIONS` has it, -> share of the largest.

    Args:
        task: one of the paper's; of any other, over all three.
        corpus: as the paper calls it (`called`); of any other, over all six.
    """
    own = _settings("5", task)
    columns = zip(PROJECTIONS, own[0].columns, strict=True)
    return {name: _beside(own, corpus, [column]) for name, column in columns}


def blocks(count: int, task: str | None = None, corpus: str | None = None) -> dict[str, Beside]:
    """Table 6: pool of blocks, as `evidence.blocks.pools` names those of a model with so many, ->
    difference of entropies over the largest one. Counted from the last block, as pools are; `task`
    and `corpus` as in `projections`.
    """
    own = _settings("6", task)
    names = [pool.name for pool in pools(count)]
    columns = zip(names, own[0].columns[-len(names) :], strict=True)
    return {name: _beside(own, corpus, [column]) for name, column in columns}


def two_stage() -> Beside:
    """By how many points of accuracy a reason before the label is better than the label alone."""
    own = [table for table in tables() if table.paper == TWO_STAGE]
    return _beside(own, None, own[0].columns)


def _settings(number: str, task: str | None) -> list[Printed]:
    every = [t for t in tables() if (t.paper, t.number) == (REASONING, number)]
    return [table for table in every if table.task == task] or every


def _beside(own: Sequence[Printed], row: str | None, columns: Sequence[str]) -> Beside:
    """Of a row, or of all where there is no such one."""
    first = own[0]
    rows = [row] if row is not None and row in first.rows else list(first.rows)
    values = [table.value(name, c) for table in own for name in rows for c in columns]
    tasks = first.task if len(own) == 1 else f"{len(own)} tasks"
    where = rows[0] if len(rows) == 1 else f"{len(rows)} corpora"
    return _summed(values, f"{first.place}, {tasks}, {where}", first.unit, first.digits)


def _relative(table: Printed, row: str) -> Beside:
    plain = _WORDS["none"]
    values = [table.value(row, c) / table.value(plain, c) - 1 for c in table.columns]
    source = f"{table.place}, {table.task}, {row} over {plain}, less 1"
    return _summed(values, source, "share, lower is better", 2)


def _summed(values: Sequence[float], source: str, unit: str, digits: int) -> Beside:
    return Beside(value=fmean(values), low=min(values), high=max(values), settings=len(values),
                  unit=unit, digits=digits, source=source)  # fmt: skip


def _end(arm: Arm) -> str | None:
    """Of the row of such an arm; None where the paper has none."""
    if not _whole(arm):
        return None
    return {"none": "", "assessment": EXPLAINED, "both": EXPLAINED}.get(arm.explanation)


def _whole(arm: Arm) -> bool:
    """Whether what it teaches is the paper's; how it weighs what it teaches may differ."""
    return not arm.model_dump(exclude={"explanation", *_WEIGHTS}, exclude_defaults=True)
