"""Many annotations, one verdict."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from whytune.errors import TeachingError
from whytune.records import Annotation, Outcome, Task, Verdict
from whytune.teaching import methods
from whytune.teaching.agreement import of_votes
from whytune.teaching.methods import Decision, Method
from whytune.teaching.ratings import mean_score


def merge(
    annotations: Sequence[Annotation],
    task: Task,
    seed: int,
    *,
    method: Method | None = None,
    speakers: Mapping[str, Annotation] | None = None,
) -> list[Verdict]:
    """One verdict for every example with an annotation of this task, in order of appearance.

    The explanations are those of one annotation, the one that best says what the verdict says.

    Args:
        annotations: of any tasks; those of other tasks are passed over.
        task: whose verdicts.
        seed: breaks ties between explanations; together with names only, never with order.
        method: how; by default the mean of an ordinal task, the most frequent label of a nominal
            one. A rater is a teacher with one prompt.
        speakers: example id -> who explains its verdict (`prompts.justify`, `merger.combine`); an
            example without one, or whose own could not be read, has the chosen one.

    Raises:
        TeachingError: no annotation of the task, none that could be read, one teacher's answer
            to one prompt given twice, a method that is not for this kind of task, or a speaker who
            explains another label.
    """
    groups = _groups(annotations, task)
    decisions = methods.decide(groups, task, method or methods.default(task))
    verdicts = []
    for example, own in groups.items():
        decision = decisions.get(example, Decision(None, None))
        speaker = _explaining((speakers or {}).get(example), task, decision)
        verdicts.append(_verdict(own, task, seed, decision, speaker))
    return verdicts


def of_merger(
    replies: Sequence[Annotation], annotations: Sequence[Annotation], task: Task, *, seed: int = 0
) -> list[Verdict]:
    """The verdicts of a model that has read what the teachers said.

    Args:
        replies: what the merging model said: one annotation for an example at most. Its label,
            score and explanations are the verdict's; where it explains nothing, the explanations
            are those of the teacher who is closest to it. Without a readable one there is no label.
        annotations: what the teachers said, as for `merge`: votes, shares and agreement are theirs.
        task: whose verdicts.
        seed: as for `merge`.

    Raises:
        TeachingError: what `merge` refuses, or the merging model's reply about an example that no
            teacher was asked about, or two about one.
    """
    groups = _groups(annotations, task)
    asked = [reply for reply in replies if reply.task == task.name]
    _check_merger([reply.example_id for reply in asked], groups, task)
    own = {reply.example_id: reply for reply in asked}
    verdicts = []
    for example, votes in groups.items():
        reply = own.get(example)
        if reply is None or reply.outcome is not Outcome.READ:
            verdicts.append(_verdict(votes, task, seed, Decision(None, None)))
            continue
        said = Decision(mean_score([reply], task), reply.label)
        verdicts.append(_verdict(votes, task, seed, said, _explaining(reply, task, said)))
    return verdicts


def dropped(verdicts: Sequence[Verdict], *, by_merger: bool = False) -> dict[str, int]:
    """What a merge left out: reason -> how many; only reasons that occur.

    `unread replies` counts replies. Examples without a label count once: `no vote` where no reply
    could be read, otherwise `tie`, or, of a merging model's verdicts, `no merged reply`.
    """
    counts = Counter({"unread replies": sum(verdict.unread for verdict in verdicts)})
    undecided = "no merged reply" if by_merger else "tie"
    counts.update(
        undecided if verdict.votes else "no vote" for verdict in verdicts if verdict.label is None
    )
    return {reason: count for reason, count in sorted(counts.items()) if count}


def apart(annotations: Sequence[Annotation], task: Task) -> list[Verdict]:
    """Every rater's own verdict: one for each annotation of this task, in order of appearance.

    Its label, score and explanations are those of the annotation alone; one that could not be
    read has no label. What `merge` refuses is refused there, so merge first.
    """
    return [
        _verdict([own], task, 0, methods.decide({"": [own]}, task, methods.default(task))[""])
        for own in annotations
        if own.task == task.name
    ]


def _groups(annotations: Sequence[Annotation], task: Task) -> dict[str, list[Annotation]]:
    by_example = methods.grouped(annotations, task)
    _check(list(by_example.values()), task)
    return by_example


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


def _check_merger(asked: Sequence[str], groups: Mapping[str, object], task: Task) -> None:
    for example, times in Counter(asked).items():
        if times > 1:
            raise TeachingError(
                f"task {task.name}, example {example}: found {times} replies of the merging model, "
                "expected one; hand in one model with one prompt"
            )
        if example not in groups:
            raise TeachingError(
                f"task {task.name}, example {example}: found a reply of the merging model, but no "
                "annotation of a teacher, expected what it merged; hand in the same examples"
            )


def _explaining(speaker: Annotation | None, task: Task, decision: Decision) -> Annotation | None:
    """The speaker, if it explains anything."""
    if speaker is None or not (speaker.assessment or speaker.confidence):
        return None
    if (speaker.task, speaker.label) != (task.name, decision.label):
        raise TeachingError(
            f"task {task.name}, example {speaker.example_id}: found {speaker.teacher}'s explanation "
            f"of label {speaker.label} of task {speaker.task}, but the verdict is "
            f"{decision.label}; ask for the reason of this verdict"
        )
    return speaker


def _verdict(
    annotations: Sequence[Annotation],
    task: Task,
    seed: int,
    decision: Decision,
    speaker: Annotation | None = None,
) -> Verdict:
    """The verdict on one example; whose explanations it has, unless it is said, is chosen."""
    votes = methods.read(annotations)
    counts = Counter(vote.label for vote in votes)
    shares = {name: counts[name] / len(votes) for name in task.label_names if counts[name]}
    spokesman = speaker or _spokesman(votes, decision.score, decision.label, seed)
    return Verdict(
        example_id=annotations[0].example_id,
        task=task.name,
        label=decision.label,
        score=decision.score,
        shares=shares if decision.shares is None else decision.shares,
        votes=len(votes),
        unread=len(annotations) - len(votes),
        agreement=of_votes(votes, task),
        assessment=_flat(spokesman.assessment) if spokesman else None,
        confidence=_flat(spokesman.confidence) if spokesman else None,
    )


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
