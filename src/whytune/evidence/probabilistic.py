"""Figures of the stated probabilities: what they cost, whether they hold, what they are good for.

Confidence is the highest probability among the labels, and belongs to the predicted label.
"""

import numpy as np

from whytune.evidence import sums
from whytune.evidence.sums import Levels
from whytune.evidence.table import Floats, Table

BINS = 15
"""Bins of the expected calibration errors."""


def label_nll(table: Table, counts: Floats) -> Floats:
    """Mean negative log-likelihood of the reference's label among all texts.

    Formula: mean of -ln p(label's tokens | prompt), not renormalised over the labels: the
    score-token loss of arXiv 2511.02044. Unit: nats, 0 upwards, lower is better.
    """
    return sums.mean(table, table.nll, counts)


def label_mass(table: Table, counts: Floats) -> Floats:
    """Mean probability that the answer is any of the labels. Range 0 to 1; near 1 is healthy."""
    return sums.mean(table, table.mass, counts)


def brier(table: Table, counts: Floats) -> Floats:
    """Squared error of the probabilities among the labels (Brier 1950, the original form).

    Formula: mean over examples of sum over labels of (p - [label is the reference])².
    Range 0 to 2, lower is better.
    """
    truth = np.eye(table.labels)[table.reference]
    return sums.mean(table, ((table.probs - truth) ** 2).sum(axis=1), counts)


def ece(table: Table, counts: Floats) -> Floats:
    """Expected calibration error of the top label, 15 bins of equal mass: the adaptive one.

    Formula: sum over bins of (bin's share) · |mean confidence - accuracy|. Examples are sorted by
    confidence and split as evenly as possible (the first bins are one larger); fewer examples
    than bins: one bin an example. Examples of equal confidence that straddle an edge are spread
    over both bins in proportion, so that the figure does not depend on the order of the examples.
    Range 0 to 1, lower is better. Biased upwards on few examples, the interval too: noise inside
    a bin counts as error. Source: Naeini et al. 2015; equal mass after Nixon et al. 2019
    (arXiv 1904.01685), who call such bins adaptive.

    >>> from whytune.evidence.table import of_arrays
    >>> answers = of_arrays([0, 1, 0], [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
    >>> ece(answers, np.ones((1, 3))).round(3)  # (|0.9 - 1| + |0.6 - 0| + |0.8 - 1|) / 3
    array([0.3])
    """
    confidence = _confidence(table)
    if confidence is None:
        return np.full(len(counts), np.nan)
    gap = (confidence - (table.predicted == table.reference))[:, None]
    levels = Levels.of(confidence)

    def figure(rows: Floats) -> Floats:
        ends, gaps = sums.running(levels.sums(rows)), sums.running(levels.sums(rows * gap))
        # The running sum of the gaps, read at the edges: a tie block is a straight piece of it.
        between = np.diff(_read(ends, gaps, _edges(ends[-1])), axis=0)
        return sums.ratio(np.abs(between).sum(axis=0), ends[-1])

    return sums.piecewise(table, counts, figure)


def ece_uniform(table: Table, counts: Floats) -> Floats:
    """Expected calibration error of the top label, 15 bins of equal width.

    Formula: as `ece`, with bins ((b - 1) / 15, b / 15] of the confidence. Range 0 to 1, lower is
    better; biased like it, and the more where few bins hold most examples. Source: Guo et al.
    2017 (arXiv 1706.04599).

    >>> from whytune.evidence.table import of_arrays
    >>> answers = of_arrays([0, 1, 0], [[0.9, 0.1], [0.61, 0.39], [0.65, 0.35]])
    >>> ece_uniform(answers, np.ones((1, 3))).round(3)  # (|0.9 - 1| + 2·|0.63 - 0.5|) / 3
    array([0.12])
    """
    confidence = _confidence(table)
    if confidence is None:
        return np.full(len(counts), np.nan)
    # Rounded, so that 0.6 stands at its edge whatever it was divided by.
    bins = np.ceil(np.round(confidence * BINS, 9)).astype(np.int64) - 1
    gap = confidence - (table.predicted == table.reference)
    gaps = counts @ sums.crossed(table, np.clip(bins, 0, BINS - 1), BINS, gap)
    return sums.ratio(np.abs(gaps).sum(axis=1), sums.taken(table, counts))


