"""Pictures of students' inside: entropy and rank by block, weight changes by layer and projection.

Every value can be read where the pointer rests: invisible cells carry it as their description.
"""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from whytune.evidence.delta_tables import PROJECTIONS
from whytune.study.figures import CELLS, DARK, INK, LIGHT, WIDTH, Chart, arm_colour, inline_rows
from whytune.study.stored import Record

UNTAUGHT = "no fine-tuning"
"""Names the base model, read with the adapter switched off."""
_STEP = 13
"""Pixels of a row: 31 blocks fit on a screen."""
_FAR = 4.5
"""log10 of the rank from which on cells are light."""
_FEW = 8
"""Columns up to which they are wide."""
_DEEP = 0.54
"""Shade from which on numbers are light."""


def by_block(
    rows: Sequence[Record], arms: Sequence[str], title: str, *, zero: bool = False
) -> Chart:
    """A line for each arm with its band; a dotted line at 0 where that means no difference.

    Args:
        rows: arm, block, value, low, high.
        arms: in the order of their colours.
        title: of the axis.
        zero: the values are differences.
    """
    depth = max(row["block"] for row in rows)
    x = alt.X("block:Q", title="Block", axis=alt.Axis(grid=False, tickMinStep=1),
              scale=alt.Scale(domain=[-0.5, depth + 0.5], nice=False))  # fmt: skip
    y = alt.Y(
        "value:Q", title=title, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5)
    )
    base = alt.Chart(inline_rows(rows)).encode(x=x, color=arm_colour(arms))
    layers: list[alt.Chart] = []
    if zero:
        ends = [{"block": -0.5, "value": 0}, {"block": depth + 0.5, "value": 0}]
        layers.append(alt.Chart(inline_rows(ends)).mark_line(
            color=INK, strokeDash=[3, 3], strokeWidth=1).encode(x=x, y=y))  # fmt: skip
    layers += [
        base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y),
        alt.Chart(inline_rows(_told(rows))).mark_rect(opacity=0, aria=True).encode(
            x=alt.X("from:Q"), x2="to:Q", description="told:N"),
    ]  # fmt: skip
    return alt.layer(*layers).properties(width=WIDTH, height=180)


def _told(rows: Sequence[Record]) -> list[Record]:
    """What stands at each block, all arms together."""
    found: dict[int, list[str]] = {}
    for row in rows:
        ends = "" if row.get("low") is None or math.isnan(row["low"]) else (
            f" [{row['low']:.3g}, {row['high']:.3g}]")  # fmt: skip
        found.setdefault(row["block"], []).append(f"{row['arm']} {row['value']:.3g}{ends}")
    return [{"from": block - 0.5, "to": block + 0.5, "told": f"block {block}: {'; '.join(told)}"}
            for block, told in found.items()]  # fmt: skip


def ranks(rows: Sequence[Record], columns: Sequence[str], title: str) -> Chart:
    """Ecco's ranking picture (Alammar 2021): a row for each block, the last one on top, a column for
    each token, its rank in the cell; 1 is the most probable token of the vocabulary.

    Args:
        rows: block, column, rank (from 0).
        columns: from left to right.
        title: whose.
    """
    cells = [
        {
            "across": row["column"], "up": row["block"], "shown": _short(row["rank"] + 1),
            "shade": 1 - min(1.0, math.log10(1 + row["rank"]) / _FAR),
            "told": f"block {row['block']}, {row['column'].strip()}: rank {row['rank'] + 1:,.0f}",
        }
        for row in rows
    ]  # fmt: skip
    return _painted(cells, columns, "Block", 34 if len(columns) <= _FEW else 24, title)


def _short(rank: float) -> str:
    if rank < 1000:
        return f"{rank:.0f}"
    return f"{rank / 1000:.1f}k" if rank < 10_000 else f"{rank / 1000:.0f}k"


