"""How a request to a teacher ended, whoever was asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Ended(StrEnum):
    """How a request ended. Only REPLIED carries text to be read."""

    REPLIED = "replied"
    REFUSED = "refused"
    """The server says that the model refused, or that a filter stopped it."""
    RATE_LIMITED = "rate limited"
    """Too much at once; says nothing about the request itself."""
    SERVER_ERROR = "server error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    CLIENT_ERROR = "client error"
    """The request itself is wrong; sending it again would not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one request ended."""

    ended: Ended
    text: str = ""
    """The model's words, unedited; empty but for a reply or a refusal."""
    cut: bool = False
    """The model ran into its limit of new tokens."""
    status: int | None = None
    """Of HTTP; None where there was no response."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    """Of `tokens_in`, those that the server had read before."""
    retry_after: str | None = None
    """As the server gave it: seconds, or a date."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """What the server's headers say about its rate limits."""
    error: str = ""
    """What the server or the network complained of, without the key."""
