"""Draws a sample out of a stream of any length, in flat memory.

Only those candidates are kept that the hash order can still choose: of a corpus without a split
the whole groups with the lowest hashes (for test and validation) and the examples with the lowest
hashes among the rest (for training); of a corpus with a split the examples with the lowest hashes
in each part. What is kept does not depend on the order of the stream, and `splits.divide` draws
from it what it would draw from everything.

People may not have settled on some candidates, and rows may contradict each other, so more are
kept than asked for. Where they still do not suffice, the stream is read once more with more room.
Rows are compared with each other where they are kept: a contradiction among rows that no sample
can choose is not looked for.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from whytune.corpora import hashes
from whytune.corpora.corpus import Item
from whytune.corpora.identity import order
from whytune.corpora.ledger import Ledger
from whytune.corpora.lowest import Candidate, Lowest, LowestGroups, Part
from whytune.corpora.sources import OTHERS, Sources
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Split

_HASH = 8  # bytes of a hash that are kept to count by
_MORE = 8  # times the room of the reading before
SPARE = 64
"""Candidates kept beyond a quarter more than asked for."""
_PARTS = (None, *Split)
_TORN = "examples share a group with a part that is held out from them and were left out"

Merge = Callable[[Sequence[Any]], Item | None]
"""What was read under one id, in any order, to one item; None where it contradicts itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Everything that `splits.divide` may choose; no two of the same id."""

    items: tuple[Item, ...]
    ledger: Ledger
    notes: tuple[str, ...] = ()


def candidates(
    name: str,
    spec: CorpusSpec,
    read: Callable[["Sieve"], Iterator[Candidate]],
    merge: Callable[[Ledger], Merge],
    *,
    repeats: str,
    drop_torn: bool,
) -> Candidates:
    """What a sample can be drawn from.

    Args:
        name: the corpus, for messages.
        spec: the numbers asked for; with neither train nor test, everything is kept.
        read: reads the corpus from its beginning: asks the sieve's `passes` about every example,
            yields those that pass, and fills the sieve's ledger.
        merge: makes one item of everything under one id, quarantining in the given ledger.
        repeats: what to call examples that repeat another, behind their number.
        drop_torn: leave out training examples whose group is held out too (of a release that
            nobody can correct); otherwise that is an error.

    Raises:
        CorpusError: splits on some examples only, groups on both sides of a split, or whatever
            the reader raises.
    """
    room = 1
    while True:
        sieve = Sieve(spec, room)
        for item in read(sieve):
            sieve.keep(item)
        sieve.check(name)
        kept = _Kept(sieve, merge(sieve.ledger), name, drop_torn)
        if kept.suffices(spec):
            break
        room *= _MORE
    sieve.ledger.counts[repeats] += sieve.repeats()
    sieve.ledger.counts = +sieve.ledger.counts  # without zeros
    return Candidates(items=kept.items(spec), ledger=sieve.ledger)


class Sieve:
    """Keeps what can still be chosen while a corpus streams by."""

    def __init__(self, spec: CorpusSpec, room: int):
        self.ledger = Ledger()
        self.seed = spec.seed
        self.sources = Sources(frozenset(spec.sources))
        self.drawn = _drawn(spec, room)
        self.native = {split: _native(spec, split, room) for split in Split}
        self.parts: list[tuple[Split | None, Part]] = [(None, self.drawn), *self.native.items()]
        self._seen: dict[Split | None, bytearray] = defaultdict(bytearray)
        self._groups = {split: bytearray() for split in Split}
        self._last: tuple[Split | None, str, str, bytes, bytes] = (None, "", "", b"", b"")

    def wants(self, source: str) -> bool:
        """Whether examples of a source are kept; asked before `passes`, and counted if not."""
        found = self.sources.wants(source)
        self.ledger.counts[OTHERS] += not found
        return found

    def passes(self, id: str, group: str, split: Split | None, rater: str = "") -> bool:
        """Whether an example can still be chosen; asked once for each, before it is kept."""
        by_id, by_group = order(id, self.seed), order(group, self.seed)
        self._last = split, id, group, by_id, by_group
        seen = order(f"{rater}\0{id}", self.seed) if rater else by_id
        self._seen[split] += seen[:_HASH]
        if split is None:
            return self.drawn.takes(by_id, by_group)
        self._groups[split] += by_group[:_HASH]
        return self.native[split].takes(by_id, by_group)

    def keep(self, item: Candidate) -> None:
        """Keep the example that passed last."""
        split, id, group, by_id, by_group = self._last
        part = self.drawn if split is None else self.native[split]
        part.add(item, id, group, by_id, by_group)

    def merge(self, later: "Sieve", lines: int, moved: Callable[[Any], Candidate]) -> None:
        """Add what a sieve like this one kept of what follows in the same file.

        The result is that of one sieve through which both have streamed.

        Args:
            later: not to be used afterwards.
            lines: how many stand before what it has read.
            moved: makes a candidate one that stands so many lines further down.
        """
        self.ledger.merge(later.ledger, lines)
        self.sources.met |= later.sources.met
        for (_, part), (_, other) in zip(self.parts, later.parts, strict=True):
            part.merge(other, moved)
        for split, seen in later._seen.items():
            self._seen[split] += seen
        for split, groups in later._groups.items():
            self._groups[split] += groups

    def repeats(self) -> int:
        """Examples that repeat another's id (and rater, where one was named) in one part."""
        return sum(map(hashes.repeats, self._seen.values()))

    def check(self, name: str) -> None:
        """Whether there are examples of every source asked for, and all have a split, or none.

        Raises:
            CorpusError: a source without examples, or only some with a split.
        """
        self.sources.check(name)
        unsplit = len(self._seen[None]) // _HASH
        total = sum(map(len, self._seen.values())) // _HASH
        if 0 < unsplit < total:
            raise CorpusError(
                f"corpora.{name}: found {unsplit} of {total} examples without a split, expected "
                "all or none; fill in the split column, or leave it out"
            )

    def torn(self) -> dict[Split, set[bytes]]:
        """Part -> beginnings of the hashes of its groups that are held out from it."""
        train, validation, test = (self._groups[split] for split in Split)
        return {
            Split.TRAIN: hashes.shared(train, validation + test),
            Split.VALIDATION: hashes.shared(validation, test),
        }

    def torn_examples(self, torn: dict[Split, set[bytes]]) -> int:
        """How many examples stand in these groups."""
        return sum(hashes.count(self._groups[split], groups) for split, groups in torn.items())


