"""An iterator, plain or not, from which one takes what is there without waiting."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
_AHEAD = 16
"""Items that an async iterator may run ahead."""


class Source(Generic[Item]):
    """Takes items one at a time.

    Args:
        items: a plain iterable is asked only in `take`; an async one runs a few items ahead, in
            a task of its own, so that waiting for it holds up nothing else.
        notify: called when an async iterable may have brought something, or has ended.
    """

    def __init__(
        self, items: Iterable[Item] | AsyncIterable[Item], notify: Callable[[], None]
    ) -> None:
        self.ended = False
        self._notify = notify
        self._ready: deque[Item] = deque()
        self._room = asyncio.Event()
        self._plain: Iterator[Item] | None = None
        self._feeder: asyncio.Task[None] | None = None
        if isinstance(items, AsyncIterable):
            self._feeder = asyncio.get_running_loop().create_task(self._feed(items))
            self._feeder.add_done_callback(lambda _: notify())
        else:
            self._plain = iter(items)

    def take(self) -> Item | None:
        """The next item; None while there is none, and for good once `ended` is true.

        Raises:
            Exception: what the iterator raised.
        """
        if self.ended:
            return None
        if self._plain is not None:
            for item in self._plain:
                return item
            self.ended = True
        elif self._ready:
            self._room.set()
            return self._ready.popleft()
        elif self._feeder is not None and self._feeder.done():
            self.ended = True
            self._feeder.result()
        return None

    async def close(self) -> None:
        """Ends an async iterable before its end."""
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
            if not self._feeder.cancelled():
                self._feeder.exception()  # Not asked for, it would be reported as forgotten.

    async def _feed(self, items: AsyncIterable[Item]) -> None:
        async for item in items:
            self._ready.append(item)
            self._notify()
            while len(self._ready) >= _AHEAD:
                self._room.clear()
                await self._room.wait()
