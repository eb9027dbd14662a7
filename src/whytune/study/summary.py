"""What a study found, from what its runs and baselines wrote: rows, comparisons, one sentence."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune import run_folder, store
from whytune.evidence.compare import compare, sentence
from whytune.material import Material
from whytune.recipe import Recipe
from whytune.records import Comparison, Prediction, Split
from whytune.run_folder import Cell

Materials = Mapping[tuple[str, str], Material]


def baseline_folder(folder: Path, material: Material, name: str) -> Path:
    """Where a baseline's answers stand in a study."""
    return folder / "baselines" / f"{material.corpus.name}--{material.task.name}--{name}"


def summarise(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path
) -> dict[str, Any]:
    """`summary.json`, all but the study's own time and memory."""
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
            "scorecard": store.plain(run_folder.scorecard(answers[arm], material, recipe)),
            "layout": str(material.lessons[arm][0].layout), "explanation": spec.explanation,
        }  # fmt: skip


def _baseline_rows(recipe: Recipe, material: Material, folder: Path) -> Iterator[dict[str, Any]]:
    for name in recipe.evidence.baselines:
        place = baseline_folder(folder, material, name)
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
