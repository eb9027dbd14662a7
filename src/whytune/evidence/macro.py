"""Means of the figures over several tasks about the same groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whytune.evidence.intervals import estimate, resample
from whytune.evidence.metrics import metrics_of
from whytune.evidence.table import Floats, Table, table_of
from whytune.records import Estimate, Prediction, Reference, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers to one task and what they are measured against, as in `metrics.scorecard`."""

    task: Task
    predictions: Sequence[Prediction]
    references: Mapping[str, Reference]
    groups: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverTasks:
    """A figure's mean over tasks."""

    mean: Estimate
    tasks: tuple[str, ...]
    """Those over which the mean is taken: where the figure is defined."""


def over_tasks(answered: Sequence[Answers], *, draws: int, seed: int) -> dict[str, OverTasks]:
    """The mean of every figure over the tasks that define it, each task with equal weight.

    Intervals: 95 % percentile bootstrap over groups. A group that several tasks ask about (by its
    name) is drawn for all of them at once, because its answers to one task tell of those to
    another. A draw in which one of the tasks does not define the figure is left out. The tasks
    are these tasks, not a sample of tasks.

    Raises:
        EvidenceError: see `table.table_of`.
    """
    tables = [table_of(a.predictions, a.references, a.groups, a.task) for a in answered]
    # A table's groups stand in the order of their names, and so do all of them.
    names = [sorted({a.groups[p.example_id] for p in a.predictions}) for a in answered]
    every = {name: index for index, name in enumerate(sorted({n for own in names for n in own}))}
    counts = resample(len(every), draws, seed)
    parts = [
        _Part(own.task, table, counts[:, [every[name] for name in groups]], frozenset(groups))
        for own, table, groups in zip(answered, tables, names, strict=True)
    ]
    metrics = dict.fromkeys(name for own in answered for name in metrics_of(own.task))
    return {metric: _mean(metric, parts) for metric in metrics}


@dataclass(frozen=True, slots=True)
class _Part:
    """One task: its table, and all draws as far as they are of its groups."""

    task: Task
    table: Table
    counts: Floats
    groups: frozenset[str]

    def value(self, metric: str) -> float:
        figure = metrics_of(self.task).get(metric)
        whole = np.ones((1, self.table.groups))
        return np.nan if figure is None else float(figure(self.table, whole)[0])


def _mean(metric: str, parts: Sequence[_Part]) -> OverTasks:
    values = [part.value(metric) for part in parts]
    kept = [part for part, value in zip(parts, values, strict=True) if not np.isnan(value)]
    if not kept:
        return OverTasks(mean=Estimate(value=np.nan, low=np.nan, high=np.nan), tasks=())
    drawn = [metrics_of(part.task)[metric](part.table, part.counts) for part in kept]
    groups = frozenset[str]().union(*(part.groups for part in kept))
    mean = estimate(float(np.nanmean(values)), np.mean(drawn, axis=0), len(groups))
    return OverTasks(mean=mean, tasks=tuple(part.task.name for part in kept))
