"""Paired differences: pairing, intervals, p values under the null and under an effect."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import kstest

from whytune.errors import EvidenceError
from whytune.evidence.compare import LOWER_IS_BETTER, WORDS, compare, default_metrics, sentence
from whytune.evidence.intervals import resample
from whytune.evidence.metrics import metrics_of, scorecard
from whytune.evidence.significance import crossed
from whytune.records import (
    Comparison,
    Estimate,
    Kind,
    Label,
    Outcome,
    Prediction,
    Reference,
    Task,
)

FIVE = Task(
    name="usefulness",
    kind=Kind.ORDINAL,
    question="How useful?",
    labels=tuple(Label(name=str(i)) for i in range(1, 6)),
)
MOODS = Task(
    name="emotion",
    kind=Kind.NOMINAL,
    question="Which mood?",
    labels=tuple(Label(name=name) for name in ("joy", "anger", "fear")),
)


def answers(ids: Sequence[str], truth: Sequence[int], skill: float, seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(ids), 5)) + skill * np.eye(5)[list(truth)]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [
        Prediction(
            example_id=i,
            task=FIVE.name,
            outcome=Outcome.READ,
            label=FIVE.label_names[int(row.argmax())],
            log_probs={n: math.log(p) for n, p in zip(FIVE.label_names, row, strict=True)},
            expected=float(row @ np.array(FIVE.values)),
        )
        for i, row in zip(ids, probs, strict=True)
    ]


class Pair:
    """Two arms on the same made-up examples."""

    def __init__(
        self, n: int = 60, skill: tuple[float, float] = (1, 1), seed: int = 0, size: int = 1
    ) -> None:
        self.ids = [f"e{i}" for i in range(n)]
        self.truth = [int(t) for t in np.random.default_rng([seed, 9]).integers(5, size=n)]
        self.references = {
            i: Reference(label=FIVE.label_names[t], score=FIVE.values[t])
            for i, t in zip(self.ids, self.truth, strict=True)
        }
        self.groups = {name: f"g{i // size}" for i, name in enumerate(self.ids)}
        self.base = answers(self.ids, self.truth, skill[0], 2 * seed)
        self.arm = answers(self.ids, self.truth, skill[1], 2 * seed + 1)

    def compare(
        self,
        metrics: Sequence[str] | None = None,
        draws: int = 200,
        base: list[Prediction] | None = None,
        arm: list[Prediction] | None = None,
    ) -> dict[str, Comparison]:
        found = compare(
            self.base if base is None else base,
            self.arm if arm is None else arm,
            self.references,
            self.groups,
            FIVE,
            names=("label", "why"),
            metrics=metrics,
            draws=draws,
            seed=3,
        )
        return {comparison.metric: comparison for comparison in found}

    def value(self, predictions: list[Prediction], metric: str) -> float:
        card = scorecard(
            predictions, self.references, self.groups, FIVE, reference="gold", draws=0, seed=0
        )
        return card.metrics[metric].value


ALL = tuple(metrics_of(FIVE))


@pytest.mark.parametrize("size", [1, 4])
def test_the_difference_is_that_of_the_scorecards(size: int) -> None:
    pair = Pair(seed=1, skill=(0.5, 2), size=size)
    found = pair.compare(ALL)
    assert tuple(found) == ALL
    for name, comparison in found.items():
        want = pair.value(pair.arm, name) - pair.value(pair.base, name)
        assert comparison.difference.value == pytest.approx(want, abs=1e-12), name
        assert (comparison.n, comparison.groups) == (60, 60 // size)
        assert (comparison.base, comparison.arm) == ("label", "why")


def test_turning_the_sides_turns_the_sign_and_keeps_p() -> None:
    pair = Pair(seed=2, skill=(1, 1.3))
    there, back = pair.compare(), pair.compare(base=pair.arm, arm=pair.base)
    for name, comparison in there.items():
        d, e = comparison.difference, back[name].difference
        assert (e.value, e.low, e.high) == pytest.approx((-d.value, -d.high, -d.low))
        assert back[name].p == comparison.p


def test_an_arm_against_itself_differs_by_nothing() -> None:
    pair = Pair()
    for comparison in pair.compare(ALL, arm=pair.base).values():
        d = comparison.difference
        assert (d.value, d.low, d.high) == pytest.approx((0, 0, 0), abs=1e-12)
        assert comparison.p == 1


def test_defaults_follow_the_kind_of_the_task() -> None:
    assert tuple(Pair().compare(draws=5)) == default_metrics(FIVE)
    assert default_metrics(FIVE)[0] == "label_nll"
    assert set(default_metrics(MOODS)) == {"label_nll", "accuracy", "macro_f1"}


def test_p_equals_the_exact_test_over_all_exchanges() -> None:
    pair = Pair(n=8, seed=5, skill=(0.2, 1.8))
    gaps = np.array(
        [
            a.log_probs[r.label] - b.log_probs[r.label]
            for a, b, r in zip(pair.base, pair.arm, pair.references.values(), strict=True)
        ]
    )
    means = np.array([gaps @ signs / 8 for signs in product((-1, 1), repeat=8)])
    exact = float((np.abs(means) >= abs(gaps.mean()) - 1e-12).mean())
    assert 0.005 < exact < 0.6  # Not a case in which any p would do.
    assert pair.compare(["label_nll"], draws=8000)["label_nll"].p == pytest.approx(exact, abs=0.02)


def test_p_is_uniform_where_nothing_differs() -> None:
    values = [Pair(n=40, seed=s, size=2).compare(["mse"], draws=199)["mse"].p for s in range(200)]
    assert kstest(values, "uniform").pvalue > 0.01
    assert sum(p <= 0.05 for p in values) <= 20


def test_intervals_of_the_difference_cover_zero_where_nothing_differs() -> None:
    found = [
        Pair(n=60, seed=s).compare(["label_nll"], draws=200)["label_nll"].difference
        for s in range(100)
    ]
    assert 88 <= sum(d.low <= 0 <= d.high for d in found) <= 100


def test_an_effect_is_found() -> None:
    found = Pair(n=150, skill=(0.5, 2), seed=6).compare(draws=999)
    for name, comparison in found.items():
        d = comparison.difference
        assert comparison.p == pytest.approx(0.001), name
        assert d.high < 0 if name in LOWER_IS_BETTER else d.low > 0, name


def test_pairs_make_it_sharper_than_two_scorecards() -> None:
    pair = Pair(n=100, seed=7)
    # The arm is the base, everywhere a little surer: the examples' own spread must cancel.
    arm = [replace(p, log_probs={k: v + 0.05 for k, v in p.log_probs.items()}) for p in pair.base]
    d = pair.compare(["label_nll"], arm=arm)["label_nll"].difference
    assert (d.value, d.low, d.high) == pytest.approx((-0.05, -0.05, -0.05))


def test_exchanging_whole_groups_is_stricter_when_they_go_together() -> None:
    pair = Pair(n=80, seed=8)
    # Eight groups, each all for one side: as single examples that looks like 80 votes.
    sure = {i: 0.3 if int(i[1:]) // 10 < 6 else -0.3 for i in pair.ids}
    arm = [
        replace(p, log_probs={k: v + sure[p.example_id] for k, v in p.log_probs.items()})
        for p in pair.base
    ]
    single = pair.compare(["label_nll"], arm=arm, draws=999)["label_nll"]
    pair.groups = {i: f"g{int(i[1:]) // 10}" for i in pair.ids}
    grouped = pair.compare(["label_nll"], arm=arm, draws=999)["label_nll"]
    assert single.p < 0.01 < 0.1 < grouped.p
    width = [c.difference.high - c.difference.low for c in (single, grouped)]
    assert width[1] > 2 * width[0]


def test_unreadable_counts_for_the_accuracy_only() -> None:
    pair = Pair(seed=9, size=2)
    lost = [
        replace(p, outcome=Outcome.UNREADABLE, label=None, log_probs={}, expected=None)
        for p in pair.arm[:10]
    ]
    found = pair.compare(["accuracy", "mse"], arm=[*lost, *pair.arm[10:]])
    both = Pair(seed=9, size=2)
    rest = both.compare(["mse"], base=both.base[10:], arm=both.arm[10:])
    assert found["mse"].difference.value == pytest.approx(rest["mse"].difference.value)
    assert (found["mse"].n, found["mse"].groups) == (50, 25)
    rate = pair.compare(["unreadable_rate"], arm=[*lost, *pair.arm[10:]])["unreadable_rate"]
    assert (rate.n, rate.groups) == (60, 30)
    assert rate.difference.value == pytest.approx(1 / 6)
    assert (found["accuracy"].n, found["accuracy"].groups) == (60, 30)
    right = [p.label == pair.references[p.example_id].label for p in pair.arm]
    want = sum(right[10:]) / 60 - pair.value(pair.base, "accuracy")
    assert found["accuracy"].difference.value == pytest.approx(want)


def test_seeds_are_paired_in_their_order() -> None:
    pair = Pair(n=30, seed=10)
    seeds = [answers(pair.ids, pair.truth, 1, s) for s in (50, 51)]
    plain = pair.compare(base=[*pair.base, *pair.arm], arm=[*seeds[0], *seeds[1]])
    # The same predictions, example by example instead of seed by seed.
    woven = pair.compare(
        base=[p for two in zip(pair.base, pair.arm, strict=True) for p in two],
        arm=[p for two in zip(*seeds, strict=True) for p in two],
    )
    for name, comparison in plain.items():
        d, e = comparison.difference, woven[name].difference
        assert (d.value, d.low, d.high) == pytest.approx((e.value, e.low, e.high)), name
        assert (comparison.n, comparison.groups) == (60, 30)


def test_the_kth_answer_is_paired_with_the_kth() -> None:
    pair = Pair(n=4, seed=11)
    lost = replace(pair.arm[0], outcome=Outcome.FAILED, label=None, log_probs={}, expected=None)
    # Second answers of e0: the arm's is lost, so the base's second one is left out too.
    other = answers(["e0"], pair.truth[:1], 3, 99)[0]
    found = pair.compare(["mse"], base=[*pair.base, other], arm=[lost, *pair.arm])["mse"]
    kept = pair.compare(["mse"], base=[*pair.base[1:], other], arm=[*pair.arm[1:], pair.arm[0]])[
        "mse"
    ]
    assert found.n == 4
    assert found.difference.value == pytest.approx(kept.difference.value)


@pytest.mark.parametrize("side", ["base", "arm"])
def test_other_examples_on_the_sides_are_refused(side: str) -> None:
    pair = Pair(n=5)
    short = pair.base[:-1] if side == "base" else pair.arm[:-1]
    with pytest.raises(EvidenceError, match="example e4: found"):
        pair.compare(base=short) if side == "base" else pair.compare(arm=short)
    with pytest.raises(EvidenceError, match="example e0: found 1 predictions of label and 2"):
        pair.compare(arm=[*pair.arm, pair.arm[0]])


def test_unknown_metric_and_nothing_to_compare_are_refused() -> None:
    pair = Pair(n=5)
    with pytest.raises(EvidenceError, match="found metric 'gain', expected one of accuracy"):
        pair.compare(["gain"])
    with pytest.raises(EvidenceError, match="no predictions"):
        pair.compare(base=[], arm=[])


def test_a_figure_that_one_side_lacks_is_not_a_number() -> None:
    pair = Pair(seed=12)
    bare = [replace(p, log_probs={}) for p in pair.base]
    found = pair.compare(["label_nll", "mse"], base=bare)
    d = found["label_nll"].difference
    assert all(math.isnan(v) for v in (d.value, d.low, d.high, found["label_nll"].p))
    assert found["mse"].p > 0
    assert "cannot be compared" in sentence(found["label_nll"], FIVE)


def seeds_of(pair: Pair, spreads: Sequence[float]) -> list[Prediction]:
    """Seeds of the base that are each surer everywhere by as much, and otherwise answer anew."""
    return [
        replace(p, log_probs={k: v - by for k, v in p.log_probs.items()})
        for seed, by in enumerate(spreads)
        for p in answers(pair.ids, pair.truth, 1, 70 + seed)
    ]


def test_several_seeds_are_tested_over_groups_and_seeds() -> None:
    pair = Pair(n=60, seed=13, size=4)
    arm = seeds_of(pair, (0.1, 0.3, 0.2))
    found = pair.compare(["label_nll"], base=pair.base * 3, arm=arm)["label_nll"]
    gaps = np.array(
        [
            b.log_probs[pair.references[b.example_id].label]
            - a.log_probs[pair.references[a.example_id].label]
            for b, a in zip(pair.base * 3, arm, strict=True)
        ]
    ).reshape(3, 60)
    order = sorted(set(pair.groups.values()))
    sums = np.array([gaps[:, [pair.groups[i] == g for i in pair.ids]].sum(axis=1) for g in order]).T
    own = gaps.mean(axis=1)
    want = crossed(float(own.mean()), own, sums @ resample(15, 200, 3).T / 60, 15)
    d, e = found.difference, want.difference
    assert (d.value, d.low, d.high) == pytest.approx((e.value, e.low, e.high))
    assert (found.p, found.detectable) == pytest.approx((want.p, want.detectable))
    assert (found.n, found.groups, found.seeds) == (180, 15, 3)


def test_seeds_that_differ_widen_every_interval() -> None:
    pair = Pair(n=60, seed=14)
    skilled = ("label_nll", "accuracy", "macro_f1", "mse", "qwk", "spearman")
    alike = pair.compare(skilled, base=pair.base * 3, arm=pair.arm * 3)
    others = pair.arm + answers(pair.ids, pair.truth, 3, 80) + answers(pair.ids, pair.truth, 0, 81)
    apart = pair.compare(skilled, base=pair.base * 3, arm=others)
    for name, comparison in apart.items():
        width = [c.difference.high - c.difference.low for c in (alike[name], comparison)]
        assert width[1] > 2 * width[0] > 0, name
        assert comparison.detectable > alike[name].detectable, name  # type: ignore[operator]


def test_the_order_of_the_seeds_does_not_matter() -> None:
    pair = Pair(n=40, seed=15)
    base, arm = pair.base + pair.arm, seeds_of(pair, (0.4, 0.1))
    there = pair.compare(base=base, arm=arm)
    back = pair.compare(base=base[40:] + base[:40], arm=arm[40:] + arm[:40])
    for name, comparison in there.items():
        d, e = comparison.difference, back[name].difference
        assert (d.value, d.low, d.high) == pytest.approx((e.value, e.low, e.high)), name
        assert comparison.p == pytest.approx(back[name].p), name


def test_examples_answered_unequally_often_count_as_of_one_seed() -> None:
    pair = Pair(n=20, seed=16)
    found = pair.compare(base=pair.base * 2 + pair.base[:1], arm=pair.arm * 2 + pair.arm[:1])
    assert {c.seeds for c in found.values()} == {1}
    assert {c.n for c in found.values()} == {41}


def test_a_seed_without_the_figure_leaves_no_interval() -> None:
    pair = Pair(n=20, seed=17)
    lost = [
        replace(p, outcome=Outcome.FAILED, label=None, log_probs={}, expected=None)
        for p in pair.arm
    ]
    found = pair.compare(["mse", "accuracy"], base=pair.base * 2, arm=pair.arm + lost)
    mse = found["mse"]
    assert mse.difference.value == pytest.approx(pair.compare(["mse"])["mse"].difference.value)
    assert math.isnan(mse.difference.low)
    assert math.isnan(mse.p)
    assert mse.detectable is None
    assert "not defined often enough for an interval" in sentence(mse, FIVE)
    assert found["accuracy"].p > 0


COMPARISON = Comparison(
    base="label", arm="why", metric="mse", p=0.004, n=400, groups=90,
    difference=Estimate(value=-0.2, low=-0.3, high=-0.1),
)  # fmt: skip


def told(metric: str, value: float, low: float, high: float) -> str:
    difference = Estimate(value=value, low=low, high=high)
    return sentence(replace(COMPARISON, metric=metric, difference=difference), FIVE)


def test_more_bias_is_neither_better_nor_worse() -> None:
    text = told("bias", 0.2, 0.1, 0.3)
    assert text.startswith("On usefulness, why has higher bias of the expected score than label (")


def test_a_sentence_says_about_which_seeds_it_speaks() -> None:
    assert "400 answers in 90 groups; about such examples and this seed only)." in sentence(
        COMPARISON, FIVE
    )
    text = sentence(replace(COMPARISON, seeds=3), FIVE)
    assert "400 answers in 90 groups by 3 seeds)." in text


def test_a_null_result_says_what_would_have_been_found() -> None:
    null = replace(COMPARISON, difference=Estimate(value=-0.01, low=-0.03, high=0.01))
    assert sentence(replace(null, detectable=0.0312), FIVE).endswith(
        "; a difference of 0.031 or more would have been found in 4 of 5 such studies."
    )
    for nothing in (None, 0.0):
        assert "4 of 5" not in sentence(replace(null, detectable=nothing), FIVE)
    assert "4 of 5" not in sentence(replace(COMPARISON, detectable=0.1), FIVE)


def test_a_sentence_tells_what_the_correction_leaves_of_a_claim() -> None:
    held = sentence(replace(COMPARISON, p_holm=0.03), FIVE)
    assert "p = 0.004 (0.03 after Holm's correction), 400 answers" in held
    assert "chance" not in held
    undone = sentence(replace(COMPARISON, p_holm=0.2), FIVE)
    assert undone.endswith("; among all that was compared it may be chance.")


@pytest.mark.parametrize(
    ("metric", "value", "claim"),
    [
        ("label_nll", -0.2, "why has lower (better) label loss (nats) than label"),
        ("mse", 0.2, "why has higher (worse) mean squared error than label"),
        ("accuracy", 0.2, "why has higher (better) accuracy than label"),
        ("qwk", -0.2, "why has lower (worse) quadratic weighted kappa than label"),
    ],
)
def test_a_sentence_says_which_way_is_better(metric: str, value: float, claim: str) -> None:
    text = told(metric, value, value - 0.1, value + 0.1)
    assert text.startswith(f"On usefulness, {claim}")
    assert f"{value:+.3g}, 95 % interval {value - 0.1:+.3g} to {value + 0.1:+.3g}" in text
    assert "p = 0.004, 400 answers in 90 groups" in text
    assert text.endswith(".")


def test_a_sentence_claims_nothing_when_the_interval_holds_zero() -> None:
    text = told("mse", -0.01, -0.03, 0.01)
    assert "no difference in mean squared error" in text
    assert "found at this size" in text
    assert "better" not in text
    lone = Estimate(value=-0.01, low=math.nan, high=math.nan)
    assert "too few groups" in sentence(replace(COMPARISON, groups=1, difference=lone), FIVE)


def test_every_figure_has_its_words() -> None:
    assert set(WORDS) == set(ALL)
    assert set(ALL) > LOWER_IS_BETTER
