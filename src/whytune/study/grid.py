"""A recipe as a grid of runs: corpora x tasks x arms x seeds, with baselines beside them.

A run that is there is not made again, a broken one goes on from its last checkpoint, and the
summary over all of them is computed anew each time, from what the runs wrote.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whytune import pipeline, run_folder, store
from whytune.errors import RecipeError
from whytune.evidence import baselines
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.recipe import Recipe, digest
from whytune.records import Layout, Prediction, Scorecard, Split
from whytune.run_folder import Cell
from whytune.student.prompting import conversation_text
from whytune.study import report
from whytune.study.summary import Materials, baseline_folder, summarise


def cells(recipe: Recipe, materials: Materials) -> list[Cell]:
    """Every student of the study, seed by seed, so that a first answer is there early."""
    return [
        Cell(corpus=corpus, task=task, arm=arm, seed=seed)
        for seed in recipe.seeds
        for corpus, task in materials
        for arm in recipe.arms
    ]


def study(recipe: Recipe, folder: Path, show: Progress) -> dict[str, Any]:
    """Run what is missing, measure, compare, and write the page.

    Returns:
        The summary, as `summary.json` holds it, and `report`, the path of the page.

    Raises:
        WhytuneError: whatever stops it; calling again goes on where it stopped.
    """
    clock = time.perf_counter()
    pipeline.require_torch()
    materials = gather(recipe)
    asked = cells(recipe, materials)
    spent = _run(recipe, materials, asked, folder, show)
    run_folder.claim(folder, recipe)
    for material in materials.values():
        _write_baselines(recipe, material, folder, show)
    summary = summarise(recipe, materials, asked, folder)
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


def _run(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path, show: Progress
) -> float:
    """Run the cells that are not there yet; all are looked at before the first one is begun.

    Returns:
        Seconds spent in the runs' own stages by this call.
    """
    spent = 0.0
    places = {cell: (materials[cell.corpus, cell.task], folder / "runs" / cell.id)
              for cell in asked}  # fmt: skip
    there = {cell for cell in asked if run_folder.finished(recipe, cell, *places[cell])}
    for number, cell in enumerate(asked, start=1):
        if cell in there:
            show.say(f"{cell.id}: finished before ({number} of {len(asked)})")
            continue
        show.say(f"{cell.id}: run {number} of {len(asked)}")
        card = pipeline.run(recipe, cell, *places[cell], show,
                            begin=lambda: run_folder.claim(folder, recipe))  # fmt: skip
        show.say(f"{cell.id}: {_short(card)}")
        facts = store.read_json(places[cell][1] / "run.json")
        spent += sum(facts["seconds"].values())
    return spent


def single(recipe: Recipe, arm: str | None, folder: Path, show: Progress) -> dict[str, Any]:
    """Teach and measure one student.

    Raises:
        RecipeError: the recipe has no such arm, or several corpora, tasks or seeds.
    """
    materials = gather(recipe)
    if len(materials) > 1 or len(recipe.seeds) > 1:
        raise RecipeError(
            f"{recipe.name}: found {len(materials)} corpora x tasks and {len(recipe.seeds)} seeds; "
            "`train` teaches one student: narrow the recipe, or use `study`"
        )
    arm = arm or next(iter(recipe.arms))
    if arm not in recipe.arms:
        raise RecipeError(f"--arm {arm}: no such arm; found {', '.join(recipe.arms)}")
    (corpus, task) = next(iter(materials))
    cell = Cell(corpus=corpus, task=task, arm=arm, seed=recipe.seeds[0])
    _run(recipe, materials, [cell], folder, show)
    place = folder / "runs" / cell.id
    return {"run": str(place), "scorecard": store.read_json(place / "scorecard.json")}


def _write_baselines(recipe: Recipe, material: Material, folder: Path, show: Progress) -> None:
    for name in recipe.evidence.baselines:
        place = baseline_folder(folder, material, name)
        if name == "zero-shot":
            _zero_shot(recipe, material, place, show)
            continue
        run_folder.record(place, _without_model(recipe, material, name), material, recipe)


def _without_model(recipe: Recipe, material: Material, name: str) -> list[Prediction]:
    lessons = next(iter(material.lessons.values()))
    labels = [lesson.label for lesson in lessons]
    test = material.part(Split.TEST)
    ids = [example.id for example in test]
    if name == "prior":
        return baselines.prior(labels, material.task, ids, material.scores)
    context = recipe.prompt.context_turns
    return baselines.tfidf(
        [conversation_text(lesson.example.turns, context) for lesson in lessons], labels,
        material.scores, [conversation_text(example.turns, context) for example in test], ids,
        material.task,
    )  # fmt: skip


def _zero_shot(recipe: Recipe, material: Material, place: Path, show: Progress) -> None:
    mark = digest([
        recipe.model, recipe.prompt.model_dump(mode="json"), recipe.train.dtype,
        recipe.train.load_in_4bit, store.plain(material.task), dict(material.corpus.inputs),
        [example.id for example in material.part(Split.TEST)],
    ])  # fmt: skip
    if (place / "digest.json").exists() and store.read_json(place / "digest.json") == mark:
        return
    from whytune.student import models

    student = models.load(
        models.find(recipe.model, log=show.say), recipe.prompt,
        dtype=recipe.train.dtype, load_in_4bit=recipe.train.load_in_4bit,
    )  # fmt: skip
    title = f"{material.corpus.name}-{material.task.name}: asking the base model"
    test = material.part(Split.TEST)
    predictions = pipeline.ask(recipe, student, test, material.task, Layout.LABEL, show, title)
    run_folder.record(place, predictions, material, recipe)
    store.write_json(place / "digest.json", mark)


def _short(card: Scorecard) -> str:
    shown = ("mse", "accuracy", "label_nll")
    return ", ".join(f"{n} {card.metrics[n].value:.4g}" for n in shown if n in card.metrics)
