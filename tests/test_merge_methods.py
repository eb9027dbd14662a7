"""Ways to merge, against published figures, known truths, brute force and identities."""

import math
import random
import statistics
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whytune.errors import TeachingError
from whytune.records import Annotation, Kind, Label, Outcome, Task
from whytune.tasks import BUILT_IN
from whytune.teaching import latent, merge, methods
from whytune.teaching.methods import Method
from whytune.teaching.ratings import Floats, tabulate

TASK = BUILT_IN["on_topic"]
MOOD = Task(
    name="mood",
    kind=Kind.NOMINAL,
    question="?",
    labels=(Label(name="joy"), Label(name="fear"), Label(name="calm")),
)


def vote(
    teacher: str, value: float | str | None, example: str = "e", task: Task = TASK, **said: str
) -> Annotation:
    """A number is a score, a text a label, None an unreadable reply."""
    label = task.nearest(value) if isinstance(value, float) else value
    assert label is None or isinstance(label, str)
    return Annotation(
        example_id=example,
        task=task.name,
        teacher=teacher,
        prompt="p",
        reply="raw",
        outcome=Outcome.UNREADABLE if value is None else Outcome.READ,
        score=value if isinstance(value, float) else None,
        label=label,
        assessment=said.get("assessment"),
        confidence=said.get("confidence"),
    )


def votes_of(values: list[float]) -> list[Annotation]:
    return [vote(f"t{i}", value) for i, value in enumerate(values)]


def votes_of_table(table: Floats, task: Task) -> list[Annotation]:
    """[example, rater]: scores of an ordinal task, codes of a nominal one."""
    nominal = task.kind is Kind.NOMINAL
    return [
        vote(f"t{r}", task.label_names[int(x)] if nominal else float(x), f"e{e}", task)
        for e, row in enumerate(table)
        for r, x in enumerate(row)
        if not math.isnan(x)
    ]


# Simple methods

thirds_and_quarters = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0])


@settings(deadline=None)
@given(st.lists(thirds_and_quarters, min_size=1, max_size=12))
def test_mean_median_and_most_frequent_by_definition(values: list[float]) -> None:
    votes = votes_of(values)
    for method, expected in [
        (Method.AVERAGE, statistics.mean(values)),
        (Method.MEDIAN, float(np.median(values))),
    ]:
        (found,) = merge.merge(votes, TASK, 0, method=method)
        assert found.score is not None
        assert found.score == pytest.approx(expected)
        assert found.label == TASK.nearest(found.score)
    (found,) = merge.merge(votes, TASK, 0, method=Method.MOST_FREQUENT)
    counts = Counter(v.label for v in votes)
    winners = [label for label in TASK.label_names if counts[label] == max(counts.values())]
    # Exactly, in twelfths.
    mean = sum((Fraction(round(v * 12), 12) for v in values), Fraction()) / len(values)
    place = {label: Fraction(i, 4) for i, label in enumerate(TASK.label_names)}
    expected_label = min(
        winners, key=lambda w: (abs(place[w] - mean), abs(place[w] - Fraction(1, 2)), place[w])
    )
    assert (found.label, found.score) == (expected_label, TASK.value(expected_label))


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([0.0, 0.0, 1.0, 1.0, 0.75], "5"),  # the mean is 0.55
        ([0.25, 0.5], "3"),  # as near to the mean; 3 is nearer the middle
        ([0.75, 0.5], "3"),
        ([0.25, 0.75], "2"),  # and as near to the middle
        ([0.0, 0.0, 1.0], "1"),
    ],
)
def test_the_most_frequent_of_labels_that_tie(values: list[float], label: str) -> None:
    (found,) = merge.merge(votes_of(values), TASK, 0, method=Method.MOST_FREQUENT)
    assert found.label == label


def test_without_a_method_all_is_as_before() -> None:
    ordinal = votes_of([0.0, 0.5, 0.75])
    assert merge.merge(ordinal, TASK, 3) == merge.merge(ordinal, TASK, 3, method=Method.AVERAGE)
    nominal = [vote("a", "joy", task=MOOD), vote("b", "fear", task=MOOD)]
    assert merge.merge(nominal, MOOD, 3) == merge.merge(
        nominal, MOOD, 3, method=Method.MOST_FREQUENT
    )


