"""Many comparisons at once: corrected for their number, and counted one by one."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from whytune.errors import EvidenceError
from whytune.evidence.compare import LOWER_IS_BETTER, NOT_JUDGED, WORDS
from whytune.records import Comparison


def holm(p_values: Sequence[float]) -> list[float]:
    """p values so corrected that at most 5 % of families have any false one at or below 0.05.

    Formula: with p sorted upwards, adjusted(k) = max over j <= k of min(1, (m - j + 1) p(j)); in
    the order given. Holds however the tests depend on each other. Source: Holm 1979, Scandinavian
    Journal of Statistics 6:65. A p that is not a number tests nothing: it stays, and is not
    counted in m.
    """
    tested = sorted((p, at) for at, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for below, (p, at) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - below) * p))
        adjusted[at] = highest
    return adjusted


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one figure over the settings of a study, with `p_holm`.

    A permutation p is at least 1 / (1 + draws): a family of m can only be told from chance with
    more than 20 m draws.

    Raises:
        EvidenceError: the comparisons are of several figures, which are several questions.
    """
    _metric(comparisons)
    return [
        replace(comparison, p_holm=None if math.isnan(p) else p)
        for comparison, p in zip(comparisons, holm([c.p for c in comparisons]), strict=True)
    ]


class SignTest(NamedTuple):
    """In how many settings a change helped."""

    wins: int
    ties: int
    n: int
    """Settings that are no ties."""
    p: float
    """Two-sided; 1 where all are ties."""


def sign_test(differences: Sequence[float]) -> SignTest:
    """Whether a difference is above 0 in more (or fewer) settings than by the toss of a coin.

    Formula: p = min(1, 2 P(X >= max(wins, n - wins))), X binomial(n, 1/2); exact. Ties (exactly 0)
    are left out (Dixon & Mood 1946); so is what is not a number, which is not counted as a tie
    either. Assumes independent settings: those that share examples or seeds share their luck too,
    and make p too small.

    Args:
        differences: one a setting, above 0 where it was won (see `gains`).
    """
    wins = sum(d > 0 for d in differences)
    ties = sum(d == 0 for d in differences)
    n = wins + sum(d < 0 for d in differences)
    tail = sum(math.comb(n, k) for k in range(max(wins, n - wins), n + 1))
    return SignTest(wins, ties, n, min(1.0, 2 * tail / 2**n))


def gains(comparisons: Sequence[Comparison]) -> list[float]:
    """The differences, turned so that above 0 is better.

    Raises:
        EvidenceError: a figure of which neither more nor less is better.
    """
    for comparison in comparisons:
        if comparison.metric in NOT_JUDGED:
            raise EvidenceError(
                f"found the figure {comparison.metric}, expected one of which more or less is "
                "better; count the settings by another figure"
            )
    return [
        -c.difference.value if c.metric in LOWER_IS_BETTER else c.difference.value
        for c in comparisons
    ]


def sign_sentence(comparisons: Sequence[Comparison]) -> str:
    """One plain sentence about one figure of the same two arms in several settings.

    Raises:
        EvidenceError: no comparisons, or of several figures or pairs of arms; or see `gains`.
    """
    pairs = sorted({(c.arm, c.base) for c in comparisons})
    if len(pairs) != 1:
        raise EvidenceError(
            f"a sign test: found {len(pairs)} pairs of arms, expected one; hand in the same two "
            "arms in every setting"
        )
    metric = _metric(comparisons)
    (arm, base), found = pairs[0], sign_test(gains(comparisons))
    if not found.n:
        return f"{arm} and {base} have the same {WORDS.get(metric, metric)} in every setting."
    ties = f", {found.ties} left out as ties" if found.ties else ""
    return (
        f"{arm} has better {WORDS.get(metric, metric)} than {base} in {found.wins} of {found.n} "
        f"settings (sign test, p = {found.p:.2g}{ties})."
    )


def _metric(comparisons: Sequence[Comparison]) -> str:
    metrics = list(dict.fromkeys(c.metric for c in comparisons))
    if len(metrics) > 1:
        raise EvidenceError(
            f"a family of comparisons: found the figures {', '.join(metrics)}, expected one; "
            "correct each figure for itself"
        )
    return metrics[0] if metrics else ""
