"""What a student must beat to be worth its training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from whytune.errors import EvidenceError
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
    [0, 1], the label nearest to it, no probabilities. Nominal: logistic regression (C 1); a
    label that training never showed gets 1 / (n + labels), its share in `prior`, and the others
    are scaled to leave room for it. Deterministic.

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
    indices = _indices(train_labels, task)
    _same_length("training texts", train_texts, "labels", train_labels)
    _same_length("test texts", test_texts, "ids", test_ids)
    if not test_texts:
        return []
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=1)
    try:
        seen = vectorizer.fit_transform(train_texts)
    except ValueError as error:
        raise EvidenceError(
            f"task {task.name}: found no words in {len(train_texts)} training texts ({error}); "
            "leave the tfidf baseline out"
        ) from None
    asked = vectorizer.transform(test_texts)
    if task.kind is Kind.ORDINAL:
        ridge = Ridge(alpha=1.0).fit(seen, _scores(indices, train_scores, task))
        expected = [float(score) for score in np.clip(ridge.predict(asked), 0, 1)]
        return [
            _answer(example_id, task, task.nearest(score), {}, score)
            for example_id, score in zip(test_ids, expected, strict=True)
        ]
    log_probs = _logistic(seen, indices, asked, len(task.labels))
    return [
        _answer(example_id, task, task.label_names[int(row.argmax())], _named(row, task), None)
        for example_id, row in zip(test_ids, log_probs, strict=True)
    ]


def _logistic(seen: Any, indices: list[int], asked: Any, labels: int) -> Floats:
    """[text, label] log-probabilities."""
    known = sorted(set(indices))
    floor = 1 / (len(indices) + labels)
    probs: Floats = np.full((asked.shape[0], labels), floor)
    room = 1 - floor * (labels - len(known))
    if len(known) == 1:  # Logistic regression refuses to learn a single class.
        probs[:, known] = room
    else:
        model = LogisticRegression(C=1.0, max_iter=1000).fit(seen, indices)
        probs[:, known] = room * model.predict_proba(asked)
    floored: Floats = np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    return floored


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


def _same_length(first: str, one: Sequence[object], second: str, other: Sequence[object]) -> None:
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
