"""The pictures of a report: rows in, altair chart out, all in one hand.

Charts are about 350 pixels wide, the width of a phone, so that their text stays legible there;
they have no background and their text has one colour, so that they can stand on white and on
dark. Colours are Okabe and Ito's; arms differ by dash or shape as well.
"""

import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from whytune.study.stored import Record

Chart = alt.LayerChart | alt.FacetChart | alt.VConcatChart

INK = "#767779"
"""Text and axes: a grey that can be read on white and on black. On the page it becomes the colour
of the text around it, so no other use may be made of this value."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6BB1")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
REFERENCE = "#9aa0a6"
DARK, LIGHT = "#1b2a35", "white"
"""Numbers on light and on dark cells."""
CELLS = ("#e6eef4", "#7fb0d0", "#0072B2", "#003a5c")
WIDTH = 290
GROWN = 1.4
"""How much larger than drawn a picture may be on a page, lest its text shout."""
PANEL = 136
MOST_WRITTEN_CELLS = 8
"""Labels up to which the numbers of a confusion matrix fit into its cells."""

_DESCRIBED = re.compile(
    r'<(\w+) aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="[^"]*"([^>]*)/>'
)
"""A mark with a description: a browser shows only a title where the pointer rests."""
_LONG = re.compile(r"-?\d+\.\d{4,}")
_TEXT = {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 11.5,
         "titleFontWeight": "normal"}  # fmt: skip
THEME: dict[str, Any] = {
    "background": None,
    "font": "sans-serif",
    # Only marks that say so are described; their descriptions become hover texts.
    "mark": {"aria": False},
    "padding": 8,
    "view": {"stroke": None},
    "axis": {**_TEXT, "gridColor": INK, "gridOpacity": 0.18, "domainColor": INK,
             "aria": False, "tickColor": INK, "tickSize": 4, "titlePadding": 8, "labelLimit": 110},
    "legend": {**_TEXT, "aria": False, "title": None, "orient": "top", "direction": "horizontal",
               "labelLimit": 240, "columnPadding": 14, "offset": 8, "symbolSize": 50,
               "symbolOpacity": 1, "symbolStrokeWidth": 0},
    "header": {**_TEXT, "labelFontSize": 11.5, "labelFontWeight": "bold", "labelPadding": 5,
               "labelLimit": PANEL, "labelAnchor": "start"},
    "title": {"color": INK, "fontSize": 12, "fontWeight": "bold", "anchor": "start", "offset": 8},
    "text": {"color": INK},
}  # fmt: skip


def inline_rows(rows: Sequence[Record]) -> alt.InlineData:
    """Rows as a chart's own data."""
    return alt.InlineData(values=list(rows))


def _cycle(values: Sequence[Any], count: int) -> list[Any]:
    # Lengths that share no factor: 35 arms before a pair of colour and dash comes again.
    return [values[i % len(values)] for i in range(count)]


def arm_colour(arms: Sequence[str], legend: bool = True) -> alt.Color:
    """A colour for each arm, with a legend as wide as a phone."""
    scale = alt.Scale(domain=list(arms), range=_cycle(PALETTE, len(arms)))
    # As many names beside each other as surely fit.
    columns = max(1, WIDTH // (7 * max(map(len, arms)) + 34))
    return alt.Color("arm:N", scale=scale, legend=alt.Legend(columns=columns) if legend else None)


def _dash(arms: Sequence[str]) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(arms), range=_cycle(DASHES, len(arms)))
    return alt.StrokeDash("arm:N", scale=scale)


def _shape(arms: Sequence[str]) -> alt.Shape:
    return alt.Shape("arm:N", scale=alt.Scale(domain=list(arms), range=_cycle(SHAPES, len(arms))))


def curves(rows: Sequence[Record], arms: Sequence[str]) -> Chart:
    """Label loss through training: the mean of an arm bold, its seeds thin."""
    losses = [row["label_nll"] for row in rows]
    # The untrained model can be many nats off; on a plain axis all later differences would vanish.
    wide = min(losses) > 0 and max(losses) > 6 * min(losses)
    scale = alt.Scale(type="log", nice=True) if wide else alt.Scale(zero=False, nice=True)
    x = alt.X("epoch:Q", title="Epochs", axis=alt.Axis(grid=False, tickCount=6, format=".2~f"))
    y = alt.Y("label_nll:Q", title="Label NLL (nats)", scale=scale, axis=alt.Axis(tickCount=5))
    seeds = [row for row in rows if row["seed"] != "mean"]
    means = [row for row in rows if row["seed"] == "mean"]
    thin = alt.Chart(inline_rows(seeds)).mark_line(strokeWidth=0.9, opacity=0.55)
    bold = alt.Chart(inline_rows(means))
    colour, shape = arm_colour(arms), _shape(arms)
    return alt.layer(
        thin.encode(x=x, y=y, color=colour, detail="seed:N"),
        bold.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=_dash(arms)),
        bold.mark_point(aria=True, filled=True, size=32, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape
        ),
    ).properties(width=WIDTH, height=210)


