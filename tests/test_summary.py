"""The one sentence that says what a study found."""

import math
from typing import Any

from whytune.study.finding import finding

Rows = list[dict[str, Any]]


def rows(task: str, metric: str = "mse", corpus: str = "c", **values: float | None) -> Rows:
    return [
        {"corpus": corpus, "task": task, "name": name,
         "role": "baseline" if name == "prior" else "arm",
         "scorecard": {"metrics": {metric: {"value": value}, "accuracy": {"value": value}}}}
        for name, value in values.items()
    ]  # fmt: skip


def loss(task: str, low: float | None, high: float | None, arm: str = "why") -> dict[str, Any]:
    return {"corpus": "c", "task": task, "base": "label", "arm": arm, "metric": "label_nll",
            "difference": {"value": 0.0, "low": low, "high": high},
            "sentence": f"On {task}, nothing."}  # fmt: skip


def test_one_comparison_speaks_for_itself() -> None:
    found = finding(rows("a", label=0.2, why=0.1, prior=0.3), [loss("a", -1, 1)])
    assert found == (
        "On a, nothing; the best arm, why, has mean squared error 0.100 against 0.300 of the "
        "training mean."
    )


def test_several_tasks_are_counted_named_and_set_beside_their_priors() -> None:
    all_rows = [
        *rows("a", label=0.2, why=0.1, prior=0.3), *rows("b", label=0.04, why=0.05, prior=0.03),
        *rows("m", "macro", label=0.7, why=0.8, prior=0.9),
    ]  # fmt: skip
    losses = [loss("a", -2, -1), loss("b", -1, 1), loss("m", 0.5, 1)]
    assert finding(all_rows, losses) == (
        "Of 3 comparisons with the arm without explanation, the label loss is lower in 1 (a), "
        "higher in 1 (m), and not told apart in 1; mean squared error of the best arm against "
        "that of the training mean: 0.100 (why) against 0.300 on a, 0.040 (label) against 0.030 "
        "on b; accuracy of the best arm against that of the most frequent label: 0.800 (why) "
        "against 0.900 on m."
    )


def test_several_arms_are_named_with_their_tasks() -> None:
    losses = [loss(task, -2, -1 if task == "a" else 1, arm) for task in "ab" for arm in ("x", "y")]
    assert "lower in 2 (x on a; y on a), higher in 0, and not told apart in 2" in finding(
        [], losses
    )


def test_of_many_tasks_only_the_count_is_told() -> None:
    many = [row for i in range(6)
            for row in rows(f"t{i}", label=0.2, prior=0.3 if i < 4 else 0.1)]  # fmt: skip
    losses = [loss(f"t{i}", -2, -1) for i in range(6)]
    assert finding(many, losses) == (
        "Of 6 comparisons with the arm without explanation, the label loss is lower in 6, higher "
        "in 0, and not told apart in 0; the best arm's mean squared error is better than that of "
        "the training mean in 4 of 6."
    )


def test_two_corpora_with_one_task_are_told_apart() -> None:
    both = [*rows("a", label=0.2, prior=0.3), *rows("a", corpus="d", label=0.1, prior=0.3)]
    found = finding(both, [])
    assert found.startswith("One arm only, so there is nothing to compare; mean squared error of")
    assert "0.200 (label) against 0.300 on a on c, 0.100 (label) against 0.300 on a on d" in found


def test_what_is_not_defined_is_not_claimed() -> None:
    losses = [loss("a", None, None), loss("b", math.nan, math.nan)]
    found = finding(rows("a", label=None, prior=0.3) + rows("b", label=0.1), losses)
    assert found == (
        "Of 2 comparisons with the arm without explanation, the label loss is lower in 0, higher "
        "in 0, and not told apart in 2."
    )
