"""Students' inside as a page shows it: what was found in words, pictures, and the tables in the
papers' shape; written as SVG, CSV, Markdown and LaTeX beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whytune import store
from whytune.evidence.blocks import SURE
from whytune.evidence.delta_tables import PROJECTIONS
from whytune.study import inside_figures, paper
from whytune.study.grids import Column, Grid, grid
from whytune.study.page import environment
from whytune.study.paper import Beside
from whytune.study.pictures import Picture, key_of, picture, write_table
from whytune.study.stored import Record

NAME = "inside.json"
LISTS = ("levels", "differences", "table6", "decisions", "decisions_apart", "ranks", "spoken", "changes",
         "weights", "table5", "along_levels", "along_weights")  # fmt: skip
"""Lists of rows in `inside.json`."""
FEW_LABELS = 8
"""Labels up to which a picture of ranks shows them all; of more, the first ones."""
FEW_WORDS = 24
"""Tokens of an explanation that a picture of ranks shows."""
_HEADS = {name: f"{kind}-{name.capitalize()}" for kind, names in
          (("L", PROJECTIONS[:3]), ("Attn", PROJECTIONS[3:])) for name in names}  # fmt: skip
"""Projection -> as the paper heads its column."""
_UNITS = {"entropy": "nats", "label_entropy": "nats", "gold_prob": ""}
_DECISIONS = {
    "sure": f"first sure of a token (p > {SURE:g})",
    "decided": "what it says in the end is on top from here on",
}
_TITLES = {
    "entropy": "Entropy over the vocabulary (nats)",
    "label_entropy": "Entropy among the labels (nats)",
    "gold_prob": "Probability of the right label",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What is known about one corpus and task, or about weights alone."""

    title: str
    sentences: Sequence[str]
    pictures: Sequence[Picture]
    grids: Sequence[Grid]


def build(folder: Path) -> Path:
    """Write `inside.html`, `inside.md`, `tables/` and `figures/` of what `inside.json` holds.

    Returns:
        The page.

    Raises:
        FolderError: no whole `inside.json` there.
    """
    found = store.read_json(folder / NAME)
    shown = {"inside": found, "panels": list(of_study(folder))}
    pages = environment()
    store.write_text(folder / "inside.md", pages.get_template("inside.md.jinja").render(shown))
    page = folder / "inside.html"
    store.write_text(page, pages.get_template("inside.html.jinja").render(shown))
    return page


def of_study(folder: Path) -> Iterator[Panel]:
    """The panels of a folder that holds an `inside.json`; none where it does not."""
    if not (folder / NAME).exists():
        return
    found = store.read_json(folder / NAME)
    places: dict[tuple[str, str], None] = {}
    for name in ("changes", "levels"):
        places |= {(row["corpus"], row["task"]): None for row in found[name]}
    for corpus, task in places:
        own = {name: [row for row in found[name] if (row["corpus"], row["task"]) == (corpus, task)]
               for name in LISTS}  # fmt: skip
        lead = f"{corpus}, {task}: " if corpus else ""
        sentences = [line.removeprefix(lead) for line in found["sentences"]
                     if not lead or line.startswith(lead)]  # fmt: skip
        key = key_of("inside", *filter(None, (corpus, task)))
        yield Panel(
            title=f"{task} on {corpus}" if corpus else "Adapters",
            sentences=[line[:1].upper() + line[1:] for line in sentences],
            pictures=list(_pictures(folder, key, own)), grids=list(_grids(folder, key, own)),
        )  # fmt: skip


def _pictures(folder: Path, key: str, own: Mapping[str, list[Record]]) -> Iterator[Picture]:
    if own["levels"]:
        yield from _entropies(folder, key, own)
        yield _ranks(folder, key, own["ranks"])
        if own["spoken"]:
            yield _spoken(folder, key, own["spoken"])
    if own["along_levels"]:
        yield _birth(folder, key, own["along_levels"])
    if own["changes"]:
        yield _moved(folder, key, own["changes"], own["weights"])
    if own["along_weights"]:
        yield _grown(folder, key, own["along_weights"])


