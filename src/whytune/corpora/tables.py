"""Tables of labelled texts: CSV, JSON Lines and Parquet, `.gz` of the first two.

A table is read row by row, in flat memory. Several rows of one text by different raters become
one example with one reply each, so that people, models and several of either come through the
same door. A row that is not what the column mapping says is quarantined; a mapping that cannot
be, a missing column or a mixed-up header is an error at once.
"""

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whytune.corpora import files, gold, rows
from whytune.corpora.corpus import Item
from whytune.corpora.identity import normal, text_id
from whytune.corpora.ledger import SHOWN, Ledger
from whytune.errors import CorpusError
from whytune.recipe_data import Columns, CorpusSpec
from whytune.records import Example, Kind, Reference, Reply, Split, Task, Turn

Passes = Callable[[str, str, Split | None, str], bool]
"""(id, group, split, rater) -> whether the sample may still want the row."""

TEACHER = "table"
"""Who gave a label where no column names the rater."""
_CELL_LIMIT = 2**27  # characters; Python's own limit of 128 KiB is less than a long document
_NEEDED = ("text", "turns", "id", "group", "rater", "split")
_LOOKED_AT = 1000  # rows before a column that none of them has is called missing
_BATCH = 4096  # rows of a Parquet file in memory at a time
_UNLABELLED = "rows without a label were left out"

Cells = tuple[int, dict[str, Any]]
"""Line (or row of a Parquet file) from 1, and column -> cell."""


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger,
    passes: Passes = lambda *_: True,
) -> Iterator[Item]:  # fmt: skip
    """Every labelled row as an item with its gold and its reply; what `passes` refuses is not made.

    Raises:
        CorpusError: a file that is not there or not whole, a column mapping that cannot be, a
            missing column, a header with a column twice, or no labelled row.
    """
    columns = spec.columns
    task = _task(name, tasks)
    check_mapping(name, columns, task)
    reader = rows.Reader(columns, task)
    labelled = unlabelled = 0
    for line, cells in _present(path, _table(path, columns, ledger), columns):
        ledger.rows += 1
        try:
            row = reader.read(cells)
        except ValueError as fault:
            ledger.quarantine(path.name, line, str(fault), _shown(cells))
            continue
        if row.vote is None:
            unlabelled += 1
            continue
        labelled += 1
        key, group = _identity(row)
        if passes(key, group, row.split, row.rater or ""):
            yield _item(name, line, key, group, row, row.vote, columns, task)
    if unlabelled:
        ledger.counts[_UNLABELLED] += unlabelled
    _check_found(path, ledger, labelled, columns)


def _check_found(path: Path, ledger: Ledger, labelled: int, columns: Columns) -> None:
    if not ledger.rows:
        raise CorpusError(f"{path}: found no rows, expected at least one; add data")
    if not labelled and ledger.unreadable < ledger.rows:
        raise CorpusError(
            f"{path}: none of {ledger.rows} rows carries a label; expected some in "
            f"column {columns.score or columns.label}; fill it in"
        )


def _identity(row: rows.Row) -> tuple[str, str]:
    """Id and group."""
    key = row.id or text_id("text", row.turns)
    if row.group:
        return key, row.group
    return key, text_id("text", [(role, normal(text)) for role, text in row.turns])


def _item(
    name: str, line: int, key: str, group: str, row: rows.Row, vote: rows.Vote, columns: Columns,
    task: Task,
) -> Item:  # fmt: skip
    example = Example(
        id=key,
        source=row.source or name,
        group=group,
        turns=tuple(Turn(role=role, text=text) for role, text in row.turns),
        split=row.split,
        gold={task.name: _reference(vote, task)},
    )
    said: dict[str, str | float]
    said = {"label": vote.label} if vote.number is None else {"score": vote.number}
    if row.explanation is not None:
        said["assessment"] = row.explanation
    reply = Reply(
        example_id=key,
        task=task.name,
        teacher=row.rater or TEACHER,
        prompt="table",
        text=json.dumps(said, ensure_ascii=False),
        scale=None if vote.number is None else columns.scale,
    )
    return Item(example=example, replies=(reply,), line=line)


