"""The rows of an upstream file, each with its place, whatever the format."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream.release import File
from whytune.errors import CorpusError

T = TypeVar("T")
U = TypeVar("U")

_CELL_LIMIT = 2**27  # characters; Python's own limit of 128 KiB is less than a long document


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Generic[T]):
    """One row of a file, and what has been read from it so far."""

    file: str
    """Its name in the ledger."""
    line: int | None = None
    """From 1; None where the file has no lines."""
    place: str = ""
    """Names the row in a file without lines: `item 3: `."""
    value: T

    def of(self, value: U) -> "Row[U]":
        """The same row with another value."""
        return Row(file=self.file, line=self.line, place=self.place, value=value)


def parsed(rows: Iterable[Row[T]], read: Callable[[T], U], ledger: Ledger) -> Iterator[Row[U]]:
    """What `read` makes of every row; a row that it refuses with ValueError is quarantined."""
    for row in rows:
        try:
            value = read(row.value)
        except ValueError as fault:
            ledger.quarantine(row.file, row.line, f"{row.place}{fault}", _shown(row.value))
        else:
            yield row.of(value)


def items(
    rows: Iterable[Row[T]], read: Callable[[T], Iterable[Item]], ledger: Ledger
) -> Iterator[Item]:
    """The examples that `read` makes of every row, as `parsed`: all of a row's or none."""
    for row in parsed(rows, lambda value: list(read(value)), ledger):
        yield from (replace(item, line=row.line) for item in row.value)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    written = json.dumps(value, default=str, ensure_ascii=False)
    return written.encode("utf-8", "backslashreplace").decode()


@contextmanager
def readable(file: File, ledger: Ledger, about: About) -> Iterator[None]:
    """Around the reading of one file: makes sure that it is of the release at all.

    Raises:
        CorpusError: not one row could be read.
    """
    rows, unreadable, kept = ledger.rows, ledger.unreadable, len(ledger.quarantined)
    yield
    rows, unreadable = ledger.rows - rows, ledger.unreadable - unreadable
    if rows > unreadable:
        return
    faults = ledger.quarantined[kept:]
    first = f" (the first: {faults[0].reason})" if faults else ""
    raise CorpusError(
        f"{file.path}: found {rows} rows, none of them readable{first}; expected {about.title} "
        f"({about.format}); fetch it again, or set `path` to the release"
    )


# Lines


def text_rows(file: File, ledger: Ledger, encoding: str = "utf-8-sig") -> Iterator[Row[str]]:
    """Every line that is not blank."""
    for number, line in files.lines(file.path, ledger, name=file.name, encoding=encoding):
        if line.strip():
            ledger.rows += 1
            yield Row(file=file.name, line=number, value=line)


def jsonl_rows(file: File, ledger: Ledger) -> Iterator[Row[dict[str, Any]]]:
    """Every line's JSON object; a line that holds none is quarantined."""
    return parsed(text_rows(file, ledger), _object_of, ledger)


def _object_of(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}), expected an object") from None
    return as_object(value)


def as_object(value: Any) -> dict[str, Any]:
    """The value; ValueError where it is no object."""
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}, expected an object")
    return value


# JSON files


def json_rows(
    file: File, ledger: Ledger, place: str = "item", key: str | None = None
) -> Iterator[Row[dict[str, Any]]]:
    """The objects of a file that is one JSON list, or an object with the list as `key`.

    Raises:
        CorpusError: no JSON, or no list there.
    """
    return object_rows(listed(json_file(file, ledger), file, key), file, ledger, place)


def json_file(file: File, ledger: Ledger) -> Any:
    """A file that is one JSON value.

    Raises:
        CorpusError: it is none.
    """
    whole = files.read(file.path)
    ledger.inputs[file.name] = whole.sha256
    return files.json_value(whole)


def listed(value: Any, file: File, key: str | None) -> list[Any]:
    """The list that a JSON value is, or has as `key`.

    Raises:
        CorpusError: neither.
    """
    inside = value.get(key) if key and isinstance(value, dict) else value
    if not isinstance(inside, list):
        wanted = "a list of objects" + (f", or an object with one as `{key}`" if key else "")
        raise CorpusError(
            f"{file.path}: found {type(value).__name__}, expected {wanted}; fetch upstream's file"
        )
    return inside


def object_rows(
    values: Iterable[Any], file: File, ledger: Ledger, place: str
) -> Iterator[Row[dict[str, Any]]]:
    """Values that are objects, each named by `place` and its number; another is quarantined."""

    def rows() -> Iterator[Row[Any]]:
        for number, value in enumerate(values, start=1):
            ledger.rows += 1
            yield Row(file=file.name, place=f"{place} {number}: ", value=value)

    return parsed(rows(), as_object, ledger)


# CSV


def csv_rows(file: File, ledger: Ledger, delimiter: str) -> Iterator[Row[list[str]]]:
    """The records of a CSV file, quoted line ends included; `line` is where a record begins.

    Raises:
        CorpusError: a cell that never ends.
    """
    csv.field_size_limit(_CELL_LIMIT)
    lines = (f"{line}\n" for _, line in files.lines(file.path, ledger, name=file.name))
    reader = csv.reader(lines, delimiter=delimiter)
    start = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                ledger.rows += 1
                yield Row(file=file.name, line=start, value=record)
            start = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(
            f"{file.path}, line {start}: not readable as CSV ({error}); expected quotes doubled "
            "inside quotes; fetch it again"
        ) from None


def table_rows(
    file: File, ledger: Ledger, delimiter: str, columns: Sequence[str]
) -> Iterator[Row[dict[str, str]]]:
    """The records of a CSV file with a header; a record of another length is quarantined.

    Raises:
        CorpusError: a column is not there.
    """
    records = csv_rows(file, ledger, delimiter)
    header = next(records, None)
    if header is None:
        return iter(())
    ledger.rows -= 1
    names = header.value
    if missing := [column for column in columns if column not in names]:
        raise CorpusError(
            f"{file.path}: found the columns {', '.join(names)}, expected also "
            f"{', '.join(missing)}; fetch upstream's file"
        )

    def cells(record: list[str]) -> dict[str, str]:
        if len(record) != len(names):
            raise ValueError(f"found {len(record)} cells, expected {len(names)}")
        return dict(zip(names, record, strict=True))

    return parsed(records, cells, ledger)
