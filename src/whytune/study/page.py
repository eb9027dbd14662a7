"""How numbers and texts look on a page, and the templates that are filled with them."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from whytune.study import tables
from whytune.study.stored import Interval, Record
from whytune.study.titles import METRICS

FOLD = 420
"""Characters of a text that are shown before it is folded."""
UNKNOWN = "–"
"""Stands where a figure is not defined."""


def minute(moment: datetime) -> str:
    """A moment without its seconds."""
    if moment.tzinfo is None:
        return f"{moment:%Y-%m-%d %H:%M}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float | None) -> str:
    """Seconds in hours, minutes and seconds."""
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    pieces = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0 or hours > 0)
    return " ".join([*pieces, f"{rest} s"])


def number(value: float | int | None, digits: int = 3) -> str:
    """A figure for reading, with a real minus."""
    if value is None:
        return UNKNOWN
    text = f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _between(interval: Interval | None, digits: int = 3) -> str:
    if interval is None or interval.value is None or interval.low is None or interval.high is None:
        return ""
    return f"[{number(interval.low, digits)}, {number(interval.high, digits)}]"


def _between_ends(row: Record) -> str:
    return _between(Interval(value=row["difference"], low=row["low"], high=row["high"]), 4)


def _column_between(row: Record, name: str) -> str:
    return _between(
        Interval(value=row[name], low=row.get(f"{name}_low"), high=row.get(f"{name}_high"))
    )


def _p_value(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def _folded(text: str) -> tuple[str, str]:
    """The beginning of a text and its rest; the rest is empty where the text is short."""
    if len(text) <= FOLD * 1.25:
        return text, ""
    cut = max(text.rfind(" ", 0, FOLD), text.rfind("\n", 0, FOLD))
    # Scripts that write no spaces are cut anywhere.
    cut = cut if cut > FOLD // 2 else FOLD
    return text[:cut], text[cut:]


def _cell(text: Any) -> str:
    """Text that Markdown shows as it is, in a table cell too."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", line)


def environment() -> jinja2.Environment:
    """Templates of this folder; everything put into an HTML page is escaped."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    pages.filters.update(
        number=number,
        minute=minute,
        between=_between,
        between_ends=_between_ends,
        column_between=_column_between,
        entry_between=lambda entry: _between(
            Interval(value=entry.value, low=entry.low, high=entry.high)
        ),
        p_value=_p_value,
        folded=_folded,
        cell=_cell,
    )
    pages.globals.update(
        metrics_of=tables.metrics_of, best=tables.best, unknown=UNKNOWN,
        titles={metric.name: metric.title for metric in METRICS},
    )  # fmt: skip
    return pages
