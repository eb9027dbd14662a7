"""Tests over groups, and over groups and seeds: against analyses of variance and known truths."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binom, norm, t, ttest_1samp

from whytune.evidence.intervals import expanded, resample
from whytune.evidence.significance import LEAST_P, Contrast, clustered, crossed
from whytune.evidence.table import Floats


@dataclass(frozen=True)
class Study:
    """Differences of answers, the mean of which is tested; groups of random sizes."""

    sizes: Floats
    sums: Floats
    """[seed, group]"""

    def test(self, draws: int, seed: int = 0) -> Contrast:
        groups = len(self.sizes)
        counts = resample(groups, draws, seed)
        own = self.sums.sum(axis=1) / self.sizes.sum()
        drawn = self.sums @ counts.T / (counts @ self.sizes)
        if len(own) > 1:
            return crossed(float(own.mean()), own, drawn, groups)
        signs = np.random.default_rng([seed, 1]).choice((-1.0, 1.0), size=counts.shape)
        exchanged = signs @ self.sums[0] / self.sizes.sum()
        return clustered(float(own[0]), drawn[0], exchanged, groups)


def study(
    seed: int, seeds: int, spread: float, groups: int = 40, own: float = 0.5, even: bool = False
) -> Study:
    rng = np.random.default_rng([seed, seeds])
    sizes = np.full(groups, 3.0) if even else rng.integers(1, 6, size=groups).astype(np.float64)
    effects = (
        rng.normal(0, own, size=(1, groups)) + rng.normal(0, 0.3, size=(seeds, groups))
        + rng.normal(0, spread, size=(seeds, 1))
    )  # fmt: skip
    return Study(sizes, sizes * effects + rng.normal(0, 0.5 * np.sqrt(sizes), (seeds, groups)))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_variance_is_that_of_crossed_random_effects(seeds: int) -> None:
    data = study(0, seeds, 0.2, even=True)
    # Two-way analysis of variance without replication: (MS groups + MS seeds - MS rest) / (G S).
    cells = data.sums / data.sizes
    groups = cells.shape[1]
    rows, columns = cells.mean(axis=0), cells.mean(axis=1)
    rest = cells - rows - columns[:, None] + cells.mean()
    of_groups = seeds * np.var(rows, ddof=1)
    of_seeds = groups * np.var(columns, ddof=1)
    of_rest = (rest**2).sum() / ((groups - 1) * (seeds - 1))
    variance = (of_groups + of_seeds - of_rest) / (groups * seeds)
    found = data.test(20000)
    share = of_seeds / (groups * seeds) / variance
    weight = share ** (2 - 0.5 / (seeds - 1) ** 2)
    k = math.sqrt(
        (1 - weight) * t.ppf(0.975, groups - 1) ** 2 + weight * t.ppf(0.975, seeds - 1) ** 2
    )
    half = (found.difference.high - found.difference.low) / 2
    assert half == pytest.approx(k * math.sqrt(variance), rel=0.02)


def test_seeds_alone_give_students_test_of_their_means() -> None:
    own = np.array([0.3, 0.1, 0.25, 0.2])
    # Examples without any spread: every draw repeats the seeds' own figures.
    found = crossed(float(own.mean()), own, np.tile(own[:, None], 50), 30)
    want = ttest_1samp(own, 0)
    interval = want.confidence_interval(0.95)
    assert found.p == pytest.approx(want.pvalue)
    d = found.difference
    assert (d.low, d.high) == pytest.approx((interval.low, interval.high))
    # 0.9213: what a standard deviation of four normal numbers is on average (c4 of control charts).
    error = np.std(own, ddof=1) / 2 / 0.921318
    assert found.detectable == pytest.approx((t.ppf(0.975, 3) + t.ppf(0.8, 3)) * error)


def test_seeds_that_agree_give_the_spread_of_the_groups() -> None:
    data = study(1, 1, 0, even=True)
    found = Study(data.sizes, np.repeat(data.sums, 3, axis=0)).test(20000)
    want = ttest_1samp(data.sums[0] / data.sizes, 0)
    interval = want.confidence_interval(0.95)
    d = found.difference
    assert (d.low, d.high) == pytest.approx((interval.low, interval.high), rel=0.03)
    assert found.p == pytest.approx(want.pvalue, rel=0.1)
    single = data.test(20000).difference
    assert (single.low, single.high) == pytest.approx((interval.low, interval.high), rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_p_and_the_interval_of_several_seeds_say_the_same(seeds: int) -> None:
    found = [study(n, seeds, 0.1).test(100, n) for n in range(60)]
    out = [d.low > 0 or d.high < 0 for d, *_ in found]
    assert out == [p < 0.05 for _, p, _ in found]
    # At the edge of its own interval, p is the level.
    d, own = found[0].difference, np.array([0.1, 0.3, 0.2])
    edge = crossed(0.2, own, np.tile(own[:, None], 9), 30).difference
    moved = own + (edge.high - edge.value) - 0.2
    assert crossed(edge.high - edge.value, moved, np.tile(moved[:, None], 9), 30).p == (
        pytest.approx(0.05)
    )
    assert d.low < d.high


def near(rate: float, studies: int) -> tuple[float, float]:
    """Where a share of simulated studies lies but in one of a thousand simulations."""
    low, high = (float(binom.ppf(q, studies, rate)) / studies for q in (0.0005, 0.9995))
    return low, high


@pytest.mark.parametrize(
    ("seeds", "spread"), [(1, 0.0), (2, 0.1), (3, 0.0), (3, 0.1), (3, 0.5), (5, 0.1), (5, 0.5)]
)
def test_intervals_cover_and_tests_keep_their_level(seeds: int, spread: float) -> None:
    found = [study(n, seeds, spread).test(199, n) for n in range(300)]
    covered = np.mean([d.low <= 0 <= d.high for d, *_ in found])
    rejected = np.mean([p < 0.05 for _, p, _ in found])
    assert near(0.94, 300)[0] <= covered
    assert rejected <= near(0.06, 300)[1]
    if seeds != 2:  # Two seeds are on the safe side.
        assert covered <= near(0.96, 300)[1]
        assert near(0.04, 300)[0] <= rejected


def test_fixed_seeds_would_have_claimed_too_much() -> None:
    # What the bootstrap over groups alone makes of seeds that differ.
    wrong = 0
    for n in range(100):
        data = study(n, 3, 0.5)
        pooled = Study(data.sizes, data.sums.mean(axis=0, keepdims=True)).test(100, n)
        wrong += not pooled.difference.low <= 0 <= pooled.difference.high
    assert wrong > 40


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_detectable_difference_is_found_in_four_of_five_studies(seeds: int) -> None:
    found = [study(n, seeds, 0.1, groups=60).test(199, n) for n in range(300)]
    truth = float(np.mean([t.detectable for t in found]))
    power = np.mean([d.low + truth > 0 for d, *_ in found])
    assert 0.7 <= power <= 0.88


def test_the_detectable_difference_of_one_seed_by_hand() -> None:
    drawn = np.random.default_rng(0).normal(0, 0.01, size=200_000)
    found = clustered(0.004, drawn, drawn, 10_000)
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * 0.01, rel=0.01)


def test_the_expanded_percentile() -> None:
    # 20 groups: t(0.975, 19) = 2.0930, times the root of 20 / 19 = 2.1474.
    assert expanded(20) == pytest.approx(100 * norm.cdf(-2.1474), rel=1e-3)
    assert expanded(100_000) == pytest.approx(2.5, rel=1e-3)
    assert 0 <= expanded(2) < 1e-9


def test_nothing_is_said_about_what_is_not_defined() -> None:
    own, drawn = np.array([0.1, 0.2]), np.random.default_rng(0).normal(size=(2, 50))
    lost = np.array([0.1, math.nan])
    for found in (
        crossed(0.1, own, drawn, 1),
        crossed(0.1, lost, drawn, 9),
        crossed(math.nan, own, drawn, 9),
        crossed(0.1, own, drawn * math.nan, 9),
    ):
        assert all(math.isnan(x) for x in (*found[1:], found.difference.low, found.difference.high))
    some = drawn.copy()
    some[0, 0] = math.nan
    assert crossed(0.1, own, some, 9) == crossed(0.1, own, drawn[:, 1:], 9)


def test_seeds_without_any_spread_are_certain() -> None:
    nothing = np.zeros(3)
    found = crossed(0.0, nothing, np.zeros((3, 20)), 9)
    assert (found.difference.low, found.difference.high, found.p) == (0, 0, 1)
    assert crossed(0.1, nothing + 0.1, np.full((3, 20), 0.1), 9).p == LEAST_P
