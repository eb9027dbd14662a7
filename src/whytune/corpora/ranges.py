"""A large JSON Lines file, read by one process for each processor, every one a range of its lines.

CSV cannot be cut: a line end inside quotes looks like a row's end. Packed files neither. And where
every row is kept, handing it over takes as long as reading it.
"""

import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from subprocess import PIPE, Popen
from typing import NamedTuple

from whytune.corpora import files, jsonl, mapping, tables
from whytune.corpora.sampling import Sieve
from whytune.errors import CorpusError

_LEAST = 1 << 25  # bytes; of shorter ranges, the start of the processes takes what they gain
_MOST = 8  # processes; more hand over faster than one can take
_COMMAND = "from whytune.corpora import ranges; ranges.work()"


class Told(NamedTuple):
    """What the rows of a range come to."""

    lines: int
    presence: mapping.Presence
    sieve: Sieve


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Some lines of a table."""

    table: tables.Table
    start: int
    stop: int
    """Both in bytes, both at the beginning of a line or the file's end."""
    sieve: Sieve
    """Nothing has passed through it yet."""

    def read(self) -> Told:
        """Pass its rows through the sieve; their lines are numbered from 1.

        Raises:
            CorpusError: the file is not readable.
        """
        lines = 0

        def blocks() -> Iterator[bytes]:
            nonlocal lines
            starter = os.getppid()
            for block in files.between(self.table.path, self.start, self.stop):
                if os.getppid() != starter:
                    sys.exit("nobody is left to read for")
                lines += block.count(b"\n")
                yield block

        file, ledger = self.table.path.name, self.sieve.ledger
        presence = mapping.Presence(self.table.path, self.table.columns)
        rows = jsonl.rows(blocks(), file, ledger, mark=self.start == 0)
        for found in tables.sift(rows, self.table, presence, self.sieve):
            self.sieve.keep(found)
        return Told(lines, presence, self.sieve)


def read(table: tables.Table, sieve: Sieve) -> Iterator[tables.Found]:
    """As `tables.read`; what several processes have read is in the sieve already.

    Raises:
        CorpusError: as `tables.read`, or a process that came to nothing.
    """
    ranges = _ranges(table, sieve)
    if not ranges:
        yield from tables.read(table, sieve)
        return
    tables.check_beginning(table)
    presence = mapping.Presence(table.path, table.columns)
    lines = 0
    with _processes(ranges) as told:
        # Meanwhile; the ranges cannot be hashed one by one.
        sieve.ledger.inputs[table.path.name] = files.sha256(table.path)
        for more in told:
            presence.merge(more.presence)
            sieve.merge(more.sieve, lines, partial(tables.moved, lines=lines))
            lines += more.lines
    tables.check(table, presence, sieve.ledger)


def _ranges(table: tables.Table, sieve: Sieve) -> list[Range]:
    """Those that are worth a process each; none where one process is better."""
    if sieve.drawn.rest.room is None or not table.path.name.endswith(".jsonl"):
        return []
    try:
        parts = min(_processors(), _MOST, table.path.stat().st_size // _LEAST)
    except OSError:  # told by who reads it
        return []
    if parts < 2 or not sys.executable:
        return []
    return [
        Range(table=table, start=start, stop=stop, sieve=sieve)
        for start, stop in pairwise(files.cuts(table.path, parts))
    ]


def _processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _processes(ranges: Sequence[Range]) -> Iterator[Iterator[Told]]:
    """What processes come to that read a range each, in the order of the ranges; none of them
    outlives the block.
    """
    started: list[Popen[bytes]] = []
    try:
        for one in ranges:
            started.append(_started(one))
        yield (_told(process, one) for process, one in zip(started, ranges, strict=True))
    finally:
        for process in started:
            process.kill()
            with process:  # closes its pipes and waits for it
                pass


def _started(one: Range) -> Popen[bytes]:
    # Neither a fork (this process may have threads) nor multiprocessing (which imports the
    # caller's script once more). A group of its own, so that Ctrl-C reaches only this process.
    process = Popen(
        [sys.executable, "-P", "-c", _COMMAND], stdin=PIPE, stdout=PIPE, process_group=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
    )  # fmt: skip
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:
        pickle.dump(one, pipe)
    return process


def _told(process: "Popen[bytes]", one: Range) -> Told:
    assert process.stdout is not None
    told = None
    with suppress(EOFError, pickle.UnpicklingError):
        told = pickle.load(process.stdout)  # noqa: S301 (our own process wrote it)
    if isinstance(told, CorpusError):
        raise told
    if isinstance(told, Told):
        return told
    code = process.wait()
    how = f"exit code {code}" if code >= 0 else signal.strsignal(-code)
    raise CorpusError(
        f"{one.table.path}: the process that read bytes {one.start} to {one.stop} came to nothing "
        f"({how}); expected what it found; it may have run out of memory: free some, and run again"
    )


def work() -> None:
    """Read the range that stands on stdin; what it comes to goes to stdout."""
    told: Told | CorpusError
    try:
        told = pickle.load(sys.stdin.buffer).read()  # noqa: S301 (our own process wrote it)
    except CorpusError as error:
        told = error
    pickle.dump(told, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