def aurc(table: Table, counts: Floats) -> Floats:
    """Area under the risk-coverage curve: the error rate when only the surest are answered.

    Formula: mean over i = 1..n of (errors among the i most confident) / i. Examples of equal
    confidence come in every order: the mean over all orders, exactly. Range 0 to 1, lower is
    better; near the error rate e where confidence says nothing, near e + (1 - e)·ln(1 - e) where
    all errors come last. Errors of the surest weigh most; the AUGRC of Traub et al. 2024
    (arXiv 2407.01032), which divides by n and not by i, is another figure. Source: Geifman &
    El-Yaniv 2017 (arXiv 1705.08500); this mean after Geifman et al. 2019 (arXiv 1805.08206).

    >>> from whytune.evidence.table import of_arrays
    >>> answers = of_arrays([0, 1, 0], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    >>> aurc(answers, np.ones((1, 3))).round(4)  # (0/1 + 1/2 + 1/3) / 3
    array([0.2778])
    """
    confidence = _confidence(table)
    if confidence is None:
        return np.full(len(counts), np.nan)
    wrong = (table.predicted != table.reference).astype(np.float64)[:, None]
    levels = Levels.of(-confidence)
    harmonic = _harmonic(int(sums.taken(table, counts).max(initial=0)))

    def figure(rows: Floats) -> Floats:
        sizes, errors = levels.sums(rows), levels.sums(rows * wrong)
        ends = sums.running(sizes)
        before = np.cumsum(errors, axis=0) - errors
        share = np.divide(errors, sizes, out=np.zeros_like(errors), where=sizes > 0)
        # Within a block the errors rise in a line: Σ (before + share·(i - start)) / i.
        steps = np.diff(harmonic[ends.astype(np.int64)], axis=0)
        area = (before - share * ends[:-1]) * steps + errors
        return sums.ratio(area.sum(axis=0), ends[-1])

    return sums.piecewise(table, counts, figure)


def _confidence(table: Table) -> Floats | None:
    """[row] the highest probability; None without rows, or with one that has no probabilities."""
    confidence: Floats = table.probs.max(axis=1, initial=0)
    if not len(confidence) or np.isnan(confidence).any():
        return None
    return confidence


def _harmonic(last: int) -> Floats:
    """1 + 1/2 + … + 1/n for n = 0..last."""
    return np.concatenate(([0.0], np.cumsum(1 / np.arange(1, last + 1))))


def _edges(total: Floats) -> Floats:
    """[edge, draw] where bins of equal mass begin and end; those of no use stand at the end."""
    bins = np.maximum(np.minimum(BINS, total), 1)
    step = np.minimum(np.arange(BINS + 1)[:, None], bins)
    return step * (total // bins) + np.minimum(step, total % bins)


def _read(ends: Floats, heights: Floats, edges: Floats) -> Floats:
    """[edge, draw] heights over the edges, on straight lines between the ends of each draw.

    `np.interp` for every draw at once: the first end that is not before the edge, by bisection.
    """
    draw = np.arange(edges.shape[1])
    low = np.zeros(edges.shape, dtype=np.int64)
    high = np.full_like(low, len(ends) - 1)
    for _ in range((len(ends) - 1).bit_length()):
        middle = (low + high) // 2
        below = ends[middle, draw] < edges
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    last = np.maximum(low - 1, 0)
    width = ends[low, draw] - ends[last, draw]
    share = np.divide(edges - ends[last, draw], width, out=np.zeros_like(width), where=width > 0)
    return heights[last, draw] + share * (heights[low, draw] - heights[last, draw])
