"""Which of a recipe's tasks a corpus answers by itself; about the others, teachers are asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from whytune.corpora.corpus import Item
from whytune.records import Task
from whytune.tasks import BUILT_IN


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a corpus is read for."""

    tasks: tuple[Task, ...]
    told: bool = True
    """Off where the recipe has none of them, so that nothing of what is said about them is kept."""

    def kept(self, item: Item) -> Item:
        """The example with what is said about the recipe's tasks."""
        if self.told:
            return item
        return Item(example=replace(item.example, gold={}), line=item.line)


def of(tasks: Sequence[Task], known: Sequence[str]) -> Answered:
    """What to read a corpus for where teachers are asked about the rest.

    Args:
        tasks: what the recipe wants to know about it.
        known: names of the built-in tasks that its own labels answer; none where they may answer
            any, or where it has no labels.
    """
    if not known:
        return Answered(tasks=tuple(tasks))
    own = tuple(task for task in tasks if task.name in known)
    # A labelled corpus cannot be read for no task at all: its labels tell whether a row is whole.
    return Answered(tasks=own or tuple(BUILT_IN[name] for name in known), told=bool(own))
