"""One row of a table, read through the recipe's column mapping."""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from whytune.corpora.identity import normal, one_text_id, text_id
from whytune.recipe_data import Columns
from whytune.records import Split, Task

Cells = Mapping[str, Any]
Pairs = tuple[tuple[str, str], ...]
"""(role, text) of each turn."""
Names = tuple[str, str, Split | None, str]
"""Id, group, split, and rater (empty where no column names one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a row says about its text."""

    label: str
    score: float | None = None
    """On [0, 1], where the table gives scores."""
    number: float | None = None
    """The score as the table gives it."""


class Row(NamedTuple):
    """A row that could be read."""

    turns: Pairs
    vote: Vote | None
    """None where the row, or the whole table, carries no label."""
    id: str | None = None
    group: str | None = None
    source: str | None = None
    rater: str | None = None
    split: Split | None = None
    explanation: str | None = None


class Reader:
    """Reads the rows of one table; `task` is what its labels answer, None where it has none."""

    def __init__(self, columns: Columns, task: Task | None):
        self._columns, self._task = columns, task
        labels = () if task is None else task.label_names
        self._votes = {name: Vote(label=name) for name in labels}
        mapped = {f: column for f in _READERS if (column := getattr(columns, f)) is not None}
        self._readers = {"turns": _turns, "vote": _vote} | {f: _READERS[f] for f in mapped}
        names = [use for use in ("id", "group", "source", "rater") if use in mapped]
        # Without labels the text again: of one cell alone, itemgetter makes no tuple.
        second = "label" if task else "text"
        uses = ["text", second, *names, *(["explanation"] if "explanation" in mapped else [])]
        at = {use: place for place, use in enumerate(uses)}
        self._is_plain = (
            columns.text is not None and columns.score is None and columns.split is None
        )
        self._cells = itemgetter(*(getattr(columns, use) for use in uses))
        self._named = range(2, 2 + len(names))
        self._id, self._group, self._rater = at.get("id"), at.get("group"), at.get("rater")
        self._rest = itemgetter(*(at.get(use, -1) for use in Row._fields[2:]))

    def names(self, cells: Cells) -> Names | None:
        """What the row is known by; None where it lacks the label that others carry.

        Raises:
            ValueError: as `read`.
        """
        found = self._plain(cells)
        if found is None:
            row = self._closely(cells)
            return None if row.vote is None and self._task else _names(row)
        text = found[0]
        return (
            one_text_id("text", text) if self._id is None else found[self._id],
            one_text_id("text", normal(text)) if self._group is None else found[self._group],
            None,
            "" if self._rater is None else found[self._rater],
        )

    def read(self, cells: Cells) -> Row:
        """The row.

        Raises:
            ValueError: it is not what the mapping says; everything that is wrong with it.
        """
        found = self._plain(cells)
        if found is None:
            return self._closely(cells)
        vote = self._votes.get(found[1])
        return Row((("text", found[0]),), vote, *self._rest((*found, None)))

    def _plain(self, cells: Cells) -> tuple[str, ...] | None:
        """The cells of most rows by a short way: whole texts, and one of the labels, if any."""
        if not self._is_plain:
            return None
        try:
            found: tuple[str, ...] = self._cells(cells)
            whole = "".join(found)  # a TypeError where one is no text
            if not whole.isascii():
                whole.encode()
        except (KeyError, TypeError, UnicodeEncodeError):
            return None
        if self._votes and found[1] not in self._votes:
            return None
        if not all(map(str.strip, found)):
            return None
        for place in self._named:
            if found[place] != found[place].strip():
                return None
        return found

    def _closely(self, cells: Cells) -> Row:
        values: dict[str, Any] = {}
        faults = []
        for field, read in self._readers.items():
            try:
                values[field] = read(cells, self._columns, self._task)
            except ValueError as fault:
                faults.append(str(fault))
        if faults:
            raise ValueError("; ".join(faults))
        return Row(**values)


def _names(row: Row) -> Names:
    return (
        row.id or text_id("text", row.turns),
        row.group or text_id("text", [(role, normal(text)) for role, text in row.turns]),
        row.split,
        row.rater or "",
    )


