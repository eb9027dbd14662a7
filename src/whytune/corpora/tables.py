"""Tables of labelled texts: CSV, JSON Lines and Parquet, `.gz` of the first two.

Several rows of one text by different raters become one example with one reply each, so that
people, models and several of either come through the same door.
"""

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whytune.corpora import files, rows
from whytune.corpora.corpus import Reading
from whytune.corpora.raters import gathered
from whytune.errors import CorpusError
from whytune.recipe_data import Columns
from whytune.records import Kind, Task

_SHOWN = 10  # faults; the rest is counted
_CELL_LIMIT = 2**27  # characters; Python's own limit of 128 KiB is less than a long document


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Rows as they lie in a file, each with what names it in messages."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, dict[str, Any]]]
    faults: Sequence[str] = ()


def read(name: str, path: Path, columns: Columns, tasks: Sequence[Task]) -> Reading:
    """Every text as an example with its gold, every labelled row as a reply.

    Raises:
        CorpusError: a file that is not there or not whole, or rows that are not what the column
            mapping says; all faults at once, the first ten spelt out.
    """
    task = _task(name, tasks)
    _check_mapping(name, columns, task)
    whole = files.read(path)
    table = _table(whole)
    missing = list(_missing(table.columns, columns))
    _raise(whole.place, missing or table.faults)
    if not table.rows:
        raise CorpusError(f"{whole.place}: found no rows, expected at least one; add data")
    parsed, faults = _parsed(table, columns, task)
    gathering = gathered(name, parsed, columns, task)
    _raise(whole.place, [*faults, *gathering.faults])
    if not gathering.examples:
        raise CorpusError(
            f"{whole.place}: none of {len(table.rows)} rows carries a label; expected some in "
            f"column {columns.score or columns.label}; fill it in"
        )
    return Reading(
        examples=gathering.examples,
        replies=gathering.replies,
        inputs={path.name: whole.sha256},
        unsettled=frozenset(example.id for example in gathering.examples if not example.gold),
        notes=gathering.notes,
    )


def _task(name: str, tasks: Sequence[Task]) -> Task:
    if len(tasks) != 1:
        found = ", ".join(task.name for task in tasks)
        raise CorpusError(
            f"corpora.{name}.task: missing; the recipe has the tasks {found}, and a table answers "
            "one; name it"
        )
    return tasks[0]


def _check_mapping(name: str, columns: Columns, task: Task) -> None:
    place = f"corpora.{name}.columns"
    if (columns.text is None) == (columns.turns is None):
        raise CorpusError(f"{place}: expected exactly one of `text` and `turns`; name the column")
    if columns.score is not None and task.kind is Kind.NOMINAL:
        raise CorpusError(
            f"{place}.score: found a score column for {task.name}, whose labels have no order; "
            "name a `label` column, or make the task ordinal"
        )


def _raise(place: str, faults: Sequence[str]) -> None:
    if not faults:
        return
    lines = [f"{place}, {fault}" for fault in faults[:_SHOWN]]
    if len(faults) > _SHOWN:
        lines.append(f"{place}: and {len(faults) - _SHOWN} more")
    raise CorpusError("\n".join(lines))


def _parsed(table: _Table, columns: Columns, task: Task) -> tuple[list[rows.Row], list[str]]:
    parsed, faults = [], []
    for place, cells in table.rows:
        row, found = rows.parse(place, cells, columns, task)
        faults.extend(found)
        if row is not None:
            parsed.append(row)
    return parsed, faults


def _missing(present: Sequence[str], columns: Columns) -> Iterator[str]:
    mapping = columns.model_dump(exclude={"scale"})
    if columns.score is not None:
        del mapping["label"]
    for use, column in mapping.items():
        if column is None or column in present:
            continue
        close = difflib.get_close_matches(column, present, n=1)
        hint = f"did you mean {close[0]}?" if close else f"set columns.{use}"
        yield f"column {column}: not there (for {use}); found {', '.join(present)}; {hint}"


def _table(whole: files.Whole) -> _Table:
    name = whole.place.removesuffix(".gz")
    if name.endswith(".csv"):
        return _csv(whole)
    if name.endswith(".jsonl"):
        return _jsonl(whole)
    if whole.place.endswith(".parquet"):
        return _parquet(whole)
    raise CorpusError(
        f"{whole.place}: found a file of another kind, expected .csv, .jsonl, .csv.gz, .jsonl.gz or "
        ".parquet; convert it, or rename it"
    )


def _csv(whole: files.Whole) -> _Table:
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.reader(io.StringIO(files.text(whole), newline=""), strict=True)
    found = []
    start = 1
    try:
        for record in reader:
            if record:
                found.append((f"line {start}", record))
            start = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(
            f"{whole.place}, line {start}: not readable as CSV ({error}); expected comma-separated "
            "cells, quotes doubled inside quotes; correct the line"
        ) from None
    if not found:
        raise CorpusError(f"{whole.place}: found an empty file, expected a header; add data")
    header = found[0][1]
    return _Table(
        columns=header,
        rows=[(place, dict(zip(header, record, strict=False))) for place, record in found[1:]],
        faults=list(_uneven(header, found[1:])),
    )


def _uneven(header: Sequence[str], records: Sequence[tuple[str, list[str]]]) -> Iterator[str]:
    for column in sorted({column for column in header if header.count(column) > 1}):
        yield f"line 1: column {column!r} stands twice; rename one"
    for place, record in records:
        if len(record) != len(header):
            yield (
                f"{place}: found {len(record)} cells, expected {len(header)}; quote cells with "
                "commas, or fill in what is missing"
            )


def _jsonl(whole: files.Whole) -> _Table:
    found = files.json_lines(whole)
    # A dict keeps the order in which columns first appear.
    columns = dict.fromkeys(column for _, row in found for column in row)
    return _Table(columns=list(columns), rows=[(f"line {line}", row) for line, row in found])


def _parquet(whole: files.Whole) -> _Table:
    try:
        table = pq.read_table(pa.BufferReader(whole.content))
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{whole.place}: not readable as Parquet ({str(error).splitlines()[0]}); expected a "
            "whole Parquet file; fetch it again"
        ) from None
    cells = table.to_pylist()
    return _Table(
        columns=table.column_names,
        rows=[(f"row {number}", row) for number, row in enumerate(cells, start=1)],
    )
