"""What raters of unequal quality say together: the truth behind the votes, estimated with them.

Knows arrays. Knows nothing of replies, prompts or models.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whytune.teaching.ratings import Floats

SMOOTHING = 0.01
"""Votes added to every cell of a rater's confusion matrix and to every label's frequency: enough
that a rater who never erred gives no zero to divide by or to take the logarithm of, too few to
move a rater with a handful of votes."""
LEAST_VARIANCE = 1e-4
"""Least residual variance of a rater, a hundredth of the scale squared: without it one rater who
meets the others exactly would outweigh them all."""
ITERATIONS = 1000
TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """What Dawid and Skene's model says about votes without order."""

    posterior: Floats
    """[example, label]: probability that the label is the true one; rows sum to 1, and are the
    labels' frequencies where nobody voted."""
    frequency: Floats
    """[label]: share of the examples; sums to 1."""
    confusion: Floats
    """[rater, true label, given label]: probability of what the rater says; the last axis sums to
    1."""


def dawid_skene(votes: Floats, *, smoothing: float = SMOOTHING) -> Classes:
    """Maximum likelihood by EM: each rater has a confusion matrix, each example one true label.

    Starting from the shares of the votes, in turn (equations 2.3 to 2.5 of the source)

        frequency[t]      ~ smoothing + sum over examples of posterior[t]
        confusion[r, t, l] ~ smoothing + sum over examples of posterior[t] votes[r, l]
        posterior[t]      ~ frequency[t] prod over r and l of confusion[r, t, l] ^ votes[r, l]

    until no posterior moves by more than 1e-10, or 1,000 times. Nothing is drawn at random. Source:
    A. P. Dawid, A. M. Skene, Maximum Likelihood Estimation of Observer Error-Rates Using the EM
    Algorithm, Applied Statistics 28 (1979), 20-28; the smoothing is ours.

    Args:
        votes: [example, rater, label], how often the rater gave the label; at least one example,
            rater and label, and at least one vote.
        smoothing: above 0.
    """
    # Examples with the same votes have the same posterior: each pattern is reckoned once.
    flat = np.ascontiguousarray(votes.reshape(len(votes), -1))
    as_bytes = flat.view(np.dtype((np.void, flat[0].nbytes))).reshape(-1)
    _, first, place, times = np.unique(
        as_bytes, return_index=True, return_inverse=True, return_counts=True
    )
    patterns = flat[first]
    seen = _Counts(votes=patterns, times=times, raters=votes.shape[1])
    given = patterns.sum(axis=1)
    shares = patterns.reshape(-1, *votes.shape[1:]).sum(axis=1)
    posterior = np.divide(shares, given[:, None], where=given[:, None] > 0, out=shares * 0)
    for _ in range(ITERATIONS):
        before = posterior
        frequency, confusion = _maximise(seen, posterior, smoothing)
        # A pattern without a vote says nothing of the labels' frequencies.
        posterior = np.where(given[:, None] > 0, _expect(seen, frequency, confusion), 0.0)
        if np.abs(posterior - before).max() <= TOLERANCE:
            break
    return Classes(
        posterior=_expect(seen, frequency, confusion)[place],
        frequency=frequency,
        confusion=confusion,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Votes that occur, and how often."""

    votes: Floats
    """[pattern, rater x label]."""
    times: NDArray[np.int64]
    """[pattern]: examples with these votes."""
    raters: int


def _maximise(seen: _Counts, posterior: Floats, smoothing: float) -> tuple[Floats, Floats]:
    counted = (posterior * seen.times[:, None]).T
    frequency = counted.sum(axis=1) + smoothing
    labels = len(frequency)
    by_rater = (counted @ seen.votes).reshape(labels, seen.raters, labels)
    confusion = by_rater.transpose(1, 0, 2) + smoothing
    return frequency / frequency.sum(), confusion / confusion.sum(axis=2, keepdims=True)


def _expect(seen: _Counts, frequency: Floats, confusion: Floats) -> Floats:
    likelihoods = np.log(confusion).transpose(0, 2, 1).reshape(-1, len(frequency))
    logs = np.log(frequency) + seen.votes @ likelihoods
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """What raters say together once severity and spread are taken out."""

    scores: Floats
    """[example]: on [0, 1]; NaN where nobody voted."""
    severity: Floats
    """[rater]: mean of the consensus less that of the rater's scores, on the same examples; above 0
    the rater is severe, below 0 lenient."""
    spread: Floats
    """[rater]: standard deviation of the rater's scores by that of the consensus on the same
    examples; 1 where either is 0."""
    weight: Floats
    """[rater]: what the rater counts; sums to 1."""
    settled: bool
    """Whether a fixed point was found; otherwise the scores are the plain means, and weights equal."""


def severity(scores: Floats) -> Consensus:
    """Raters put on one scale, then averaged by their reliability.

    From the plain mean of each example, in turn until no score moves by more than 1e-10: every
    rater's scores y on the consensus t's scale over the examples S that the rater saw,

        z = mean_S(t) + (y - mean_S(y)) sd_S(t) / sd_S(y)

    each rater's weight 1 / max(mean of (z - the weighted mean of the others' z)^2, 1e-4), and t the
    weighted mean of the z, moved to the mean and standard deviation of the plain means. The votes
    do not tell how severe all raters are together, nor how wide the truth is: there the consensus
    says what the plain mean says, and with one rater it is the mean. A rater is compared with the
    others alone because one who is part of the yardstick would draw it towards himself without
    end; the others' own noise then evens the weights out a little. A handful of votes that
    contradict each other may have no fixed point: after 1,000 rounds without, the consensus is the
    plain mean. Scores beyond [0, 1] are clipped at the very end.

    Args:
        scores: [example, rater] on [0, 1]; NaN without a vote; at least one vote.
    """
    voted = (~np.isnan(scores)).any(axis=1)
    scores = scores[voted]
    plain = _means(scores, np.ones(scores.shape[1]))
    consensus, weight, settled = _settle(scores, plain)
    severe, spread = _manners(scores, consensus)
    full = np.full(voted.shape, math.nan)
    full[voted] = np.clip(consensus, 0, 1)
    return Consensus(
        scores=full,
        severity=severe,
        spread=spread,
        weight=weight / weight.sum(),
        settled=settled,
    )


def _settle(scores: Floats, plain: Floats) -> tuple[Floats, Floats, bool]:
    """The fixed point: consensus and weights; the plain means where there is none."""
    consensus, weight = plain, np.ones(scores.shape[1])
    for _ in range(ITERATIONS):
        before = consensus
        aligned = _align(scores, consensus)
        weight = _weigh(aligned, weight)
        consensus = _rescale(_means(aligned, weight), plain)
        if np.abs(consensus - before).max() <= TOLERANCE:
            return consensus, weight, True
    return plain, np.ones(scores.shape[1]), False


def _manners(scores: Floats, consensus: Floats) -> tuple[Floats, Floats]:
    """Each rater's severity and spread against the consensus."""
    same = np.where(np.isnan(scores), np.nan, consensus[:, None])
    wide, narrow = np.nanstd(scores, axis=0), np.nanstd(same, axis=0)
    # A spread of rounding errors is none.
    flat = (wide < 1e-9) | (narrow < 1e-9)
    spread = np.where(flat, 1.0, wide / np.where(flat, 1.0, narrow))
    return np.nanmean(same, axis=0) - np.nanmean(scores, axis=0), spread


