"""What a run folder holds, and what it says about itself.

One cell of a study has one folder: one student, which answers one task, or with joint teaching
all tasks of its corpus. `run.json` says what was taught from which inputs, and a digest of all
that decides whether a folder is that of a given recipe. What one task has to say stands bare in
its file; what several have to say stands by task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from whytune import store
from whytune.errors import FolderError
from whytune.evidence import metrics
from whytune.material import Material, together
from whytune.recipe import Recipe, digest, dump
from whytune.records import Example, Layout, Prediction, Scorecard, Split
from whytune.teaching import explanations

if TYPE_CHECKING:
    from whytune.student.encode import Bundle
    from whytune.student.models import Student
    from whytune.student.train import Trained

T = TypeVar("T")
_TOLD_BY_LESSONS = {"explanation", "of", "words", "mask_labels", "layout"}
"""Knobs of an arm that show in its lessons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One student of a study."""

    corpus: str
    tasks: tuple[str, ...]
    """What it answers, in the recipe's order."""
    arm: str
    seed: int

    @property
    def task(self) -> str:
        """Its tasks in one word."""
        return "+".join(self.tasks)

    @property
    def id(self) -> str:
        """Names its folder; no name holds a double dash or a plus, so no two cells share one."""
        return f"{self.corpus}--{self.task}--{self.arm}--s{self.seed}"


def moment_folder(folder: Path, step: int) -> Path:
    """Where a run keeps its adapter as it stood after an update, with `train.keep_adapters`."""
    return folder / "along" / f"step-{step:08d}"


def moments(folder: Path) -> dict[int, Path]:
    """Update -> PEFT folder of the adapter as it stood then; empty where a run kept none."""
    found = sorted((folder / "along").glob("step-*"))
    return {int(place.name.removeprefix("step-")): place for place in found}


def by_task(entries: Mapping[str, T]) -> T | dict[str, T]:
    """The entry itself where there is one task; of several, task -> entry."""
    return next(iter(entries.values())) if len(entries) == 1 else dict(entries)


def claim(folder: Path, recipe: Recipe) -> None:
    """Make a folder that of a recipe; what is in it is checked run by run, by `cell_state`.

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


def cell_digest(recipe: Recipe, cell: Cell, materials: Sequence[Material]) -> str:
    """Changes with anything that this cell's student or its answers depend on."""
    return digest({
        "model": recipe.model,
        # What is taught and what is measured stand for data, splits, merge and arm at once.
        "tasks": [
            {
                "task": store.plain(material.task),
                "lessons": [[x.example.id, x.label, x.layout, x.explanation]
                            for x in material.lessons(cell.arm, cell.seed)],
                "references": store.plain(material.references),
            }
            for material in materials
        ],
        "turns": [store.plain(example.turns) for example in materials[0].corpus.examples],
        "seed": cell.seed,
        "prompt": recipe.prompt.model_dump(mode="json"),
        "train": recipe.train.effective(),
        "predict": asking(recipe),
        **_own_way(recipe, cell, materials),
    })  # fmt: skip


def asking(recipe: Recipe) -> dict[str, Any]:
    """How answers are asked for, without what does not change them."""
    unused = {"samples", "temperature"} if recipe.predict.samples == 1 else set()
    return recipe.predict.model_dump(mode="json", exclude={"per_device_eval_batch_size", *unused})


def _own_way(recipe: Recipe, cell: Cell, materials: Sequence[Material]) -> dict[str, Any]:
    """What an arm sets beside its lessons, with the cells that it is matched to; empty where it
    sets nothing, so that runs of versions that knew no such knobs stay what they are.
    """
    arm = recipe.arms[cell.arm]
    own = arm.model_dump(mode="json", exclude=_TOLD_BY_LESSONS, exclude_defaults=True)
    matched = {knob: cell_digest(recipe, replace(cell, arm=other), materials)
               for knob, other in arm.matched.items()}  # fmt: skip
    return {"arm": {**own, **matched}} if own else {}


def record(
    folder: Path, answers: Mapping[str, Sequence[Prediction]], materials: Sequence[Material],
    recipe: Recipe,
) -> dict[str, Scorecard]:  # fmt: skip
    """Write predictions beside their references, and the scorecards over them.

    Args:
        folder: of a run or a baseline.
        answers: task -> predictions, all about examples with a reference.
        materials: of one corpus, one for each task.
        recipe: says how intervals are drawn.

    Returns:
        Task -> scorecard.
    """
    groups = materials[0].groups
    rows = [
        (prediction, material.references[prediction.example_id])
        for material in materials
        for prediction in answers[material.task.name]
    ]
    extra: dict[str, list[Any]] = {
        "reference_label": [reference.label for _, reference in rows],
        "reference_score": [reference.score for _, reference in rows],
        "group": [groups[prediction.example_id] for prediction, _ in rows],
    }
    store.write_predictions(folder / "predictions.parquet", [p for p, _ in rows], extra)
    cards = {m.task.name: scorecard(answers[m.task.name], m, recipe) for m in materials}
    store.write_json(folder / "scorecard.json", by_task(cards))
    return cards


def scorecard(predictions: Sequence[Prediction], material: Material, recipe: Recipe) -> Scorecard:
    """Measure predictions about one corpus and task."""
    return metrics.scorecard(
        predictions, material.references, material.groups, material.task,
        reference=material.reference, draws=recipe.evidence.bootstrap, seed=0,
    )  # fmt: skip