def distribution(rows: Sequence[Record], arms: Sequence[str]) -> Chart:
    """Ordinal: the references as bars, an arm's expected scores as an outline."""
    x = alt.X("score:Q", title="Score", scale=alt.Scale(domain=[-0.04, 1.04], nice=False),
              axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", grid=False))  # fmt: skip
    y = alt.Axis(format="%", tickCount=3)
    bars = alt.Chart().mark_bar(aria=True, size=5, color=REFERENCE, opacity=0.6)
    line = alt.Chart().mark_line(interpolate="step", strokeWidth=1.8)
    layers = alt.layer(
        bars.encode(x=x, y=alt.Y("reference:Q", title="Share", axis=y)),
        line.encode(x=x, y=alt.Y("predicted:Q", title="Share"), color=arm_colour(arms, False)),
    ).properties(width=PANEL, height=84)
    return _by_arm(layers, rows, arms)


def frequencies(rows: Sequence[Record], arms: Sequence[str], labels: Sequence[str]) -> Chart:
    """Nominal: the references as bars, each arm's answers as points."""
    y = alt.Y("label:N", title=None, sort=list(labels), axis=alt.Axis(domain=False, ticks=False))
    axis = alt.Axis(format="%", tickCount=5)
    first = [row for row in rows if row["arm"] == arms[0]]
    bars = alt.Chart(inline_rows(first)).mark_bar(
        aria=True, color=REFERENCE, opacity=0.6, height=12
    )
    points = alt.Chart(inline_rows(rows)).mark_point(aria=True, filled=True, size=52, opacity=1)
    return alt.layer(
        bars.encode(y=y, x=alt.X("reference:Q", title="Share of examples", axis=axis)),
        points.encode(y=y, x=alt.X("predicted:Q"), color=arm_colour(arms), shape=_shape(arms)),
    ).properties(width=WIDTH - 60, height=alt.Step(22))


def reliability(rows: Sequence[Record], arms: Sequence[str]) -> Chart:
    """Stated probability against share correct, with the diagonal of perfect calibration."""
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f")
    x = alt.X("stated:Q", title="Stated probability", scale=scale, axis=axis)
    y = alt.Y("correct:Q", title="Share correct", scale=scale, axis=axis)
    ends = [{"stated": 0, "correct": 0}, {"stated": 1, "correct": 1}]
    even = alt.Chart(inline_rows(ends)).mark_line(color=INK, strokeDash=[3, 3], strokeWidth=1)
    base = alt.Chart().encode(x=x, y=y, color=arm_colour(arms, False))
    layers = alt.layer(
        even.encode(x=x, y=y),
        base.mark_line(strokeWidth=1.2, opacity=0.6),
        base.mark_point(aria=True, filled=True, size=26, opacity=1),
    ).properties(width=PANEL, height=PANEL)
    return _by_arm(layers, rows, arms)


def standing(rows: Sequence[Record], names: Sequence[str]) -> Chart:
    """Every row's figure with its interval, one panel a figure; dashed where raters stand."""
    y = alt.Y("name:N", title=None, sort=list(names),
              axis=alt.Axis(domain=False, ticks=False, grid=True))  # fmt: skip
    roles = ["arm", "calibrated", "baseline"]
    colour = alt.Color("role:N", scale=alt.Scale(domain=roles, range=[PALETTE[0], PALETTE[2], REFERENCE]),
                       legend=None)  # fmt: skip
    panels: list[Chart] = []
    for figure in dict.fromkeys(row["figure"] for row in rows):
        own = [row for row in rows if row["figure"] == figure]
        raters = [row for row in own if row["role"] == "ceiling"]
        base = alt.Chart(inline_rows([row for row in own if row["role"] != "ceiling"]))
        x = alt.X("value:Q", title=figure, scale=alt.Scale(zero=False, nice=True),
                  axis=alt.Axis(tickCount=5, grid=False))  # fmt: skip
        layers: list[Any] = [
            base.mark_rule(strokeWidth=1.4).encode(
                y=y, x=alt.X("low:Q"), x2="high:Q", color=colour
            ),
            base.mark_point(aria=True, filled=True, size=44, opacity=1).encode(
                y=y, x=x, color=colour
            ),
        ]
        if raters:
            layers.append(alt.Chart(inline_rows(raters)).mark_rule(
                color=INK, strokeDash=[4, 3], strokeWidth=1.2).encode(x="value:Q"))  # fmt: skip
        panels.append(alt.layer(*layers).properties(width=WIDTH - 70, height=alt.Step(17)))
    return alt.vconcat(*panels, spacing=18)


def by_slice(rows: Sequence[Record], arms: Sequence[str], title: str) -> Chart:
    """One figure slice by slice, a panel for each way of slicing, arms side by side."""
    panels: list[Chart] = []
    for cut in dict.fromkeys(row["cut"] for row in rows):
        own = [row for row in rows if row["cut"] == cut]
        slices = list(dict.fromkeys(row["slice"] for row in own))
        y = alt.Y("slice:N", title=None, sort=slices, axis=alt.Axis(domain=False, ticks=False))
        x = alt.X("value:Q", title=f"{title} by {cut}", axis=alt.Axis(tickCount=5, grid=True))
        base = alt.Chart(inline_rows(own)).encode(
            y=y, yOffset=alt.YOffset("arm:N", sort=list(arms)), color=arm_colour(arms, not panels)
        )
        panels.append(
            alt.layer(
                base.mark_rule(strokeWidth=1.2).encode(x=alt.X("low:Q"), x2="high:Q"),
                base.mark_point(aria=True, filled=True, size=30, opacity=1).encode(x=x),
            ).properties(
                width=WIDTH - 70, height=alt.Step(9 * len(arms) + 8, **{"for": "position"})
            )
        )
    return alt.vconcat(*panels, spacing=14)


def _by_arm(layers: Chart, rows: Sequence[Record], arms: Sequence[str]) -> Chart:
    facet = alt.Facet("arm:N", title=None, sort=list(arms))
    panels: Chart = layers.facet(facet, data=inline_rows(rows), columns=2, spacing=14)
    # Each panel keeps its own scale below it: an odd number of them leaves the last place empty.
    apart: Chart = panels.resolve_axis(x="independent")
    return apart


def confusion(rows: Sequence[Record], labels: Sequence[str], title: str) -> Chart:
    """Who was taken for whom: the share within a reference label as colour."""
    written = len(labels) <= MOST_WRITTEN_CELLS
    turned = written and max(map(len, labels)) * len(labels) * 7 > WIDTH - 40
    side = alt.Axis(domain=False, ticks=False, grid=False)
    # Names that would run into each other are left to the other side.
    below = alt.Axis(
        domain=False, ticks=False, grid=False, labels=written, labelAngle=-40 if turned else 0
    )
    across = "Predicted" if written else "Predicted, in the same order"
    x = alt.X("predicted:N", title=across, sort=list(labels), axis=below)
    y = alt.Y("reference:N", title="Reference", sort=list(labels), axis=side)
    shade = alt.Color("share:Q", scale=alt.Scale(domain=[0, 0.33, 0.67, 1], range=list(CELLS)),
                      legend=None)  # fmt: skip
    chart = alt.Chart(inline_rows(rows)).encode(x=x, y=y)
    layers = [chart.mark_rect(aria=True, stroke=None).encode(color=shade)]
    if written:
        ink = alt.condition(alt.datum.share > 0.4, alt.value(LIGHT), alt.value(DARK))
        some = inline_rows([row for row in rows if row["count"]])
        text = alt.Chart(some).encode(x=x, y=y, color=ink)
        layers += [
            text.mark_text(dy=-6, fontSize=12, fontWeight="bold").encode(text="count:Q"),
            text.mark_text(dy=8, fontSize=10).encode(text=alt.Text("share:Q", format=".0%")),
        ]
    height = alt.Step(36 if written else 12)
    width = WIDTH - (60 if turned or not written else 40)
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def svg(chart: Chart) -> str:
    """The chart as a drawing that stands for itself: no script, no font, no address."""
    spec = chart.to_dict() | {"config": THEME}
    major, minor, *_ = alt.SCHEMA_VERSION.removeprefix("v").split(".")
    drawing: str = vl_convert.vegalite_to_svg(spec, vl_version=f"{major}.{minor}")
    return _DESCRIBED.sub(_titled, drawing)


def _titled(mark: re.Match[str]) -> str:
    name, said, rest = mark.groups()
    said = _LONG.sub(lambda number: f"{float(number[0]):.3g}", said)
    return f"<{name}{rest}><title>{said}</title></{name}>"


def inline(drawing: str, key: str) -> str:
    """The drawing as part of a page: it grows with its column and takes on the text's colour.

    `key` goes before every id, because the ids of several drawings would meet on one page.
    """
    head, rest = drawing.split(">", 1)
    box = re.search(r'viewBox="0 0 ([0-9.]+) [^"]*"', head)
    assert box is not None  # vega always says how large a drawing is
    rest = rest.replace(INK, "currentColor")
    rest = re.sub(r'\bid="', f'id="{key}-', rest)
    rest = rest.replace("url(#", f"url(#{key}-").replace('href="#', f'href="#{key}-')
    widest = round(GROWN * float(box[1]))
    return f'<svg {box[0]} style="--widest:{widest}px" aria-hidden="true" focusable="false">{rest}'
