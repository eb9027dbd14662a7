"""What a student is to write: label and explanation in one of three layouts, and back.

Knows text. Knows nothing of tokens, prompts or models.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from whytune.records import Layout

SEPARATOR = "\n"
"""Between label and explanation. A label is one line, so the first (or last) line break of a
target always ends (or begins) its label, whatever the explanation holds."""


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
    explanation: Span | None

    @property
    def pieces(self) -> tuple[tuple[Part, str], ...]:
        """The parts in reading order; joined, they are the text."""
        label = (Part.LABEL, self.text[self.label.start : self.label.end])
        if self.explanation is None:
            return (label,)
        why = (Part.EXPLANATION, self.text[self.explanation.start : self.explanation.end])
        first, last = (label, why) if self.label.start == 0 else (why, label)
        return (first, (Part.FRAME, SEPARATOR), last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a text says. `label` is None where it is none of the task's."""

    label: str | None
    explanation: str | None


def render(label: str, explanation: str | None, layout: Layout) -> Target:
    """Write a target. `read` is its inverse for any one-line label and any explanation.

    Raises:
        ValueError: the layout wants an explanation and there is none, or the other way round.
    """
    if (layout is Layout.LABEL) != (explanation is None):
        raise ValueError(f"layout {layout!r} with explanation {explanation!r}")
    if explanation is None:
        return Target(text=label, label=Span(0, len(label)), explanation=None)
    if layout is Layout.LABEL_EXPLANATION:
        text = label + SEPARATOR + explanation
        start = len(label) + len(SEPARATOR)
        return Target(text=text, label=Span(0, len(label)), explanation=Span(start, len(text)))
    text = explanation + SEPARATOR + label
    return Target(
        text=text,
        label=Span(len(text) - len(label), len(text)),
        explanation=Span(0, len(explanation)),
    )


def read(text: str, layout: Layout, labels: Collection[str]) -> Answer:
    """Read an answer written in a layout. Nothing is repaired: a label that is not exactly one
    of the task's is None.
    """
    if layout is Layout.EXPLANATION_LABEL:
        explanation, found, label = text.rpartition(SEPARATOR)
    else:
        label, found, explanation = text.partition(SEPARATOR)
    return Answer(
        label=label if label in labels else None, explanation=explanation if found else None
    )
