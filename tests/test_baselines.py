"""Baselines: what they answer, and that it is worth what it should be."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from whytune.errors import EvidenceError
from whytune.evidence import linear
from whytune.evidence.baselines import majority, ordinal, prior, probe, tfidf
from whytune.evidence.metrics import scorecard
from whytune.evidence.table import Floats
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


GRADES = ("useless", "weak", "fair", "good", "superb")


def graded_texts(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts with words of their own grade or a neighbouring one, and the labels 1 to 5."""
    rng = np.random.default_rng(seed)
    grades = [int(grade) for grade in rng.integers(0, 5, n)]
    drawn = [np.clip(rng.normal(grade, 0.8, 3).round(), 0, 4).astype(int) for grade in grades]
    return [" ".join(GRADES[i] for i in own) for own in drawn], [str(g + 1) for g in grades]


def mood_vectors(n: int, seed: int, width: int = 12) -> tuple[Floats, list[str]]:
    """Vectors that know the mood in three of their features, each of another scale and mean."""
    rng = np.random.default_rng(seed)
    order = list(WORDS)
    moods = [str(rng.choice(order)) for _ in range(n)]
    known = 2 * np.eye(3, width)[[order.index(mood) for mood in moods]]
    scales = np.geomspace(0.01, 100, width)
    return (known + rng.normal(size=(n, width))) * scales + 7 * scales, moods


def rows(predictions: Sequence[Prediction]) -> Floats:
    return np.array([list(p.probs.values()) for p in predictions])


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


def test_majority_always_says_the_most_frequent_label() -> None:
    found = majority(["2", "4", "4", "5", "4"], FIVE, ["a", "b"])
    assert [(p.example_id, p.label, p.expected) for p in found] == [
        ("a", "4", 0.75),
        ("b", "4", 0.75),
    ]
    assert found[0].log_probs == {}
    assert majority(["fear", "anger"], MOODS, ["a"])[0].label == "anger", "ties: the task's order"
    assert majority(["fear"], MOODS, ["a"])[0].expected is None
    with pytest.raises(EvidenceError, match="no training labels"):
        majority([], FIVE, ["a"])


@pytest.fixture(scope="module")
def graded() -> tuple[list[Prediction], Floats]:
    """What ordinal regression answers, and P(y > k) of sklearn, threshold by threshold."""
    texts, labels = graded_texts(150, 0)
    asked = graded_texts(80, 1)[0]
    found = ordinal(texts, labels, asked, [f"e{i}" for i in range(80)], FIVE)
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    seen = vectorizer.fit_transform(texts)
    above = [
        LogisticRegression(C=1, max_iter=1000)
        .fit(seen, np.array(labels) > k)
        .predict_proba(vectorizer.transform(asked))[:, 1]
        for k in "1234"
    ]
    return found, np.column_stack(above)


def test_ordinal_is_one_logistic_regression_a_threshold(
    graded: tuple[list[Prediction], Floats],
) -> None:
    found, above = graded
    falls = (np.diff(above, axis=1) < 0).all(axis=1)
    assert falls.any(), "else nothing is compared"
    by_hand = -np.diff(np.column_stack([np.ones(len(above)), above, np.zeros(len(above))]), axis=1)
    assert rows(found)[falls] == pytest.approx(by_hand[falls], abs=1e-9)
    # The mean of a scale is the sum over its thresholds, in whatever order they stand.
    assert [p.expected for p in found] == pytest.approx(above.mean(axis=1), abs=1e-9)


def test_ordinal_probabilities_are_monotone_and_sum_to_one(
    graded: tuple[list[Prediction], Floats],
) -> None:
    found, _ = graded
    for prediction in found:
        assert prediction.label_mass == pytest.approx(1)
        assert min(prediction.probs.values()) >= 0
        assert prediction.label == max(prediction.probs, key=prediction.probs.__getitem__)
        assert prediction.expected == pytest.approx(
            sum(p * v for p, v in zip(prediction.probs.values(), FIVE.values, strict=True))
        )
    truth = graded_texts(80, 1)[1]
    assert np.mean([abs(int(p.label or 0) - int(t)) for p, t in zip(found, truth, strict=True)]) < 1


