"""The candidates with the lowest hashes, kept while a corpus streams by: examples, whole groups."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

from whytune.corpora.identity import order

OPEN = b"\xff" * 33
"""Above every hash."""


class Candidate(Protocol):
    """What a loader yields: an item, or what one is made of when it is wanted."""

    @property
    def line(self) -> int | None:
        """Where its row stands in its file."""


@dataclass(slots=True)
class Lowest:
    """The examples with the lowest hashes of their ids."""

    room: int | None
    """How many; None: all."""
    items: dict[str, list[Candidate]] = field(default_factory=dict)
    """Id -> what is said under it."""
    left_out: bool = False
    """Whether there were more."""
    _heap: list[tuple[int, str]] = field(default_factory=list)
    cut: bytes = OPEN
    """The highest hash that is still kept."""

    def add(self, key: str, items: list[Candidate], by_id: bytes) -> None:
        """Keep the items of one id, or add them to those that are kept."""
        if key in self.items:
            self.items[key] += items
        elif by_id <= self.cut:
            self.items[key] = items
            self._shrink(key, by_id)
        else:
            self.left_out = True

    def _shrink(self, key: str, by_id: bytes) -> None:
        if self.room is None:
            return
        heapq.heappush(self._heap, (-int.from_bytes(by_id), key))
        if len(self._heap) > self.room:
            del self.items[heapq.heappop(self._heap)[1]]
            self.left_out = True
        if len(self._heap) == self.room:
            self.cut = (-self._heap[0][0]).to_bytes(32)


@dataclass(slots=True)
class LowestGroups:
    """The groups with the lowest hashes, whole, as few as hold so many examples."""

    room: int
    members: dict[str, dict[str, list[Candidate]]] = field(default_factory=dict)
    """Group -> id -> what is said under it."""
    left_out: bool = False
    _heap: list[tuple[int, str]] = field(default_factory=list)
    _count: int = 0
    cut: bytes = OPEN
    """The highest hash that is still kept."""

    def add(
        self, item: Candidate, key: str, group: str, by_group: bytes
    ) -> list[tuple[str, list[Candidate]]]:
        """Keep it; gives back what there is no longer room for: ids, and what is said under them."""
        own = self.members.get(group)
        if own is None:
            own = self.members[group] = {}
            heapq.heappush(self._heap, (-int.from_bytes(by_group), group))
        if key in own:
            own[key].append(item)
            return []
        own[key] = [item]
        self._count += 1
        return self._shrink()

    def _shrink(self) -> list[tuple[str, list[Candidate]]]:
        out: list[tuple[str, list[Candidate]]] = []
        while self._count - len(self.members[self._heap[0][1]]) >= self.room:
            gone = self.members.pop(heapq.heappop(self._heap)[1])
            self._count -= len(gone)
            self.left_out = True
            out += gone.items()
        if self._count >= self.room:
            self.cut = (-self._heap[0][0]).to_bytes(32)
        return out


@dataclass(slots=True)
class Part:
    """Candidates of one part: whole groups first, examples out of the rest."""

    groups: LowestGroups | None
    """None: nothing is taken out of it by group."""
    rest: Lowest
    seed: int

    def takes(self, by_id: bytes, by_group: bytes) -> bool:
        """Whether there is room for an example of these hashes."""
        if by_id <= self.rest.cut or (self.groups is not None and by_group <= self.groups.cut):
            return True
        self.rest.left_out = True
        if self.groups is not None:
            self.groups.left_out = True
        return False

    def add(self, item: Candidate, key: str, group: str, by_id: bytes, by_group: bytes) -> None:
        """Keep it with its group, or among the rest."""
        if self.groups is None:
            self.rest.add(key, [item], by_id)
        elif by_group > self.groups.cut:
            self.groups.left_out = True
            self.rest.add(key, [item], by_id)
        else:
            for other, items in self.groups.add(item, key, group, by_group):
                self.rest.add(other, items, order(other, self.seed))

    def merge(self, later: "Part", moved: Callable[[Any], Candidate]) -> None:
        """Add what was kept of the lines that follow, as if it had streamed by here.

        What had no room there has none here: there was as much with lower hashes.
        """
        if self.groups is not None and later.groups is not None:
            for group, own in later.groups.members.items():
                by_group = order(group, self.seed)
                for key, items in own.items():
                    by_id = order(key, self.seed)
                    for item in items:
                        self.add(moved(item), key, group, by_id, by_group)
            self.groups.left_out |= later.groups.left_out
        # Their groups had no room, so that they belong to the rest of the whole as well.
        for key, items in later.rest.items.items():
            self.rest.add(key, [moved(item) for item in items], order(key, self.seed))
        self.rest.left_out |= later.rest.left_out

    def by_id(self) -> Iterator[tuple[str, list[Candidate]]]:
        """Everything that is kept: id, and what is said under it."""
        grouped = self.groups.members.values() if self.groups is not None else ()
        return chain(*(own.items() for own in grouped), self.rest.items.items())
