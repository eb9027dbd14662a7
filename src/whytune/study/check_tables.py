"""The numbers behind the pictures of a check, as flat rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from whytune.lint import words
from whytune.records import Kind
from whytune.study.findings import Sheet
from whytune.study.stored import Record
from whytune.study.tables import SCORE_STEP

MOST_BINS = 30
"""Bars of a histogram, at most."""
MOST_WORDS = 20
"""Words whose frequency is drawn."""


def answers(sheet: Sheet) -> list[Record]:
    """How often each score (ordinal) or label (nominal) is taught and measured against.

    Scores are gathered in bins of 0.05, which are centred on the labels of 3, 5, 11 or 21 points.
    """
    if sheet.kind is Kind.NOMINAL:
        labels = {part: [label for label, _ in own] for part, own in sheet.answers.items()}
        return _shares("label", sheet.labels, labels)
    scores = {
        part: [_bin(score) for _, score in own if score is not None]
        for part, own in sheet.answers.items()
    }
    return _shares("score", sorted({place for own in scores.values() for place in own}), scores)


def _shares(key: str, places: Sequence[Any], found: Mapping[str, Sequence[Any]]) -> list[Record]:
    counts = {part: Counter(own) for part, own in found.items()}
    return [
        {
            key: place,
            **{part: counts[part][place] / max(len(own), 1) for part, own in found.items()},
            **{f"{part}_n": counts[part][place] for part in found},
        }
        for place in places
    ]


def _bin(score: float) -> float:
    return round(round(score / SCORE_STEP) * SCORE_STEP, 6)


def by_explanation(sheet: Sheet) -> dict[str, str]:
    """Name for the pictures -> first arm, for each set of explanations; equal ones are one."""
    same: dict[tuple[str, ...], list[str]] = {}
    for arm, own in sheet.explanations.items():
        same.setdefault(own, []).append(arm)
    return {", ".join(arms): arms[0] for arms in same.values()}


def histogram(counts: Sequence[int], width: int) -> list[Record]:
    """How many counts fall into each bin [start, end), empty bins in between included."""
    found = Counter(count // width for count in counts)
    return [
        {"start": place * width, "end": (place + 1) * width, "n": found[place],
         "share": found[place] / len(counts)}
        for place in range(min(found), max(found) + 1)
    ]  # fmt: skip


def bin_width(longest: int) -> int:
    """The least of 1, 2, 5, 10, 20 … with which so long a range has at most `MOST_BINS` bins."""
    width, steps = 1, (2, 2.5, 2)
    turn = 0
    while longest // width >= MOST_BINS:
        width, turn = int(width * steps[turn % 3]), turn + 1
    return width


def text_lengths(sheet: Sheet) -> list[Record]:
    """Histogram of the texts' tokens."""
    return histogram(sheet.text_tokens, bin_width(max(sheet.text_tokens)))


def explanation_lengths(sheet: Sheet) -> list[Record]:
    """Histogram of the explanations' tokens, for each set of explanations."""
    arms = by_explanation(sheet)
    width = bin_width(max(max(sheet.explanation_tokens[arm]) for arm in arms.values()))
    return [
        {"arm": name, **row}
        for name, arm in arms.items()
        for row in histogram(sheet.explanation_tokens[arm], width)
    ]


def positions(sheet: Sheet) -> list[Record]:
    """Share of words that are no stopword, by position, for each set of explanations."""
    return [
        {"arm": name, "position": row.position, "share": row.share, "n": row.n}
        for name, arm in by_explanation(sheet).items()
        for row in words.by_position(sheet.explanations[arm])
    ]


def beginnings(sheet: Sheet, arm: str) -> list[Record]:
    """The words most frequent at the beginning of an arm's explanations."""
    own = sheet.explanations[arm]
    return [
        {"word": word, "share": n / len(own), "n": n}
        for word, n in words.beginnings(own, MOST_WORDS)
    ]
