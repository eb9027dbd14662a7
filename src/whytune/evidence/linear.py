"""Linear models from features of texts to label probabilities, for the baselines.

They work on any feature matrix (texts, features), sparse or dense, and all have the strength C = 1.
That means the same for every matrix as long as its rows are alike in length: rows of TF-IDF have
length 1, and `standardised` gives dense vectors the mean square length 1. Deterministic.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from whytune.evidence.table import Floats

STRENGTH = 1.0
"""C of every logistic regression: the weight of the data against the squared coefficients."""


def logistic(seen: Any, labels: Sequence[int], asked: Any, count: int) -> Floats:
    """Multinomial logistic regression.

    A label that training never showed gets 1 / (n + count), its share under add-one smoothing, and
    the others are scaled to leave room for it.

    Args:
        seen: (n, features), of the training texts.
        labels: one of `count` indices a training text, 1 or more.
        asked: (texts, features).
        count: of labels.

    Returns:
        (texts, count), log-probabilities in nats.
    """
    known = sorted(set(labels))
    if len(known) == 1:  # Logistic regression refuses to learn a single class.
        return _floored(np.ones((asked.shape[0], 1)), known, len(labels), count)
    return _floored(_fit(seen, labels).predict_proba(asked), known, len(labels), count)


def ordinal(seen: Any, labels: Sequence[int], asked: Any, count: int) -> Floats:
    """Ordinal regression: a logistic regression P(y > k) for each threshold k between two labels
    that training showed; a label's probability is the difference of its two thresholds.

    Frank and Hall 2001, "A Simple Approach to Ordinal Classification", section 2 (there with
    decision trees). Separate fits can cross, which would make a difference negative; a text's
    probabilities are sorted, the monotone rearrangement of Chernozhukov, Fernández-Val and Galichon
    2010 (https://arxiv.org/abs/0704.3649), which is never further from a rising truth.

    Args:
        seen: (n, features), of the training texts.
        labels: one of `count` indices a training text, from lowest to highest, 1 or more.
        asked: (texts, features).
        count: of labels.

    Returns:
        (texts, count), log-probabilities in nats; for labels never seen as in `logistic`.
    """
    known = sorted(set(labels))
    above = [_fit(seen, [label > k for label in labels]).predict_proba(asked)[:, 1]
             for k in known[:-1]]  # fmt: skip
    rows = asked.shape[0]
    falling = -np.sort(-np.column_stack([np.ones(rows), *above, np.zeros(rows)]), axis=1)
    return _floored(-np.diff(falling, axis=1), known, len(labels), count)


def standardised(seen: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Dense vectors with mean 0 and the same variance in every feature, measured on `seen`; features
    that are constant there become 0. The mean square length of `seen` is 1 (where none is constant),
    so that C means the same for vectors of any width.

    Args:
        seen: (n, features).
        asked: (texts, features).
    """
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    # Rounding leaves constant features a spread.
    varies = spread > 1e-6 * np.abs(seen).max(axis=0)
    scale = np.where(varies, 1 / np.where(varies, spread, 1) / np.sqrt(seen.shape[1]), 0)
    return (seen - mean) * scale, (asked - mean) * scale


def _fit(seen: Any, labels: Sequence[int]) -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, max_iter=1000).fit(seen, labels)


def _floored(of_known: Floats, known: Sequence[int], seen: int, count: int) -> Floats:
    """(texts, labels) log-probabilities from those of the known labels among themselves."""
    floor = 1 / (seen + count)
    probs: Floats = np.full((len(of_known), count), floor)
    probs[:, known] = (1 - floor * (count - len(known))) * of_known
    floored: Floats = np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    return floored
