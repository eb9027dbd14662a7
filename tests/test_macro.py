"""Figures of single labels, and means over tasks, against scikit-learn and written-out draws."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from whytune.evidence.classwise import LabelCard, classwise
from whytune.evidence.intervals import resample
from whytune.evidence.macro import Answers, over_tasks
from whytune.evidence.metrics import metrics_of, scorecard
from whytune.records import Kind, Label, Outcome, Prediction, Reference, Scorecard, Task


def task(name: str, kind: Kind, labels: int) -> Task:
    names = tuple(Label(name=f"l{i}") for i in range(labels))
    return Task(name=name, kind=kind, question="Which?", labels=names)


CLEAR = task("clarity", Kind.ORDINAL, 5)
USEFUL = task("usefulness", Kind.ORDINAL, 3)
MOOD = task("emotion", Kind.NOMINAL, 4)


def answers(of: Task, ids: range, seed: int = 0, size: int = 2) -> Answers:
    """Made-up answers about the examples `ids`, `size` to a group."""
    rng = np.random.default_rng(seed)
    labels = len(of.labels)
    truth = rng.integers(labels, size=len(ids))
    probs = rng.dirichlet(np.ones(labels), size=len(ids)) + np.eye(labels)[truth] / 2
    probs /= probs.sum(axis=1, keepdims=True)
    ordinal = of.kind is Kind.ORDINAL
    return Answers(
        task=of,
        predictions=[
            Prediction(
                example_id=f"e{i}",
                task=of.name,
                outcome=Outcome.READ,
                label=of.label_names[int(row.argmax())],
                log_probs={n: math.log(p) for n, p in zip(of.label_names, row, strict=True)},
                expected=float(row @ np.array(of.values)) if ordinal else None,
            )
            for i, row in zip(ids, probs, strict=True)
        ],
        references={
            f"e{i}": Reference(label=of.label_names[t], score=of.value(of.label_names[t]))
            for i, t in zip(ids, truth, strict=True)
        },
        groups={f"e{i}": f"g{i // size:03}" for i in ids},
    )


def card(own: Answers, draws: int = 50) -> Scorecard:
    return scorecard(
        own.predictions, own.references, own.groups, own.task,
        reference="gold", draws=draws, seed=3,
    )  # fmt: skip


def cards(own: Answers, draws: int = 50) -> tuple[LabelCard, ...]:
    return classwise(
        own.predictions, own.references, own.groups, own.task, draws=draws, seed=3
    )  # fmt: skip


def peer(
    own: Answers, often: Mapping[str, int]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """[precision, recall, F1, support] x label, each example as often as told."""
    rows = [p for p in own.predictions for _ in range(often[p.example_id])]
    truth = [own.references[p.example_id].label for p in rows]
    return np.array(
        precision_recall_fscore_support(
            truth, [p.label for p in rows], labels=own.task.label_names, zero_division=np.nan
        )
    )


def test_figures_of_a_label_equal_those_of_scikit_learn() -> None:
    own = answers(MOOD, range(60))
    found = cards(own)
    want = peer(own, dict.fromkeys(own.groups, 1))
    assert [c.label for c in found] == list(MOOD.label_names)
    assert [c.support for c in found] == list(want[3])
    assert sum(c.predicted for c in found) == 60
    for i, figure in enumerate(("precision", "recall", "f1")):
        assert [getattr(c, figure).value for c in found] == pytest.approx(want[i])


def test_intervals_of_a_label_are_those_of_the_draws_written_out() -> None:
    own = answers(MOOD, range(60))
    names = sorted(set(own.groups.values()))
    drawn = []
    for counts in resample(30, 50, seed=3):
        taken = dict(zip(names, counts.astype(int), strict=True))
        drawn.append(peer(own, {i: taken[g] for i, g in own.groups.items()}))
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    for i, figure in enumerate(("precision", "recall", "f1")):
        for j, found in enumerate(cards(own)):
            estimate = getattr(found, figure)
            assert (estimate.low, estimate.high) == pytest.approx((low[i, j], high[i, j]))


def test_a_label_that_is_missing_has_no_figure() -> None:
    own = answers(MOOD, range(20))
    first = [replace(p, label="l0") for p in own.predictions]
    some = {i: replace(r, label="l1" if r.label == "l0" else r.label)
            for i, r in own.references.items()}  # fmt: skip
    said, met, *_ = cards(replace(own, predictions=first, references=some))
    assert (said.support, said.predicted, said.precision.value) == (0, 20, 0)
    assert math.isnan(said.recall.value)
    assert math.isnan(met.precision.value)
    assert met.recall.value == met.f1.value == 0
    lost = [replace(p, outcome=Outcome.FAILED, label=None) for p in first]
    for predictions in ([], lost):
        for found in cards(replace(own, predictions=predictions)):
            assert found.support == found.predicted == 0
            figures = (found.precision, found.recall, found.f1)
            assert all(math.isnan(e.value) and math.isnan(e.low) for e in figures)


def test_one_task_is_its_own_mean() -> None:
    own = answers(CLEAR, range(40))
    found = over_tasks([own], draws=50, seed=3)
    for name, figure in card(own).metrics.items():
        mean = found[name].mean
        assert (mean.value, mean.low, mean.high) == pytest.approx(
            (figure.value, figure.low, figure.high)
        )
        assert found[name].tasks == ("clarity",)


def test_a_mean_is_over_the_tasks_that_define_the_figure() -> None:
    asked = [
        answers(CLEAR, range(40), 1),
        answers(USEFUL, range(40), 2),
        answers(MOOD, range(40), 3),
    ]
    asked.append(answers(task("silent", Kind.NOMINAL, 2), range(0)))
    found = over_tasks(asked, draws=20, seed=0)
    assert set(found) == set(metrics_of(CLEAR))
    single = [card(own).metrics for own in asked[:3]]
    for name, one in found.items():
        have = [metrics[name].value for metrics in single if name in metrics]
        assert one.mean.value == pytest.approx(np.mean(have)), name
        every = ("clarity", "usefulness", "emotion")
        assert one.tasks == (every if name in metrics_of(MOOD) else every[:2])
    nothing = over_tasks(asked[3:], draws=20, seed=0)["accuracy"]
    assert nothing.tasks == ()
    assert math.isnan(nothing.mean.value)


def test_tasks_about_the_same_groups_are_drawn_together() -> None:
    own = answers(CLEAR, range(60), 4)
    again = replace(CLEAR, name="again")
    twin = replace(own, task=again, predictions=[replace(p, task="again") for p in own.predictions])
    # The same answers under two names tell no more than once.
    together = over_tasks([own, twin], draws=400, seed=3)
    for name, figure in card(own, draws=400).metrics.items():
        mean = together[name].mean
        assert (mean.value, mean.low, mean.high) == pytest.approx(
            (figure.value, figure.low, figure.high)
        ), name
    # Under other groups they would tell twice as much.
    apart = replace(twin, groups={i: f"other {g}" for i, g in own.groups.items()})
    narrow, wide = over_tasks([own, apart], draws=400, seed=3)["mse"].mean, together["mse"].mean
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(0.5**0.5, abs=0.12)


def test_groups_that_tasks_share_in_part_are_drawn_by_name() -> None:
    first, second = answers(CLEAR, range(40), 5), answers(USEFUL, range(20, 70), 6)
    found = over_tasks([first, second], draws=60, seed=3)["mse"].mean
    names = sorted({*first.groups.values(), *second.groups.values()})
    means = []
    for counts in resample(len(names), 60, seed=3):
        often = dict(zip(names, counts, strict=True))
        of_tasks = []
        for own in (first, second):
            errors = [(p.expected or 0) - (own.references[p.example_id].score or 0)
                      for p in own.predictions]  # fmt: skip
            weights = [often[own.groups[p.example_id]] for p in own.predictions]
            of_tasks.append(np.average(np.square(errors), weights=weights))
        means.append(np.mean(of_tasks))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
