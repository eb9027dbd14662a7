"""Baselines: what they answer, and that it is worth what it should be."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from whytune.errors import EvidenceError
from whytune.evidence.baselines import prior, tfidf
from whytune.evidence.metrics import scorecard
from whytune.records import Kind, Label, Prediction, Reference, Task

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
WORDS = {"joy": "glad happy cheerful", "anger": "furious angry mad", "fear": "afraid scared timid"}


def mood_texts(n: int, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    labels = [str(rng.choice(list(WORDS))) for _ in range(n)]
    texts = [f"today I was {rng.choice(WORDS[label].split())} all day" for label in labels]
    return texts, labels


def accuracy(predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    pairs = zip(predictions, labels, strict=True)
    return sum(p.label == label for p, label in pairs) / len(labels)


def test_prior_answers_the_smoothed_shares() -> None:
    found = prior(["anger", "anger", "joy"], MOODS, ["a", "b"])
    assert [p.example_id for p in found] == ["a", "b"]
    for prediction in found:
        assert prediction.label == "anger"
        assert prediction.expected is None
        assert prediction.label_mass == pytest.approx(1)
        assert prediction.probs == pytest.approx({"joy": 2 / 6, "anger": 3 / 6, "fear": 1 / 6})


def test_prior_gives_ties_to_the_first_label() -> None:
    assert prior(["fear", "anger"], MOODS, ["a"])[0].label == "anger"


@pytest.mark.parametrize(("scores", "mean"), [((0.1, 0.2, 0.9), 0.4), (None, (0 + 0 + 1) / 3)])
def test_prior_expects_the_mean_training_score(scores: Sequence[float] | None, mean: float) -> None:
    found = prior(["1", "1", "5"], FIVE, ["a"], scores)[0]
    assert found.expected == pytest.approx(mean)
    assert found.label == "1"


def test_no_constant_beats_the_mean_predictor_on_its_own_data() -> None:
    scores = [0.0, 0.25, 0.25, 1.0]
    labels = [FIVE.nearest(score) for score in scores]
    ids = [f"e{i}" for i in range(4)]
    references = {
        i: Reference(label=lab, score=s) for i, lab, s in zip(ids, labels, scores, strict=True)
    }
    found = prior(labels, FIVE, ids, scores)
    card = scorecard(
        found, references, {i: i for i in ids}, FIVE, reference="gold", draws=0, seed=0
    )
    assert card.metrics["mse"].value == pytest.approx(np.var(scores))
    assert math.isnan(card.metrics["spearman"].value)


def test_tfidf_learns_words_of_a_nominal_task() -> None:
    texts, labels = mood_texts(120, 0)
    asked, truth = mood_texts(60, 1)
    found = tfidf(texts, labels, None, asked, [f"e{i}" for i in range(60)], MOODS)
    assert accuracy(found, truth) > 0.95
    for prediction in found:
        assert prediction.expected is None
        assert prediction.label == max(prediction.log_probs, key=prediction.log_probs.__getitem__)
        assert prediction.label_mass == pytest.approx(1)
    # It learnt the words: with labels in another order nothing but chance is left of it.
    by_chance = []
    for seed in range(10):
        mixed = [str(x) for x in np.random.default_rng(seed).permutation(labels)]
        by_chance.append(accuracy(tfidf(texts, mixed, None, asked, ["x"] * 60, MOODS), truth))
    assert np.mean(by_chance) < 0.55


def test_tfidf_reads_pairs_of_words() -> None:
    texts = ["not good", "good not", "not good at all", "good not bad"] * 10
    labels = ["anger", "joy", "anger", "joy"] * 10
    found = tfidf(texts, labels, None, ["not good", "good not"], ["a", "b"], MOODS)
    assert [p.label for p in found] == ["anger", "joy"]


def test_tfidf_gives_unseen_labels_the_share_that_the_prior_gives_them() -> None:
    texts, labels = ["happy day", "mad day", "happy us"], ["joy", "anger", "joy"]
    found = tfidf(texts, labels, None, ["happy"], ["a"], MOODS)[0]
    assert found.probs["fear"] == pytest.approx(prior(labels, MOODS, ["a"])[0].probs["fear"])
    assert found.label_mass == pytest.approx(1)


def test_tfidf_with_a_single_training_label() -> None:
    found = tfidf(["one day", "two days"], ["fear", "fear"], None, ["three days"], ["a"], MOODS)[0]
    assert found.probs == pytest.approx({"joy": 0.2, "anger": 0.2, "fear": 0.6})
    assert found.label == "fear"


def test_tfidf_predicts_scores_of_an_ordinal_task() -> None:
    rng = np.random.default_rng(3)
    scores = [float(s) for s in rng.uniform(size=200)]
    texts = ["good " * round(10 * s) + "bad " * round(10 * (1 - s)) for s in scores]
    labels = [FIVE.nearest(s) for s in scores]
    found = tfidf(texts[:150], labels[:150], scores[:150], texts[150:], ["x"] * 50, FIVE)
    expected = np.array([p.expected for p in found], dtype=float)
    assert np.mean((expected - scores[150:]) ** 2) < 0.3 * np.var(scores[150:])
    for prediction in found:
        assert prediction.log_probs == {}
        assert prediction.expected is not None
        assert prediction.label == FIVE.nearest(prediction.expected)


def test_tfidf_keeps_scores_on_the_scale() -> None:
    texts = ["bad"] * 20 + ["good"] * 20
    labels = ["1"] * 20 + ["5"] * 20
    found = tfidf(texts, labels, None, ["good good", "bad bad", "neither"], list("abc"), FIVE)
    values = [p.expected for p in found]
    assert all(v is not None and 0 <= v <= 1 for v in values)
    assert [found[0].label, found[1].label] == ["5", "1"]


def test_tfidf_clips_what_the_line_draws_beyond_the_scale() -> None:
    # A telling pair among plain words is worth half the scale; alone it is worth more.
    texts = ["good one two three", "one two three", "bad one two three"] * 30
    scores = [1.0, 0.5, 0.0] * 30
    labels = [FIVE.nearest(score) for score in scores]
    found = tfidf(texts, labels, scores, ["good one", "bad one"], ["a", "b"], FIVE)
    assert [p.expected for p in found] == [1, 0]


@pytest.mark.parametrize("task", [FIVE, MOODS], ids=lambda task: str(task.kind))
def test_tfidf_answers_the_same_twice(task: Task) -> None:
    texts, moods = mood_texts(60, 4)
    order = list(WORDS)
    labels = [task.label_names[order.index(m)] for m in moods]
    asked = mood_texts(20, 5)[0]
    ids = [f"e{i}" for i in range(20)]
    assert tfidf(texts, labels, None, asked, ids, task) == tfidf(
        texts, labels, None, asked, ids, task
    )


def test_tfidf_asked_nothing_answers_nothing() -> None:
    assert tfidf(["a day"], ["joy"], None, [], [], MOODS) == []


def test_what_a_baseline_cannot_learn_from_is_named() -> None:
    with pytest.raises(EvidenceError, match="no training labels"):
        prior([], MOODS, ["a"])
    with pytest.raises(EvidenceError, match="training label 'grief'"):
        prior(["grief"], MOODS, ["a"])
    with pytest.raises(EvidenceError, match="2 training labels and 1 scores"):
        prior(["1", "2"], FIVE, ["a"], [0.5])
    with pytest.raises(EvidenceError, match="2 training texts and 1 labels"):
        tfidf(["one", "two"], ["joy"], None, ["x"], ["a"], MOODS)
    with pytest.raises(EvidenceError, match="1 test texts and 2 ids"):
        tfidf(["one"], ["joy"], None, ["x"], ["a", "b"], MOODS)
    with pytest.raises(EvidenceError, match="found no words in 1 training texts"):
        tfidf(["?!"], ["joy"], None, ["x"], ["a"], MOODS)
