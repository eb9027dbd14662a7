"""What each arm takes to teach and to measure, before anything runs: counted where it can be, timed
on a few conversations where it cannot.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whytune import pipeline, run_folder, taught
from whytune.material import Material, gather, together
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Layout, Split
from whytune.run_folder import Cell
from whytune.study import grid
from whytune.study.findings import Load

if TYPE_CHECKING:
    from whytune.student.encode import Bundle
    from whytune.student.models import Student

MOST_TIMED = 4
"""Conversations at most on which answering is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a recipe's students take."""

    loads: tuple[Load, ...]
    """One for each student of one seed."""
    seeds: int
    unwritten: int
    """Reasons that the generator has yet to write; they count as long as they may be."""

    @property
    def seconds(self) -> float:
        """All students of all seeds."""
        return self.seeds * sum(load.seconds + load.measuring for load in self.loads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a student of a corpus is, alike for all arms."""

    seconds: float
    """A token forward and back."""
    flops: float
    """Floating point operations of the same."""
    answering: Mapping[tuple[Layout, int], float]
    """(layout, samples) -> seconds an answered example."""


def costs(recipe: Recipe, show: Progress) -> Costs:
    """What every arm of a recipe takes, with one student made for all and thrown away.

    Raises:
        WhytuneError: the data or the model cannot be had, or an arm cannot be taught.
    """
    materials = gather(recipe, stand_in=True)
    pipeline.require_torch()
    from whytune.student import models

    base = models.load(models.find(recipe.model, log=show.say), recipe.prompt, recipe.train)
    student = models.adapt(base, recipe.train, recipe.seeds[0])
    loads: list[Load] = []
    for corpus, tasks in grid.taught_together(recipe, materials):
        show.say(f"{corpus}, {'+'.join(tasks)}: timing a few conversations")
        own = [materials[corpus, task] for task in tasks]
        loads += load(recipe, own, student)
    return Costs(
        loads=tuple(loads), seeds=len(recipe.seeds),
        unwritten=sum(m.unwritten for m in materials.values()),
    )  # fmt: skip


def load(recipe: Recipe, materials: Sequence[Material], student: "Student") -> list[Load]:
    """What the students of one corpus take, an arm each.

    Args:
        recipe: has the arms and settings.
        materials: of the corpus, one for each of the students' tasks.
        student: with an adapter; it is not changed.

    Raises:
        EncodingError: a lesson that cannot be supervised exactly.
    """
    cells = [
        Cell(corpus=materials[0].corpus.name, tasks=tuple(m.task.name for m in materials), arm=arm,
             seed=recipe.seeds[0]) for arm in recipe.arms
    ]  # fmt: skip
    longest = max(
        (taught.lessons(recipe, cell, materials, student) for cell in cells),
        key=lambda bundles: sum(map(len, bundles)),
    )
    pace = _pace(recipe, materials, longest, student)
    return [_load(recipe, cell, materials, student, pace) for cell in cells]


def _load(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], student: "Student", pace: Pace
) -> Load:
    from whytune.student import effort, train

    bundles = taught.lessons(recipe, cell, materials, student)
    passes = taught.passes(recipe, cell, materials, student)
    settings = recipe.train.model_copy(update={"num_train_epochs": passes})
    updates, per_epoch = train.schedule(len(bundles), settings), sum(map(len, bundles))
    return Load(
        arm=cell.arm, task=cell.task,
        lessons=sum(len(bundle.branches) for bundle in bundles), conversations=len(bundles),
        tokens_per_epoch=per_epoch, longest=max(map(len, bundles)),
        cut=sum(bundle.cut > 0 for bundle in bundles), supervised=effort.supervised(bundles),
        passes=passes, updates=updates, flops=round(pace.flops * per_epoch * passes),
        seconds=pace.seconds * per_epoch * passes,
        measuring=_measuring(recipe, cell, materials, pace, updates, len(bundles)),
    )  # fmt: skip


def _measuring(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], pace: Pace, updates: int,
    conversations: int,
) -> float:  # fmt: skip
    """Seconds of answering, on the curve and at the end."""
    layout = run_folder.layout(cell, materials)
    curve = together(materials, run_folder.watched_split(materials))[: recipe.train.eval_limit]
    size = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps
    every = recipe.train.eval_steps or max(1, round(conversations / size))
    return (
        math.ceil(updates / every) * len(curve) * pace.answering[layout, 1]
        + len(together(materials, Split.TEST)) * pace.answering[layout, recipe.predict.samples]
    )


def _pace(
    recipe: Recipe, materials: Sequence[Material], bundles: "Sequence[Bundle]", student: "Student"
) -> Pace:
    from whytune.student import effort
    from whytune.student.objective import token_nll

    sample = sorted(bundles, key=len)[len(bundles) // 2 :]
    sample = sample[: recipe.train.per_device_train_batch_size]
    student.model.train()
    token_nll(student, [min(bundles, key=len)]).mean().backward()  # the first pass is slow
    started = time.perf_counter()
    token_nll(student, sample).mean().backward()
    seconds = time.perf_counter() - started
    student.model.zero_grad()
    return Pace(
        seconds=seconds / sum(map(len, sample)),
        flops=effort.flops(student, bundles) / sum(map(len, bundles)),
        answering={
            (layout, samples): _answering(recipe, materials, student, layout, samples)
            for layout in {arm.answers_in for arm in recipe.arms.values()}
            for samples in {1, recipe.predict.samples}
        },
    )


def _answering(
    recipe: Recipe, materials: Sequence[Material], student: "Student", layout: Layout, samples: int
) -> float:
    """Seconds an example. A student that explains first writes as much as it may: it has not
    learned yet to stop.
    """
    from whytune.student.predict import predict

    sample = together(materials, Split.TEST)[:MOST_TIMED]
    started = time.perf_counter()
    predict(
        student, sample, [m.task for m in materials], layout, batch_size=len(sample),
        max_new_tokens=recipe.predict.max_new_tokens, samples=samples,
        temperature=recipe.predict.temperature,
    )  # fmt: skip
    return (time.perf_counter() - started) / len(sample)
