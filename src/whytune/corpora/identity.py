"""Names for content, and an order that depends on nothing but names and a seed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from whytune.records import Turn

T = TypeVar("T")


def content_id(prefix: str, turns: Sequence[Turn]) -> str:
    """The prefix and 16 hex digits of the SHA-256 of a conversation, roles included."""
    content = json.dumps([[turn.role, turn.text] for turn in turns], ensure_ascii=False)
    return f"{prefix}-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def normal(text: str) -> str:
    """Text as groups compare it: case folded, every run of white space one space."""
    return " ".join(text.casefold().split())


def hash_order(items: Iterable[T], key: Callable[[T], str], seed: int) -> list[T]:
    """Items ordered by SHA-256 of `seed:key`: shuffled, yet the same everywhere.

    A random generator would make the order depend on the order of the files and on the
    version of the library.
    """

    def place(item: T) -> tuple[bytes, str]:
        name = key(item)
        digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
        return digest, name

    return sorted(items, key=place)
