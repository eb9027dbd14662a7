"""Figures of ordinal tasks: how far the answers are from the reference, and whether they rank alike.

The expected score is Σ p·value over the labels, and the reference's score may lie between labels
(a mean of raters); both are on [0, 1]. What speaks of labels or steps says so.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from whytune.evidence import sums
from whytune.evidence.sums import Levels
from whytune.evidence.table import Floats, Ints, Table


def mae(table: Table, counts: Floats) -> Floats:
    """Mean absolute error of the expected score.

    Formula: mean of |expected - reference score|. Unit: the scale [0, 1], lower is better.
    """
    return sums.mean(table, np.abs(table.expected - table.score), counts)


def mae_steps(table: Table, counts: Floats) -> Floats:
    """Mean absolute error of the expected score in label steps.

    Formula: (K - 1) · mae for K labels. Unit: steps from one label to the next, 0 to K - 1,
    lower is better.
    """
    return mae(table, counts) * (table.labels - 1)


def mse(table: Table, counts: Floats) -> Floats:
    """Mean squared error of the expected score.

    Formula: mean of (expected - reference score)². Unit: the scale [0, 1] squared, lower is
    better.
    """
    return sums.mean(table, (table.expected - table.score) ** 2, counts)


def rmse(table: Table, counts: Floats) -> Floats:
    """Root of the mean squared error of the expected score.

    Formula: √mse. Unit: the scale [0, 1], lower is better.
    """
    return np.sqrt(mse(table, counts))


def bias(table: Table, counts: Floats) -> Floats:
    """Whether the expected score is too high or too low on average.

    Formula: mean of (expected - reference score). Unit: the scale, -1 to 1; 0 is best, above 0
    the answers are too high.
    """
    return sums.mean(table, table.expected - table.score, counts)


def within_one(table: Table, counts: Floats) -> Floats:
    """Share of predicted labels at most one step from the reference's label.

    Formula: mean of [|i - j| ≤ 1] over label indices i, j. Range 0 to 1, higher is better; always
    1 for two labels.

    >>> from whytune.evidence.table import of_arrays
    >>> far, near, hit = [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]
    >>> within_one(of_arrays([0, 0, 0, 0], [far, near, hit, hit]), np.ones((1, 4)))
    array([0.75])
    """
    near = np.abs(table.predicted - table.reference) <= 1
    return sums.mean(table, near.astype(np.float64), counts)


def rps(table: Table, counts: Floats) -> Floats:
    """Ranked probability score: the Brier score of "at most this label", over all labels.

    Formula: mean over examples of 1 / (K - 1) · Σ_{k<K} (P(label ≤ k) - [reference ≤ k])², with
    the probabilities among the K labels. Range 0 to 1, lower is better; with two labels half the
    Brier score. Source: Epstein 1969, in the squared form of Murphy 1971, divided by K - 1.

    >>> from whytune.evidence.table import of_arrays
    >>> float(rps(of_arrays([2], [[0.5, 0.25, 0.25]]), np.ones((1, 1)))[0])  # (0.5² + 0.75²) / 2
    0.40625
    """
    at_most = np.cumsum(table.probs, axis=1)[:, :-1]
    truth = table.reference[:, None] <= np.arange(table.labels - 1)
    return sums.mean(table, ((at_most - truth) ** 2).mean(axis=1), counts)


def qwk(table: Table, counts: Floats) -> Floats:
    """Quadratic weighted kappa of the labels (Cohen 1968).

    Formula: 1 - Σ (i-j)²·O_ij / Σ (i-j)²·E_ij over label indices i, j; O the confusion, E what
    its margins give by chance. Range -1 to 1, 0 is chance, higher is better. Not defined where
    references and predictions are all one and the same label.
    """
    cells = sums.confusion(table, counts)
    index = np.arange(table.labels, dtype=np.float64)
    weights = (index[:, None] - index) ** 2
    seen = (cells * weights).sum(axis=(1, 2))
    chance = np.einsum("di,dj,ij->d", cells.sum(axis=2), cells.sum(axis=1), weights)
    return 1 - sums.ratio(seen * cells.sum(axis=(1, 2)), chance)


def spearman(table: Table, counts: Floats) -> Floats:
    """Rank correlation of the expected score with the reference's score (Spearman 1904).

    Formula: Pearson's correlation of the ranks; ties share their mean rank. Range -1 to 1,
    higher is better. Not defined where either side is constant.
    """
    levels = _levels(table)
    if levels is None:
        return np.full(len(counts), np.nan)
    given, truth = levels

    def figure(rows: Floats) -> Floats:
        ranks, squares = zip(_ranks(given, rows), _ranks(truth, rows), strict=True)
        above = np.einsum("rd,rd,rd->d", rows, ranks[0][given.place], ranks[1][truth.place])
        return sums.ratio(above, np.sqrt(squares[0] * squares[1]))

    return sums.piecewise(table, counts, figure)


def kendall(table: Table, counts: Floats) -> Floats:
    """Kendall's tau-b of the expected score with the reference's score (Kendall 1945).

    Formula: (C - D) / √((n₀ - n₁)(n₀ - n₂)); C and D pairs of examples ranked alike and the other
    way round, n₀ all pairs, n₁ and n₂ those that tie on either side. Range -1 to 1, higher is
    better. Not defined where either side is constant.
    """
    levels = _levels(table)
    if levels is None:
        return np.full(len(counts), np.nan)
    given, truth = levels
    passes = list(_passes(given.place, truth.place))

    def figure(rows: Floats) -> Floats:
        net = np.zeros(rows.shape[1])
        sizes = given.sums(rows), truth.sums(rows)
        for one in passes:
            before = sums.running(rows[one.lower])
            # Lower ones with a smaller answer, less those with a greater one.
            near = before[one.ends[0]]
            near += before[one.ends[1]]
            net += np.einsum("rd,rd->d", rows[one.upper], near)
            far = before[one.bounds[0]] + before[one.bounds[1]]
            net -= np.einsum("rd,rd->d", sizes[1][one.levels], far)
        total = rows.sum(axis=0) ** 2
        untied = [total - np.einsum("rd,rd->d", size, size) for size in sizes]
        return sums.ratio(2 * net, np.sqrt(untied[0] * untied[1]))

    return sums.piecewise(table, counts, figure)


def _levels(table: Table) -> tuple[Levels, Levels] | None:
    """Those of answers and references; None without rows, or with one that has no score."""
    if not len(table.group) or np.isnan(table.expected).any():
        return None
    return Levels.of(table.expected), Levels.of(table.score)


def _ranks(levels: Levels, rows: Floats) -> tuple[Floats, Floats]:
    """[level, draw] mean ranks centred at exactly 0, where row i stands `rows[i]` times; and the
    sum of their squares.
    """
    sizes = levels.sums(rows)
    ranks = np.cumsum(sizes, axis=0)
    ranks -= (sizes - 1) / 2
    ranks -= (rows.sum(axis=0) + 1) / 2
    return ranks, np.einsum("rd,rd,rd->d", sizes, ranks, ranks)


class _Pass(NamedTuple):
    """Pairs of rows whose references differ first at one bit of their places, the upper bits being
    common; lower rows stand in the order of (common bits, answer).
    """

    upper: Ints
    """Rows with the bit."""
    lower: Ints
    """Rows without it, ordered."""
    ends: Ints
    """[2, upper row] how many lower rows stand before its answer in its common bits, and up to it."""
    levels: Ints
    """Levels of the references with the bit."""
    bounds: Ints
    """[2, level] where the lower rows of its common bits begin and end."""


def _passes(given: Ints, truth: Ints) -> Iterator[_Pass]:
    """Every pair of rows with unequal references once, as in a merge sort from the top."""
    width, levels = int(given.max()) + 1, np.arange(truth.max() + 1)
    for bit in range(int(truth.max()).bit_length()):
        key = (truth >> (bit + 1)) * width + given
        upper, lower = (np.flatnonzero((truth >> bit) & 1 == side) for side in (1, 0))
        lower = lower[np.argsort(key[lower], kind="stable")]
        having = levels[(levels >> bit) & 1 == 1]
        first = (having >> (bit + 1)) * width
        ends, bounds = (
            np.stack([np.searchsorted(key[lower], mark) for mark in marks])
            for marks in ((key[upper], key[upper] + 1), (first, first + width))
        )
        yield _Pass(upper, lower, ends, having, bounds)
