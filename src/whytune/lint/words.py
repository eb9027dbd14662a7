"""How explanations begin and where their words mean something (arXiv 2511.02044, figure 7)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from whytune.teaching.vocabulary import bare, means_something

FIRST = 25
"""Words that count as the beginning of an explanation."""
POSITIONS = 150
"""Positions that are looked at, from the first word."""
FEWEST = 10
"""Explanations that must reach a position for its share to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """One place in the explanations."""

    position: int
    """Of the word, from 1."""
    share: float
    """Explanations with a word there that is no stopword, of those that reach it; 0 to 1."""
    n: int
    """Explanations that reach it."""


def by_position(explanations: Sequence[str]) -> list[Position]:
    """Share of words that are no stopword, word by word.

    Ends where fewer than `FEWEST` explanations go on (or than half, where there are fewer in all).
    """
    meaning: Counter[int] = Counter()
    reached: Counter[int] = Counter()
    for text in explanations:
        for place, word in enumerate(text.split()[:POSITIONS], start=1):
            reached[place] += 1
            meaning[place] += means_something(bare(word))
    fewest = min(FEWEST, max(len(explanations) / 2, 1))
    return [
        Position(position=place, share=meaning[place] / n, n=n)
        for place, n in sorted(reached.items())
        if n >= fewest
    ]


def beginnings(explanations: Sequence[str], most: int) -> list[tuple[str, int]]:
    """The words that most explanations hold among their first `FIRST`, without stopwords.

    Returns:
        (word, explanations that hold it), the most frequent first, ties in order of the alphabet.
    """
    found: Counter[str] = Counter()
    for text in explanations:
        words = {bare(word) for word in text.split()[:FIRST]}
        found.update(word for word in words if means_something(word))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
