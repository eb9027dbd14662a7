"""Ways to make one label of many votes."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from whytune.errors import TeachingError
from whytune.records import Annotation, Kind, Outcome, Task
from whytune.teaching import latent
from whytune.teaching.ratings import (
    Floats,
    Ratings,
    mean_score,
    most_frequent,
    own_scores,
    plurality,
    tabulate,
)


class Method(StrEnum):
    """How many votes become one label."""

    AVERAGE = "average"
    """Ordinal: the mean score and the label nearest to it."""
    MEDIAN = "median"
    """Ordinal: the median score (of an even number, the mean of the middle two) and the label
    nearest to it."""
    MOST_FREQUENT = "most-frequent"
    """The label with the most votes, and its value. Of ordinal labels that tie, the one nearest to
    the mean, then the one nearer the middle of the scale, then the lower; nominal labels that tie
    give none."""
    SEVERITY = "severity"
    """Ordinal: each rater's severity and spread taken out, then the mean weighted by reliability
    (`latent.severity`)."""
    DAWID_SKENE = "dawid-skene"
    """Nominal: the most probable label where every rater has their own confusions
    (`latent.dawid_skene`); the probabilities are the shares."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a method says about one example."""

    score: float | None
    """On [0, 1]; None for a nominal task and without a vote."""
    label: str | None
    """None without a vote, and where nominal labels tie."""
    shares: Mapping[str, float] | None = None
    """None: those of the votes."""


def fitting(task: Task) -> tuple[Method, ...]:
    """The methods for this kind of task."""
    if task.kind is Kind.NOMINAL:
        return Method.MOST_FREQUENT, Method.DAWID_SKENE
    return Method.AVERAGE, Method.MEDIAN, Method.MOST_FREQUENT, Method.SEVERITY


def default(task: Task) -> Method:
    """The mean of an ordinal task, the most frequent label of a nominal one."""
    return Method.AVERAGE if task.kind is Kind.ORDINAL else Method.MOST_FREQUENT


def of_recipe(
    merge: Literal["average", "median", "most-frequent", "reliability", "merger"], task: Task
) -> Method:
    """The method that a recipe's `merge` means for this kind of task.

    `merger` is the default one: that is what the votes say until the merging model has spoken.
    """
    nominal = task.kind is Kind.NOMINAL
    if merge == "reliability":
        return Method.DAWID_SKENE if nominal else Method.SEVERITY
    if merge == "most-frequent":
        return Method.MOST_FREQUENT
    if merge == "median" and not nominal:
        return Method.MEDIAN
    return default(task)


def grouped(annotations: Iterable[Annotation], task: Task) -> dict[str, list[Annotation]]:
    """Example id -> its annotations of this task, in order of appearance."""
    by_example: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.task == task.name:
            by_example[annotation.example_id].append(annotation)
    return by_example


def decide(
    groups: Mapping[str, Sequence[Annotation]], task: Task, method: Method
) -> dict[str, Decision]:
    """What a method makes of the votes.

    Args:
        groups: example id -> annotations of the task, unreadable ones included.
        task: whose.
        method: how. A rater is a teacher with one prompt.

    Returns:
        Example id -> decision; an example without a vote may be absent.

    Raises:
        TeachingError: the method is not for this kind of task.
    """
    if method not in fitting(task):
        raise TeachingError(
            f"task {task.name}: found merge method {method} for {task.kind} labels, expected "
            f"{', '.join(fitting(task))}; change the method, or the kind of the task"
        )
    if method in _OF_VOTES:
        return {example: _OF_VOTES[method](read(own), task) for example, own in groups.items()}
    # By name, so that the order of the replies cannot change a sum by its last digit.
    ratings = tabulate([a for example in sorted(groups) for a in groups[example]], task)
    if not ratings.examples:
        return {}
    rule = _severity if method is Method.SEVERITY else _dawid_skene
    return dict(zip(ratings.examples, rule(ratings), strict=True))


def _average(votes: Sequence[Annotation], task: Task) -> Decision:
    return _scored(mean_score(votes, task), task)


def _median(votes: Sequence[Annotation], task: Task) -> Decision:
    return _scored(statistics.median(own_scores(votes, task)) if votes else None, task)


def _most_frequent(votes: Sequence[Annotation], task: Task) -> Decision:
    mean = mean_score(votes, task)
    if mean is None:
        return Decision(None, plurality(votes))
    winners = {label: task.values[task.label_names.index(label)] for label in most_frequent(votes)}
    label = min(
        winners,
        key=lambda name: (
            round(abs(winners[name] - mean), 9),
            abs(winners[name] - 0.5),
            winners[name],
        ),
    )
    return Decision(winners[label], label)


_OF_VOTES: Mapping[Method, Callable[[Sequence[Annotation], Task], Decision]] = {
    Method.AVERAGE: _average,
    Method.MEDIAN: _median,
    Method.MOST_FREQUENT: _most_frequent,
}


def _severity(ratings: Ratings) -> list[Decision]:
    found = latent.severity(ratings.scores).scores
    return [_scored(float(score), ratings.task) for score in found]


def _dawid_skene(ratings: Ratings) -> list[Decision]:
    names = ratings.task.label_names
    votes = (ratings.codes[..., None] == np.arange(len(names))).astype(np.float64)
    return [_probable(row, names) for row in latent.dawid_skene(votes).posterior]


def _probable(posterior: Floats, names: Sequence[str]) -> Decision:
    top = [name for name, p in zip(names, posterior, strict=True) if posterior.max() - p < 1e-9]
    shares = {name: float(p) for name, p in zip(names, posterior, strict=True) if p > 0}
    return Decision(None, top[0] if len(top) == 1 else None, shares)


def _scored(score: float | None, task: Task) -> Decision:
    return Decision(score, None if score is None else task.nearest(score))


def read(annotations: Sequence[Annotation]) -> list[Annotation]:
    """The readable ones: the votes."""
    return [annotation for annotation in annotations if annotation.outcome is Outcome.READ]
