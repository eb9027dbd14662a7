"""The whole story on one page: a recipe's corpora become lessons, a student learns them, and
what it answers is measured.

`material.gather` reads and merges; `run` teaches and measures one cell of a study; `evaluate`
measures it elsewhere. What needs torch is imported where it is used, so that merging and
reporting work without it.
"""

import math
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whytune import cell_state, recipe_file, run_folder, store, taught
from whytune.errors import FolderError, MissingExtraError, ModelError, RecipeError
from whytune.material import Material, conversations, gather, together
from whytune.progress import Progress
from whytune.recipe import Recipe, dump
from whytune.recipe_student import Train
from whytune.records import (
    Example,
    Layout,
    Prediction,
    Scorecard,
    Split,
    Task,
)

if TYPE_CHECKING:
    from whytune.student.encode import Bundle
    from whytune.student.models import Student
    from whytune.student.train import Trained


SAMPLE = 24
"""Conversations on which a student is asked what it was taught; the corpus's order is drawn, so
the first ones are a sample.
"""


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
    recipe: Recipe, cell: run_folder.Cell, materials: Sequence[Material], folder: Path,
    show: Progress, begin: Callable[[], None] = lambda: None,
) -> dict[str, Scorecard]:  # fmt: skip
    """Teach and measure one student; goes on from its last checkpoint where there is one.

    Args:
        recipe: of the study.
        cell: which student.
        materials: one for each of its tasks, in their order.
        folder: where the run stands.
        show: how long it takes.
        begin: called before anything is written, once the model is loaded and the lessons are
            proved, so that what is wrong with the input leaves nothing behind.

    Returns:
        Task -> scorecard.

    Raises:
        WhytuneError: whatever stops it; the folder stays fit to go on from.
    """
    require_torch()
    require_trackers(recipe)
    from whytune.student import models

    clock = Clock()
    facts: dict[str, Any] = {
        "state": "started",
        "digest": run_folder.cell_digest(recipe, cell, materials),
        **run_folder.identity(cell, materials),
        **store.provenance(),
    }
    with clock.stage("load"):
        base = models.find(recipe.model, log=show.say)
        student = models.load(base, recipe.prompt, recipe.train)
    facts["model"] = {"name": base.name, "digest": student.base.digest}
    student = taught.prompted(student, recipe, cell.arm)
    bundles = taught.lessons(recipe, cell, materials, student)
    taught.check_asked(recipe, cell, materials, student)
    settings, matched = taught.settings(recipe, cell, materials, student, folder)
    labels = taught.head(recipe, cell.arm, [material.task for material in materials])
    student = models.adapt(student, recipe.train, cell.seed, labels)
    begin()
    store.write_text(folder / "recipe.yaml", dump(recipe))
    store.write_json(folder / cell_state.FINGERPRINTS, cell_state.fingerprints(cell, materials))
    store.write_json(folder / "run.json", facts)
    facts["adapter_init"] = models.fingerprint(student)
    with clock.stage("train"):
        trained = _teach(recipe, settings, cell, materials, student, bundles, folder, show)
    with clock.stage("review"):
        learned = _learned(materials, cell, student, bundles)
        effort = run_folder.training_facts(materials, student, bundles, trained)
    facts |= {**effort, "matched": matched, "learned": learned}
    models.save_adapter(student, folder / "adapter",
                        run_folder.adapter_facts(recipe, cell, materials, student))  # fmt: skip
    cards = _measure(recipe, cell, materials, student, folder, clock, show)
    store.write_jsonl(folder / "history.jsonl", trained.history)
    facts |= {"state": "finished", "seconds": clock.seconds, "peak_rss_mb": store.peak_rss_mb()}
    store.write_json(folder / "run.json", facts)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return cards