def _reference(vote: rows.Vote, task: Task) -> Reference:
    if vote.score is not None:
        return gold.of_scores([vote.score], task)
    return Reference(label=vote.label, score=task.value(vote.label))


def _task(name: str, tasks: Sequence[Task]) -> Task:
    if len(tasks) != 1:
        found = ", ".join(task.name for task in tasks)
        raise CorpusError(
            f"corpora.{name}.task: missing; the recipe has the tasks {found}, and a table answers "
            "one; name it"
        )
    return tasks[0]


def check_mapping(name: str, columns: Columns, task: Task) -> None:
    """Whether a column mapping can be.

    Raises:
        CorpusError: neither or both of text and turns, or scores for labels without order.
    """
    place = f"corpora.{name}.columns"
    if (columns.text is None) == (columns.turns is None):
        raise CorpusError(f"{place}: expected exactly one of `text` and `turns`; name the column")
    if columns.score is not None and task.kind is Kind.NOMINAL:
        raise CorpusError(
            f"{place}.score: found a score column for {task.name}, whose labels have no order; "
            "name a `label` column, or make the task ordinal"
        )


def _mapped(columns: Columns) -> dict[str, str]:
    """Use -> column, of those that the recipe names."""
    mapping = columns.model_dump(exclude={"scale"} | ({"label"} if columns.score else set()))
    return {use: column for use, column in mapping.items() if column is not None}


def _present(path: Path, table: Iterable[Cells], columns: Columns) -> Iterator[Cells]:
    """The rows, until it is plain that a column is missing: for what every row needs, after
    `_LOOKED_AT` rows, for the rest at the end.
    """
    needed = {column for use, column in _mapped(columns).items() if use in _NEEDED}
    missing = set(_mapped(columns).values())
    found: dict[str, None] = {}  # a dict keeps the order in which columns first appear
    table = iter(table)
    for count, (line, cells) in enumerate(table, start=1):
        found.update(dict.fromkeys(cells))
        missing -= cells.keys()
        if count == _LOOKED_AT:
            _refuse_missing(path, missing & needed, list(found), columns)
        yield line, cells
        if not missing:
            break
    yield from table
    if found:
        _refuse_missing(path, missing, list(found), columns)


def _refuse_missing(path: Path, missing: set[str], found: Sequence[str], columns: Columns) -> None:
    lines = []
    for use, column in _mapped(columns).items():
        if column not in missing:
            continue
        close = difflib.get_close_matches(column, found, n=1)
        hint = f"did you mean {close[0]}?" if close else f"set columns.{use}"
        lines.append(
            f"{path}, column {column}: not there (for {use}); found {', '.join(found)}; {hint}"
        )
    if lines:
        raise CorpusError("\n".join(lines))


def _table(path: Path, columns: Columns, ledger: Ledger) -> Iterator[Cells]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return _csv(path, columns, ledger)
    if name.endswith(".jsonl"):
        return _jsonl(path, ledger)
    if path.name.endswith(".parquet"):
        return _parquet(path, columns, ledger)
    raise CorpusError(
        f"{path}: found a file of another kind, expected .csv, .jsonl, .csv.gz, .jsonl.gz or "
        ".parquet; convert it, or rename it"
    )


def _csv(path: Path, columns: Columns, ledger: Ledger) -> Iterator[Cells]:
    records = _records(path, ledger)
    _, header = next(records, (0, None))
    for fault in ledger.quarantined:  # Without its header, no row means anything.
        raise CorpusError(
            f"{path}, line {fault.line}: {fault.reason}; expected UTF-8 text; convert the file"
        )
    if header is None:
        raise CorpusError(f"{path}: found an empty file, expected a header; add data")
    for column in sorted({column for column in header if header.count(column) > 1}):
        raise CorpusError(f"{path}, line 1: column {column!r} stands twice; rename one")
    _refuse_missing(path, set(_mapped(columns).values()) - set(header), header, columns)
    for line, record in records:
        if len(record) == len(header):
            yield line, dict(zip(header, record, strict=True))
            continue
        ledger.rows += 1
        ledger.quarantine(
            path.name, line,
            f"found {len(record)} cells, expected {len(header)}; quote cells with commas, or fill "
            "in what is missing", ",".join(record),
        )  # fmt: skip


