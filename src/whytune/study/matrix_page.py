"""A cross-corpus matrix as the page shows it: what is said about it, its heat map, its tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from whytune.study import figures, matrix_tables
from whytune.study.matrix_tables import Line
from whytune.study.pictures import key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One figure of a matrix."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One task taught on each corpus and tested on all."""

    task: str
    legend: str
    sentences: Sequence[str]
    drawing: Markup
    columns: Sequence[str]
    panels: Sequence[Panel]
    files: Mapping[str, str]
    """`csv`, `md`, `tex` and `svg`, relative to the study folder."""


def of_study(folder: Path, found: Mapping[str, Any] | None) -> Iterator[Matrix]:
    """The matrices of a study, a task each; nothing where none was asked for.

    Args:
        folder: of the study.
        found: what `matrix.build` returned.
    """
    for one in found["tasks"] if found else ():
        assert found is not None
        drawing = (folder / one["files"]["svg"]).read_text(encoding="utf-8")
        yield Matrix(
            task=one["task"],
            legend=matrix_tables.legend(found, one, "Below each figure"),
            sentences=one["sentences"],
            # Safe: vega escapes every text that it draws.
            drawing=Markup(figures.inline(drawing, key_of("matrix", one["task"]))),
            columns=[column["corpus"] for column in one["tested"]],
            panels=[
                Panel(
                    title=matrix_tables.title(figure),
                    lines=list(matrix_tables.lines(found, one, figure)),
                )
                for figure in one["figures"]
            ],
            files=one["files"],
        )
