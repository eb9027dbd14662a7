"""Journals that were written apart become one: every attempt once, however often they are joined.

An attempt is known by the key of its request and the moment at which it was begun.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from whytune.errors import TeachingError, WorkError
from whytune.teaching import journal_file
from whytune.teaching.journal import Journal
from whytune.teaching.journal_writer import JournalWriter

Made = TypeVar("Made")

_AMONG = "WHERE key IN (SELECT key FROM wanted)"
# Where two attempts claim one number, those of that request get new ones by the order of their
# beginning; until then theirs are below zero, so that none is there twice at any moment.
_JOIN = """
INSERT OR IGNORE INTO requests
    SELECT NULL, key, example_id, task, teacher, prompt, low, high, content FROM theirs.requests {among};
CREATE TEMP TABLE found AS
    SELECT o.id AS request, t.id AS intent, t.attempt, t.started,
           EXISTS (SELECT 1 FROM intents i WHERE i.request = o.id AND i.started = t.started) AS known
    FROM (SELECT id, key FROM theirs.requests {among}) r
    JOIN theirs.intents t ON t.request = r.id JOIN requests o ON o.key = r.key;
CREATE TEMP TABLE claimed AS
    SELECT DISTINCT f.request FROM found f
    JOIN intents i ON i.request = f.request AND i.attempt = f.attempt WHERE NOT f.known;
UPDATE intents SET attempt = -2 * id WHERE request IN (SELECT request FROM claimed);
INSERT INTO intents
    SELECT NULL, request, iif(request IN (SELECT request FROM claimed), -2 * intent - 1, attempt), started
    FROM found WHERE NOT known ORDER BY intent;
UPDATE intents SET attempt = (
    SELECT count(*) FROM intents i
    WHERE i.request = intents.request AND (i.started, i.id) <= (intents.started, intents.id))
    WHERE request IN (SELECT request FROM claimed);
INSERT OR IGNORE INTO endings
    SELECT i.id, e.ended, e.outcome, e.status, e.cut, e.tokens_in, e.tokens_out, e.tokens_cached,
           e.seconds, e.cost, e.error, e.text
    FROM found f JOIN theirs.endings e ON e.intent = f.intent
    JOIN intents i ON i.request = f.request AND i.started = f.started
"""


def join(source: Path, target: JournalWriter, keys: Iterable[str] | None = None) -> int:
    """Copy what a journal holds into another, as it is: requests, attempts with or without an end.

    All of it or nothing, and on the disk on return; again, or in another order, makes no
    difference. What is there already stays. Numbers of attempts are kept, but where two attempts
    at one request have the same: these are numbered anew, by the time of their beginning.

    Args:
        source: a journal; what a killed process left in its log is read too.
        target: where to; nothing else may be written meanwhile.
        keys: of the requests that are copied; None: all.

    Returns:
        How many attempts were new.

    Raises:
        TeachingError: the source is not there, damaged, or no journal of this version.
        WorkError: the target cannot be written.
    """
    Journal(source)  # checks it
    among = "" if keys is None else _AMONG
    try:
        with closing(journal_file.connect(target.path, "rw")) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TEMP TABLE wanted (key BLOB PRIMARY KEY) WITHOUT ROWID")
            rows = ((bytes.fromhex(key),) for key in keys or ())
            connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", rows)
            place = f"{source.absolute().as_uri()}?mode=ro"
            connection.execute("ATTACH ? AS theirs", (place,))
            connection.execute("BEGIN IMMEDIATE")
            for statement in _JOIN.format(among=among).split(";"):
                connection.execute(statement)
            (new,) = connection.execute("SELECT count(*) FROM found WHERE NOT known").fetchone()
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        _check_pages(source)
        raise WorkError(
            f"{target.path}: {source} cannot be joined into it ({error}); expected room on the "
            "disk; put it right and run again: nothing was changed"
        ) from error
    return int(new)


def _check_pages(path: Path) -> None:
    """Raises TeachingError for a damaged file."""
    try:
        with closing(journal_file.connect(path, "ro")) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        found = error
    if found != "ok":
        raise TeachingError(
            f"{path}: cannot be read ({' '.join(str(found).split())}); expected a whole journal of whytune; restore it "
            "from a copy, or move it away: what it alone holds will then be asked again"
        )


def shards(path: Path) -> Path:
    """The folder of the journals that are still to be joined into one."""
    return path.with_name(f"{path.name}.shards")


def gather(target: JournalWriter, *, patience: float) -> None:
    """Join what work in shards has left beside a journal, as after an interruption.

    Raises:
        TeachingError, WorkError: as `absorb`.
    """
    folder = shards(target.path)
    for source in sorted(folder.glob("*.journal")):
        absorb(source, target, patience=patience)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def absorb(source: Path, target: JournalWriter, *, patience: float) -> None:
    """Join a journal into another, and remove it.

    Args:
        source: a journal; its writer may be about to end.
        target: as for `join`.
        patience: seconds to wait for the writer's end.

    Raises:
        TeachingError: the source is still written, or what `join` refuses.
        WorkError: the target cannot be written, or the source not be removed.
    """
    with _held(source, patience):
        join(source, target)
        try:
            # The log first: a log without its journal would be taken for a loss.
            for rest in ("-wal", "-shm", "", ".lock"):
                source.with_name(f"{source.name}{rest}").unlink(missing_ok=True)
        except OSError as error:
            raise WorkError(
                f"{source}: joined, but cannot be removed ({error}); remove it"
            ) from error


@contextmanager
def _held(path: Path, patience: float) -> Iterator[None]:
    handle = patiently(lambda: journal_file.lock(path), patience)
    try:
        yield
    finally:
        os.close(handle)


def patiently(make: Callable[[], Made], seconds: float) -> Made:
    """What `make` makes, tried again for so many seconds while it raises TeachingError.

    A process that ends lets go of its journal, but perhaps not at once.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return make()
        except TeachingError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.1)
