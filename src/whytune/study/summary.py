"""What a study found, from what its runs and baselines wrote: rows, comparisons, one sentence."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune import run_folder, store
from whytune.material import Material, left_out, not_asked
from whytune.recipe import Recipe
from whytune.records import Outcome, Prediction, Split
from whytune.run_folder import Cell
from whytune.study import aspects, calibrating, contrasts
from whytune.study.baseline_rows import baseline_folder, names
from whytune.study.contrasts import Contrast, calibrated_name
from whytune.study.diagnosis import PRIOR, Learned
from whytune.study.finding import finding

Materials = Mapping[tuple[str, str], Material]
"""(corpus, task) -> material, in the recipe's order."""
Rows = list[dict[str, Any]]
FOUND = ("rows", "labels", "slices", "ceilings", "calibration", "explanations", "means", "errors")
"""Keys of `summary.json` that hold flat rows."""


def summarise(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path
) -> dict[str, Any]:
    """`summary.json`, all but the study's own time and memory."""
    found: dict[str, Rows] = {key: [] for key in FOUND}
    compared: list[Contrast] = []
    by_corpus: dict[str, dict[str, Material]] = {}
    answers: dict[tuple[str, str], aspects.Answered] = {}
    for (corpus, task), material in materials.items():
        if not material.told:  # a golden set: it has a column in the matrix, and no students
            continue
        by_corpus.setdefault(corpus, {})[task] = material
        own = [cell for cell in asked if cell.corpus == corpus and task in cell.tasks]
        answers[corpus, task] = of_arms = _of_arms(recipe, own, task, folder)
        _section(recipe, material, own, of_arms, folder, found)
        compared += _compared(recipe, material, own, of_arms, folder)
    for corpus, own_materials in by_corpus.items():
        several, of_corpus = (
            list(own_materials.values()),
            {task: answers[corpus, task] for task in own_materials},
        )
        found["means"] += aspects.over_all_tasks(recipe, several, of_corpus)
        found["errors"] += aspects.errors_together(recipe, several, of_corpus)
    comparisons = contrasts.rows(compared)
    settings = contrasts.counted(compared)
    raters = aspects.beside_raters(found["ceilings"], found["rows"])
    caveats = [contrasts.DEPENDENT] * bool(settings) + [aspects.NEARLY_ALIKE] * bool(raters)
    return {
        "name": recipe.name,
        "model": recipe.model,
        **store.provenance(),
        "finding": finding(found["rows"], comparisons),
        "sentences": [*settings, *raters],
        "notes": [*dict.fromkeys(_notes(recipe, materials, folder, asked)), *caveats],
        "agreement": [
            {"corpus": m.corpus.name, "task": m.task.name, **_agreement(m)}
            for m in materials.values()
        ],
        "comparisons": comparisons,
        **found,
    }  # fmt: skip


def _section(
    recipe: Recipe, material: Material, own: Sequence[Cell], answers: aspects.Answered,
    folder: Path, found: Mapping[str, Rows],
) -> None:  # fmt: skip
    """Add what there is to say about one corpus and task."""
    found["rows"] += _arm_rows(recipe, material, own, answers)
    if recipe.evidence.calibration:
        found["rows"] += _calibrated_rows(recipe, material, own, folder)
        found["calibration"] += calibrating.maps(own, material.task.name, folder)
    found["rows"] += _baseline_rows(recipe, material, folder)
    found["labels"] += aspects.by_label(recipe, material, answers)
    found["slices"] += aspects.by_slice(recipe, material, answers)
    found["ceilings"] += aspects.of_raters(recipe, material)
    said = {arm: _explained([c for c in own if c.arm == arm], material.task.name, folder)
            for arm in recipe.arms}  # fmt: skip
    for row, told in aspects.of_explanations(recipe, material, said):
        found["explanations"].append({**row, "sentence": told})


def _compared(
    recipe: Recipe, material: Material, own: Sequence[Cell], answers: aspects.Answered, folder: Path
) -> Iterator[Contrast]:
    task = material.task.name
    learned = {arm: _learned([c for c in own if c.arm == arm], task, folder) for arm in recipe.arms}
    prior = None
    if PRIOR in recipe.evidence.baselines:
        place = baseline_folder(folder, material, PRIOR) / "predictions.parquet"
        # It answers alike for every seed.
        prior = store.read_predictions(place)[0] * len(recipe.seeds)
    calibrated = (
        _of_arms(recipe, own, task, folder, calibrating.FOLDER)
        if recipe.evidence.calibration
        else {}
    )
    return contrasts.contrasts(recipe, material, answers, learned, prior, calibrated)


def _of_arms(
    recipe: Recipe, own: Sequence[Cell], task: str, folder: Path, within: str = ""
) -> aspects.Answered:
    """Arm -> its answers to one task, seed after seed."""
    paths = {
        arm: [folder / "runs" / c.id / within / "predictions.parquet" for c in own if c.arm == arm]
        for arm in recipe.arms
    }
    return {
        arm: [p for path in of_arm for p in store.read_predictions(path)[0] if p.task == task]
        for arm, of_arm in paths.items()
    }


