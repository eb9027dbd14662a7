"""A student as a scikit-learn classifier: taught for real, and held against scikit-learn's checks."""

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_predict
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

import whytune
from whytune import store
from whytune.errors import ClassifierInputError, InputError
from whytune.records import Example, Outcome, Prediction
from whytune.sklearn import TASK, JudgeClassifier

GOOD, BAD = "It says what to do next", "It repeats the question"
TEXTS = [f"{(GOOD, BAD)[n % 2]}, number {n}." for n in range(12)]
CLASSES = [("good", "bad")[n % 2] for n in range(12)]
OVERRIDES = ("prompt.max_length=128", "evidence.bootstrap=100", "predict.max_new_tokens=3",
             "train.per_device_train_batch_size=2")  # fmt: skip


def tiny(model: Path, **changed: Any) -> JudgeClassifier:
    return JudgeClassifier(**{"model": str(model), "learning_rate": 0.02, "overrides": OVERRIDES,
                              "num_train_epochs": 4, **changed})  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> JudgeClassifier:
    reasons = ["it helps" if name == "good" else "it does not" for name in CLASSES]
    return tiny(tiny_folder, folder=tmp_path_factory.mktemp("fits")).fit(TEXTS, CLASSES, reasons)


def test_it_is_taught_as_train_teaches(fitted: JudgeClassifier) -> None:
    facts = store.read_json(Path(fitted.run_) / "run.json")
    assert facts["state"] == "finished"
    assert (facts["arm"], facts["layout"], facts["lessons"]) == ("why", "label, explanation", 10)
    assert fitted.scorecard_["n"] == 2, "one text of each class is held out"
    assert list(fitted.classes_) == ["bad", "good"]


def test_it_answers_as_the_judge_of_its_run(fitted: JudgeClassifier) -> None:
    found = fitted.predict_proba(TEXTS)
    assert found.shape == (12, 2)
    assert found.sum(axis=1) == pytest.approx(1)
    for row, told in zip(found, whytune.load(fitted.run_).predict(TEXTS), strict=True):
        assert list(row) == pytest.approx([told.probs["bad"], told.probs["good"]], abs=1e-5)
    assert list(fitted.predict(TEXTS)) == [("bad", "good")[at] for at in found.argmax(axis=1)]
    assert 0 <= fitted.score(TEXTS, CLASSES) <= 1
    assert all(isinstance(why, str) for why in fitted.explain(TEXTS[:2]))
    assert fitted.predict(np.array(TEXTS[:2], dtype=object)).shape == (2,)
    assert fitted.predict([]).shape == (0,)


def test_it_is_pickled_cloned_and_found_again(fitted: JudgeClassifier) -> None:
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 (our own)
    assert np.array_equal(again.predict_proba(TEXTS[:2]), fitted.predict_proba(TEXTS[:2]))
    other = clone(fitted)
    with pytest.raises(NotFittedError):
        other.predict(TEXTS)
    before = (Path(fitted.run_) / "run.json").stat().st_mtime_ns
    reasons = ["it helps" if name == "good" else "it does not" for name in CLASSES]
    other.fit(TEXTS, CLASSES, reasons)
    assert other.run_ == fitted.run_
    assert (Path(fitted.run_) / "run.json").stat().st_mtime_ns == before


class Nearest:
    """In a student's place: what was taught with the nearest mean number is most probable."""

    facts = SimpleNamespace(roles={"text"})

    def __init__(self, run: str):
        rows = store.read_jsonl(Path(run) / "texts.jsonl")
        taught = [(row["label"], self._numbers(row["turns"][0]["text"])) for row in rows
                  if row["split"] == "train"]  # fmt: skip
        self._means = {
            label: np.mean([x for name, x in taught if name == label], axis=0)
            for label in sorted({name for name, _ in taught})
        }

    def _numbers(self, text: str) -> Any:
        return np.array([float(word) for word in text.split()])

    def predict(self, examples: Sequence[Example], **_: Any) -> list[Prediction]:
        found = []
        for example in examples:
            numbers = self._numbers(example.turns[0].text)
            far = {label: -float(((numbers - mean) ** 2).sum())
                   for label, mean in self._means.items()}  # fmt: skip
            total = np.logaddexp.reduce(list(far.values()))
            found.append(Prediction(
                example_id=example.id, task=TASK, outcome=Outcome.READ,
                label=max(far, key=lambda label: far[label]),
                log_probs={label: value - float(total) for label, value in far.items()},
            ))  # fmt: skip
        return found


