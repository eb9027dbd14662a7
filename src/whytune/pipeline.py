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

from whytune import recipe_file, run_folder, store
from whytune.errors import FolderError, MissingExtraError, ModelError, RecipeError
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.recipe import Recipe, dump
from whytune.records import (
    Example,
    Layout,
    Lesson,
    Prediction,
    Scorecard,
    Split,
    Task,
)

if TYPE_CHECKING:
    from whytune.student.encode import Bundle
    from whytune.student.models import Student
    from whytune.student.train import Trained


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


def run(
    recipe: Recipe, cell: run_folder.Cell, material: Material, folder: Path, show: Progress,
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
        "digest": run_folder.cell_digest(recipe, cell, material),
        **run_folder.identity(cell, material),
        **store.provenance(),
    }
    with clock.stage("load"):
        base = models.find(recipe.model, log=show.say)
        student = models.load(base, recipe.prompt, dtype=recipe.train.dtype,
                              load_in_4bit=recipe.train.load_in_4bit)  # fmt: skip
    facts["model"] = {"name": base.name, "digest": student.base.digest}
    bundles = encode(student, material.lessons[cell.arm])
    student = models.adapt(student, recipe.train, cell.seed)
    begin()
    store.write_text(folder / "recipe.yaml", dump(recipe))
    store.write_json(folder / "run.json", facts)
    facts["adapter_init"] = models.fingerprint(student)
    with clock.stage("train"):
        trained = _teach(recipe, cell, material, student, bundles, folder, show)
    facts |= run_folder.training_facts(material, bundles, trained)
    models.save_adapter(student, folder / "adapter",
                        run_folder.adapter_facts(recipe, cell, material, student))  # fmt: skip
    card = _measure(recipe, cell, material, student, folder, clock, show)
    store.write_jsonl(folder / "history.jsonl", trained.history)
    facts |= {"state": "finished", "seconds": clock.seconds, "peak_rss_mb": store.peak_rss_mb()}
    store.write_json(folder / "run.json", facts)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return card


def _measure(
    recipe: Recipe, cell: run_folder.Cell, material: Material, student: "Student", folder: Path,
    clock: Clock, show: Progress,
) -> Scorecard:  # fmt: skip
    """Let the student answer about the test part, and explain the examples that are shown."""
    test, task = material.part(Split.TEST), material.task
    layout = material.lessons[cell.arm][0].layout
    with clock.stage("predict"):
        predictions = ask(recipe, student, test, task, layout, show, f"{cell.id}: answering")
    card = run_folder.record(folder, predictions, material, recipe)
    with clock.stage("explain"):
        answers = {p.example_id: p for p in predictions}
        chosen = run_folder.shown(material, recipe)
        if layout is not Layout.LABEL:
            explained = ask(recipe, student, chosen, task, layout, show,
                            f"{cell.id}: explaining", explain=True)  # fmt: skip
            answers |= {p.example_id: p for p in explained}
        run_folder.write_examples(folder, material, recipe, cell, answers)
    return card


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


def encode(student: "Student", lessons: Sequence[Lesson]) -> "list[Bundle]":
    """Encode lessons, each with a proof of its mask.

    Raises:
        EncodingError: a label or explanation that would not be supervised exactly.
    """
    from whytune.student.encode import audit

    return [audit(student.encoder, lesson) for lesson in lessons]


def _teach(
    recipe: Recipe, cell: run_folder.Cell, material: Material, student: "Student",
    bundles: "Sequence[Bundle]", folder: Path, show: Progress,
) -> "Trained":  # fmt: skip
    from whytune.student import train
    from whytune.student.predict import predict

    layout = material.lessons[cell.arm][0].layout
    watched = material.part(run_folder.watched_split(material))[: recipe.train.eval_limit]

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


def evaluate(folder: Path, corpus: str, show: Progress) -> Scorecard:
    """Measure a finished student anew on the test part of a corpus of its recipe.

    Raises:
        FolderError: no finished run there.
        RecipeError: its recipe has no such corpus.
        ModelError: the base model is not the one that the adapter was taught on.
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
    told = store.read_json(folder / "adapter" / "whytune.json")
    if told["base_digest"] != base.base.digest:
        raise ModelError(
            f"{folder}: its adapter was taught on other weights of {recipe.model}; get those, or "
            "run its study anew"
        )
    student = models.attach(base, folder / "adapter")
    answers = ask(recipe, student, material.part(Split.TEST), material.task,
                  Layout(facts["layout"]), show, f"{folder.name} on {corpus}")  # fmt: skip
    return run_folder.scorecard(answers, material, recipe)
