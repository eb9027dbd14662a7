"""A recipe as a grid of runs: corpora x tasks x arms x seeds, with baselines beside them.

With joint teaching, the tasks of a corpus share their runs. A run that is there is not made again,
a broken one goes on from its last checkpoint, and the summary over all of them is computed anew
each time, from what the runs wrote. The splits are frozen when the study begins.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune import cell_state, explaining, pipeline, run_folder, store
from whytune.cell_state import State
from whytune.corpora import manifest
from whytune.errors import RecipeError
from whytune.material import Material, gather, not_asked
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Scorecard
from whytune.run_folder import Cell
from whytune.study import (
    baseline_rows,
    calibrating,
    elsewhere,
    holding,
    inside,
    matrix,
    ray_connection,
    ray_grid,
    report,
)
from whytune.study.summary import Materials, summarise

LONGEST_NAME = 255
"""Bytes that file systems allow a folder's name."""


def cells(recipe: Recipe, materials: Materials) -> list[Cell]:
    """Every student of the study, seed by seed, so that a first answer is there early; arms whose
    gradient is matched to another one's come after it.

    Raises:
        RecipeError: the tasks that one student is to learn make too long a name for its folder.
    """
    made = [
        Cell(corpus=corpus, tasks=tasks, arm=arm, seed=seed)
        for seed in recipe.seeds
        for corpus, tasks in taught_together(recipe, materials)
        for arm in sorted(recipe.arms, key=lambda arm: recipe.arms[arm].gradient_of is not None)
    ]
    for cell in made:
        if len(cell.id.encode()) > LONGEST_NAME:
            raise RecipeError(
                f"{recipe.name}: the folder of {cell.corpus}, arm {cell.arm} would be named by "
                f"{len(cell.tasks)} tasks in {len(cell.id.encode())} bytes, expected "
                f"{LONGEST_NAME} at most; shorten their names, or set train.tasks: separate"
            )
    return made


def taught_together(recipe: Recipe, materials: Materials) -> list[tuple[str, tuple[str, ...]]]:
    """(corpus, tasks) of each student: one task each, or with joint teaching all of a corpus."""
    if recipe.train.tasks == "separate":
        return [(corpus, (task,)) for corpus, task in materials]
    return [(corpus, tuple(own)) for corpus, own in _by_corpus(materials).items()]


def teaching(materials: Materials) -> Materials:
    """Those with lessons: of the others, columns of a matrix, there are no students."""
    return {key: material for key, material in materials.items() if material.told}


def _by_corpus(materials: Materials) -> dict[str, dict[str, Material]]:
    """Corpus -> task -> material."""
    found: dict[str, dict[str, Material]] = {}
    for (corpus, task), material in materials.items():
        found.setdefault(corpus, {})[task] = material
    return found


def study(recipe: Recipe, folder: Path, show: Progress, on: str | None = None) -> dict[str, Any]:
    """Run what is missing, measure, compare, and write the page.

    Args:
        recipe: which students.
        folder: where the study stands.
        show: how long it takes.
        on: the Ray cluster that makes the students, as `ray_connection.check` says; None: this
            process.

    Returns:
        The summary, as `summary.json` holds it, and `report`, the path of the page.

    Raises:
        WhytuneError: whatever stops it; calling again goes on where it stopped.
    """
    clock = time.perf_counter()
    pipeline.require_torch()
    if on is not None:
        ray_connection.check(on)
    materials = _gathered(recipe, show)
    asked = cells(recipe, teaching(materials))
    spent = _run(recipe, materials, asked, folder, show, on)
    _claim(recipe, materials, folder)
    calibrating.calibrate(recipe, asked, materials, folder, show)
    baseline_rows.write(recipe, materials, folder, show)
    summary = summarise(recipe, teaching(materials), asked, folder)
    if recipe.matrix:
        wanted = matrix.wanted(recipe, materials, asked)
        elsewhere.answer(recipe, wanted, materials, folder, show)
        summary["matrix"] = matrix.build(recipe, materials, asked, folder)
    if recipe.inside:
        inside.of_study(recipe, asked, materials, folder, show)
    runs = [store.read_json(folder / "runs" / cell.id / "run.json") for cell in asked]
    summary |= {
        "started": min(r["started"] for r in runs),
        # What the students took, whenever they were taught, and the rest of this call.
        "seconds": time.perf_counter()
        - clock
        - spent
        + sum(sum(r["seconds"].values()) for r in runs),
        "peak_rss_mb": max([store.peak_rss_mb(), *(r["peak_rss_mb"] for r in runs)]),
    }
    store.write_json(folder / "summary.json", summary)
    return {**summary, "report": str(report.build(folder))}