def _agreement(material: Material) -> dict[str, Any]:
    found = material.agreement()
    return {**found, "unread": sum(found["unread"].values())}


def _explained(own: Sequence[Cell], task: str, folder: Path) -> list[Prediction]:
    """The answers of an arm that come with an explanation, seed after seed: all of a student that
    explains first, else those that it was asked to explain.
    """
    found: list[Prediction] = []
    for cell in own:
        place = folder / "runs" / cell.id
        every = store.read_predictions(place / "predictions.parquet")[0]
        first = [p for p in every if p.task == task and p.explanation is not None]
        found += first or [
            Prediction(example_id=one["example_id"], task=task, outcome=Outcome.READ,
                       label=one["label"], log_probs={}, explanation=one["explanation"])
            for one in store.read_json(place / "examples.json")
            if one.get("task", task) == task and one["label"] and one["explanation"] is not None
        ]  # fmt: skip
    return found


def _learned(own: Sequence[Cell], task: str, folder: Path) -> Learned:
    """How well the students of an arm know what they were taught, seed by seed."""
    told = [store.read_json(folder / "runs" / cell.id / "run.json") for cell in own]
    # 0.1.0 did not ask.
    return [facts["learned"][task] for facts in told if task in facts.get("learned", {})]


def _arm_rows(
    recipe: Recipe, material: Material, own: Sequence[Cell],
    answers: Mapping[str, Sequence[Prediction]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    for arm, spec in recipe.arms.items():
        yield {
            "corpus": material.corpus.name, "task": material.task.name, "name": arm,
            "role": "arm", "seeds": list(recipe.seeds),
            "runs": [f"runs/{cell.id}" for cell in own if cell.arm == arm],
            "scorecard": store.plain(run_folder.scorecard(answers[arm], material, recipe)),
            "layout": str(spec.answers_in), "explanation": spec.explanation,
        }  # fmt: skip


def _calibrated_rows(
    recipe: Recipe, material: Material, own: Sequence[Cell], folder: Path
) -> Iterator[dict[str, Any]]:
    calibrated = _of_arms(recipe, own, material.task.name, folder, calibrating.FOLDER)
    for row in _arm_rows(recipe, material, own, calibrated):
        runs = [f"{run}/{calibrating.FOLDER}" for run in row["runs"]]
        yield {**row, "name": calibrated_name(row["name"]), "role": "calibrated", "runs": runs}


def _baseline_rows(recipe: Recipe, material: Material, folder: Path) -> Iterator[dict[str, Any]]:
    for name in names(recipe, material):
        place = baseline_folder(folder, material, name)
        yield {
            "corpus": material.corpus.name, "task": material.task.name, "name": name,
            "role": "baseline", "seeds": [], "runs": [],
            "scorecard": store.read_json(place / "scorecard.json"),
            "layout": None, "explanation": None,
        }  # fmt: skip


def _notes(
    recipe: Recipe, materials: Materials, folder: Path, asked: Sequence[Cell]
) -> Iterator[str]:
    for (corpus, task), material in materials.items():
        for note in material.corpus.notes:
            yield f"{corpus}: {note}"
        for missing in not_asked(material):
            yield f"{corpus}, {task}, {missing}."
        if recipe.evidence.calibration and material.told and material.reference == "gold":
            yield (
                f"{corpus}, {task}: calibrated against the teachers' verdicts, which is all that the "
                "validation part has, and measured against people's word; where the two differ, as "
                "a mean of raters and their majority do, calibration can make figures worse."
            )
        for what, why in left_out(recipe, material):
            yield f"{corpus}, {task}: {what} taught in no arm ({why})."
    # Every seed reads the same conversations, cut alike; so do arms, unless one has an instruction.
    firsts: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for cell in asked:
        facts = store.read_json(folder / "runs" / cell.id / "run.json")
        firsts.setdefault((cell.corpus, cell.tasks), {}).setdefault(cell.arm, facts)
    for (corpus, tasks), by_arm in firsts.items():
        facts = next(iter(by_arm.values()))
        place = f"{corpus}, {', '.join(tasks)}"
        cuts = {arm: own["cut"] for arm, own in by_arm.items()}
        told = (str(facts["cut"]) if len({*cuts.values()}) == 1
                else ", ".join(f"{n} ({arm})" for arm, n in cuts.items()))  # fmt: skip
        if any(cuts.values()):
            yield (f"{place}: {told} of {facts['conversations']} conversations were "
                   "longer than prompt.max_length and lost their middle.")  # fmt: skip
        if facts["eval_split"] == Split.TEST:
            yield (f"{place}: the loss curves are drawn on the test part; no checkpoint "
                   "was chosen by them.")  # fmt: skip
