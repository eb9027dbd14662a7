"""What a training step costs as bundles and branches are added: a line, or more than one.

Writes bench/results/scaling.json and bench/scaling.png. Usage: python bench/scaling.py [--json]
[--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import cases
from cases import Conversation
from machine import facts, note, rounded, write

PREFIX = 300
UP_TO = 8
BRANCHES = 3
"""Of each bundle, while bundles are added."""
TITLES = {
    "bundles": f"bundles in a step ({PREFIX} tokens, {BRANCHES} branches of {cases.SUFFIX} each)",
    "branches": f"branches of one bundle ({PREFIX} tokens, {cases.SUFFIX} tokens each)",
}


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result, not its lines")
    parser.add_argument("--quick", action="store_true", help="two layers, one step each")
    given = parser.parse_args()
    result = measure(quick=given.quick)
    write("scaling", result, quick=given.quick)
    if not given.quick:
        draw(result, Path(__file__).parent / "scaling.png")
    if given.json:
        print(json.dumps(result))
    else:
        for name, line in result["lines"].items():
            print(f"{name}: {line['seconds_each']} s each after {line['seconds_fixed']} s, "
                  f"R² {line['r_squared']}, steepest step {line['steepest']}x the mean")  # fmt: skip


def measure(*, quick: bool) -> dict[str, Any]:
    """Seconds of a step for 1 to 8 bundles and 1 to 8 branches."""
    layers, repeats = (2, 1) if quick else (cases.LAYERS, 2)
    step = _stepper(layers)
    step(_conversations(1, 1))
    points: dict[str, list[dict[str, float]]] = {"bundles": [], "branches": []}
    # Both ways alternate, so that a slow minute of the machine bends neither.
    for n in range(1, UP_TO + 1):
        for name, chosen in (
            ("bundles", _conversations(n, BRANCHES)),
            ("branches", _conversations(1, n)),
        ):
            seconds = statistics.median(step(chosen) for _ in range(repeats))
            points[name].append({"n": n, "seconds": rounded(seconds)})
            note(f"{n} {name}: {seconds:.3f} s")
    return {
        "benchmark": "scaling", "quick": quick, "points": points,
        "lines": {name: _line(found) for name, found in points.items()},
        "prefix": PREFIX, "suffix": cases.SUFFIX, "branches_of_each_bundle": BRANCHES,
        **facts("scaling.py", sys.argv[1:]),
    }  # fmt: skip


def _conversations(bundles: int, branches: int) -> list[Conversation]:
    import torch

    generator = torch.Generator().manual_seed(cases.SEED)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(16, cases.VOCABULARY, (n,), generator=generator).tolist())

    return [
        Conversation(draw(PREFIX), tuple(draw(cases.SUFFIX) for _ in range(branches)))
        for _ in range(bundles)
    ]


def _stepper(layers: int) -> Any:
    import ours
    import torch

    model = cases.model(layers)
    student = ours.student(model)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step(chosen: list[Conversation]) -> float:
        start = time.perf_counter()
        for part in ours.passes(ours.bundles(chosen)):
            ours.token_nll(student, part).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def _line(points: list[dict[str, float]]) -> dict[str, float]:
    """The straight line of least squares, and how well it fits.

    `steepest` is the largest cost of one more over the mean cost of one more: 1 on a line.
    """
    x, y = [p["n"] for p in points], [p["seconds"] for p in points]
    slope, intercept = statistics.linear_regression(x, y)
    mean = statistics.mean(y)
    left = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    total = sum((b - mean) ** 2 for b in y)
    more = [b - a for a, b in itertools.pairwise(y)]
    return {
        "seconds_each": rounded(slope), "seconds_fixed": rounded(intercept),
        "r_squared": rounded(1 - left / total),
        "steepest": rounded(max(more) / statistics.mean(more), 3),
    }  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """One panel each, from zero, with the line of least squares."""
    import altair as alt

    panels = [_panel(alt, result, name) for name in TITLES]
    chart = alt.hconcat(*panels).configure_view(strokeWidth=0).configure_axis(grid=False)
    chart.save(str(path), scale_factor=2)


def _panel(alt: Any, result: dict[str, Any], name: str) -> Any:
    line = result["lines"][name]
    ends = [{"n": n, "seconds": line["seconds_fixed"] + n * line["seconds_each"]}
            for n in (1, UP_TO)]  # fmt: skip
    x = alt.X("n:Q", title=TITLES[name], scale=alt.Scale(domain=[0, UP_TO]))
    y = alt.Y("seconds:Q", title="training step (s)", scale=alt.Scale(zero=True))
    fit = alt.Chart(alt.Data(values=ends)).mark_line(color="#9aa0a6", strokeWidth=1.5)
    dots = alt.Chart(alt.Data(values=result["points"][name])).mark_circle(
        size=60, color="#1f5fa8", opacity=1
    )
    title = f"{line['seconds_each']:.3g} s for each, R² {line['r_squared']:.4f}"
    return alt.layer(fit.encode(x=x, y=y), dots.encode(x=x, y=y)).properties(
        width=340, height=240, title=alt.TitleParams(title, fontSize=12, anchor="start")
    )


if __name__ == "__main__":
    main()
