"""What is asked of a teacher, and what a journal says came of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whytune.recipe_teachers import SECRET_PARAMETERS
from whytune.records import Reply
from whytune.teaching.answers import Answer, Ended

Message = Mapping[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to one teacher, as it is sent. Raises ValueError for what is not JSON."""

    example_id: str
    task: str
    teacher: str
    prompt: str
    """Name of the prompt."""
    model: str
    messages: Sequence[Message]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What shapes the answer, as `temperature`; never an address, a header or a key."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; the order of its fields is part of what is asked."""
    scale: tuple[float, float] | None = None
    """As `Reply.scale`; the words that say it to the teacher are in the messages."""
    key: str = field(init=False)
    """SHA-256, 64 hex digits, of teacher, model, parameters, messages and schema. Requests that
    differ in their names alone (a prompt renamed, one text in two corpora) share it, and one
    answer; samples of one question differ in a parameter, as `seed`."""

    def __post_init__(self) -> None:
        secret = sorted(name for name in self.parameters if name.lower() in SECRET_PARAMETERS)
        if secret:
            raise ValueError(f"request: found the parameters {', '.join(secret)}; expected none "
                             "that may hold a key")  # fmt: skip
        # What SQLite cannot hold is refused here, not in the writing thread.
        "".join((self.example_id, self.task, self.teacher, self.prompt)).encode()
        digest = hashlib.sha256(self.content().encode()).hexdigest()
        object.__setattr__(self, "key", digest)

    def content(self) -> str:
        """Canonical JSON: equal for requests that ask the same."""
        # 0 and 0.0 ask the same, and so do parameters in another order; but the order inside a
        # schema is the order in which a model writes.
        parameters = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in sorted(self.parameters.items())
        }
        messages = [dict(sorted(message.items())) for message in self.messages]
        content = [self.teacher, self.model, parameters, messages, self.schema]
        try:
            return json.dumps(content, separators=(",", ":"), allow_nan=False)
        except TypeError as error:
            raise ValueError(f"request to {self.teacher}: not JSON ({error})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One attempt at a request whose intent is on the disk."""

    request: Request
    attempt: int
    """From 1."""
    started: float
    """Seconds since 1970, UTC."""
    intent: int
    """Its row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One attempt that has ended."""

    reply: Reply
    """Its text is the answer's: empty where the attempt failed."""
    answer: Answer
    """Without `retry_after` and `limits`, which are of the moment."""
    key: str
    attempt: int
    """From 1."""
    started: float
    ended: float
    """Seconds since 1970, UTC."""
    seconds: float
    """That the teacher took."""
    cost: float | None
    """In the currency of the caller's prices; None where they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How often attempts of one teacher, task and prompt ended in one way."""

    teacher: str
    task: str
    prompt: str
    ended: Ended
    requests: int
    """That stand so: with their last reply or refusal, or else their last failure."""
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What all ended attempts of one teacher took."""

    attempts: int
    tokens_in: int
    tokens_out: int
    cost: float
    """Of the attempts whose cost is known."""
    unpriced: int
    """Attempts without a cost."""
