"""What a model is asked that has read what the teachers said: to decide, or to say their why as one.

After section 3.2 of Regularization Through Reasoning (arXiv 2511.02044). Raters are numbered and
never named, so that no name decides; what they said is fenced like the text that they judged.
"""

from collections.abc import Sequence

from whytune.errors import TeachingError
from whytune.records import Annotation, Example, Outcome, Task
from whytune.teaching import prompts
from whytune.teaching.fence import quoted
from whytune.teaching.prompts import Order, Rendered
from whytune.teaching.ratings import mean_score

DECIDE = "merge"
"""Name of the prompt that asks for a label; `replies.read` reads its answer."""
COMBINE = "merge-explanations"
"""Name of the prompt about a label that is known; `replies.read_reason` reads its answer."""


def decide(example: Example, task: Task, votes: Sequence[Annotation], *, order: Order) -> Rendered:
    """Ask for the label, then why, then how sure, after all that the raters said.

    Args:
        example: that they judged.
        task: what they were asked.
        votes: what they said about it, in any order; unreadable replies are passed over. Scores
            of all scales stand as numbers from 0 to 1 beside the label nearest to them.
        order: what stands first.

    Raises:
        TeachingError: no readable reply, or one about another example or task.
    """
    read = _sorted(votes, example, task)
    if not read:
        raise TeachingError(
            f"example {example.id}, task {task.name}: found no readable reply among {len(votes)}, "
            "expected one or more to decide by; leave the example out"
        )
    answers = {
        "label": "one of the labels, letter by letter",
        "assessment": "why this label",
        "confidence": "how sure you are of this label, and why",
    }
    asked = (
        task.question,
        prompts.labels_text(task),
        _raters(read, example, task),
        "Decide which label is right. Hold the raters' reasons against what was judged: a label is "
        "not right because many gave it, nor because one is sure of it. Then explain it in your own "
        "words, without speaking of raters.",
        f"{prompts.format_text(answers)}\nDecide on the label first; then explain it.",
    )
    schema = {**dict.fromkeys(answers, prompts.TEXT), "label": prompts.label_schema(task)}
    return prompts.rendered(DECIDE, example, asked, schema, order)


def combine(
    example: Example, task: Task, label: str, votes: Sequence[Annotation], *, order: Order
) -> Rendered:  # fmt: skip
    """Ask for one assessment and one confidence that say what all the raters' explanations say.

    Args:
        example: that they judged.
        task: what they were asked.
        label: what their votes came to.
        votes: as for `decide`; those without an explanation are passed over.
        order: what stands first.

    Raises:
        TeachingError: the label is none of the task's, nobody explained anything, or a reply is
            about another example or task.
    """
    prompts.check_label(example, task, label)
    explained = [v for v in _sorted(votes, example, task) if v.assessment or v.confidence]
    if not explained:
        raise TeachingError(
            f"example {example.id}, task {task.name}: found no explanation in {len(votes)} replies, "
            "expected one or more to combine; leave the example out"
        )
    answers = {
        "assessment": "why this label: the raters' reasons, combined and summarised",
        "confidence": "how sure one can be of this label, and why; less where the raters disagree",
    }
    asked = (
        task.question,
        prompts.labels_text(task),
        _raters(explained, example, task),
        f"The right label is known: {label}. Combine what the raters say into one explanation of it, "
        "in your own words and without speaking of raters; leave out what does not fit what was "
        "judged; do not give another label.",
        prompts.format_text(answers),
    )
    return prompts.rendered(COMBINE, example, asked, dict.fromkeys(answers, prompts.TEXT), order)


def _sorted(votes: Sequence[Annotation], example: Example, task: Task) -> list[Annotation]:
    """The readable ones, by names that are not shown."""
    for vote in votes:
        if (vote.example_id, vote.task) != (example.id, task.name):
            raise TeachingError(
                f"example {example.id}, task {task.name}: found a reply by {vote.teacher} about "
                f"example {vote.example_id}, task {vote.task}; hand in those about this one alone"
            )
    read = [vote for vote in votes if vote.outcome is Outcome.READ]
    return sorted(read, key=lambda vote: (vote.teacher, vote.prompt))


def _raters(votes: Sequence[Annotation], example: Example, task: Task) -> str:
    parts = []
    for number, vote in enumerate(votes, start=1):
        who, score = f"rater {number}", mean_score([vote], task)
        place = "" if score is None else f", {score:.2f} on a scale from 0 to 1"
        parts.append((f"{who}: label {vote.label}{place}", ""))
        for what, said in (("assessment", vote.assessment), ("confidence", vote.confidence)):
            if said:
                parts.append((f"{who}, {what}", said))
    return quoted("What the raters answered stands", parts, example)
