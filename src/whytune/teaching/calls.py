"""What a flow is given, what becomes of it, and the figures on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from whytune.teaching.answers import Answer, Ended

Body = TypeVar("Body")


class Fate(StrEnum):
    """What becomes of a call after a send."""

    DONE = "done"
    AGAIN = "again"
    DEAD = "dead"
    """Given up: a dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Body]):
    """What is to be sent; the flow looks at the estimates only."""

    body: Body
    tokens: float = 0.0
    """Estimated tokens, in and out."""
    cost: float = 0.0
    """Estimated cost of one send, in the currency of the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Generic[Body]):
    """A call that was given up, and why."""

    call: Call[Body]
    answer: Answer
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

    def count(self, answer: Answer, fate: Fate) -> None:
        """Takes in how one send ended."""
        self.tokens_in += answer.tokens_in or 0
        self.tokens_out += answer.tokens_out or 0
        self.done += fate is Fate.DONE
        self.dead += fate is Fate.DEAD
        self.refused += answer.ended is Ended.REFUSED
        self.rate_limited += answer.ended is Ended.RATE_LIMITED
        self.server_errors += answer.ended is Ended.SERVER_ERROR
        self.timeouts += answer.ended is Ended.TIMEOUT
        self.connections += answer.ended is Ended.CONNECTION
