"""What each arm takes to teach and to measure, before anything runs: counted where it can be, timed
on a few conversations where it cannot.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    for corpus, tasks in grid.taught_together(recipe, grid.teaching(materials)):
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
    from whytune.student import effort, train

    made: dict[str, Load] = {}
    longest: list[Bundle] = []
    for arm in recipe.arms:
        cell = Cell(corpus=materials[0].corpus.name, seed=recipe.seeds[0], arm=arm,
                    tasks=tuple(material.task.name for material in materials))  # fmt: skip
        bundles = taught.lessons(recipe, cell, materials, student)
        taught.check_asked(recipe, cell, materials, student)
        longest = max(longest, bundles, key=lambda own: sum(map(len, own)))
        made[arm] = Load(
            corpus=cell.corpus, arm=arm, task=cell.task, lessons=sum(len(bundle.branches) for bundle in bundles),
            conversations=len(bundles), tokens_per_epoch=sum(map(len, bundles)),
            longest=max(map(len, bundles)), cut=sum(bundle.cut > 0 for bundle in bundles),
            supervised=effort.supervised(bundles), passes=0, updates=0, flops=0, seconds=0,
            measuring=0,
            memory=effort.memory(student, bundles, recipe.train.per_device_train_batch_size),
        )  # fmt: skip
    pace = _pace(recipe, materials, longest, student)

    def finished(load: Load) -> Load:
        passes = taught.passes(recipe, load.arm, lambda arm: sum(made[arm].supervised.values()))
        tokens = load.tokens_per_epoch * passes
        settings = recipe.train.model_copy(update={"num_train_epochs": passes})
        load = replace(load, passes=passes, updates=train.schedule(load.conversations, settings),
                       flops=round(pace.flops * tokens), seconds=pace.seconds * tokens)  # fmt: skip
        return replace(load, measuring=_measuring(recipe, materials, load, pace))

    return [finished(load) for load in made.values()]


def _measuring(recipe: Recipe, materials: Sequence[Material], load: Load, pace: Pace) -> float:
    """Seconds of answering, on the curve and at the end, and of measuring the gradient."""
    from whytune.student import train

    layout = recipe.arms[load.arm].answers_in
    curve = together(materials, run_folder.watched_split(materials))[: recipe.train.eval_limit]
    size = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps
    every = recipe.train.eval_steps or max(1, round(load.conversations / size))
    times = math.ceil(load.updates / every)
    sample = min(train.SAMPLE, load.conversations) / load.conversations
    return (
        times * len(curve) * pace.answering[layout, 1]
        + len(together(materials, Split.TEST)) * pace.answering[layout, recipe.predict.samples]
        + (times + 1) * sample * load.tokens_per_epoch * pace.seconds
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
