"""What a student is to write: label and explanation in one of four layouts, and back.

Knows text. Knows nothing of tokens, prompts or models.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from whytune.records import Layout

SEPARATOR = "\n"
"""Between label and explanation. A label is one line, so the first (or last) line break of a
target always ends (or begins) its label, whatever the explanation holds. Where a label stands
between two halves, both line breaks are its own, and the explanation holds none."""

EXPLAINS_FIRST = frozenset({Layout.EXPLANATION_LABEL, Layout.BOTH_SIDES})
"""Layouts whose label follows an explanation, or half of one."""
EXPLAINS_LAST = frozenset({Layout.LABEL_EXPLANATION, Layout.BOTH_SIDES})
"""Layouts whose label is followed by an explanation, or half of one."""


class Part(StrEnum):
    """What a piece of a sequence is."""

    PROMPT = "prompt"
    LABEL = "label"
    EXPLANATION = "explanation"
    FRAME = "frame"
    """Separator and end token: supervised, but neither label nor explanation."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `text[start:end]` of a target."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The text to be learned and where its parts stand."""

    text: str
    label: Span
    explanation: tuple[Span, ...]
    """None, one, or two halves."""

    @property
    def pieces(self) -> tuple[tuple[Part, str], ...]:
        """The parts in reading order; joined, they are the text."""
        parts = [(self.label, Part.LABEL), *((span, Part.EXPLANATION) for span in self.explanation)]
        pieces: list[tuple[Part, str]] = []
        for span, part in sorted(parts, key=lambda pair: pair[0].start):
            pieces += [(Part.FRAME, SEPARATOR), (part, self.text[span.start : span.end])]
        return tuple(pieces[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a text says. `label` is None where it is none of the task's."""

    label: str | None
    explanation: str | None


def render(label: str, explanation: str | None, layout: Layout) -> Target:
    """Write a target. `read` is its inverse for any one-line label and any explanation.

    Raises:
        ValueError: the layout wants an explanation and there is none, or the other way round; or
            one that is to be halved has other space than single spaces between its words.
    """
    if (layout is Layout.LABEL) != (explanation is None):
        raise ValueError(f"layout {layout!r} with explanation {explanation!r}")
    if explanation is None:
        parts = [label]
    elif layout is Layout.BOTH_SIDES:
        first, second = _halves(explanation)
        parts = [first, label, second]
    else:
        parts = [label, explanation] if layout is Layout.LABEL_EXPLANATION else [explanation, label]
    starts = accumulate((len(part) + len(SEPARATOR) for part in parts), initial=0)
    spans = [Span(at, at + len(part)) for part, at in zip(parts, starts, strict=False)]
    at = int(layout in EXPLAINS_FIRST)
    return Target(
        text=SEPARATOR.join(parts), label=spans[at], explanation=(*spans[:at], *spans[at + 1 :])
    )


def _halves(explanation: str) -> tuple[str, str]:
    words = explanation.split()
    if explanation != " ".join(words):
        raise ValueError(
            f"layout {Layout.BOTH_SIDES!r} with explanation {explanation!r}: expected words with "
            "single spaces between them, so that it can be halved and read back"
        )
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


def whole(first: str, second: str) -> str:
    """The explanation of two halves; either may be empty."""
    return " ".join(half for half in (first, second) if half)


def read(text: str, layout: Layout, labels: Collection[str]) -> Answer:
    """Read an answer written in a layout. Nothing is repaired: a label that is not exactly one
    of the task's is None.
    """
    if layout is Layout.EXPLANATION_LABEL:
        explanation, found, label = text.rpartition(SEPARATOR)
    elif layout is Layout.BOTH_SIDES:
        first, found, rest = text.partition(SEPARATOR)
        label, _, second = rest.partition(SEPARATOR)
        explanation = whole(first, second)
    else:
        label, found, explanation = text.partition(SEPARATOR)
    return Answer(
        label=label if label in labels else None, explanation=explanation if found else None
    )
