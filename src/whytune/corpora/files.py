"""Files read whole or not at all, with one clear line where they are not what they should be."""

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from whytune.errors import CorpusError

_LFS = b"version https://git-lfs.github.com/spec"
_GZIP = b"\x1f\x8b"


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
    except FileNotFoundError:
        raise CorpusError(f"{place}: not there; correct the path, or put the file there") from None
    except IsADirectoryError:
        raise CorpusError(f"{place}: found a folder, expected a file; name the file") from None
    except OSError as error:
        raise CorpusError(
            f"{place}: cannot be read ({error.strerror}); expected a readable file; check its rights"
        ) from None
    if packed.startswith(_LFS):
        raise CorpusError(
            f"{place}: found a Git LFS pointer, expected the data; fetch it with `git lfs pull`"
        )
    digest = hashlib.sha256(packed).hexdigest()
    content = _unpack(packed, place) if place.endswith(".gz") else packed
    return Whole(place=place, content=content, sha256=digest)


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


def _unpack(packed: bytes, place: str) -> bytes:
    if not packed.startswith(_GZIP):
        raise CorpusError(
            f"{place}: not gzip data, though its name ends in .gz; rename it, or fetch it again"
        )
    try:
        return gzip.decompress(packed)
    except EOFError:
        raise CorpusError(
            f"{place}: gzip data that ends too early; expected a whole file; fetch it again"
        ) from None
    except (OSError, zlib.error) as error:
        raise CorpusError(
            f"{place}: damaged gzip data ({error}); expected a whole file; fetch it again"
        ) from None
