"""A recipe as a grid of runs: corpora x tasks x arms x seeds, with baselines beside them.

A run that is there is not made again, a broken one goes on from its last checkpoint, and the
summary over all of them is computed anew each time, from what the runs wrote.
"""

import datetime
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune import pipeline, store
from whytune.errors import RecipeError
from whytune.evidence import baselines
from whytune.evidence.compare import compare, sentence
from whytune.material import Material, gather
from whytune.pipeline import Cell
from whytune.progress import Progress
from whytune.recipe import Recipe, digest
from whytune.records import Comparison, Layout, Prediction, Scorecard, Split
from whytune.student.prompting import conversation_text
from whytune.study import report

Materials = Mapping[tuple[str, str], Material]


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
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    pipeline.require_torch()
    materials = gather(recipe)
    asked = cells(recipe, materials)
    _run(recipe, materials, asked, folder, show)
    pipeline.claim(folder, recipe)
    for material in materials.values():
        _write_baselines(recipe, material, folder, show)
    summary = _summary(recipe, materials, asked, folder)
    summary |= {
        "started": started.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - clock,
        "peak_rss_mb": peak_rss_mb(),
    }
    store.write_json(folder / "summary.json", summary)
    return {**summary, "report": str(report.build(folder))}


def _run(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path, show: Progress
) -> None:
    """Run the cells that are not there yet; all are looked at before the first one is begun."""
    places = {cell: (materials[cell.corpus, cell.task], folder / "runs" / cell.id)
              for cell in asked}  # fmt: skip
    there = {cell for cell in asked if pipeline.finished(recipe, cell, *places[cell])}
    for number, cell in enumerate(asked, start=1):
        if cell in there:
            show.say(f"{cell.id}: finished before ({number} of {len(asked)})")
            continue
        show.say(f"{cell.id}: run {number} of {len(asked)}")
        card = pipeline.run(recipe, cell, *places[cell], show,
                            begin=lambda: pipeline.claim(folder, recipe))  # fmt: skip
        show.say(f"{cell.id}: {_short(card)}")


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


