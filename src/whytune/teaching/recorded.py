"""Replies that somebody recorded before, as a teacher of their own."""

import json
from pathlib import Path
from typing import Any

from whytune.errors import TeachingError
from whytune.records import Reply

_NAMES = ("example_id", "task", "prompt", "text")


def load(path: Path, teacher: str) -> list[Reply]:
    """Replies from JSON Lines: `example_id`, `task`, `prompt`, `text`, `scale` and `teacher`.

    Args:
        path: the file.
        teacher: whose they are, where a line does not say.

    Raises:
        TeachingError: the file cannot be read, or a line is no reply.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TeachingError(
            f"teachers.{teacher}.path: {path}: cannot be read ({error}); expected JSON Lines of "
            "replies; correct the path"
        ) from None
    return [_reply(line, f"{path}:{number}", teacher)
            for number, line in enumerate(lines, 1) if line.strip()]  # fmt: skip


def _reply(line: str, place: str, teacher: str) -> Reply:
    try:
        row = json.loads(line)
        names = {name: _text(row, name) for name in _NAMES}
        said_by = row.get("teacher", teacher)
        return Reply(**names, teacher=_text({"teacher": said_by}, "teacher"), scale=_scale(row))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TeachingError(
            f"{place}: {error}; expected one JSON object with {', '.join(_NAMES)} and, for scores, "
            "scale: [lowest, highest]; correct the line"
        ) from None


def _text(row: dict[str, Any], name: str) -> str:
    found = row.get(name)
    if not isinstance(found, str):
        raise ValueError(f"found {name} {found!r:.40}, expected text")
    return found


def _scale(row: dict[str, Any]) -> tuple[float, float] | None:
    found = row.get("scale")
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != 2 or not all(
        isinstance(end, int | float) and not isinstance(end, bool) for end in found
    ):  # fmt: skip
        raise ValueError(f"found scale {found!r:.40}, expected [lowest, highest]")
    return found[0], found[1]
