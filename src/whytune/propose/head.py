"""The first rows of a table, and what each of its columns holds."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whytune.corpora import files
from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError

ROWS = 2000
"""Rows that are looked at."""
_CELL_LIMIT = 2**27  # characters, as the loader allows

Cells = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a column holds in the rows that were looked at."""

    name: str
    filled: int
    """Cells that are not blank."""
    counts: Mapping[str, int]
    """Cell as text -> how often."""
    words: float
    """Mean words of a filled cell."""
    numbers: tuple[float, ...] | None
    """The filled cells as numbers; None where some are none."""
    turns: bool
    """Whether every filled cell is a list of `{role, text}` or `{role, content}`."""
    plain: bool
    """Whether every filled cell is text or a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The beginning of a table."""

    place: str
    rows: tuple[Cells, ...]
    whole: bool
    """Whether these are all rows."""
    columns: Mapping[str, Column]


def look(path: Path) -> Head:
    """Read at most `ROWS` rows; those that cannot be read are passed over.

    Raises:
        CorpusError: not there, of another kind, or without any row that can be read.
    """
    rows = list(islice(_rows(path), ROWS + 1))
    if not rows:
        raise CorpusError(
            f"{path}: found no rows that can be read, expected some below a header, or one JSON "
            "object a line; add data"
        )
    shown = tuple(rows[:ROWS])
    names = list(dict.fromkeys(name for row in shown for name in row))
    columns = {name: _column(name, [row.get(name) for row in shown]) for name in names}
    return Head(place=str(path), rows=shown, whole=len(rows) <= ROWS, columns=columns)


def _rows(path: Path) -> Iterator[Cells]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return _csv(path)
    if name.endswith(".jsonl"):
        return _jsonl(path)
    if path.name.endswith(".parquet"):
        return _parquet(path)
    raise CorpusError(
        f"{path}: found a file of another kind, expected .csv, .jsonl, .csv.gz, .jsonl.gz or "
        ".parquet; convert it, or rename it"
    )


def _csv(path: Path) -> Iterator[Cells]:
    csv.field_size_limit(_CELL_LIMIT)
    lines = (line.decode("utf-8-sig", "replace") for line in files.raw_lines(path, Ledger()))
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while (record := _record(reader)) is not None:
        if header is None and record:
            _check_header(path, record)
            header = record
        elif header is not None and len(record) == len(header):
            yield dict(zip(header, record, strict=True))


def _record(reader: Any) -> list[str] | None:
    """The next record, empty where it is not CSV; None at the end."""
    try:
        found: list[str] | None = next(reader, None)
    except csv.Error:
        return []
    return found


def _check_header(path: Path, header: Sequence[str]) -> None:
    if len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), None)):
        raise CorpusError(
            f"{path}, line 1: found cells with {other!r} between them, expected commas; convert it"
        )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise CorpusError(
            f"{path}, line 1: column {twice!r} stands twice in what should be the header; "
            "rename one, or write a header"
        )


def _jsonl(path: Path) -> Iterator[Cells]:
    for _, line in files.lines(path, Ledger()):
        try:
            row = json.loads(line)
        except (RecursionError, ValueError):
            continue
        if isinstance(row, dict):
            yield row


def _parquet(path: Path) -> Iterator[Cells]:
    try:
        with files.opened(path) as raw, pq.ParquetFile(raw) as file:
            for batch in file.iter_batches(ROWS + 1):
                yield from batch.to_pylist()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path}: not readable as Parquet ({str(error).splitlines()[0]}); expected a whole "
            "Parquet file; fetch it again"
        ) from None


def text(value: Any) -> str | None:
    """A cell as the loader reads a label; None where it is blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def _column(name: str, cells: Sequence[Any]) -> Column:
    filled = [cell for cell in cells if text(cell) is not None]
    shown = [found for cell in filled if (found := text(cell)) is not None]
    return Column(
        name=name, filled=len(filled), counts=Counter(shown),
        words=sum(len(found.split()) for found in shown) / max(len(shown), 1),
        numbers=_numbers(filled),
        turns=bool(filled) and all(map(_is_conversation, filled)),
        plain=not any(isinstance(cell, list | dict) for cell in filled),
    )  # fmt: skip


def _numbers(cells: Sequence[Any]) -> tuple[float, ...] | None:
    if not cells or any(isinstance(cell, bool | list | dict) for cell in cells):
        return None
    try:
        found = tuple(float(cell) for cell in cells)
    except (OverflowError, TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None


def _is_conversation(cell: Any) -> bool:
    if isinstance(cell, str):
        if not cell.lstrip().startswith("["):
            return False
        try:
            cell = json.loads(cell)
        except (RecursionError, ValueError):
            return False
    return isinstance(cell, list) and bool(cell) and all(map(_is_turn, cell))


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        return False
    return any(isinstance(turn.get(key), str) for key in ("text", "content"))
