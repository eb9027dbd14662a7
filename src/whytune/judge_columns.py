"""Answers as columns of a table: which there are, what stands in them, and tables in memory."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from whytune import judge_items
from whytune.errors import InputError
from whytune.records import Example, Kind, Prediction, Task
from whytune.settings import hint

TEXT, MESSAGES = "text", "messages"
"""Columns that are read where none is named."""
Column = tuple[str, pa.DataType]
"""Name and type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A column of a table."""

    values: Iterable[Any]
    conversations: bool
    """Whether it holds conversations rather than texts."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What stands in a row about one task."""

    label: str | None = None
    expected: float | None = None
    """On [0, 1]; None for a nominal task."""
    confidence: float | None = None
    """Probability of the most probable label, among the labels, 0 to 1."""
    label_mass: float | None = None
    probs: tuple[float, ...] = ()
    """Of the labels, in the task's order; empty where the row could not be read."""
    explanation: str | None = None
    reason: str | None = None
    """Why there is no label."""

    @classmethod
    def of(cls, told: Prediction, task: Task) -> "Answer":
        """A prediction."""
        if told.label is None:
            return cls(reason="the student's probabilities are not numbers")
        probs = told.probs
        return cls(
            label=told.label, expected=told.expected, confidence=probs[told.label],
            label_mass=told.label_mass, probs=tuple(probs[name] for name in task.label_names),
            explanation=told.explanation,
        )  # fmt: skip

    @property
    def outcome(self) -> str:
        """`read`, `abstained` or `unreadable`."""
        if self.label is not None:
            return "read"
        return "abstained" if self.probs else "unreadable"

    def sure(self, least: float | None) -> "Answer":
        """The same without its label, if its confidence is below `least`."""
        if least is None or self.confidence is None or self.confidence >= least:
            return self
        return replace(
            self, label=None, reason=f"confidence {self.confidence:.3g} is below {least:g}"
        )


def of(asked: Sequence[Task], explained: bool, prefix: str | None = None) -> list[Column]:
    """The columns of the answers to some tasks.

    Args:
        asked: the tasks.
        explained: whether answers have explanations.
        prefix: of every name, before `<task>_` where there are several tasks.
    """
    columns = []
    for task in asked:
        own = (prefix or "") + (f"{task.name}_" if len(asked) > 1 else "")
        names = [
            "label", "outcome", *(["expected"] if task.kind is Kind.ORDINAL else []), "confidence",
            "label_mass", *(f"p_{label}" for label in task.label_names),
            *(["explanation"] if explained else []), "reason",
        ]  # fmt: skip
        texts = {"label", "outcome", "explanation", "reason"}
        columns += [(own + n, pa.string() if n in texts else pa.float64()) for n in names]
    return columns


def flat(answers: Sequence[Answer], asked: Sequence[Task], explained: bool) -> list[Any]:
    """The cells of one row, in the order of the columns."""
    cells: list[Any] = []
    for answer, task in zip(answers, asked, strict=True):
        cells += [answer.label, answer.outcome]
        cells += [answer.expected] if task.kind is Kind.ORDINAL else []
        cells += [answer.confidence, answer.label_mass]
        cells += answer.probs or [None] * len(task.labels)
        cells += [answer.explanation] if explained else []
        cells.append(answer.reason)
    return cells


def read(cell: Any, conversations: bool, roles: Collection[str]) -> Example | str:
    """A cell as an example, or why it is none.

    Args:
        cell: of the column; an exception stands for one that could not be had.
        conversations: whether it holds a conversation.
        roles: who may speak there.
    """
    if isinstance(cell, ValueError):
        return str(cell)
    cell = cell.as_py() if hasattr(cell, "as_py") else cell
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    try:
        return judge_items.conversation(cell, roles) if conversations else judge_items.text(cell)
    except ValueError as fault:
        return str(fault)


def chosen(
    found: Collection[str], text: str | None, messages: str | None, place: str
) -> tuple[str, bool]:
    """Which column is read, and whether it holds conversations.

    Args:
        found: the columns that there are.
        text: the one that is asked for, with texts.
        messages: the one that is asked for, with conversations.
        place: names the table in messages.

    Raises:
        InputError: both are asked for, or there is no such column.
    """
    if text is not None and messages is not None:
        raise InputError(
            f"{place}: found a column of texts and one of messages; expected one of the two"
        )
    name = text or messages
    if name is None:
        name = next((name for name in (TEXT, MESSAGES) if name in found), None)
    if name is None:
        raise InputError(
            f"{place}: found the columns {', '.join(map(str, found))}; say which one holds the text "
            "or the messages"
        )
    if name not in found:
        raise InputError(f"{place}, column {name}: not there; {hint(name, [*map(str, found)])}")
    return name, messages is not None or (text is None and name == MESSAGES)


def refuse_taken(names: Iterable[str], found: Collection[str], place: str = "table") -> None:
    """Make sure that no column of the answers is there already.

    Raises:
        InputError: one is.
    """
    if taken := [name for name in names if name in found]:
        raise InputError(
            f"{place}, column {taken[0]}: there already, and an answer would take its place; rename "
            "it, or give the answers a prefix"
        )


def named(table: Any) -> list[str]:
    """The columns of a table.

    Raises:
        InputError: it is neither of pandas nor of Arrow.
    """
    if isinstance(table, pa.Table):
        return list(table.column_names)
    if hasattr(table, "assign") and hasattr(table, "columns"):
        return list(table.columns)
    raise InputError(
        f"table: found {type(table).__name__}, expected a pandas DataFrame or an Arrow table"
    )


def cells(table: Any, text: str | None, messages: str | None) -> Cells:
    """The column of a table that is to be read.

    Raises:
        InputError: as `chosen`, or it stands there twice.
    """
    found = named(table)
    name, conversations = chosen(found, text, messages, "table")
    if found.count(name) > 1:
        raise InputError(f"table, column {name}: stands there twice; rename one")
    return Cells(values=table[name], conversations=conversations)


def added(table: Any, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Any:
    """The table with more columns; the one handed in stays as it is."""
    values = {name: [row[at] for row in rows] for at, (name, _) in enumerate(columns)}
    if not isinstance(table, pa.Table):
        return table.assign(**values)
    for name, kind in columns:
        table = table.append_column(name, pa.array(values[name], kind))
    return table
