"""What several rows say about the same text, as one example with its raters' replies."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from whytune.corpora import gold
from whytune.corpora.corpus import Item
from whytune.corpora.ledger import Ledger
from whytune.recipe_data import Columns
from whytune.records import Example, Reference, Reply, Task

Merge = Callable[[Sequence[Item]], Item | None]
"""Items of one id, in any order, to one; None where they contradict each other."""

REPEATS = "rows that repeat the same rater's label of the same text were left out"
SAME_TEXT = "rows that repeat another's text were left out"
"""Where there are no labels."""


def as_one(items: Sequence[Item], tasks: Sequence[Task]) -> Item:
    """One example with all replies of items with the same content, in whatever order they come.

    A reply that repeats another word by word is dropped. Other replies of the same teacher to the
    same prompt are votes of their own: `gpt-4` and `gpt-4-2`. Gold is what all replies together
    come to.
    """
    if len(items) == 1:
        return items[0]
    first = min(items, key=lambda i: (i.example.group, i.example.source, i.example.id))
    replies = _numbered([reply for item in items for reply in item.replies])
    references = _references(items, replies, tasks)
    settled = all(item.settled for item in items) and None not in references.values()
    known = {task: found for task, found in references.items() if found is not None}
    example = replace(first.example, gold=known)
    return Item(example=example, replies=replies, settled=settled, line=first.line)


def _numbered(replies: Sequence[Reply]) -> tuple[Reply, ...]:
    """Different replies of one teacher to one prompt, in order of text, each with its own name."""
    own: dict[tuple[str, str, str], set[Reply]] = defaultdict(set)
    for reply in replies:
        own[reply.task, reply.teacher, reply.prompt].add(reply)
    return tuple(
        reply if number == 1 else replace(reply, teacher=f"{reply.teacher}-{number}")
        for key in sorted(own)
        for number, reply in enumerate(sorted(own[key], key=lambda r: r.text), start=1)
    )


def _references(
    items: Sequence[Item], replies: Sequence[Reply], tasks: Sequence[Task]
) -> dict[str, Reference | None]:
    by_name = {task.name: task for task in tasks}
    found: dict[str, Reference | None] = {}
    for name in dict.fromkeys(name for item in items for name in item.example.gold):
        given = {item.example.gold.get(name) for item in items} - {None}
        votes = [reply for reply in replies if reply.task == name]
        if votes and name in by_name:
            found[name] = gold.of_replies(votes, by_name[name])
        else:
            found[name] = given.pop() if len(given) == 1 else None
    return found


def of_table(
    items: Sequence[Item], ledger: Ledger, file: str, columns: Columns, task: Task | None
) -> Item | None:
    """One example for a table's rows about one text, with one reply for every rater of it, if the
    table has labels (a task that they answer).

    Rows that contradict each other are quarantined, all of them: which one is right, nobody knows.
    """
    if len(items) == 1:
        return items[0]
    rows = sorted(items, key=_line)
    if _torn(rows, ledger, file):
        return None
    first = rows[0]
    example = replace(first.example, source=min(row.example.source for row in rows))
    if task is None:
        if columns.id is not None:
            for row in rows[1:]:
                _quarantine_repeat(row, first, ledger, file, SAME_TEXT)
        return Item(example=example, line=first.line)
    by_rater: dict[str, list[Item]] = defaultdict(list)
    for row in rows:
        by_rater[row.replies[0].teacher].append(row)
    kept = [
        own if len(own) == 1 else _first_of(own, ledger, file, columns, task)
        for _, own in sorted(by_rater.items())
    ]
    replies = tuple(row.replies[0] for own in kept for row in own)
    if not replies:
        return None
    reference = gold.of_replies(replies, task)
    example = replace(example, gold={} if reference is None else {task.name: reference})
    return Item(example=example, replies=replies, settled=reference is not None, line=first.line)


def _line(item: Item) -> int:
    return item.line or 0


def _torn(rows: Sequence[Item], ledger: Ledger, file: str) -> bool:
    """Whether the rows of one id are about different texts, groups or splits."""
    compared: dict[str, Callable[[Example], Any]] = {
        "text": lambda example: example.turns,
        "group": lambda example: example.group,
        "split": lambda example: example.split,
    }
    first = rows[0]
    for row in rows[1:]:
        for what, value in compared.items():
            if value(row.example) != value(first.example):
                _quarantine(
                    rows, row, ledger, file,
                    f"id {row.example.id} has another {what} than in line {first.line}; expected "
                    "the same; correct one of them",
                )  # fmt: skip
                return True
    return False


def _first_of(
    rows: list[Item], ledger: Ledger, file: str, columns: Columns, task: Task
) -> list[Item]:
    """One of the rows by one rater: that with the first explanation in order of text, so that no
    order of the file can change it. None of them where they contradict each other.
    """
    first = rows[0]
    labels = {row.line: gold.said(row.replies[0], task) for row in rows}
    rater = "" if columns.rater is None else f" by {first.replies[0].teacher}"
    for row in rows[1:]:
        now, before = labels[row.line], labels[first.line]
        if now != before and now is not None and before is not None:
            _quarantine(
                rows, row, ledger, file,
                f"id {row.example.id} has the label {now.label}{rater}, but {before.label} in "
                f"line {first.line}; expected one; drop one, or name a `rater` column",
            )  # fmt: skip
            return []
        if columns.id is not None and columns.rater is None:
            _quarantine_repeat(row, first, ledger, file, REPEATS, ", or name a `rater` column")
    return [min(rows, key=lambda row: ('"assessment"' not in row.replies[0].text,
                                       row.replies[0].text))]  # fmt: skip


def _quarantine_repeat(
    row: Item, first: Item, ledger: Ledger, file: str, repeats: str, way_out: str = ""
) -> None:
    ledger.counts[repeats] -= 1
    ledger.quarantine(
        file, row.line, f"id {row.example.id} stands already in line {first.line}; "
        f"expected unique ids; drop one{way_out}",
    )  # fmt: skip


def _quarantine(rows: Sequence[Item], named: Item, ledger: Ledger, file: str, reason: str) -> None:
    raters = {reply.teacher for row in rows for reply in row.replies}
    ledger.counts[REPEATS if raters else SAME_TEXT] -= len(rows) - max(len(raters), 1)
    ledger.quarantine(file, named.line, reason, named.example.turns[-1].text, rows=len(rows))
