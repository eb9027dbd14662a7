"""`whytune predict`: a student answers about every row of a file, which is written again with its
answers as columns.

Answers go to a journal beside the output, chunk by chunk; the output is made of the journal at the
end, whole or not at all. So a stopped command goes on, and a finished one asks nothing again, even
where it is to abstain more often.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from whytune import adapter_folder, judge_columns, judge_tables
from whytune import judge as judges
from whytune.corpora import files
from whytune.errors import CorpusError, FolderError, InputError
from whytune.judge_columns import Answer
from whytune.judge_journal import Journal
from whytune.judge_tables import Row, Table
from whytune.progress import Progress

NAMED = 20
"""Rows that cannot be read that are named while they are met; all have their reason in the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of it; every row is judged, unreadable or abstained."""

    out: str
    rows: int
    judged: int
    """Rows with a label for every task."""
    unreadable: int
    """Rows without an answer to a task."""
    abstained: int
    """Other rows without a label for a task, for its confidence was too low."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a file is judged."""

    text: str | None = None
    """Column with texts; without it and `messages`, `text` or else `messages`."""
    messages: str | None = None
    """Column with conversations."""
    tasks: Sequence[str] | None = None
    """Names of those that are asked; without it, all."""
    explain: bool = False
    abstain_below: float | None = None
    """Confidence below which no label is given, 0 to 1."""
    batch_size: int = judges.BATCH_SIZE
    base: str | None = None
    """Where the base model lies, if not where it did."""


def predict(run: str | Path, file: Path, out: Path | None, how: How, show: Progress) -> Summary:
    """Judge every row of a file, in flat memory; goes on where it stopped.

    The output has all columns and rows of the input, in their order, and behind them for each task
    the columns of `judge_columns.of`, named `<task>_…`. A row that cannot be read has no label and
    says why.

    Args:
        run: as `judge.load` takes it.
        file: CSV, JSON Lines or Parquet.
        out: a file of the same kind; without it, beside the input as `<name>.judged.<suffix>`.
        how: the rest.
        show: how long it takes.

    Raises:
        CorpusError: a file that is not there, not whole, of another kind, or that changes
            meanwhile.
        InputError: a task or a column that is not there, or a column that an answer would replace.
        FolderError: an output that is there already and not of this command, a journal of another
            input, adapter or way of asking, or no adapter of whytune's.
        ModelError: as `judge.load`.
    """
    begun = time.perf_counter()
    facts = adapter_folder.read(adapter_folder.found(run))
    asked = judges.asked(facts, how.tasks, explain=how.explain)
    explained = judges.explains(facts, how.explain)
    table = judge_tables.opened(file)
    column, conversations = judge_columns.chosen(table.columns, how.text, how.messages, str(file))
    columns = judge_columns.of(asked, explained, f"{asked[0].name}_" if len(asked) == 1 else None)
    judge_columns.refuse_taken([name for name, _ in columns], table.columns, str(file))
    place = out or judge_tables.beside(file)
    about = {
        "input": files.sha256(file),
        "adapter": facts.digest,
        "column": column,
        "conversations": conversations,
        "tasks": [task.name for task in asked],
        "explain": how.explain,
    }
    with Journal(_journal_of(place, file), about) as journal:
        if journal.done < table.count:
            judge = judges.load(run, base=how.base)

            def answers(cells: Sequence[Any]) -> list[list[Answer]]:
                return judge.rows(cells, conversations, asked, explain=how.explain,
                                  batch_size=how.batch_size)  # fmt: skip

            _ask(table, column, journal, answers, judges.CHUNK * how.batch_size, show)
        if files.sha256(file) != about["input"]:
            raise CorpusError(f"{file}: changed while it was judged; delete {journal.path} and "
                              "run again")  # fmt: skip
        counts = dict.fromkeys(("read", "unreadable", "abstained"), 0)

        def told() -> Iterator[list[Any]]:
            for row in journal.rows():
                sure = [answer.sure(how.abstain_below) for answer in row]
                outcomes = {answer.outcome for answer in sure}
                counts[next(o for o in ("unreadable", "abstained", "read") if o in outcomes)] += 1
                yield judge_columns.flat(sure, asked, explained)

        table.write(place, columns, told())
    return Summary(
        out=str(place), rows=table.count, judged=counts["read"], unreadable=counts["unreadable"],
        abstained=counts["abstained"], seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _journal_of(place: Path, file: Path) -> Path:
    """Where the journal of an output stands.

    Raises:
        InputError: an output that is the input, or of another kind.
        FolderError: no folder for it, or something else there already.
    """
    if judge_tables.kind(place) != judge_tables.kind(file):
        raise InputError(
            f"--out {place}: found {judge_tables.kind(place)}, expected {judge_tables.kind(file)} as "
            "the input is; rename it"
        )
    if place.resolve() == file.resolve():
        raise InputError(f"--out {place}: is the input; choose another")
    if not place.parent.is_dir():
        raise FolderError(f"{place.parent}: no such folder; make it, or choose another --out")
    journal = place.with_name(f"{place.name}.journal")
    if place.exists() and not journal.exists():
        raise FolderError(
            f"{place}: there already, without a journal of this command ({journal.name}); delete it, "
            "or choose another --out"
        )
    return journal


def _ask(
    table: Table, column: str, journal: Journal, answers: Any, size: int, show: Progress
) -> None:
    rows = islice(table.rows(column), journal.done, None)
    named = 0
    with show.work(f"{table.path.name}: judging", table.count) as advance:
        if journal.done:
            show.say(f"{table.path.name}: {journal.done} rows were judged before")
            advance(journal.done)
        for chunk in judges.chunks(rows, size):
            found = answers([row.cell for row in chunk])
            journal.add(found)
            for line in _unread(chunk, found, table.path.name):
                named += 1
                if named <= NAMED:
                    show.say(line)
            advance(len(chunk))
    if named > NAMED:
        show.say(f"{table.path.name}: {named - NAMED} more rows cannot be read")


def _unread(chunk: Sequence[Row], found: Sequence[Sequence[Answer]], name: str) -> Iterator[str]:
    for row, own in zip(chunk, found, strict=True):
        reasons = [answer.reason for answer in own if answer.reason is not None]
        if reasons:
            yield f"{name}, line {row.line}: {reasons[0]}"
