"""Which column of a table is what: by what it holds first, by what it is called second."""

from collections.abc import Callable, Iterator, Sequence

from whytune.errors import CorpusError
from whytune.propose.head import Column, Head
from whytune.propose.words import is_no_label, rank
from whytune.records import Split

Uses = dict[str, str]
"""Use (as the recipe's `columns` call it, `score` in place of `label` for numbers) -> column."""

MOST_LABELS = 30
"""Different values above which a column of words is no label."""
LONGEST_LABEL = 60
"""Characters of a label."""
GAPLESS = 0.99
"""Share of rows that hold a text in a text column."""
FEWEST_WORDS = 2.0
"""Mean words from which a column may be the text, whatever it is called."""


def assign(head: Head) -> tuple[Uses, list[str]]:
    """A use for each column that has one, and what was unsure about it.

    Raises:
        CorpusError: no column could be the label, or none the text.
    """
    doubts: list[str] = []
    uses: Uses = {}
    free = dict(head.columns)
    split = _split(head, doubts)
    if split is not None:
        del free[split]
    label = _label(head, free, doubts)
    uses |= _content(head, {n: c for n, c in free.items() if n != label}, doubts)
    uses["score" if is_score(head.columns[label]) else "label"] = label
    free = {name: column for name, column in free.items() if name not in uses.values()}
    uses |= _explanation(free, uses, doubts)
    free = {name: column for name, column in free.items() if name not in uses.values()}
    uses |= dict(_others(head, free))
    if split is not None:
        uses["split"] = split
    return uses, doubts


def is_score(column: Column) -> bool:
    """Whether a label column holds numbers that are no names: fractions, or more than one digit.

    One-digit whole numbers are labels as they stand; longer ones could begin one another (1 and
    10), which a student could not tell apart.
    """
    if column.numbers is None:
        return False
    return not all(len(value) == 1 for value in column.counts)


def _split(head: Head, doubts: list[str]) -> str | None:
    allowed = {str(split) for split in Split}
    for name, column in head.columns.items():
        values = set(column.counts)
        if rank("split", name) is None or column.filled < len(head.rows):
            continue
        # Later rows of a long table may hold the parts that the first ones lack.
        if values <= allowed and ({"train", "test"} <= values or not head.whole):
            return name
        if values & {*allowed, "dev", "val", "valid"}:
            doubts.append(
                f"column {name!r} looks like a split but holds {_shown(column)}; expected train, "
                "test and perhaps validation, so splits are drawn anew; rename them to keep yours"
            )
    return None


def _label(head: Head, free: dict[str, Column], doubts: list[str]) -> str:
    named = sorted(
        (place, name)
        for name, column in free.items()
        if (place := rank("label", name)) is not None and _could_be_label(column, named=True)
    )
    if named:
        if len(named) > 1:
            others = ", ".join(repr(name) for _, name in named[1:])
            doubts.append(f"{others} could be the label as well; {named[0][1]!r} was taken")
        return named[0][1]
    unnamed = [
        name
        for name, column in free.items()
        if _could_be_label(column, named=False) and not is_no_label(name)
    ]
    if not unnamed:
        raise CorpusError(
            f"{head.place}: found no column that could be the label or the score, expected one with "
            f"2 to {MOST_LABELS} different values that repeat, or numbers on a scale; found "
            f"{'; '.join(f'{n} ({len(c.counts)} different)' for n, c in head.columns.items())}; "
            "add one, or name it `label`"
        )
    chosen = min(unnamed, key=lambda name: len(free[name].counts))
    doubts.append(
        f"no column is called a label; {chosen!r} was taken, which holds {_shown(free[chosen])}"
    )
    return chosen


def _could_be_label(column: Column, *, named: bool) -> bool:
    different = len(column.counts)
    if different < 2 or not column.plain or column.turns:
        return False
    if column.numbers is not None and (named or different <= 10):
        return named or 3 * different <= column.filled
    names = all(len(v) <= LONGEST_LABEL and len(v.splitlines()) == 1 for v in column.counts)
    repeats = 2 * different <= column.filled
    return names and repeats and different <= MOST_LABELS


def _content(head: Head, free: dict[str, Column], doubts: list[str]) -> Uses:
    """The conversation or the text."""
    turns = [name for name, column in free.items() if column.turns]
    if turns:
        return {"turns": min(turns, key=lambda name: (rank("turns", name) is None, name))}
    wordy = {
        name: column
        for name, column in free.items()
        if column.plain and column.numbers is None
        and (column.words >= FEWEST_WORDS or rank("text", name) is not None)
        and rank("id", name) is None and rank("rater", name) is None
    }  # fmt: skip
    # What is called an explanation is the text only where nothing else could be.
    texts = {n: c for n, c in wordy.items() if not _says_why(n)} or wordy
    if not texts:
        raise CorpusError(
            f"{head.place}: found no column that could be the text or a conversation, expected "
            f"one with words; found {', '.join(head.columns)}; add one, or name it `text`"
        )
    chosen = min(texts, key=lambda name: _as_text(texts[name], len(head.rows)))
    others = [name for name in texts if name != chosen and texts[name].words >= FEWEST_WORDS]
    if others:
        doubts.append(
            f"{', '.join(map(repr, others))} could belong to the text as well; a table has one "
            f"text column, or a column of turns, and {chosen!r} was taken"
        )
    return {"text": chosen}


def _as_text(column: Column, rows: int) -> tuple[bool, int, float]:
    """Smallest for the column that is the text most surely: without gaps, so called, long."""
    gaps = column.filled < GAPLESS * rows
    return gaps, _place("text", column.name), -column.words


def _says_why(name: str) -> bool:
    why, text = rank("explanation", name), rank("text", name)
    return why is not None and text is None


def _place(use: str, name: str) -> int:
    place = rank(use, name)
    return 99 if place is None else place


def _explanation(free: dict[str, Column], uses: Uses, doubts: list[str]) -> Uses:
    named = [name for name, column in free.items()
             if rank("explanation", name) is not None and column.plain
             and column.numbers is None and column.words >= FEWEST_WORDS]  # fmt: skip
    if not named:
        doubts.append("no column is called an explanation, so there is no arm that teaches why")
        return {}
    return {"explanation": min(named, key=lambda name: _place("explanation", name))}


def _others(head: Head, free: dict[str, Column]) -> Iterator[tuple[str, str]]:
    """Rater, group, id and source, each once, of columns without gaps."""
    rows = len(head.rows)
    full = [c for c in free.values() if c.filled == rows and c.plain]
    fits: dict[str, Callable[[Column], bool]] = {
        "rater": lambda c: 2 <= len(c.counts) < rows,
        "id": lambda c: len(c.counts) == rows,
        "group": lambda c: 2 <= len(c.counts) < rows,
        "source": lambda c: 2 <= len(c.counts) <= rows / 2,
    }
    taken: set[str] = set()
    for use, fit in fits.items():
        named = [c.name for c in full
                 if c.name not in taken and rank(use, c.name) is not None and fit(c)]  # fmt: skip
        if named:
            chosen = min(named, key=lambda name: _place(use, name))
            taken.add(chosen)
            yield use, chosen


def _shown(column: Column) -> str:
    values: Sequence[str] = sorted(column.counts)
    return ", ".join(values[:6]) + (", …" if len(values) > 6 else "")
