"""Holm's correction and the sign test against brute force, scipy and cases worked by hand."""

import math
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from whytune.errors import EvidenceError
from whytune.evidence.family import corrected, gains, holm, sign_sentence, sign_test
from whytune.records import Comparison, Estimate

P = st.floats(min_value=0, max_value=1)


def comparison(value: float, p: float = 0.01, metric: str = "mse", arm: str = "why") -> Comparison:
    return Comparison(
        base="label", arm=arm, metric=metric, p=p, n=40, groups=20,
        difference=Estimate(value=value, low=value - 1, high=value + 1),
    )  # fmt: skip


def test_holm_by_hand() -> None:
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2 = 0.06 (not below the one before), 0.04 x 1 -> 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def closed(p_values: list[float], level: float) -> list[bool]:
    """What the closed test rejects: each hypothesis all of whose intersections Bonferroni rejects.

    Another road to the same test (Marcus, Peritz & Gabriel 1976).
    """
    every = range(len(p_values))
    families = [f for size in every for f in combinations(every, size + 1)]
    rejected = {f: min(p_values[i] for i in f) * len(f) <= level for f in families}
    return [all(rejected[f] for f in families if i in f) for i in every]


@given(st.lists(P, min_size=1, max_size=6), st.floats(min_value=0.001, max_value=0.999))
def test_holm_rejects_what_the_closed_bonferroni_test_rejects(
    p_values: list[float], level: float
) -> None:
    assert [p <= level for p in holm(p_values)] == closed(p_values, level)


@given(st.lists(P, min_size=1, max_size=8), st.floats(min_value=0.001, max_value=0.999))
def test_holm_is_the_step_down_procedure(p_values: list[float], level: float) -> None:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for step, at in enumerate(order):
        if p_values[at] * (len(p_values) - step) > level:
            break
        rejected.add(at)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_what_was_not_tested_is_not_counted() -> None:
    first, lost, second = holm([0.01, math.nan, 0.02])
    assert (first, second) == (0.02, 0.02)
    assert math.isnan(lost)


def test_comparisons_are_corrected_in_their_order() -> None:
    family = [comparison(0.1, 0.04), comparison(0.2, math.nan), comparison(0.3, 0.01)]
    found = corrected(family)
    assert [c.p_holm for c in found] == [0.04, None, 0.02]
    assert [replace(c, p_holm=None) for c in found[::2]] == family[::2]
    assert corrected([]) == []
    with pytest.raises(EvidenceError, match="found the figures mse, accuracy, expected one"):
        corrected([comparison(0.1), comparison(0.1, metric="accuracy")])


@pytest.mark.parametrize(
    ("wins", "losses", "ties"), list(product((0, 1, 7, 18), (0, 2, 7), (0, 3)))
)
def test_the_sign_test_is_the_exact_binomial_one(wins: int, losses: int, ties: int) -> None:
    found = sign_test([0.1] * wins + [0.0] * ties + [-0.2] * losses + [math.nan])
    assert (found.wins, found.ties, found.n) == (wins, ties, wins + losses)
    want = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert found.p == pytest.approx(want)


def test_gains_are_better_above_zero() -> None:
    assert gains([comparison(-0.1), comparison(0.2), comparison(0.3, metric="accuracy")]) == [
        0.1, -0.2, 0.3,
    ]  # fmt: skip


def test_bias_is_not_won() -> None:
    with pytest.raises(EvidenceError, match="found the figure bias, expected one of which more"):
        gains([comparison(0.1, metric="bias")])


def test_a_sentence_counts_the_settings() -> None:
    text = sign_sentence([comparison(-0.1 - i) for i in range(18)])
    assert text == (
        "why has better mean squared error than label in 18 of 18 settings "
        "(sign test, p = 7.6e-06)."
    )
    drawn = sign_sentence([comparison(-0.1), comparison(0.0), comparison(0.2)])
    assert "in 1 of 2 settings (sign test, p = 1, 1 left out as ties)" in drawn
    assert "the same mean squared error in every setting" in sign_sentence([comparison(0.0)])


def test_a_sign_test_is_of_one_pair_of_arms() -> None:
    with pytest.raises(EvidenceError, match="found 2 pairs of arms, expected one"):
        sign_sentence([comparison(0.1), comparison(0.1, arm="longer")])
    with pytest.raises(EvidenceError, match="found 0 pairs"):
        sign_sentence([])
    with pytest.raises(EvidenceError, match="found the figures"):
        sign_sentence([comparison(0.1), comparison(0.1, metric="accuracy")])


def test_holm_keeps_the_share_of_families_with_a_false_claim() -> None:
    tries = np.random.default_rng(0).uniform(size=(2000, 6))
    false = [min(holm(list(p))) <= 0.05 for p in tries]
    assert 0.037 <= np.mean(false) <= 0.063  # 1 - 0.9917^6 = 0.049, with 2.7 standard errors
