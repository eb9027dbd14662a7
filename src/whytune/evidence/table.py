"""Predictions beside their references as arrays, built once and read by every figure.

Resampling is by groups: a draw is a vector that says how often each group counts. Figures take
many draws at once (an array of draws x groups), so that an interval costs little more than the
figure itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whytune.errors import EvidenceError
from whytune.records import Kind, Outcome, Prediction, Reference, Task

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Predictions of one task. Rows are the readable ones; not-a-number where nothing was given."""

    labels: int
    """Labels of the task."""
    asked: Floats
    """[group] predictions, unreadable ones included."""
    hits: Floats
    """[group] predictions with the reference's label."""
    unread: Floats
    """[group] predictions without a label, whatever rows are left out beside them."""
    group: Ints
    """[row] index of the group."""
    reference: Ints
    """[row] index of the reference's label."""
    predicted: Ints
    """[row] index of the predicted label."""
    probs: Floats
    """[row, label] probabilities among the labels."""
    nll: Floats
    """[row] -log probability of the reference's label among all texts, in nats."""
    mass: Floats
    """[row] probability that the answer is any label at all."""
    expected: Floats
    """[row] expected score, on [0, 1]."""
    score: Floats
    """[row] the reference's score, on [0, 1]."""

    @property
    def groups(self) -> int:
        """How many groups there are, those without a readable row included."""
        return len(self.asked)


def group_codes(predictions: Sequence[Prediction], groups: Mapping[str, str]) -> Ints:
    """The index of each prediction's group, in the alphabetical order of the groups.

    The order of the groups, not of the predictions, decides what a random draw does; so figures
    do not depend on the order in which predictions arrive.

    Raises:
        EvidenceError: a prediction about an example without a group.
    """
    for prediction in predictions:
        if prediction.example_id not in groups:
            raise EvidenceError(
                f"example {prediction.example_id}: found no group, expected one for every "
                "predicted example; hand in the groups of the same corpus"
            )
    names = [groups[prediction.example_id] for prediction in predictions]
    code = {name: index for index, name in enumerate(sorted(set(names)))}
    return np.array([code[name] for name in names], dtype=np.int64)


def read_mask(predictions: Sequence[Prediction]) -> Bools:
    """Which predictions carry a label."""
    return np.array([p.outcome is Outcome.READ for p in predictions], dtype=np.bool_)


def tabulate(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    task: Task,
    codes: Ints,
    readable: Bools,
) -> Table:
    """Predictions and references as arrays; `codes` and `readable` hold one entry a prediction.

    Raises:
        EvidenceError: no predictions; a prediction of another task, without a reference, with a
            label that the task does not have, or with log-probabilities that are not finite or
            not those of the task's labels; a reference whose label the task does not have, or
            of an ordinal task without a score.
    """
    if not predictions:
        raise EvidenceError(f"task {task.name}: found no predictions, expected one or more")
    return _arranged(predictions, references, task, codes, readable)


def table_of(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    groups: Mapping[str, str],
    task: Task,
) -> Table:
    """The table of one arm's answers; without predictions one of no groups and no rows.

    Raises:
        EvidenceError: see `tabulate` and `group_codes`.
    """
    codes = group_codes(predictions, groups)
    return _arranged(predictions, references, task, codes, read_mask(predictions))


def of_arrays(reference: Sequence[int], probs: Sequence[Sequence[float]]) -> Table:
    """A table from plain arrays: every example a group of its own, all answers labels, readable.

    Args:
        reference: [example] index of the reference's label; its score is the label's own.
        probs: [example, label] probabilities that sum to 1; the highest is the answer.
    """
    given = np.array(probs, dtype=np.float64)
    true = np.array(reference, dtype=np.int64)
    n, labels = given.shape
    values = np.arange(labels) / (labels - 1)
    predicted = given.argmax(axis=1)
    return Table(
        labels=labels,
        asked=np.ones(n),
        hits=(predicted == true).astype(np.float64),
        unread=np.zeros(n),
        group=np.arange(n),
        reference=true,
        predicted=predicted,
        probs=given,
        nll=-np.log(given[np.arange(n), true]),
        mass=given.sum(axis=1),
        expected=given @ values,
        score=values[true],
    )


def _arranged(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    task: Task,
    codes: Ints,
    readable: Bools,
) -> Table:
    for prediction in predictions:
        _check(prediction, references, task)
    truth = [references[prediction.example_id] for prediction in predictions]
    equal = [float(p.label == r.label) for p, r in zip(predictions, truth, strict=True)]
    unread = (~read_mask(predictions)).astype(np.float64)
    groups = int(codes.max(initial=-1)) + 1
    rows = [i for i in range(len(predictions)) if readable[i]]
    index = {name: i for i, name in enumerate(task.label_names)}
    read = [predictions[i] for i in rows]
    met = [truth[i] for i in rows]
    return Table(
        labels=len(index),
        asked=np.bincount(codes, minlength=groups).astype(np.float64),
        hits=np.bincount(codes, weights=equal, minlength=groups).astype(np.float64),
        unread=np.bincount(codes, weights=unread, minlength=groups).astype(np.float64),
        group=codes[readable],
        reference=np.array([index[r.label] for r in met], dtype=np.int64),
        predicted=np.array([index[str(p.label)] for p in read], dtype=np.int64),
        probs=np.array([_probs(p, task) for p in read]).reshape(-1, len(index)),
        nll=np.array([-p.log_probs.get(r.label, math.nan) for p, r in zip(read, met, strict=True)]),
        mass=_floats([p.label_mass for p in read]),
        expected=_floats([p.expected for p in read]),
        score=_floats([r.score for r in met]),
    )


def _probs(prediction: Prediction, task: Task) -> list[float]:
    probs = prediction.probs
    return [probs.get(name, math.nan) for name in task.label_names]


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _check(prediction: Prediction, references: Mapping[str, Reference], task: Task) -> None:
    place = f"prediction {prediction.example_id}"
    if prediction.task != task.name:
        raise EvidenceError(
            f"{place}: found task {prediction.task}, expected {task.name}; score one task at a time"
        )
    reference = references.get(prediction.example_id)
    if reference is None:
        raise EvidenceError(
            f"{place}: found no reference for {task.name}, expected one for every predicted "
            "example; leave out the examples that nobody labelled"
        )
    _check_labels(prediction, reference, task)
    if task.kind is Kind.ORDINAL and reference.score is None:
        raise EvidenceError(f"{place}: the reference has no score; an ordinal task needs one")


def _check_labels(prediction: Prediction, reference: Reference, task: Task) -> None:
    place, known = f"prediction {prediction.example_id}", task.label_names
    for who, label in (("its reference", reference.label), ("it", prediction.label)):
        if label is not None and label not in known:
            raise EvidenceError(
                f"{place}: {who} has label {label!r}, expected one of {', '.join(known)}"
            )
    if prediction.log_probs and set(prediction.log_probs) != set(known):
        raise EvidenceError(
            f"{place}: found log-probabilities of {', '.join(prediction.log_probs)}, expected "
            f"those of {', '.join(known)} or none"
        )
    if not all(math.isfinite(value) for value in prediction.log_probs.values()):
        raise EvidenceError(
            f"{place}: found log-probabilities {dict(prediction.log_probs)}, expected finite "
            "numbers; the model that answered left the finite numbers"
        )
