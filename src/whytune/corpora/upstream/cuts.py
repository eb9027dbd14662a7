"""Examples cut out of raw conversations: the judged turns, each with what was said before it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whytune.corpora.corpus import Item
from whytune.corpora.identity import content_id
from whytune.corpora.ledger import Ledger
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Split, Turn

_EMPTY = "conversations hold an empty turn and were left out"
_NO_REPLY = "conversations without a reply to judge were left out"
_AFTER = "conversations go on after their last reply; what follows it was left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation as it lies in a release."""

    source: str
    group: str
    said: Sequence[tuple[str, str]]
    """(role, text) of each turn, without space at the texts' ends; a text may be empty."""
    split: Split | None = None


def examples(
    loader: str,
    conversation: Conversation,
    spec: CorpusSpec,
    ledger: Ledger,
    *,
    role: str | None = "assistant",
) -> Iterator[Item]:
    """The judged turns of a conversation, each with all turns before it.

    A turn with nothing before it replies to nothing and is never judged. With `judged: last` that
    is the last turn of the role, with `each` every one. A conversation with an empty turn is left
    out whole and counted: what follows the gap answers nothing that can be read.

    Args:
        loader: begins the ids.
        conversation: where the turns come from.
        spec: says which turns are judged.
        ledger: counts what is left out.
        role: whose turns can be judged; None: everybody's.
    """
    if not all(text for _, text in conversation.said):
        ledger.counts[_EMPTY] += 1
        return
    turns = tuple(Turn(role=who, text=text) for who, text in conversation.said)
    judged = [i for i, turn in enumerate(turns) if i and role in (None, turn.role)]
    if not judged:
        ledger.counts[_NO_REPLY] += 1
        return
    if judged[-1] < len(turns) - 1:
        ledger.counts[_AFTER] += 1
    for last in judged if spec.judged == "each" else judged[-1:]:
        cut = turns[: last + 1]
        example = Example(
            id=content_id(loader, cut),
            source=conversation.source,
            group=conversation.group,
            turns=cut,
            split=conversation.split,
        )
        yield Item(example=example)
