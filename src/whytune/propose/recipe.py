"""A proposal as a commented recipe."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from whytune.propose import words
from whytune.propose.columns import Uses
from whytune.propose.head import Head
from whytune.propose.labels import Answer
from whytune.records import Kind

_ALIAS = "smollm2-135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything that the recipe is written from."""

    table: Path
    output: Path
    model: str
    head: Head
    uses: Uses
    answer: Answer


def render(draft: Draft) -> str:
    """The recipe as YAML, with a word about each setting that is likely to be changed."""
    return "\n".join(line.rstrip() for line in _lines(draft)) + "\n"


def _lines(draft: Draft) -> Iterator[str]:
    name = words.safe(words.stem(draft.table), "own-table")
    yield f"# Proposed from the first {len(draft.head.rows)} rows of {_comment(draft.table.name)};"
    yield "# read it, correct it, then: whytune check, whytune study."
    yield f"name: {_scalar(name)}"
    yield f"model: {_scalar(draft.model)}  # an alias, a local folder, or owner/name from the Hub"
    yield "corpora:"
    yield f"  {_scalar(name)}:"
    yield "    loader: table"
    yield f"    path: {_scalar(_relative(draft))}  # relative to this recipe"
    yield "    columns:"
    yield from (f"      {line}" for line in _columns(draft))
    if "split" not in draft.uses:
        yield "    test_share: 0.3  # held out; equal texts stay on one side"
    yield "tasks:"
    yield from (f"  {line}" for line in _task(draft))
    yield "arms:"
    yield "  label: {explanation: none}  # the label alone"
    if "explanation" in draft.uses:
        yield "  why: {explanation: assessment}  # the label, then the explanation"
    if "rater" in draft.uses:
        yield "# lessons: raters  # one lesson for each rater instead of one for their verdict"
    yield "seeds: [0]  # [0, 1, 2] teaches three students an arm and shows how far they differ"
    yield "train:"
    # The alias names a model of 135M parameters; the paper's own rate is for 7B.
    rate = "1.0e-3" if draft.model == _ALIAS else "5.0e-5"
    yield f"  learning_rate: {rate}  # about 1.0e-3 suits 135M, 5.0e-5 suits 7B"
    yield "  num_train_epochs: 4"


def _columns(draft: Draft) -> Iterator[str]:
    for use, column in draft.uses.items():
        yield f"{use}: {_scalar(column)}{_MEANINGS[use]}"
        if use == "score" and draft.answer.scale is not None:
            low, high = draft.answer.scale
            yield f"scale: [{low:g}, {high:g}]  # lowest and highest score that could be given"


_MEANINGS = {
    "text": "  # what is judged",
    "turns": "  # the conversation; its last turn is judged",
    "label": "  # one of the labels below",
    "score": "  # becomes the label nearest to it",
    "explanation": "  # why; taught by the arm `why`",
    "rater": "  # several rows of one text by different raters become one example",
    "id": "  # unique for each text",
    "group": "  # never on both sides of the split",
    "source": "  # where a row comes from",
    "split": "  # train, validation or test",
}


def _task(draft: Draft) -> Iterator[str]:
    answer = draft.answer
    asked = draft.uses.get("label") or draft.uses["score"]
    what = "conversation" if "turns" in draft.uses else "text"
    ordinal = answer.kind is Kind.ORDINAL
    question = (
        f"What is the {_plain(asked)} of this {what}?"
        if ordinal
        else f"Which {_plain(asked)} fits this {what}?"
    )
    yield f"- name: {_scalar(words.safe(asked, 'label'))}"
    meaning = "labels from lowest to highest" if ordinal else "labels without an order"
    yield f"  kind: {answer.kind}  # {meaning}"
    yield f"  question: {_scalar(question)}  # ask it as you would ask a person"
    yield "  labels:  # {name: …, definition: …} says when to give one"
    yield from (f"    - {_scalar(label)}" for label in answer.labels)


def _plain(column: str) -> str:
    return " ".join(column.replace("_", " ").split()) or "label"


def _relative(draft: Draft) -> str:
    """The table as seen from the recipe's folder."""
    return Path(os.path.relpath(draft.table, draft.output.parent)).as_posix()


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() and c != "$" else "?" for c in text)


def _scalar(value: str) -> str:
    """Text as one line of YAML that is read back as the same text."""
    # `${NAME}` stands for the environment's value in a recipe, unless its sign is escaped.
    for style in ('"',) if "${" in value else (None, '"'):
        options: dict[str, Any] = {"allow_unicode": True, "width": 10**9, "default_style": style}
        listed = str(yaml.safe_dump([value], default_flow_style=True, **options))
        written = listed.strip()[1:-1].replace("${", "\\x24{")
        # A line break would end the line, and a comment sign begin a comment.
        if len(written.splitlines()) == 1 and yaml.safe_load(f"- {written}  # x") == [value]:
            return written
    raise ValueError(f"{value!r}: cannot be written as YAML")
