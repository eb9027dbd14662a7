"""Every student on every corpus that has answers to its task (arXiv 2511.02044, tables 3 and 7-11).

Rows are what a student was taught on, one for each arm, and the base model without any teaching;
columns are what it is measured on, golden sets among them. Mixed corpora are rows only: what they
hold out stands in the columns of the corpora that they are made of.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from whytune import store
from whytune.evidence import baselines
from whytune.evidence.compare import compare, sentence
from whytune.evidence.family import corrected, sign_sentence
from whytune.evidence.intervals import estimate, resample
from whytune.evidence.metrics import metric_named
from whytune.evidence.table import table_of
from whytune.material import Material
from whytune.recipe import Recipe
from whytune.records import Comparison, Estimate, Kind, Prediction, Split
from whytune.run_folder import Cell
from whytune.study import elsewhere, figures, matrix_figure, matrix_tables
from whytune.study.baseline_rows import baseline_folder
from whytune.study.contrasts import DEPENDENT

FIGURES = {Kind.ORDINAL: ("mse", "mae"), Kind.NOMINAL: ("accuracy", "label_nll")}
"""What is shown of a task; the first one is drawn."""
BASELINE = "zero-shot"
PRIOR = "prior"
MOST_DRAWN = 20_000_000
"""Draws x groups of a comparison, which are held in memory several times."""

Materials = Mapping[tuple[str, str], Material]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """Students of one corpus on the test part of one corpus, on one task."""

    trained: str | None
    """None: without any teaching."""
    material: Material
    """Of the corpus that they are measured on."""
    kept: frozenset[str]
    """Test examples that they were not taught."""
    answers: Mapping[str, Sequence[Prediction]]
    """Arm (or baseline) -> answers about `kept`, seed after seed."""

    @property
    def place(self) -> dict[str, Any]:
        return {"trained": self.trained, "tested": self.material.corpus.name}


class _Compared(NamedTuple):
    setting: _Setting
    comparison: Comparison


def wanted(recipe: Recipe, materials: Materials, asked: Sequence[Cell]) -> list[tuple[Cell, str, Split]]:  # fmt: skip
    """What students are to be asked about beside the test part of their own corpus."""
    return [
        (cell, corpus, Split.TEST)
        for cell in asked
        for corpus in recipe.corpora
        if corpus != cell.corpus
        and not _is_mixed(recipe, corpus)
        and any((corpus, task) in materials for task in cell.tasks)
    ]


def build(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path
) -> dict[str, Any]:
    """The matrix of a study whose students have answered (`wanted`, `elsewhere.answer`).

    Writes `tables/matrix--TASK.csv`, `.md` and `.tex`, and `figures/matrix--TASK.svg`.

    Returns:
        As JSON can say it: `plain` (the arm that others are compared with), `arms`, `marks` (arm ->
        how a row names it; the only arm beside the plain one is the paper's `(E)`), `baseline`
        (None where the recipe has none), `sentences` over all tasks, `notes`, and `tasks`. Each of
        these: `task`, `figures`, `trained` (corpora), `tested` (corpora with their number of
        examples and reference), `cells` (trained, tested, arm, n, groups, and each figure with its
        interval), `comparisons` (trained, tested, and a comparison with its sentence),
        `sentences`, and `files` (kind -> path in the folder).

    Raises:
        FolderError: answers that are missing or not whole.
    """
    arms = list(recipe.arms)
    plain = next((name for name in arms if recipe.arms[name].explanation == "none"), arms[0])
    arms = [plain, *(arm for arm in arms if arm != plain)]
    settings = {
        task.name: list(_settings(recipe, materials, asked, folder, task.name))
        for task in recipe.resolved_tasks()
    }
    compared = _compared(recipe, arms, [own for of_task in settings.values() for own in of_task])
    found: dict[str, Any] = {
        "plain": plain, "arms": arms,
        "marks": {arm: "(E)" if len(arms) == 2 else f"({arm})" for arm in arms[1:]},
        "baseline": BASELINE if BASELINE in recipe.evidence.baselines else None,
        "sentences": _counted(compared) if len(settings) > 1 else [],
        "notes": list(_notes(settings)),
        "tasks": [_task(recipe, name, own, compared, arms) for name, own in settings.items()],
    }  # fmt: skip
    found = store.plain(found)
    for one in found["tasks"]:
        one["files"] = _write(folder, found, one)
    return found


def _is_mixed(recipe: Recipe, corpus: str) -> bool:
    return (recipe.corpora[corpus].loader or corpus) == "mixed"


def _settings(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path, task: str
) -> Iterator[_Setting]:
    """Row by row; the baseline's first."""
    columns = [m for (corpus, name), m in materials.items()
               if name == task and not _is_mixed(recipe, corpus)]  # fmt: skip
    if BASELINE in recipe.evidence.baselines:
        for column in columns:
            place = baseline_folder(folder, column, BASELINE) / "predictions.parquet"
            found = store.read_predictions(place)[0]
            yield _Setting(trained=None, material=column, kept=frozenset(column.references),
                           answers={BASELINE: found})  # fmt: skip
    for (corpus, name), row in materials.items():
        if name == task and row.told:
            own = [cell for cell in asked if cell.corpus == corpus and task in cell.tasks]
            for column in columns:
                yield _setting(recipe, row, column, own, folder)


def _setting(
    recipe: Recipe, row: Material, column: Material, own: Sequence[Cell], folder: Path
) -> _Setting:
    corpus, task = row.corpus.name, column.task
    kept = _untaught(row, column)
    answers = {
        arm: [
            prediction
            for cell in own
            if cell.arm == arm
            for prediction in _answers(folder, cell, column.corpus.name)
            if prediction.task == task.name and prediction.example_id in kept
        ]
        for arm in recipe.arms
    }
    if PRIOR in recipe.evidence.baselines:
        labels = [one.label for one in row.told]
        answers[PRIOR] = baselines.prior(labels, task, sorted(kept), row.scores)
    return _Setting(trained=corpus, material=column, kept=kept, answers=answers)


def _answers(folder: Path, cell: Cell, corpus: str) -> list[Prediction]:
    if corpus != cell.corpus:
        return elsewhere.read(folder, cell, corpus, Split.TEST)
    return store.read_predictions(folder / "runs" / cell.id / "predictions.parquet")[0]


def _untaught(row: Material, column: Material) -> frozenset[str]:
    """The test examples of a column that the students of a row did not meet while they were taught:
    not the same text, nor, where both corpora come from the same files, another of its group.
    """
    met = [e for e in row.corpus.examples if e.split is not Split.TEST]
    texts = {example.turns for example in met}
    related = set(row.corpus.inputs.values()) & set(column.corpus.inputs.values())
    groups = {example.group for example in met} if related else set()
    return frozenset(
        e.id for e in column.part(Split.TEST) if e.turns not in texts and e.group not in groups
    )


def _compared(recipe: Recipe, arms: Sequence[str], settings: Sequence[_Setting]) -> list[_Compared]:
    """Each arm against the plain one in every setting, with p corrected for all of them together,
    figure by figure.
    """
    pairs = [(own, arm) for own in settings if own.trained and own.kept for arm in arms[1:]]
    found = [
        _Compared(own, comparison)
        for own, arm in pairs
        for comparison in compare(
            own.answers[arms[0]], own.answers[arm], own.material.references, own.material.groups,
            own.material.task, names=(arms[0], arm), metrics=FIGURES[own.material.task.kind],
            draws=_draws(recipe, len(pairs), own.material), seed=0,
        )
    ]  # fmt: skip
    families: dict[str, list[int]] = {}
    for at, one in enumerate(found):
        families.setdefault(one.comparison.metric, []).append(at)
    for places in families.values():
        adjusted = corrected([found[at].comparison for at in places])
        for at, comparison in zip(places, adjusted, strict=True):
            found[at] = found[at]._replace(comparison=comparison)
    return found


def _draws(recipe: Recipe, family: int, material: Material) -> int:
    """So many that a permutation p can stay below 5 % after Holm's correction."""
    fitting = MOST_DRAWN // max(len(material.references), 1)
    return max(recipe.evidence.bootstrap, min(40 * family, fitting))


def _counted(compared: Sequence[_Compared]) -> list[str]:
    """In how many settings each arm is better, figure by figure."""
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for one in compared:
        pairs.setdefault((one.comparison.metric, one.comparison.arm), []).append(one.comparison)
    told = [sign_sentence(own) for own in pairs.values() if len(own) > 1]
    return [*told, DEPENDENT] if told else []


def _notes(settings: Mapping[str, Sequence[_Setting]]) -> Iterator[str]:
    for task, of_task in settings.items():
        for column in {own.material.corpus.name: own.material for own in of_task}.values():
            # What the corpora that teach left out stands among the study's own notes.
            if not column.told:
                yield from (f"{task}, {column.corpus.name}: {note}" for note in column.corpus.notes)
        for own in of_task:
            left_out = len(own.material.part(Split.TEST)) - len(own.kept)
            if own.trained and left_out:
                yield (
                    f"{task}: {left_out} test examples of {own.material.corpus.name} are left out of "
                    f"the row of {own.trained}, which teaches them or others of their group."
                )


def _task(
    recipe: Recipe, task: str, settings: Sequence[_Setting], compared: Sequence[_Compared],
    arms: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    own = [one for one in compared if one.setting.material.task.name == task]
    columns = {one.material.corpus.name: one.material for one in settings}
    return {
        "task": task,
        "figures": FIGURES[settings[0].material.task.kind],
        "trained": list(dict.fromkeys(one.trained for one in settings if one.trained)),
        "tested": [
            {"corpus": name, "n": len(column.part(Split.TEST)), "reference": column.reference,
             "teaches": bool(column.told)}
            for name, column in columns.items()
        ],
        "cells": [
            {**one.place, "arm": arm, **_measured(recipe, answers, one.material)}
            for one in settings for arm, answers in one.answers.items()
        ],
        "comparisons": [
            {**setting.place, **store.plain(comparison), "sentence": _sentence(setting, comparison)}
            for setting, comparison in own
        ],
        "sentences": _counted(own),
    }  # fmt: skip


def _sentence(setting: _Setting, comparison: Comparison) -> str:
    said = sentence(comparison, setting.material.task)
    return f"Taught on {setting.trained}, tested on {setting.material.corpus.name}: {said}"


def _measured(
    recipe: Recipe, answers: Sequence[Prediction], material: Material
) -> dict[str, int | Estimate]:
    """The figures as a scorecard has them: intervals over groups, seeds pooled."""
    table = table_of(answers, material.references, material.groups, material.task)
    counts = resample(table.groups, recipe.evidence.bootstrap, 0)
    once = np.ones((1, table.groups))
    found: dict[str, int | Estimate] = {"n": len(answers), "groups": table.groups}
    for name in FIGURES[material.task.kind]:
        figure = metric_named(name, material.task)
        value = float(figure(table, once)[0])
        found[name] = estimate(value, figure(table, counts), table.groups)
    return found


def _write(folder: Path, found: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, str]:
    name = f"matrix--{one['task']}"
    pages = {
        "csv": ("tables", matrix_tables.as_csv(one)),
        "md": ("tables", matrix_tables.as_markdown(found, one)),
        "tex": ("tables", matrix_tables.as_latex(found, one)),
        "svg": ("figures", figures.svg(matrix_figure.heat_map(found, one))),
    }
    for kind, (place, page) in pages.items():
        store.write_text(folder / place / f"{name}.{kind}", page)
    return {kind: f"{place}/{name}.{kind}" for kind, (place, _) in pages.items()}
