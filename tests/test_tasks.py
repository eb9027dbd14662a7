import pytest

from whytune.records import Kind, Label, Task
from whytune.tasks import BUILT_IN


def test_tasks_stand_under_their_names() -> None:
    assert {name: task.name for name, task in BUILT_IN.items()} == {name: name for name in BUILT_IN}
    assert {"naturalness", "comprehensiveness", "on_topic", "usefulness"} <= set(BUILT_IN)


ORDINAL = {name: task for name, task in BUILT_IN.items() if task.kind is Kind.ORDINAL}


@pytest.mark.parametrize("task", ORDINAL.values(), ids=ORDINAL)
def test_ordinal_labels_run_evenly_from_0_to_1(task: Task) -> None:
    assert (task.values[0], task.values[-1]) == (0.0, 1.0)
    steps = [high - low for low, high in zip(task.values, task.values[1:], strict=False)]
    assert steps == pytest.approx([1 / (len(task.labels) - 1)] * len(steps))
    assert [task.nearest(value) for value in task.values] == list(task.label_names)


@pytest.mark.parametrize(
    ("score", "label"),
    [(0.0, "1"), (0.124, "1"), (0.125, "2"), (0.375, "3"), (0.625, "3"), (0.875, "4"), (1.0, "5")],
)
def test_halfway_goes_to_the_middle(score: float, label: str) -> None:
    assert BUILT_IN["naturalness"].nearest(score) == label


def test_a_nominal_label_has_no_value() -> None:
    labels = (Label(name="joy"), Label(name="fear"))
    task = Task(name="emotion", kind=Kind.NOMINAL, question="Which?", labels=labels)
    assert task.value("joy") is None
