"""A table's column mapping: whether it can be, and whether its columns are there."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from whytune.errors import CorpusError
from whytune.recipe_data import Columns
from whytune.records import Kind, Task

_NEEDED = ("text", "turns", "id", "group", "rater", "split")
LOOKED_AT = 1000
"""Rows before a column that none of them has is called missing."""


def check(name: str, columns: Columns, task: Task | None) -> None:
    """Whether a column mapping can be; `task` is None where the table has no labels.

    Raises:
        CorpusError: neither or both of text and turns, or scores for labels without order.
    """
    place = f"corpora.{name}.columns"
    if (columns.text is None) == (columns.turns is None):
        raise CorpusError(f"{place}: expected exactly one of `text` and `turns`; name the column")
    if columns.score is not None and task is not None and task.kind is Kind.NOMINAL:
        raise CorpusError(
            f"{place}.score: found a score column for {task.name}, whose labels have no order; "
            "name a `label` column, or make the task ordinal"
        )


def mapped(columns: Columns) -> dict[str, str]:
    """Use -> column, of those that the recipe names."""
    mapping = columns.model_dump(exclude={"scale"} | ({"label"} if columns.score else set()))
    return {use: column for use, column in mapping.items() if column is not None}


def refuse_missing(
    path: Path, missing: Collection[str], found: Collection[str], columns: Columns
) -> None:
    """Name the columns that are missing, if any.

    Raises:
        CorpusError: there are some.
    """
    lines = []
    for use, column in mapped(columns).items():
        if column not in missing:
            continue
        close = difflib.get_close_matches(column, found, n=1)
        hint = f"did you mean {close[0]}?" if close else f"set columns.{use}"
        lines.append(
            f"{path}, column {column}: not there (for {use}); found {', '.join(found)}; {hint}"
        )
    if lines:
        raise CorpusError("\n".join(lines))


class Presence:
    """The columns that rows have shown, until none of the mapping is missing any more."""

    def __init__(self, path: Path, columns: Columns):
        self._path, self._columns = path, columns
        self._found: dict[str, None] = {}  # a dict keeps the order in which they first appear
        self.missing = set(mapped(columns).values())

    def look(self, cells: Mapping[str, Any]) -> None:
        """Look at a row; not needed when nothing is missing any more."""
        self._found.update(dict.fromkeys(cells))
        self.missing -= cells.keys()

    def merge(self, later: "Presence") -> None:
        """Add what the rows that follow have shown."""
        self._found |= later._found
        self.missing &= later.missing

    def check_needed(self) -> None:
        """Whether the rows so far have shown what every row needs.

        Raises:
            CorpusError: they have not.
        """
        mapping = mapped(self._columns)
        needed = {column for use, column in mapping.items() if use in _NEEDED}
        refuse_missing(self._path, self.missing & needed, list(self._found), self._columns)

    def check(self) -> None:
        """Whether the rows, if they have shown anything, have shown every column.

        Raises:
            CorpusError: they have not.
        """
        if self._found:
            refuse_missing(self._path, self.missing, list(self._found), self._columns)
