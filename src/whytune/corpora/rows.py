"""One row of a table, read through the recipe's column mapping."""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from whytune.recipe_data import Columns
from whytune.records import Split, Task, Turn

Cells = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a row says about its text."""

    label: str
    score: float | None = None
    """On [0, 1], where the table gives scores."""
    number: float | None = None
    """The score as the table gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row that could be read."""

    place: str
    """Names the row in messages: `line 7`, or `row 7` of a Parquet file."""
    turns: tuple[Turn, ...]
    id: str | None
    group: str | None
    source: str | None
    rater: str | None
    split: Split | None
    vote: Vote | None
    """None where the row carries no label."""
    explanation: str | None


def parse(place: str, cells: Cells, columns: Columns, task: Task) -> tuple[Row | None, list[str]]:
    """The row, or None and everything that is wrong with it, one sentence each."""
    values: dict[str, Any] = {}
    faults = []
    for field, read in _READERS.items():
        try:
            values[field] = read(cells, columns, task)
        except ValueError as fault:
            faults.append(f"{place}: {fault}")
    return (None, faults) if faults else (Row(place=place, **values), [])


def _turns(cells: Cells, columns: Columns, task: Task) -> tuple[Turn, ...]:
    if columns.text is not None:
        text = _text(cells, columns.text)
        if text is None:
            raise ValueError(f"column {columns.text}: found no text, expected some; drop the row")
        return (Turn(role="text", text=text),)
    assert columns.turns is not None
    try:
        return _conversation(cells.get(columns.turns))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"column {columns.turns}: {error}; expected a list of {{role, text}} or {{role, "
            "content}, as JSON text in a CSV"
        ) from None


def _conversation(value: Any) -> tuple[Turn, ...]:
    turns = json.loads(value) if isinstance(value, str) else value
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"found {_shown(value)}")
    return tuple(_turn(turn) for turn in turns)


def _turn(turn: Any) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"found turn {_shown(turn)}")
    text = turn.get("text") if turn.get("text") is not None else turn.get("content")
    if not isinstance(turn.get("role"), str) or not isinstance(text, str):
        raise ValueError(f"found turn {_shown(turn)}")
    return Turn(role=turn["role"], text=_encodable(text))


def _vote(cells: Cells, columns: Columns, task: Task) -> Vote | None:
    if columns.score is not None and columns.scale is not None:
        return _scored(cells.get(columns.score), columns.score, columns.scale, task)
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


def _split(cells: Cells, columns: Columns, task: Task) -> Split | None:
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


def _rater(cells: Cells, columns: Columns, task: Task) -> str | None:
    return _required(cells, columns.rater)


def _id(cells: Cells, columns: Columns, task: Task) -> str | None:
    return _required(cells, columns.id)


def _group(cells: Cells, columns: Columns, task: Task) -> str | None:
    return _required(cells, columns.group)


def _source(cells: Cells, columns: Columns, task: Task) -> str | None:
    return None if columns.source is None else _name(cells, columns.source)


def _explanation(cells: Cells, columns: Columns, task: Task) -> str | None:
    return None if columns.explanation is None else _text(cells, columns.explanation)


_READERS: Mapping[str, Callable[[Cells, Columns, Task], Any]] = {
    "turns": _turns,
    "id": _id,
    "group": _group,
    "source": _source,
    "rater": _rater,
    "split": _split,
    "vote": _vote,
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
    text = _encodable(str(value))
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
