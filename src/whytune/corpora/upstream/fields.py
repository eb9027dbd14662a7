"""What a field of a row may hold: texts, lists, numbers, labels. Anything else is a ValueError."""

import ast
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any


def text(row: Mapping[str, Any], key: str, *, blank: bool = False, strip: bool = True) -> str:
    """The text of a field.

    Args:
        row: where the field stands.
        key: its name.
        blank: whether there may be nothing in it.
        strip: whether space at its ends goes; off where it is wanted as it lies there.

    Raises:
        ValueError: no text there, nothing in it, or half a surrogate pair.
    """
    found = row.get(key)
    if not isinstance(found, str) or not (blank or found.strip()):
        raise _fault(key, found, "text")
    return encodable(found.strip() if strip else found, f"`{key}`")


def optional_text(row: Mapping[str, Any], key: str) -> str | None:
    """The text of a field that may be missing or empty (None).

    Raises:
        ValueError: it is something else, or half a surrogate pair is in it.
    """
    return None if row.get(key) is None else text(row, key, blank=True) or None


def objects(row: Mapping[str, Any], key: str, *, blank: bool = False) -> list[dict[str, Any]]:
    """A field's list of objects; `blank` says whether it may be empty.

    Raises:
        ValueError: no list, or one that holds something else.
    """
    found = row.get(key)
    if not isinstance(found, list) or not (found or blank) or not _all(found, dict):
        raise _fault(key, found, "a list of objects")
    return found


def _all(values: Sequence[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def _fault(key: str, found: Any, expected: str) -> ValueError:
    what = f"no `{key}`" if found is None else f"`{key}` {found!r:.60}"
    return ValueError(f"found {what}, expected {expected}")


def encodable(text: str, place: str) -> str:
    """The text.

    Raises:
        ValueError: half a surrogate pair is in it. JSON can escape one, which no tokenizer or file
            takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"found half a surrogate pair at character {error.start} of {place}, expected whole "
            "characters"
        ) from None
    return text


def literal(text: str) -> Any:
    """The value that a text is in Python's notation; None where it is none."""
    try:
        with warnings.catch_warnings():
            # A stray backslash is a backslash; Python would warn of it as of a program's.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def texts(listed: str, what: str) -> list[str]:
    """A list of texts in Python's notation; empty where nothing is written.

    Raises:
        ValueError: something else is written, or half a surrogate pair is in it.
    """
    found = literal(listed) if listed.strip() else []
    if not isinstance(found, list) or not _all(found, str):
        raise ValueError(f"found {listed!r:.60}, expected a list of {what}")
    return [encodable(text, what) for text in found]


def number(value: Any, scale: tuple[float, float]) -> float:
    """A number (or its text) on a scale.

    Raises:
        ValueError: it is none.
    """
    low, high = scale
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not low <= found <= high:
        raise ValueError(f"found score {value!r:.60}, expected a number from {low:g} to {high:g}")
    return found


def one_of(label: str, labels: Sequence[str]) -> str:
    """The label.

    Raises:
        ValueError: it is none of these.
    """
    if label not in labels:
        raise ValueError(f"found label {label!r:.60}, expected one of {', '.join(labels)}")
    return label
