"""Reliability and golden sets, against other implementations, hand-worked cases and known truths."""

import csv
import io
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from whytune.corpora import starter
from whytune.errors import TeachingError
from whytune.records import Annotation, Example, Kind, Label, Outcome, Reference, Task, Turn
from whytune.tasks import BUILT_IN
from whytune.teaching import agreement, golden, merge, methods, reliability, replies, review
from whytune.teaching.methods import Method
from whytune.teaching.ratings import Floats, Ratings, tabulate

TASK = BUILT_IN["on_topic"]
MOOD = Task(
    name="mood",
    kind=Kind.NOMINAL,
    question="?",
    labels=(Label(name="joy"), Label(name="fear"), Label(name="calm")),
)


def vote(
    teacher: str, value: float | str | None, example: str = "e", prompt: str = "p", why: str = ""
) -> Annotation:
    """A number is a score of on_topic, a text a label of mood, None an unreadable on_topic."""
    nominal = isinstance(value, str)
    return Annotation(
        example_id=example,
        task=MOOD.name if nominal else TASK.name,
        teacher=teacher,
        prompt=prompt,
        reply="raw",
        outcome=Outcome.UNREADABLE if value is None else Outcome.READ,
        score=value if isinstance(value, float) else None,
        label=TASK.nearest(value) if isinstance(value, float) else value if nominal else None,
        assessment=why or None,
    )


def of_scores(scores: Floats) -> Ratings:
    return tabulate(
        [
            vote(f"t{r}", float(x), f"e{e}")
            for e, row in enumerate(scores)
            for r, x in enumerate(row)
            if not math.isnan(x)
        ],
        TASK,
    )


# Pairs


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(5))
def test_kappa_equals_another_implementation(weights: reliability.Weights, seed: int) -> None:
    draw = np.random.default_rng(seed)
    one = draw.integers(0, 4, size=60).astype(float)
    other = np.where(draw.random(60) < 0.5, one, draw.integers(0, 5, size=60)).astype(float)
    expected = cohen_kappa_score(
        one.astype(int),
        other.astype(int),
        labels=range(5),
        weights=None if weights == "none" else weights,
    )
    assert reliability.cohen_kappa(one, other, 5, weights) == pytest.approx(expected, abs=1e-12)
    gaps = np.array([np.nan, 1.0])
    padded = np.append(one, gaps), np.append(other, gaps[::-1])
    found = reliability.cohen_kappa(padded[0], padded[1], 5, weights)
    assert found == pytest.approx(expected, abs=1e-12)


def test_kappa_that_is_not_defined_is_not_a_number() -> None:
    same = np.array([2.0, 2.0])
    assert math.isnan(reliability.cohen_kappa(same, same, 5))
    assert math.isnan(reliability.cohen_kappa(np.array([np.nan]), np.array([1.0]), 5))


def test_the_pairwise_matrix() -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 5, size=(40, 3)) / 4
    scores[draw.random(scores.shape) < 0.2] = np.nan
    scores[:, 2] = np.where(np.isnan(scores[:, 2]), np.nan, 0.1)
    ratings = of_scores(scores[~np.isnan(scores).all(axis=1)])
    found = reliability.pairwise(ratings, "linear")
    both = ~np.isnan(scores[:, :2]).any(axis=1)
    expected = scipy.stats.pearsonr(scores[both, 0], scores[both, 1]).statistic
    assert found.raters == ("t0 / p", "t1 / p", "t2 / p")
    assert found.correlation[0, 1] == pytest.approx(expected)
    assert found.n[0, 1] == both.sum()
    assert found.n[0, 0] == (~np.isnan(scores[:, 0])).sum()
    assert (found.kappa[0, 0], found.correlation[0, 0]) == pytest.approx((1, 1))
    assert np.isnan(found.correlation[2]).all(), "a rater who always says the same"
    codes = [(scores[both, i] * 4).astype(int) for i in (0, 1)]
    linear = cohen_kappa_score(*codes, labels=range(5), weights="linear")
    assert found.kappa[0, 1] == found.kappa[1, 0] == pytest.approx(linear)


