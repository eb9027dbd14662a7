"""What a student must beat to be worth its training."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from whytune.errors import EvidenceError
from whytune.evidence import linear
from whytune.evidence.table import Floats
from whytune.records import Kind, Outcome, Prediction, Task


def prior(
    labels: Sequence[str],
    task: Task,
    example_ids: Sequence[str],
    scores: Sequence[float] | None = None,
) -> list[Prediction]:
    """Answers without reading: what the training labels alone are worth.

    A student that does not beat it has learnt nothing but the label balance.

    Formula: p(label) = (count + 1) / (n + labels); the label is the most frequent one (ties: the
    first in the task's order); expected = mean training score (ordinal), the constant with the
    least squared error on the training data.

    Args:
        labels: of the training lessons.
        task: their task.
        example_ids: to answer about.
        scores: of the training lessons, on [0, 1] (ordinal); without it, the labels' own values.

    Raises:
        EvidenceError: no labels, a label that the task does not have, or not one score a label.
    """
    indices = _indices(labels, task)
    counts = np.bincount(indices, minlength=len(task.labels)) + 1.0
    log_probs = _named(np.log(counts / counts.sum()), task)
    expected = None
    if task.kind is Kind.ORDINAL:
        expected = float(np.mean(_scores(indices, scores, task)))
    label = task.label_names[int(counts.argmax())]
    return [_answer(i, task, label, log_probs, expected) for i in example_ids]


def majority(labels: Sequence[str], task: Task, example_ids: Sequence[str]) -> list[Prediction]:
    """Always the most frequent training label (ties: the first in the task's order), without
    probabilities; expected = the value of that label (ordinal).

    Beside `prior`, which expects the mean: on a lopsided scale one of the two is the better constant
    by the accuracy, the other by the squared error.

    Args:
        labels: of the training lessons.
        task: their task.
        example_ids: to answer about.

    Raises:
        EvidenceError: no labels, or a label that the task does not have.
    """
    label = task.label_names[int(np.bincount(_indices(labels, task)).argmax())]
    return [_answer(i, task, label, {}, task.value(label)) for i in example_ids]


def tfidf(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    train_scores: Sequence[float] | None,
    test_texts: Sequence[str],
    test_ids: Sequence[str],
    task: Task,
) -> list[Prediction]:
    """Answers from word counts: what a linear model of a second's training is worth.

    A student that does not beat it is not worth its size. Words and word pairs, TF-IDF with
    logarithmic counts. Ordinal: ridge regression (alpha 1) on the scores, expected clipped to
    [0, 1], the label nearest to it, no probabilities. Nominal: logistic regression
    (`linear.logistic`, C 1). Deterministic.

    Args:
        train_texts: what the lessons are about.
        train_labels: one a text.
        train_scores: on [0, 1] (ordinal); without it, the labels' own values.
        test_texts: to answer about.
        test_ids: their example ids.
        task: the task.

    Raises:
        EvidenceError: no training texts, none with a word in it, a label that the task does not
            have, or lists of different lengths.
    """
    indices = _matched(train_texts, train_labels, test_texts, test_ids, task)
    if not test_texts:
        return []
    seen, asked = _counted(train_texts, test_texts, task)
    if task.kind is Kind.NOMINAL:
        return _answers(linear.logistic(seen, indices, asked, len(task.labels)), test_ids, task)
    ridge = Ridge(alpha=1.0).fit(seen, _scores(indices, train_scores, task))
    expected = [float(score) for score in np.clip(ridge.predict(asked), 0, 1)]
    return [
        _answer(example_id, task, task.nearest(score), {}, score)
        for example_id, score in zip(test_ids, expected, strict=True)
    ]


def ordinal(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    test_ids: Sequence[str],
    task: Task,
) -> list[Prediction]:
    """Answers from word counts that know the order of the labels and give probabilities.

    The features of `tfidf`, ordinal regression on them (`linear.ordinal`, C 1); expected = sum of
    probability x value, the label the most probable one. Deterministic.

    Args:
        train_texts: what the lessons are about.
        train_labels: one a text.
        test_texts: to answer about.
        test_ids: their example ids.
        task: an ordinal task.

    Raises:
        EvidenceError: as `tfidf`, or the task is nominal.
    """
    if task.kind is Kind.NOMINAL:
        raise EvidenceError(
            f"task {task.name}: found a nominal task, expected an ordinal one; its labels have no "
            "order to learn: use the tfidf baseline"
        )
    indices = _matched(train_texts, train_labels, test_texts, test_ids, task)
    if not test_texts:
        return []
    seen, asked = _counted(train_texts, test_texts, task)
    return _answers(linear.ordinal(seen, indices, asked, len(task.labels)), test_ids, task)


def probe(
    train_vectors: Floats,
    train_labels: Sequence[str],
    test_vectors: Floats,
    test_ids: Sequence[str],
    task: Task,
) -> list[Prediction]:
    """Answers from somebody else's vectors of the texts: what is linearly there without training.

    Standardised on the training vectors and scaled to the mean square length 1
    (`linear.standardised`); then ordinal (`linear.ordinal`) or logistic regression
    (`linear.logistic`), both with C 1. Deterministic.

    Args:
        train_vectors: (lessons, width).
        train_labels: one a lesson.
        test_vectors: (examples, width), to answer about.
        test_ids: their example ids.
        task: the task.

    Raises:
        EvidenceError: no labels, a label that the task does not have, or lists of different
            lengths.
    """
    indices = _matched(train_vectors, train_labels, test_vectors, test_ids, task)
    if not len(test_vectors):
        return []
    regression = linear.ordinal if task.kind is Kind.ORDINAL else linear.logistic
    seen, asked = linear.standardised(train_vectors, test_vectors)
    return _answers(regression(seen, indices, asked, len(task.labels)), test_ids, task)


def _counted(train_texts: Sequence[str], test_texts: Sequence[str], task: Task) -> tuple[Any, Any]:
    """TF-IDF of training and test texts, (texts, words and word pairs) each, sparse."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=1)
    try:
        seen = vectorizer.fit_transform(train_texts)
    except ValueError as error:
        raise EvidenceError(
            f"task {task.name}: found no words in {len(train_texts)} training texts ({error}); "
            "leave the tfidf and ordinal baselines out"
        ) from None
    return seen, vectorizer.transform(test_texts)


def _answers(log_probs: Floats, test_ids: Sequence[str], task: Task) -> list[Prediction]:
    """The most probable label of each row of (texts, labels), and what is expected of it."""
    expected: list[float | None] = [None] * len(log_probs)
    if task.kind is Kind.ORDINAL:
        expected = (np.exp(log_probs) @ np.array(task.values)).tolist()
    return [
        _answer(example_id, task, task.label_names[int(row.argmax())], _named(row, task), mean)
        for example_id, row, mean in zip(test_ids, log_probs, expected, strict=True)
    ]


def _matched(
    texts: Sized, labels: Sequence[str], asked: Sized, ids: Sequence[str], task: Task
) -> list[int]:
    """Indices of the training labels, one a text."""
    indices = _indices(labels, task)
    _same_length("training texts", texts, "labels", labels)
    _same_length("test texts", asked, "ids", ids)
    return indices


def _indices(labels: Sequence[str], task: Task) -> list[int]:
    if not labels:
        raise EvidenceError(
            f"task {task.name}: found no training labels, expected one or more; a baseline "
            "learns from the same lessons as the students"
        )
    index = {name: i for i, name in enumerate(task.label_names)}
    for label in labels:
        if label not in index:
            raise EvidenceError(
                f"task {task.name}: found training label {label!r}, expected one of "
                f"{', '.join(index)}"
            )
    return [index[label] for label in labels]


def _scores(indices: list[int], scores: Sequence[float] | None, task: Task) -> Floats:
    if scores is None:
        return np.array(task.values)[indices]
    _same_length("training labels", indices, "scores", scores)
    return np.array(scores, dtype=np.float64)


def _same_length(first: str, one: Sized, second: str, other: Sized) -> None:
    if len(one) != len(other):
        raise EvidenceError(
            f"found {len(one)} {first} and {len(other)} {second}, expected as many of both"
        )


def _named(values: Floats, task: Task) -> dict[str, float]:
    return dict(zip(task.label_names, (float(v) for v in values), strict=True))


def _answer(
    example_id: str, task: Task, label: str, log_probs: dict[str, float], expected: float | None
) -> Prediction:
    return Prediction(
        example_id=example_id,
        task=task.name,
        outcome=Outcome.READ,
        label=label,
        log_probs=log_probs,
        expected=expected,
    )
