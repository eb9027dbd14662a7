"""How far the teachers agree: in pairs, and beyond chance."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

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
    units = np.asarray(ratings, dtype=np.float64)
    units = units[(~np.isnan(units)).sum(axis=1) > 1]
    given = ~np.isnan(units)
    values = units[given]
    if np.unique(values).size < 2:
        return math.nan
    if ranks and kind is Kind.ORDINAL:
        values = rankdata(values)
        units[given] = values
    difference = _nominal if kind is Kind.NOMINAL else _interval
    observed = float((difference(units) / (given.sum(axis=1) - 1)).sum()) / values.size
    expected = float(difference(values[None])[0]) / (values.size * (values.size - 1))
    return float(1 - observed / expected)


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


def _interval(units: Floats) -> Floats:
    """Sum of squared differences over all ordered pairs of each row, without forming the pairs."""
    size = (~np.isnan(units)).sum(axis=1)
    centre = np.nanmean(units, axis=1, keepdims=True)
    return np.asarray(2 * size * np.nansum(np.square(units - centre), axis=1))


def _nominal(units: Floats) -> Floats:
    """Ordered pairs of values that differ, of each row."""
    size = (~np.isnan(units)).sum(axis=1)
    equal = sum(
        np.square((units == code).sum(axis=1)) for code in np.unique(units[~np.isnan(units)])
    )
    return np.asarray(np.square(size) - equal, dtype=np.float64)


def _per_example(votes: Sequence[Annotation], task: Task) -> list[float | None]:
    by_example: dict[str, list[Annotation]] = defaultdict(list)
    for vote in votes:
        by_example[vote.example_id].append(vote)
    return [of_votes(group, task) for group in by_example.values()]


def _unread(annotations: Sequence[Annotation]) -> dict[str, int]:
    counts = Counter(str(a.outcome) for a in annotations if a.outcome is not Outcome.READ)
    return dict(sorted(counts.items()))