def _records(path: Path, ledger: Ledger) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV with the line where each begins, its header first.

    A record that is not CSV is quarantined with all lines that it swallowed.
    """
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.reader(_decoded(path, ledger), strict=True)
    start = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            swallowed = max(reader.line_num - start + 1, 1)
            ledger.rows += swallowed
            ledger.quarantine(
                path.name, start,
                f"not readable as CSV ({error}); expected comma-separated cells, quotes doubled "
                "inside quotes; correct the line", rows=swallowed,
            )  # fmt: skip
        else:
            if record is None:
                return
            fault = _not_utf8(record)
            if fault:
                ledger.rows += 1
                ledger.quarantine(path.name, start, fault)
            elif record:
                yield start, record
        start = reader.line_num + 1


def _decoded(path: Path, ledger: Ledger) -> Iterator[str]:
    # A byte that is not UTF-8 becomes a lone surrogate, so that its record can be named as a whole.
    for number, line in enumerate(files.raw_lines(path, ledger), start=1):
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


def _not_utf8(record: Sequence[str]) -> str | None:
    for cell in record:
        if not cell.isascii() and (escaped := re.search("[\udc80-\udcff]", cell)):
            return f"byte 0x{ord(escaped[0]) - 0xDC00:02x} is not UTF-8; expected UTF-8 text"
    return None


def _jsonl(path: Path, ledger: Ledger) -> Iterator[Cells]:
    for number, line in enumerate(files.raw_lines(path, ledger), start=1):
        try:
            text = line.decode() if number > 1 else line.decode("utf-8-sig")
            text = text.strip()
            if text:
                yield number, _object(text)
        except (RecursionError, ValueError) as error:
            reason = f"not readable as JSON ({error}); expected one JSON object a line"
            if isinstance(error, UnicodeDecodeError):
                reason = f"byte 0x{line[error.start]:02x} is not UTF-8; expected UTF-8 text"
            shown = line[: 4 * SHOWN].decode("utf-8-sig", "replace").rstrip()
            ledger.rows += 1
            ledger.quarantine(path.name, number, reason, shown)


_decode = json.JSONDecoder().raw_decode


def _object(text: str) -> dict[str, Any]:
    found, end = _decode(text)
    if end < len(text):
        raise ValueError(f"more after its end at column {end + 1}")
    if type(found) is not dict:
        raise ValueError(f"found {type(found).__name__}")
    return found


def _parquet(path: Path, columns: Columns, ledger: Ledger) -> Iterator[Cells]:
    ledger.inputs[path.name] = files.sha256(path)
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            mapped = _mapped(columns).values()
            _refuse_missing(path, set(mapped) - set(names), names, columns)
            start = 1
            for batch in file.iter_batches(_BATCH, columns=[n for n in names if n in mapped]):
                yield from _batch(path, batch, start, ledger)
                start += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path}: not readable as Parquet ({str(error).splitlines()[0]}); expected a "
            "whole Parquet file; fetch it again"
        ) from None


def _batch(path: Path, batch: Any, start: int, ledger: Ledger) -> Iterator[Cells]:
    try:
        yield from enumerate(batch.to_pylist(), start=start)
    except UnicodeDecodeError as error:
        if len(batch) > 1:
            for index in range(len(batch)):
                yield from _batch(path, batch.slice(index, 1), start + index, ledger)
            return
        ledger.rows += 1
        ledger.quarantine(
            path.name, start, f"byte 0x{error.object[error.start]:02x} is not UTF-8; expected UTF-8"
        )


def _shown(cells: dict[str, Any]) -> str:
    return json.dumps(cells, ensure_ascii=True, default=str)