def test_pairs_of_labels_without_order() -> None:
    said = [("joy", "joy"), ("fear", "calm"), ("calm", "calm"), ("joy", "fear")]
    votes = [
        vote(t, x, f"e{i}") for i, pair in enumerate(said) for t, x in zip("ab", pair, strict=True)
    ]
    found = reliability.pairwise(tabulate(votes, MOOD))
    expected = cohen_kappa_score([a for a, _ in said], [b for _, b in said])
    assert found.kappa[0, 1] == pytest.approx(expected)
    assert math.isnan(found.correlation[0, 1])


def test_a_teacher_with_several_prompts_is_one_rater_when_pooled() -> None:
    votes = [vote("a", 0.0, prompt="p"), vote("a", 0.5, prompt="q"), vote("b", 1.0)]
    found = tabulate(votes, TASK, pooled=True)
    assert (found.raters, found.scores.tolist()) == (("a", "b"), [[0.25, 1.0]])
    assert found.codes.tolist() == [[1.0, 4.0]]
    moods = [vote("a", "joy", prompt="p"), vote("a", "fear", prompt="q"), vote("b", "calm")]
    assert tabulate(moods, MOOD, pooled=True).codes.tolist() == [
        [pytest.approx(math.nan, nan_ok=True), 2.0]
    ]
    assert tabulate(moods, MOOD).raters == ("a / p", "a / q", "b / p")


# Intervals


@pytest.mark.parametrize("ranks", [False, True])
def test_the_interval_of_alpha_is_the_percentile_bootstrap(ranks: bool) -> None:
    draw = np.random.default_rng(1)
    truth = draw.random((60, 1))
    scores = np.round(np.clip(truth + draw.normal(scale=0.15, size=(60, 4)), 0, 1) * 4) / 4
    found = reliability.alpha_interval(of_scores(scores), ranks=ranks, draws=1500, seed=0)

    def alpha(index: Floats) -> float:
        return agreement.krippendorff_alpha(scores[index.astype(int)], Kind.ORDINAL, ranks=ranks)

    assert found.value == alpha(np.arange(60.0))
    other = scipy.stats.bootstrap(
        (np.arange(60),), alpha, n_resamples=1500, method="percentile", vectorized=False, rng=2
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.02)
    assert found.high - found.low == pytest.approx(other.high - other.low, rel=0.08)
    again = reliability.alpha_interval(of_scores(scores), ranks=ranks, draws=1500, seed=0)
    assert again == found


def test_one_example_has_no_interval() -> None:
    found = reliability.alpha_interval(of_scores(np.array([[0.0, 1.0]])))
    assert (found.value, math.isnan(found.low)) == (0.0, True)


# Severity and spread


def test_severity_and_spread_by_hand() -> None:
    scores = np.array([[0.2, 0.4, 0.6], [0.4, 0.8, np.nan], [np.nan, np.nan, 1.0]])
    first, second, third = reliability.severities(of_scores(scores))
    # The others of the first say 0.5 and 0.8.
    assert first["severity"] == pytest.approx((0.3 + 0.4) / 2)
    assert second["severity"] == pytest.approx((0.0 - 0.4) / 2)
    assert third["severity"] == pytest.approx(-0.3)
    assert [row["n"] for row in (first, second, third)] == [2, 2, 1]
    # Standard deviations on these two examples: 0.1; 0.2 of the second, 0 of the third.
    assert first["spread"] == pytest.approx(0.1 / math.sqrt((0.2**2 + 0) / 2))
    assert math.isnan(third["spread"])
    strangers = np.array([[0.2, 0.4, np.nan], [0.3, 0.5, np.nan], [np.nan, 0.6, 0.9]])
    first = reliability.severities(of_scores(strangers))[0]
    assert (first["severity"], first["spread"]) == pytest.approx((0.2, 1))
    (alone,) = reliability.severities(of_scores(np.array([[0.5], [1.0]])))
    assert (alone["n"], math.isnan(alone["severity"])) == (0, True)


