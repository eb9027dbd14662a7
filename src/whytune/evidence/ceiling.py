"""How well people do what students are asked to do, and whether errors go together across tasks."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from whytune.errors import EvidenceError
from whytune.evidence.intervals import estimate, resample
from whytune.evidence.table import Floats, Ints
from whytune.records import Annotation, Estimate, Kind, Outcome, Prediction, Reference, Task

_DIGITS = 12
"""Errors that are equal but for rounding are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """One rater against the others, pooled over the raters."""

    raters: int
    examples: int
    """With answers of two raters or more."""
    n: int
    """Answers that were held against those of the others."""
    ties: int
    """Answers that the accuracy leaves out, because the labels of the others tie."""
    metrics: Mapping[str, Estimate]
    """`accuracy`, `label_agreement`, and of an ordinal task `mae` and `mse`."""


def ceiling(
    annotations: Sequence[Annotation],
    groups: Mapping[str, str],
    task: Task,
    *,
    draws: int,
    seed: int,
) -> Ceiling | None:
    """What a rater scores who is measured as a student is, against the other raters.

    * accuracy: share of answers with the most frequent label among the other raters' answers
      about the same example. Where several labels are the most frequent there is nothing to be
      measured against; such answers are left out and counted.
    * mae, mse: mean of |score - s| and of (score - s)², s the mean score of the others. Unit: the
      scale [0, 1], and its square.
    * label_agreement: share of equal labels among all pairs of answers by different raters; 0 to 1.

    A rater's own answers are never among those it is held against. Intervals: 95 % percentile
    bootstrap over groups. Beside a student's figures this is nearly like with like, not quite: a
    student is measured against all raters, a person against one fewer, whose majority and mean are
    noisier. That makes people look worse than they are; leaving out ties, which are hard examples,
    makes their accuracy look better. So a student a little above is not yet above people.

    Args:
        annotations: what the raters said, each rater a teacher; those of other tasks, those that
            could not be read, and those about examples not in `groups` are passed over.
        groups: example id -> group, of the examples that students are measured on.
        task: the task.
        draws: bootstrap draws; 0 gives figures without intervals.
        seed: of the draws.

    Returns:
        None where no example has answers of two raters.
    """
    by_example: dict[str, list[Annotation]] = defaultdict(list)
    for one in annotations:
        if (one.task, one.outcome) == (task.name, Outcome.READ) and one.example_id in groups:
            by_example[one.example_id].append(one)
    rated = {i: own for i, own in by_example.items() if len({one.teacher for one in own}) > 1}
    if not rated:
        return None
    codes = _codes([groups[i] for i in rated])
    held = [[_held(one, own) for one in own] for own in rated.values()]
    parts = {
        "accuracy": [_sums([answer.hit for answer in own]) for own in held],
        "label_agreement": [_sums(list(_pairs(own))) for own in rated.values()],
    }
    if task.kind is Kind.ORDINAL:
        gaps = [[answer.gap for answer in own] for own in held]
        parts["mae"] = [_sums([None if g is None else abs(g) for g in own]) for own in gaps]
        parts["mse"] = [_sums([None if g is None else g**2 for g in own]) for own in gaps]
    counts = resample(int(codes.max()) + 1, draws, seed)
    answers = [answer for own in held for answer in own]
    return Ceiling(
        raters=len({one.teacher for own in rated.values() for one in own}),
        examples=len(rated),
        n=len(answers),
        ties=sum(answer.hit is None for answer in answers),
        metrics={name: _pooled(np.array(sums), codes, counts) for name, sums in parts.items()},
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """One answer against those of the other raters."""

    hit: float | None
    """1 where its label is the others' most frequent one, else 0; None where theirs tie."""
    gap: float | None
    """Its score less the others' mean."""


def _held(one: Annotation, own: Sequence[Annotation]) -> _Held:
    others = [other for other in own if other.teacher != one.teacher]
    votes = Counter(other.label for other in others).most_common(2)
    tie = len(votes) > 1 and votes[0][1] == votes[1][1]
    scores = [other.score for other in others if other.score is not None]
    return _Held(
        hit=None if tie else float(one.label == votes[0][0]),
        gap=one.score - math.fsum(scores) / len(scores)
        if one.score is not None and scores
        else None,
    )


def _pairs(own: Sequence[Annotation]) -> Iterator[float]:
    for one, other in combinations(own, 2):
        if one.teacher != other.teacher:
            yield float(one.label == other.label)


def _sums(values: Sequence[float | None]) -> tuple[float, int]:
    """Sum and number of those that are there."""
    there = [value for value in values if value is not None]
    return math.fsum(there), len(there)


def _pooled(sums: Floats, codes: Ints, counts: Floats) -> Estimate:
    """Sums over numbers, from [example, (sum, number)]."""
    groups = counts.shape[1]
    above, below = (np.bincount(codes, weights=part, minlength=groups) for part in sums.T)
    if not below.any():
        return Estimate(value=math.nan, low=math.nan, high=math.nan)
    number = counts @ below
    drawn = np.divide(counts @ above, number, out=np.full(len(counts), np.nan), where=number > 0)
    # A group in which nothing is counted says nothing of the spread between groups.
    return estimate(float(above.sum() / below.sum()), drawn, int((below > 0).sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """How the errors of two tasks go together over the same examples."""

    one: str
    other: str
    n: int
    """Examples that were answered readably for both."""
    groups: int
    pearson: Estimate
    spearman: Estimate


def error_correlation(
    answers: Mapping[str, Sequence[Prediction]],
    references: Mapping[str, Mapping[str, Reference]],
    groups: Mapping[str, str],
    tasks: Sequence[Task],
    *,
    draws: int,
    seed: int,
) -> list[Correlation]:
    """Whether scores leak into each other: the errors of every two tasks, example by example.

    The error is expected - reference score (ordinal), or 1 for a wrong label and 0 for a right one
    (nominal); of several answers about one example (seeds) their mean. Unreadable answers have no
    error and are left out. Pearson's correlation, and Spearman's on mean ranks; -1 to 1, 0 where
    the errors know nothing of each other; not-a-number where one side is constant or there are
    fewer than two examples. Intervals: 95 % percentile bootstrap over groups.

    Errors of tasks may go together for another reason than the student's: references of the same
    raters share the raters' moods, and hard texts are hard for every task.

    Args:
        answers: task -> predictions.
        references: task -> example id -> what the answers are measured against.
        groups: example id -> group.
        tasks: those to be compared, each with each.
        draws: bootstrap draws; 0 gives figures without intervals.
        seed: of the draws.

    Returns:
        One row a pair of tasks, in their order: the upper triangle of the matrix.

    Raises:
        EvidenceError: a task without answers, or a readable answer without a reference, a group or
            (ordinal) an expected score and a reference score.
    """
    errors = {task.name: _errors(answers, references, groups, task) for task in tasks}
    found = []
    for one, other in combinations(errors, 2):
        both = [i for i in errors[one] if i in errors[other]]
        codes = _codes([groups[i] for i in both])
        size = int(codes.max(initial=-1)) + 1
        first, second = (
            np.round([errors[task][i] for i in both], _DIGITS) for task in (one, other)
        )
        whole = _correlations(first, second, np.ones(len(both)))
        counts = resample(size, draws, seed) if size else np.zeros((0, 0))
        drawn = np.array([_correlations(first, second, taken[codes]) for taken in counts])
        pearson, spearman = (
            estimate(value, column, size)
            for value, column in zip(whole, drawn.reshape(-1, 2).T, strict=True)
        )
        found.append(
            Correlation(
                one=one, other=other, n=len(both), groups=size, pearson=pearson, spearman=spearman
            )
        )
    return found


def _errors(
    answers: Mapping[str, Sequence[Prediction]],
    references: Mapping[str, Mapping[str, Reference]],
    groups: Mapping[str, str],
    task: Task,
) -> dict[str, float]:
    """Example id -> mean error of the readable answers."""
    if not answers.get(task.name):
        raise EvidenceError(f"task {task.name}: found no predictions, expected one or more")
    known = references.get(task.name, {})
    own: dict[str, list[float]] = defaultdict(list)
    for prediction in answers[task.name]:
        if prediction.outcome is not Outcome.READ:
            continue
        reference = known.get(prediction.example_id)
        if reference is None or prediction.example_id not in groups:
            what = "reference" if reference is None else "group"
            raise EvidenceError(
                f"prediction {prediction.example_id} of {task.name}: found no {what}, expected one "
                "for every readable prediction; hand in those of the same corpus"
            )
        own[prediction.example_id].append(_error(prediction, reference, task))
    return {example_id: math.fsum(errors) / len(errors) for example_id, errors in own.items()}


def _error(prediction: Prediction, reference: Reference, task: Task) -> float:
    if task.kind is Kind.NOMINAL:
        return float(prediction.label != reference.label)
    if prediction.expected is None or reference.score is None:
        lacking = "prediction" if prediction.expected is None else "reference"
        raise EvidenceError(
            f"prediction {prediction.example_id} of {task.name}: the {lacking} has no score; an "
            "ordinal task needs one"
        )
    return prediction.expected - reference.score


def _codes(names: Sequence[str]) -> Ints:
    """Index of each name in the alphabetical order of the names, which decides what a draw does."""
    code = {name: index for index, name in enumerate(sorted(set(names)))}
    return np.array([code[name] for name in names], dtype=np.int64)


def _correlations(one: Floats, other: Floats, taken: Floats) -> tuple[float, float]:
    """Pearson and Spearman of a sample in which row i stands `taken[i]` times."""
    kept = taken > 0
    one, other, taken = one[kept], other[kept], taken[kept]
    places = [np.unique(side, return_inverse=True)[1] for side in (one, other)]
    if any(place.max(initial=0) == 0 for place in places):
        return math.nan, math.nan
    ranks = [_ranks(place, taken) for place in places]
    return _pearson(one, other, taken), _pearson(ranks[0], ranks[1], taken)


def _ranks(place: Ints, taken: Floats) -> Floats:
    sizes = np.bincount(place, weights=taken)
    ranks: Floats = np.cumsum(sizes) - (sizes - 1) / 2
    return ranks[place]


def _pearson(one: Floats, other: Floats, taken: Floats) -> float:
    first, second = (side - side @ taken / taken.sum() for side in (one, other))
    spread = math.sqrt(float(taken @ first**2) * float(taken @ second**2))
    return float(np.clip(taken @ (first * second) / spread, -1, 1))
