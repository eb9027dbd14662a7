"""What the loaders of raw conversations share: files, rows, and cutting examples out."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import content_id
from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Split, Turn

_EMPTY = "conversations hold an empty turn and were left out"
_NO_REPLY = "conversations without a reply to judge were left out"
_AFTER = "conversations go on after their last reply; what follows it was left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation as it lies in a release."""

    source: str
    group: str
    said: Sequence[tuple[str, str]]
    """(role, text) of each turn, texts as `text` gives them; a text may be empty."""
    split: Split | None = None
    line: int | None = None
    """Where it stands in its file, from 1."""


def examples(
    loader: str,
    conversation: Conversation,
    spec: CorpusSpec,
    ledger: Ledger,
    *,
    role: str | None = "assistant",
) -> Iterator[Item]:
    """The judged turns of a conversation, each with all turns before it.

    A turn with nothing before it replies to nothing and is never judged. With `judged: last` that
    is the last turn of the role, with `each` every one. A conversation with an empty turn is left
    out whole and counted: what follows the gap answers nothing that can be read.

    Args:
        loader: begins the ids.
        conversation: where the turns come from.
        spec: says which turns are judged.
        ledger: counts what is left out.
        role: whose turns can be judged; None: everybody's.
    """
    if not all(text for _, text in conversation.said):
        ledger.counts[_EMPTY] += 1
        return
    turns = tuple(Turn(role=who, text=text) for who, text in conversation.said)
    judged = [i for i, turn in enumerate(turns) if i and role in (None, turn.role)]
    if not judged:
        ledger.counts[_NO_REPLY] += 1
        return
    if judged[-1] < len(turns) - 1:
        ledger.counts[_AFTER] += 1
    for last in judged if spec.judged == "each" else judged[-1:]:
        cut = turns[: last + 1]
        example = Example(
            id=content_id(loader, cut),
            source=conversation.source,
            group=conversation.group,
            turns=cut,
            split=conversation.split,
        )
        yield Item(example=example, line=conversation.line)


def part(name: str, spec: CorpusSpec, about: About) -> str | None:
    """The part that the recipe asks for, or the release's first; None where it has none.

    Raises:
        CorpusError: a part that the release does not have.
    """
    if spec.part is None:
        return about.parts[0] if about.parts else None
    if spec.part not in about.parts:
        known = (
            f"expected one of {', '.join(about.parts)}" if about.parts else "but it has no parts"
        )
        raise CorpusError(
            f"corpora.{name}.part: found {spec.part!r} of {about.title}, {known}; correct it, or "
            "leave it out"
        )
    return spec.part


def refuse_languages(name: str, spec: CorpusSpec, about: About) -> None:
    """For a release that does not name the language of a conversation.

    Raises:
        CorpusError: languages are asked for.
    """
    if spec.languages:
        raise CorpusError(
            f"corpora.{name}.languages: found {', '.join(spec.languages)}, but {about.title} names "
            "no languages; leave it out"
        )


def found(path: Path, patterns: Sequence[str], expected: str) -> list[tuple[Path, str]]:
    """The one file, or those below a folder that match: (path, name in the ledger), by name.

    Of a file that lies there both packed and unpacked, the unpacked one is taken.

    Raises:
        CorpusError: nothing there.
    """
    if path.is_file():
        return [(path, path.name)]
    matching = {match for pattern in patterns for match in path.rglob(pattern) if match.is_file()}
    chosen = [
        match
        for match in matching
        if match.suffix != ".gz" or match.with_suffix("") not in matching
    ]
    if not chosen:
        what = "found none of its files" if path.is_dir() else "not there"
        raise CorpusError(f"{path}: {what}; expected {expected}; set `path` to it")
    return sorted((match, match.relative_to(path).as_posix()) for match in chosen)


def parted(
    found: Sequence[tuple[Path, str]], split_of: Callable[[Path], Split | None]
) -> list[tuple[Path, str, Split | None]]:
    """Files with the release's own split: (path, name in the ledger, split).

    One side alone (the test file of a release, say) is no split: then all files go without, and
    both sides are to be drawn out of them.
    """
    splits = {split_of(path) for path, _ in found}
    whole = None not in splits and {Split.TRAIN, Split.TEST} <= splits
    return [(path, name, split_of(path) if whole else None) for path, name in found]


def json_rows(path: Path, name: str, ledger: Ledger) -> Iterator[tuple[int, dict[str, Any]]]:
    """One JSON object a line: (line number from 1, object); others are quarantined.

    Raises:
        CorpusError: as `files.lines`.
    """
    for number, line in files.lines(path, ledger, name=name):
        if not line.strip():
            continue
        ledger.rows += 1
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            ledger.quarantine(name, number, f"not JSON ({error}); expected one object a line", line)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            reason = f"found {type(row).__name__}, expected a JSON object"
            ledger.quarantine(name, number, reason, line)


@contextmanager
def readable(path: Path, ledger: Ledger, expected: str) -> Iterator[None]:
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
        f"{path}: found {rows} rows, none of them readable{first}; expected {expected}; set `path` "
        "to the release, or to one of its files"
    )


def text(row: Mapping[str, Any], key: str) -> str:
    """A field's text without space at its ends; may be empty.

    Raises:
        ValueError: no text there, or half a surrogate pair in it.
    """
    value = row.get(key)
    if not isinstance(value, str):
        what = type(value).__name__ if key in row else "nothing"
        raise ValueError(f"found {what} as `{key}`, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON can escape half a surrogate pair, which no tokenizer or file takes.
        raise ValueError(f"found half a surrogate pair in `{key}`, expected characters") from None
    return value.strip()


def shown(row: Any) -> str:
    """A row as a quarantine shows it."""
    return json.dumps(row, default=str)