def _first_line(entry: tuple[str, list[Candidate]]) -> int:
    return min(item.line or 0 for item in entry[1])


def _room(wanted: int | None, times: int) -> int | None:
    """Room for a quarter more than wanted, and a few, times so many."""
    return None if wanted is None else (wanted + max(SPARE, wanted // 4, 1)) * times


def _drawn(spec: CorpusSpec, times: int) -> Part:
    """Of a corpus without a split; a share of its groups can only be taken of all of them."""
    if spec.train is None or spec.test is None or spec.stratify:
        return Part(groups=None, rest=Lowest(room=None), seed=spec.seed)
    held_out = _room(spec.test + spec.validation, times)
    assert held_out is not None
    return Part(
        groups=LowestGroups(room=held_out), rest=Lowest(room=_room(spec.train, times)),
        seed=spec.seed,
    )  # fmt: skip


def _native(spec: CorpusSpec, split: Split, times: int) -> Part:
    wanted = {Split.TRAIN: spec.train, Split.VALIDATION: spec.validation or None}
    room = _room(wanted.get(split, spec.test), times)
    groups = None
    if split is Split.TRAIN and room is not None and spec.validation:
        # Where there is no validation part, it is taken out of the training part by group.
        held_out = _room(spec.validation, times)
        assert held_out is not None
        groups = LowestGroups(room=held_out)
    return Part(groups=groups, rest=Lowest(room=room), seed=spec.seed)


class _Kept:
    """What the sieve kept, items of one id made one."""

    def __init__(self, sieve: Sieve, merge: Merge, name: str, drop_torn: bool):
        self._sieve = sieve
        self._one: dict[tuple[Split | None, str], Item] = {}
        for split, part in sieve.parts:
            by_id: dict[str, list[Candidate]] = defaultdict(list)
            for key, items in part.by_id():
                by_id[key] += items
            # In order of first lines, so that what is quarantined does not depend on what was dropped
            # in between.
            for key, items in sorted(by_id.items(), key=_first_line):
                merged = merge(items)
                if merged is not None:
                    self._one[split, key] = merged
        self._settle_torn(name, drop_torn)

    def _settle_torn(self, name: str, drop: bool) -> None:
        torn = self._sieve.torn()
        if drop:
            self._sieve.ledger.counts[_TORN] += self._sieve.torn_examples(torn)
            self._drop(torn)
            return
        self._refuse_twice(name)
        if any(torn.values()):
            self._refuse(torn, name)

    def _refuse_twice(self, name: str) -> None:
        first: dict[str, Item] = {}
        for item in sorted(self._one.values(), key=lambda i: (i.line or 0, i.example.id)):
            before = first.setdefault(item.example.id, item)
            if before is not item:
                raise CorpusError(
                    f"corpora.{name}: id {item.example.id} in line {item.line} has another split "
                    f"than in line {before.line}; expected the same; correct one of them"
                )

    def _drop(self, torn: dict[Split, set[bytes]]) -> None:
        held_out: set[str] = set()
        # From the test part down, so that content in two parts stays in the one held out from more.
        for split, key in sorted(self._one, key=lambda k: -_PARTS.index(k[0])):
            item = self._one[split, key]
            if key in held_out or (split and self._beginning(item) in torn.get(split, ())):
                del self._one[split, key]
            held_out.add(key)

    def _refuse(self, torn: dict[Split, set[bytes]], name: str) -> None:
        both = set[bytes]().union(*torn.values())
        known = {i.example.group for i in self._one.values() if self._beginning(i) in both}
        shown = ", ".join(repr(group[:60]) for group in sorted(known)[:3])
        dots = ("…" if not shown else ", …") if len(both) > len(known) or len(known) > 3 else ""
        raise CorpusError(
            f"corpora.{name}: found {len(both)} groups on both sides of a split ({shown}{dots}), "
            "expected none; correct the corpus's own split or its groups, or leave its split out"
        )

    def _beginning(self, item: Item) -> bytes:
        return order(item.example.group, self._sieve.seed)[:_HASH]

    def suffices(self, spec: CorpusSpec) -> bool:
        """Whether nothing that was not kept could be wanted."""
        held_out = (spec.test or 0, spec.validation)
        native = self._sieve.native
        return (
            self._groups_suffice(None, self._sieve.drawn, held_out)
            and self._rest_suffices(None, self._sieve.drawn, spec.train)
            and self._groups_suffice(Split.TRAIN, native[Split.TRAIN], (0, spec.validation))
            and self._rest_suffices(Split.TRAIN, native[Split.TRAIN], spec.train)
            and self._rest_suffices(
                Split.VALIDATION, native[Split.VALIDATION], spec.validation or None
            )
            and self._rest_suffices(Split.TEST, native[Split.TEST], spec.test)
        )

    def _usable(self, split: Split | None, key: str, settled: bool) -> bool:
        item = self._one.get((split, key))
        return item is not None and (item.settled or not settled)

    def _rest_suffices(self, split: Split | None, part: Part, wanted: int | None) -> bool:
        if not part.rest.left_out or wanted is None:
            return True
        usable = (self._usable(split, key, split is Split.TEST) for key in part.rest.items)
        return sum(usable) >= wanted

    def _groups_suffice(self, split: Split | None, part: Part, wanted: tuple[int, int]) -> bool:
        """Whether whole groups hold so many settled examples, and further ones so many."""
        if part.groups is None or not part.groups.left_out:
            return True
        members = part.groups.members
        groups = iter(sorted(members, key=lambda group: order(group, part.seed)))
        for number, settled in zip(wanted, (True, False), strict=True):
            sizes = (
                sum(self._usable(split, key, settled) for key in members[group]) for group in groups
            )
            if number and not any(reached >= number for reached in accumulate(sizes)):
                return False
        return True

    def items(self, spec: CorpusSpec) -> tuple[Item, ...]:
        """The candidates; of a test part that was not kept whole, only as far as is wanted."""
        if not self._sieve.native[Split.TEST].rest.left_out or spec.test is None:
            return tuple(self._one.values())
        test = [item for (split, _), item in self._one.items() if split is Split.TEST]
        test.sort(key=lambda item: order(item.example.id, spec.seed))
        reached = list(accumulate(int(item.settled) for item in test))
        wanted = reached.index(spec.test) + 1
        others = [item for (split, _), item in self._one.items() if split is not Split.TEST]
        return (*others, *test[:wanted])