def _align(scores: Floats, consensus: Floats) -> Floats:
    severe, spread = _manners(scores, consensus)
    own = np.nanmean(scores, axis=0)
    return np.asarray(own + severe + (scores - own) / spread)


def _weigh(aligned: Floats, weight: Floats) -> Floats:
    seen = ~np.isnan(aligned)
    variance = np.full(len(weight), math.nan)
    for rater in range(len(weight)):
        others = np.delete(seen, rater, axis=1).any(axis=1) & seen[:, rater]
        if others.any():
            rest = np.delete(aligned[others], rater, axis=1)
            gap = aligned[others, rater] - _means(rest, np.delete(weight, rater))
            variance[rater] = max(float(np.square(gap).mean()), LEAST_VARIANCE)
    # A rater who shares no example with another is taken for one of the usual quality.
    known = variance[~np.isnan(variance)]
    usual = float(np.median(known)) if known.size else 1.0
    return np.asarray(1 / np.where(np.isnan(variance), usual, variance))


def _means(scores: Floats, weight: Floats) -> Floats:
    """Weighted mean of each row's votes."""
    counted = np.where(np.isnan(scores), 0.0, weight)
    return np.asarray((np.nan_to_num(scores) * counted).sum(axis=1) / counted.sum(axis=1))


def _rescale(consensus: Floats, plain: Floats) -> Floats:
    deviation = consensus - consensus.mean()
    width = float(consensus.std())
    factor = float(plain.std()) / width if width > 1e-9 else 1.0
    return np.asarray(plain.mean() + deviation * factor)
