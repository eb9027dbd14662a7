"""What a reason generator learns from: a text, the answer to it, and why that answer is right.

Answers need not be labels: of FLAN's open tables and of a table of one's own they differ from
question to question. Corpora whose answers are labels are merged first; `open_answers` reads the
others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from whytune.corpora import check_readable, mapping, path_of, rows, splits, tables
from whytune.corpora.identity import content_id, normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import flan_cot
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Split, Turn

_LACKING = "rows without a question, an answer or a reason were left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One lesson of a reason generator."""

    example: Example
    """The text, with its split; of an open answer its id covers the answer and the reason."""
    question: str | None = None
    """The task's; None where the text asks by itself."""
    answer: str
    reason: str
    """One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one corpus has for a reason generator."""

    lessons: tuple[Explained, ...]
    """Training, validation, test, as the recipe's numbers say; no group in two parts."""
    inputs: dict[str, str]
    """File name -> SHA-256 (64 hex digits) of every file read."""
    notes: tuple[str, ...]
    """What was left out and why, with counts."""


def is_open(name: str, spec: CorpusSpec, tasked: bool) -> bool:
    """Whether a corpus's answers are open: `tasked` says whether tasks are named for its labels."""
    loader = spec.loader or name
    if loader == "flan_cot":
        return flan_cot.open_table(spec.path or "", spec) is not None
    return loader == "table" and not tasked


def open_answers(name: str, spec: CorpusSpec) -> Reading:
    """Read a corpus with open answers, settle its splits, and draw the sample.

    Equal rows count once; rows about one question stay in one part.

    Raises:
        CorpusError: files that are not there or not readable, columns that are missing, too many
            unreadable rows, no row with a reason, or fewer than asked for.
    """
    ledger = Ledger()
    read = _table if (spec.loader or name) == "table" else _flan
    found = {lesson.example.id: lesson for lesson in read(name, spec, ledger)}
    check_readable(name, spec, ledger)
    if not found:
        raise CorpusError(
            f"corpora.{name}: none of {ledger.rows} rows has a question, an answer and a reason; "
            "expected some; fill them in, or name another corpus"
        )
    examples = [lesson.example for lesson in found.values()]
    division = splits.divide(name, examples, spec, frozenset())
    return Reading(
        lessons=tuple(replace(found[e.id], example=e) for e in division.examples),
        inputs=dict(ledger.inputs), notes=(*ledger.notes, *division.notes),
    )  # fmt: skip


def one_line(text: str | None) -> str:
    """A reason as students are taught it: without line breaks; empty where there is none."""
    return " ".join((text or "").split())


def _flan(name: str, spec: CorpusSpec, ledger: Ledger) -> Iterator[Explained]:
    table = flan_cot.open_table(spec.path or "", spec)
    assert table is not None
    for question, answer, reason in flan_cot.open_rows(path_of(name, spec), table, ledger):
        # Options may differ where the question is the same.
        group = normal(question.partition("\nOptions:")[0])
        yield from _lesson((("text", question),), answer, reason, group, None, table, ledger)


def _table(name: str, spec: CorpusSpec, ledger: Ledger) -> Iterator[Explained]:
    columns = spec.columns
    answers = columns.score or columns.label
    if answers is None or columns.explanation is None:
        missing = "label" if answers is None else "explanation"
        raise CorpusError(
            f"corpora.{name}.columns.{missing}: missing; a generator learns from answers with "
            "their reasons; name the column"
        )
    mapping.check(name, columns, None)
    table = tables.Table(corpus=name, path=path_of(name, spec), columns=columns, task=None)
    presence = mapping.Presence(table.path, columns)
    # Without a task nobody compares an answer with labels; it is read as any other name is.
    reader = rows.Reader(columns.model_copy(update={"source": answers}), None)
    for line, cells in tables.lines(table, ledger):
        ledger.rows += 1
        presence.look(cells)
        try:
            row, names = reader.read(cells), reader.names(cells)
        except ValueError as fault:
            ledger.quarantine(table.path.name, line, str(fault))
            continue
        assert names is not None  # only a table with a task has rows without
        yield from _lesson(row.turns, row.source or "", row.explanation, names[1], row.split, name,
                           ledger)  # fmt: skip
    tables.check(table, presence, ledger)


def _lesson(
    turns: rows.Pairs, answer: str, reason: str | None, group: str, split: Split | None,
    source: str, ledger: Ledger,
) -> Iterator[Explained]:  # fmt: skip
    why = one_line(reason)
    if not (answer and why and all(text.strip() for _, text in turns)):
        ledger.counts[_LACKING] += 1
        return
    own = tuple(Turn(role=role, text=text) for role, text in turns)
    identity = content_id(
        "explained", (*own, Turn(role="answer", text=answer), Turn(role="reason", text=why))
    )
    example = Example(id=identity, source=source, group=group, turns=own, split=split)
    yield Explained(example=example, answer=answer, reason=why)
