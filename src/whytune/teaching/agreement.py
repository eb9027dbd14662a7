"""How far the teachers agree: in pairs, and beyond chance."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from whytune.records import Annotation, Kind, Outcome, Task
from whytune.teaching.ratings import Floats, tabulate


def pair_agreement(scores: Sequence[float]) -> float | None:
    """Mean of 1 - |difference| over all pairs of scores on [0, 1]; None with fewer than two."""
    if len(scores) < 2:
        return None
    ordered = sorted(scores)
    last = len(ordered) - 1
    # The i-th smallest of n scores is subtracted n-1-i times and added i times.
    total = math.fsum((2 * index - last) * score for index, score in enumerate(ordered))
    return min(max(1 - total / _pairs(len(ordered)), 0.0), 1.0)


def equal_pairs(labels: Sequence[str]) -> float | None:
    """Share of the pairs of votes with the same label, 0 to 1; None with fewer than two."""
    if len(labels) < 2:
        return None
    return sum(_pairs(count) for count in Counter(labels).values()) / _pairs(len(labels))


def krippendorff_alpha(ratings: Floats, kind: Kind, *, ranks: bool = False) -> float:
    """Krippendorff's alpha of reliability: 1 - D_o / D_e.

    With n pairable values, m_u of them in unit u, and the difference d of two values
    (interval: (a - b)^2, nominal: 1 where a and b differ, ordinal: the squared difference of
    their mid-ranks among the n values, which is (n_a / 2 + values between + n_b / 2)^2),

        D_o = 1/n  sum over u of  1/(m_u - 1)  sum over ordered pairs within u of d
        D_e = 1/(n (n - 1))                    sum over all ordered pairs of d

    Units with fewer than two values are not pairable and left out. 1 is perfect agreement, 0
    what chance gives, below 0 systematic disagreement. Source: K. Krippendorff, Computing
    Krippendorff's Alpha-Reliability (2011), https://repository.upenn.edu/asc_papers/43.

    Args:
        ratings: units x raters, NaN where a rater did not answer. Numbers for an ordinal task
            (compared as intervals), codes of the labels for a nominal one.
        kind: which difference to use.
        ranks: compare the numbers of an ordinal task by their ranks (the ordinal difference)
            instead of as intervals; says nothing about a nominal task.

    Returns:
        Alpha, at most 1; NaN where it is not defined: fewer than two pairable values, or no
        two that differ.
    """
    difference = Difference.of(kind, ranks=ranks)
    return Units(ratings, difference).alpha(np.ones(len(ratings)))


class Difference(StrEnum):
    """How the difference of two values counts in Krippendorff's alpha."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"

    @classmethod
    def of(cls, kind: Kind, *, ranks: bool = False) -> "Difference":
        """That of the labels of a task."""
        if kind is Kind.NOMINAL:
            return cls.NOMINAL
        return cls.ORDINAL if ranks else cls.INTERVAL


class Units:
    """Values by unit, so that alpha of any number of copies of each is quickly told.

    Args:
        ratings: units x raters, NaN where a rater did not answer.
        difference: how two values differ.
    """

    def __init__(self, ratings: Floats, difference: Difference) -> None:
        units = np.asarray(ratings, dtype=np.float64)
        self._pairable = (~np.isnan(units)).sum(axis=1) > 1
        units = units[self._pairable]
        self._given = ~np.isnan(units)
        self._size = self._given.sum(axis=1)
        self._values, self._places = np.unique(units[self._given], return_inverse=True)
        # How often each value occurs in each unit.
        self._counts = csr_array((
            np.ones(len(self._places)),
            (np.repeat(np.arange(len(units)), self._size), self._places),
        ), shape=(len(units), len(self._values)))  # fmt: skip
        self._difference = difference
        self._apart = None if difference is Difference.ORDINAL else self._within(self._values)

    def alpha(self, copies: Floats) -> float:
        """Alpha where each unit occurs so many times; NaN where it is not defined.

        Args:
            copies: of each unit, 0 or more.
        """
        copies = copies[self._pairable]
        counts = np.asarray(self._counts.T @ copies, dtype=np.float64)
        if (counts > 0).sum() < 2:
            return math.nan
        total = float(counts.sum())
        values, apart = self._values, self._apart
        if apart is None:
            values = np.cumsum(counts) - counts / 2
            apart = self._within(values)
        if self._difference is Difference.NOMINAL:
            expected = total**2 - float(np.square(counts).sum())
        else:
            centre = float((counts * values).sum()) / total
            expected = 2 * total * float((counts * np.square(values - centre)).sum())
        return 1 - float((copies * apart).sum()) * (total - 1) / expected

    def _within(self, values: Floats) -> Floats:
        """Of each unit, the sum of differences over all ordered pairs of its values by (size - 1)."""
        units = np.zeros(self._given.shape)
        units[self._given] = values[self._places]
        if self._difference is Difference.NOMINAL:
            units[~self._given] = np.nan
            equal = sum(np.square((units == value).sum(axis=1)) for value in values)
            return np.asarray((np.square(self._size) - equal) / (self._size - 1))
        centre = units.sum(axis=1, keepdims=True) / self._size[:, None]
        squares = np.where(self._given, np.square(units - centre), 0.0).sum(axis=1)
        return np.asarray(2 * self._size * squares / (self._size - 1))


def summary(annotations: Sequence[Annotation], task: Task) -> dict[str, Any]:
    """Figures on the annotations of one task.

    Returns:
        `examples`, `teachers` (names), `replies`, `votes` (readable replies), `unread` (outcome
        -> count, only outcomes that occur), `alpha` (raters are teacher x prompt; NaN where not
        defined), `pair_agreement` (mean over the examples with two votes or more, 0 to 1; None
        without any).
    """
    own = [annotation for annotation in annotations if annotation.task == task.name]
    votes = [annotation for annotation in own if annotation.outcome is Outcome.READ]
    pairs = [agreed for agreed in _per_example(votes, task) if agreed is not None]
    return {
        "examples": len({annotation.example_id for annotation in own}),
        "teachers": sorted({annotation.teacher for annotation in own}),
        "replies": len(own),
        "votes": len(votes),
        "unread": _unread(own),
        "alpha": krippendorff_alpha(tabulate(votes, task).numbers, task.kind),
        "pair_agreement": math.fsum(pairs) / len(pairs) if pairs else None,
    }


def of_votes(votes: Sequence[Annotation], task: Task) -> float | None:
    """Pair agreement of the readable annotations of one example, by the kind of the task."""
    if task.kind is Kind.NOMINAL:
        return equal_pairs([vote.label for vote in votes if vote.label is not None])
    return pair_agreement([vote.score for vote in votes if vote.score is not None])


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _per_example(votes: Sequence[Annotation], task: Task) -> list[float | None]:
    by_example: dict[str, list[Annotation]] = defaultdict(list)
    for vote in votes:
        by_example[vote.example_id].append(vote)
    return [of_votes(group, task) for group in by_example.values()]


def _unread(annotations: Sequence[Annotation]) -> dict[str, int]:
    counts = Counter(str(a.outcome) for a in annotations if a.outcome is not Outcome.READ)
    return dict(sorted(counts.items()))
