"""Writes a journal: an intent before a request is sent, the raw answer after, each acknowledged
only once it is on the disk.
"""

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from whytune.errors import TeachingError, WorkError
from whytune.teaching import journal_file
from whytune.teaching.answers import Answer
from whytune.teaching.journal import Journal
from whytune.teaching.requests import Request, Sent

_BATCH = 1000
"""Records a transaction, at most."""

Job = Callable[[sqlite3.Connection], Any]


class JournalWriter(Journal):
    """Writes a journal too, from any thread; use it as `with`.

    One thread of its own writes all that waits in one transaction, so many callers share each
    wait for the disk. From asyncio: `await asyncio.wrap_future(journal.begin(request))`; a waiter
    that is cancelled does not take its record back. Once writing has failed, every Future, waiting
    or new, raises WorkError.
    """

    def __init__(self, path: Path):
        """Open for writing; make the file, and the folders above it, where there is none.

        Raises:
            TeachingError: another process writes it, or what `Journal` refuses.
        """
        self._lock = journal_file.lock(path)
        try:
            if not path.exists():
                journal_file.create(path)
            super().__init__(path)
            self._connection = journal_file.connect(path, "rw")
            self._connection.execute("PRAGMA synchronous = FULL")
            journal_file.check(self._connection, path)  # this first reading makes the log
            self._files = journal_file.identities(path)
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise TeachingError(
                f"{path}: cannot be opened for writing ({error}); expected a file that may be "
                "written, on a disk with room; put it right and run again"
            ) from error
        except TeachingError:
            os.close(self._lock)
            raise
        self._fault: str | None = None
        self._closed = False
        self._gate = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Job, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"journal {path}", daemon=True)
        self._thread.start()

    def begin(self, request: Request) -> Future[Sent]:
        """Write that a request is about to be sent; send it when the Future is done."""
        return self._submit(partial(_begin, request, request.content(), time.time()))

    def end(
        self, sent: Sent, answer: Answer, *, seconds: float, cost: float | None = None
    ) -> Future[None]:
        """Write how an attempt ended. ValueError, in the Future: it has ended before.

        Args:
            sent: the attempt, from `begin` or `in_flight`.
            answer: as it came; `retry_after` and `limits` are not kept.
            seconds: from sending to the answer's end.
            cost: None where the prices are not known.

        Raises:
            ValueError: seconds or a cost below 0, or not a number.
        """
        if not (seconds >= 0 and (cost is None or cost >= 0)):
            raise ValueError(f"attempt {sent.attempt} at {sent.request.key}: {seconds} seconds and "
                             f"cost {cost}, expected 0 or more")  # fmt: skip
        row = (
            sent.intent, time.time(), str(answer.ended), answer.status, answer.cut,
            _count(answer.tokens_in), _count(answer.tokens_out), _count(answer.tokens_cached),
            seconds, cost, _stored(answer.error), _stored(answer.text),
        )  # fmt: skip
        return self._submit(partial(_end, sent, row))

    def close(self) -> None:
        """Write what waits, and let go of the file. Raises WorkError where writing has failed."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        with suppress(sqlite3.Error):  # what matters was committed; the log is read next time
            self._connection.close()
        os.close(self._lock)
        if self._fault is not None:
            raise WorkError(self._fault)

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close; a failure to write does not hide the error that is under way."""
        try:
            self.close()
        except WorkError:
            if error is None:
                raise

    def _submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        # From here it cannot be cancelled: an answer that was paid for is written.
        future.set_running_or_notify_cancel()
        with self._gate:
            if self._closed:
                raise WorkError(f"{self.path}: closed; expected an open journal; open it again")
            self._queue.put((job, future))
        return future

    def _work(self) -> None:
        """Until the end mark, which is put last: all that waits, in one transaction."""
        going = True
        while going:
            batch = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) == _BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            going = item is not None
            self._commit(batch)

    def _commit(self, batch: Sequence[tuple[Job, Future[Any]]]) -> None:
        try:
            if self._fault is None:
                self._connection.execute("BEGIN IMMEDIATE")
                found = [job(self._connection) for job, _ in batch]
                self._connection.execute("COMMIT")
                # SQLite goes on writing a file that was deleted or replaced beneath it.
                if journal_file.identities(self.path) != self._files:
                    raise OSError("another file has taken its place")
        except (sqlite3.Error, OSError, ValueError, ArithmeticError, MemoryError) as error:
            self._fault = (
                f"{self.path}: cannot be written ({error}); expected room on the disk and the "
                "file in its place; everything acknowledged is kept: put it right and run again"
            )
            with suppress(sqlite3.Error):
                self._connection.rollback()
        for place, (_, future) in enumerate(batch):
            if self._fault is not None:
                future.set_exception(WorkError(self._fault))
            elif isinstance(found[place], ValueError):
                future.set_exception(found[place])
            else:
                future.set_result(found[place])


def _begin(request: Request, content: str, started: float, connection: sqlite3.Connection) -> Sent:
    key = bytes.fromhex(request.key)
    found = connection.execute(
        "SELECT id, (SELECT count(*) FROM intents WHERE request = requests.id) "
        "FROM requests WHERE key = ?", (key,),
    ).fetchone()  # fmt: skip
    if found is None:
        names = (request.example_id, request.task, request.teacher, request.prompt)
        cursor = connection.execute(
            "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, *names, *(request.scale or (None, None)), content),
        )
        found = (cursor.lastrowid, 0)
    attempt = found[1] + 1
    cursor = connection.execute(
        "INSERT INTO intents VALUES (NULL, ?, ?, ?)", (found[0], attempt, started)
    )
    assert cursor.lastrowid is not None
    return Sent(request=request, attempt=attempt, started=started, intent=cursor.lastrowid)


def _end(sent: Sent, row: Sequence[Any], connection: sqlite3.Connection) -> ValueError | None:
    marks = ", ".join("?" * len(row))
    if connection.execute(f"INSERT OR IGNORE INTO endings VALUES ({marks})", row).rowcount:
        return None
    return ValueError(f"attempt {sent.attempt} at {sent.request.key} has ended before")


def _stored(text: str) -> str | bytes:
    """A text with half a surrogate pair, which JSON can escape and SQLite's text cannot hold, as
    bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _count(found: object) -> int | None:
    """What servers say they counted is not always a number."""
    return found if isinstance(found, int) and 0 <= found < 2**63 else None
