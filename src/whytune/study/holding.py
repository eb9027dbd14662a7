"""A run that one process makes at a time, whoever else tries to.

The right to make it is a lock on a file in the run folder, which names its holder and goes with
it: a process that ends, however it ends, lets go of it. Between nodes this needs a file system
whose locks hold between them (NFS from version 4 on does). Should a file system take the lock away
from a process that still works, as a server does that has not heard of its client for long, both
write the same files: each is renamed into place whole, and on processors of one kind holds the
same bytes.
"""

import datetime
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from whytune import cell_state, pipeline
from whytune.errors import FolderError
from whytune.material import Material
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Scorecard
from whytune.run_folder import Cell

NAME = ".lock"
"""Of the file, in the run folder; gone when the run is not being made."""
PATIENCE = 180.0
"""Seconds to wait for another process to let go of a run: a server of files takes that long to
notice that a node is gone (NFS, as it comes: 90)."""
_AGAIN = 0.1
_ANOTHER = "another process"


class _Made(Exception):
    """Another process finished the run before this one could begin it."""


def make(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], folder: Path, show: Progress,
    begin: Callable[[], None],
) -> dict[str, Scorecard] | None:  # fmt: skip
    """`pipeline.run`, by one process at a time.

    Returns:
        Task -> scorecard; None where another process finished it meanwhile.

    Raises:
        FolderError: another process still makes it after `PATIENCE`.
        WhytuneError: as `pipeline.run`.
    """
    with ExitStack() as stack:

        def begun() -> None:
            begin()
            stack.enter_context(held(folder, say=show.say))
            if cell_state.finished(recipe, cell, materials, folder):
                raise _Made

        try:
            return pipeline.run(recipe, cell, materials, folder, show, begin=begun)
        except _Made:
            return None


@contextmanager
def held(
    folder: Path, patience: float = PATIENCE, say: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """The right to make a run, until the block ends or the process does.

    Args:
        folder: of the run; made where it is not there.
        patience: seconds to wait for whoever has it.
        say: is told who that is, once.

    Raises:
        FolderError: another process has it, or the folder cannot be written or locked.
    """
    place = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _taken(place, time.monotonic() + patience, say)
    except OSError as error:
        raise FolderError(
            f"{place}: cannot be written and locked ({error.strerror}); expected a file system with "
            "locks; choose another --out"
        ) from None
    try:
        yield
    finally:
        # While it is held: whoever opened the file meanwhile finds that it is no longer in place.
        place.unlink(missing_ok=True)
        os.close(handle)


def _taken(place: Path, until: float, say: Callable[[str], None]) -> int:
    told = ""
    while isinstance(found := _tried(place), str):
        if time.monotonic() >= until:
            raise FolderError(
                f"{place.parent}: {found} makes it, expected one process at a time; wait until "
                "that ends, or stop it, and run again"
            )
        if found != told:
            say(f"{place.parent.name}: waits for {found}")
            told = found
        time.sleep(_AGAIN)
    return found


def _tried(place: Path) -> int | str:
    """The handle that holds the lock, or who holds it."""
    with ExitStack() as stack:
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(handle), place.stat()):
                return _ANOTHER
        except BlockingIOError:
            return os.read(handle, 200).decode("utf-8", "replace") or _ANOTHER
        except FileNotFoundError:
            return _ANOTHER  # who held it has removed it since it was opened
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {platform.node()}, since {since},".encode(), 0)
        stack.pop_all()
        return handle
