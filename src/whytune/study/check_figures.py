"""The pictures of a check, in the hand of the report's: rows in, altair chart out."""

from collections.abc import Sequence

import altair as alt

from whytune.study.figures import DASHES, INK, PALETTE, PANEL, REFERENCE, WIDTH, Chart, inline_rows
from whytune.study.stored import Record

_HEIGHT = 150


def _percent(ticks: int = 4) -> alt.Axis:
    return alt.Axis(format=".0%", tickCount=ticks)


def scores(rows: Sequence[Record]) -> Chart:
    """Ordinal: scores taught as bars, scores measured against as an outline."""
    x = alt.X("score:Q", title="Score", scale=alt.Scale(domain=[-0.04, 1.04], nice=False),
              axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", grid=False))  # fmt: skip
    base = alt.Chart(inline_rows(rows)).encode(x=x)
    bars = base.mark_bar(aria=True, size=9, color=REFERENCE, opacity=0.7)
    # A point at zero would say no more than an absent bar does.
    seen = alt.Chart(inline_rows([row for row in rows if row["measured"]])).encode(x=x)
    points = seen.mark_point(aria=True, filled=True, size=40, opacity=1, color=PALETTE[0])
    return alt.layer(
        bars.encode(y=alt.Y("taught:Q", title="Share", axis=_percent())),
        points.encode(y=alt.Y("measured:Q", title="Share")),
    ).properties(width=WIDTH, height=_HEIGHT)


def labels(rows: Sequence[Record], order: Sequence[str]) -> Chart:
    """Nominal: labels taught as bars, labels measured against as points."""
    side = alt.Axis(domain=False, ticks=False)
    base = alt.Chart(inline_rows(rows)).encode(
        y=alt.Y("label:N", title=None, sort=list(order), axis=side)
    )
    bars = base.mark_bar(aria=True, color=REFERENCE, opacity=0.7, height=12)
    points = base.mark_point(aria=True, filled=True, size=40, opacity=1, color=PALETTE[0])
    return alt.layer(
        bars.encode(x=alt.X("taught:Q", title="Share", axis=_percent())),
        points.encode(x=alt.X("measured:Q")),
    ).properties(width=WIDTH - 10, height=alt.Step(22))


def lengths(rows: Sequence[Record], limit: int | None) -> Chart:
    """Histogram of tokens, with a line at a limit where one is given."""
    bars = _bars(rows).encode(y=alt.Y("n:Q", title="Texts", axis=alt.Axis(tickCount=4)))
    layers = [bars]
    if limit is not None:
        line = alt.Chart(inline_rows([{"limit": limit}]))
        layers.append(line.mark_rule(color=INK, strokeDash=[4, 3]).encode(x="limit:Q"))
    return alt.layer(*layers).properties(width=WIDTH, height=_HEIGHT)


def lengths_by_arm(rows: Sequence[Record], arms: Sequence[str]) -> Chart:
    """Histograms of tokens, one for each arm."""
    if len(arms) == 1:
        share = alt.Y("share:Q", title="Share", axis=_percent())
        return alt.layer(_bars(rows).encode(y=share)).properties(width=WIDTH, height=_HEIGHT)
    bars: Chart = alt.layer(
        _bars(None).encode(y=alt.Y("share:Q", title="Share", axis=_percent(3)))
    ).properties(width=PANEL, height=84)
    facet = alt.Facet("arm:N", title=None, sort=list(arms))
    panels: Chart = bars.facet(facet, data=inline_rows(rows), columns=2, spacing=14)
    apart: Chart = panels.resolve_axis(x="independent")
    return apart


def _bars(rows: Sequence[Record] | None) -> alt.Chart:
    chart = alt.Chart() if rows is None else alt.Chart(inline_rows(rows))
    axis = alt.Axis(grid=False, tickCount=5)
    scale = alt.Scale(zero=True, nice=True)
    x = alt.X("start:Q", bin="binned", title="Tokens", axis=axis, scale=scale)
    bars = chart.mark_bar(aria=True, color=PALETTE[0], opacity=0.85, stroke=None, binSpacing=1)
    drawn: alt.Chart = bars.encode(x=x, x2="end:Q")
    return drawn


def positions(rows: Sequence[Record], arms: Sequence[str]) -> Chart:
    """Share of words that are no stopword, by position; a line an arm."""
    palette = [PALETTE[i % len(PALETTE)] for i in range(len(arms))]
    dashes = [DASHES[i % len(DASHES)] for i in range(len(arms))]
    columns = max(1, WIDTH // (7 * max(map(len, arms)) + 34))
    legend = None
    if len(arms) > 1:
        legend = alt.Legend(columns=columns, symbolType="stroke", symbolStrokeWidth=2)
    colour = alt.Color("arm:N", scale=alt.Scale(domain=list(arms), range=palette), legend=legend)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=list(arms), range=dashes), legend=legend)
    x = alt.X("position:Q", title="Word of the explanation", axis=alt.Axis(grid=False, tickCount=6),
              scale=alt.Scale(zero=False, nice=False))  # fmt: skip
    y = alt.Y("share:Q", title="No stopword", axis=_percent(5), scale=alt.Scale(domain=[0, 1]))
    line = alt.Chart(inline_rows(rows)).mark_line(strokeWidth=1.8)
    return alt.layer(line.encode(x=x, y=y, color=colour, strokeDash=dash)).properties(
        width=WIDTH, height=_HEIGHT
    )


def beginnings(rows: Sequence[Record], title: str) -> Chart:
    """The words most frequent at the beginning of explanations."""
    # As wide for every arm, so that drawings beside each other have one scale.
    side = alt.Axis(domain=False, ticks=False, minExtent=80, maxExtent=80)
    order = [row["word"] for row in rows]
    bars = alt.Chart(inline_rows(rows)).mark_bar(
        aria=True, color=PALETTE[0], opacity=0.85, height=10
    )
    y = alt.Y("word:N", title=None, sort=order, axis=side)
    x = alt.X("share:Q", title="Explanations that hold it", axis=_percent())
    return alt.layer(bars.encode(x=x, y=y)).properties(
        width=WIDTH - 30, height=alt.Step(15), title=title
    )
