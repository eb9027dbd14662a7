"""What was answered about a file's rows so far, kept so that a stopped command can go on.

One JSON value a line: first what is judged and how, then a chunk of rows a line, in their order. A
line is on the disk before the next chunk is asked; half a line at the end is what a crash leaves, and
is cut off.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from whytune import store
from whytune.errors import FolderError
from whytune.judge_columns import Answer

VERSION = 1
_FIELDS = [field.name for field in fields(Answer)]


class Journal:
    """Held by one process at a time, as a context manager."""

    def __init__(self, path: Path, about: Mapping[str, Any]):
        """Open a journal, or begin one.

        Args:
            path: of its file.
            about: what is judged and how.

        Raises:
            FolderError: it is about something else, damaged, held by another process, or its
                folder cannot be written.
        """
        self.path = path
        self.done = 0
        """Rows that are answered."""
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise FolderError(
                f"{path}: cannot be written ({error.strerror}); choose another --out"
            ) from None
        try:
            self._begin({"whytune": "predict", "version": VERSION, **about})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        os.close(self._handle)

    def add(self, rows: Sequence[Sequence[Answer]]) -> None:
        """Keep the answers about the next rows, each one for each task."""
        told = [[[getattr(answer, name) for name in _FIELDS] for answer in row] for row in rows]
        self._append({"first": self.done, "rows": told})
        self.done += len(rows)

    def rows(self) -> Iterator[list[Answer]]:
        """The answers about every row so far."""
        lines = self._lines()
        next(lines)
        for line, _ in lines:
            for row in json.loads(line)["rows"]:
                yield [Answer(**dict(zip(_FIELDS, told, strict=True))) for told in row]

    def _begin(self, about: Mapping[str, Any]) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FolderError(
                f"{self.path}: another process writes it, expected one at a time; wait until that "
                "ends, or choose another --out"
            ) from None
        whole = 0
        for number, (line, end) in enumerate(self._lines(), start=1):
            whole = end
            try:
                told = json.loads(line)
                if number == 1:
                    self._compare(told, about)
                elif told["first"] != self.done:
                    raise ValueError(f"row {told['first']}, expected {self.done}")
                else:
                    self.done += len(told["rows"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise FolderError(
                    f"{self.path} line {number}: not what whytune wrote ({error}); delete the file "
                    "to begin anew"
                ) from None
        os.ftruncate(self._handle, whole)
        if not whole:
            self._append(about)
            store.sync_folder(self.path.parent)

    def _compare(self, told: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        for name in {**about, **told}:
            if told.get(name) != about.get(name):
                raise FolderError(
                    f"{self.path}: was begun with another {name} (found {told.get(name)}, expected "
                    f"{about.get(name)}); give the same, delete the file to begin anew, or choose "
                    "another --out"
                )

    def _lines(self) -> Iterator[tuple[bytes, int]]:
        """Whole lines, each with the byte where it ends."""
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield line, end

    def _append(self, content: Mapping[str, Any]) -> None:
        data = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        while data:
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)
