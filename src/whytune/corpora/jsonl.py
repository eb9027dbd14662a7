"""JSON Lines: one object a line; a line that is none is left out and told."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from whytune.corpora.ledger import SHOWN, Ledger

_decode = json.JSONDecoder().raw_decode


def rows(
    blocks: Iterable[bytes], file: str, ledger: Ledger, *, mark: bool = True
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line from 1, and column -> cell.

    Args:
        blocks: whole lines, several at a time.
        file: for what is left out.
        ledger: gets it.
        mark: the first line may begin with a byte order mark.
    """
    before = 0
    for block in blocks:
        lines = block.removesuffix(b"\n").split(b"\n")
        for number, line in enumerate(lines, start=before + 1):
            try:
                text = line.decode("utf-8-sig" if mark and number == 1 else "utf-8").strip()
                if text:
                    yield number, _object(text)
            except (RecursionError, ValueError) as error:
                reason = f"not readable as JSON ({error}); expected one JSON object a line"
                if isinstance(error, UnicodeDecodeError):
                    reason = f"byte 0x{line[error.start]:02x} is not UTF-8; expected UTF-8 text"
                shown = line[: 4 * SHOWN].decode("utf-8-sig", "replace").rstrip()
                ledger.rows += 1
                ledger.quarantine(file, number, reason, shown)
        before += len(lines)


def _object(text: str) -> dict[str, Any]:
    found, end = _decode(text)
    if end < len(text):
        raise ValueError(f"more after its end at column {end + 1}")
    if type(found) is not dict:
        raise ValueError(f"found {type(found).__name__}")
    return found
