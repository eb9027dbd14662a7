"""Probabilities made to mean what they say, by a map fitted on a validation split.

A map changes how the probability is shared among the labels, never how much of it they have
together: the label mass of a prediction stays what it was. So the label NLL among all texts moves
by exactly what the NLL among the labels moves by.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp
from sklearn.isotonic import IsotonicRegression

from whytune.errors import EvidenceError
from whytune.evidence.table import Floats, Ints, read_mask, tabulate
from whytune.records import Kind, Outcome, Prediction, Reference, Task

LEAST = 10
"""Examples below which nothing is fitted."""
COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature: a split on which every answer is right would have it 0."""
_ROUNDING = 1e-12


class Method(StrEnum):
    """How probabilities are mapped."""

    TEMPERATURE = "temperature"
    """One number for all labels; the order of the labels stays."""
    VECTOR = "vector"
    """A scale and a shift for each label."""
    ISOTONIC = "isotonic"
    """A rising curve for each label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted map, as it stands beside an adapter. What its method does not use is empty."""

    method: Method
    task: str
    labels: tuple[str, ...]
    """Of the task, in its order; everything below is in this order."""
    n: int
    """Predictions it was fitted on."""
    unreadable: int
    """Predictions of the split that carried no label and were left out."""
    temperature: float | None = None
    """Above 1 makes less sure, below 1 more; `COLDEST` to `HOTTEST`."""
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    curves: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    """Label by label: probabilities, rising, and what each becomes; straight lines between."""

    def __post_init__(self) -> None:
        sizes = {
            Method.TEMPERATURE: (1, 0, 0, 0),
            Method.VECTOR: (0, len(self.labels), len(self.labels), 0),
            Method.ISOTONIC: (0, 0, 0, len(self.labels)),
        }[self.method]
        held = (self.temperature is not None, len(self.scale), len(self.shift), len(self.curves))
        if held != sizes:
            raise ValueError(f"numbers that are not those of {self.method} of these labels")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}, expected a number above 0")
        if any(len(x) != len(y) or not x for x, y in self.curves):
            raise ValueError("a curve with more of one coordinate than of the other, or empty")

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types."""
        return dict(_JSON.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, content: Any) -> "Calibration":
        """What `to_json` gave, exactly.

        Raises:
            EvidenceError: it is not that.
        """
        try:
            return _JSON.validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "as a whole"
            raise EvidenceError(
                f"calibration: cannot be read ({place}: {first['msg']}); expected what whytune "
                "wrote; fit it again"
            ) from None


_JSON = TypeAdapter(Calibration)


def fit(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    task: Task,
    method: Method | str,
) -> Calibration:
    """Fit a map to predictions about a split that nothing else was trained or measured on.

    With p the probabilities among the labels and z = ln p:

    * temperature (Guo et al. 2017, arXiv 1706.04599, equation 9): softmax(z / T); T > 0 has the
      least mean NLL among the labels, found on ln T within `COLDEST` and `HOTTEST`. Where no T
      does better than 1 it is 1.
    * vector (the same, section 4.2): softmax(W z + b), W diagonal. Least of the sum of the NLL
      plus |diag(W) - 1|² / 2 + |b|² / 2, the strength of scikit-learn's default: the pull towards
      leaving p alone keeps the numbers finite where a label never occurs, and fades with n.
    * isotonic (Zadrozny and Elkan 2002, one against the rest): for each label the rising curve
      from p to [label is the reference] of least squared error; the results are divided by their
      sum. Ordinal tasks are treated the same.

    The NLL among the labels on the predictions handed in never gets worse by temperature and
    vector; isotonic regression minimises squared errors label by label and gives no such word.

    Args:
        predictions: about the validation split; several of one example (seeds) may be pooled.
        references: example id -> what the answer is measured against.
        task: the task of all predictions.
        method: which map.

    Raises:
        EvidenceError: an unknown method; an answerer without probabilities; fewer than `LEAST`
            readable predictions or fewer than two labels among their references; or what
            `table.tabulate` refuses.
    """
    if method not in set(Method):
        raise EvidenceError(
            f"task {task.name}: found calibration {method!r}, expected one of {', '.join(Method)}"
        )
    readable = read_mask(predictions)
    codes = np.zeros(len(predictions), dtype=np.int64)
    truth = tabulate(predictions, references, task, codes, readable).reference
    read = [prediction for prediction in predictions if prediction.outcome is Outcome.READ]
    if len(read) < LEAST or len(set(truth.tolist())) < 2:
        raise EvidenceError(
            f"task {task.name}: found {len(read)} readable predictions whose references carry "
            f"{len(set(truth.tolist()))} label(s), expected {LEAST} or more and two or more to "
            "calibrate on; take a larger validation split, or leave calibration out"
        )
    rows = np.array([_among(prediction, task.label_names) for prediction in read])
    fitted: dict[Method, Callable[[Floats, Ints], dict[str, Any]]] = {
        Method.TEMPERATURE: _temperature,
        Method.VECTOR: _vector,
        Method.ISOTONIC: _isotonic,
    }
    return Calibration(
        method=Method(method),
        task=task.name,
        labels=task.label_names,
        n=len(read),
        unreadable=len(predictions) - len(read),
        **fitted[Method(method)](rows, truth),
    )


def apply(calibration: Calibration, prediction: Prediction, task: Task) -> Prediction:
    """The prediction with calibrated probabilities, label and expected score.

    log_probs = ln(calibrated probability among the labels) + ln(label mass as it was). The label
    is the most probable one; of labels that tie, as isotonic curves often make them, the one that
    was more probable before. A prediction without a label is returned as it is.

    Isotonic curves are flat beyond the probabilities they were fitted on. Where all of them give
    0, the probabilities stay as they were; else none is taken below 1 / (n + labels), for n
    predictions cannot tell a rarer label from one that never occurs.

    Raises:
        EvidenceError: a calibration for another task or other labels, or a prediction of another
            task or without probabilities.
    """
    asked = (task.name, task.label_names)
    if (calibration.task, calibration.labels) != asked or prediction.task != task.name:
        raise EvidenceError(
            f"prediction {prediction.example_id} of {prediction.task}: found a calibration for "
            f"{calibration.task} ({', '.join(calibration.labels)}), expected one for {task.name} "
            f"({', '.join(task.label_names)}); use the calibration that stands with the adapter"
        )
    if prediction.outcome is not Outcome.READ:
        return prediction
    before = _among(prediction, task.label_names)
    after = _mapped(calibration, before)
    log_mass = float(logsumexp(list(prediction.log_probs.values())))
    top = np.flatnonzero(after >= after.max() - _ROUNDING)
    return replace(
        prediction,
        label=task.label_names[top[before[top].argmax()]],
        log_probs={
            name: float(value) + log_mass
            for name, value in zip(task.label_names, after, strict=True)
        },
        expected=float(np.exp(after) @ task.values) if task.kind is Kind.ORDINAL else None,
    )


def _among(prediction: Prediction, labels: Sequence[str]) -> Floats:
    """[label] log-probabilities among the labels; not by `probs`, which rounds small ones to 0."""
    if set(prediction.log_probs) != set(labels):
        raise EvidenceError(
            f"prediction {prediction.example_id}: found log-probabilities of "
            f"{', '.join(prediction.log_probs) or 'nothing'}, expected those of "
            f"{', '.join(labels)}; only an answerer that gives probabilities can be calibrated"
        )
    values = np.array([prediction.log_probs[name] for name in labels], dtype=np.float64)
    return np.asarray(log_softmax(values))


def _nll(rows: Floats, truth: Ints) -> float:
    """Sum over the rows, in nats; the rows need not be normalised."""
    return float(logsumexp(rows, axis=1).sum() - rows[np.arange(len(rows)), truth].sum())


def _temperature(rows: Floats, truth: Ints) -> dict[str, Any]:
    def loss(log_temperature: float) -> float:
        return _nll(rows / math.exp(log_temperature), truth)

    # Convex in 1 / T, so it has one valley in ln T as well.
    found = minimize_scalar(
        loss,
        bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    better = found.fun < loss(0.0) * (1 - _ROUNDING)
    return {"temperature": math.exp(float(found.x)) if better else 1.0}


def _vector(rows: Floats, truth: Ints) -> dict[str, Any]:
    labels = rows.shape[1]
    hit = np.eye(labels)[truth]
    unchanged = np.concatenate((np.ones(labels), np.zeros(labels)))

    def loss(numbers: Floats) -> tuple[float, Floats]:
        moved = rows * numbers[:labels] + numbers[labels:]
        off = np.exp(log_softmax(moved, axis=1)) - hit
        slope = np.concatenate(((off * rows).sum(axis=0), off.sum(axis=0)))
        pull = numbers - unchanged
        return _nll(moved, truth) + float(pull @ pull) / 2, slope + pull

    found = minimize(
        loss,
        unchanged,
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-8, "maxiter": 1000},
    ).x.tolist()
    return {"scale": tuple(found[:labels]), "shift": tuple(found[labels:])}


def _isotonic(rows: Floats, truth: Ints) -> dict[str, Any]:
    curves = []
    for label, column in enumerate(np.exp(rows).T):
        curve = IsotonicRegression().fit(column, (truth == label).astype(np.float64))
        curves.append((tuple(curve.X_thresholds_.tolist()), tuple(curve.y_thresholds_.tolist())))
    return {"curves": tuple(curves)}


def _mapped(calibration: Calibration, before: Floats) -> Floats:
    """[label] calibrated log-probabilities among the labels."""
    if calibration.temperature is not None:
        return np.asarray(log_softmax(before / calibration.temperature))
    if calibration.method is Method.VECTOR:
        moved = before * np.array(calibration.scale) + np.array(calibration.shift)
        return np.asarray(log_softmax(moved))
    given = np.array(
        [np.interp(p, x, y) for p, (x, y) in zip(np.exp(before), calibration.curves, strict=True)]
    )
    if not given.any():
        return before
    floor = 1 / (calibration.n + len(given))
    kept = np.maximum(given / given.sum(), floor)
    return np.asarray(np.log(kept / kept.sum()))