# How many really judge


def test_identical_raters_are_one_and_independent_ones_are_all() -> None:
    draw = np.random.default_rng(0)
    errors = draw.normal(size=(4000, 1))
    assert reliability.effective_number(np.tile(errors, 6)) == pytest.approx(1)
    assert reliability.effective_number(errors) == 1
    assert reliability.effective_number(draw.normal(size=(4000, 6))) == pytest.approx(6, rel=0.1)
    assert math.isnan(reliability.effective_number(np.zeros((5, 3))))
    against = np.hstack([errors, -errors])
    assert reliability.effective_number(against) == 2


@pytest.mark.parametrize("shared", [0.2, 0.5, 0.8])
def test_the_effective_number_says_how_far_the_mean_errs(shared: float) -> None:
    # What it is for: k raters err on average like n independent ones, variance / n.
    draw = np.random.default_rng(1)
    common = draw.normal(size=(40_000, 1)) * math.sqrt(shared)
    errors = common + draw.normal(size=(40_000, 5)) * math.sqrt(1 - shared)
    found = reliability.effective_number(errors)
    assert found == pytest.approx(5 / (1 + 4 * shared), rel=0.02)
    assert errors.mean(axis=1).var() == pytest.approx(errors.var() / found, rel=0.02)
    with_truth = errors + draw.normal(size=(40_000, 1))
    assert 1 <= reliability.effective_number(with_truth) < found, "a lower bound"


def test_errors_against_a_golden_set() -> None:
    ratings = of_scores(np.array([[0.0, 1.0], [0.5, np.nan], [1.0, 1.0]]))
    known = {
        "e0": Reference(label="2", score=0.2),
        "e1": Reference(label="4"),
        "x": Reference(label="1"),
    }
    np.testing.assert_allclose(golden.errors(ratings, known), [[-0.2, 0.8], [-0.25, np.nan]])
    moods = [vote("a", "joy", "e0"), vote("b", "fear", "e0"), vote("a", "joy", "e1")]
    found = golden.errors(tabulate(moods, MOOD), {e: Reference(label="joy") for e in ("e0", "e1")})
    np.testing.assert_array_equal(found, [[0, 1], [0, np.nan]])


# Golden sets


def test_what_all_agree_on_within_a_step() -> None:
    votes = [
        vote("a", 0.0, "same"), vote("b", 0.0, "same"),
        vote("a", 0.0, "step"), vote("b", 1 / 3, "step"),
        vote("a", 0.0, "far"), vote("b", 0.5, "far"),
        vote("a", 0.0, "unread"), vote("b", 0.0, "unread"), vote("c", None, "unread"),
        vote("a", 0.0, "alone"),
    ]  # fmt: skip
    found = golden.agreed(votes, TASK)
    assert found == {
        "same": Reference(label="1", score=0.0),
        "step": Reference(label="2", score=1 / 6),
    }
    assert list(golden.agreed(votes, TASK, steps=0)) == ["same"]
    assert list(golden.agreed(votes, TASK, steps=2, least=1)) == ["same", "step", "far", "alone"]
    moods = [
        vote("a", "joy", "x"),
        vote("b", "joy", "x"),
        vote("a", "joy", "y"),
        vote("b", "fear", "y"),
    ]
    assert golden.agreed(moods, MOOD, steps=2) == {"x": Reference(label="joy")}