def peak_rss_mb() -> float:
    """Most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _write_baselines(recipe: Recipe, material: Material, folder: Path, show: Progress) -> None:
    for name in recipe.evidence.baselines:
        place = _baseline_folder(folder, material, name)
        if name == "zero-shot":
            _zero_shot(recipe, material, place, show)
            continue
        pipeline.record(place, _without_model(recipe, material, name), material, recipe)


def _baseline_folder(folder: Path, material: Material, name: str) -> Path:
    return folder / "baselines" / f"{material.corpus.name}--{material.task.name}--{name}"


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
    pipeline.record(place, predictions, material, recipe)
    store.write_json(place / "digest.json", mark)


def _summary(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    for key, material in materials.items():
        own = [cell for cell in asked if (cell.corpus, cell.task) == key]
        answers = {arm: _pooled([c for c in own if c.arm == arm], folder) for arm in recipe.arms}
        rows += _arm_rows(recipe, material, own, answers)
        rows += _baseline_rows(recipe, material, folder)
        comparisons += _comparisons(recipe, material, answers)
    return {
        "name": recipe.name,
        "model": recipe.model,
        **store.provenance(),
        "finding": finding(rows, comparisons),
        "notes": list(_notes(materials, folder, asked)),
        "agreement": [
            {"corpus": m.corpus.name, "task": m.task.name, **_agreement(m)}
            for m in materials.values()
        ],
        "rows": rows,
        "comparisons": comparisons,
    }


def _agreement(material: Material) -> dict[str, Any]:
    found = material.agreement()
    return {**found, "unread": sum(found["unread"].values())}


def _pooled(own: Sequence[Cell], folder: Path) -> list[Prediction]:
    """The answers of an arm, seed after seed."""
    return [
        prediction
        for cell in own
        for prediction in store.read_predictions(folder / "runs" / cell.id / "predictions.parquet")[
            0
        ]
    ]


def _arm_rows(
    recipe: Recipe, material: Material, own: Sequence[Cell],
    answers: Mapping[str, Sequence[Prediction]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    for arm, spec in recipe.arms.items():
        yield {
            "corpus": material.corpus.name, "task": material.task.name, "name": arm,
            "role": "arm", "seeds": list(recipe.seeds),
            "runs": [f"runs/{cell.id}" for cell in own if cell.arm == arm],
            "scorecard": store.plain(pipeline.scorecard(answers[arm], material, recipe)),
            "layout": str(material.lessons[arm][0].layout), "explanation": spec.explanation,
        }  # fmt: skip


def _baseline_rows(recipe: Recipe, material: Material, folder: Path) -> Iterator[dict[str, Any]]:
    for name in recipe.evidence.baselines:
        place = _baseline_folder(folder, material, name)
        yield {
            "corpus": material.corpus.name, "task": material.task.name, "name": name,
            "role": "baseline", "seeds": [], "runs": [],
            "scorecard": store.read_json(place / "scorecard.json"),
            "layout": None, "explanation": None,
        }  # fmt: skip


def _comparisons(
    recipe: Recipe, material: Material, answers: Mapping[str, Sequence[Prediction]]
) -> Iterator[dict[str, Any]]:
    """Every arm against the first one without explanation (or the first one)."""
    plain = [name for name, arm in recipe.arms.items() if arm.explanation == "none"]
    base = (plain or list(recipe.arms))[0]
    for arm in recipe.arms:
        if arm == base:
            continue
        found = compare(
            answers[base], answers[arm], material.references, material.groups, material.task,
            names=(base, arm), draws=recipe.evidence.bootstrap, seed=0,
        )  # fmt: skip
        for comparison in found:
            yield _comparison_row(material, comparison)


def _comparison_row(material: Material, comparison: Comparison) -> dict[str, Any]:
    return {
        "corpus": material.corpus.name, "task": material.task.name,
        **store.plain(comparison), "sentence": sentence(comparison, material.task),
    }  # fmt: skip


def finding(rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What was found, in one sentence, also when it is nothing.

    First whether the arms differ in label loss (of several comparisons: how many do, by an
    interval that leaves out zero), then how the best arm stands to the training mean or the
    most frequent label.
    """
    losses = [c for c in comparisons if c["metric"] == "label_nll"]
    if not losses:
        told = "One arm only, so there is nothing to compare"
    elif len(losses) == 1:
        told = losses[0]["sentence"].rstrip(".")
    else:
        better = sum((c["difference"]["high"] or 0) < 0 for c in losses)
        worse = sum((c["difference"]["low"] or 0) > 0 for c in losses)
        told = (
            f"Of {len(losses)} comparisons with the arm without explanation, the label loss is "
            f"lower in {better}, higher in {worse}, and not told apart in "
            f"{len(losses) - better - worse}"
        )
    sections = {(row["corpus"], row["task"]) for row in rows}
    return f"{told}{_against_prior(rows) if len(sections) == 1 else ''}."


def _against_prior(rows: Sequence[Mapping[str, Any]]) -> str:
    metric = "mse" if "mse" in rows[0]["scorecard"]["metrics"] else "accuracy"
    found = {row["name"]: row["scorecard"]["metrics"][metric]["value"] for row in rows}
    arms = {row["name"]: found[row["name"]] for row in rows if row["role"] == "arm"}
    if found.get("prior") is None or None in arms.values():
        return ""
    best = (min if metric == "mse" else max)(arms, key=lambda name: arms[name])
    words = ("mean squared error", "the training mean") if metric == "mse" else (
        "accuracy", "the most frequent label")  # fmt: skip
    return (f"; the best arm, {best}, has {words[0]} {arms[best]:.3f} against "
            f"{found['prior']:.3f} of {words[1]}")  # fmt: skip


def _notes(materials: Materials, folder: Path, asked: Sequence[Cell]) -> Iterator[str]:
    for (corpus, task), material in materials.items():
        for note in material.corpus.notes:
            yield f"{corpus}: {note}"
        for reason, count in material.dropped.items():
            yield f"{corpus}, {task}: {count} training examples taught in no arm ({reason})."
        first = next(c for c in asked if (c.corpus, c.task) == (corpus, task))
        facts = store.read_json(folder / "runs" / first.id / "run.json")
        if facts["cut"]:
            yield (f"{corpus}, {task}: {facts['cut']} of {facts['lessons']} conversations were "
                   "longer than prompt.max_length and lost their middle.")  # fmt: skip
        if facts["eval_split"] == Split.TEST:
            yield (f"{corpus}, {task}: the loss curves are drawn on the test part; no checkpoint "
                   "was chosen by them.")  # fmt: skip


def _short(card: Scorecard) -> str:
    shown = ("mse", "accuracy", "label_nll")
    return ", ".join(f"{n} {card.metrics[n].value:.4g}" for n in shown if n in card.metrics)
