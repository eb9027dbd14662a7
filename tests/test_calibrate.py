"""Calibration against known truths, brute force, torch's gradients and scikit-learn."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

from whytune import store
from whytune.errors import EvidenceError
from whytune.evidence.calibrate import COLDEST, LEAST, Calibration, Method, apply, fit
from whytune.records import Kind, Label, Outcome, Prediction, Reference, Task

FIVE = Task(
    name="usefulness", kind=Kind.ORDINAL, question="How useful?",
    labels=tuple(Label(name=str(i)) for i in range(1, 6)),
)  # fmt: skip
MOODS = Task(
    name="emotion", kind=Kind.NOMINAL, question="Which mood?",
    labels=tuple(Label(name=name) for name in ("joy", "anger", "fear")),
)  # fmt: skip
MASS = 0.7


def answers(logits: np.ndarray[Any, Any], task: Task, mass: float = MASS) -> list[Prediction]:
    rows = log_softmax(logits, axis=1)
    return [
        Prediction(
            example_id=f"e{i}", task=task.name, outcome=Outcome.READ,
            label=task.label_names[int(row.argmax())],
            log_probs={n: float(v) + math.log(mass)
                       for n, v in zip(task.label_names, row, strict=True)},
            expected=float(np.exp(row) @ task.values) if task.kind is Kind.ORDINAL else None,
            explanation=f"because {i}",
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip


def named(truth: Sequence[int], task: Task) -> dict[str, Reference]:
    names = [task.label_names[t] for t in truth]
    return {f"e{i}": Reference(label=n, score=task.value(n)) for i, n in enumerate(names)}


class World:
    """Labels drawn from softmax(logits); the answerer says softmax(logits x `sure`)."""

    def __init__(self, task: Task = MOODS, n: int = 400, seed: int = 0, sure: float = 3.0) -> None:
        rng = np.random.default_rng(seed)
        true = rng.normal(scale=1.5, size=(n, len(task.labels)))
        self.task = task
        self.truth = [int(rng.choice(len(row), p=row)) for row in softmax(true, axis=1)]
        self.logits = true * sure
        self.predictions = answers(self.logits, task)
        self.references = named(self.truth, task)

    def fit(self, method: str) -> Calibration:
        return fit(self.predictions, self.references, self.task, method)

    def nll(self, calibration: Calibration | None = None) -> float:
        """Among the labels, by scikit-learn."""
        found = self.predictions
        if calibration is not None:
            found = [apply(calibration, p, self.task) for p in found]
        probs = np.array([list(p.probs.values()) for p in found])
        # Off from 1 by rounding; scikit-learn warns of 1e-8 and less.
        probs /= probs.sum(axis=1, keepdims=True)
        return float(log_loss(self.truth, probs, labels=range(len(self.task.labels))))


@pytest.mark.parametrize("sure", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("task", [FIVE, MOODS], ids=lambda task: str(task.kind))
def test_temperature_finds_the_one_that_made_the_answers(task: Task, sure: float) -> None:
    found = World(task, n=5_000, sure=sure).fit("temperature").temperature
    assert found == pytest.approx(sure, rel=0.07)


@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_the_best_of_a_fine_grid(seed: int) -> None:
    world = World(n=60, seed=seed)
    grid = np.exp(np.linspace(math.log(0.02), math.log(50), 20_001))
    rows = np.arange(60)
    scaled = world.logits[None] / grid[:, None, None]
    losses = (logsumexp(scaled, axis=2) - scaled[:, rows, world.truth]).mean(axis=1)
    calibration = world.fit("temperature")
    assert calibration.temperature == pytest.approx(grid[losses.argmin()], rel=1e-3)
    assert world.nll(calibration) <= losses.min() + 1e-9


def test_a_temperature_that_changes_nothing_is_one() -> None:
    world = World(n=30)
    world.predictions = answers(np.zeros((30, 3)), MOODS)
    assert world.fit("temperature").temperature == 1.0


def test_always_right_runs_to_the_bound_and_stays_finite() -> None:
    world = World(n=30)
    world.predictions = answers(np.eye(3)[world.truth], MOODS)
    calibration = world.fit("temperature")
    assert calibration.temperature == pytest.approx(COLDEST, rel=1e-3)
    for p in world.predictions:
        assert all(math.isfinite(v) for v in apply(calibration, p, MOODS).log_probs.values())


def test_vector_scaling_stands_where_its_gradient_by_torch_is_zero() -> None:
    world = World(FIVE, n=200, seed=4)
    calibration = world.fit("vector")
    scale = torch.tensor(calibration.scale, dtype=torch.float64, requires_grad=True)
    shift = torch.tensor(calibration.shift, dtype=torch.float64, requires_grad=True)
    z = torch.log_softmax(torch.tensor(world.logits), dim=1)
    loss = torch.nn.functional.cross_entropy(
        z * scale + shift, torch.tensor(world.truth), reduction="sum"
    )
    (loss + ((scale - 1) ** 2).sum() / 2 + (shift**2).sum() / 2).backward()
    for numbers in (scale, shift):
        assert numbers.grad is not None
        assert numbers.grad.abs().max() < 1e-3
    assert max(abs(s - 1) for s in calibration.scale) > 0.3


def test_vector_scaling_is_finite_where_a_label_never_occurs() -> None:
    world = World(n=40, seed=5)
    world.truth = [min(t, 1) for t in world.truth]
    world.references = named(world.truth, MOODS)
    calibration = world.fit("vector")
    assert all(abs(v) < 10 for v in (*calibration.scale, *calibration.shift))
    assert calibration.shift[2] < 0


@pytest.mark.parametrize("method", ["temperature", "vector"])
@given(
    n=st.integers(LEAST, 40), seed=st.integers(0, 10_000), sure=st.floats(0.01, 50),
    task=st.sampled_from([FIVE, MOODS]),
)  # fmt: skip
def test_the_loss_among_the_labels_never_gets_worse(
    method: str, n: int, seed: int, sure: float, task: Task
) -> None:
    world = World(task, n=n, seed=seed, sure=sure)
    if len(set(world.truth)) < 2:
        return
    calibration = world.fit(method)
    rows = np.array([list(p.log_probs.values()) for p in world.predictions])
    after = np.array(
        [list(apply(calibration, p, task).log_probs.values()) for p in world.predictions]
    )
    gain = (after - rows)[np.arange(n), world.truth].mean()
    assert gain >= -1e-9


def test_isotonic_equals_scikit_learn_label_by_label() -> None:
    world = World(n=300, seed=6)
    calibration = world.fit("isotonic")
    fitted = softmax(world.logits, axis=1)
    fresh = World(n=50, seed=7)
    asked = softmax(fresh.logits, axis=1)
    columns = [
        IsotonicRegression(out_of_bounds="clip")
        .fit(fitted[:, k], np.equal(world.truth, k).astype(float))
        .predict(asked[:, k])
        for k in range(3)
    ]
    raw = np.array(columns).T
    checked = 0
    for p, row in zip(fresh.predictions, raw, strict=True):
        found = list(apply(calibration, p, MOODS).probs.values())
        # Where nothing is floored.
        if (row / row.sum()).min() >= 1 / 303:
            assert found == pytest.approx(row / row.sum(), abs=1e-9)
            checked += 1
        else:
            assert min(found) == pytest.approx(1 / 303, rel=0.02)
    assert checked > 10
    assert world.nll(calibration) < world.nll()


def curved(*curves: tuple[tuple[float, ...], tuple[float, ...]]) -> Calibration:
    return Calibration(
        method=Method.ISOTONIC, task="emotion", labels=MOODS.label_names, n=97, unreadable=0,
        curves=curves,
    )  # fmt: skip


def test_isotonic_curves_that_are_all_zero_leave_the_answer_as_it_was() -> None:
    nothing = ((0.0, 1.0), (0.0, 0.0))
    (p,) = answers(np.array([[1.0, 3.0, 2.0]]), MOODS)
    after = apply(curved(nothing, nothing, nothing), p, MOODS)
    assert after.log_probs == pytest.approx(p.log_probs)
    assert after.label == "anger"


def test_a_zero_is_floored_and_a_tie_goes_to_what_was_more_probable() -> None:
    half = ((0.0, 1.0), (0.5, 0.5))
    (p,) = answers(np.array([[1.0, 3.0, 2.0]]), MOODS)
    after = apply(curved(half, half, ((0.0, 1.0), (0.0, 0.0))), p, MOODS)
    assert after.label == "anger"
    # 0.5, 0.5 and 0.01 (1 / (97 + 3)), divided by their sum.
    assert list(after.probs.values()) == pytest.approx([0.5 / 1.01, 0.5 / 1.01, 0.01 / 1.01])


@pytest.mark.parametrize("method", list(Method))
@given(
    logits=st.lists(st.floats(-300, 300), min_size=5, max_size=5),
    mass=st.floats(1e-6, 1.0),
)
def test_applying_keeps_the_mass_and_probabilities_sum_to_one(
    method: Method, logits: list[float], mass: float
) -> None:
    (before,) = answers(np.array([logits]), FIVE, mass)
    after = apply(FITTED[method], before, FIVE)
    assert after.label_mass == pytest.approx(before.label_mass, rel=1e-9)
    assert math.fsum(after.probs.values()) == pytest.approx(1, abs=1e-12)
    assert all(math.isfinite(v) for v in after.log_probs.values())
    assert after.label is not None
    assert after.log_probs[after.label] == pytest.approx(max(after.log_probs.values()))
    want = sum(p * v for p, v in zip(after.probs.values(), FIVE.values, strict=True))
    assert after.expected == pytest.approx(want, abs=1e-9)
    assert after.explanation == before.explanation
    if method is Method.TEMPERATURE:
        top = before.log_probs[after.label]
        assert top == pytest.approx(max(before.log_probs.values()), abs=1e-9)


FITTED = {method: World(FIVE, n=80, seed=8).fit(method) for method in Method}


@pytest.mark.parametrize("method", list(Method))
def test_json_there_and_back(method: Method) -> None:
    calibration = World(FIVE, n=80, seed=9).fit(method)
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    assert Calibration.from_json(json.loads(json.dumps(store.plain(calibration)))) == calibration


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "platt"}, "method: Input should be"),
        ({"scale": [1.0]}, "as a whole: .* not those of temperature"),
        ({"temperature": -1.0}, "temperature -1.0, expected a number above 0"),
        ({"n": None}, "n: Input should be a valid integer"),
        ({"temperature": None, "method": "isotonic", "curves": [[[0, 1], [0]]] * 3}, "a curve"),
    ],
)
def test_a_damaged_calibration_is_refused(change: dict[str, Any], told: str) -> None:
    content = World(n=30).fit("temperature").to_json() | change
    with pytest.raises(EvidenceError, match=f"{told}.*fit it again"):
        Calibration.from_json(content)
    with pytest.raises(EvidenceError, match="calibration: cannot be read"):
        Calibration.from_json([1, 2])


def test_unreadable_answers_are_left_out_and_stay_as_they_are() -> None:
    world = World(n=50, seed=10)
    lost = replace(
        world.predictions[0], outcome=Outcome.UNREADABLE, label=None, log_probs={}, expected=None
    )
    calibration = fit([lost, *world.predictions[1:]], world.references, MOODS, "temperature")
    assert (calibration.n, calibration.unreadable) == (49, 1)
    only = fit(world.predictions[1:], world.references, MOODS, "temperature")
    assert calibration.temperature == only.temperature
    assert apply(calibration, lost, MOODS) is lost


def test_too_little_to_fit_on_is_refused() -> None:
    world = World(n=LEAST - 1)
    with pytest.raises(EvidenceError, match=r"found 9 readable predictions .* larger validation"):
        world.fit("temperature")
    world = World(n=30)
    world.references = named([1] * 30, MOODS)
    with pytest.raises(EvidenceError, match=r"carry 1 label\(s\), expected 10 or more and two"):
        world.fit("vector")
    with pytest.raises(EvidenceError, match="no predictions"):
        fit([], {}, MOODS, "isotonic")


def test_what_cannot_be_calibrated_is_refused() -> None:
    world = World(n=30)
    with pytest.raises(EvidenceError, match="found calibration 'platt', expected one of temp"):
        world.fit("platt")
    calibration = world.fit("temperature")
    bare = [replace(p, log_probs={}) for p in world.predictions]
    with pytest.raises(EvidenceError, match=r"e0: found log-probabilities of nothing, .* only an"):
        fit(bare, world.references, MOODS, "temperature")
    with pytest.raises(EvidenceError, match="e0: found log-probabilities of nothing"):
        apply(calibration, bare[0], MOODS)
    with pytest.raises(EvidenceError, match=r"found a calibration for emotion .* for usefulness"):
        apply(calibration, answers(np.zeros((1, 5)), FIVE)[0], FIVE)
