"""How long work shows that it goes on: a bar on a terminal, plain lines elsewhere.

Everything goes to standard error, so that standard output holds results alone.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_SECONDS = 15.0
"""Between two plain lines of one piece of work."""


class Advance(Protocol):
    """Says that so many units more are done, perhaps with a word about them."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Move on."""


class Progress:
    """Shows pieces of work one after the other; `quiet` shows nothing."""

    def __init__(self, quiet: bool = False):
        """Standard error decides between bars and lines."""
        self._console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        """Show a piece of work of `total` units until the block ends."""
        if self._console.is_terminal and not self._console.quiet:
            yield from self._bar(title, total)
        else:
            yield from self._lines(title, total)

    def _bar(self, title: str, total: int) -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(title, total=total, note="")

            def advance(count: int = 1, note: str = "") -> None:
                bars.update(task, advance=count, note=note)

            yield advance
        self.say(f"{title}: {total} done")

    def _lines(self, title: str, total: int) -> Iterator[Advance]:
        done, begun = 0, time.monotonic()
        shown = begun

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done, shown
            done += count
            now = time.monotonic()
            if (count and done >= total) or now - shown > PLAIN_SECONDS:
                shown = now
                left = (total - done) * (now - begun) / done if 0 < done < total else 0.0
                parts = (f"{title}: {done} of {total}", note, left and f"about {_span(left)} left")
                self.say(", ".join(part for part in parts if part))

        yield advance


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
