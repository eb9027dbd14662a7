"""Texts that are no plain text: markup and what templates leave behind; and how long texts are."""

import html
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

WORDLESS, TAGS, ENTITIES, TEMPLATE = "no words", "HTML tags", "HTML entities", "template tokens"
# Elements by name: `<name>` or `x < y > z` in a text about something else is no markup. Without
# `s`, which begins and ends a text in templates more often than it strikes one through.
_ELEMENTS = (
    "a|abbr|article|audio|b|blockquote|body|br|button|center|code|dd|del|div|dl|dt|em|"
    "embed|font|footer|form|h1|h2|h3|h4|h5|h6|head|header|hr|html|i|iframe|img|input|"
    "label|li|link|main|meta|nav|ol|option|p|param|pre|q|script|section|select|small|"
    "span|strong|style|sub|sup|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|"
    "ul|video"
)
_TAG = re.compile(rf"</?(?:{_ELEMENTS})(?:\s[^<>]*)?/?>|<!--|<!doctype\b", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_TEMPLATE = re.compile(
    r"<\|[^|<>\n]{1,40}\|>"  # <|im_start|>, <|endoftext|>
    r"|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|\{\{[^{}\n]{1,80}\}\}|\{%[^{}\n]{1,80}%\}"  # a slot that nobody filled
    r"|^### ?(?:Instruction|Input|Response):|^(?:Human|Assistant):",
    re.MULTILINE,
)
PERCENTS = (5, 25, 50, 75, 95, 99)


def marks(text: str) -> Iterator[str]:
    """Kinds of markup that stand in a text, each once."""
    if not any(character.isalnum() for character in text):
        yield WORDLESS
    if _TAG.search(text):
        yield TAGS
    if any(html.unescape(found) != found for found in _ENTITY.findall(text)):
        yield ENTITIES
    if _TEMPLATE.search(text):
        yield TEMPLATE


def marked(texts: Sequence[str]) -> dict[str, list[int]]:
    """Kind of markup -> indices of the texts that hold it; kinds that are nowhere are left out."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        for kind in marks(text):
            found[kind].append(index)
    return dict(found)


def conflicts(labelled: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Texts that carry different labels.

    Args:
        labelled: (text, label), one for each example.

    Returns:
        Text -> label -> how often; only of texts with two labels or more.
    """
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    for text, label in labelled:
        by_text[text][label] += 1
    return {text: dict(labels) for text, labels in by_text.items() if len(labels) > 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long texts are, in tokens."""

    n: int
    mean: float
    percentiles: Mapping[str, int]
    """`5`, `25`, `50` … -> the smallest length that so many per cent of the texts keep to."""
    longest: int


def lengths(counts: Sequence[int]) -> Lengths:
    """Mean, percentiles (by nearest rank, so each is a length that occurs) and the longest.

    Raises:
        ValueError: no counts.
    """
    if not counts:
        raise ValueError("no texts, so no lengths")
    ordered = sorted(counts)
    ranks = {str(p): ordered[math.ceil(p * len(ordered) / 100) - 1] for p in PERCENTS}
    return Lengths(
        n=len(ordered), mean=sum(ordered) / len(ordered), percentiles=ranks, longest=ordered[-1]
    )
