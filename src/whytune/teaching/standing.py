"""Where questions stand in a journal: what was answered, and what is still to be asked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from whytune.records import Annotation, Outcome
from whytune.teaching.answers import Answer
from whytune.teaching.journal import Journal
from whytune.teaching.questions import Question
from whytune.teaching.requests import Recorded, Request

_BATCH = 50
"""Questions a look-up; whoever walks them on an event loop stops it for so long."""


@dataclass(slots=True, kw_only=True)
class Standing:
    """One question."""

    question: Question
    open: Request | None
    """What is to be asked next; None: it is settled."""
    annotation: Annotation | None = None
    """What stands so far: the last reply, or else the last failure; None: nobody was asked yet."""
    before: tuple[str, ...] = ()
    """Keys of the requests whose replies could not be read, so that it was asked again."""

    def followed(self, answer: Answer) -> "Standing":
        """It, open to be asked again after an answer that could not be read."""
        asked = self.open
        assert asked is not None
        return replace(self, open=self.question.again(asked, answer),
                       before=(*self.before, asked.key))  # fmt: skip


def standings(
    questions: Iterable[Question], journal: Journal, *, reasks: int
) -> Iterator[Standing]:
    """Every question with what stands, in their order.

    A question is settled by a reply that can be read, a refusal, or an unreadable reply after
    `reasks` repetitions; a failure leaves it open.
    """
    stream = iter(questions)
    while batch := list(islice(stream, _BATCH)):
        found = [Standing(question=question, open=question.request) for question in batch]
        unsettled = found
        for _ in range(reasks + 1):
            asked = [s.open for s in unsettled if s.open is not None]
            recorded = {r.key: r for r in journal.replies(asked)} if asked else {}
            unsettled = [s for s in unsettled if _advance(s, recorded, reasks)]
        yield from found


def _advance(standing: Standing, recorded: dict[str, Recorded], reasks: int) -> bool:
    """Take in what was recorded; whether there is another request to look up."""
    asked = standing.open
    found = recorded.get(asked.key) if asked is not None else None
    if asked is None or found is None:
        return False
    annotation = standing.question.read(found.answer)
    if annotation.outcome is Outcome.FAILED:
        standing.annotation = standing.annotation or annotation
        return False
    standing.annotation = annotation
    if annotation.outcome is Outcome.UNREADABLE and len(standing.before) < reasks:
        standing.open = standing.question.again(asked, found.answer)
        standing.before += (asked.key,)
        return True
    standing.open = None
    return False
