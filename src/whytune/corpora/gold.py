"""What several people's answers about one example come to, as the reference to measure by."""

import json
from collections import Counter
from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from whytune.records import Reference, Reply, Task


def of_labels(labels: Sequence[str], task: Task) -> Reference | None:
    """The strict majority (more than half) and, for an ordinal task, the raters' mean on [0, 1].

    None without a strict majority: such an example has no gold label, and none is made up.
    """
    label, votes = Counter(labels).most_common(1)[0]
    if 2 * votes <= len(labels):
        return None
    values = [value for name in labels if (value := task.value(name)) is not None]
    return Reference(label=label, score=fsum(values) / len(values) if values else None)


def of_scores(scores: Sequence[float], task: Task) -> Reference:
    """The mean of scores on [0, 1] and the label of an ordinal task nearest to it."""
    mean = fsum(scores) / len(scores)
    return Reference(label=task.nearest(mean), score=mean)


class Said(NamedTuple):
    """What one reply says."""

    label: str
    score: float | None
    """On [0, 1], where a number was given."""


def said(reply: Reply, task: Task) -> Said | None:
    """The label of a rater's reply, or the one nearest to its score; None where it has neither."""
    try:
        content = json.loads(reply.text)
        if reply.scale is None:
            return Said(content["label"], None) if content["label"] in task.label_names else None
        low, high = reply.scale
        score = (float(content["score"]) - low) / (high - low)
    except (KeyError, TypeError, ValueError):
        return None
    return Said(task.nearest(score), score) if 0 <= score <= 1 else None


def of_replies(replies: Sequence[Reply], task: Task) -> Reference | None:
    """What raters' replies about one example come to; None where they did not settle."""
    votes = _votes(replies, task)
    if not votes:
        return None
    scores = [vote.score for vote in votes if vote.score is not None]
    if len(scores) == len(votes):
        return of_scores(scores, task)
    return of_labels([vote.label for vote in votes], task)


def unanimous(replies: Sequence[Reply], task: Task) -> bool:
    """Whether all raters of one example give the same label."""
    return len({vote.label for vote in _votes(replies, task)}) <= 1


def _votes(replies: Sequence[Reply], task: Task) -> list[Said]:
    found = [said(reply, task) for reply in replies if reply.task == task.name]
    return [vote for vote in found if vote is not None]
