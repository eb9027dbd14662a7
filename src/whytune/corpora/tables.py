"""Tables of texts, labelled or not: CSV, JSON Lines and Parquet, `.gz` of the first two.

A table is read row by row, in flat memory. Several rows of one text by different raters become
one example with one reply each, so that people, models and several of either come through the
same door. A row that is not what the column mapping says is quarantined; a mapping that cannot
be, a missing column or a mixed-up header is an error at once.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from whytune.corpora import files, gold, jsonl, mapping, rows
from whytune.corpora.corpus import Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.sampling import Sieve
from whytune.errors import CorpusError
from whytune.recipe_data import Columns
from whytune.records import Example, Reference, Reply, Task, Turn

TEACHER = "table"
"""Who gave a label where no column names the rater."""
_CELL_LIMIT = 2**27  # characters; Python's own limit of 128 KiB is less than a long document
_UNLABELLED = "rows without a label were left out"

Cells = tuple[int, dict[str, Any]]
"""Line (or row of a Parquet file) from 1, and column -> cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A file and how it is to be read."""

    corpus: str
    """Its name."""
    path: Path
    columns: Columns
    task: Task | None
    """What its label column answers; None where it has none."""


class Found(NamedTuple):
    """A row that is kept: labelled, where the table has labels."""

    line: int
    id: str
    group: str
    row: rows.Row


def checked(
    corpus: str, path: Path, tasks: Sequence[Task], columns: Columns, *, asked: bool = False
) -> Table:
    """A table whose mapping can be; `asked` says whether teachers are.

    Raises:
        CorpusError: several tasks for its labels, no labels though nobody is asked for any, or a
            column mapping that cannot be.
    """
    task = _answered(corpus, tasks, asked) if columns.labelled else None
    if task is None and not asked:
        raise CorpusError(
            f"corpora.{corpus}.columns.label: found null, but nobody is asked for labels; name "
            "the table's label column, or whom to ask under `teachers:`"
        )
    mapping.check(corpus, columns, task)
    return Table(corpus=corpus, path=path, columns=columns, task=task)


def _answered(corpus: str, tasks: Sequence[Task], asked: bool) -> Task:
    if len(tasks) == 1:
        return tasks[0]
    found = ", ".join(task.name for task in tasks)
    others = f", or set corpora.{corpus}.columns.label to null" if asked else ""
    raise CorpusError(
        f"corpora.{corpus}.task: missing; the recipe has the tasks {found}, and a table answers "
        f"one; name it{others}"
    )


def read(table: Table, sieve: Sieve) -> Iterator[Found]:
    """Every row that passes the sieve; where the table has labels, every labelled one.

    Raises:
        CorpusError: a file that is not there or not whole, a missing column, a header with a
            column twice, or no labelled row.
    """
    presence = mapping.Presence(table.path, table.columns)
    yield from sift(lines(table, sieve.ledger), table, presence, sieve)
    check(table, presence, sieve.ledger)


def sift(
    lines: Iterable[Cells], table: Table, presence: mapping.Presence, sieve: Sieve
) -> Iterator[Found]:
    """Those rows of a table, or of a stretch of it, that pass the sieve; its ledger tells of the
    others.
    """
    reader, ledger = rows.Reader(table.columns, table.task), sieve.ledger
    for line, cells in lines:
        ledger.rows += 1
        if presence.missing:
            presence.look(cells)
        try:
            names = reader.names(cells)
        except ValueError as fault:
            shown = json.dumps(cells, ensure_ascii=True, default=str)
            ledger.quarantine(table.path.name, line, str(fault), shown)
            continue
        if names is None:
            ledger.counts[_UNLABELLED] += 1
        elif _wanted(reader, cells, table, sieve) and sieve.passes(*names):
            yield Found(line, names[0], names[1], reader.read(cells))


def _wanted(reader: rows.Reader, cells: rows.Cells, table: Table, sieve: Sieve) -> bool:
    # Most recipes take all sources, and need not have every row read for its own.
    return not sieve.sources.wanted or sieve.wants(reader.read(cells).source or table.corpus)


def moved(found: Found, lines: int) -> Found:
    """The same row, so many lines further down."""
    return found._replace(line=found.line + lines)


def check(table: Table, presence: mapping.Presence, ledger: Ledger) -> None:
    """Whether all rows together, as they were read, are a table of texts, labelled or not.

    Raises:
        CorpusError: a missing column, no row, or no labelled one though there is a label column.
    """
    presence.check()
    if not ledger.rows:
        raise CorpusError(f"{table.path}: found no rows, expected at least one; add data")
    if 0 < ledger.counts[_UNLABELLED] == ledger.rows - ledger.unreadable:
        raise CorpusError(
            f"{table.path}: none of {ledger.rows} rows carries a label; expected some in "
            f"column {table.columns.score or table.columns.label}; fill it in"
        )


def check_beginning(table: Table) -> None:
    """Whether a JSON Lines file shows early what every row needs.

    Raises:
        CorpusError: it does not, or is not readable.
    """
    presence = mapping.Presence(table.path, table.columns)
    looked_at = jsonl.rows(files.blocks(table.path, Ledger()), table.path.name, Ledger())
    for count, (_, cells) in enumerate(looked_at, start=1):
        presence.look(cells)
        if not presence.missing:
            return
        if count == mapping.LOOKED_AT:
            presence.check_needed()
            return


def item(found: Found, table: Table) -> Item:
    """A row as an example with its gold and its reply, if the table has labels."""
    row, task = found.row, table.task
    example = Example(
        id=found.id,
        source=row.source or table.corpus,
        group=found.group,
        turns=tuple(Turn(role=role, text=text) for role, text in row.turns),
        split=row.split,
        gold={task.name: _reference(row.vote, task)} if task and row.vote else {},
    )
    if task is None or row.vote is None:
        return Item(example=example, line=found.line)
    said: dict[str, str | float]
    said = {"label": row.vote.label} if row.vote.number is None else {"score": row.vote.number}
    if row.explanation is not None:
        said["assessment"] = row.explanation
    reply = Reply(
        example_id=found.id,
        task=task.name,
        teacher=row.rater or TEACHER,
        prompt="table",
        text=json.dumps(said, ensure_ascii=False),
        scale=None if row.vote.number is None else table.columns.scale,
    )
    return Item(example=example, replies=(reply,), line=found.line)


def _reference(vote: rows.Vote, task: Task) -> Reference:
    if vote.score is not None:
        return gold.of_scores([vote.score], task)
    return Reference(label=vote.label, score=task.value(vote.label))


def lines(table: Table, ledger: Ledger) -> Iterator[Cells]:
    """Every row as it stands in the file.

    Raises:
        CorpusError: a file that is not there, not whole, or of another kind.
    """
    path, columns = table.path, table.columns
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return _csv(path, columns, ledger)
    if name.endswith(".jsonl"):
        check_beginning(table)
        return jsonl.rows(files.blocks(path, ledger), path.name, ledger)
    if path.name.endswith(".parquet"):
        # pyarrow takes long to import, and no other format needs it.
        from whytune.corpora import parquet

        return parquet.rows(path, columns, ledger)
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
    missing = set(mapping.mapped(columns).values()) - set(header)
    mapping.refuse_missing(path, missing, header, columns)
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
