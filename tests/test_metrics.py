"""Figures against scikit-learn and scipy, hand-computed cases, and simulated truth."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    log_loss,
    matthews_corrcoef,
    mean_absolute_error,
    mean_squared_error,
)

from whytune.errors import EvidenceError
from whytune.evidence.intervals import estimate, resample
from whytune.evidence.metrics import metrics_of, scorecard
from whytune.evidence.probabilistic import ece
from whytune.evidence.table import group_codes, read_mask, tabulate
from whytune.records import Kind, Label, Outcome, Prediction, Reference, Scorecard, Task

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


def answer(example_id: str, probs: Sequence[float], task: Task, mass: float = 1.0) -> Prediction:
    names = task.label_names
    ordinal = task.kind is Kind.ORDINAL
    return Prediction(
        example_id=example_id,
        task=task.name,
        outcome=Outcome.READ,
        label=names[int(np.argmax(probs))],
        log_probs={n: math.log(p * mass) for n, p in zip(names, probs, strict=True)},
        expected=float(np.dot(probs, task.values)) if ordinal else None,
    )


def unread(example_id: str, task: Task, outcome: Outcome = Outcome.UNREADABLE) -> Prediction:
    return Prediction(
        example_id=example_id, task=task.name, outcome=outcome, label=None, log_probs={}
    )


class World:
    """Made-up predictions about a task, with everything a scorecard wants."""

    def __init__(self, task: Task, n: int, seed: int, groups: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.task, self.ids = task, [f"e{i}" for i in range(n)]
        self.truth = rng.integers(len(task.labels), size=n)
        logits = rng.normal(size=(n, len(task.labels))) + 1.2 * np.eye(len(task.labels))[self.truth]
        self.probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        self.predictions = [
            answer(i, p, task, mass=0.9) for i, p in zip(self.ids, self.probs, strict=True)
        ]
        self.references = {
            i: Reference(label=task.label_names[t], score=task.value(task.label_names[t]))
            for i, t in zip(self.ids, self.truth, strict=True)
        }
        self.groups = {name: f"g{i % (groups or n)}" for i, name in enumerate(self.ids)}

    def score(self, predictions: list[Prediction] | None = None, draws: int = 100) -> Scorecard:
        return scorecard(
            self.predictions if predictions is None else predictions,
            self.references,
            self.groups,
            self.task,
            reference="gold",
            draws=draws,
            seed=7,
        )


def peers(world: World) -> dict[str, float]:
    truth, probs = world.truth, world.probs
    guess = probs.argmax(axis=1)
    labels = list(range(len(world.task.labels)))
    figures = {
        "accuracy": accuracy_score(truth, guess),
        "macro_f1": f1_score(truth, guess, average="macro", zero_division=0),
        "weighted_f1": f1_score(truth, guess, average="weighted", zero_division=0),
        "mcc": matthews_corrcoef(truth, guess),
        "label_nll": log_loss(truth, probs, labels=labels) - math.log(0.9),
        "brier": brier_score_loss(truth, probs, labels=labels, scale_by_half=False),
        "label_mass": 0.9,
        "unreadable_rate": 0,
    }
    if world.task.kind is Kind.ORDINAL:
        values = np.array(world.task.values)
        expected = probs @ values
        figures |= {
            "mae": mean_absolute_error(values[truth], expected),
            "mse": mean_squared_error(values[truth], expected),
            "rmse": math.sqrt(mean_squared_error(values[truth], expected)),
            "mae_steps": mean_absolute_error(truth, 4 * expected),
            "within_one": np.mean(
                [abs(int(t) - int(g)) <= 1 for t, g in zip(truth, guess, strict=True)]
            ),
            "bias": expected.mean() - values[truth].mean(),
            "qwk": cohen_kappa_score(truth, guess, labels=labels, weights="quadratic"),
            "spearman": spearmanr(expected, values[truth]).statistic,
            "kendall": kendalltau(expected, values[truth]).statistic,
        }
    return figures


@pytest.mark.parametrize("task", [FIVE, MOODS], ids=lambda task: str(task.kind))
@pytest.mark.parametrize(("n", "seed"), [(4, 0), (30, 1), (300, 2)])
def test_figures_equal_those_of_scikit_learn_and_scipy(task: Task, n: int, seed: int) -> None:
    world = World(task, n, seed)
    card = world.score()
    figures = peers(world)
    # The others are measured in tests/test_figures.py.
    others = {"ece", "ece_uniform", "aurc", "rps", "balanced_accuracy"}
    assert set(card.metrics) - set(figures) <= others
    for name, value in figures.items():
        assert card.metrics[name].value == pytest.approx(value, abs=1e-12), name
    guess = world.probs.argmax(axis=1)
    want = confusion_matrix(world.truth, guess, labels=range(len(task.labels)))
    assert np.array_equal(card.confusion, want)


@pytest.mark.parametrize("task", [FIVE, MOODS], ids=lambda task: str(task.kind))
def test_a_draw_equals_the_figure_on_the_predictions_written_out(task: Task) -> None:
    world = World(task, 40, 3, groups=13)
    codes = group_codes(world.predictions, world.groups)
    table = tabulate(world.predictions, world.references, task, codes, read_mask(world.predictions))
    counts = resample(table.groups, 5, seed=1)
    for name, figure in metrics_of(task).items():
        drawn = figure(table, counts)
        for taken, value in zip(counts, drawn, strict=True):
            rows = np.repeat(np.arange(40), taken[codes].astype(int))
            written = world.score([world.predictions[i] for i in rows], draws=0)
            assert value == pytest.approx(written.metrics[name].value, abs=1e-12), name


def test_several_seeds_of_an_example_are_pooled() -> None:
    world = World(FIVE, 20, 4)
    twice = world.score([*world.predictions, *world.predictions])
    assert twice.n == 40
    once = world.score()
    for name, figure in once.metrics.items():
        if name in ("ece", "aurc"):  # More examples, other bins and other coverages.
            continue
        # The copies belong to their groups: the interval must not shrink.
        assert twice.metrics[name].value == pytest.approx(figure.value)
        assert twice.metrics[name].low == pytest.approx(figure.low)
        assert twice.metrics[name].high == pytest.approx(figure.high)


def test_macro_f1_counts_only_labels_that_occur() -> None:
    world = World(MOODS, 2, 0)
    world.references = {i: Reference(label="joy") for i in world.ids}
    always = [answer(i, (0.8, 0.1, 0.1), MOODS) for i in world.ids]
    assert world.score(always).metrics["macro_f1"].value == 1
    half = [always[0], answer("e1", (0.1, 0.8, 0.1), MOODS)]
    assert world.score(half).metrics["macro_f1"].value == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("outcome", [Outcome.UNREADABLE, Outcome.REFUSED, Outcome.FAILED])
def test_unreadable_is_counted_wrong_for_accuracy_and_absent_elsewhere(outcome: Outcome) -> None:
    world = World(FIVE, 30, 5)
    readable = world.predictions[:20]
    card = world.score([*readable, *(unread(i, FIVE, outcome) for i in world.ids[20:])])
    alone = world.score(readable)
    assert (card.n, card.unreadable) == (30, 10)
    assert card.metrics["accuracy"].value == pytest.approx(
        alone.metrics["accuracy"].value * 20 / 30
    )
    assert card.metrics["unreadable_rate"].value == pytest.approx(1 / 3)
    for name in set(alone.metrics) - {"accuracy", "unreadable_rate"}:
        assert card.metrics[name].value == pytest.approx(alone.metrics[name].value), name
    assert card.confusion == alone.confusion


def undefined(card: Scorecard) -> set[str]:
    return {name for name, figure in card.metrics.items() if math.isnan(figure.value)}


@pytest.mark.parametrize("task", [FIVE, MOODS], ids=lambda task: str(task.kind))
def test_nothing_readable_leaves_only_the_shares_of_all_asked(task: Task) -> None:
    world = World(task, 5, 6)
    card = world.score([unread(i, task) for i in world.ids])
    assert card.metrics["accuracy"].value == 0
    assert card.metrics["unreadable_rate"].value == 1
    assert undefined(card) == set(card.metrics) - {"accuracy", "unreadable_rate"}
    assert sum(map(sum, card.confusion)) == 0


@pytest.mark.parametrize("task", [FIVE, MOODS], ids=lambda task: str(task.kind))
@pytest.mark.parametrize("draws", [0, 20])
def test_no_predictions_define_no_figure(task: Task, draws: int) -> None:
    card = World(task, 5, 6).score([], draws=draws)
    assert (card.n, card.unreadable) == (0, 0)
    assert undefined(card) == set(metrics_of(task))
    assert sum(map(sum, card.confusion)) == 0


def test_references_of_one_label_leave_its_recall_but_nothing_to_correlate() -> None:
    world = World(FIVE, 30, 6)
    world.references = {i: Reference(label="2", score=0.25) for i in world.ids}
    card = world.score()
    assert undefined(card) == {"mcc", "spearman", "kendall"}
    share = card.metrics["accuracy"]
    assert 0 < share.value < 1
    assert card.metrics["balanced_accuracy"] == share
    assert card.metrics["qwk"].value == 0


def test_answers_of_one_label_leave_the_ranks_of_their_expected_scores() -> None:
    world = World(FIVE, 30, 6)
    sure = [(0.1, 0.1, 0.5 + i / 100, 0.1, 0.2 - i / 100) for i in range(15)] * 2
    card = world.score([answer(i, p, FIVE) for i, p in zip(world.ids, sure, strict=True)])
    assert undefined(card) == {"mcc"}
    assert card.metrics["qwk"].value == pytest.approx(0)
    assert card.metrics["balanced_accuracy"].value == pytest.approx(1 / 5)
    tied = world.score([answer(i, sure[0], FIVE) for i in world.ids])
    assert undefined(tied) == {"mcc", "spearman", "kendall"}
    world.references = {i: Reference(label="3", score=0.5) for i in world.ids}
    same = world.score([answer(i, sure[0], FIVE) for i in world.ids])
    assert undefined(same) == {"mcc", "qwk", "spearman", "kendall"}
    assert same.metrics["accuracy"].value == same.metrics["macro_f1"].value == 1
    assert same.metrics["aurc"].value == 0


OF_PROBABILITIES = {"label_nll", "brier", "rps", "ece", "ece_uniform", "aurc", "label_mass"}


def test_without_probabilities_their_figures_are_not_a_number() -> None:
    world = World(FIVE, 30, 7)
    bare = [replace(p, log_probs={}) for p in world.predictions]
    card, full = world.score(bare), world.score()
    for name, figure in card.metrics.items():
        if name in OF_PROBABILITIES:
            assert all(math.isnan(v) for v in (figure.value, figure.low, figure.high)), name
        else:
            assert figure == full.metrics[name]
    # One answer without a probability: no silent figure on the rest.
    mixed = world.score([bare[0], *world.predictions[1:]])
    for name in OF_PROBABILITIES:
        assert math.isnan(mixed.metrics[name].value), name


def test_one_answer_without_an_expected_score_takes_the_figures_that_need_it() -> None:
    world = World(FIVE, 30, 7)
    card = world.score([replace(world.predictions[0], expected=None), *world.predictions[1:]])
    needing = {"mae", "mse", "rmse", "mae_steps", "bias", "spearman", "kendall"}
    assert undefined(card) == needing


def test_constant_answers_have_no_rank_correlation_but_a_kappa_of_chance() -> None:
    world = World(FIVE, 30, 8)
    card = world.score([answer(i, (0.1, 0.1, 0.6, 0.1, 0.1), FIVE) for i in world.ids])
    assert math.isnan(card.metrics["spearman"].value)
    assert card.metrics["qwk"].value == pytest.approx(0)
    world.references = {i: Reference(label="3", score=0.5) for i in world.ids}
    same = world.score([answer(i, (0.1, 0.1, 0.6, 0.1, 0.1), FIVE) for i in world.ids])
    assert math.isnan(same.metrics["qwk"].value)


def test_draws_without_a_figure_are_left_out_of_its_interval() -> None:
    # Two examples of three are alike: some draws have no spread, others have.
    world = World(FIVE, 3, 0)
    world.references = {
        i: Reference(label="1" if i == "e0" else "5", score=float(i != "e0")) for i in world.ids
    }
    peaked = {"e0": (0.9, 0.025, 0.025, 0.025, 0.025), "e1": (0.025, 0.025, 0.025, 0.025, 0.9)}
    peaked["e2"] = peaked["e1"]
    figure = world.score([answer(i, p, FIVE) for i, p in peaked.items()]).metrics["spearman"]
    assert (figure.value, figure.low, figure.high) == pytest.approx((1, 1, 1))


def bins_by_hand(confidence: Sequence[float], right: Sequence[bool]) -> float:
    pairs = sorted(zip(confidence, right, strict=True))
    parts = np.array_split(np.array(pairs), min(15, len(pairs)))
    gaps = (len(p) * abs(p[:, 0].mean() - p[:, 1].mean()) for p in parts)
    return float(sum(gaps) / len(pairs))


def two(confidence: Sequence[float], right: Sequence[bool]) -> float:
    yes_no = replace(MOODS, labels=MOODS.labels[:2])
    ids = [f"e{i}" for i in range(len(right))]
    answers = [answer(i, (c, 1 - c), yes_no) for i, c in zip(ids, confidence, strict=True)]
    references = {
        i: Reference(label="joy" if r else "anger") for i, r in zip(ids, right, strict=True)
    }
    codes = np.arange(len(ids))
    table = tabulate(answers, references, yes_no, codes, read_mask(answers))
    return float(ece(table, np.ones((1, len(ids))))[0])


def test_ece_of_a_case_done_by_hand() -> None:
    # Three examples, three bins of one: (|0.6 - 0| + |0.8 - 1| + |0.9 - 1|) / 3.
    assert two([0.9, 0.6, 0.8], [True, False, True]) == pytest.approx(0.3)
    # Sixteen examples, fifteen bins: the first holds the two lowest, one right and one wrong.
    confidence = [0.6, 0.7, *np.linspace(0.8, 0.94, 14)]
    right = [True, False, *[True] * 14]
    by_hand = (2 * abs(0.65 - 0.5) + sum(1 - c for c in confidence[2:])) / 16
    assert two(confidence, right) == pytest.approx(by_hand)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n=st.integers(1, 70))
def test_ece_equals_split_bins_where_no_confidence_ties(data: st.DataObject, n: int) -> None:
    confidence = data.draw(
        st.lists(st.floats(0.51, 0.99), min_size=n, max_size=n, unique_by=lambda c: round(c, 6))
    )
    right = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    assert two(confidence, right) == pytest.approx(bins_by_hand(confidence, right), abs=1e-9)


def test_ece_with_one_confidence_is_its_distance_from_the_accuracy() -> None:
    # All ties: whatever the bins, each gets the same share of right ones.
    right = [True] * 30 + [False] * 17
    assert two([0.9] * 47, right) == pytest.approx(0.9 - 30 / 47)


def test_ece_of_a_calibrated_answerer_is_near_zero_and_of_a_boaster_is_not() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 0.99, size=6000)
    right = rng.uniform(size=6000) < confidence
    assert two(list(confidence), list(right)) < 0.03
    assert two(list((confidence + 1) / 2), list(right)) > 0.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), ordinal=st.booleans())
def test_ranges_and_order(seed: int, n: int, ordinal: bool) -> None:
    world = World(FIVE if ordinal else MOODS, n, seed, groups=max(1, n // 3))
    card = world.score(draws=20)
    mixed = [world.predictions[i] for i in np.random.default_rng(seed).permutation(n)]
    again = world.score(mixed, draws=20)
    ranges = {"brier": (0, 2), "label_nll": (0, math.inf), "mae_steps": (0, 4)}
    ranges |= dict.fromkeys(("qwk", "spearman", "kendall", "mcc", "bias"), (-1, 1))
    for name, figure in card.metrics.items():
        low, high = ranges.get(name, (0, 1))
        for value in (figure.value, figure.low, figure.high):
            assert math.isnan(value) or low - 1e-9 <= value <= high + 1e-9, name
        other = again.metrics[name]
        assert (other.value, other.low, other.high) == pytest.approx(
            (figure.value, figure.low, figure.high), nan_ok=True, abs=1e-9
        ), name


def test_the_seed_decides_the_interval() -> None:
    world = World(FIVE, 50, 9)
    assert world.score().metrics == world.score().metrics
    other = scorecard(
        world.predictions, world.references, world.groups, FIVE,
        reference="gold", draws=100, seed=8,
    )  # fmt: skip
    assert other.metrics["mse"].value == world.score().metrics["mse"].value
    assert other.metrics["mse"].low != world.score().metrics["mse"].low


def test_a_single_group_has_no_interval() -> None:
    world = World(FIVE, 30, 10, groups=1)
    figure = world.score().metrics["mse"]
    assert figure.value > 0
    assert math.isnan(figure.low)
    assert math.isnan(figure.high)


def test_resampling_draws_as_many_groups_as_there_are() -> None:
    counts = resample(50, 2000, seed=0)
    assert (counts.sum(axis=1) == 50).all()
    # Each count is binomial: mean 1, variance 1 - 1/50.
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.12)
    assert counts.var() == pytest.approx(0.98, abs=0.02)


def test_interval_is_the_percentiles() -> None:
    drawn = np.append(np.arange(1001.0), np.nan)
    figure = estimate(1.0, drawn, groups=5)
    assert (figure.low, figure.high) == pytest.approx((25, 975))


def test_intervals_of_correlated_groups_are_wider() -> None:
    world = World(FIVE, 200, 11)
    # Examples of a group are right or wrong together.
    order = np.argsort(world.probs.argmax(axis=1) == world.truth)
    world.groups = {world.ids[i]: f"g{rank // 10}" for rank, i in enumerate(order)}
    clustered = world.score(draws=500).metrics["accuracy"]
    world.groups = {i: i for i in world.ids}
    single = world.score(draws=500).metrics["accuracy"]
    assert clustered.high - clustered.low > 2 * (single.high - single.low)


def test_intervals_cover_the_truth() -> None:
    covered = {"accuracy": 0, "mse": 0}
    truth = {"accuracy": 0.7, "mse": 0.1**2 + 0.05**2}
    rng = np.random.default_rng(1)
    hit = answer("", (0.025, 0.025, 0.9, 0.025, 0.025), FIVE)
    for _ in range(200):
        # A group's chance to be right varies: mean 0.7, so that its examples are correlated.
        chance = np.repeat(rng.beta(1.4, 0.6, size=60), 4)
        right = rng.uniform(size=240) < chance
        error = np.repeat(rng.normal(0, 0.1, size=60), 4) + rng.normal(0, 0.05, size=240)
        ids = [f"e{i}" for i in range(240)]
        answers = [replace(hit, example_id=i, expected=0.5) for i in ids]
        references = {
            i: Reference(label="3" if r else "5", score=0.5 + float(e))
            for i, r, e in zip(ids, right, error, strict=True)
        }
        groups = {name: f"g{i // 4}" for i, name in enumerate(ids)}
        card = scorecard(answers, references, groups, FIVE, reference="gold", draws=300, seed=0)
        for name, value in truth.items():
            covered[name] += card.metrics[name].low <= value <= card.metrics[name].high
    assert 180 <= covered["accuracy"] <= 198
    assert 180 <= covered["mse"] <= 198


def test_a_thousand_draws_take_seconds() -> None:
    world = World(FIVE, 400, 12, groups=100)
    began = time.process_time()
    world.score(draws=1000)
    assert time.process_time() - began < 3


BARE = Reference(label="1")
HIGH = Reference(label="5", score=1.0)
STRANGE = Reference(label="9", score=1.0)
GOOD = answer("e0", (0.1, 0.1, 0.6, 0.1, 0.1), FIVE)
NONE: dict[str, Reference] = {}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([GOOD], NONE, "e0: found no reference"),
        ([replace(GOOD, example_id="e9")], {"e9": HIGH}, "e9: found no group"),
        ([replace(GOOD, task="emotion")], {"e0": HIGH}, "found task emotion"),
        ([replace(GOOD, label="9")], {"e0": HIGH}, "it has label '9'"),
        ([GOOD], {"e0": STRANGE}, "its reference has label '9'"),
        ([GOOD], {"e0": BARE}, "no score"),
        ([replace(GOOD, log_probs={"1": -1.0})], {"e0": HIGH}, "found log-probabilities of 1,"),
        (
            [replace(GOOD, log_probs={**GOOD.log_probs, "2": math.nan})],
            {"e0": HIGH},
            "expected finite",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(
    predictions: list[Prediction], references: dict[str, Reference], message: str
) -> None:
    with pytest.raises(EvidenceError, match=message):
        scorecard(predictions, references, {"e0": "g"}, FIVE, reference="gold", draws=10, seed=0)
