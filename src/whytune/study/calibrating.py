"""Probabilities of finished students, calibrated on the validation part.

The map stands in the adapter's `whytune.json`, under `calibration` by task, so that whoever asks
the student later can apply it; the calibrated answers to the test part stand beside the plain ones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune import run_folder, store
from whytune.errors import RecipeError
from whytune.evidence.calibrate import Calibration, apply, fit
from whytune.material import Material
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Prediction, Split
from whytune.run_folder import Cell
from whytune.study import elsewhere

FOLDER = "calibrated"
"""Of a run: its calibrated answers and their scorecard."""

Materials = Mapping[tuple[str, str], Material]


def check(recipe: Recipe, materials: Materials) -> None:
    """Make sure that there is something to calibrate on, before anything is taught.

    Raises:
        RecipeError: a corpus that is taught from has no validation part.
    """
    for (corpus, task), material in materials.items():
        if recipe.evidence.calibration and material.told and not material.part(Split.VALIDATION):
            raise RecipeError(
                f"evidence.calibration: corpora.{corpus} has no validation part about {task}, and "
                "probabilities are calibrated on nothing else; set "
                f"corpora.{corpus}.validation, or drop evidence.calibration"
            )


def calibrate(
    recipe: Recipe, asked: Sequence[Cell], materials: Materials, folder: Path, show: Progress
) -> None:
    """Let every finished student answer the validation part, fit its map, and apply it.

    Raises:
        EvidenceError: too few readable answers to fit on.
    """
    if recipe.evidence.calibration is None:
        return
    elsewhere.answer(
        recipe, [(cell, cell.corpus, Split.VALIDATION) for cell in asked], materials, folder, show
    )
    for cell in asked:
        own = [materials[cell.corpus, task] for task in cell.tasks]
        _calibrate(recipe, cell, own, folder)


def _calibrate(recipe: Recipe, cell: Cell, own: Sequence[Material], folder: Path) -> None:
    place = folder / "runs" / cell.id
    held_out = elsewhere.read(folder, cell, cell.corpus, Split.VALIDATION)
    told = store.read_predictions(place / "predictions.parquet")[0]
    maps: dict[str, Calibration] = {}
    answers: dict[str, list[Prediction]] = {}
    for material in own:
        task = material.task
        maps[task.name] = fit(
            [p for p in held_out if p.task == task.name], material.references, task,
            str(recipe.evidence.calibration),
        )  # fmt: skip
        answers[task.name] = [apply(maps[task.name], p, task) for p in told if p.task == task.name]
    facts = store.read_json(place / "adapter" / "whytune.json")
    kept = {task: found.to_json() for task, found in maps.items()}
    if facts.get("calibration") != kept:
        store.write_json(place / "adapter" / "whytune.json", {**facts, "calibration": kept})
    run_folder.record(place / FOLDER, answers, own, recipe)


def maps(asked: Sequence[Cell], task: str, folder: Path) -> list[dict[str, Any]]:
    """The maps of one task, as flat rows."""
    found = []
    for cell in asked:
        facts = store.read_json(folder / "runs" / cell.id / "adapter" / "whytune.json")
        one = facts["calibration"][task]
        found.append({
            "corpus": cell.corpus, "task": task, "name": cell.arm, "seed": cell.seed,
            "method": one["method"], "temperature": one["temperature"], "n": one["n"],
            "unreadable": one["unreadable"],
        })  # fmt: skip
    return found