@pytest.mark.parametrize("task", [TASK, MOOD])
def test_a_method_for_another_kind_is_refused(task: Task) -> None:
    value = 0.5 if task is TASK else "joy"
    for method in set(Method) - set(methods.fitting(task)):
        with pytest.raises(TeachingError, match=rf"method {method} for {task.kind} labels, expect"):
            merge.merge([vote("a", value, task=task)], task, 0, method=method)


@pytest.mark.parametrize("method", methods.fitting(TASK))
def test_ordinal_methods_agree_where_there_is_nothing_to_choose(method: Method) -> None:
    votes = [vote("a", v / 4, f"e{v}") for v in range(5)] + [vote("b", None, "e9")]
    found = merge.merge(votes, TASK, 0, method=method)
    assert [v.label for v in found] == ["1", "2", "3", "4", "5", None]
    assert [v.score for v in found[:5]] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert merge.dropped(found) == {"no vote": 1, "unread replies": 1}


def test_what_nominal_methods_drop_is_counted() -> None:
    votes = [
        vote("a", "joy", "tie", MOOD), vote("b", "fear", "tie", MOOD), vote("c", None, "tie", MOOD),
        vote("a", "calm", "clear", MOOD), vote("b", None, "none", MOOD),
    ]  # fmt: skip
    found = merge.merge(votes, MOOD, 0)
    assert [v.label for v in found] == [None, "calm", None]
    assert merge.dropped(found) == {"no vote": 1, "tie": 1, "unread replies": 2}


@pytest.mark.parametrize("task", [TASK, MOOD])
def test_no_method_looks_at_the_order_of_the_replies(task: Task) -> None:
    draw = np.random.default_rng(5)
    top = 3 if task is MOOD else 5
    table = draw.integers(0, top, size=(20, 4)) / (1 if task is MOOD else 4)
    votes = votes_of_table(table.astype(float), task)
    shuffled = list(votes)
    random.Random(1).shuffle(shuffled)
    for method in methods.fitting(task):
        one = {v.example_id: v for v in merge.merge(votes, task, 0, method=method)}
        assert {v.example_id: v for v in merge.merge(shuffled, task, 0, method=method)} == one


# Severity


def test_severity_of_one_rater_is_the_mean() -> None:
    scores = np.random.default_rng(0).random((20, 1))
    np.testing.assert_allclose(latent.severity(scores).scores, scores[:, 0], atol=1e-12)


def test_severity_is_taken_out_whole_where_nothing_else_differs() -> None:
    truth = np.linspace(0.3, 0.7, 30)
    slope, shift = np.array([1.0, 0.5, 1.2]), np.array([0.1, -0.1, 0.0])
    scores = 0.5 + shift + slope * (truth[:, None] - 0.5)
    found = latent.severity(scores)
    np.testing.assert_allclose(found.scores, scores.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(found.severity, -shift, atol=1e-9)
    np.testing.assert_allclose(found.spread, slope / slope.mean(), atol=1e-9)
    # A severe rater who is absent where the others are present changes nothing but the scale.
    scores[::3, 0] = np.nan
    found = latent.severity(scores)
    assert np.corrcoef(found.scores, truth)[0, 1] == pytest.approx(1, abs=1e-9)
    assert np.corrcoef(np.nanmean(scores, axis=1), truth)[0, 1] < 0.99


@pytest.mark.parametrize("seed", range(5))
def test_severity_is_nearer_a_known_truth_than_the_mean(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.uniform(0.2, 0.8, 200)
    noise = draw.normal(size=(200, 4)) * [0.02, 0.3, 0.1, 0.1]
    scores = np.clip(truth[:, None] + [-0.1, 0.0, 0.1, 0.0] + noise, 0, 1)
    missing = draw.random(scores.shape) < 0.2
    missing[missing.all(axis=1), 0] = False
    scores[missing] = np.nan
    found = latent.severity(scores)
    assert found.settled
    error = np.abs(found.scores - truth).mean()
    assert error < 0.75 * np.abs(np.nanmean(scores, axis=1) - truth).mean()
    assert found.weight[1] < 0.5 * min(found.weight[0], *found.weight[2:])
    assert found.weight.sum() == pytest.approx(1)
    assert found.severity[0] > 0 > found.severity[2]


def test_votes_without_a_fixed_point_are_averaged() -> None:
    found = latent.severity(np.array([[1.0, 0.0], [0.5, 1.0]]))
    assert not found.settled
    assert (found.scores.tolist(), found.weight.tolist()) == ([0.5, 0.75], [0.5, 0.5])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.lists(st.none() | thirds_and_quarters, min_size=3, max_size=3), min_size=1, max_size=8
    )
)
def test_severity_never_leaves_the_scale(rows: list[list[float | None]]) -> None:
    scores = np.array([[math.nan if x is None else x for x in row] for row in rows])
    scores = scores[:, ~np.isnan(scores).all(axis=0)]
    if not scores.size:
        return
    found = latent.severity(scores)
    silent = np.isnan(scores).all(axis=1)
    np.testing.assert_array_equal(np.isnan(found.scores), silent)
    assert ((found.scores[~silent] >= 0) & (found.scores[~silent] <= 1)).all()
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.spread).all()


