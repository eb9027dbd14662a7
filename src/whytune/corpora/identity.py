"""Names for content, and an order that depends on nothing but names and a seed."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring
from typing import TypeVar

from whytune.records import Turn

T = TypeVar("T")


def content_id(prefix: str, turns: Sequence[Turn]) -> str:
    """The prefix and 16 hex digits of the SHA-256 of a conversation, roles included."""
    return text_id(prefix, [(turn.role, turn.text) for turn in turns])


def text_id(prefix: str, turns: Sequence[tuple[str, str]]) -> str:
    """`content_id` of (role, text) pairs, before there are turns."""
    # Piece by piece, this is json.dumps of the list of pairs, at a fifth of its time.
    pairs = [f"[{encode_basestring(role)}, {encode_basestring(text)}]" for role, text in turns]
    return _id(prefix, f"[{', '.join(pairs)}]")


def one_text_id(prefix: str, text: str) -> str:
    """`text_id` of one text without a speaker."""
    return _id(prefix, f'[["text", {encode_basestring(text)}]]')


def _id(prefix: str, content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass"))
    return f"{prefix}-{digest.hexdigest()[:16]}"


def normal(text: str) -> str:
    """Text as groups compare it: case folded, every run of white space one space."""
    # Of printable text, white space is spaces alone; most has single ones, between words.
    if text.isprintable() and "  " not in text and text == text.strip():
        return text.casefold()
    return " ".join(text.casefold().split())


def hash_order(items: Iterable[T], key: Callable[[T], str], seed: int) -> list[T]:
    """Items ordered by SHA-256 of `seed:key`: shuffled, yet the same everywhere.

    A random generator would make the order depend on the order of the files and on the
    version of the library.
    """

    def place(item: T) -> tuple[bytes, str]:
        name = key(item)
        return order(name, seed), name

    return sorted(items, key=place)


def order(name: str, seed: int) -> bytes:
    """Where a name stands in hash order: the 32 bytes of SHA-256 of `seed:name`."""
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
