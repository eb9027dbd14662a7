"""Files that are written row by row, and are whole or not there."""

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from whytune import store
from whytune.errors import FolderError


@contextmanager
def whole(place: Path) -> Iterator[Path]:
    """A file beside a place, to be written by the block, that takes its name at the end.

    Raises:
        FolderError: it cannot be written.
    """
    part = place.with_name(f".{place.name}.part")
    try:
        yield part
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(part, place)
        store.sync_folder(place.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FolderError(
            f"{place}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def text_stream(part: Path, place: Path) -> Iterator[TextIO]:
    """A stream of text, packed where the name of the place ends in `.gz`."""
    with part.open("wb") as raw:
        packed = place.name.endswith(".gz")
        # Without name and time, equal rows are equal bytes.
        stream: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if packed else raw
        with io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="") as text:
            yield text