def _entropies(folder: Path, key: str, own: Mapping[str, list[Record]]) -> Iterator[Picture]:
    sizes = own["levels"][0]
    about = f"{sizes['n']} test examples, {sizes['seeds']} seed{'s' * (sizes['seeds'] != 1)} an arm"
    for figure in ("entropy", "label_entropy"):
        rows = [row for row in own["levels"] if row["figure"] == figure]
        arms = inside_figures.palette(list(dict.fromkeys(row["arm"] for row in rows)))
        chart = inside_figures.by_block(rows, arms, _TITLES[figure])
        yield picture(
            folder, f"{key}--{figure}", f"{_TITLES[figure].split(' (')[0]} by block",
            f"After each transformer block, at the place that predicts the label; {about}. Bands: 95 % "
            "intervals over examples and seeds.", rows, [("", chart)],
        )  # fmt: skip
    apart = [row for row in own["differences"] if row["figure"] == "entropy"]
    if not apart:
        return
    first = apart[0]["base"]
    rows = [row for row in apart if row["base"] == first]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    whole = {row["block"]: row["value"] for row in own["levels"]
             if row["figure"] == "entropy" and row["arm"] == first}  # fmt: skip
    yield picture(
        folder, f"{key}--entropy-difference", f"Entropy: less that of {first}",
        "In nats, paired by example and seed; bands: 95 % intervals.", rows,
        [("", inside_figures.by_block(rows, arms, "Difference (nats)", zero=True))],
    )  # fmt: skip
    relative = [
        {**row, **{end: 100 * row[end] / whole[row["block"]]
                   for end in ("value", "low", "high") if row[end] is not None}}
        for row in rows if whole[row["block"]]
    ]  # fmt: skip
    yield picture(
        folder, f"{key}--entropy-relative", f"Entropy: less that of {first}, in % of it",
        "The same differences as a share of the entropy at that block, which falls towards the end.",
        relative, [("", inside_figures.by_block(relative, arms, "Difference (%)", zero=True))],
    )  # fmt: skip


def _ranks(folder: Path, key: str, rows: list[Record]) -> Picture:
    drawings = []
    for arm in inside_figures.palette(list(dict.fromkeys(row["arm"] for row in rows))):
        cells = [{"block": r["block"], "column": r["label"], "rank": r["value"]}
                 for r in rows if r["arm"] == arm]  # fmt: skip
        labels = list(dict.fromkeys(cell["column"] for cell in cells))[:FEW_LABELS]
        cells = [cell for cell in cells if cell["column"] in labels]
        drawings.append((arm, inside_figures.ranks(cells, labels, arm)))
    return picture(
        folder, f"{key}--ranks", "Rank of the labels by block",
        "Rank of each label's first token among the whole vocabulary after each block: the median "
        "over examples and seeds; 1 is the most probable token, k stands for thousands. Labels that "
        "begin alike share a token.", rows, drawings,
    )  # fmt: skip


def _spoken(folder: Path, key: str, rows: list[Record]) -> Picture:
    drawings = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm and row["place"] < FEW_WORDS]
        # Tokens can come twice: their place keeps them apart, as spaces that nobody sees.
        cells = [{"block": r["block"], "column": r["text"].strip() + " " * r["place"],
                  "rank": r["rank"]} for r in own]  # fmt: skip
        columns = list(dict.fromkeys(cell["column"] for cell in cells))
        drawings.append((arm, inside_figures.ranks(cells, columns, arm)))
    return picture(
        folder, f"{key}--spoken", "Rank of the words of an explanation by block",
        "The first explanation that each arm's first student wrote, token by token: the rank of the "
        "token that it said next, after each block.", rows, drawings,
    )  # fmt: skip


def _birth(folder: Path, key: str, rows: list[Record]) -> Picture:
    own = [row for row in rows if row["figure"] == "entropy"]
    drawings = [
        (arm, inside_figures.birth([r for r in own if r["arm"] == arm], arm, _UNITS["entropy"]))
        for arm in dict.fromkeys(row["arm"] for row in own)
    ]
    return picture(
        folder, f"{key}--birth", "Entropy by block as training goes on",
        "In nats, mean over examples and seeds, at every adapter that was kept.", rows, drawings,
    )  # fmt: skip


