"""Files of rows that are judged: read in flat memory with all that stands in them, and written again
with more columns. CSV, JSON Lines (`.gz` of both) and Parquet.

No row is dropped: one that cannot be read keeps its place, with as much of it as could be had.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from whytune.corpora import files
from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError
from whytune.judge_columns import Column
from whytune.judge_output import text_stream, whole

_BATCH = 1024  # rows of a Parquet file in memory at a time
_CELL_LIMIT = 2**27  # characters; Python's own limit of 128 KiB is less than a long document
UNREAD = "unread"
"""Where the text of a line stands in JSON Lines that is no object."""
KINDS = (".csv", ".jsonl", ".parquet")


class Row(NamedTuple):
    """One row of a file, as far as it is judged."""

    line: int
    """Where it begins, from 1; of a Parquet file its number."""
    cell: Any
    """What is to be judged; a ValueError where the row cannot be read says why."""


class Table(Protocol):
    """A file of rows."""

    path: Path
    columns: list[str]
    """Of the header or schema; of JSON Lines all that occur."""
    count: int
    """Rows, unreadable ones included."""

    def rows(self, column: str) -> Iterator[Row]:
        """Every row, with its cell of one column."""

    def write(self, place: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """Write every row to a file of the same kind, with more cells behind its own."""


def kind(path: Path) -> str:
    """What kind of file this is, one of `KINDS`.

    Raises:
        CorpusError: none of them.
    """
    name = path.name.removesuffix(".gz") if not path.name.endswith(".parquet.gz") else path.name
    found = next((kind for kind in KINDS if name.endswith(kind)), None)
    if found is None:
        raise CorpusError(
            f"{path}: found a file of another kind, expected .csv, .jsonl, .csv.gz, .jsonl.gz or "
            ".parquet; convert it, or rename it"
        )
    return found


def beside(path: Path) -> Path:
    """Where the judged file goes unless told otherwise: `data.csv` becomes `data.judged.csv`."""
    at = path.name.rindex(kind(path))
    return path.with_name(f"{path.name[:at]}.judged{path.name[at:]}")


def opened(path: Path) -> Table:
    """A file, looked through once.

    Raises:
        CorpusError: not there, not whole, of another kind, without rows, or with a header that
            names a column twice.
    """
    readers: dict[str, Callable[[Path], Table]]
    readers = {".csv": Csv, ".jsonl": JsonLines, ".parquet": Parquet}
    table = readers[kind(path)](path)
    if not table.count:
        raise CorpusError(f"{path}: found no rows, expected at least one; add data")
    return table


class Csv:
    """Comma-separated cells under a header."""

    def __init__(self, path: Path):
        """Raises CorpusError, as `opened`."""
        self.path = path
        line, self.columns, fault = next(self._records(), (1, [], "an empty file"))
        if fault is not None:
            raise CorpusError(f"{path}, line {line}: found {fault}, expected a header; correct it")
        for column in self.columns:
            if self.columns.count(column) > 1:
                raise CorpusError(f"{path}, line 1: column {column!r} stands twice; rename one")
        self.count = sum(1 for _ in self._body())

    def rows(self, column: str) -> Iterator[Row]:
        """As `Table.rows`."""
        at = self.columns.index(column)
        for line, cells, fault in self._body():
            yield Row(line, cells[at] if fault is None else ValueError(fault))

    def write(self, place: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """As `Table.write`; cells that are too many stand in the last one of the row's own."""
        with whole(place) as part, text_stream(part, place) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([*self.columns, *(name for name, _ in columns)])
            for (_, cells, _), more in zip(self._body(), rows, strict=True):
                writer.writerow([*cells, *more])

    def _body(self) -> Iterator[tuple[int, list[str], str | None]]:
        """Line, as many cells as the header has, and what is wrong with the row."""
        width = len(self.columns)
        for line, cells, fault in islice(self._records(), 1, None):
            if len(cells) != width and fault is None:
                fault = (
                    f"found {len(cells)} cells, expected {width}; quote cells with commas, or fill "
                    "in what is missing"
                )
            kept = [*cells[: width - 1], ",".join(cells[width - 1 :])]
            yield line, kept + [""] * (width - len(kept)), fault

    def _records(self) -> Iterator[tuple[int, list[str], str | None]]:
        csv.field_size_limit(_CELL_LIMIT)
        lines = _Lines(self.path)
        reader = csv.reader(lines, strict=True)
        while True:
            lines.kept.clear()
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                fault = f"not readable as CSV ({error}); double quotes inside quotes"
                yield start, ["".join(lines.kept).rstrip("\r\n")], fault
                continue
            if cells is None:
                return
            if cells:
                yield start, cells, _not_utf8(cells)


