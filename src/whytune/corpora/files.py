"""Files read whole, or line by line, with one clear line where they are not what they should be."""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any

from whytune.corpora.ledger import SHOWN, Ledger
from whytune.errors import CorpusError

_LFS = b"version https://git-lfs.github.com/spec"
_GZIP = b"\x1f\x8b"
_BUFFER = 1 << 20  # bytes
_BLOCK = 1 << 18  # bytes; small enough to stay in a processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A file's content, unpacked where it was gzipped."""

    place: str
    """Names the file in messages."""
    content: bytes
    sha256: str
    """Of the bytes as they lie on the disk, packed or not; 64 hex digits."""


def read(path: Path | Traversable) -> Whole:
    """Read a file; `.gz` is unpacked.

    Raises:
        CorpusError: not there, not readable, a Git LFS pointer, or not whole gzip data.
    """
    place = str(path)
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise _unreadable(place, error) from None
    _check_head(packed[: len(_LFS)], place)
    digest = hashlib.sha256(packed).hexdigest()
    content = _unpack(packed, place) if place.endswith(".gz") else packed
    return Whole(place=place, content=content, sha256=digest)


def lines(
    path: Path, ledger: Ledger, *, name: str | None = None, encoding: str = "utf-8-sig"
) -> Iterator[tuple[int, str]]:
    """A text file line by line, in flat memory: (line number from 1, text without its line end).

    Only `\\n` and `\\r\\n` end a line, never a Unicode separator. `.gz` is unpacked. A line that is
    not of the encoding is quarantined. The file's SHA-256 stands in the ledger when the last line
    has been taken.

    Args:
        path: the file.
        ledger: gets the file and what could not be read.
        name: the file's name in the ledger; its own name without one.
        encoding: `utf-8-sig`, or what upstream wrote (`latin-1`).

    Raises:
        CorpusError: not there, a folder, a Git LFS pointer, or not whole gzip data.
    """
    name = name or path.name
    codec = encoding.removesuffix("-sig")
    for number, line in enumerate(raw_lines(path, ledger, name=name), start=1):
        try:
            text = line.decode(encoding if number == 1 else codec)
        except UnicodeDecodeError as error:
            ledger.rows += 1
            ledger.quarantine(
                name, number, f"byte 0x{line[error.start]:02x} is not UTF-8",
                line[:SHOWN].decode("utf-8", "replace"),
            )  # fmt: skip
            continue
        yield number, text.removesuffix("\n").removesuffix("\r")


def raw_lines(path: Path, ledger: Ledger, *, name: str | None = None) -> Iterator[bytes]:
    """Like `lines`, but bytes as they lie in the (unpacked) file, line ends included."""
    with _unpacked(path, ledger, name or path.name) as stream:
        yield from stream


def blocks(path: Path, ledger: Ledger) -> Iterator[bytes]:
    """Like `raw_lines`, but many lines at a time."""
    with _unpacked(path, ledger, path.name) as stream:
        while block := stream.read1(_BLOCK):
            yield block + stream.readline()


@contextmanager
def _unpacked(path: Path, ledger: Ledger, name: str) -> Iterator[io.BufferedReader]:
    with opened(path) as raw:
        hashed = _Hashed(raw)
        unpacked = gzip.GzipFile(fileobj=hashed) if path.name.endswith(".gz") else hashed
        try:
            yield io.BufferedReader(unpacked, _BUFFER)
        except (EOFError, OSError, zlib.error) as error:
            raise _damaged(str(path), error) from None
        ledger.inputs[name] = hashed.hexdigest()


def between(path: Path, start: int, stop: int) -> Iterator[bytes]:
    """Like `blocks`, from one beginning of a line of a plain file to another, and not hashed."""
    left = stop - start
    with opened(path) as raw:
        raw.seek(start)
        while left > 0 and (block := raw.read(min(_BLOCK, left))):
            if len(block) < left:
                block += raw.readline()
            left -= len(block)
            yield block