def weights(rows: Sequence[Record], title: str) -> Chart:
    """How far each matrix moved, or how far two arms lie apart in it: layers up, projections across.

    Args:
        rows: layer, projection, value.
        title: whose.
    """
    most = max(row["value"] for row in rows) or 1.0
    cells = [
        {
            "across": row["projection"], "up": row["layer"], "shown": f"{row['value']:.2f}",
            "shade": row["value"] / most,
            "told": f"layer {row['layer']}, {row['projection']}: {row['value']:.3g}",
        }
        for row in rows
    ]  # fmt: skip
    return _painted(cells, projections(rows), "Layer", 38, title)


def birth(rows: Sequence[Record], title: str, unit: str) -> Chart:
    """A figure by block as training goes on: updates across, blocks up.

    Args:
        rows: step, block, value.
        title: of the arm.
        unit: of the figure.
    """
    low, high = min(row["value"] for row in rows), max(row["value"] for row in rows)
    cells = [
        {
            "across": str(row["step"]), "up": row["block"], "shown": f"{row['value']:.2f}",
            "shade": (row["value"] - low) / ((high - low) or 1.0),
            "told": f"update {row['step']}, block {row['block']}: {row['value']:.3g} {unit}",
        }
        for row in rows
    ]  # fmt: skip
    return _painted(cells, list(dict.fromkeys(c["across"] for c in cells)), "Block", 38, title)


def _painted(
    cells: Sequence[Record], columns: Sequence[str], up: str, step: int, title: str
) -> Chart:
    """Cells with a number in each, `shade` from 0 (light) to 1 (dark)."""
    for cell in cells:
        cell["ink"] = LIGHT if cell["shade"] > _DEEP else DARK
    bare: dict[str, Any] = {"domain": False, "ticks": False}
    turned = max(map(len, columns)) * 6 > step
    base = alt.Chart(inline_rows(cells)).encode(
        x=alt.X("across:N", title=None, sort=list(columns), scale=alt.Scale(domain=list(columns)),
                axis=alt.Axis(**bare, orient="top", labelAngle=-40 if turned else 0, labelLimit=90)),
        y=alt.Y("up:O", title=up, sort="descending",
                axis=alt.Axis(**bare, labelOverlap=False, labelFontSize=9)),
    )  # fmt: skip
    shade = alt.Color("shade:Q", legend=None,
                      scale=alt.Scale(domain=[0, 0.33, 0.67, 1], range=list(CELLS)))  # fmt: skip
    painted: Chart = (
        alt.layer(
            base.mark_rect(stroke=None, aria=True).encode(color=shade, description="told:N"),
            base.mark_text(fontSize=9).encode(text="shown:N", color=alt.Color("ink:N", scale=None)),
        )
        .resolve_scale(color="independent")
        .properties(width=alt.Step(step), height=alt.Step(_STEP), title=title)
    )
    return painted


def growth(rows: Sequence[Record], title: str) -> Chart:
    """Weight differences as training goes on: a line for each projection.

    Args:
        rows: step, projection, value.
        title: of the pair.
    """
    points = [{**row, "arm": row["projection"],
               "told": f"update {row['step']}, {row['projection']}: {row['value']:.3g}"}
              for row in rows]  # fmt: skip
    base = alt.Chart(inline_rows(points)).encode(
        x=alt.X("step:Q", title="Update", axis=alt.Axis(grid=False, tickMinStep=1)),
        y=alt.Y("value:Q", title="Sum of norms"), color=arm_colour(projections(rows)),
    )  # fmt: skip
    return alt.layer(
        base.mark_line(strokeWidth=1.6),
        base.mark_point(filled=True, size=36, opacity=1, aria=True).encode(description="told:N"),
    ).properties(width=WIDTH, height=170, title=title)


def projections(rows: Sequence[Record]) -> list[str]:
    """Those of the rows, the paper's in its order and then others by name."""
    known = {row["projection"] for row in rows}
    return [*(name for name in PROJECTIONS if name in known), *sorted(known - {*PROJECTIONS})]


def palette(arms: Sequence[str]) -> list[str]:
    """The arms in the order of their colours, the base model last."""
    return [*(arm for arm in arms if arm != UNTAUGHT), *(arm for arm in arms if arm == UNTAUGHT)]