def _measure(
    recipe: Recipe, cell: run_folder.Cell, materials: Sequence[Material], student: "Student",
    folder: Path, clock: Clock, show: Progress,
) -> dict[str, Scorecard]:  # fmt: skip
    """Let the student answer about the test part, and explain the examples that are shown."""
    tasks, layout = [m.task for m in materials], run_folder.layout(cell, materials)
    student = taught.prompted(student, recipe, cell.arm, asked=True)
    test = together(materials, Split.TEST)
    with clock.stage("predict"):
        found = ask(recipe, student, test, tasks, layout, show, f"{cell.id}: answering")
        answers = referenced(found, materials)
    cards = run_folder.record(folder, answers, materials, recipe)
    with clock.stage("explain"):
        if layout is not Layout.LABEL:
            wanted = {e.id for m in materials for e in run_folder.shown(m, recipe)}
            chosen = [example for example in test if example.id in wanted]
            explained = ask(recipe, student, chosen, tasks, layout, show,
                            f"{cell.id}: explaining", explain=True)  # fmt: skip
            answers = {name: [*own, *explained[name]] for name, own in answers.items()}
        run_folder.write_examples(folder, materials, recipe, cell, answers)
    return cards


def referenced(
    answers: Mapping[str, Sequence[Prediction]], materials: Sequence[Material]
) -> dict[str, list[Prediction]]:
    """Of each task's answers, those that can be measured: all questions about an example are
    asked at once, also where only some of them have a reference.
    """
    return {
        m.task.name: [p for p in answers[m.task.name] if p.example_id in m.references]
        for m in materials
    }


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


def require_trackers(recipe: Recipe) -> None:
    """Say how to get what `train.report_to` names, where it is missing.

    Raises:
        MissingExtraError: the package of a tracker, or torch, is not installed.
    """
    if recipe.train.report_to:
        require_torch()
        from whytune.student import tracking

        tracking.check(recipe.train.report_to)


def _teach(
    recipe: Recipe, settings: Train, cell: run_folder.Cell, materials: Sequence[Material], student: "Student",
    bundles: "Sequence[Bundle]", folder: Path, show: Progress,
) -> "Trained":  # fmt: skip
    from whytune.student import models, train
    from whytune.student.predict import predict
    from whytune.student.tracking import Tracked

    tasks, layout = [m.task for m in materials], run_folder.layout(cell, materials)
    watched = together(materials, run_folder.watched_split(materials))[: recipe.train.eval_limit]

    def measure() -> dict[str, float]:
        found = predict(student, watched, tasks, layout,
                        batch_size=recipe.predict.per_device_eval_batch_size,
                        max_new_tokens=recipe.predict.max_new_tokens)  # fmt: skip
        answers = referenced(found, materials)
        return {m.task.name: _label_nll(answers[m.task.name], m)
                for m in materials if answers[m.task.name]}  # fmt: skip

    def keep(step: int) -> None:
        if recipe.train.keep_adapters:
            models.save_adapter(student, run_folder.moment_folder(folder, step),
                                run_folder.adapter_facts(recipe, cell, materials, student))  # fmt: skip

    with show.work(f"{cell.id}: teaching", train.schedule(len(bundles), settings)) as advance:
        done = 0

        def advance_to(step: int, loss: float) -> None:
            nonlocal done
            advance(step - done, f"loss {loss:.3f}")
            done = step

        return train.train(
            student, bundles, settings, seed=cell.seed, folder=folder / "checkpoints",
            measure=measure, keep=keep, advance=advance_to,
            track=Tracked(project=recipe.name, run=cell.id, folder=folder / "trackers",
                          settings=cell_state.settings(recipe, cell, settings)),
        )  # fmt: skip


def _learned(
    materials: Sequence[Material], cell: run_folder.Cell, student: "Student",
    bundles: "Sequence[Bundle]",
) -> dict[str, dict[str, float]]:  # fmt: skip
    """How well a student knows its own lessons: task -> mean label loss (nats) on a sample of
    them, with the loss of who only knows how often each label is taught (nats) beside it.
    """
    from whytune.student.objective import label_nlls

    losses: dict[str, list[float]] = {}
    about = conversations(materials, cell.arm, cell.seed)
    for bundle, lessons in list(zip(bundles, about, strict=True))[:SAMPLE]:
        for lesson, loss in zip(lessons, label_nlls(student, bundle), strict=True):
            losses.setdefault(lesson.task.name, []).append(loss)
    entropies = {m.task.name: _entropy([one.label for one in m.told])
                 for m in materials}  # fmt: skip
    return {
        task: {"label_nll": statistics.fmean(own), "by_frequencies": entropies[task], "n": len(own)}
        for task, own in losses.items()
    }


