"""The readable replies about one task as a table: examples x raters."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whytune.records import Annotation, Kind, Outcome, Task

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """Who said what about one task."""

    task: Task
    examples: tuple[str, ...]
    """Ids of the examples with a readable reply, in order of appearance."""
    raters: tuple[str, ...]
    """`teacher / prompt`, or teachers; sorted."""
    codes: Floats
    """[example, rater]: the label's place among the task's; NaN without a label."""
    scores: Floats
    """[example, rater]: on [0, 1]; NaN without a readable reply, everywhere for a nominal task."""

    @property
    def numbers(self) -> Floats:
        """The scores of an ordinal task, the codes of a nominal one."""
        return self.codes if self.task.kind is Kind.NOMINAL else self.scores


def tabulate(annotations: Sequence[Annotation], task: Task, *, pooled: bool = False) -> Ratings:
    """The readable annotations of the task as a table.

    Args:
        annotations: of any tasks; those of other tasks and unreadable ones are passed over.
        task: whose.
        pooled: raters are the teachers, with the mean score over their prompts and the label
            nearest to it (ordinal) or their most frequent label, none where they tie (nominal).
            Otherwise each teacher is a rater anew with each prompt.
    """
    cells: dict[tuple[str, str], list[Annotation]] = defaultdict(list)
    for vote in annotations:
        if vote.task == task.name and vote.outcome is Outcome.READ:
            rater = vote.teacher if pooled else f"{vote.teacher} / {vote.prompt}"
            cells[vote.example_id, rater].append(vote)
    examples = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in cells))}
    raters = {name: i for i, name in enumerate(sorted({name for _, name in cells}))}
    codes = np.full((len(examples), len(raters)), np.nan)
    scores = codes.copy()
    places = {label: i for i, label in enumerate(task.label_names)}
    for (example, rater), votes in cells.items():
        score = mean_score(votes, task)
        label = plurality(votes) if score is None else task.nearest(score)
        where = examples[example], raters[rater]
        codes[where] = math.nan if label is None else places[label]
        scores[where] = math.nan if score is None else score
    return Ratings(
        task=task, examples=tuple(examples), raters=tuple(raters), codes=codes, scores=scores
    )


def own_scores(votes: Sequence[Annotation], task: Task) -> list[float]:
    """The votes' scores on [0, 1], a label's own value where it came without; [] if nominal."""
    if task.kind is Kind.NOMINAL:
        return []
    return [
        task.values[task.label_names.index(vote.label)] if vote.score is None else vote.score
        for vote in votes
        if vote.label is not None
    ]


def mean_score(votes: Sequence[Annotation], task: Task) -> float | None:
    """Mean of the votes' scores on [0, 1]; None without votes and for a nominal task."""
    scores = own_scores(votes, task)
    # fsum rounds once, so that the order of the votes cannot change the mean.
    return math.fsum(scores) / len(scores) if scores else None


def most_frequent(votes: Sequence[Annotation]) -> list[str]:
    """The labels with the most votes: several where they tie, none without votes."""
    counts = Counter(vote.label for vote in votes if vote.label is not None)
    top = max(counts.values(), default=0)
    return [label for label, count in counts.items() if count == top]


def plurality(votes: Sequence[Annotation]) -> str | None:
    """The label with the most votes; None where several tie, and without votes."""
    winners = most_frequent(votes)
    return winners[0] if len(winners) == 1 else None
