"""The paper's own figures beside ours, where a study has the paper's arms or corpora."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune.recipe import Recipe
from whytune.records import Kind
from whytune.study import paper
from whytune.study.folder import Part
from whytune.study.grids import Column, Grid, grid
from whytune.study.paper import Beside
from whytune.study.stored import Record, Row


def of_section(folder: Path, key: str, part: Part, recipe: Recipe | None) -> Iterator[Grid]:
    """Random words in place of explanations (Table 4), and reasons before the label (arXiv
    2507.00214), each against the arm without.
    """
    if recipe is None:
        return
    arms = {row.name: row for row in part.rows if row.role == "arm"}
    plain = next((arms[name] for name, arm in recipe.arms.items()
                  if arm.explanation == "none" and name in arms), None)  # fmt: skip
    if plain is None:
        return
    figure = "mse" if part.kind is Kind.ORDINAL else "brier"
    rows = list(_words(arms, plain, recipe, figure))
    if any(recipe.arms[row["arm"]].explanation.startswith("random") for row in rows):
        yield grid(
            folder, f"{key}--table4", "Random words (Table 4)", rows,
            [Column(key="arm", title="Arm", kind="word"), Column(key="ours", title="Here"),
             Column(key="paper", title="In the paper")],
            f"{'Mean squared error' if figure == 'mse' else 'Brier score'} over that of {plain.name}, "
            "less 1: below 0 is better. In the paper mean squared errors of naturalness: mean, smallest "
            "and largest of seven corpora tested on.",
        )  # fmt: skip
    reasons = [
        {"arm": name, "ours": _gain(row, plain), **_beside("paper", paper.two_stage())}
        for name, row in arms.items() if recipe.arms[name].explanation == "generated"
    ]  # fmt: skip
    if reasons:
        yield grid(
            folder, f"{key}--two-stage", "Generated reasons", reasons,
            [Column(key="arm", title="Arm", kind="word"), Column(key="ours", title="Here"),
             Column(key="paper", title="In the paper")],
            f"Points of accuracy above {plain.name}; in the paper: {paper.two_stage().source}.",
        )  # fmt: skip


def _words(arms: Mapping[str, Row], plain: Row, recipe: Recipe, figure: str) -> Iterator[Record]:
    base = _value(plain, figure)
    for name, told in paper.words(recipe, relative=True).items():
        if name in arms and name != plain.name and base:
            own = _value(arms[name], figure)
            yield {"arm": name, "ours": None if own is None else own / base - 1,
                   **_beside("paper", told)}  # fmt: skip


def _value(row: Row, figure: str) -> float | None:
    interval = row.scorecard.metrics.get(figure)
    return interval.value if interval else None


def _gain(row: Row, plain: Row) -> float | None:
    own, base = _value(row, "accuracy"), _value(plain, "accuracy")
    return None if own is None or base is None else 100 * (own - base)


def _beside(name: str, told: Beside) -> Record:
    return {name: told.value, f"{name}_low": told.low, f"{name}_high": told.high}


def of_matrix(
    folder: Path, found: Mapping[str, Any] | None, recipe: Recipe | None
) -> Iterator[Grid]:
    """Tables 3 and 7 to 11, where a matrix has corpora of the paper."""
    if found is None or recipe is None:
        return
    for one in found["tasks"]:
        for figure in one["figures"]:
            told = paper.matrix(recipe, one["task"], figure)
            rows = list(_places(one["cells"], told, figure))
            if rows:
                yield grid(
                    folder, f"paper--{one['task']}--{figure}", f"{one['task']}, {figure}: the paper's",
                    rows,
                    [*(Column(key=key, title=title, kind="word") for key, title in
                       (("trained", "Taught on"), ("tested", "Tested on"), ("arm", "Arm"))),
                     Column(key="ours", title="Here"), Column(key="paper", title="In the paper")],
                    "The same places of the paper's table, at its size and model.",
                )  # fmt: skip


def _places(
    cells: Sequence[Mapping[str, Any]], told: Mapping[Any, Beside], figure: str
) -> Iterator[Record]:
    for cell in cells:
        printed = told.get((cell["trained"], cell["tested"], cell["arm"]))
        if printed is not None:
            yield {
                "trained": cell["trained"] or "no fine-tuning", "tested": cell["tested"],
                "arm": cell["arm"], "ours": cell[figure]["value"],
                "ours_low": cell[figure]["low"], "ours_high": cell[figure]["high"],
                "paper": printed.value,
            }  # fmt: skip
