"""The files of a release and the rows in them, each with its place; what a cell may hold."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from whytune.corpora import files
from whytune.corpora.corpus import Item
from whytune.corpora.ledger import SHOWN, Ledger
from whytune.errors import CorpusError
from whytune.records import Split

T = TypeVar("T")

STANDING_IN = "validation files are taught from, as no training file is there"
_CELL_LIMIT = 2**27  # characters; Python's own limit of 128 KiB is less than a long document


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Generic[T]):
    """One row of a file, before anything is read from it."""

    file: str
    """Its name in the ledger."""
    line: int | None
    """From 1; None where the file has no lines."""
    value: T
    text: str
    """What the ledger shows of it."""
    place: str = ""
    """Names the row in a file without lines: `item 3: `."""


def found(
    path: Path, patterns: Sequence[str], title: str, folders: Sequence[str] = (".",)
) -> dict[str, Path]:
    """Name under `path` -> file, in the order of the patterns; each plain or with `.gz`.

    Args:
        path: the release's folder, or one of its files.
        patterns: file names, or globs.
        title: the corpus, for messages.
        folders: where in the release files may lie.

    Raises:
        CorpusError: none of them is there.
    """
    if path.is_file():
        plain = path.name.removesuffix(".gz")
        if any(Path(plain).match(pattern) for pattern in patterns):
            return {path.name: path}
        raise CorpusError(
            f"{path}: found a file that is none of {title}'s; expected {', '.join(patterns)} (or "
            ".gz); set `path` to the release's folder or to one of these"
        )
    there = {
        candidate.relative_to(path).as_posix(): candidate
        for folder in folders
        for pattern in patterns
        for candidate in _plain_or_packed(path / folder, pattern)
    }
    if not there:
        instead = f"found none of {title}'s files" if path.is_dir() else "no such file or folder"
        raise CorpusError(
            f"{path}: {instead}; expected {', '.join(patterns)} (or .gz); set `path` to the folder "
            "that holds them"
        )
    return there


def _plain_or_packed(folder: Path, pattern: str) -> list[Path]:
    plain = {candidate.name: candidate for candidate in folder.glob(pattern)}
    packed = {c.name.removesuffix(".gz"): c for c in folder.glob(pattern + ".gz")}
    chosen = {**packed, **plain}
    return [chosen[name] for name in sorted(chosen)]


def native_splits(
    names: Iterable[str], splits: Mapping[str, Split], ledger: Ledger
) -> dict[str, Split]:
    """File -> its split. The validation files are taught from where no training file is there.

    Without that, a release whose training file cannot be had could be measured on, but taught
    from by nobody.
    """
    own = {name: splits[Path(name).name.removesuffix(".gz")] for name in names}
    if set(own.values()) != {Split.VALIDATION, Split.TEST}:
        return own
    standing_in = [name for name, split in own.items() if split is Split.VALIDATION]
    ledger.counts[STANDING_IN] += len(standing_in)
    return {**own, **dict.fromkeys(standing_in, Split.TRAIN)}


def text_rows(path: Path, name: str, ledger: Ledger) -> Iterator[Row[str]]:
    """Every line that is not blank."""
    for number, line in files.lines(path, ledger, name=name):
        if line.strip():
            ledger.rows += 1
            yield Row(file=name, line=number, value=line, text=line)


def jsonl_rows(path: Path, name: str, ledger: Ledger) -> Iterator[Row[dict[str, Any]]]:
    """Every line's JSON object; a line that holds none is quarantined."""
    for row in text_rows(path, name, ledger):
        try:
            value = json.loads(row.value)
        except (ValueError, RecursionError) as error:
            ledger.quarantine(name, row.line, f"not JSON ({error}), expected an object", row.text)
            continue
        if isinstance(value, dict):
            yield Row(file=name, line=row.line, value=value, text=row.text)
        else:
            kind = type(value).__name__
            ledger.quarantine(name, row.line, f"found {kind}, expected an object", row.text)


def json_file(path: Path, name: str, ledger: Ledger) -> Any:
    """A file that is one JSON value."""
    whole = files.read(path)
    ledger.inputs[name] = whole.sha256
    return files.json_value(whole)


