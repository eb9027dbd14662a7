"""The human ceiling by hand, and correlated errors against scipy."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from whytune.errors import EvidenceError
from whytune.evidence.ceiling import Ceiling, Correlation, ceiling, error_correlation
from whytune.records import (
    Annotation,
    Kind,
    Label,
    Outcome,
    Prediction,
    Reference,
    Task,
)

FIVE = Task(
    name="usefulness", kind=Kind.ORDINAL, question="How useful?",
    labels=tuple(Label(name=str(i)) for i in range(1, 6)),
)  # fmt: skip
NATURAL = Task(name="naturalness", kind=Kind.ORDINAL, question="How natural?", labels=FIVE.labels)
MOODS = Task(
    name="mood", kind=Kind.NOMINAL, question="Which mood?",
    labels=tuple(Label(name=name) for name in ("joy", "anger", "fear")),
)  # fmt: skip


def said(task: Task, by_example: Mapping[str, Mapping[str, str | None]]) -> list[Annotation]:
    """Example id -> rater -> label; None: could not be read."""
    return [
        Annotation(
            example_id=i, task=task.name, teacher=rater, prompt="rating", reply=str(label),
            outcome=Outcome.READ if label else Outcome.UNREADABLE, label=label,
            score=task.value(label) if label else None,
        )
        for i, own in by_example.items()
        for rater, label in own.items()
    ]  # fmt: skip


def measured(
    task: Task, by_example: Mapping[str, Mapping[str, str | None]], draws: int = 0
) -> Ceiling:
    groups = {i: f"g-{i}" for i in by_example}
    found = ceiling(said(task, by_example), groups, task, draws=draws, seed=0)
    assert found is not None
    return found


def values(found: Ceiling) -> dict[str, float]:
    return {name: one.value for name, one in found.metrics.items()}


def test_nominal_by_hand() -> None:
    found = measured(MOODS, {
        # a and b have each the other's and c's labels before them: a tie (joy, fear) for both.
        "e0": {"a": "joy", "b": "joy", "c": "fear"},
        "e1": {"a": "joy", "b": "joy", "c": "joy", "d": "anger"},
        "e2": {"a": "joy", "b": "fear"},
        "e3": {"a": "joy", "b": None},  # one readable answer only
    })  # fmt: skip
    assert (found.raters, found.examples, found.n, found.ties) == (4, 3, 9, 2)
    # Without ties 7 answers: e0 c wrong; e1 a, b, c right, d wrong; e2 both wrong.
    # Pairs: e0 1 of 3, e1 3 of 6, e2 0 of 1.
    assert values(found) == pytest.approx({"accuracy": 3 / 7, "label_agreement": 4 / 10})


def test_ordinal_by_hand() -> None:
    found = measured(FIVE, {"e0": {"a": "1", "b": "3", "c": "3"}, "e1": {"a": "5", "b": "4"}})
    # Scores 0, .5, .5 and 1, .75. Others' means: .5, .25, .25 and .75, 1.
    gaps = [0.5, 0.25, 0.25, 0.25, 0.25]
    # a is wrong on e0, where b and c see a tie (1, 3); both are wrong on e1.
    assert (found.n, found.ties) == (5, 2)
    assert values(found) == pytest.approx({
        "accuracy": 0.0,
        "label_agreement": 1 / 4,
        "mae": sum(gaps) / 5,
        "mse": sum(g * g for g in gaps) / 5,
    })  # fmt: skip


def test_a_rater_is_never_held_against_its_own_answers() -> None:
    # b says one thing with two prompts: for b there is a only, and the pair of b's own is no pair.
    both = said(MOODS, {"e0": {"a": "joy", "b": "fear"}})
    again = Annotation(example_id="e0", task="mood", teacher="b", prompt="other", reply="fear",
                       outcome=Outcome.READ, label="fear")  # fmt: skip
    found = ceiling([*both, again], {"e0": "g"}, MOODS, draws=0, seed=0)
    assert found is not None
    assert (found.raters, found.n, found.ties) == (2, 3, 0)
    assert values(found) == {"accuracy": 0.0, "label_agreement": 0.0}
    alone = [both[1], again]
    assert ceiling(alone, {"e0": "g"}, MOODS, draws=0, seed=0) is None


def test_other_tasks_and_other_examples_are_passed_over() -> None:
    own = said(MOODS, {"e0": {"a": "joy", "b": "joy"}, "e1": {"a": "joy", "b": "fear"}})
    others = said(FIVE, {"e0": {"a": "1", "b": "2"}})
    found = ceiling([*own, *others], {"e0": "g"}, MOODS, draws=0, seed=0)
    assert found is not None
    assert values(found) == {"accuracy": 1.0, "label_agreement": 1.0}
    assert ceiling([*own, *others], {"e9": "g"}, MOODS, draws=0, seed=0) is None


def test_nothing_but_ties_has_no_accuracy() -> None:
    found = measured(MOODS, {"e0": {"a": "joy", "b": "fear", "c": "anger"}}, draws=20)
    assert (found.n, found.ties) == (3, 3)
    assert math.isnan(found.metrics["accuracy"].value)
    assert found.metrics["label_agreement"].value == 0
    # One group says nothing of the spread between groups.
    assert math.isnan(found.metrics["label_agreement"].low)


def test_a_group_of_ties_says_nothing_of_the_spread_of_the_accuracy() -> None:
    tie = {"a": "joy", "b": "fear", "c": "anger"}
    found = measured(MOODS, {"e0": tie, "e1": {"a": "joy", "b": "joy"}}, draws=20).metrics
    assert (found["accuracy"].value, found["label_agreement"].low) == (1.0, 0.0)
    assert math.isnan(found["accuracy"].low)


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12345"), min_size=2),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_ordinal_equals_the_loops_written_out(rows: list[dict[str, str]]) -> None:
    hits, gaps, pairs = [], [], []
    for row in rows:
        for rater, label in row.items():
            others = [other for name, other in row.items() if name != rater]
            tops = {o for o in others if others.count(o) == max(map(others.count, others))}
            if len(tops) == 1:
                hits.append(tops == {label})
            gaps.append(abs(int(label) - float(np.mean([int(o) for o in others]))) / 4)
        pairs += [x == y for x, y in combinations(row.values(), 2)]
    found = measured(FIVE, {f"e{i}": row for i, row in enumerate(rows)})
    assert found.ties == len(gaps) - len(hits)
    want = {
        "accuracy": float(np.mean(hits)) if hits else math.nan,
        "label_agreement": float(np.mean(pairs)),
        "mae": float(np.mean(gaps)),
        "mse": float(np.mean(np.square(gaps))),
    }
    assert values(found) == pytest.approx(want, nan_ok=True)


def test_intervals_are_those_of_whole_groups() -> None:
    # Twenty examples in two groups, one all right, one all wrong: only 0, 1/2 and 1 can be drawn.
    rows = {f"e{i:02}": {"a": "joy", "b": "joy" if i < 10 else "fear"} for i in range(20)}
    groups = {name: "g0" if name < "e10" else "g1" for name in rows}
    found = ceiling(said(MOODS, rows), groups, MOODS, draws=200, seed=0)
    assert found is not None
    accuracy = found.metrics["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == (0.5, 0, 1)
    alone = measured(MOODS, rows, draws=200).metrics["accuracy"]
    assert 0.2 < alone.low < 0.5 < alone.high < 0.8


class Errors:
    """Answers with given errors to two ordinal tasks and a nominal one."""

    def __init__(self, n: int = 60, seed: int = 0, shared: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        mood = shared * rng.normal(size=n)
        self.ids = [f"e{i}" for i in range(n)]
        self.errors = {
            # In steps, so that ranks tie.
            task.name: np.clip(np.round((mood + rng.normal(size=n)) / 12, 2), -0.5, 0.5)
            for task in (FIVE, NATURAL)
        }
        self.wrong = rng.random(n) < 1 / (1 + np.exp(-2 * mood))
        self.groups = {i: f"g{k // 2}" for k, i in enumerate(self.ids)}
        self.references: dict[str, dict[str, Reference]] = {
            task.name: {i: Reference(label="3", score=0.5) for i in self.ids}
            for task in (FIVE, NATURAL)
        } | {"mood": {i: Reference(label="joy") for i in self.ids}}
        self.answers = {
            name: [answer(i, name, "3", 0.5 + e) for i, e in zip(self.ids, errors, strict=True)]
            for name, errors in self.errors.items()
        } | {
            "mood": [
                answer(i, "mood", "fear" if wrong else "joy", None)
                for i, wrong in zip(self.ids, self.wrong, strict=True)
            ]
        }

    def correlate(self, *tasks: Task, draws: int = 0) -> list[Correlation]:
        return error_correlation(
            self.answers, self.references, self.groups, tasks, draws=draws, seed=0
        )


def answer(example_id: str, task: str, label: str, expected: float | None) -> Prediction:
    return Prediction(example_id=example_id, task=task, outcome=Outcome.READ, label=label,
                      log_probs={}, expected=expected)  # fmt: skip


def lost(example_id: str, task: str) -> Prediction:
    return Prediction(example_id=example_id, task=task, outcome=Outcome.FAILED, label=None,
                      log_probs={})  # fmt: skip


def test_every_pair_equals_scipy() -> None:
    world = Errors()
    sides: dict[str, Any] = {**world.errors, "mood": world.wrong.astype(float)}
    found = world.correlate(FIVE, NATURAL, MOODS)
    assert [(row.one, row.other) for row in found] == [
        ("usefulness", "naturalness"),
        ("usefulness", "mood"),
        ("naturalness", "mood"),
    ]
    for row in found:
        one, other = sides[row.one], sides[row.other]
        assert row.pearson.value == pytest.approx(pearsonr(one, other).statistic)
        assert row.spearman.value == pytest.approx(spearmanr(one, other).statistic)
        assert (row.n, row.groups) == (60, 30)


def test_the_interval_is_that_of_samples_written_out() -> None:
    world = Errors(n=40, seed=1)
    (row,) = world.correlate(FIVE, NATURAL, draws=300)
    one, other = world.errors.values()
    names = sorted(set(world.groups.values()))
    rng = np.random.default_rng(0)
    drawn = []
    for picks in rng.integers(20, size=(300, 20)):
        members: list[int] = []
        for pick in picks:
            members += [k for k, i in enumerate(world.ids) if world.groups[i] == names[pick]]
        pair = one[members], other[members]
        drawn.append((pearsonr(*pair).statistic, spearmanr(*pair).statistic))
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    assert (row.pearson.low, row.pearson.high) == pytest.approx((low[0], high[0]))
    assert (row.spearman.low, row.spearman.high) == pytest.approx((low[1], high[1]))


def test_leaks_are_told_from_none() -> None:
    (apart,) = Errors(n=200, seed=2, shared=0).correlate(FIVE, NATURAL, draws=200)
    (together,) = Errors(n=200, seed=2, shared=2).correlate(FIVE, NATURAL, draws=200)
    assert apart.pearson.low < 0 < apart.pearson.high
    assert together.pearson.low > 0.5


def test_seeds_are_averaged_and_unreadable_answers_left_out() -> None:
    world = Errors(n=12, seed=3)
    first = world.answers["usefulness"]
    second = [answer(p.example_id, p.task, "3", 0.5) for p in first]
    world.answers["usefulness"] = [lost("e0", "usefulness"), *first[1:], *second[1:]]
    (row,) = world.correlate(FIVE, NATURAL)
    assert row.n == 11
    # Halves of the errors: the correlation is the same.
    want = pearsonr(world.errors["usefulness"][1:], world.errors["naturalness"][1:]).statistic
    assert row.pearson.value == pytest.approx(want)


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_without_spread_there_is_no_correlation(kept: int) -> None:
    world = Errors(n=6, seed=4)
    # 0.1 and 0.3 - 0.2 are the same error.
    world.answers["usefulness"] = [
        answer(i, "usefulness", "3", 0.5 + (0.1 if k % 2 else 0.3 - 0.2))
        for k, i in enumerate(world.ids)
    ]
    world.answers["naturalness"] = [
        p if k < kept else lost(p.example_id, p.task)
        for k, p in enumerate(world.answers["naturalness"])
    ]
    (row,) = world.correlate(FIVE, NATURAL, draws=20)
    assert row.n == kept
    for figure in (row.pearson, row.spearman):
        assert all(math.isnan(v) for v in (figure.value, figure.low, figure.high))


def test_draws_without_spread_are_left_out() -> None:
    world = Errors(n=4, seed=5)
    for name, errors in (("usefulness", (0.1, 0.1, 0.2, 0.3)), ("naturalness", (0.1, 0.1, 0, 0.4))):
        world.answers[name] = [
            answer(i, name, "3", 0.5 + e) for i, e in zip(world.ids, errors, strict=True)
        ]
    (row,) = world.correlate(FIVE, NATURAL, draws=50)  # some draws take the first group twice
    assert row.pearson.low <= row.pearson.value <= row.pearson.high == pytest.approx(1)


def refused(change: str) -> tuple[Errors, Sequence[Task]]:
    world = Errors(n=6)
    if change == "nothing asked":
        del world.answers["naturalness"]
    elif change == "no reference":
        del world.references["naturalness"]["e0"]
    elif change == "no group":
        del world.groups["e0"]
    elif change == "no score":
        world.references["naturalness"]["e0"] = Reference(label="3")
    else:
        world.answers["naturalness"][0] = answer("e0", "naturalness", "3", None)
    return world, (FIVE, NATURAL)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("nothing asked", "task naturalness: found no predictions, expected one or more"),
        ("no reference", "e0 of naturalness: found no reference, expected one"),
        ("no group", "e0 of usefulness: found no group, expected one"),
        ("no score", "e0 of naturalness: the reference has no score"),
        ("no expected", "e0 of naturalness: the prediction has no score"),
    ],
)
def test_what_cannot_be_correlated_is_refused(change: str, told: str) -> None:
    world, tasks = refused(change)
    with pytest.raises(EvidenceError, match=told):
        world.correlate(*tasks)
