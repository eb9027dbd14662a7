"""The task that a label column answers: its labels, their order, and the scale of scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from whytune.propose.columns import Uses
from whytune.propose.head import Column, Head
from whytune.propose.words import ORDERS, SCALES
from whytune.records import Kind

POINTS = ("1", "2", "3", "4", "5")
"""Labels to which scores are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How the task is answered."""

    kind: Kind
    labels: tuple[str, ...]
    """Of an ordinal task from the lowest to the highest; else the most frequent first."""
    scale: tuple[float, float] | None
    """Lowest and highest score; None where the column holds labels."""
    doubts: tuple[str, ...]

    @property
    def scored_order(self) -> bool:
        """Whether the labels have an order."""
        return self.kind is Kind.ORDINAL


def task(head: Head, uses: Uses) -> Answer:
    """What the label or score column asks for."""
    if "score" in uses:
        return _scores(head.columns[uses["score"]])
    column = head.columns[uses["label"]]
    if column.numbers is not None:
        return _digits(column)
    return _names(column)


def _scores(column: Column) -> Answer:
    assert column.numbers is not None
    low, high = min(column.numbers), max(column.numbers)
    scale = _scale(low, high)
    doubts = (
        [
            f"scores go from {low:g} to {high:g}, so the scale {scale[0]:g} to {scale[1]:g} is a guess"
        ]
        if (low, high) != scale
        else []
    )
    labels: tuple[str, ...] = POINTS
    if scale[0] == 1 and scale[1] <= 9:
        labels = tuple(str(point) for point in range(1, int(scale[1]) + 1))
    return Answer(kind=Kind.ORDINAL, labels=labels, scale=scale, doubts=tuple(doubts))


def _scale(low: float, high: float) -> tuple[float, float]:
    """The narrowest usual scale that holds all scores; else the scores' own ends."""
    for first, last in SCALES:
        if first <= low and high <= last:
            return float(first), float(last)
    return float(low), float(high)


def _digits(column: Column) -> Answer:
    """One-digit whole numbers: points of a scale, but two of them may as well be names."""
    seen = sorted(map(int, column.counts))
    if len(seen) == 2:
        return Answer(
            kind=Kind.NOMINAL, labels=tuple(map(str, seen)), scale=None,
            doubts=(f"{seen[0]} and {seen[1]} were taken for names; say what they mean",),
        )  # fmt: skip
    low, high = _scale(seen[0], seen[-1])
    if high > 9 or high - low > 2 * (seen[-1] - seen[0]):
        low, high = seen[0], seen[-1]
    labels = tuple(str(point) for point in range(int(low), int(high) + 1))
    absent = [label for label in labels if label not in column.counts]
    doubts = ["the numbers were taken for points of a scale, from lowest to highest"]
    if absent:
        doubts.append(f"{', '.join(absent)} belong to the scale but did not occur")
    return Answer(kind=Kind.ORDINAL, labels=labels, scale=None, doubts=tuple(doubts))


def _names(column: Column) -> Answer:
    ordered = _ordered(list(column.counts))
    if ordered is not None:
        doubt = f"the order of the labels is a guess: {', '.join(ordered)}"
        return Answer(kind=Kind.ORDINAL, labels=tuple(ordered), scale=None, doubts=(doubt,))
    by_frequency = sorted(column.counts, key=lambda name: (-column.counts[name], name))
    doubts = ["no order of the labels was found; if they have one, make the task ordinal"]
    folded: dict[str, str] = {}
    for name in by_frequency:
        if folded.setdefault(name.casefold(), name) != name:
            doubts.append(f"{folded[name.casefold()]!r} and {name!r} differ in case only")
    return Answer(kind=Kind.NOMINAL, labels=tuple(by_frequency), scale=None, doubts=tuple(doubts))


def _ordered(names: Sequence[str]) -> list[str] | None:
    """The names from lowest to highest; None where no order is known."""
    if len(names) < 3:
        return None
    numbered = {name: match for name in names if (match := re.match(r"\d+(?=\D|$)", name))}
    places = {name: int(match[0]) for name, match in numbered.items()}
    if len(places) == len(names) == len(set(places.values())):
        return sorted(names, key=lambda name: places[name])
    folded = {name: name.casefold().replace("_", " ") for name in names}
    for order in ORDERS:
        if len(set(folded.values())) == len(names) and set(folded.values()) <= set(order):
            return sorted(names, key=lambda name: order.index(folded[name]))
    return None
