"""Agreement figures against a second implementation and against brute force."""

import itertools
import math
from typing import Literal

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from whytune.records import Annotation, Kind, Label, Outcome, Task
from whytune.tasks import BUILT_IN
from whytune.teaching import agreement
from whytune.teaching.ratings import Floats

TASK = BUILT_IN["on_topic"]
MOOD = Task(
    name="mood", kind=Kind.NOMINAL, question="?", labels=(Label(name="joy"), Label(name="fear"))
)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(8))
def test_alpha_equals_the_reference_implementation(
    level: Literal["nominal", "ordinal", "interval"], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    ratings = draw.integers(0, 5, size=(30, 4)).astype(float)
    ratings[draw.random(ratings.shape) < 0.1 * seed] = np.nan
    expected = krippendorff.alpha(reliability_data=ratings.T, level_of_measurement=level)
    kind = Kind.NOMINAL if level == "nominal" else Kind.ORDINAL
    before = ratings.copy()
    found = agreement.krippendorff_alpha(ratings, kind, ranks=level == "ordinal")
    assert found == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(ratings, before)


def test_alpha_of_the_example_in_the_source() -> None:
    # Krippendorff 2011, section C: nominal data, any number of observers, missing values.
    gap = math.nan
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3],
        [gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap],
    ]
    ratings = np.array(observers).T
    assert agreement.krippendorff_alpha(ratings, Kind.NOMINAL) == pytest.approx(0.743, abs=5e-4)
    assert agreement.krippendorff_alpha(ratings, Kind.ORDINAL) == pytest.approx(0.849, abs=5e-4)
    ordinal = agreement.krippendorff_alpha(ratings, Kind.ORDINAL, ranks=True)
    assert ordinal == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize(
    "ratings",
    [np.full((3, 2), 0.1), np.full((3, 2), np.nan), np.array([[1.0, np.nan], [np.nan, 2.0]]),
     np.empty((0, 2))],
)  # fmt: skip
def test_alpha_that_is_not_defined_is_not_a_number(ratings: Floats) -> None:
    assert math.isnan(agreement.krippendorff_alpha(ratings, Kind.ORDINAL))
    assert math.isnan(agreement.krippendorff_alpha(ratings, Kind.NOMINAL))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_pair_agreement_is_the_mean_over_pairs(scores: list[float]) -> None:
    found = agreement.pair_agreement(scores)
    pairs = [1 - abs(a - b) for a, b in itertools.combinations(scores, 2)]
    if found is None:
        assert not pairs
        return
    assert found == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= found <= 1


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=10))
def test_equal_pairs_is_the_share_of_pairs(labels: list[str]) -> None:
    pairs = [a == b for a, b in itertools.combinations(labels, 2)]
    assume(pairs)
    assert agreement.equal_pairs(labels) == pytest.approx(sum(pairs) / len(pairs))


def test_one_vote_has_no_agreement() -> None:
    assert agreement.equal_pairs(["a"]) is None
    assert agreement.pair_agreement([0.5]) is None


def annotation(example: str, teacher: str, label: str | None, task: Task = TASK) -> Annotation:
    return Annotation(
        example_id=example,
        task=task.name,
        teacher=teacher,
        prompt="p",
        reply="",
        outcome=Outcome.UNREADABLE if label is None else Outcome.READ,
        label=label,
        score=None if label is None else task.value(label),
    )


def test_summary_counts_and_measures() -> None:
    given_ = [
        annotation("e1", "a", "1"),
        annotation("e1", "b", "5"),
        annotation("e2", "a", "3"),
        annotation("e2", "b", "3"),
        annotation("e3", "a", None),
        annotation("e3", "b", "3"),
        annotation("e3", "b", "joy", MOOD),
    ]
    found = agreement.summary(given_, TASK)
    ratings = np.array([[0, 0.5], [1, 0.5]])
    expected = krippendorff.alpha(reliability_data=ratings, level_of_measurement="interval")
    assert found.pop("alpha") == pytest.approx(expected)
    assert found == {
        "examples": 3,
        "teachers": ["a", "b"],
        "replies": 6,
        "votes": 5,
        "unread": {"unreadable": 1},
        "pair_agreement": 0.5,
    }


def test_summary_of_labels_without_order_and_of_nothing() -> None:
    votes = [
        annotation("e1", "a", "joy", MOOD),
        annotation("e1", "b", "joy", MOOD),
        annotation("e2", "a", "joy", MOOD),
        annotation("e2", "b", "fear", MOOD),
    ]
    found = agreement.summary(votes, MOOD)
    codes = np.array([[0, 0], [0, 1]])
    expected = krippendorff.alpha(reliability_data=codes, level_of_measurement="nominal")
    assert found["alpha"] == pytest.approx(expected)
    assert found["pair_agreement"] == 0.5
    empty = agreement.summary([], MOOD)
    assert math.isnan(empty["alpha"])
    assert empty["pair_agreement"] is None