def _entropy(labels: Sequence[str]) -> float:
    shares = [count / len(labels) for count in Counter(labels).values()]
    return -sum(share * math.log(share) for share in shares)


def _label_nll(answers: Sequence[Prediction], material: Material) -> float:
    """Mean negative log-probability of the reference labels (nats), over the readable answers."""
    losses = [-p.log_probs[material.references[p.example_id].label]
              for p in answers if p.log_probs]  # fmt: skip
    return statistics.fmean(losses) if losses else float("nan")


def ask(
    recipe: Recipe, student: "Student", examples: Sequence[Example], tasks: Sequence[Task],
    layout: Layout, show: Progress, title: str, explain: bool = False,
) -> dict[str, list[Prediction]]:  # fmt: skip
    """Let a student answer all its tasks, with progress.

    Returns:
        Task -> predictions, in the examples' order.
    """
    from whytune.student.predict import predict

    with show.work(title, len(examples)) as advance:
        return predict(
            student, examples, tasks, layout,
            batch_size=recipe.predict.per_device_eval_batch_size,
            max_new_tokens=recipe.predict.max_new_tokens, samples=recipe.predict.samples,
            temperature=recipe.predict.temperature, explain=explain, advance=advance,
        )  # fmt: skip


def evaluate(folder: Path, corpus: str, show: Progress) -> dict[str, Scorecard]:
    """Measure a finished student anew on the test part of a corpus of its recipe.

    Returns:
        Task -> scorecard, of the student's tasks that the corpus has answers to.

    Raises:
        FolderError: no finished run there.
        RecipeError: its recipe has no such corpus, or one about other tasks.
        ModelError: the base model is not the one that the adapter was taught on.
    """
    facts = store.read_json(folder / "run.json")
    if facts.get("state") != "finished":
        raise FolderError(f"{folder}: its training is not finished; run its study again first")
    recipe = recipe_file.load(folder / "recipe.yaml")
    own = facts.get("tasks") or [facts["task"]]  # 0.1.0 wrote the name alone
    tasks = [task for task in recipe.resolved_tasks() if task.name in own]
    materials = _materials_on(recipe, corpus, tasks)
    require_torch()
    from whytune.student import models

    base = models.load(models.find(recipe.model, log=show.say), recipe.prompt, recipe.train)
    told = store.read_json(folder / "adapter" / "whytune.json")
    if told["base_digest"] != base.base.digest:
        raise ModelError(
            f"{folder}: its adapter was taught on other weights of {recipe.model}; get those, or "
            "run its study anew"
        )
    student = models.attach(base, folder / "adapter")
    # All tasks are asked, as in its own study: a prompt that is cut is cut by the longest question.
    student = taught.prompted(student, recipe, facts["arm"], asked=True)
    found = ask(recipe, student, together(materials, Split.TEST), tasks, Layout(facts["layout"]),
                show, f"{folder.name} on {corpus}")  # fmt: skip
    answers = referenced(found, materials)
    return {m.task.name: run_folder.scorecard(answers[m.task.name], m, recipe) for m in materials}


def _materials_on(recipe: Recipe, corpus: str, tasks: Sequence[Task]) -> list[Material]:
    if corpus not in recipe.corpora:
        raise RecipeError(
            f"--on {corpus}: not in the run's recipe; found {', '.join(recipe.corpora)}"
        )
    # Measuring teaches nothing, so reasons may be missing.
    gathered = gather(recipe, stand_in=True)
    materials = [gathered[corpus, t.name] for t in tasks if (corpus, t.name) in gathered]
    if not materials:
        raise RecipeError(
            f"--on {corpus}: has no answers to what the run was taught "
            f"({', '.join(task.name for task in tasks)}); give a corpus that has"
        )
    return materials
