"""Why no gain shows, in a sentence."""

from typing import Any

import pytest

from whytune.study.diagnosis import without_gain


def row(metric: str, low: float | None, high: float | None, base: str = "prior") -> dict[str, Any]:
    return {"corpus": "c", "task": "t", "arm": "why", "base": base, "metric": metric,
            "difference": {"value": 0.0, "low": low, "high": high}}  # fmt: skip


def told(comparison: dict[str, Any], *losses: float) -> list[str]:
    learned = [{"label_nll": loss, "by_frequencies": 1.4, "n": 40} for loss in losses]
    return list(without_gain([comparison], {("c", "t", "why"): learned}))


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
    (learned,) = told(row("mse", -0.1, 0.1), 0.2, 0.4)
    assert learned.startswith(
        "c, t: that why answers better than prior cannot be told (mean squared error -0.100 to "
        "+0.100). Its label loss on lessons that it was taught is 0.30 nats (1.40"
    )
    assert "does not carry over" in learned
    (missed,) = told(row("accuracy", None, None), 1.3)
    assert "accuracy not defined" in missed
    assert "has not learned them" in missed


def test_arms_among_themselves_and_runs_that_were_not_asked_are_left_alone() -> None:
    assert not told(row("mse", -0.1, 0.1, base="label"), 1.0)
    assert not told(row("mse", -0.1, 0.1))
