"""A check as a page: what the data is like, before anyone is taught.

The page stands for itself, as a study's does: no network, no script; beside it lie the tables
with the numbers behind its pictures, and the rows that could not be read.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from whytune import store
from whytune.lint import duplicates, words
from whytune.lint.health import Health
from whytune.recipe import Recipe
from whytune.records import Kind
from whytune.study import check_figures, check_tables, figures, tables
from whytune.study.findings import Findings, Sheet
from whytune.study.page import environment
from whytune.study.stored import Record
from whytune.teaching.vocabulary import STOP_WORDS

NAME = "check.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure of the page; several drawings where each arm has its own."""

    title: str
    caption: str
    data: str
    """The CSV file, relative to the page's folder."""
    drawings: list[Markup]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One corpus and task as the page shows it."""

    key: str
    findings: Findings
    pictures: list[Picture]


def build(folder: Path, recipe: Recipe, sheets: Sequence[Sheet]) -> Path:
    """Write `check.html`, `tables/` and `quarantine.jsonl` into a folder.

    Returns:
        The page.
    """
    healths: dict[str, Health] = {s.findings.corpus: s.findings.health for s in sheets}
    shown = {
        "name": recipe.name,
        "model": recipe.model,
        "faults": list(dict.fromkeys(f for sheet in sheets for f in sheet.findings.faults)),
        "healths": healths,
        "sections": [_section(folder, sheet) for sheet in sheets],
        "threshold": duplicates.THRESHOLD,
    }
    path = folder / NAME
    store.write_text(path, environment().get_template("check.html.jinja").render(shown))
    return path


def _section(folder: Path, sheet: Sheet) -> Section:
    key = f"{sheet.findings.corpus}--{sheet.findings.task}"
    key = re.sub(r"[^A-Za-z0-9._-]+", "_", key)
    return Section(key=key, findings=sheet.findings, pictures=list(_pictures(folder, key, sheet)))


def _pictures(folder: Path, key: str, sheet: Sheet) -> Iterator[Picture]:
    yield _answers(folder, key, sheet)
    if sheet.text_tokens:
        yield _text_lengths(folder, key, sheet)
    if not sheet.explanations:
        return
    arms = list(check_tables.by_explanation(sheet))
    sizes = ", ".join(f"{len(sheet.explanations[arm])} ({name})"
                      for name, arm in check_tables.by_explanation(sheet).items())  # fmt: skip
    rows = check_tables.explanation_lengths(sheet)
    yield _picture(
        folder, f"{key}--explanation-lengths", "How long explanations are",
        f"Tokens of each explanation that is taught. Arms with the same explanations are drawn "
        f"once. n = {sizes}.",
        rows, [("", check_figures.lengths_by_arm(rows, arms))],
    )  # fmt: skip
    rows = check_tables.positions(sheet)
    yield _picture(
        folder, f"{key}--positions", "Where words mean something",
        f"Share of explanations whose word at a position is no stopword (English: "
        f"{STOP_WORDS}), of those that reach it; told while {words.FEWEST} explanations or "
        f"more do. n = {sizes}.",
        rows, [("", check_figures.positions(rows, arms))],
    )  # fmt: skip
    yield _beginnings(folder, key, sheet)


def _answers(folder: Path, key: str, sheet: Sheet) -> Picture:
    rows = check_tables.answers(sheet)
    sizes = f"n = {len(sheet.answers['taught'])} lessons, {len(sheet.answers['measured'])} measured"
    ordinal = sheet.kind is Kind.ORDINAL
    chart = check_figures.scores(rows) if ordinal else check_figures.labels(rows, sheet.labels)
    title = "Scores" if ordinal else "Labels"
    caption = (
        f"Bars: {title.lower()} behind the lessons. Points: those that answers are measured "
        f"against, on the held-out parts. {sizes}."
    )
    return _picture(folder, f"{key}--answers", f"{title} taught and measured", caption, rows,
                    [("", chart)])  # fmt: skip


def _text_lengths(folder: Path, key: str, sheet: Sheet) -> Picture:
    tokens = sheet.findings.tokens
    assert tokens is not None
    rows = check_tables.text_lengths(sheet)
    # A limit far beyond every text would press the bars against the axis.
    near = tokens.max_length < 1.5 * rows[-1]["end"]
    limit = tokens.max_length if near else None
    line = "Dashed: prompt.max_length" if near else "Beyond the picture: prompt.max_length"
    caption = (
        f"Tokens of each text, without template and question. {line} ({tokens.max_length}), which "
        f"template and question share; {tokens.cut} texts lose their middle. "
        f"n = {tokens.texts.n}."
    )
    return _picture(folder, f"{key}--text-lengths", "How long texts are", caption, rows,
                    [("", check_figures.lengths(rows, limit))])  # fmt: skip


def _beginnings(folder: Path, key: str, sheet: Sheet) -> Picture:
    rows, charts = [], []
    for name, arm in check_tables.by_explanation(sheet).items():
        own = check_tables.beginnings(sheet, arm)
        rows += [{"arm": name, **row} for row in own]
        if own:
            charts.append((name, check_figures.beginnings(own, name)))
    caption = (
        f"The words that stand most often among an explanation's first {words.FIRST}, without "
        f"stopwords (English: {STOP_WORDS})."
    )
    return _picture(folder, f"{key}--beginnings", "How explanations begin", caption, rows, charts)


def _picture(
    folder: Path, key: str, title: str, caption: str, rows: list[Record],
    charts: Sequence[tuple[str, Any]],
) -> Picture:  # fmt: skip
    data = f"tables/{key}.csv"
    store.write_text(folder / data, tables.as_csv(rows))
    # Safe: vega escapes every text that it draws.
    drawings = [Markup(figures.inline(figures.svg(chart), f"{key}-{number}"))
                for number, (_, chart) in enumerate(charts)]  # fmt: skip
    return Picture(title=title, caption=caption, data=data, drawings=drawings)