def _turns(cells: Cells, columns: Columns, task: Task | None) -> Pairs:
    if columns.text is not None:
        text = _text(cells, columns.text)
        if text is None:
            raise ValueError(f"column {columns.text}: found no text, expected some; drop the row")
        return (("text", text),)
    assert columns.turns is not None
    try:
        return _conversation(cells.get(columns.turns))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"column {columns.turns}: {error}; expected a list of {{role, text}} or {{role, "
            "content}, as JSON text in a CSV"
        ) from None


def _conversation(value: Any) -> Pairs:
    turns = json.loads(value) if isinstance(value, str) else value
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"found {_shown(value)}")
    return tuple(_turn(turn) for turn in turns)


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise ValueError(f"found turn {_shown(turn)}")
    text = turn.get("text") if turn.get("text") is not None else turn.get("content")
    if not isinstance(turn.get("role"), str) or not isinstance(text, str):
        raise ValueError(f"found turn {_shown(turn)}")
    if not text.strip():
        raise ValueError(f"found an empty turn ({turn['role']})")
    return _encodable(turn["role"]), _encodable(text)


def _vote(cells: Cells, columns: Columns, task: Task | None) -> Vote | None:
    if task is None:
        return None
    if columns.score is not None and columns.scale is not None:
        return _scored(cells.get(columns.score), columns.score, columns.scale, task)
    assert columns.label is not None
    label = _name(cells, columns.label)
    if label is not None and label not in task.label_names:
        close = difflib.get_close_matches(label, task.label_names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "correct it, or add it to the task"
        raise ValueError(
            f"column {columns.label}: found label {_shown(label)}, expected one of "
            f"{', '.join(task.label_names)}; {hint}"
        )
    return None if label is None else Vote(label=label)


def _scored(value: Any, column: str, scale: tuple[float, float], task: Task) -> Vote | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    low, high = scale
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"column {column}: found {_shown(value)}, expected a number; correct it")
    if not low <= number <= high:
        raise ValueError(
            f"column {column}: found {_shown(value)}, expected {low:g} to {high:g}; correct it, or "
            "the scale"
        )
    score = (number - low) / (high - low)
    return Vote(label=task.nearest(score), score=score, number=number)


def _split(cells: Cells, columns: Columns, task: Task | None) -> Split | None:
    if columns.split is None:
        return None
    found = _name(cells, columns.split)
    try:
        return Split(found or "")
    except ValueError:
        raise ValueError(
            f"column {columns.split}: found {_shown(found)}, expected train, validation or test; "
            "rename it, or leave the split column out"
        ) from None


def _rater(cells: Cells, columns: Columns, task: Task | None) -> str | None:
    return _required(cells, columns.rater)


def _id(cells: Cells, columns: Columns, task: Task | None) -> str | None:
    return _required(cells, columns.id)


def _group(cells: Cells, columns: Columns, task: Task | None) -> str | None:
    return _required(cells, columns.group)


def _source(cells: Cells, columns: Columns, task: Task | None) -> str | None:
    return None if columns.source is None else _name(cells, columns.source)


def _explanation(cells: Cells, columns: Columns, task: Task | None) -> str | None:
    return None if columns.explanation is None else _text(cells, columns.explanation)


_READERS: Mapping[str, Callable[[Cells, Columns, Task | None], Any]] = {
    "id": _id,
    "group": _group,
    "source": _source,
    "rater": _rater,
    "split": _split,
    "explanation": _explanation,
}


def _required(cells: Cells, column: str | None) -> str | None:
    """The cell of a column that the recipe names; None where it names none."""
    if column is None:
        return None
    found = _name(cells, column)
    if found is None:
        raise ValueError(f"column {column}: found an empty cell, expected a value; fill it in")
    return found


def _name(cells: Cells, column: str) -> str | None:
    text = _text(cells, column)
    return None if text is None else text.strip()


def _text(cells: Cells, column: str) -> str | None:
    """The cell as text, unchanged; None where it is empty or blank."""
    value = cells.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        # A column of whole numbers with gaps arrives as 3.0 where the label says 3.
        return str(int(value))
    if isinstance(value, list | dict):
        raise ValueError(f"column {column}: found {_shown(value)}, expected text; use another one")
    try:
        text = _encodable(str(value))
    except ValueError as fault:
        raise ValueError(f"column {column}: {fault}; correct it") from None
    return text if text.strip() else None


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"found half a surrogate pair at character {error.start}, expected whole characters"
        ) from None
    return text


def _shown(value: Any) -> str:
    return ascii(value) if len(ascii(value)) <= 60 else ascii(value)[:57] + "…"