def object_rows(
    values: Any, name: str, ledger: Ledger, place: str = "item"
) -> Iterator[Row[dict[str, Any]]]:
    """The objects of a JSON list; an item that is none is quarantined.

    Raises:
        CorpusError: no list.
    """
    if not isinstance(values, list):
        raise CorpusError(
            f"{name}: found {type(values).__name__}, expected a list of objects; fetch it again"
        )
    for number, value in enumerate(values, start=1):
        ledger.rows += 1
        shown = json.dumps(value)[:SHOWN]
        where = f"{place} {number}: "
        if isinstance(value, dict):
            yield Row(file=name, line=None, value=value, text=shown, place=where)
        else:
            reason = f"{where}found {type(value).__name__}, expected an object"
            ledger.quarantine(name, None, reason, shown)


def csv_rows(path: Path, name: str, ledger: Ledger, delimiter: str) -> Iterator[Row[list[str]]]:
    """The records of a CSV file, quoted line ends included; `line` is where a record begins.

    Raises:
        CorpusError: a cell that never ends.
    """
    csv.field_size_limit(_CELL_LIMIT)
    lines = (f"{line}\n" for _, line in files.lines(path, ledger, name=name))
    reader = csv.reader(lines, delimiter=delimiter)
    start = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                ledger.rows += 1
                yield Row(file=name, line=start, value=record, text=delimiter.join(record)[:SHOWN])
            start = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {start}: not readable as CSV ({error}); expected quotes doubled inside "
            "quotes; fetch it again"
        ) from None


def table_rows(
    path: Path, name: str, ledger: Ledger, delimiter: str, columns: Sequence[str]
) -> Iterator[Row[dict[str, str]]]:
    """The records of a CSV file with a header; a record of another length is quarantined.

    Raises:
        CorpusError: a column is not there.
    """
    header: list[str] | None = None
    for row in csv_rows(path, name, ledger, delimiter):
        if header is None:
            header = row.value
            ledger.rows -= 1
            _check_columns(path, header, columns)
        elif len(row.value) != len(header):
            reason = f"found {len(row.value)} cells, expected {len(header)}"
            ledger.quarantine(name, row.line, reason, row.text)
        else:
            cells = dict(zip(header, row.value, strict=True))
            yield Row(file=name, line=row.line, value=cells, text=row.text)


def _check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in header]
    if missing:
        raise CorpusError(
            f"{path}: found the columns {', '.join(header)}, expected also {', '.join(missing)}; "
            "fetch upstream's file"
        )


def items(
    rows: Iterable[Row[T]], read: Callable[[T], Iterable[Item]], ledger: Ledger
) -> Iterator[Item]:
    """What `read` makes of every row; a row that it refuses with ValueError is quarantined."""
    for row in rows:
        try:
            own = [replace(item, line=row.line) for item in read(row.value)]
        except ValueError as fault:
            ledger.quarantine(row.file, row.line, f"{row.place}{fault}", row.text)
        else:
            yield from own


# Fields


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A field that must be text with something in it; ValueError where it is not."""
    found = row.get(key)
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"found no `{key}`, expected text")
    return encodable(found)


def optional_text(row: Mapping[str, Any], key: str) -> str | None:
    """A field that may be missing or empty (None); ValueError where it is something else."""
    found = row.get(key)
    if found is None:
        return None
    if not isinstance(found, str):
        raise ValueError(f"found `{key}` {found!r:.60}, expected text")
    return encodable(found.strip()) or None


def encodable(text: str) -> str:
    """The text; ValueError where it holds half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"found half a surrogate pair at character {error.start}, expected whole characters"
        ) from None
    return text


def number_of(value: Any, scale: tuple[float, float]) -> float:
    """A number (or its text) on a scale; ValueError where it is none."""
    low, high = scale
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise ValueError(f"found score {value!r:.60}, expected a number from {low:g} to {high:g}")
    return number


def one_of(label: str, labels: Sequence[str]) -> str:
    """The label; ValueError where it is none of these."""
    if label not in labels:
        raise ValueError(f"found label {label!r:.60}, expected one of {', '.join(labels)}")
    return label