class _Lines:
    """The lines of a file; those of the record that is being read are kept."""

    def __init__(self, path: Path):
        # A byte that is not UTF-8 becomes a lone surrogate, and that byte again when written.
        raw = files.raw_lines(path, Ledger())
        self._lines = (
            line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")
            for number, line in enumerate(raw)
        )
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.kept.append(line)
        return line


def _not_utf8(cells: Sequence[str]) -> str | None:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError as error:
        byte = ord(error.object[error.start]) - 0xDC00
        return f"byte 0x{byte:02x} is not UTF-8; expected UTF-8 text"
    return None


class JsonLines:
    """One JSON object a line; what stands in it is written again as it was."""

    def __init__(self, path: Path):
        """Raises CorpusError, as `opened`."""
        self.path = path
        self.count = 0
        found: dict[str, None] = {}
        for _, _, row in self._lines():
            self.count += 1
            if isinstance(row, dict):
                found.update(dict.fromkeys(row))
        self.columns = list(found)

    def rows(self, column: str) -> Iterator[Row]:
        """As `Table.rows`."""
        for line, _, row in self._lines():
            yield Row(line, row.get(column) if isinstance(row, dict) else row)

    def write(self, place: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """As `Table.write`; a line that is no object becomes one, with its text as `unread`."""
        names = [name for name, _ in columns]
        with whole(place) as part, text_stream(part, place) as stream:
            for (_, raw, row), more in zip(self._lines(), rows, strict=True):
                added = json.dumps(dict(zip(names, more, strict=True)), ensure_ascii=False)[1:]
                if isinstance(row, dict):
                    # Not dumped anew: that would round numbers, and drop a key that stands twice.
                    head = raw.decode("utf-8")[:-1].rstrip()
                    stream.write(f"{head}{', ' if row else ''}{added}\n")
                else:
                    text = json.dumps(raw.decode("utf-8", "backslashreplace"), ensure_ascii=False)
                    stream.write(f'{{"{UNREAD}": {text}, {added}\n')

    def _lines(self) -> Iterator[tuple[int, bytes, dict[str, Any] | ValueError]]:
        for number, line in enumerate(files.raw_lines(self.path, Ledger()), start=1):
            raw = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if raw:
                yield number, raw, _object(raw)


def _object(raw: bytes) -> dict[str, Any] | ValueError:
    try:
        found = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return ValueError(f"byte 0x{raw[error.start]:02x} is not UTF-8; expected UTF-8 text")
    except (ValueError, RecursionError) as error:
        return ValueError(f"not readable as JSON ({error}); expected one JSON object a line")
    if not isinstance(found, dict):
        return ValueError(f"found {type(found).__name__}, expected one JSON object a line")
    return found


class Parquet:
    """Rows of a Parquet file, a batch at a time; its other columns are never looked into."""

    def __init__(self, path: Path):
        """Raises CorpusError, as `opened`."""
        self.path = path
        with files.opened(path), _readable(path), pq.ParquetFile(path) as file:
            self._schema = file.schema_arrow
            self.count = file.metadata.num_rows
        self.columns = list(self._schema.names)

    def rows(self, column: str) -> Iterator[Row]:
        """As `Table.rows`."""
        number = 0
        for batch in self._batches([column]):
            for cell in _cells(batch.column(column)):
                number += 1
                yield Row(number, cell)

    def write(self, place: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """As `Table.write`."""
        rest = iter(rows)
        schema = self._schema
        for column in columns:
            schema = schema.append(pa.field(*column))
        with whole(place) as part, pq.ParquetWriter(part, schema) as writer:
            for batch in self._batches():
                more = zip(*islice(rest, len(batch)), strict=True)
                added = [pa.array(cells, kind)
                         for cells, (_, kind) in zip(more, columns, strict=True)]  # fmt: skip
                writer.write_table(pa.Table.from_arrays([*batch.columns, *added], schema=schema))

    def _batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        with _readable(self.path), pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(_BATCH, columns=columns)


def _cells(column: pa.Array) -> Iterator[Any]:
    try:
        yield from column.to_pylist()
    except UnicodeDecodeError as error:
        if len(column) > 1:
            for at in range(len(column)):
                yield from _cells(column.slice(at, 1))
            return
        yield ValueError(
            f"byte 0x{error.object[error.start]:02x} is not UTF-8; expected UTF-8 text"
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path}: not readable as Parquet ({str(error).splitlines()[0]}); expected a whole "
            "Parquet file; fetch it again"
        ) from None
