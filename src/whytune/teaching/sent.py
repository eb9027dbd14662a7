"""What is sent to a teacher, what becomes of it, and the figures on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from whytune.teaching.answers import Ended
from whytune.teaching.limits import Limits

Body = TypeVar("Body")


class Fate(StrEnum):
    """What becomes of a request after a send."""

    DONE = "done"
    AGAIN = "again"
    DEAD = "dead"
    """Given up: a dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Generic[Body]):
    """What is to be sent; the flow looks at the estimates only."""

    body: Body
    tokens: float = 0.0
    """Estimated tokens, in and out."""
    cost: float = 0.0
    """Estimated cost of one send, in the currency of the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How one send ended."""

    ending: Ended
    text: str = ""
    """The raw reply, or what the endpoint said instead."""
    tokens_in: int = 0
    tokens_out: int = 0
    retry_after: float | None = None
    """Seconds to wait, as the endpoint said (`limits.retry_after` reads it)."""
    limits: Limits | None = None
    """What the endpoint said about its limits (`limits.read_limits`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Generic[Body]):
    """A request that was given up, and why."""

    request: Request[Body]
    sent: Sent
    """The last send."""
    attempts: int
    """Sends without those that were rate limited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    """One lane at one moment."""

    in_flight: int
    concurrency: int
    """How many may be in flight."""
    rate: float
    """Accepted requests a second, over about the last ten seconds."""
    sent: int


@dataclass(slots=True, kw_only=True)
class Figures:
    """Where a flow stands."""

    total: int | None = None
    """Requests in all, the cached ones included; None: unknown."""
    cached: int = 0
    """Answered before; not sent."""
    done: int = 0
    """Answered or refused, and recorded."""
    refused: int = 0
    """Those of them that the endpoint refused."""
    dead: int = 0
    in_flight: int = 0
    waiting: int = 0
    """To be sent again."""
    sends: int = 0
    retried: int = 0
    """Sends after an error; those after a rate limit not among them."""
    rate_limited: int = 0
    server_errors: int = 0
    timeouts: int = 0
    connections: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    eta: float | None = None
    """Seconds to the end at the present rate; None: unknown."""
    lanes: Mapping[str, LaneFigures] = field(default_factory=dict)
    """By name."""

    def count(self, sent: Sent, fate: Fate) -> None:
        """Takes in how one send ended."""
        self.tokens_in += sent.tokens_in
        self.tokens_out += sent.tokens_out
        self.done += fate is Fate.DONE
        self.dead += fate is Fate.DEAD
        self.refused += sent.ending is Ended.REFUSED
        self.rate_limited += sent.ending is Ended.RATE_LIMITED
        self.server_errors += sent.ending is Ended.SERVER_ERROR
        self.timeouts += sent.ending is Ended.TIMEOUT
        self.connections += sent.ending is Ended.CONNECTION
