"""Whether a difference between two arms is chance: with one seed over groups, with several over
groups and seeds.

Examples and seeds are crossed: every seed answers every example. A bootstrap that draws two to
five seeds with replacement finds too little spread between them (of two seeds, half the variance),
so seeds are not drawn; what they add is estimated from them and paid for with Student's t.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from whytune.evidence.intervals import LOW, enlarged, estimate, expanded
from whytune.evidence.table import Floats
from whytune.records import Estimate

LEAST_P = 1e-12
"""Smaller ones are not told apart."""
POWER = 0.8
"""Share of studies that find the minimum detectable difference."""

# Equal differences must compare as equal though they were summed in another order.
_ROUNDING = 1e-12


class Contrast(NamedTuple):
    """A difference, whether it is chance, and what would have been found."""

    difference: Estimate
    p: float
    """Two-sided; not-a-number where nothing could be tested."""
    detectable: float
    """The true difference found with 80 % power at 5 %; not-a-number without an interval."""


def clustered(value: float, drawn: Floats, exchanged: Floats, groups: int) -> Contrast:
    """Test of a difference over groups of examples; it speaks about the seeds at hand only.

    Interval: 95 % percentile bootstrap, `intervals.expanded` for the number of groups. p: two-sided
    permutation test, p = (1 + #{|d*| >= |d|}) / (1 + draws) (Phipson & Smyth 2010), so never below
    1 / (1 + draws); a difference that is not defined counts as at least as large. Minimum
    detectable difference: (z(0.975) + z(0.80)) times the standard error of the bootstrap, a normal
    approximation (Bloom 1995, Evaluation Review 19:547).

    Args:
        value: the difference on all predictions.
        drawn: [draw] the difference in each draw of groups.
        exchanged: [draw] the difference where the arms of some groups are exchanged.
        groups: how many groups were drawn.
    """
    difference = estimate(value, drawn, groups, expanded(groups))
    p = math.nan
    if not math.isnan(value):
        smaller = int((np.abs(exchanged) < abs(value) - _ROUNDING).sum())
        p = (1 + len(exchanged) - smaller) / (1 + len(exchanged))
    defined = drawn[~np.isnan(drawn)]
    if math.isnan(difference.low) or len(defined) < 2:
        return Contrast(difference, p, math.nan)
    error = math.sqrt(float(np.var(defined, ddof=1)) * enlarged(groups))
    return Contrast(difference, p, float(ndtri(1 - LOW / 100) + ndtri(POWER)) * error)


def crossed(value: float, own: Floats, drawn: Floats, groups: int) -> Contrast:
    """Test of a difference over groups of examples and seeds, both random.

    Variance: Var(mean of the seeds' differences) = c + m / S, with S seeds; c is the covariance of
    two seeds' differences, which they owe to the examples that they share, and m the expected
    variance between seeds on the same examples. It is an identity for seeds that are exchangeable,
    whatever the figure. c is estimated as the mean covariance over pairs of seeds in a bootstrap of
    the groups (the same draw for all seeds), 0 where that is negative; m as the sample variance of
    the seeds' own differences. For means on balanced data this is the analysis of variance with
    crossed random effects (Clark 1973, "The language-as-fixed-effect fallacy"; Judd, Westfall &
    Kenny 2012, JPSP 103:54).

    Interval: value ± k · √(c + m / S), with k² = (1 - w) t²(groups - 1) + w t²(S - 1), t at 0.975
    and w = ((m / S) / (c + m / S)) to the power 2 - 1 / (2 (S - 1)²). Student's t with
    Satterthwaite's degrees of freedom rejects too often when the few seeds happen to agree (up to
    7.8 % with three). The exact critical value (Welch 1947; Aspin 1948) depends on the estimated
    share of the seeds so that the level does not depend on the true one; k approximates it, its
    power chosen for that. With many groups and normal seeds the level of the 5 % test, whatever the
    share, lies within 2.5 to 5.9 % for two seeds, 4.2 to 5.7 % for three and 4.8 to 5.2 % for five
    (numerical integration). p is the level at which the interval touches 0, so p < 0.05 exactly
    where the 95 % interval leaves out 0.

    Assumes: groups drawn independently, seeds too and all alike, the seeds' differences about
    normal. A seed need not act alike in both arms.

    Args:
        value: the difference on all predictions.
        own: [seed] the difference on each seed's predictions; two or more.
        drawn: [seed, draw] the same in each draw of groups. Draws that are not defined in every
            seed are left out.
        groups: how many groups were drawn.

    Returns:
        All but the value not-a-number where the value or a seed's own difference is not defined,
        or with fewer than two groups. The minimum detectable difference is k at 0.975 plus k at
        0.80, times the standard error (Bloom 1995); there m is divided by the square of what a
        standard deviation of S numbers is on average, or it would come out too small.
    """
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    if np.isnan([value, *own]).any() or groups < 2 or drawn.shape[1] < 2:
        return Contrast(Estimate(value=value, low=math.nan, high=math.nan), math.nan, math.nan)
    seeds = len(own)
    covariance = np.cov(drawn)
    mean = float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))
    shared = max(0.0, mean) * enlarged(groups)
    between = float(np.var(own, ddof=1)) / seeds
    error = math.sqrt(shared + between)
    share = between / (shared + between) if error else 0.0
    weight = share ** (2 - 0.5 / (seeds - 1) ** 2)

    def reach(tail: float) -> float:
        """How far the difference goes from its truth, but for a share `tail` on either side."""
        over_groups, over_seeds = stdtrit([groups - 1, seeds - 1], tail) ** 2
        return math.sqrt((1 - weight) * over_groups + weight * over_seeds) * error

    half = reach(LOW / 100)
    difference = Estimate(value=value, low=value - half, high=value + half)
    if abs(value) <= _ROUNDING:
        p = 1.0
    elif abs(value) >= reach(LEAST_P / 2):
        p = LEAST_P
    else:
        p = float(brentq(lambda p: reach(p / 2) - abs(value), LEAST_P, 1, xtol=LEAST_P))
    shrunk = math.sqrt(2 / (seeds - 1)) * math.exp(
        math.lgamma(seeds / 2) - math.lgamma((seeds - 1) / 2)
    )
    honest = math.sqrt(shared + between / shrunk**2) / error if error else 1.0
    return Contrast(difference, p, (half + reach(1 - POWER)) * honest)
