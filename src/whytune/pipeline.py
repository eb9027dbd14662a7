"""The whole story on one page: a recipe's corpora become lessons, a student learns them, and
what it answers is measured.

`material.gather` reads and merges; `run` teaches and measures one cell of a study; `evaluate`
measures it elsewhere. What needs torch is imported where it is used, so that merging and
reporting work without it.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whytune import recipe_file, store
from whytune.errors import FolderError, MissingExtraError, RecipeError
from whytune.evidence import metrics
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.recipe import Recipe, digest, dump
from whytune.records import (
    Example,
    Layout,
    Lesson,
    Prediction,
    Scorecard,
    Split,
    Task,
)
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


@dataclass(slots=True)
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


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
        "corpus": recipe.corpora[cell.corpus].model_dump(mode="json", exclude={"path"}),
        "inputs": dict(material.corpus.inputs),
        "task": store.plain(material.task),
        "arm": recipe.arms[cell.arm].model_dump(mode="json"),
        "seed": cell.seed,
        "merge": recipe.merge,
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


def run(
    recipe: Recipe, cell: Cell, material: Material, folder: Path, show: Progress,
    begin: Callable[[], None] = lambda: None,
) -> Scorecard:  # fmt: skip
    """Teach and measure one student; goes on from its last checkpoint where there is one.

    `begin` is called before anything is written, once the model is loaded and the lessons are
    proved, so that what is wrong with the input leaves nothing behind.

    Raises:
        WhytuneError: whatever stops it; the folder stays fit to go on from.
    """
    require_torch()
    from whytune.student import models

    clock = Clock()
    facts: dict[str, Any] = {
        "state": "started",
        "digest": cell_digest(recipe, cell, material),
        **_identity(cell, material),
        **store.provenance(),
    }
    with clock.stage("load"):
        base = models.find(recipe.model, log=show.say)
        student = models.load(base, recipe.prompt, dtype=recipe.train.dtype,
                              load_in_4bit=recipe.train.load_in_4bit)  # fmt: skip
    bundles = encode(student, material.lessons[cell.arm])
    student = models.adapt(student, recipe.train, cell.seed)
    begin()
    store.write_text(folder / "recipe.yaml", dump(recipe))
    store.write_json(folder / "run.json", facts)
    facts["adapter_init"] = models.fingerprint(student)
    with clock.stage("train"):
        trained = _teach(recipe, cell, material, student, bundles, folder, show)
    facts |= _training_facts(material, cell, bundles, trained)
    models.save_adapter(
        student, folder / "adapter", _adapter_facts(recipe, cell, material, student)
    )
    with clock.stage("predict"):
        predictions = _answer(recipe, cell, material, student, show)
    card = record(folder, predictions, material, recipe)
    with clock.stage("explain"):
        _show_examples(recipe, cell, material, student, predictions, folder)
    store.write_jsonl(folder / "history.jsonl", trained.history)
    facts |= {"state": "finished", "seconds": clock.seconds}
    store.write_json(folder / "run.json", facts)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return card


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


def require_torch() -> None:
    """Say how to get the other half of whytune where it is missing.

    Raises:
        MissingExtraError: torch, transformers or peft is not installed.
    """
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; teaching and asking students needs it: "
            "pip install 'whytune[train]'"
        ) from None


def _identity(cell: Cell, material: Material) -> dict[str, Any]:
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


def encode(student: "Student", lessons: Sequence[Lesson]) -> "list[Bundle]":
    """Encode lessons, each with a proof of its mask.

    Raises:
        EncodingError: a label or explanation that would not be supervised exactly.
    """
    from whytune.student.encode import audit

    return [audit(student.encoder, lesson) for lesson in lessons]


def _training_facts(
    material: Material, cell: Cell, bundles: "Sequence[Bundle]", trained: "Trained"
) -> dict[str, Any]:
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
        "eval_split": _watched_split(material),
    }


def _adapter_facts(
    recipe: Recipe, cell: Cell, material: Material, student: "Student"
) -> dict[str, Any]:
    return {
        "base": store.plain(student.base),
        "task": store.plain(material.task),
        "layout": material.lessons[cell.arm][0].layout,
        "labels": {name: list(ids) for name, ids in student.encoder.labels(material.task).items()},
        "prompt": recipe.prompt.model_dump(mode="json"),
        "prompt_digest": student.encoder.digest,
        "max_new_tokens": recipe.predict.max_new_tokens,
        "load_in_4bit": recipe.train.load_in_4bit,
        "dtype": recipe.train.dtype,
    }


def _watched_split(material: Material) -> Split:
    """Curves are drawn on the validation part where there is one. On the test part they are
    only looked at: without a validation part no checkpoint is chosen (the recipe sees to it).
    """
    return Split.VALIDATION if material.part(Split.VALIDATION) else Split.TEST


def _teach(
    recipe: Recipe, cell: Cell, material: Material, student: "Student",
    bundles: "Sequence[Bundle]", folder: Path, show: Progress,
) -> "Trained":  # fmt: skip
    from whytune.student import train
    from whytune.student.predict import predict

    layout = material.lessons[cell.arm][0].layout
    watched = material.part(_watched_split(material))[: recipe.train.eval_limit]

    def measure() -> float:
        answers = predict(student, watched, material.task, layout,
                          batch_size=recipe.predict.per_device_eval_batch_size,
                          max_new_tokens=recipe.predict.max_new_tokens)  # fmt: skip
        read = [p for p in answers if p.log_probs]
        return statistics.fmean(
            -p.log_probs[material.references[p.example_id].label] for p in read
        ) if read else float("nan")  # fmt: skip

    with show.work(f"{cell.id}: teaching", train.schedule(len(bundles), recipe.train)) as advance:
        done = 0

        def advance_to(step: int, loss: float) -> None:
            nonlocal done
            advance(step - done, f"loss {loss:.3f}")
            done = step

        return train.train(
            student, bundles, recipe.train, seed=cell.seed, folder=folder / "checkpoints",
            measure=measure, advance=advance_to,
        )  # fmt: skip


def _answer(
    recipe: Recipe, cell: Cell, material: Material, student: "Student", show: Progress
) -> list[Prediction]:
    test = material.part(Split.TEST)
    layout = material.lessons[cell.arm][0].layout
    return ask(recipe, student, test, material.task, layout, show, f"{cell.id}: answering")


def ask(
    recipe: Recipe, student: "Student", examples: Sequence[Example], task: Task, layout: Layout,
    show: Progress, title: str, explain: bool = False,
) -> list[Prediction]:  # fmt: skip
    """Let a student answer, with progress."""
    from whytune.student.predict import predict

    with show.work(title, len(examples)) as advance:
        return predict(
            student, examples, task, layout,
            batch_size=recipe.predict.per_device_eval_batch_size,
            max_new_tokens=recipe.predict.max_new_tokens, explain=explain, advance=advance,
        )  # fmt: skip


def _show_examples(
    recipe: Recipe, cell: Cell, material: Material, student: "Student",
    predictions: Sequence[Prediction], folder: Path,
) -> None:  # fmt: skip
    """The first test examples as the page shows them, explained where the arm explains."""
    chosen = material.part(Split.TEST)[: recipe.predict.explanations]
    layout = material.lessons[cell.arm][0].layout
    by_id = {p.example_id: p for p in predictions}
    if layout is not Layout.LABEL and chosen:
        quiet = Progress(quiet=True)
        answers = ask(recipe, student, chosen, material.task, layout, quiet, "", explain=True)
        by_id |= {p.example_id: p for p in answers}
    rows = []
    for example in chosen:
        found, verdict = by_id[example.id], material.verdicts.get(example.id)
        rows.append({
            "example_id": example.id, "source": example.source, "turns": example.turns,
            "reference": material.references[example.id], "probs": found.probs,
            "label": found.label, "expected": found.expected, "label_mass": found.label_mass,
            "explanation": found.explanation,
            "taught": explanations.explanation(verdict, recipe.arms[cell.arm]) if verdict else None,
        })  # fmt: skip
    store.write_json(folder / "examples.json", rows)


def evaluate(folder: Path, corpus: str, show: Progress) -> Scorecard:
    """Measure a finished student anew on the test part of a corpus of its recipe.

    Raises:
        FolderError: no finished run there.
        RecipeError: its recipe has no such corpus.
    """
    facts = store.read_json(folder / "run.json")
    if facts.get("state") != "finished":
        raise FolderError(f"{folder}: its training is not finished; run its study again first")
    recipe = recipe_file.load(folder / "recipe.yaml")
    if corpus not in recipe.corpora:
        raise RecipeError(
            f"--on {corpus}: not in the run's recipe; found {', '.join(recipe.corpora)}"
        )
    material = gather(recipe)[corpus, facts["task"]]
    require_torch()
    from whytune.student import models

    base = models.load(models.find(recipe.model, log=show.say), recipe.prompt,
                       dtype=recipe.train.dtype, load_in_4bit=recipe.train.load_in_4bit)  # fmt: skip
    student = models.attach(base, folder / "adapter")
    answers = ask(recipe, student, material.part(Split.TEST), material.task,
                  Layout(facts["layout"]), show, f"{folder.name} on {corpus}")  # fmt: skip
    return scorecard(answers, material, recipe)
