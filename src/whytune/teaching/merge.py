"""Many annotations, one verdict."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from whytune.errors import TeachingError
from whytune.records import Annotation, Kind, Outcome, Task, Verdict
from whytune.teaching.agreement import of_votes


def merge(annotations: Sequence[Annotation], task: Task, seed: int) -> list[Verdict]:
    """One verdict for every example with an annotation of this task, in order of appearance.

    Ordinal: the mean of the readable scores and the label nearest to it. Nominal: the label
    with the most votes; a tie gives no label. The explanations are those of one annotation,
    the one that best says what the verdict says.

    Args:
        annotations: of any tasks; those of other tasks are passed over.
        task: whose verdicts.
        seed: breaks ties between explanations; together with names only, never with order.

    Raises:
        TeachingError: no annotation of the task, none that could be read, or one teacher's
            answer to one prompt given twice.
    """
    by_example: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.task == task.name:
            by_example[annotation.example_id].append(annotation)
    _check(list(by_example.values()), task)
    return [_verdict(own, task, seed) for own in by_example.values()]


def apart(annotations: Sequence[Annotation], task: Task) -> list[Verdict]:
    """Every rater's own verdict: one for each annotation of this task, in order of appearance.

    Its label, score and explanations are those of the annotation alone; one that could not be
    read has no label. What `merge` refuses is refused there, so merge first.
    """
    return [_verdict([own], task, seed=0) for own in annotations if own.task == task.name]


def _check(groups: Sequence[Sequence[Annotation]], task: Task) -> None:
    if not groups:
        raise TeachingError(
            f"task {task.name}: found no annotations, expected at least one; use a corpus that "
            "comes with labels for it, or ask teachers first"
        )
    replies = [annotation for group in groups for annotation in group]
    if all(annotation.outcome is not Outcome.READ for annotation in replies):
        counts = Counter(str(annotation.outcome) for annotation in replies)
        found = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        raise TeachingError(
            f"task {task.name}: none of {len(replies)} replies could be read ({found}; the first, "
            f"by {replies[0].teacher}: {replies[0].reply[:80]!r}); expected JSON with `score` or "
            "`label`; correct the prompt or the scale"
        )
    keys = Counter((a.example_id, a.teacher, a.prompt) for a in replies)
    (example, teacher, prompt), times = keys.most_common(1)[0]
    if times > 1:
        raise TeachingError(
            f"task {task.name}, example {example}: found {times} annotations by {teacher} with "
            f"prompt {prompt}, expected one; give each rater a name of its own"
        )


def _verdict(annotations: Sequence[Annotation], task: Task, seed: int) -> Verdict:
    votes = [annotation for annotation in annotations if annotation.outcome is Outcome.READ]
    counts = Counter(vote.label for vote in votes)
    score = _mean(votes) if task.kind is Kind.ORDINAL else None
    label = _plurality(counts) if score is None else task.nearest(score)
    spokesman = _spokesman(votes, score, label, seed)
    return Verdict(
        example_id=annotations[0].example_id,
        task=task.name,
        label=label,
        score=score,
        shares={name: counts[name] / len(votes) for name in task.label_names if counts[name]},
        votes=len(votes),
        unread=len(annotations) - len(votes),
        agreement=of_votes(votes, task),
        assessment=_flat(spokesman.assessment) if spokesman else None,
        confidence=_flat(spokesman.confidence) if spokesman else None,
    )


def _mean(votes: Sequence[Annotation]) -> float | None:
    scores = [vote.score for vote in votes if vote.score is not None]
    # fsum rounds once, so that the order of the votes cannot change the mean.
    return math.fsum(scores) / len(scores) if scores else None


def _plurality(counts: Counter[str | None]) -> str | None:
    ranked = counts.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def _spokesman(
    votes: Sequence[Annotation], score: float | None, label: str | None, seed: int
) -> Annotation | None:
    """The vote whose explanations stand for all.

    Ordinal: the one whose score is closest to the verdict's. Nominal: one of those with the
    verdict's label. Of equals, first those with both explanations, then by hash.
    """

    def rank(vote: Annotation) -> tuple[float, int, str]:
        distance = 0.0 if score is None or vote.score is None else abs(vote.score - score)
        missing = (vote.assessment is None) + (vote.confidence is None)
        key = f"{seed}:{vote.example_id}:{vote.teacher}:{vote.prompt}"
        # Distances equal but for rounding are equal.
        return round(distance, 9), missing, hashlib.sha256(key.encode()).hexdigest()

    explained = [vote for vote in votes if vote.assessment or vote.confidence]
    if score is None:
        explained = [vote for vote in explained if vote.label == label]
    return min(explained, key=rank, default=None)


def _flat(text: str | None) -> str | None:
    """One line: a target is read back line by line, and a line break would end it early."""
    return " ".join(text.split()) or None if text is not None else None