def _gathered(recipe: Recipe, show: Progress) -> Materials:
    """The material, once the reasons that it teaches are written."""
    pipeline.require_trackers(recipe)
    if any(arm.spoken == "generated" for arm in recipe.arms.values()):
        gather(recipe, stand_in=True)  # what else is wrong is told before hours of writing
        pipeline.require_torch()
        explaining.explain(recipe, show)
    return gather(recipe)


def _claim(recipe: Recipe, materials: Materials, folder: Path) -> None:
    """Make the folder this recipe's own, with its splits frozen; or compare with what is frozen."""
    run_folder.claim(folder, recipe)
    corpora = {name: (m.corpus, recipe.corpora[name]) for (name, _), m in materials.items()}
    if (folder / manifest.NAME).exists():
        manifest.check(folder, corpora)
    else:
        manifest.write(folder, corpora)


def _run(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path, show: Progress,
    on: str | None = None,
) -> float:  # fmt: skip
    """Run the cells that are not there yet; all are looked at before the first one is begun.

    Returns:
        Seconds spent in the runs' own stages by this call.
    """
    spent = 0.0
    calibrating.check(recipe, materials)
    for (corpus, task), material in materials.items():
        for missing in not_asked(material):
            show.say(f"{corpus}, {task}, {missing}")
    places = {cell: ([materials[cell.corpus, task] for task in cell.tasks],
                     folder / "runs" / cell.id) for cell in asked}  # fmt: skip
    states = cell_state.states(recipe, places)
    there = {cell for cell, state in states.items() if state is State.FINISHED}
    left = []
    for number, cell in enumerate(asked, start=1):
        if cell in there:
            show.say(f"{cell.id}: finished before ({number} of {len(asked)})")
        else:
            left.append((number, cell))
    if on is not None:
        return ray_grid.run(recipe, materials, [cell for _, cell in left], folder, show,
                            on=on, claim=_claim, short=_short)  # fmt: skip
    for number, cell in left:
        show.say(f"{cell.id}: run {number} of {len(asked)}")
        cards = holding.make(recipe, cell, *places[cell], show,
                             begin=lambda: _claim(recipe, materials, folder))  # fmt: skip
        show.say(f"{cell.id}: {_short(cards)}")
        facts = store.read_json(places[cell][1] / "run.json")
        spent += sum(facts["seconds"].values())
    return spent


def single(recipe: Recipe, arm: str | None, folder: Path, show: Progress) -> dict[str, Any]:
    """Teach and measure one student.

    Raises:
        RecipeError: the recipe has no such arm, several corpora or seeds, or several tasks that
            are not taught jointly.
    """
    materials = _gathered(recipe, show)
    taught = taught_together(recipe, teaching(materials))
    if len(taught) > 1 or len(recipe.seeds) > 1:
        raise RecipeError(
            f"{recipe.name}: found {len(taught)} corpora x tasks and {len(recipe.seeds)} seeds; "
            "`train` teaches one student: narrow the recipe, teach the tasks of one corpus "
            "jointly (train.tasks: joint), or use `study`"
        )
    arm = arm or next(iter(recipe.arms))
    if arm not in recipe.arms:
        raise RecipeError(f"--arm {arm}: no such arm; found {', '.join(recipe.arms)}")
    cell = next(cell for cell in cells(recipe, teaching(materials)) if cell.arm == arm)
    _run(recipe, materials, [cell], folder, show)
    calibrating.calibrate(recipe, [cell], materials, folder, show)
    place = folder / "runs" / cell.id
    return {"run": str(place), "scorecard": store.read_json(place / "scorecard.json")}


def _short(cards: Mapping[str, Scorecard] | None) -> str:
    if cards is None:
        return "finished by another process"
    shown = ("mse", "accuracy", "label_nll")
    said = {
        task: ", ".join(f"{n} {card.metrics[n].value:.4g}" for n in shown if n in card.metrics)
        for task, card in cards.items()
    }
    alone = run_folder.by_task(said)
    return alone if isinstance(alone, str) else "; ".join(f"{t}: {s}" for t, s in said.items())
