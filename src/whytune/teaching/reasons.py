"""The reasons that a generator wrote, one JSON object a line, appended as they are written.

A line counts once its line break is on the disk. What a crash left behind the last one is no
line: it is passed over, and cut off before the next line is written.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whytune.errors import FolderError
from whytune.recipe import Recipe, digest
from whytune.records import Example, Task
from whytune.store import sync_folder

NAME = "reasons.jsonl"
"""The file's name in the folder of reasons."""

_ELSEWHERE: Any = {"batch_size": True, "corpora": {"__all__": {"path"}}}
"""What may differ and the same is written: files may be moved."""
Place = tuple[str, str, str, str]
"""Corpus, task, example id, label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a label is right, as a generator says it."""

    corpus: str
    task: str
    example_id: str
    label: str
    reason: str
    """One line; empty where nothing was written."""
    cut: bool
    """It ran into the longest that it may be."""
    leaks: bool
    """It names a label of the task."""
    about: str
    """`about` of what it is the reason of."""
    key: str
    """SHA-256 (64 hex digits) of all that decides what is written, the generator's lessons
    included."""

    @property
    def place(self) -> Place:
        """What it is the reason of."""
        return self.corpus, self.task, self.example_id, self.label


def about(recipe: Recipe, example: Example, task: Task, label: str) -> str:
    """SHA-256 (64 hex digits) of what a reason is of, and of the settings that it is written with,
    as the recipe says them: edit one, and a reason that is there is another's.
    """
    settings = recipe.generator
    assert settings is not None
    return digest([
        settings.model_dump(mode="json", exclude=_ELSEWHERE), recipe.prompt.model_dump(mode="json"),
        [[turn.role, turn.text] for turn in example.turns], task.question, label,
    ])  # fmt: skip


def read(path: Path) -> dict[str, str]:
    """`about` -> the reason written last; empty ones are left out.

    Raises:
        FolderError: a line that is not a reason.
    """
    newest = {found.about: found.reason for found in load(path)}
    return {what: reason for what, reason in newest.items() if reason}


def load(path: Path) -> list[Reason]:
    """Every reason in the file, in its order; none where there is no file.

    Raises:
        FolderError: a line that is not a reason.
    """
    # Not splitlines: it also splits at line separators inside a text, such as U+2028.
    *lines, _ = _content(path).split(b"\n")
    return [_reason(path, number, line) for number, line in enumerate(lines, start=1)]


def append(path: Path, found: Sequence[Reason]) -> None:
    """Add reasons; all of them are on the disk when this returns.

    Raises:
        OSError: the file cannot be written.
    """
    text = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in found)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("ab") as file:
        if not _ends_whole(path):
            file.truncate(_content(path).rfind(b"\n") + 1)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(path.parent)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() in (b"", b"\n")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise FolderError(
            f"{path}: cannot be read ({error.strerror}); expected a file of reasons; put it right, "
            "or name another `reasons:`"
        ) from None


def _reason(path: Path, number: int, line: bytes) -> Reason:
    try:
        cells: Any = json.loads(line)
        found = Reason(**cells)
        if not all(
            isinstance(cell, str) for cell in (*found.place, found.reason, found.about, found.key)
        ):
            raise TypeError("a cell is no text")
    except (ValueError, TypeError) as error:
        raise FolderError(
            f"{path} line {number}: no reason that whytune wrote ({error}); restore the file from a "
            "copy, or delete the line: what is missing is written again"
        ) from None
    return found
