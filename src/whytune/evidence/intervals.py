"""Intervals by resampling whole groups.

Examples of one group (one question, one conversation) resemble each other, and the same example
answered by several seeds even more so. Resampling single predictions would count them as
independent and make every interval too narrow.
"""

import math

import numpy as np

from whytune.evidence.table import Floats
from whytune.records import Estimate

LOW, HIGH = 2.5, 97.5
"""Percentiles of a 95 % interval."""


def resample(groups: int, draws: int, seed: int) -> Floats:
    """How often each group counts in each draw: groups with replacement, as many as there are.

    Returns:
        [draw, group], whole numbers; every row sums to `groups`.
    """
    picks = np.random.default_rng(seed).integers(groups, size=(draws, groups))
    rows = np.arange(draws)[:, None] * groups
    counts = np.bincount((picks + rows).ravel(), minlength=draws * groups)
    return counts.reshape(draws, groups).astype(np.float64)


def estimate(value: float, drawn: Floats, groups: int) -> Estimate:
    """A figure with its 95 % percentile interval (Efron 1979).

    Formula: the 2.5th and 97.5th percentile of the figure over the draws, with linear
    interpolation. Draws in which the figure is not defined are left out.

    Args:
        value: the figure on all predictions.
        drawn: the figure in each draw.
        groups: how many groups were resampled. A single group says nothing about the spread
            between groups; its interval is not-a-number rather than of no width.
    """
    defined = drawn[~np.isnan(drawn)]
    if math.isnan(value) or groups < 2 or not len(defined):
        return Estimate(value=value, low=math.nan, high=math.nan)
    low, high = np.percentile(defined, (LOW, HIGH))
    return Estimate(value=value, low=float(low), high=float(high))