def test_thresholds_that_cross_are_put_in_order() -> None:
    # Whether y > 0 does not depend on the feature, whether y > 1 does: further out, the two cross.
    seen = np.array([[0.0], [1.0]] * 5)
    labels = [0, 0, *[1, 2] * 4]
    asked = np.array([[5.0]])
    above = [
        LogisticRegression(max_iter=1000)
        .fit(seen, [label > k for label in labels])
        .predict_proba(asked)[0, 1]
        for k in (0, 1)
    ]
    found = np.exp(linear.ordinal(seen, labels, asked, 3))[0]
    assert above[1] > above[0], "else nothing crosses"
    low, high = sorted(above)
    assert found == pytest.approx([1 - high, high - low, low], abs=1e-9)


def test_ordinal_knows_no_up_or_down() -> None:
    texts, labels = graded_texts(60, 2)
    asked = graded_texts(20, 3)[0]
    turned = [str(6 - int(label)) for label in labels]
    one, other = (rows(ordinal(texts, own, asked, ["x"] * 20, FIVE)) for own in (labels, turned))
    assert one == pytest.approx(other[:, ::-1], abs=1e-4)


def test_ordinal_gives_unseen_labels_the_share_that_the_prior_gives_them() -> None:
    texts, labels = ["bad", "good", "good day", "bad day"], ["2", "4", "4", "2"]
    found = ordinal(texts, labels, ["good"], ["a"], FIVE)[0]
    share = prior(labels, FIVE, ["a"])[0].probs
    for unseen in "135":
        assert found.probs[unseen] == pytest.approx(share[unseen])
    assert found.label_mass == pytest.approx(1)
    assert found.label == "4"
    alone = ordinal(["bad", "day"], ["3", "3"], ["good"], ["a"], FIVE)[0]
    assert alone.probs["3"] == pytest.approx(3 / 7)


def test_ordinal_needs_an_order_and_words() -> None:
    with pytest.raises(EvidenceError, match=r"emotion: found a nominal task.*tfidf baseline"):
        ordinal(["one"], ["joy"], ["x"], ["a"], MOODS)
    with pytest.raises(EvidenceError, match="found no words in 1 training texts"):
        ordinal(["?!"], ["1"], ["x"], ["a"], FIVE)
    assert ordinal(["one"], ["1"], [], [], FIVE) == []


def test_probe_equals_a_pipeline_of_sklearn() -> None:
    vectors, labels = mood_vectors(120, 0)
    asked, truth = mood_vectors(60, 1)
    found = probe(vectors, labels, asked, ["x"] * 60, MOODS)
    # C 1 on vectors that are 1/sqrt(width) as long is C 1/width.
    plain = LogisticRegression(C=1 / vectors.shape[1], max_iter=1000, tol=1e-8)
    pipeline = make_pipeline(StandardScaler(), plain).fit(vectors, labels)
    order = [list(pipeline.classes_).index(name) for name in MOODS.label_names]
    assert rows(found) == pytest.approx(pipeline.predict_proba(asked)[:, order], abs=5e-3)
    assert accuracy(found, truth) > 0.6


def test_a_probe_does_not_depend_on_width_scale_or_constants() -> None:
    vectors, labels = mood_vectors(60, 2)
    asked = mood_vectors(20, 3)[0]
    expected = rows(probe(vectors, labels, asked, ["x"] * 20, MOODS))
    doubled = [np.hstack([own, 5 * own]) for own in (vectors, asked)]
    assert rows(probe(doubled[0], labels, doubled[1], ["x"] * 20, MOODS)) == pytest.approx(
        expected, abs=1e-3
    )
    constant = np.full((60, 1), 0.1), np.full((20, 1), 5.0)
    seen, also = linear.standardised(
        *(np.hstack([a, b]) for a, b in zip((vectors, asked), constant, strict=True))
    )
    assert not seen[:, -1].any()
    assert not also[:, -1].any()
    assert np.mean((linear.standardised(vectors, asked)[0] ** 2).sum(axis=1)) == pytest.approx(1)


def test_a_probe_of_an_ordinal_task_is_ordinal() -> None:
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, 200)
    vectors = rng.normal(size=(200, 6))
    vectors[:, 0] += 2 * grades
    labels = [str(grade + 1) for grade in grades]
    found = probe(vectors[:150], labels[:150], vectors[150:], ["x"] * 50, FIVE)
    for prediction in found:
        assert prediction.label_mass == pytest.approx(1)
        assert prediction.expected is not None
    errors = [abs(int(p.label or 0) - 1 - g) for p, g in zip(found, grades[150:], strict=True)]
    assert np.mean(errors) < 0.8
    assert probe(vectors, labels, vectors[:0], [], FIVE) == []
    with pytest.raises(EvidenceError, match="200 training texts and 3 labels"):
        probe(vectors, labels[:3], vectors, ["x"] * 200, FIVE)
