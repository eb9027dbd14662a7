"""Whether a reason gives its label away by name, and the reason without the names."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

MASK = "[label]"
"""What stands for a name; it never counts as a name itself."""


def leaks(text: str, labels: Sequence[str]) -> bool:
    """Whether a text names one of the labels, in capitals or not, as words of their own.

    Letters, digits, `_` and the marks that combine with them make a word, in any script, so
    `1` is not named by `10`, nor by `1.5`; where a script sets no space between words, a label is
    found only where something else parts it from them. Any white space may stand between the words
    of a label.
    """
    return any(found.lastgroup != "mark" for found in _names(tuple(labels)).finditer(text))


def masked(text: str, labels: Sequence[str]) -> str:
    """The text with `[label]` for each name of a label; of several at one place, the longest.

    `leaks(masked(text, labels), labels)` is False.
    """
    # Once more where what stood before a name kept it from being one: labels `a`, `+b` in `a+b`.
    while leaks(text, labels):
        text = _names(tuple(labels)).sub(MASK, text)
    return text


@lru_cache(maxsize=64)
def _names(labels: tuple[str, ...]) -> re.Pattern[str]:
    names = [_name(label) for label in sorted(labels, key=len, reverse=True)]
    # Nothing else begins at a mark, so that neither `label` nor `[label]` is found in one.
    mark = f"(?P<mark>(?-i:{re.escape(MASK)}))"
    return re.compile("|".join([mark, *names]), re.IGNORECASE)


def _name(label: str) -> str:
    words = r"\s+".join(re.escape(word) for word in label.split())
    before, after = r"(?<!\w)", rf"(?![\w{_combining()}])"
    if label[:1].isdigit():
        before += r"(?<!\d[.,])"
    if label[-1:].isdigit():
        after += r"(?![.,]\d)"
    return f"{before}{words}{after}"


@lru_cache(maxsize=1)
def _combining() -> str:
    """Marks that combine with the letter before them, as ranges; `\\w` has none of them."""
    codes = [c for c in range(0x300, 0x1E950) if unicodedata.category(chr(c))[0] == "M"]
    starts = [c for c, before in zip(codes, [0, *codes], strict=False) if c != before + 1]
    ends = [c for c, after in zip(codes, [*codes[1:], 0], strict=True) if c + 1 != after]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))
