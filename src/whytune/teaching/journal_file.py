"""The file of a journal: made whole, known by its marks, held by one writing process at a time."""

import datetime
import fcntl
import os
import platform
import sqlite3
from pathlib import Path

from whytune.errors import TeachingError
from whytune.store import sync_folder

VERSION = 1
"""Of the schema."""
_APPLICATION = 0x77687931  # "why1": tells a journal from another program's SQLite file
_BUSY_SECONDS = 30.0
_SCHEMA = f"""
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, example_id TEXT NOT NULL, task TEXT NOT NULL,
    teacher TEXT NOT NULL, prompt TEXT NOT NULL, low REAL, high REAL, content TEXT NOT NULL);
CREATE TABLE intents (
    id INTEGER PRIMARY KEY, request INTEGER NOT NULL REFERENCES requests, attempt INTEGER NOT NULL,
    started REAL NOT NULL, UNIQUE (request, attempt));
CREATE TABLE endings (
    intent INTEGER PRIMARY KEY REFERENCES intents, ended REAL NOT NULL, outcome TEXT NOT NULL,
    status INTEGER, cut INTEGER NOT NULL, tokens_in INTEGER, tokens_out INTEGER,
    tokens_cached INTEGER, seconds REAL NOT NULL, cost REAL, error TEXT NOT NULL,
    text TEXT NOT NULL);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
PRAGMA journal_mode = WAL;
"""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection without transactions of its own; `mode` is `ro` or `rw`."""
    return sqlite3.connect(
        _uri(path, mode), uri=True, timeout=_BUSY_SECONDS,
        isolation_level=None, check_same_thread=False,
    )  # fmt: skip


def _uri(path: Path, mode: str) -> str:
    """How SQLite is to open a journal."""
    found = f"{path.absolute().as_uri()}?mode={mode}"
    real = path.resolve()
    if mode != "ro" or os.access(real.parent, os.W_OK):
        return found
    # To read, too, SQLite makes a log and a -shm beside the file. Where it cannot, the file alone
    # is enough, if nothing waits in a log and nobody writes (who does has both there).
    log, shared = (real.with_name(f"{real.name}{end}") for end in ("-wal", "-shm"))
    still = not log.exists() or not (log.stat().st_size or shared.exists())
    return f"{found}&immutable=1" if still else found


def create(path: Path) -> None:
    """An empty journal, whole or not there, so that an empty file is never taken for a new one.

    Raises:
        TeachingError: the log of a journal that is gone lies there.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        raise TeachingError(
            f"{path}: not there, but its log {log.name} is; expected both or neither; restore the "
            "journal from a copy, or delete the log to begin anew"
        )
    new = path.with_name(f".{path.name}.new")
    for rest in path.parent.glob(f"{new.name}*"):
        rest.unlink()
    connection = sqlite3.connect(new, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
    finally:
        connection.close()
    os.replace(new, path)
    sync_folder(path.parent)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises TeachingError for another program's file, or another version's."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise TeachingError(
            f"{path}: not a journal of whytune (application {application:#x}, expected "
            f"{_APPLICATION:#x}); give another file, or restore this one from a copy"
        )
    if version != VERSION:
        raise TeachingError(
            f"{path}: a journal of version {version}, expected {VERSION}; use the whytune that "
            "wrote it, or a newer one"
        )


def identities(path: Path) -> list[tuple[int, int]]:
    """Device and inode of the file and of its log."""
    found = [os.stat(place) for place in (path, f"{path}-wal")]
    return [(each.st_dev, each.st_ino) for each in found]


def lock(path: Path) -> int:
    """Hold the right to write, until the handle is closed or its process ends, however it ends.

    Raises:
        TeachingError: another process holds it, or the folder cannot be written.
    """
    # A file of its own: closing any handle on SQLite's would drop SQLite's locks.
    place = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TeachingError(
            f"{path}: cannot be written ({error}); expected a folder on a local disk; give another"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(handle, 200).decode("utf-8", "replace") or "another process"
        os.close(handle)
        raise TeachingError(
            f"{path}: {holder} writes it, expected one writer at a time; wait until that ends, or "
            "stop it (reading meanwhile is allowed)"
        ) from None
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {platform.node()}, since {since},".encode(), 0)
    return handle