# Dawid and Skene

# Table 1 of the source: five anaesthetists on 45 patients, the first of them three times.
PATIENTS = """
1111111 3334343 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343
1111111 2223212 1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222
1111111 1111111 2322222 1111111 1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343
2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""


def anaesthetists() -> Floats:
    votes = np.zeros((45, 5, 4))
    for patient, said in enumerate(PATIENTS.split()):
        for place, label in enumerate(said):
            votes[patient, max(place - 2, 0), int(label) - 1] += 1
    return votes


def test_dawid_skene_on_the_data_of_the_source() -> None:
    found = latent.dawid_skene(anaesthetists(), smoothing=1e-9)
    np.testing.assert_allclose(found.frequency, [0.40, 0.42, 0.11, 0.07], atol=0.005)
    first = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0]]
    np.testing.assert_allclose(found.confusion[0, :2], first, atol=0.006)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)


def log_posterior(votes: Floats, frequency: Floats, confusion: Floats, smoothing: float) -> float:
    total = smoothing * (np.log(frequency).sum() + np.log(confusion).sum())
    for example in votes:
        likelihoods = [
            frequency[t] * np.prod(confusion[:, t] ** example) for t in range(len(frequency))
        ]
        total += math.log(sum(likelihoods))
    return float(total)


def test_dawid_skene_stands_on_a_maximum() -> None:
    votes = anaesthetists()
    smoothing = 0.5
    found = latent.dawid_skene(votes, smoothing=smoothing)
    best = log_posterior(votes, found.frequency, found.confusion, smoothing)
    draw = np.random.default_rng(0)
    for _ in range(100):
        frequency = found.frequency * np.exp(draw.normal(scale=0.05, size=4))
        confusion = found.confusion * np.exp(draw.normal(scale=0.05, size=(5, 4, 4)))
        frequency /= frequency.sum()
        confusion /= confusion.sum(axis=2, keepdims=True)
        assert log_posterior(votes, frequency, confusion, smoothing) < best


def by_example(votes: Floats, smoothing: float, rounds: int) -> Floats:
    """Equations 2.3 to 2.5 of the source, an example and a rater at a time."""
    said = votes.sum(axis=(1, 2)) > 0
    posterior = [
        v.sum(axis=0) / v.sum() if has else None for v, has in zip(votes, said, strict=True)
    ]
    for _ in range(rounds):
        known = [(v, p) for v, p in zip(votes, posterior, strict=True) if p is not None]
        frequency = smoothing + sum(p for _, p in known)
        frequency = frequency / frequency.sum()
        confusion = smoothing + sum(p[None, :, None] * v[:, None, :] for v, p in known)
        confusion = confusion / confusion.sum(axis=2, keepdims=True)
        odds = [frequency * np.prod(confusion ** v[:, None, :], axis=(0, 2)) for v in votes]
        posterior = [o / o.sum() if has else None for o, has in zip(odds, said, strict=True)]
    return np.array([o / o.sum() for o in odds])


def test_dawid_skene_example_by_example() -> None:
    draw = np.random.default_rng(4)
    codes = draw.integers(0, 3, size=(40, 2)).astype(float)
    codes[:30] = codes[:1]  # most are alike
    codes[35:, 0] = np.nan
    codes[38:] = np.nan  # some without a vote
    votes = (codes[..., None] == np.arange(3)).astype(float)
    found = latent.dawid_skene(votes, smoothing=0.1)
    np.testing.assert_allclose(found.posterior, by_example(votes, 0.1, 150), atol=1e-8)


def test_perfect_raters_do_not_divide_by_zero() -> None:
    table = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 0, 0]], dtype=float)
    votes = [*votes_of_table(table, MOOD), vote("t0", None, "e9", MOOD)]
    found = merge.merge(votes, MOOD, 0, method=Method.DAWID_SKENE)
    assert [v.label for v in found] == ["joy", "fear", "calm", "joy", None]
    for verdict in found[:4]:
        assert verdict.label is not None
        assert verdict.shares[verdict.label] > 0.999
        assert math.fsum(verdict.shares.values()) == pytest.approx(1)
    assert (found[4].shares, found[4].votes, found[4].unread) == ({}, 0, 1)


def test_dawid_skene_is_nearer_a_known_truth_than_the_majority() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 400)
    table = np.tile(truth[:, None], 5).astype(float)
    for rater, wrong in enumerate([0.05, 0.1, 0.6, 0.6, 0.6]):
        missed = draw.random(400) < wrong
        # Those who err often confuse one label with the next, always the same way.
        table[missed, rater] = (truth[missed] + 1) % 3
    votes = votes_of_table(table, MOOD)
    right = {}
    for method in (Method.MOST_FREQUENT, Method.DAWID_SKENE):
        found = merge.merge(votes, MOOD, 0, method=method)
        right[method] = sum(
            v.label == MOOD.label_names[t] for v, t in zip(found, truth, strict=True)
        )
    assert right[Method.DAWID_SKENE] > 0.93 * 400 > right[Method.MOST_FREQUENT] + 20
    codes = tabulate(votes, MOOD).codes
    fitted = latent.dawid_skene((codes[..., None] == np.arange(3)).astype(float))
    shares = np.diagonal(fitted.confusion, axis1=1, axis2=2).mean(axis=1)
    np.testing.assert_allclose(shares, (table == truth[:, None]).mean(axis=0), atol=0.06)


def test_an_even_posterior_gives_no_label() -> None:
    votes = [vote("a", "joy", task=MOOD), vote("b", "fear", task=MOOD)]
    (found,) = merge.merge(votes, MOOD, 0, method=Method.DAWID_SKENE)
    assert found.label is None
    assert merge.dropped([found]) == {"tie": 1}


# A model that merges


def test_the_merging_model_has_the_last_word() -> None:
    teachers = [
        vote("a", 0.0, "e1", assessment="far"), vote("b", 0.5, "e1", assessment="near"),
        vote("a", 0.25, "e2", assessment="from a"), vote("b", None, "e2"),
        vote("a", 1.0, "e3"), vote("a", 0.5, "e4"),
    ]  # fmt: skip
    merger = [
        vote("m", 0.75, "e1", assessment=" both\n together "),
        vote("m", 0.5, "e2"),
        vote("m", None, "e3"),
        vote("m", "joy", "e1", MOOD),
    ]
    first, second, third, fourth = merge.of_merger(merger, teachers, TASK)
    assert (first.score, first.label, first.assessment) == (0.75, "4", "both together")
    assert (first.votes, first.agreement, first.shares) == (2, 0.5, {"1": 0.5, "3": 0.5})
    assert (second.label, second.assessment, second.unread) == ("3", "from a", 1)
    assert (third.label, third.score, fourth.label, fourth.assessment) == (None,) * 4
    found = merge.dropped([first, second, third, fourth], by_merger=True)
    assert found == {"no merged reply": 2, "unread replies": 1}


def test_the_merging_model_decides_a_tie_of_labels() -> None:
    teachers = [vote("a", "joy", task=MOOD), vote("b", "fear", task=MOOD, assessment="dark")]
    (found,) = merge.of_merger([vote("m", "fear", task=MOOD)], teachers, MOOD)
    assert (found.label, found.score, found.assessment) == ("fear", None, "dark")


def test_replies_of_a_merging_model_that_fit_nothing_are_refused() -> None:
    teachers = [vote("a", 0.5)]
    with pytest.raises(TeachingError, match="example f: found a reply of the merging model, but"):
        merge.of_merger([vote("m", 0.5, "f")], teachers, TASK)
    with pytest.raises(TeachingError, match="found 2 replies of the merging model, expected one"):
        merge.of_merger([vote("m", 0.5), vote("n", 0.5)], teachers, TASK)