def test_table_two_by_hand() -> None:
    votes = [
        vote("a", 0.0, "e1", "p"), vote("b", 0.5, "e1", "p"), vote("a", 1.0, "e1", "q"),
        vote("a", 0.25, "e2", "p"), vote("b", None, "e2", "p"),
        vote("a", 1.0, "beyond", "p"), vote("a", "joy", "m", "p"), vote("b", "fear", "m", "p"),
    ]  # fmt: skip
    known = {
        TASK.name: {"e1": Reference(label="2", score=0.25), "e2": Reference(label="2")},
        MOOD.name: {"m": Reference(label="joy")},
    }
    model = merge.of_merger([vote("m", 0.75, "e1")], votes, TASK)
    rows = golden.table(votes, [TASK, MOOD], known, merged={"llm": model})
    by_judge = {row["judge"]: row for row in rows}
    names = ["p", "q", "average", "median", "most-frequent", "severity", "llm", "dawid-skene"]
    assert sorted(by_judge) == sorted(names)
    assert [row["kind"] for row in rows] == ["prompt"] * 2 + ["merge"] * 6

    def cells(judge: str, task: Task) -> list[float]:
        return [
            by_judge[judge][f"{task.name}_{figure}"] for figure in ("mae", "mse", "n", "missing")
        ]

    assert cells("p", TASK) == pytest.approx([0.5 / 3, 0.125 / 3, 3, 1])
    assert cells("q", TASK) == pytest.approx([0.75, 0.5625, 1, 0])
    assert cells("average", TASK) == pytest.approx([0.125, 0.03125, 2, 0])
    assert cells("llm", TASK) == pytest.approx([0.5, 0.25, 1, 1])
    assert cells("p", MOOD) == [0.5, 0.5, 2, 0]
    assert cells("most-frequent", MOOD)[2:] == [0, 1]
    assert math.isnan(cells("most-frequent", MOOD)[0])
    assert cells("average", MOOD) == [None] * 4


def test_held_out_no_vote_meets_its_own_reference() -> None:
    votes = [vote(t, x, "e1") for t, x in zip("abc", [0.0, 0.25, 0.25], strict=True)]
    votes += [vote(t, x, "e2") for t, x in zip("abc", [1.0, 0.0, 1.0], strict=True)]
    rows = {row["judge"]: row for row in golden.held_out(votes, [TASK])}
    # e1: a against 0.25, b against 0.125, c against 0.125; e2: only a and c agree, on 1 for b.
    expected = [0.25, 0.125, 0.125, 1.0]
    for judge in ("p", "average", "median"):
        assert rows[judge]["on_topic_n"] == 4
        assert rows[judge]["on_topic_mae"] == pytest.approx(sum(expected) / 4)
        assert rows[judge]["on_topic_mse"] == pytest.approx(sum(e * e for e in expected) / 4)
    with pytest.raises(TeachingError, match="found 1 teachers, expected two or more"):
        golden.held_out([vote("a", 0.5)], [TASK])


# Disagreement


def test_the_queue_begins_where_teachers_disagree_most() -> None:
    long = "begin " + "x" * 1000 + " end"
    examples = [
        Example(id=i, source="s", group="g", turns=(Turn(role="user", text=text),))
        for i, text in [("calm", "a"), ("torn", long), ("alone", "c"), ("also torn", "d")]
    ]
    votes = [
        vote("a", 0.5, "calm"), vote("b", 0.5, "calm"),
        vote("a", 0.0, "torn", why="=bad"), vote("b", 1.0, "torn"),
        vote("a", 0.0, "also torn"), vote("b", 1.0, "also torn"), vote("c", None, "also torn"),
        vote("a", 0.5, "alone"),
    ]  # fmt: skip
    rows = review.queue(votes, examples, TASK, width=60)
    assert [(r["example_id"], r["disagreement"]) for r in rows] == [
        ("also torn", 1.0), ("torn", 1.0), ("calm", 0.0),
    ]  # fmt: skip
    torn = rows[1]
    assert len(torn["text"]) == 60
    assert torn["text"].startswith("user: begin x")
    assert torn["text"].endswith("x end")
    assert (torn["a / p score"], torn["a / p assessment"], torn["b / p score"]) == (0, "=bad", 1)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writerows(rows)  # refuses a row with other columns
    moods = [vote("a", "joy", "calm"), vote("b", "fear", "calm")]
    (mood,) = review.queue(moods, examples, MOOD)
    assert (mood["a / p score"], mood["disagreement"]) == ("joy", 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=3), min_size=1, max_size=6))
