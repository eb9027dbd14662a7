"""Rows that speak about the same text, gathered into one example and its raters' replies."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from whytune.corpora import gold
from whytune.corpora.identity import content_id, normal
from whytune.corpora.rows import Row, Vote
from whytune.recipe_data import Columns
from whytune.records import Example, Reference, Reply, Task, Turn

_TEACHER = "table"  # where no column names the rater


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """Examples and replies; only good where there are no faults."""

    examples: tuple[Example, ...]
    """Every one with gold, but those on which the raters have no strict majority."""
    replies: tuple[Reply, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def gathered(name: str, rows: Sequence[Row], columns: Columns, task: Task) -> Gathering:
    """One example for every id (or text, without ids), one reply for every rater of it."""
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row.id or content_id("text", row.turns)].append(row)
    labelled = {key: votes for key, own in by_id.items() if (votes := _labelled(own))}
    faults = [fault for key, own in by_id.items() for fault in _faults(key, own, columns)]
    single = {key: _one_a_rater(own) for key, own in labelled.items()}
    return Gathering(
        examples=tuple(_example(name, key, own, task) for key, own in single.items()),
        replies=tuple(
            _reply(key, row, columns, task) for key, own in single.items() for row in own
        ),
        faults=tuple(faults),
        notes=tuple(_notes(rows, labelled, single)),
    )


def _labelled(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.vote is not None]


def _faults(key: str, rows: Sequence[Row], columns: Columns) -> Iterator[str]:
    """What the rows of one id say against each other."""
    compared: dict[str, Callable[[Row], Any]] = {
        "text": lambda row: row.turns,
        "group": lambda row: row.group,
        "split": lambda row: row.split,
    }
    first = rows[0]
    for row in rows[1:]:
        for what, value in compared.items():
            if value(row) != value(first):
                yield (
                    f"{row.place}: id {key} has another {what} than in {first.place}; expected the "
                    "same; correct one of them"
                )
    yield from _repeats(key, rows, columns)


def _repeats(key: str, rows: Sequence[Row], columns: Columns) -> Iterator[str]:
    """Rows by the same rater that contradict each other, or that a unique id forbids."""
    seen: dict[str | None, Row] = {}
    for row in rows:
        before = seen.setdefault(row.rater, row)
        if before is row:
            continue
        if row.vote and before.vote and row.vote != before.vote:
            who = "" if row.rater is None else f" by {row.rater}"
            yield (
                f"{row.place}: id {key} has the label {_said(row.vote)}{who}, but "
                f"{_said(before.vote)} in {before.place}; expected one; drop one, or name a "
                "`rater` column"
            )
        elif columns.id is not None and columns.rater is None:
            yield (
                f"{row.place}: id {key} stands already in {before.place}; expected unique ids; "
                "drop one, or name a `rater` column"
            )


def _said(vote: Vote) -> str:
    return vote.label if vote.number is None else f"{vote.number:g}"


def _one_a_rater(rows: Sequence[Row]) -> list[Row]:
    """One row a rater; of equal rows that with the first explanation in order of text.

    The order of the file would make the choice depend on how the file was shuffled.
    """
    chosen: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (r.explanation is None, r.explanation or "")):
        chosen.setdefault(row.rater or _TEACHER, row)
    return [chosen[rater] for rater in sorted(chosen)]


def _example(name: str, key: str, rows: Sequence[Row], task: Task) -> Example:
    first = rows[0]
    reference = _reference([row.vote for row in rows if row.vote is not None], task)
    texts = [Turn(role=turn.role, text=normal(turn.text)) for turn in first.turns]
    return Example(
        id=key,
        source=min((row.source for row in rows if row.source is not None), default=name),
        group=first.group or content_id("text", texts),
        turns=first.turns,
        split=first.split,
        gold={} if reference is None else {task.name: reference},
    )


def _reference(votes: Sequence[Vote], task: Task) -> Reference | None:
    scores = [vote.score for vote in votes if vote.score is not None]
    if scores:
        return gold.of_scores(scores, task)
    return gold.of_labels([vote.label for vote in votes], task)


def _reply(key: str, row: Row, columns: Columns, task: Task) -> Reply:
    assert row.vote is not None
    said: dict[str, Any]
    number = row.vote.number
    said = {"label": row.vote.label} if number is None else {"score": number}
    if row.explanation is not None:
        said["assessment"] = row.explanation
    return Reply(
        example_id=key,
        task=task.name,
        teacher=row.rater or _TEACHER,
        prompt="table",
        text=json.dumps(said, ensure_ascii=False),
        scale=None if number is None else columns.scale,
    )


def _notes(
    rows: Sequence[Row], labelled: dict[str, list[Row]], single: dict[str, list[Row]]
) -> Iterator[str]:
    votes = sum(len(own) for own in labelled.values())
    if votes < len(rows):
        yield f"{len(rows) - votes} rows without a label were left out."
    repeats = votes - sum(len(own) for own in single.values())
    if repeats:
        yield f"{repeats} rows that repeat the same rater's label of the same text were left out."
