"""What a run folder holds, and what it says about itself.

One cell of a study has one folder. `run.json` says what was taught from which inputs, and a
digest of all that decides whether a folder is that of a given recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whytune import store
from whytune.errors import FolderError
from whytune.evidence import metrics
from whytune.material import Material
from whytune.recipe import Recipe, digest, dump
from whytune.records import Example, Prediction, Scorecard, Split
from whytune.teaching import explanations

if TYPE_CHECKING:
    from whytune.student.encode import Bundle
    from whytune.student.models import Student
    from whytune.student.train import Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One student of a study."""

    corpus: str
    task: str
    arm: str
    seed: int

    @property
    def id(self) -> str:
        """Names its folder; no name holds a double dash, so no two cells share one."""
        return f"{self.corpus}--{self.task}--{self.arm}--s{self.seed}"


def claim(folder: Path, recipe: Recipe) -> None:
    """Make a folder that of a recipe; what is in it is checked run by run, by `finished`.

    Raises:
        FolderError: it holds something else, or cannot be written.
    """
    mark = folder / "recipe.yaml"
    try:
        if folder.exists() and not mark.exists() and any(folder.iterdir()):
            raise FolderError(
                f"{folder}: holds files but no recipe.yaml, so it is no study; choose another --out"
            )
        store.write_text(mark, dump(recipe))
    except OSError as error:
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out"
        ) from None


def cell_digest(recipe: Recipe, cell: Cell, material: Material) -> str:
    """Changes with anything that this cell's student or its answers depend on."""
    return digest({
        "model": recipe.model,
        "task": store.plain(material.task),
        # What is taught and what is measured stand for data, splits, merge and arm at once.
        "lessons": [[x.example.id, x.label, x.layout, x.explanation]
                    for x in material.lessons[cell.arm]],
        "references": store.plain(material.references),
        "turns": [store.plain(example.turns) for example in material.corpus.examples],
        "seed": cell.seed,
        "prompt": recipe.prompt.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json"),
        "predict": recipe.predict.model_dump(mode="json", exclude={"per_device_eval_batch_size"}),
    })  # fmt: skip


def finished(recipe: Recipe, cell: Cell, material: Material, folder: Path) -> bool:
    """Whether this very cell stands complete in `folder`.

    Raises:
        FolderError: the folder is of another recipe or other data.
    """
    if not (folder / "run.json").exists():
        return False
    facts = store.read_json(folder / "run.json")
    if facts.get("digest") != cell_digest(recipe, cell, material):
        raise FolderError(
            f"{folder}: made by another recipe or from other data; choose another --out, or "
            "delete the folder"
        )
    return bool(facts.get("state") == "finished")


def record(
    folder: Path, predictions: Sequence[Prediction], material: Material, recipe: Recipe
) -> Scorecard:
    """Write predictions beside their references, and the scorecard over them."""
    references, groups = material.references, material.groups
    extra: dict[str, list[Any]] = {
        "reference_label": [references[p.example_id].label for p in predictions],
        "reference_score": [references[p.example_id].score for p in predictions],
        "group": [groups[p.example_id] for p in predictions],
    }
    store.write_predictions(folder / "predictions.parquet", predictions, extra)
    card = scorecard(predictions, material, recipe)
    store.write_json(folder / "scorecard.json", card)
    return card


def scorecard(predictions: Sequence[Prediction], material: Material, recipe: Recipe) -> Scorecard:
    """Measure predictions about one corpus and task."""
    return metrics.scorecard(
        predictions, material.references, material.groups, material.task,
        reference=material.reference, draws=recipe.evidence.bootstrap, seed=0,
    )  # fmt: skip


def identity(cell: Cell, material: Material) -> dict[str, Any]:
    """Which student this is, and from what it learns."""
    lessons = material.lessons[cell.arm]
    task = material.task
    return {
        "corpus": cell.corpus, "task": cell.task, "arm": cell.arm, "seed": cell.seed,
        "kind": task.kind, "labels": list(task.label_names),
        "layout": lessons[0].layout, "reference": material.reference,
        "lessons": len(lessons), "dropped": dict(material.dropped),
        # Equal in every arm: arms differ in what is said about an example, never in which.
        "examples_sha256": digest([[lesson.example.id, lesson.label] for lesson in lessons]),
        "test_sha256": digest([e.id for e in material.part(Split.TEST)]),
        "inputs": dict(material.corpus.inputs), "notes": list(material.corpus.notes),
    }  # fmt: skip


def training_facts(
    material: Material, bundles: "Sequence[Bundle]", trained: "Trained"
) -> dict[str, Any]:
    """What training did; `bundles` are the encoded lessons."""
    from whytune.student.encode import supervised
    from whytune.student.targets import Part

    return {
        "updates": trained.updates,
        "stopped_early": trained.stopped_early,
        "tokens": {
            "supervised_label": sum(supervised(b, Part.LABEL) for b in bundles),
            "supervised_explanation": sum(supervised(b, Part.EXPLANATION) for b in bundles),
            "per_epoch": sum(map(len, bundles)),
            "total": trained.tokens,
        },
        "cut": sum(bundle.cut > 0 for bundle in bundles),
        "eval_split": watched_split(material),
    }


def adapter_facts(
    recipe: Recipe, cell: Cell, material: Material, student: "Student"
) -> dict[str, Any]:
    """What `whytune.json` says beside an adapter: all that is needed to ask it again."""
    return {
        "base": student.base.name,
        "base_digest": student.base.digest,
        "task": store.plain(material.task),
        "layout": material.lessons[cell.arm][0].layout,
        "labels": {name: list(ids) for name, ids in student.encoder.labels(material.task).items()},
        "prompt": recipe.prompt.model_dump(mode="json"),
        "prompt_digest": student.encoder.digest,
        "max_new_tokens": recipe.predict.max_new_tokens,
        "load_in_4bit": recipe.train.load_in_4bit,
        "dtype": recipe.train.dtype,
    }


def watched_split(material: Material) -> Split:
    """Curves are drawn on the validation part where there is one. On the test part they are
    only looked at: without a validation part no checkpoint is chosen (the recipe sees to it).
    """
    return Split.VALIDATION if material.part(Split.VALIDATION) else Split.TEST


def write_examples(
    folder: Path, material: Material, recipe: Recipe, cell: Cell, answers: Mapping[str, Prediction]
) -> None:
    """The first test examples as the page shows them; `answers` by example id."""
    rows = []
    for example in shown(material, recipe):
        found, verdict = answers[example.id], material.verdicts.get(example.id)
        rows.append({
            "example_id": example.id, "source": example.source, "turns": example.turns,
            "reference": material.references[example.id], "probs": found.probs,
            "label": found.label, "expected": found.expected, "label_mass": found.label_mass,
            "explanation": found.explanation,
            "taught": explanations.explanation(verdict, recipe.arms[cell.arm]) if verdict else None,
        })  # fmt: skip
    store.write_json(folder / "examples.json", rows)


def shown(material: Material, recipe: Recipe) -> tuple[Example, ...]:
    """The test examples that are explained and shown: the same for every arm."""
    return material.part(Split.TEST)[: recipe.predict.explanations]
