"""What all are asked: made-up conversations, nine questions about each, four prompts a question.

The prompts are whytune's, rendered once; peers are sent the same messages.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import Any

from whytune.records import Example, Kind, Label, Task, Turn
from whytune.teaching.prompts import PAPER, render

QUALITIES = (
    "relevant",
    "complete",
    "clear",
    "correct",
    "helpful",
    "polite",
    "empathic",
    "safe",
    "brief",
)
LEVELS = ("bad", "poor", "fair", "good")
TASKS = tuple(
    Task(
        name=quality, kind=Kind.ORDINAL,
        question=f"How {quality} is the last answer? Judge this alone, whatever else it is.",
        labels=tuple(Label(name=level, definition=f"the answer is {level} in this regard")
                     for level in LEVELS),
    )
    for quality in QUALITIES
)  # fmt: skip
SAMPLES = {
    task.name: {"bad": "No idea, leave me alone.", "good": "Let us look at it step by step."}
    for task in TASKS
}
CALLS = len(TASKS) * len(PAPER)
"""A conversation: 36."""

_TEXT = (
    "the of people ask about work home sleep and what they should do when nothing helps any more "
    "while others say that it will pass with time or with some rest after a long day"
)
_WORDS = _TEXT.split()
_TURN = 40
"""Words."""


class Conversations(Collection[Example]):
    """So many examples of four turns, made as they are walked; the same ones every time."""

    def __init__(self, count: int, words: int = _TURN):
        self._count, self._words = count, words

    def __len__(self) -> int:
        return self._count

    def __contains__(self, found: object) -> bool:
        return any(found == example for example in self)

    def __iter__(self) -> Iterator[Example]:
        for number in range(self._count):
            draw = random.Random(number)
            turns = tuple(
                Turn(role=role, text=" ".join(draw.choices(_WORDS, k=self._words)))
                for role in ("user", "assistant") * 2
            )
            name = f"conversation-{number}"
            yield Example(id=name, source="made up", group=name, turns=turns)


def rows(conversations: int) -> Iterator[dict[str, Any]]:
    """The calls as a peer's user would have them in a table: `id`, `messages` and `schema`."""
    for example in Conversations(conversations):
        for task in TASKS:
            for prompt in PAPER.values():
                rendered = render(
                    prompt, example, task, order="conversation", samples=SAMPLES[task.name]
                )
                yield {"id": f"{example.id}/{task.name}/{prompt.name}",
                       "messages": list(rendered.messages), "schema": rendered.schema}  # fmt: skip
