"""Why no gain shows, in a sentence."""

from typing import Any

import pytest

from whytune.study.diagnosis import reason


def row(metric: str, low: float | None, high: float | None) -> dict[str, Any]:
    return {"arm": "why", "metric": metric, "difference": {"value": 0.0, "low": low, "high": high}}


def told(comparison: dict[str, Any], *losses: float) -> str:
    return reason(comparison, [{"label_nll": x, "by_frequencies": 1.4, "n": 40} for x in losses])


@pytest.mark.parametrize(
    ("metric", "low", "high", "is_told"),
    [
        ("mse", -0.2, -0.1, False), ("mse", -0.2, 0.0, True), ("mse", 0.1, 0.2, True),
        ("accuracy", 0.1, 0.2, False), ("accuracy", 0.0, 0.2, True), ("mse", None, None, True),
    ],
)  # fmt: skip
def test_only_what_shows_no_gain_is_told(
    metric: str, low: float | None, high: float | None, is_told: bool
) -> None:
    assert bool(told(row(metric, low, high), 1.0)) is is_told


def test_what_was_not_learned_is_told_apart_from_what_does_not_carry_over() -> None:
    learned = told(row("mse", -0.1, 0.1), 0.2, 0.4)
    assert learned.startswith(
        "On lessons that it was taught, the label loss of why is 0.30 nats, against 1.40 by the "
    )
    assert "does not carry over" in learned
    assert "only in part" in told(row("accuracy", None, None), 1.0)
    assert "has not learned them" in told(row("accuracy", None, None), 1.3)


def test_students_that_were_not_asked_are_left_alone() -> None:
    assert not told(row("mse", -0.1, 0.1))
