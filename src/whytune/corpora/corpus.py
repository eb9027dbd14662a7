"""What a loader hands over, and what a study works on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from whytune.corpora.ledger import Ledger
from whytune.records import Example, Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example of a streaming loader, with what came with it."""

    example: Example
    replies: tuple[Reply, ...] = ()
    settled: bool = True
    """Off where people did not settle: fit to teach from, not to measure on."""
    line: int | None = None
    """Where its row stands in its file, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the docs say about an upstream release."""

    title: str
    format: str
    size: str
    """Rows of the whole release."""
    licence: str
    get: str
    """How to get it: an address, a Hub id, a command."""
    citation: str
    tasks: tuple[str, ...] = ()
    """Built-in tasks that its own labels answer."""
    parts: tuple[str, ...] = ()
    """What `part` may be; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything a loader found, before splits are settled and samples drawn."""

    examples: tuple[Example, ...]
    replies: tuple[Reply, ...]
    inputs: Mapping[str, str]
    unsettled: frozenset[str] = frozenset()
    """Ids of examples on which people did not settle: fit to teach from, not to measure on."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The sampled examples of one corpus, in an order that no file order can change."""

    name: str
    examples: tuple[Example, ...]
    """Training, validation, test; every one has its split, gold stands on test examples only."""
    replies: tuple[Reply, ...]
    """Raw replies about these examples that came with the corpus."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256 (64 hex digits) of every file read."""
    notes: tuple[str, ...] = ()
    """What was left out and why, with counts."""
    ledger: Ledger = field(default_factory=Ledger, compare=False)
    """Rows that were looked at, those that could not be read, and counts."""
