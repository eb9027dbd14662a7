"""Labels and ratings as replies, and as what answers are measured against."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whytune.corpora import gold
from whytune.corpora.corpus import Item
from whytune.corpora.identity import content_id
from whytune.records import Example, Reference, Reply, Split, Task, Turn


def reply(
    example_id: str,
    task: Task,
    answer: str | float,
    *,
    teacher: str,
    prompt: str,
    why: str | None = None,
    scale: tuple[float, float] | None = None,
) -> Reply:
    """A label (text), or a score (number) on its scale, with its explanation."""
    said: dict[str, Any] = {"label" if isinstance(answer, str) else "score": answer}
    if why is not None:
        said["assessment"] = why
    return Reply(
        example_id=example_id,
        task=task.name,
        teacher=teacher,
        prompt=prompt,
        text=json.dumps(said, ensure_ascii=False),
        scale=scale,
    )


def labelled(
    prefix: str,
    turns: tuple[Turn, ...],
    label: str,
    tasks: Sequence[Task],
    *,
    source: str,
    group: str,
    split: Split | None,
    whys: Sequence[str | None] = (None,),
    teachers: Sequence[str] = ("dataset",),
) -> Item:
    """An example with one label; one reply for each explanation, all with that label.

    Gold stands on what is or may become a test example. A text with two labels comes as two
    examples of one id: who gathers them sees that nobody has said which label is right.
    """
    identity = content_id(prefix, turns)
    reference = {
        task.name: found
        for task in tasks
        if split in (Split.TEST, None) and (found := gold.of_labels([label], task)) is not None
    }
    return Item(
        example=Example(
            id=identity, source=source, group=group, turns=turns, split=split, gold=reference
        ),
        replies=tuple(
            reply(identity, task, label, teacher=teacher, prompt=prefix, why=why)
            for task in tasks
            for teacher, why in zip(teachers, whys, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """What people said about one example and task."""

    scores: Sequence[float]
    """On `scale`; without any, nothing was said about the task."""
    teachers: Sequence[str]
    """Who gave each score."""
    scale: tuple[float, float]
    why: str | None = None


def raters(count: int) -> tuple[str, ...]:
    """The names of so many raters."""
    return tuple(f"rater-{number}" for number in range(1, count + 1))


def golden(
    prefix: str,
    turns: tuple[Turn, ...],
    ratings: Mapping[str, Ratings],
    tasks: Sequence[Task],
    *,
    source: str,
    group: str,
) -> Item:
    """A test example with its raters' replies; its gold is their mean on [0, 1]."""
    identity = content_id(prefix, turns)
    asked = [(task, ratings[task.name]) for task in tasks if ratings[task.name].scores]
    return Item(
        example=Example(
            id=identity,
            source=source,
            group=group,
            turns=turns,
            split=Split.TEST,
            gold={task.name: _mean(own, task) for task, own in asked},
        ),
        replies=tuple(
            reply(
                identity, task, score,
                teacher=teacher, prompt=prefix, why=own.why, scale=own.scale,
            )
            for task, own in asked
            for teacher, score in zip(own.teachers, own.scores, strict=True)
        ),
    )  # fmt: skip


def _mean(ratings: Ratings, task: Task) -> Reference:
    low, high = ratings.scale
    return gold.of_scores([(score - low) / (high - low) for score in ratings.scores], task)
