"""A cross-corpus matrix as flat rows, Markdown and LaTeX: what `matrix.build` found, written down."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from whytune.evidence.compare import LOWER_IS_BETTER
from whytune.study import latex, tables
from whytune.study.titles import METRICS

UNTAUGHT = "no fine-tuning"
"""Names the row of the base model."""
LEVEL = 0.05
"""p after Holm's correction at or below which a difference is marked."""

Found = Mapping[str, Any]
"""As `matrix.build` returns it: the whole, or one of its tasks."""


class Entry(NamedTuple):
    """One figure of one arm at one place of the matrix."""

    value: float | None
    """None where it is not defined, or nothing was measured."""
    low: float | None = None
    high: float | None = None
    best: bool = False
    """Of an arm: better than the plain one. Of the plain arm: better than all others."""
    told: bool = False
    """Whether an arm differs from the plain one after Holm's correction."""


class Line(NamedTuple):
    """One row of the matrix."""

    name: str
    entries: Sequence[Entry]
    """One a column."""


def lines(found: Found, one: Found, figure: str) -> Iterator[Line]:
    """The rows in the paper's order: the baseline, then each corpus without and with reasons.

    Args:
        found: the whole matrix.
        one: its task.
        figure: which.
    """
    cells = {(c["trained"], c["tested"], c["arm"]): c for c in one["cells"]}
    apart = {(c["trained"], c["tested"], c["arm"]): c
             for c in one["comparisons"] if c["metric"] == figure}  # fmt: skip
    rows: list[tuple[str | None, str, str]] = []
    if found["baseline"]:
        rows.append((None, found["baseline"], f"{UNTAUGHT} ({found['baseline']})"))
    for trained in one["trained"]:
        rows += [(trained, arm, f"{trained} {found['marks'].get(arm, '')}".rstrip())
                 for arm in found["arms"]]  # fmt: skip
    for trained, arm, name in rows:
        entries = [
            _entry(found, figure, cells, apart, (trained, column["corpus"], arm))
            for column in one["tested"]
        ]
        yield Line(name, entries)


def _entry(
    found: Found, figure: str, cells: Mapping[Any, Found], apart: Mapping[Any, Found],
    place: tuple[str | None, str, str],
) -> Entry:  # fmt: skip
    cell = cells.get(place)
    if cell is None or cell[figure]["value"] is None:
        return Entry(None)
    trained, tested, arm = place
    gains = {
        other: gain(apart[trained, tested, other])
        for other in found["arms"]
        if (trained, tested, other) in apart
    }
    plain = arm == found["plain"]
    own = list(gains.values()) if plain else [-gains.get(arm, 0.0)]
    p = apart.get(place, {}).get("p_holm")
    return Entry(
        **cell[figure], best=bool(gains) and all(each < 0 for each in own),
        told=p is not None and p <= LEVEL,
    )  # fmt: skip


def gain(comparison: Found) -> float:
    """By how much an arm is better than the plain one; 0 where that is not defined."""
    difference = comparison["difference"]["value"] or 0.0
    return -difference if comparison["metric"] in LOWER_IS_BETTER else difference


def as_csv(one: Found) -> str:
    """A row for each corpus taught on, corpus measured on, and arm, with all figures."""
    apart = {(c["trained"], c["tested"], c["arm"], c["metric"]): c for c in one["comparisons"]}
    references = {column["corpus"]: column["reference"] for column in one["tested"]}
    rows = []
    for cell in one["cells"]:
        row = {"task": one["task"], "trained": cell["trained"], "tested": cell["tested"],
               "arm": cell["arm"], "reference": references[cell["tested"]], "n": cell["n"],
               "groups": cell["groups"]}  # fmt: skip
        for figure in one["figures"]:
            key = (cell["trained"], cell["tested"], cell["arm"], figure)
            row |= _flat(figure, cell[figure]) | _against(figure, apart.get(key))
        rows.append(row)
    return tables.as_csv(rows)


