"""What a raw reply says, or that it says nothing readable.

Reading is pure and strict: what a prompt asked for is read, nothing is guessed, and a reply
that cannot be read never carries a label.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from whytune.records import Annotation, Kind, Outcome, Reply, Task


def read(reply: Reply, task: Task) -> Annotation:
    """Score, label and explanations of one reply.

    With `reply.scale`, the reply's `score` is moved to [0, 1] and gets the nearest label;
    without, its `label` must be one of the task's, letter by letter. A code fence or text
    around the one JSON object is tolerated; everything else is Outcome.UNREADABLE.
    """
    content = _object(reply.text)
    score = _score(content, reply.scale, task)
    label = _label(content, reply.scale, score, task)
    readable = label is not None
    return Annotation(
        example_id=reply.example_id,
        task=reply.task,
        teacher=reply.teacher,
        prompt=reply.prompt,
        reply=reply.text,
        outcome=Outcome.READ if readable else Outcome.UNREADABLE,
        score=task.value(label) if label is not None and score is None else score,
        label=label,
        assessment=_explanation(content, "assessment") if readable else None,
        confidence=_explanation(content, "confidence") if readable else None,
    )


def read_all(replies: Iterable[Reply], tasks: Sequence[Task]) -> list[Annotation]:
    """Every reply about one of these tasks, in their order; replies about others are passed over."""
    by_name = {task.name: task for task in tasks}
    return [read(reply, by_name[reply.task]) for reply in replies if reply.task in by_name]


def _score(content: dict[str, Any], scale: tuple[float, float] | None, task: Task) -> float | None:
    if scale is None or task.kind is Kind.NOMINAL:
        return None
    low, high = scale
    found = content.get("score")
    # True is an int to Python, and NaN fails every comparison.
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    if not low < high or not low <= found <= high:
        return None
    return (found - low) / (high - low)


def _label(
    content: dict[str, Any],
    scale: tuple[float, float] | None,
    score: float | None,
    task: Task,
) -> str | None:
    if scale is not None:
        return None if score is None else task.nearest(score)
    found = content.get("label")
    return found if isinstance(found, str) and found in task.label_names else None


def _explanation(content: dict[str, Any], key: str) -> str | None:
    found = content.get(key)
    if not isinstance(found, str) or not found.strip():
        return None
    # JSON can escape half a surrogate pair, which no tokenizer or file takes.
    return found.encode("utf-8", "replace").decode()


def _object(text: str) -> dict[str, Any]:
    """The only JSON object in a text; empty where there is none, or more than one."""
    start = text.find("{")
    # In a list of objects, which one is meant would be a guess.
    if start < 0 or text.lstrip().startswith("["):
        return {}
    decoder = json.JSONDecoder(object_pairs_hook=_unambiguous)
    try:
        found, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and "{" not in text[end:] else {}


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found
