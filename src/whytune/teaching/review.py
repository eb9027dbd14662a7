"""What people should look at: the examples on which the teachers disagree most."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from whytune.records import Annotation, Example, Outcome, Task
from whytune.teaching.agreement import of_votes


def queue(
    annotations: Sequence[Annotation], examples: Sequence[Example], task: Task, *, width: int = 500
) -> list[dict[str, Any]]:
    """The examples with two votes or more, from the most to the least disagreement.

    Args:
        annotations: of any tasks; those of other tasks are passed over.
        examples: their texts; an annotation about another example is passed over.
        task: whose.
        width: characters of a text, 20 or more. A longer one loses its middle: what is judged
            stands at its end, what it answers at its beginning.

    Returns:
        One row an example, all with the same columns: `example_id`, `task`, `disagreement` (1 -
        the agreement of a verdict, 0 to 1; equal ones in order of their ids), `text` (`role: text`,
        a line a turn), and for each rater `RATER score` (on [0, 1]; of a nominal task the label)
        and `RATER assessment`, None without. RATER is `teacher / prompt`.
    """
    votes: dict[str, list[Annotation]] = defaultdict(list)
    for vote in annotations:
        if vote.task == task.name and vote.outcome is Outcome.READ:
            votes[vote.example_id].append(vote)
    raters = sorted({_rater(vote) for own in votes.values() for vote in own})
    rows = []
    for example in examples:
        own = votes.get(example.id, [])
        agreement = of_votes(own, task)
        if agreement is None:
            continue
        said = {_rater(vote): vote for vote in own}
        row: dict[str, Any] = {
            "example_id": example.id,
            "task": task.name,
            "disagreement": round(1 - agreement, 9),
            "text": _short("\n".join(f"{t.role}: {t.text}" for t in example.turns), width),
        }
        for rater in raters:
            row |= _cells(rater, said.get(rater))
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["disagreement"], row["example_id"]))


def _rater(vote: Annotation) -> str:
    return f"{vote.teacher} / {vote.prompt}"


def _cells(rater: str, vote: Annotation | None) -> dict[str, Any]:
    said = None if vote is None else vote.label if vote.score is None else vote.score
    return {f"{rater} score": said, f"{rater} assessment": vote.assessment if vote else None}


def _short(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    gap = " […] "
    head = (width - len(gap)) // 2
    return text[:head] + gap + text[head + len(gap) - width :]
