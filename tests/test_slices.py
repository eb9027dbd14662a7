"""Slices against a cut by hand, and the figures of the answers in them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, mean_absolute_error, recall_score

from whytune.errors import EvidenceError
from whytune.evidence.slices import Cut, Slice, default_metrics, slices
from whytune.records import (
    Example,
    Kind,
    Label,
    Outcome,
    Prediction,
    Reference,
    Task,
    Turn,
    Verdict,
)

THREE = Task(
    name="usefulness", kind=Kind.ORDINAL, question="How useful?",
    labels=tuple(Label(name=name) for name in ("bad", "fair", "good")),
)  # fmt: skip
MOODS = replace(THREE, name="mood", kind=Kind.NOMINAL)
SIX = [f"e{i}" for i in range(6)]
TRUTH = ("bad", "bad", "bad", "good", "good", "good")
SAID = ("bad", "good", "bad", "good", "good", "fair")
EXPECTED = (0.1, 0.9, 0.2, 0.8, 0.7, 0.5)


def example(example_id: str, words: Sequence[int] = (3,), source: str = "a") -> Example:
    turns = tuple(Turn(role="user", text=" ".join(["word"] * count)) for count in words)
    return Example(id=example_id, source=source, group=example_id, turns=turns)


def six(task: Task = THREE) -> list[Prediction]:
    ordinal = task.kind is Kind.ORDINAL
    return [
        Prediction(example_id=i, task=task.name, outcome=Outcome.READ, label=label, log_probs={},
                   expected=score if ordinal else None)
        for i, label, score in zip(SIX, SAID, EXPECTED, strict=True)
    ]  # fmt: skip


def truth(task: Task = THREE) -> dict[str, Reference]:
    return {i: Reference(label=n, score=task.value(n)) for i, n in zip(SIX, TRUTH, strict=True)}


def verdict(
    example_id: str, shares: dict[str, float], votes: int, task: Task = THREE, words: int = 0,
    agreement: float | None = None,
) -> Verdict:  # fmt: skip
    return Verdict(
        example_id=example_id, task=task.name, label=None, score=None, shares=shares, votes=votes,
        agreement=agreement, assessment=" ".join(["why"] * words) or None,
    )  # fmt: skip


def cut(
    examples: Sequence[Example], verdicts: Sequence[Verdict] = (), task: Task = THREE,
    predictions: Sequence[Prediction] | None = None, least: int = 1,
) -> dict[Cut, dict[str, Slice]]:  # fmt: skip
    found = slices(
        six(task) if predictions is None else predictions, truth(task), examples, task,
        {v.example_id: v for v in verdicts}, metrics=("accuracy",), least=least, draws=20, seed=0,
    )  # fmt: skip
    by_cut: dict[Cut, dict[str, Slice]] = {}
    for one in found:
        by_cut.setdefault(one.cut, {})[one.name] = one
    return by_cut


def sizes(parts: dict[str, Slice]) -> dict[str, int]:
    return {name: one.examples for name, one in parts.items()}


def test_by_label_the_accuracy_is_the_recall_of_scikit_learn() -> None:
    found = slices(six(), truth(), [example(i) for i in SIX], THREE, {},
                   metrics=("accuracy", "mae"), least=1, draws=50, seed=0)  # fmt: skip
    assert [(one.cut, one.name, one.examples) for one in found] == [
        (Cut.LABEL, "bad", 3),
        (Cut.LABEL, "good", 3),
    ]
    recalls = recall_score(TRUTH, SAID, labels=["bad", "good"], average=None)
    assert [one.metrics["accuracy"].value for one in found] == pytest.approx(recalls)
    assert found[0].metrics["mae"].value == pytest.approx(
        mean_absolute_error([0, 0, 0], EXPECTED[:3])
    )
    accuracy = found[0].metrics["accuracy"]
    assert 0 <= accuracy.low < accuracy.value < accuracy.high <= 1


def test_by_source_in_the_order_of_names() -> None:
    found = cut([example(i, source="b" if i < "e2" else "a") for i in SIX])[Cut.SOURCE]
    assert sizes(found) == {"a": 4, "b": 2}
    assert list(found) == ["a", "b"]
    assert found["b"].metrics["accuracy"].value == accuracy_score(TRUTH[:2], SAID[:2])


def test_by_length_of_all_turns_in_thirds() -> None:
    lengths = {"e0": (1, 1), "e1": (3,), "e2": (4,), "e3": (5, 5), "e4": (20,), "e5": (30,)}
    found = cut([example(i, words) for i, words in lengths.items()])[Cut.LENGTH]
    assert sizes(found) == {"2 to 3 words": 2, "4 to 10 words": 2, "20 to 30 words": 2}
    assert found["20 to 30 words"].metrics["accuracy"].value == 0.5


def test_equal_lengths_stand_together() -> None:
    lengths = {"e0": 2, "e1": 2, "e2": 2, "e3": 2, "e4": 2, "e5": 9}
    found = cut([example(i, (n,)) for i, n in lengths.items()])[Cut.LENGTH]
    assert sizes(found) == {"2 words": 5, "9 words": 1}


@given(st.lists(st.integers(1, 12), min_size=6, max_size=6))
def test_thirds_never_overlap(lengths: list[int]) -> None:
    found = cut([example(i, (n,)) for i, n in zip(SIX, lengths, strict=True)])
    if len(set(lengths)) == 1:
        assert Cut.LENGTH not in found
        return
    parts = found.get(Cut.LENGTH, {})
    ends = [[int(w) for w in name.split() if w.isdigit()] for name in parts]
    assert sum(sizes(parts).values()) in (0, 6)
    assert all(a[-1] < b[0] for a, b in pairwise(ends))
    if len(set(lengths)) == 6:
        assert list(sizes(parts).values()) == [2, 2, 2]


def test_by_agreement_of_the_raters() -> None:
    said = [
        verdict("e0", {"bad": 1.0}, 3),
        verdict("e1", {"bad": 2 / 3, "good": 1 / 3}, 3),
        verdict("e2", {"bad": 0.5, "good": 0.5}, 2),
        verdict("e3", {"bad": 1 / 3, "fair": 1 / 3, "good": 1 / 3}, 3),
        verdict("e4", {"good": 1.0}, 1),  # One vote agrees with nobody.
        verdict("e5", {}, 0),
    ]
    found = cut([example(i) for i in SIX], said)[Cut.AGREEMENT]
    assert sizes(found) == {"unanimous": 1, "majority": 1, "split": 2}
    assert list(found) == ["unanimous", "majority", "split"]


def test_a_models_probabilities_do_not_make_raters_agree() -> None:
    said = [
        verdict("e0", {"bad": 1.0}, 3, MOODS, agreement=1 / 3),
        verdict("e1", {"bad": 0.98, "good": 0.02}, 3, MOODS, agreement=1.0),
    ]
    found = cut([example(i) for i in SIX], said, MOODS)[Cut.AGREEMENT]
    assert sizes(found) == {"unanimous": 1, "majority": 1}
    assert found["unanimous"].metrics["accuracy"].value == 0  # e1


def test_by_words_of_the_verdicts_explanation() -> None:
    words = {"e0": 5, "e1": 7, "e2": 1, "e3": 0}
    said = [verdict(i, {"bad": 1.0}, 1, words=n) for i, n in words.items()]
    found = cut([example(i) for i in SIX], said)
    assert sizes(found[Cut.EXPLANATION]) == {"1 word": 1, "5 words": 1, "7 words": 1}
    assert Cut.AGREEMENT not in found


def test_small_slices_are_counted_and_not_measured() -> None:
    lost = Prediction(example_id="e0", task=THREE.name, outcome=Outcome.REFUSED, label=None,
                      log_probs={})  # fmt: skip
    # Two seeds: answers are counted twice, examples once.
    pooled = [lost, *six()[1:], *six()]
    found = cut([example(i, source="b" if i < "e2" else "a") for i in SIX], predictions=pooled,
                least=3)[Cut.SOURCE]  # fmt: skip
    assert found["b"].metrics == {}
    assert (found["b"].examples, found["b"].n, found["b"].unreadable) == (2, 4, 1)
    assert found["a"].metrics["accuracy"].value == pytest.approx(3 / 4)
    assert (found["a"].examples, found["a"].n, found["a"].unreadable) == (4, 8, 0)


def test_without_other_metrics_the_defaults_are_measured() -> None:
    for task in (THREE, MOODS):
        found = slices(six(task), truth(task), [example(i) for i in SIX], task, {}, least=1,
                       draws=0, seed=0)  # fmt: skip
        assert tuple(found[0].metrics) == default_metrics(task)


def test_what_cannot_be_cut_is_refused() -> None:
    examples = [example(i) for i in SIX]
    with pytest.raises(EvidenceError, match="e5: found no example of this id"):
        cut(examples[:5])
    with pytest.raises(EvidenceError, match="e0: found no reference of this id"):
        slices(six(), {}, examples, THREE, {}, draws=0, seed=0)
    with pytest.raises(EvidenceError, match="found metric 'mae', expected one of"):
        slices(six(MOODS), truth(MOODS), examples, MOODS, {}, metrics=("mae",), draws=0, seed=0)
    assert slices([], {}, [], THREE, {}, draws=0, seed=0) == []