def cuts(path: Path, parts: int) -> list[int]:
    """Where so many stretches of about the same length begin, fewer where a line is longer than
    one, and where the last one ends.
    """
    with opened(path) as raw:
        size = raw.seek(0, io.SEEK_END)
        found = {0, size}
        for part in range(1, parts):
            raw.seek(max(size * part // parts - 1, 0))
            raw.readline()
            found.add(raw.tell())
    return sorted(found)


def sha256(path: Path) -> str:
    """Of the bytes as they lie on the disk, in flat memory; 64 hex digits.

    Raises:
        CorpusError: not there, not readable, or a Git LFS pointer.
    """
    with opened(path) as raw:
        return _Hashed(raw).hexdigest()


class _Hashed(io.RawIOBase):
    """A stream that knows the SHA-256 of what went through it."""

    def __init__(self, raw: IO[bytes]):
        self._raw, self._hash = raw, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._raw.read(len(buffer))
        self._hash.update(found)
        buffer[: len(found)] = found
        return len(found)

    def hexdigest(self) -> str:
        while more := self._raw.read(_BUFFER):
            self._hash.update(more)
        return self._hash.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file open for reading, at its beginning.

    Raises:
        CorpusError: not there, not readable, a Git LFS pointer, or no gzip data in a `.gz`.
    """
    place = str(path)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise _unreadable(place, error) from None
    with raw:
        head = raw.read(len(_LFS))
        raw.seek(0)
        _check_head(head, place)
        yield raw


def text(whole: Whole) -> str:
    """The content as UTF-8 text, without a byte order mark.

    Raises:
        CorpusError: not UTF-8, with the number of the line.
    """
    try:
        return whole.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = whole.content.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{whole.place}, line {line}: byte 0x{whole.content[error.start]:02x} is not UTF-8; "
            "expected UTF-8 text; convert the file"
        ) from None


def json_value(whole: Whole) -> Any:
    """The content as one JSON value.

    Raises:
        CorpusError: not UTF-8 or not JSON, with the number of the line.
    """
    try:
        return json.loads(text(whole))
    except json.JSONDecodeError as error:
        raise _not_json(whole.place, error.lineno, error) from None
    except (RecursionError, ValueError) as error:
        raise CorpusError(f"{whole.place}: not readable as JSON ({error}); expected JSON") from None


def json_lines(whole: Whole) -> list[tuple[int, dict[str, Any]]]:
    """The content as one JSON object a line: (line number from 1, object); empty lines skipped.

    Raises:
        CorpusError: not UTF-8, or a line that is not a JSON object, with its number.
    """
    rows = []
    # Only "\n" ends a line: str.splitlines would also cut at Unicode separators inside strings.
    for number, line in enumerate(text(whole).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise _not_json(whole.place, number, error) from None
        except (RecursionError, ValueError) as error:
            raise CorpusError(
                f"{whole.place}, line {number}: not readable as JSON ({error}); expected one JSON "
                "object a line"
            ) from None
        if not isinstance(value, dict):
            raise CorpusError(
                f"{whole.place}, line {number}: found {type(value).__name__}, expected a JSON "
                "object; write one {…} a line"
            )
        rows.append((number, value))
    return rows


def _not_json(place: str, line: int, error: json.JSONDecodeError) -> CorpusError:
    return CorpusError(
        f"{place}, line {line}: not JSON ({error.msg} at column {error.colno}); expected whole "
        "JSON; the file may be cut off: fetch it again"
    )


def _unreadable(place: str, error: OSError) -> CorpusError:
    if isinstance(error, FileNotFoundError):
        return CorpusError(f"{place}: not there; correct the path, or put the file there")
    if isinstance(error, IsADirectoryError):
        return CorpusError(f"{place}: found a folder, expected a file; name the file")
    return CorpusError(
        f"{place}: cannot be read ({error.strerror}); expected a readable file; check its rights"
    )


def _check_head(head: bytes, place: str) -> None:
    """Whether a file begins as its name says."""
    if head.startswith(_LFS):
        raise CorpusError(
            f"{place}: found a Git LFS pointer, expected the data; fetch it with `git lfs pull`"
        )
    if place.endswith(".gz") and not head.startswith(_GZIP):
        raise CorpusError(
            f"{place}: not gzip data, though its name ends in .gz; rename it, or fetch it again"
        )


def _unpack(packed: bytes, place: str) -> bytes:
    try:
        return gzip.decompress(packed)
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(place, error) from None


def _damaged(place: str, error: Exception) -> CorpusError:
    if isinstance(error, EOFError):
        return CorpusError(
            f"{place}: gzip data that ends too early; expected a whole file; fetch it again"
        )
    return CorpusError(
        f"{place}: damaged gzip data ({error}); expected a whole file; fetch it again"
    )
