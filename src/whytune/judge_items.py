"""What a judge is handed: texts, conversations and whytune's own records, each read as an example.

What cannot be read is never guessed at: it is a ValueError that says what was found and what was
expected, and whoever reads many items adds which one it was.
"""

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from whytune.corpora.identity import content_id
from whytune.errors import InputError
from whytune.records import Example, Turn

EXPECTED = "a text, or a list of messages {role, content}"
_FAULTS = 5
"""Items that one message names; more are counted."""


def example(item: Any, roles: Collection[str] | None) -> Example:
    """One item as an example, whose id is a hash of its content.

    Args:
        item: a text; a conversation, as a list of chat messages (`role`, and `content` as text or
            as a list of `{type: text, text}` parts) or of `Turn`s; or an `Example`, taken as it is.
        roles: who may speak in chat messages; None: anybody, as always in `Turn`s.

    Raises:
        ValueError: it is something else, or says nothing.
    """
    if isinstance(item, Example):
        for turn in item.turns:
            _text(turn.text)
        return item
    value = item.as_py() if hasattr(item, "as_py") else item  # a cell of an Arrow column
    if isinstance(value, str):
        turns: tuple[Turn, ...] = (Turn(role="text", text=_text(value)),)
    else:
        # pandas hands a list column of a Parquet file on as arrays.
        value = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"found {shown(value)}, expected {EXPECTED}")
        turns = tuple(_turn(turn, roles) for turn in value)
    return Example(id=content_id("item", turns), source="items", group="", turns=turns)


def conversation(value: Any, roles: Collection[str] | None) -> Example:
    """`example` of a table's cell that holds a conversation, which in a CSV is JSON text.

    Raises:
        ValueError: it holds something else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None if not value.strip() else value
    if not isinstance(value, list) or not value:
        raise ValueError(f"found {shown(value)}, expected a list of messages {{role, content}}")
    return example(value, roles)


def text(value: Any) -> Example:
    """`example` of a table's cell that holds a text.

    Raises:
        ValueError: it holds something else, or nothing.
    """
    if not isinstance(value, str):
        raise ValueError(f"found {shown(value)}, expected text")
    return example(value, ())


def read(items: Iterable[Any], roles: Collection[str] | None) -> list[Example]:
    """All items, in their order.

    Raises:
        InputError: not an iterable of items, or some that cannot be read, by their numbers from 0.
    """
    check(items)
    examples, faults = [], []
    for number, item in enumerate(items):
        try:
            examples.append(example(item, roles))
        except ValueError as fault:
            faults.append(f"items[{number}]: {fault}")
    if len(faults) > _FAULTS:
        faults[_FAULTS:] = [f"and {len(faults) - _FAULTS} more"]
    if faults:
        raise InputError("\n".join(faults))
    return examples


def stream(items: Iterable[Any], roles: Collection[str] | None) -> Iterator[Example]:
    """Like `read`, item by item.

    Raises:
        InputError: at the first item that cannot be read.
    """
    for number, item in enumerate(items):
        try:
            yield example(item, roles)
        except ValueError as fault:
            raise InputError(f"items[{number}]: {fault}") from None


def check(items: Any) -> None:
    """Whether this is several items, and not one of them.

    Raises:
        InputError: it is not.
    """
    if isinstance(items, str | bytes | Mapping | Example) or not hasattr(items, "__iter__"):
        raise InputError(
            f"items: found {shown(items)}, expected a list of items, each {EXPECTED}; put a single "
            "one into a list"
        )


def shown(value: Any) -> str:
    """The beginning of a value, for messages."""
    told = ascii(value)
    return told if len(told) <= 60 else f"{told[:57]}…"


def _turn(turn: Any, roles: Collection[str] | None) -> Turn:
    if isinstance(turn, Turn):
        _text(turn.text)
        return turn
    if not isinstance(turn, Mapping):
        raise ValueError(f"found {shown(turn)} in a conversation, expected {{role, content}}")
    role = turn.get("role")
    if not isinstance(role, str) or not role.strip():
        raise ValueError(f"found role {shown(role)}, expected who speaks")
    if roles is not None and role not in roles:
        raise ValueError(
            f"found role {shown(role)}, expected {_either(roles)}{_hint(role, roles)}; the student "
            "was taught no other speaker"
        )
    content = turn.get("content") if turn.get("content") is not None else turn.get("text")
    return Turn(role=role, text=_text(_joined(content)))


def _joined(content: Any) -> Any:
    """The text of chat content in parts; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        raise ValueError(f"found content {shown(content)}, expected text, or parts of type text")
    parts = [part.get("text") for part in content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else parts


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"found {shown(value)}, expected text")
    if not value.strip():
        raise ValueError(f"found no text ({shown(value)}), expected some")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"found half a surrogate pair at character {error.start}, expected whole characters"
        ) from None
    return str(value)


def _either(roles: Collection[str]) -> str:
    names = sorted(roles)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _hint(role: str, roles: Collection[str]) -> str:
    close = difflib.get_close_matches(role.lower(), roles, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