def identity(cell: Cell, materials: Sequence[Material]) -> dict[str, Any]:
    """Which student this is, and from what it learns.

    What is of one task stands under `tasks`, and once more beside them where there is no other.
    """
    tasks = {material.task.name: _of_task(cell, material) for material in materials}
    corpus = materials[0].corpus
    sums = [facts["examples_sha256"] for facts in tasks.values()]
    return {
        **(tasks[cell.task] if len(tasks) == 1 else {"examples_sha256": digest(sums)}),
        "corpus": cell.corpus, "task": cell.task, "arm": cell.arm, "seed": cell.seed,
        "layout": layout(cell, materials),
        "lessons": sum(facts["lessons"] for facts in tasks.values()),
        "tasks": tasks,
        "inputs": dict(corpus.inputs), "notes": list(corpus.notes),
    }  # fmt: skip


def _of_task(cell: Cell, material: Material) -> dict[str, Any]:
    lessons = material.lessons(cell.arm, cell.seed)
    return {
        "kind": material.task.kind, "labels": list(material.task.label_names),
        "reference": material.reference,
        "lessons": len(lessons), "dropped": dict(material.dropped),
        # Equal in every arm: arms differ in what is said about an example, never in which.
        "examples_sha256": digest([[lesson.example.id, lesson.label] for lesson in lessons]),
        "test_sha256": digest([e.id for e in material.part(Split.TEST)]),
    }  # fmt: skip


def layout(cell: Cell, materials: Sequence[Material]) -> Layout:
    """The layout of the student's answers: its arm's, the same for every task."""
    return materials[0].arms[cell.arm].answers_in


def training_facts(
    materials: Sequence[Material], student: "Student", bundles: "Sequence[Bundle]",
    trained: "Trained",
) -> dict[str, Any]:  # fmt: skip
    """What training took; `bundles` are the encoded lessons, one for each conversation."""
    from whytune.student import effort

    per_epoch = sum(map(len, bundles))
    return {
        "updates": trained.updates,
        "stopped_early": trained.stopped_early,
        "tokens": {
            **{f"supervised_{span}": n for span, n in effort.supervised(bundles).items()},
            "per_epoch": per_epoch,
            "total": trained.tokens,
        },
        # Of the passes forward and back, without the optimizer and the measurements.
        "flops": round(effort.flops(student, bundles) * trained.tokens / per_epoch),
        "label_share": trained.label_share,
        "label_share_at_start": trained.label_share_at_start,
        "conversations": len(bundles),
        "cut": sum(bundle.cut > 0 for bundle in bundles),
        "eval_split": watched_split(materials),
    }


def adapter_facts(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], student: "Student"
) -> dict[str, Any]:
    """What `whytune.json` says beside an adapter: all that is needed to ask it again.

    `label_ids` holds the token ids of the labels by task; where there is one task only, it and
    they stand bare as well, as `task` and `labels`. A label head has no such ids; `head` holds its
    rows: the labels by task, one behind the other. `roles` are the speakers of the lessons.
    """
    tasks = [material.task for material in materials]
    facts: dict[str, Any] = {"base": student.base.name, "base_digest": student.base.digest}
    if len(tasks) == 1:
        facts["task"] = store.plain(tasks[0])
    if student.encoder.head is not None:
        facts["head"] = student.encoder.head
    else:
        facts["label_ids"] = {
            task.name: {label: list(ids) for label, ids in student.encoder.labels(task).items()}
            for task in tasks
        }
        if len(tasks) == 1:
            facts["labels"] = facts["label_ids"][tasks[0].name]
    return {
        **facts,
        "tasks": store.plain(tasks),
        "layout": layout(cell, materials),
        "prompt": student.encoder.prompting.model_dump(mode="json"),
        "prompt_digest": student.encoder.digest,
        "roles": sorted({t.role for m in materials for one in m.told for t in one.example.turns}),
        **recipe.predict.model_dump(include={"max_new_tokens", "samples", "temperature"}),
        **recipe.train.model_dump(include={"load_in_4bit", "dtype"}),
    }


def watched_split(materials: Sequence[Material]) -> Split:
    """Curves are drawn on the validation part where there is one. On the test part they are
    only looked at: without a validation part no checkpoint is chosen (the recipe sees to it).
    """
    return Split.VALIDATION if together(materials, Split.VALIDATION) else Split.TEST


def write_examples(
    folder: Path, materials: Sequence[Material], recipe: Recipe, cell: Cell,
    answers: Mapping[str, Sequence[Prediction]],
) -> None:  # fmt: skip
    """The first test examples of each task as the page shows them; of several answers about one
    example, the last one is shown.
    """
    rows = []
    for material in materials:
        of_task = {prediction.example_id: prediction for prediction in answers[material.task.name]}
        rows += [
            _example(material, cell.arm, example, of_task[example.id])
            for example in shown(material, recipe)
        ]
    store.write_json(folder / "examples.json", rows)


def _example(material: Material, arm: str, example: Example, found: Prediction) -> dict[str, Any]:
    verdict = material.verdicts.get(example.id)
    return {
        "task": material.task.name, "example_id": example.id, "source": example.source,
        "turns": example.turns, "reference": material.references[example.id],
        "probs": found.probs, "label": found.label, "expected": found.expected,
        "label_mass": found.label_mass, "explanation": found.explanation,
        "taught": verdict and explanations.said(verdict, material.task, material.arms[arm]),
    }  # fmt: skip


def shown(material: Material, recipe: Recipe) -> tuple[Example, ...]:
    """The test examples that are explained and shown: the same for every arm."""
    return material.part(Split.TEST)[: recipe.predict.explanations]
