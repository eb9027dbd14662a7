"""How far each teacher can be relied on: pairs, severity, intervals, how many really judge."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from whytune.records import Estimate, Kind
from whytune.teaching.agreement import Difference, Units
from whytune.teaching.ratings import Floats, Ratings

Weights = Literal["none", "linear", "quadratic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """Every rater against every other; symmetric, [rater, rater]."""

    raters: tuple[str, ...]
    n: Floats
    """Examples that both labelled; on the diagonal those of the rater."""
    kappa: Floats
    """Cohen's kappa of the labels, weighted for an ordinal task; at most 1, NaN where not defined."""
    correlation: Floats
    """Pearson's r of the scores, -1 to 1; NaN where either does not vary, and for a nominal task."""


def cohen_kappa(one: Floats, other: Floats, labels: int, weights: Weights = "quadratic") -> float:
    """Cohen's kappa of two raters: 1 - sum w O / sum w E.

    O is the share of examples with labels i and j, E the product of the raters' own shares, and w
    is 1 where i and j differ (`none`), |i - j| (`linear`) or (i - j)^2 (`quadratic`). Source:
    J. Cohen, Weighted Kappa, Psychological Bulletin 70 (1968), 213-220.

    Args:
        one: codes of the labels, 0 to labels - 1, an example each.
        other: as `one`, of the same length; an example where either is NaN is left out.
        labels: how many the task has.
        weights: what a difference counts.

    Returns:
        1 is perfect agreement, 0 what chance gives; NaN without an example that both labelled,
        and where both always gave one and the same label.
    """
    both = ~np.isnan(one) & ~np.isnan(other)
    seen = np.zeros((labels, labels))
    np.add.at(seen, (one[both].astype(int), other[both].astype(int)), 1)
    distance = np.abs(np.subtract.outer(np.arange(labels), np.arange(labels)))
    weight = {"none": distance > 0, "linear": distance, "quadratic": distance**2}[weights]
    chance = float((weight * np.outer(seen.sum(axis=1), seen.sum(axis=0))).sum())
    return 1 - float((weight * seen).sum()) * int(both.sum()) / chance if chance else math.nan


def pairwise(ratings: Ratings, weights: Weights = "quadratic") -> Pairwise:
    """Kappa, correlation and shared examples of every two raters.

    Args:
        ratings: of raters or of teachers (`pooled`).
        weights: of the kappa of an ordinal task; that of a nominal one has none.
    """
    nominal = ratings.task.kind is Kind.NOMINAL
    count = len(ratings.raters)
    kappa = np.full((count, count), math.nan)
    for i in range(count):
        for j in range(i, count):
            kappa[i, j] = kappa[j, i] = cohen_kappa(
                ratings.codes[:, i],
                ratings.codes[:, j],
                len(ratings.task.labels),
                "none" if nominal else weights,
            )
    seen = (~np.isnan(ratings.codes)).astype(np.float64)
    return Pairwise(
        raters=ratings.raters,
        n=seen.T @ seen,
        kappa=kappa,
        correlation=_correlations(ratings.scores),
    )


def alpha_interval(
    ratings: Ratings, *, ranks: bool = False, draws: int = 1000, seed: int = 0
) -> Estimate:
    """Krippendorff's alpha with its 95 % percentile bootstrap interval over examples (Efron 1979).

    Examples are drawn with replacement, with all that was said about them; draws in which alpha
    is not defined are left out. NaN as an interval with fewer than two examples.

    Args:
        ratings: of raters or of teachers.
        ranks: the ordinal instead of the interval difference (`krippendorff_alpha`).
        draws: how many.
        seed: of the draws.
    """
    difference = Difference.of(ratings.task.kind, ranks=ranks)
    return _drawn(Units(ratings.numbers, difference), len(ratings.examples), draws, seed)


def alphas(ratings: Ratings, *, draws: int = 1000, seed: int = 0) -> dict[Difference, Estimate]:
    """`alpha_interval` with every difference that means something for the task.

    Of an ordinal task: `interval` and `ordinal` of the scores, and `nominal` of the labels nearest
    to them (scores of unequal scales are never equal). Of a nominal task: `nominal`.
    """
    found = {Difference.NOMINAL: ratings.codes}
    if ratings.task.kind is Kind.ORDINAL:
        found |= {Difference.ORDINAL: ratings.scores, Difference.INTERVAL: ratings.scores}
    return {
        difference: _drawn(Units(numbers, difference), len(ratings.examples), draws, seed)
        for difference, numbers in found.items()
    }


