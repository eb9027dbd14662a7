"""The files of an upstream release: those that are there, and which split each of them is."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError
from whytune.records import Split

STANDING_IN = "validation files are taught from, as no training file is there"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a release."""

    path: Path
    name: str
    """In the ledger: the path below the folder that the recipe names."""
    split: Split | None = None
    """The release's own; None: it has none, or it is to be drawn."""

    @property
    def plain(self) -> str:
        """Its own name, without folders and `.gz`."""
        return self.path.name.removesuffix(".gz")


def found(
    path: Path, patterns: Collection[str], title: str, *, any_name: bool = False
) -> list[File]:
    """The files of a release, in the order of the patterns, then of their paths.

    Each may be plain or packed (`.gz`); of one that lies there as both, the plain one is taken.

    Args:
        path: the release's folder, or one of its files.
        patterns: names or globs below the folder, without `.gz`.
        title: the corpus, for messages.
        any_name: whether a file that `path` names may be called anything, as its rows tell.

    Raises:
        CorpusError: none of them is there.
    """
    expected = f"expected {', '.join(patterns)} (or .gz)"
    if path.is_file():
        alone = File(path=path, name=path.name)
        if any_name or any(Path(alone.plain).match(Path(pattern).name) for pattern in patterns):
            return [alone]
        raise CorpusError(
            f"{path}: found a file that is none of {title}'s; {expected}; set `path` to the "
            "release's folder or to one of these"
        )
    there = dict.fromkeys(match for pattern in patterns for match in _matching(path, pattern))
    if not there:
        what = f"found no file of {title}" if path.is_dir() else "no such file or folder"
        raise CorpusError(f"{path}: {what}; {expected}; set `path` to the folder that holds them")
    return [File(path=match, name=match.relative_to(path).as_posix()) for match in there]


def _matching(folder: Path, pattern: str) -> list[Path]:
    matching = {match for end in ("", ".gz") for match in folder.glob(pattern + end)}
    return sorted(
        match
        for match in matching
        if not match.is_dir() and (match.suffix != ".gz" or match.with_suffix("") not in matching)
    )


def together(path: Path, names: Sequence[str], title: str, more: Sequence[str] = ()) -> list[File]:
    """Files that are read side by side, in the order of their names.

    Args:
        path: their folder.
        names: files that must be there.
        title: the corpus, for messages.
        more: files that may be there.

    Raises:
        CorpusError: `path` is a file, or one of `names` is not there.
    """
    if path.is_file():
        raise CorpusError(
            f"{path}: found a file, expected the folder with {', '.join(names)}; set `path` to it"
        )
    there = found(path, [*names, *more], title)
    if missing := [name for name in names if name not in {file.plain for file in there}]:
        raise CorpusError(
            f"{path}: found no {', '.join(missing)}; expected {', '.join(names)} side by side; "
            "fetch what is missing"
        )
    return there


def native_splits(there: Sequence[File], splits: Mapping[str, Split], ledger: Ledger) -> list[File]:
    """Labelled files with the splits of their names. Even a test file alone can be measured on.

    The validation files are taught from where no training file is there: a release whose training
    file cannot be had could be measured on otherwise, but taught from by nobody.
    """
    own = [replace(file, split=splits[file.plain]) for file in there]
    if {file.split for file in own} != {Split.VALIDATION, Split.TEST}:
        return own
    standing_in = {Split.VALIDATION: Split.TRAIN, Split.TEST: Split.TEST}
    ledger.counts[STANDING_IN] += sum(file.split is Split.VALIDATION for file in own)
    return [replace(file, split=standing_in[splits[file.plain]]) for file in own]


def whole_splits(there: Sequence[File], splits: Mapping[str, Split]) -> list[File]:
    """Files of raw conversations with the splits of their names, where both sides are there.

    One side alone, or one file that has no split, makes no split: then none of the files has one,
    and both sides are to be drawn out of them.
    """
    own = [replace(file, split=splits.get(file.plain)) for file in there]
    sides = {file.split for file in own}
    return own if None not in sides and {Split.TRAIN, Split.TEST} <= sides else list(there)
