"""Who can be asked: whatever answers one request, once, and says how that ended."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from whytune.teaching.answers import Answer, Ended
from whytune.teaching.requests import Request


class Teacher(Protocol):
    """Somebody to ask; used as `async with`, by many at a time."""

    async def ask(self, request: Request) -> Answer:
        """Ask once. What a model or a server does is an answer; what is raised ends the work."""

    async def __aenter__(self) -> Self:
        """Get ready."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Let go."""


class Function:
    """A Python function as a teacher: from a request to the reply's text.

    Args:
        reply: called in a thread for each request, many at a time. What it raises is a server
            error, so that it is asked again, and given up after the teacher's `attempts`.
    """

    def __init__(self, reply: Callable[[Request], str]) -> None:
        self._reply = reply

    async def __aenter__(self) -> Self:
        """Nothing to do."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to do."""

    async def ask(self, request: Request) -> Answer:
        """Call the function."""
        try:
            text: object = await asyncio.to_thread(self._reply, request)
        except Exception as error:  # noqa: BLE001 (whatever the caller's function does)
            return Answer(ended=Ended.SERVER_ERROR, error=f"{type(error).__name__}: {error}"[:300])
        if not isinstance(text, str):
            return Answer(ended=Ended.CLIENT_ERROR,
                          error=f"found {type(text).__name__}, expected the reply's text")  # fmt: skip
        return Answer(ended=Ended.REPLIED, text=text)
