"""A cross-corpus matrix as a heat map: a panel for each arm, and for its difference to the plain one.

Every cell is painted, so that the numbers in it can be read on white and on dark pages alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from whytune.evidence.compare import LOWER_IS_BETTER
from whytune.study import matrix_tables
from whytune.study.figures import CELLS, DARK, LIGHT, PALETTE, WIDTH, Chart
from whytune.study.matrix_tables import LEVEL, Found, title
from whytune.study.stored import Record

EVEN = "#f1f1ef"
DEEP = 0.54
"""Share of the way to the darkest colour from which on numbers are light."""
_NAMES = 68
"""Pixels of the rows' names."""


def heat_map(found: Found, one: Found) -> Chart:
    """The first figure of a task; numbers without their leading zero.

    Args:
        found: what `matrix.build` returns.
        one: its task.
    """
    figure = one["figures"][0]
    levels = [
        cell[figure]["value"] for cell in one["cells"]
        if cell["trained"] and cell["arm"] in found["arms"] and cell[figure]["value"] is not None
    ]  # fmt: skip
    # A baseline far off would paint all students alike: what lies beyond has the last colour.
    low, high = (min(levels), max(levels)) if levels else (0.0, 1.0)
    span = (high - low) or 1.0
    shades = alt.Scale(domain=[low + share * span for share in (0, 1 / 3, 2 / 3, 1)],
                       range=list(CELLS), clamp=True)  # fmt: skip
    panels = [
        _panel(one, list(_levels(found, one, figure, arm, low, span)), shades,
               f"{arm}: {title(figure)}")
        for arm in found["arms"]
    ]  # fmt: skip
    for arm in found["arms"][1:]:
        rows = list(_differences(one, figure, arm))
        most = max((abs(row["value"]) for row in rows), default=0.0) or 1.0
        for row in rows:
            row["ink"] = LIGHT if abs(row["value"]) > 0.9 * most else DARK
        better, worse = PALETTE[0], PALETTE[1]
        ends = [better, EVEN, worse] if figure in LOWER_IS_BETTER else [worse, EVEN, better]
        panels.append(_panel(
            one, rows, alt.Scale(domain=[-most, 0, most], range=ends, interpolate="rgb"),
            f"{arm} − {found['plain']} (blue: {arm} is better; bold: p ≤ {LEVEL:g})",
        ))  # fmt: skip
    return alt.vconcat(*panels, spacing=12)


def _levels(
    found: Found, one: Found, figure: str, arm: str, low: float, span: float
) -> Iterator[Record]:
    for cell in one["cells"]:
        value = cell[figure]["value"]
        if value is not None and cell["arm"] == (arm if cell["trained"] else found["baseline"]):
            yield {**_place(cell), "value": value, "text": _short(value), "told": False,
                   "ink": LIGHT if (value - low) / span > DEEP else DARK}  # fmt: skip


def _differences(one: Found, figure: str, arm: str) -> Iterator[Record]:
    for comparison in one["comparisons"]:
        value = comparison["difference"]["value"]
        if (comparison["metric"], comparison["arm"]) == (figure, arm) and value is not None:
            p = comparison["p_holm"]
            yield {**_place(comparison), "value": value, "text": _short(value, signed=True),
                   "told": p is not None and p <= LEVEL}  # fmt: skip


def _place(entry: Mapping[str, Any]) -> Record:
    return {"trained": entry["trained"] or matrix_tables.UNTAUGHT, "tested": entry["tested"]}


def _short(value: float, signed: bool = False) -> str:
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1).replace("-", "−") if abs(value) < 1 else text


def _panel(one: Found, rows: Sequence[Record], shades: alt.Scale, name: str) -> alt.LayerChart:
    columns = [column["corpus"] for column in one["tested"]]
    trained = [matrix_tables.UNTAUGHT, *one["trained"]]
    there = {row["trained"] for row in rows}
    side: dict[str, Any] = {"domain": False, "ticks": False, "grid": False}
    x = alt.X("tested:N", title="Tested on", sort=columns, scale=alt.Scale(domain=columns),
              axis=alt.Axis(**side, labelAngle=-40, labelLimit=80))  # fmt: skip
    order = [name for name in trained if name in there]
    y = alt.Y("trained:N", title="Taught on", sort=order,
              axis=alt.Axis(**side, labelLimit=_NAMES))  # fmt: skip
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(x=x, y=y)
    size = 10 if len(columns) <= 7 else 8
    texts = base.encode(text="text:N", color=alt.Color("ink:N", scale=None))
    panel: alt.LayerChart = alt.layer(
        base.mark_rect(aria=True, stroke=None).encode(color=alt.Color("value:Q", scale=shades, legend=None)),
        texts.transform_filter("!datum.told").mark_text(fontSize=size),
        texts.transform_filter("datum.told").mark_text(fontSize=size, fontWeight="bold"),
    ).resolve_scale(color="independent").properties(
        width=WIDTH - _NAMES, height=alt.Step(22), title=name
    )  # fmt: skip
    return panel