def test_the_queue_is_ordered_by_distance(table: list[list[float]]) -> None:
    votes = [vote(f"t{r}", x, f"e{e}") for e, row in enumerate(table) for r, x in enumerate(row)]
    turn = (Turn(role="user", text="t"),)
    examples = [Example(id=f"e{e}", source="", group="", turns=turn) for e in range(len(table))]
    found = [row["disagreement"] for row in review.queue(votes, examples, TASK)]
    distances = [
        float(np.mean([abs(a - b) for a, b in itertools.combinations(row, 2)])) for row in table
    ]
    assert found == pytest.approx(sorted(distances, reverse=True), abs=1e-8)


# The starter set


def test_the_starter_set_has_the_shape_of_table_two() -> None:
    tasks = [BUILT_IN[name] for name in starter.TASKS]
    annotations = replies.read_all(starter.read("starter", tasks).replies, tasks)
    known = {task.name: golden.agreed(annotations, task) for task in tasks}
    rows = golden.table(annotations, tasks, known)
    prompts = ["scale-1-4", "scale-1-4-examples", "scale-1-5", "scale-1-5-examples"]
    assert [row["judge"] for row in rows] == [*prompts, *methods.fitting(TASK)]
    outside = {row["judge"]: row for row in golden.held_out(annotations, tasks)}
    assert list(outside) == [row["judge"] for row in rows]
    for task in tasks:
        strict = golden.agreed(annotations, task, steps=0)
        assert 0 < len(strict) < len(known[task.name]) < 180
        assert set(strict) < set(known[task.name])
        for row in rows:
            share = 3 if row["kind"] == "prompt" else 1
            assert row[f"{task.name}_n"] == share * len(known[task.name])
            assert row[f"{task.name}_missing"] == 0
            assert (
                row[f"{task.name}_mae"] ** 2 <= row[f"{task.name}_mse"] <= row[f"{task.name}_mae"]
            )
        # A reference made of the votes' mean: why one that the votes did not make is needed.
        (mean,) = [row for row in rows if row["judge"] == Method.AVERAGE]
        assert mean[f"{task.name}_mae"] == pytest.approx(0, abs=1e-12)
        for prompt in prompts:
            for figure in ("mae", "mse"):
                key = f"{task.name}_{figure}"
                assert 0 < outside[Method.AVERAGE][key] < outside[prompt][key]


@pytest.mark.parametrize("name", starter.TASKS)
def test_the_starter_sets_teachers(name: str) -> None:
    task = BUILT_IN[name]
    reading = starter.read("starter", [task])
    annotations = replies.read_all(reading.replies, [task])
    raters, teachers = tabulate(annotations, task), tabulate(annotations, task, pooled=True)
    assert (len(raters.raters), teachers.raters) == (12, ("teacher-a", "teacher-b", "teacher-c"))
    interval = reliability.alpha_interval(raters, draws=100)
    assert interval.low < interval.value < interval.high < 1
    # The mean of four prompts is steadier than one of them.
    assert reliability.alpha_interval(teachers, draws=2).value > interval.high
    assert 1 <= reliability.effective_number(raters.scores) <= 12
    # With equal n the differences to the others cancel.
    rows = reliability.severities(raters)
    assert math.fsum(row["severity"] for row in rows) == pytest.approx(0, abs=1e-9)
    assert [row["n"] for row in rows] == [180] * 12
    queued = review.queue(annotations, reading.examples, task)
    assert len(queued) == 180
    assert len(queued[0]) == 4 + 2 * 12
