"""What a teacher is asked: the paper's four prompts for any task, and the reason for a known label.

Knows examples and tasks; knows nothing of teachers, endpoints or files. Everything here is a pure
function of its arguments, so that a request renders the same today and next year.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from whytune.errors import TeachingError
from whytune.records import Example, Kind, Label, Task
from whytune.teaching.fence import fenced

Order = Literal["conversation", "question"]
"""What stands first. `conversation`: all up to the conversation's end is the same for every task
and prompt, so that servers reuse what they computed for it; `question`: the question first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One way to ask."""

    name: str
    scale: tuple[int, int] | None
    """Lowest and highest score; None: one of the task's labels is asked."""
    samples: bool
    """Whether a short text is shown for the labels that have one."""

    def __post_init__(self) -> None:
        if self.scale is not None and self.scale[0] >= self.scale[1]:
            raise ValueError(f"prompt {self.name}: scale {self.scale}, expected the lowest first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """All that goes to a teacher about one example and task."""

    prompt: str
    """Name of the prompt."""
    order: Order
    messages: tuple[Mapping[str, str], ...]
    """Each with `role` and `content`."""
    schema: Mapping[str, Any]
    """JSON schema of the answer; its `properties` stand in the order in which they are asked."""
    scale: tuple[float, float] | None
    """Lowest and highest score; None where no score is asked."""

    @property
    def digest(self) -> str:
        """SHA-256 of messages and schema, 64 hex digits."""
        # Keys stay unsorted: another order of the answer's fields is another request.
        return hashlib.sha256(json.dumps([self.messages, self.schema]).encode()).hexdigest()


def _named(*prompts: Prompt) -> Mapping[str, Prompt]:
    return MappingProxyType({prompt.name: prompt for prompt in prompts})


PAPER = _named(
    Prompt(name="scale-1-4", scale=(1, 4), samples=False),
    Prompt(name="scale-1-4-examples", scale=(1, 4), samples=True),
    Prompt(name="scale-1-5", scale=(1, 5), samples=False),
    Prompt(name="scale-1-5-examples", scale=(1, 5), samples=True),
)
"""For ordinal tasks: Regularization Through Reasoning (arXiv 2511.02044), section 3.1."""

LABELS = _named(
    Prompt(name="labels", scale=None, samples=False),
    Prompt(name="labels-examples", scale=None, samples=True),
)
"""For nominal tasks; an ordinal one can be asked for its labels too."""

TEXT: Mapping[str, Any] = MappingProxyType({"type": "string"})
"""JSON schema of an explanation."""
_NO_SAMPLES: Mapping[str, str] = MappingProxyType({})


def render(
    prompt: Prompt,
    example: Example,
    task: Task,
    *,
    order: Order,
    samples: Mapping[str, str] = _NO_SAMPLES,
) -> Rendered:
    """Ask for a score (or a label), then why, then how sure.

    `assessment` is why this score and `confidence` how sure, and why (section 4.2.1).

    Args:
        prompt: of `PAPER`, `LABELS`, or one's own.
        example: whose last turn is judged; its gold is not shown.
        task: gives the question, the labels and what they mean.
        order: what stands first.
        samples: label -> a short text that deserves it (`tasks.SAMPLES`, `TaskSpec.samples`);
            shown where the prompt shows samples.

    Raises:
        TeachingError: a score is asked of a nominal task, the prompt shows samples and there are
            none, or a sample is of no label of the task.
    """
    check(prompt, task, samples)
    value: dict[str, Any]
    if prompt.scale is None:
        what, answer, labels = "label", "one of the labels, letter by letter", labels_text(task)
        value = label_schema(task)
    else:
        low, high = prompt.scale
        what, answer = "score", f"a whole number from {low} to {high}"
        labels = _scale_text(task, prompt.scale)
        # An enum, not a minimum and a maximum: several endpoints refuse or pass over the latter.
        value = {"type": "integer", "enum": list(range(low, high + 1))}
    asked = [task.question, labels]
    if prompt.samples:
        asked.append(_listed("Examples", _places(task, prompt.scale), task, samples))
    answers = {
        what: answer,
        "assessment": f"why this {what}",
        "confidence": f"how sure you are of this {what}, and why",
    }
    asked.append(f"{format_text(answers)}\nDecide on the {what} first; then explain it.")
    return rendered(
        prompt.name, example, asked, {**dict.fromkeys(answers, TEXT), what: value}, order,
        scale=prompt.scale,
    )  # fmt: skip


def justify(
    example: Example, task: Task, label: str, *, order: Order, confidence: bool = False
) -> Rendered:
    """Ask why a known label fits; the answer holds `assessment`, and `confidence` if wanted.

    Raises:
        TeachingError: the label is none of the task's.
    """
    check_label(example, task, label)
    answers = {"assessment": "why this label"}
    if confidence:
        answers["confidence"] = "how sure one can be of this label, and why"
    asked = (
        task.question,
        labels_text(task),
        f"The right label is known: {label}. Explain why it is right; do not give another.",
        format_text(answers),
    )
    return rendered("justify", example, asked, dict.fromkeys(answers, TEXT), order)


def rendered(
    name: str, example: Example, asked: Sequence[str], answers: Mapping[str, Mapping[str, Any]],
    order: Order, scale: tuple[int, int] | None = None,
) -> Rendered:  # fmt: skip
    """A prompt whose words are known.

    Args:
        name: of the prompt.
        example: whose last turn is judged.
        asked: paragraphs of the question.
        answers: key of the answer -> JSON schema of its value, in the order in which they are
            asked.
        order: what stands first.
        scale: lowest and highest score, where one is asked.
    """
    return Rendered(
        prompt=name, order=order, messages=_messages(example, asked, order),
        schema=_schema(answers), scale=scale,
    )  # fmt: skip


def check_label(example: Example, task: Task, label: str) -> None:
    """Whether a label that is said to be known can be.

    Raises:
        TeachingError: it is none of the task's.
    """
    if label not in task.label_names:
        raise TeachingError(
            f"example {example.id}: found label {label!r}, expected one of task {task.name}'s "
            f"({', '.join(task.label_names)}); correct the label"
        )


def label_schema(task: Task) -> dict[str, Any]:
    """JSON schema of one of the labels."""
    return {"type": "string", "enum": list(task.label_names)}


def labels_text(task: Task) -> str:
    """The labels with their definitions, a line each."""
    order = ", from the lowest to the highest" if task.kind is Kind.ORDINAL else ""
    lines = (
        f"- {label.name}: {label.definition}" if label.definition else f"- {label.name}"
        for label in task.labels
    )
    return "\n".join((f"The labels{order}:", *lines))


def format_text(answers: Mapping[str, str]) -> str:
    """How to answer: key -> what it is to hold, a line each."""
    keys = (f'{number}. "{key}": {text}' for number, (key, text) in enumerate(answers.items(), 1))
    head = "Answer with one JSON object and nothing else. Its keys, in this order:"
    return "\n".join((head, *keys))


def check(prompt: Prompt, task: Task, samples: Mapping[str, str]) -> None:
    """Whether a prompt can be rendered for a task; raises as `render`."""
    place = f"task {task.name}, prompt {prompt.name}"
    if prompt.scale is not None and task.kind is Kind.NOMINAL:
        raise TeachingError(
            f"{place}: found a {task.kind} task, expected an ordinal one to give scores on; use "
            f"{' or '.join(LABELS)}"
        )
    if prompt.samples and not any(text.strip() for text in samples.values()):
        raise TeachingError(
            f"{place}: found no example texts, expected one for a label or more; write `{{name, "
            "definition, example}` under `labels`, or use the prompt without examples"
        )
    for name in samples:
        if name not in task.label_names:
            raise TeachingError(
                f"{place}: found an example text for {name!r}, expected one of the labels "
                f"({', '.join(task.label_names)}); correct the name"
            )


def _places(task: Task, scale: tuple[int, int] | None) -> list[str]:
    """Where each label stands: its name, or on a scale its score or the two scores around it."""
    if scale is None:
        return list(task.label_names)
    low, high = scale
    steps = len(task.labels) - 1
    places = []
    for index in range(steps + 1):
        # In whole numbers: a third of a scale is no binary fraction.
        whole, rest = divmod(index * (high - low), steps)
        score = low + whole
        places.append(f"between {score} and {score + 1}" if rest else str(score))
    return places


def _scale_text(task: Task, scale: tuple[int, int]) -> str:
    head = f"Give a score, a whole number from {scale[0]} (lowest) to {scale[1]} (highest)"
    meanings = {label.name: _meaning(label) for label in task.labels}
    return _listed(head, _places(task, scale), task, meanings)


def _meaning(label: Label) -> str:
    """What a label says on a scale of other numbers: a name that is a number says nothing."""
    if label.name.isdecimal():
        return label.definition
    return f"{label.name} ({label.definition})" if label.definition else label.name


def _listed(head: str, places: Sequence[str], task: Task, texts: Mapping[str, str]) -> str:
    """A line for every label that has a text, at its place; without any, the head alone."""
    lines = [
        f"- {place}: {' '.join(texts[name].split())}"
        for place, name in zip(places, task.label_names, strict=True)
        if texts.get(name, "").strip()
    ]
    return "\n".join((f"{head}:", *lines)) if lines else f"{head}."


def _schema(properties: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {key: dict(value) for key, value in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def _messages(example: Example, asked: Sequence[str], order: Order) -> tuple[dict[str, str], ...]:
    if order not in get_args(Order):
        raise TeachingError(
            f"found order {order!r}, expected {' or '.join(get_args(Order))}; correct it"
        )
    question = "\n\n".join(asked)
    text = fenced(example)
    if order == "conversation":
        parts = [text, question]
    else:
        parts = [question, text, "Now answer the question above, with the JSON object alone."]
    # No system message: not every chat template takes one, and all teachers are asked alike.
    return ({"role": "user", "content": "\n\n".join(parts)},)
