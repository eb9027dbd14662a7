"""What a raw reply says, or that it says nothing readable.

Reading is pure and strict: what a prompt asked for is read, nothing is guessed, and a reply
that cannot be read never carries a label.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from whytune.records import Annotation, Kind, Outcome, Reply, Task

_EXPLANATIONS = ("assessment", "confidence")


def read(reply: Reply, task: Task, *, ordered: bool = False, refused: bool = False) -> Annotation:
    """Score, label and explanations of one reply.

    With `reply.scale`, the reply's `score` is moved to [0, 1] and gets the nearest label;
    without, its `label` must be one of the task's, letter by letter. A code fence or text
    around the one JSON object is tolerated; everything else is Outcome.UNREADABLE.

    Args:
        reply: of a teacher.
        task: that it is about.
        ordered: read it only if it gives the score (or label), then `assessment`, then
            `confidence`, no other key, no words before the object, and a whole number as score:
            one that thought first, or between the steps of a scale, answers another question
            than was asked.
        refused: its endpoint said that it is a refusal: Outcome.REFUSED, whatever its words. Words
            alone are never taken for one.
    """
    what = "label" if reply.scale is None else "score"
    content = {} if refused else _object(reply.text, (what, *_EXPLANATIONS) if ordered else None)
    score = _score(content, reply.scale, task, whole=ordered)
    label = _label(content, reply.scale, score, task)
    if label is not None and score is None:
        score = task.value(label)
    return _annotation(reply, content, label, score, refused)


def read_all(
    replies: Iterable[Reply], tasks: Sequence[Task], *, ordered: bool = False
) -> list[Annotation]:
    """Every reply about one of these tasks, in their order; replies about others are passed over."""
    by_name = {task.name: task for task in tasks}
    return [
        read(reply, by_name[reply.task], ordered=ordered)
        for reply in replies
        if reply.task in by_name
    ]


def read_reason(
    reply: Reply, task: Task, label: str, *, ordered: bool = False, refused: bool = False
) -> Annotation:
    """The reason for a label that was known (`prompts.justify`).

    Read where there is an `assessment`; the label is the known one, never one in the reply.
    `ordered` and `refused` as for `read`.
    """
    content = {} if refused else _object(reply.text, _EXPLANATIONS if ordered else None)
    known = label if _explanation(content, "assessment") else None
    return _annotation(reply, content, known, task.value(label) if known else None, refused)


def failed(reply: Reply) -> Annotation:
    """Of a request that nobody answered; its text says why."""
    return Annotation(example_id=reply.example_id, task=reply.task, teacher=reply.teacher,
                      prompt=reply.prompt, reply=reply.text, outcome=Outcome.FAILED)  # fmt: skip


def _annotation(
    reply: Reply, content: dict[str, Any], label: str | None, score: float | None, refused: bool
) -> Annotation:
    readable = label is not None
    unread = Outcome.REFUSED if refused else Outcome.UNREADABLE
    return Annotation(
        example_id=reply.example_id,
        task=reply.task,
        teacher=reply.teacher,
        prompt=reply.prompt,
        reply=reply.text,
        outcome=Outcome.READ if readable else unread,
        score=score,
        label=label,
        assessment=_explanation(content, "assessment") if readable else None,
        confidence=_explanation(content, "confidence") if readable else None,
    )


def _score(
    content: dict[str, Any], scale: tuple[float, float] | None, task: Task, *, whole: bool
) -> float | None:
    if scale is None or task.kind is Kind.NOMINAL:
        return None
    low, high = scale
    found = content.get("score")
    # True is an int to Python, and NaN fails every comparison.
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    if not low < high or not low <= found <= high or (whole and found % 1):
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


def _object(text: str, keys: Sequence[str] | None) -> dict[str, Any]:
    """The only JSON object in a text; empty where there is none, or more than one.

    With `keys`, empty too where it holds others, or these in another order, or where more than a
    code fence stands before it.
    """
    start = text.find("{")
    # In a list of objects, which one is meant would be a guess.
    if start < 0 or text.lstrip().startswith("["):
        return {}
    decoder = json.JSONDecoder(object_pairs_hook=_unambiguous)
    try:
        found, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or "{" in text[end:]:
        return {}
    if keys is not None and not _as_asked(text[:start], list(found), keys):
        return {}
    return found


def _as_asked(before: str, found: Sequence[str], keys: Sequence[str]) -> bool:
    if before.strip() not in ("", "```", "```json"):
        return False
    return found == [key for key in keys if key in found]


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found