def _drawn(units: Units, count: int, draws: int, seed: int) -> Estimate:
    random = np.random.default_rng(seed)
    drawn = np.array([
        units.alpha(_copies(random.integers(count, size=count), count))
        for _ in range(draws if count > 1 else 0)
    ])  # fmt: skip
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, (2.5, 97.5)) if drawn.size else (math.nan, math.nan)
    return Estimate(value=units.alpha(np.ones(count)), low=float(low), high=float(high))


def _copies(drawn: NDArray[np.int64], count: int) -> Floats:
    return np.bincount(drawn, minlength=count).astype(np.float64)


def severities(ratings: Ratings) -> list[dict[str, Any]]:
    """How each rater of an ordinal task uses the scale, against the others on the same examples.

    Returns:
        One row a rater: `rater`; `n` (examples that somebody else rated, too); `severity` (mean of
        the others' mean score less the rater's own, -1 to 1: above 0 the rater is severe, below 0
        lenient); `spread` (the rater's standard deviation by the root mean square of the others': 1
        as wide as they, below 1 narrower). NaN where not defined.
    """
    return [
        {"rater": name, **_manner(ratings.scores, place)}
        for place, name in enumerate(ratings.raters)
    ]


def effective_number(errors: Floats) -> float:
    """As how many independent raters these raters count: n = k / (1 + (k - 1) rho).

    rho is the mean over pairs of raters of Pearson's correlation of their errors (score less
    truth, or 1 where the label is wrong): raters who err together do not correct each other. It
    is k divided by the design effect of a cluster of k; L. Kish, Survey Sampling (1965), 5.4 and
    8.2. 1 for raters who err alike, k for independent ones. A mean correlation below 0 counts as
    0: so it is by chance, or where the truth was made of these raters' own scores, whose errors
    then cancel by construction; such a truth must not be used here.

    Given scores instead of errors, it is a lower bound: what raters share of the truth counts as
    if they erred in it together (their scores correlate at least as much as their errors do, as
    long as those do not depend on the truth).

    Args:
        errors: [example, rater]; NaN where the rater did not answer.

    Returns:
        1 to the number of raters; NaN where no two raters' errors vary on shared examples.
    """
    count = errors.shape[1]
    pairs = _correlations(errors)[np.triu_indices(count, 1)]
    pairs = pairs[~np.isnan(pairs)]
    if count == 1:
        return 1.0
    if not pairs.size:
        return math.nan
    return float(count / (1 + (count - 1) * max(float(pairs.mean()), 0.0)))


def _correlations(values: Floats) -> Floats:
    """Pearson's r of every two columns over the rows where both are given."""
    count = values.shape[1]
    found = np.full((count, count), math.nan)
    for i in range(count):
        for j in range(i, count):
            both = values[~np.isnan(values[:, [i, j]]).any(axis=1)][:, [i, j]]
            # A column of one value varies by rounding alone.
            if len(both) > 1 and both.std(axis=0).min() > 1e-12:
                one, other = (both - both.mean(axis=0)).T
                r = (one * other).sum() / math.sqrt(np.square(one).sum() * np.square(other).sum())
                found[i, j] = found[j, i] = r
    return found


def _manner(scores: Floats, place: int) -> dict[str, float]:
    own, rest = scores[:, place], np.delete(scores, place, axis=1)
    shared = ~np.isnan(own) & (~np.isnan(rest)).any(axis=1)
    own, rest = own[shared], rest[shared]
    if not own.size:
        return {"n": 0, "severity": math.nan, "spread": math.nan}
    rest = rest[:, (~np.isnan(rest)).any(axis=0)]
    usual = math.sqrt(float(np.nanvar(rest, axis=0).mean()))
    return {
        "n": int(shared.sum()),
        "severity": float((np.nanmean(rest, axis=1) - own).mean()),
        "spread": float(own.std()) / usual if usual > 0 else math.nan,
    }
