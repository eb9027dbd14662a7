"""The paper's figures beside ours: only where a study has what the paper has."""

from pathlib import Path
from typing import Any

import pytest

from whytune import recipe_file
from whytune.records import Kind
from whytune.study import paper_grids
from whytune.study.folder import Part
from whytune.study.stored import Row

RECIPE = """
name: words
model: smollm2-135m
corpora: {starter: {train: 8, test: 8}}
tasks: [naturalness]
arms:
  label: {explanation: none}
  why: {explanation: assessment}
  fully: {explanation: random-fully}
  first: {explanation: generated}
generator: {corpora: {starter: {}}, tasks: [naturalness]}
"""


def row(name: str, role: str = "arm", **metrics: float) -> Row:
    card: dict[str, Any] = {"n": 8, "unreadable": 0, "reference": "gold", "labels": ["1", "2"],
                            "metrics": {k: {"value": v} for k, v in metrics.items()}}  # fmt: skip
    return Row.model_validate({"corpus": "starter", "task": "naturalness", "name": name,
                               "role": role, "scorecard": card})  # fmt: skip


def part(rows: list[Row]) -> Part:
    return Part(corpus="starter", task="naturalness", kind=Kind.ORDINAL,
                rows=rows, comparisons=[], students={}, calibrated={}, ceiling=None)  # fmt: skip


def test_random_words_and_generated_reasons_stand_beside_the_papers(tmp_path: Path) -> None:
    recipe = recipe_file.parse(RECIPE, place="w.yaml")
    own = part([row("label", mse=0.2, accuracy=0.5), row("why", mse=0.1, accuracy=0.5),
                row("fully", mse=0.25, accuracy=0.5), row("first", mse=0.2, accuracy=0.45)])  # fmt: skip
    words, reasons = paper_grids.of_section(tmp_path, "k", own, recipe)
    ours = {line["arm"]: line["ours"] for line in words.rows}
    assert ours == {"why": pytest.approx(-0.5), "fully": pytest.approx(0.25)}
    # Table 4, naturalness: with explanations the paper is better on all seven corpora.
    (why,) = [line for line in words.rows if line["arm"] == "why"]
    assert why["paper_low"] <= why["paper"] <= why["paper_high"] < 0
    (line,) = reasons.rows
    assert (line["ours"], line["paper"]) == (pytest.approx(-5), 8.7)
    assert (tmp_path / "tables/k--table4.tex").exists()


def test_nothing_is_made_up_where_the_paper_has_nothing(tmp_path: Path) -> None:
    recipe = recipe_file.parse(RECIPE, place="w.yaml")
    alone = part([row("label", mse=0.2), row("why", mse=0.1)])  # no random words among the rows
    assert not list(paper_grids.of_section(tmp_path, "k", alone, recipe))
    assert not list(paper_grids.of_section(tmp_path, "k", alone, None))
    matrix = {"tasks": [{"task": "naturalness", "figures": ["mse"], "cells": []}]}
    assert not list(paper_grids.of_matrix(tmp_path, matrix, recipe))


def test_places_of_a_matrix_that_the_paper_has(tmp_path: Path) -> None:
    text = RECIPE.replace("{starter: {train: 8, test: 8}}",
                          "{coqa: {path: x, train: 8, test: 8}, starter: {train: 8, test: 8}}")  # fmt: skip
    recipe = recipe_file.parse(text, place="w.yaml")
    cells = [{"trained": trained, "tested": tested, "arm": "why",
              "mse": {"value": 0.1, "low": 0.05, "high": 0.2}}
             for trained in ("coqa", "starter") for tested in ("coqa", "starter")]  # fmt: skip
    matrix = {"tasks": [{"task": "naturalness", "figures": ["mse"], "cells": cells}]}
    (grid,) = paper_grids.of_matrix(tmp_path, matrix, recipe)
    assert [(line["trained"], line["tested"]) for line in grid.rows] == [("coqa", "coqa")]
    assert 0 < grid.rows[0]["paper"] < 1