def _flat(name: str, interval: Found) -> dict[str, Any]:
    return {
        name: interval["value"],
        f"{name}_low": interval["low"],
        f"{name}_high": interval["high"],
    }


def _against(figure: str, comparison: Found | None) -> dict[str, Any]:
    """The comparison with the plain arm; empty fields for the plain arm itself and for baselines."""
    name = f"{figure}_difference"
    if comparison is None:
        return dict.fromkeys([name, f"{name}_low", f"{name}_high", f"{name}_p", f"{name}_p_holm"])
    return _flat(name, comparison["difference"]) | {
        f"{name}_p": comparison["p"], f"{name}_p_holm": comparison["p_holm"]
    }  # fmt: skip


def as_markdown(found: Found, one: Found) -> str:
    """One table for each figure, with what is said about it."""
    parts = [f"# {one['task']}: taught on one corpus, tested on another", legend(found, one)]
    for figure in one["figures"]:
        head = [title(figure), *(column["corpus"] for column in one["tested"])]
        rows = [[line.name, *map(_markdown, line.entries)] for line in lines(found, one, figure)]
        parts.append("\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)]))
    said = [
        *one["sentences"],
        *(
            note
            for note in found["notes"]
            if note.startswith((f"{one['task']}:", f"{one['task']},"))
        ),
    ]
    parts += ["\n".join(f"- {line}" for line in said)] if said else []
    return "\n\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _markdown(entry: Entry) -> str:
    if entry.value is None:
        return "–"
    value = f"{entry.value:.4f}"
    value = f"**{value}**" if entry.best else value
    ends = "" if entry.low is None else f" ({entry.low:.3f} to {entry.high:.3f})"
    return f"{value}{' ✱' if entry.told else ''}{ends}"


def title(figure: str) -> str:
    """A figure's name with an arrow that points where better is."""
    (known,) = [metric for metric in METRICS if metric.name == figure]
    return f"{known.title} {known.arrow}"


def legend(found: Found, one: Found, ends: str = "In parentheses") -> str:
    """What a reader of the tables needs to know; `ends` says where intervals stand."""
    golden = [column["corpus"] for column in one["tested"] if column["reference"] == "gold"]
    marks = ", ".join(f"{mark} arm {arm}" for arm, mark in found["marks"].items())
    said = [
        "Rows: what a student was taught on; columns: what it was tested on.",
        f"Rows without a mark: arm {found['plain']}; {marks}." if marks else "",
        f"{ends}: 95 % intervals over groups, seeds pooled.",
        f"Bold: the better of each pair with {found['plain']}; ✱: with p at or below {LEVEL} after "
        "Holm's correction over the whole matrix." if found["marks"] else "",
        f"Measured against people's word: {', '.join(golden)}; else against the teachers' verdicts."
        if golden else "",
    ]  # fmt: skip
    return " ".join(filter(None, said))


def as_latex(found: Found, one: Found) -> str:
    """One `table` for each figure; needs the package booktabs."""
    return "\n".join(_latex_table(found, one, figure) for figure in one["figures"])


def _latex_table(found: Found, one: Found, figure: str) -> str:
    columns = [column["corpus"] for column in one["tested"]]
    (known,) = [metric for metric in METRICS if metric.name == figure]
    caption = (
        f"{one['task']}: {known.title} ({known.better} is better) of students taught on one corpus "
        f"(rows) and tested on another (columns). "
        f"{legend(found, one, 'Below and above a value')}"
    )
    rows = [
        [latex.escaped(line.name), *(latex.figure(e.value, e.low, e.high, bold=e.best, star=e.told)
                                     for e in line.entries)]
        for line in lines(found, one, figure)
    ]  # fmt: skip
    label = f"matrix-{one['task']}-{figure.replace('_', '-')}"
    return latex.table(caption, label, [known.title, *columns], rows,
                       rule_after=1 if found["baseline"] else None)  # fmt: skip