class OfNumbers(JudgeClassifier):
    """Reads rows of numbers as texts, for scikit-learn's checks hand in nothing else."""

    def _read(self, X: Any, *, any_role: bool) -> list[Example]:
        rows = validate_data(self, X, reset=any_role, dtype="float64", ensure_min_samples=1)
        return super()._read([" ".join(map(repr, row)) for row in rows.tolist()], any_role=any_role)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


def test_it_passes_the_checks_of_scikit_learn_that_make_sense_for_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def single(recipe: Any, arm: Any, folder: Path, show: Any) -> dict[str, Any]:
        return {"run": str(folder.parent), "scorecard": {}}

    monkeypatch.setattr("whytune.study.grid.single", single)
    monkeypatch.setattr("whytune.judge.load", lambda run: Nearest(run))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(OfNumbers(), on_fail=None)
    # Once texts stand for its numbers, none has to be left out.
    assert [(o["check_name"], o["exception"]) for o in found if o["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in found) > 50


def test_classes_of_any_kind_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def single(recipe: Any, arm: Any, folder: Path, show: Any) -> dict[str, Any]:
        seen.append(recipe)
        return {"run": str(folder.parent), "scorecard": {}}

    monkeypatch.setattr("whytune.study.grid.single", single)
    monkeypatch.setattr("whytune.judge.load", lambda run: Nearest(run))
    numbers = [f"{n % 11} {n / 1000}" for n in range(44)]
    classes = [n % 11 for n in range(44)]
    classifier = JudgeClassifier(kind="ordinal", order=list(range(10, -1, -1)))
    found = classifier.fit(numbers, classes)
    # No label begins another, and the order is the one that was asked for.
    names = [label.name for label in seen[0].resolved_tasks()[0].labels]
    assert names == [f"{n:02d}" for n in range(10, -1, -1)]
    assert list(found.predict(numbers)) == classes
    assert found.predict_proba(numbers).shape == (44, 11)
    crossed = cross_val_predict(JudgeClassifier(), np.array(numbers), classes, cv=2)
    assert crossed.tolist() == classes


WRONG: list[tuple[dict[str, Any], tuple[Any, ...], str]] = [
    ({}, (["a", None], ["x", "y"]), r"X: items\[1\]: found None"),
    ({}, ("one text", ["x"]), "X: items: found 'one text'"),
    ({}, (["a", "b"], ["x"]), "y: found 1 classes for 2 texts"),
    ({}, (["a", "b"], None), "requires y"),
    ({}, (["a", "b"], ["x", "x"]), "y: found 1 class, expected two or more"),
    ({}, (["a", "b"], ["x", "y"]), r"found 0 class\(es\) with two texts or more"),
    ({}, (TEXTS, CLASSES, ["why"]), "explanations: found 1 for 12 texts"),
    ({}, (TEXTS, CLASSES, [3] * 12), r"explanations\[0\]: found 3, expected text or None"),
    ({"held_out": 1.0}, (TEXTS, CLASSES), "held_out: found 1.0"),
    ({"order": ["bad"]}, (TEXTS, CLASSES), r"order: found \['bad'\], expected the classes"),
]  # fmt: skip


@pytest.mark.parametrize(("knobs", "given", "message"), WRONG)
def test_what_cannot_be_taught_is_refused(
    knobs: dict[str, Any], given: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ClassifierInputError, match=message) as fault:
        JudgeClassifier(**knobs).fit(*given)
    assert isinstance(fault.value, InputError)
    assert isinstance(fault.value, ValueError)