def _moved(folder: Path, key: str, changes: list[Record], apart: list[Record]) -> Picture:
    rows = [row for row in apart or changes if row["layer"] is not None]
    drawings = []
    for base, arm in dict.fromkeys((row.get("base"), row["arm"]) for row in rows):
        own = [row for row in rows if (row.get("base"), row["arm"]) == (base, arm)]
        title = f"{arm} and {base}" if base else arm
        drawings.append((key_of(arm, base) if base else arm, inside_figures.weights(own, title)))
    what = "the difference of the changes" if apart else "the change"
    return picture(
        folder, f"{key}--weights",
        f"{'How far two arms lie apart' if apart else 'How far the weights moved'}, layer by layer",
        f"Frobenius norm of {what} s·B·A of each matrix, mean over seeds. Matrices have different "
        "sizes: compare within a column.", rows, drawings,
    )  # fmt: skip


def _grown(folder: Path, key: str, rows: list[Record]) -> Picture:
    drawings = []
    for base, arm in dict.fromkeys((row["base"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["base"], row["arm"]) == (base, arm)]
        drawings.append((key_of(arm, base), inside_figures.growth(own, f"{arm} and {base}")))
    return picture(
        folder, f"{key}--growth", "Weight differences as training goes on",
        "Sum over layers of the Frobenius norms of the differences, mean over seeds, at every update "
        "at which both adapters were kept.", rows, drawings,
    )  # fmt: skip


def _grids(folder: Path, key: str, own: Mapping[str, list[Record]]) -> Iterator[Grid]:
    if own["table5"]:
        task = own["table5"][0]["task"]
        yield _wide(
            folder, f"{key}--table5", "Weight differences by projection (Table 5)", own["table5"],
            "projection", _HEADS, paper.projections(task),
            "Sum over layers of the Frobenius norm of ΔW(arm) − ΔW(base), divided by the largest in the "
            "row, with 95 % intervals over seeds. `two seeds`: the same arm, its seeds in pairs; what "
            "two arms differ by less than that may be chance.",
        )  # fmt: skip
    if own["table6"]:
        depth, task = max(row["block"] for row in own["levels"]), own["table6"][0]["task"]
        yield _wide(
            folder, f"{key}--table6", "Entropy differences by block (Table 6)", own["table6"],
            "blocks", {}, paper.blocks(depth, task),
            "Entropy of the arm less that of the base, divided by the largest in size in the row; "
            "blocks pooled as in the paper, the last seven alone. 95 % intervals over examples and "
            "seeds; the raw differences with p are in the file of differences.",
        )  # fmt: skip
    if own["decisions"]:
        yield grid(
            folder, f"{key}--decisions", "When students decide",
            [{**row, "what": _DECISIONS[row["figure"]]} for row in own["decisions"]],
            [Column(key="arm", title="Arm", kind="word"), Column(key="what", title="What", kind="word"),
             Column(key="value", title="Block"), Column(key="never", title="Never"),
             Column(key="n", title="n", kind="number")],
            "Mean over examples and seeds, with 95 % intervals. Answers that never get there count as "
            "one block more than there are. Early blocks can be sure of a token that nobody would say.",
        )  # fmt: skip
    for name in ("differences", "decisions_apart", "changes"):
        if own[name]:
            write_table(folder, f"{key}--{name}", own[name])


def _wide(
    folder: Path, key: str, title: str, rows: list[Record], across: str, heads: Mapping[str, str],
    printed: Mapping[str, Beside], note: str,
) -> Grid:  # fmt: skip
    """A row for each pair, a column for each value of `across`; the paper's own figures last."""
    wide: dict[tuple[str, str], Record] = {}
    for row in rows:
        same = row["base"] == row["arm"]
        line = wide.setdefault((row["base"], row["arm"]), {
            "arm": row["arm"], "base": "two seeds" if same else row["base"], "seeds": row["seeds"],
        })  # fmt: skip
        line |= {f"{row[across]}{end}": row[f"share{end}"] for end in ("", "_low", "_high")}
    names = list(dict.fromkeys(row[across] for row in rows))
    shown = list(wide.values())
    if any(base != arm for base, arm in wide):
        theirs: Record = {"arm": "the paper", "base": "without", "seeds": None}
        for name in names:
            if (told := printed.get(name)) is not None:
                theirs |= {name: told.value, f"{name}_low": told.low, f"{name}_high": told.high}
        shown.append({name: theirs.get(name) for name in shown[0]})
        note += f" The paper: mean, smallest and largest of {next(iter(printed.values())).source}."
    columns = [Column(key="arm", title="Arm", kind="word"), Column(key="base", title="against", kind="word"),
               *(Column(key=name, title=heads.get(name, name)) for name in names)]  # fmt: skip
    return grid(folder, key, title, shown, columns, note)
