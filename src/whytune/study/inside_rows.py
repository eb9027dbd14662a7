"""What was read about students' inside as flat rows: levels by block, differences between arms, how
labels rank, and which weights moved.

The rows are what tables, figures, sentences and `inside.json` are made of. Entropies and divergences
are in nats, blocks count from 0, which is what enters the first one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whytune import store
from whytune.evidence import blocks, delta_tables
from whytune.evidence.blocks import BlockContrast
from whytune.evidence.delta_tables import Change
from whytune.evidence.table import Floats, Ints
from whytune.records import Estimate, Task
from whytune.study.inside_reading import DELTAS, LENS, TOKENS
from whytune.study.inside_who import Cohort, Member
from whytune.study.stored import Record

FIGURES = ("entropy", "label_entropy", "top_prob", "kl", "gold_prob", "gold_rank", "predicted_rank")
"""Figures by block. Of ranks log10(1 + rank): means of ranks would be those of the worst alone."""
COMPARED = ("entropy", "label_entropy", "gold_prob")
"""Figures on which arms are held against each other, block by block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read of an arm about one task."""

    seeds: Sequence[int]
    ids: Sequence[str]
    """Examples."""
    group: Ints
    """[example]"""
    known: np.ndarray[Any, np.dtype[np.bool_]]
    """[example] whether the reference's label is known."""
    figures: Mapping[str, Floats]
    """Figure -> [seed, example, block]; of those about the gold label, known examples only."""
    ranks: Ints
    """[seed, example, block, label] of each label's first token."""
    final_ranks: Ints
    """[seed, example, block] of the token that is on top at the last block."""

    def common(self, other: "Read") -> list[int]:
        """Seeds that both have."""
        return sorted({*self.seeds} & {*other.seeds})

    def of(self, seeds: Sequence[int]) -> "Read":
        """What was read of some seeds, in their order."""
        at = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self, seeds=list(seeds), ranks=self.ranks[at], final_ranks=self.final_ranks[at],
            figures={name: values[at] for name, values in self.figures.items()},
        )  # fmt: skip


def read(cohort: Cohort, task: Task, *, base: bool = False) -> Read | None:
    """Of all seeds of an arm, or of the base model as its first students know it; None where
    nothing was read.
    """
    found = {member.seed: _part(member, task.name, base) for member in cohort.members}
    of_seed = {seed: table for seed, table in found.items() if table is not None and len(table)}
    if not of_seed:
        return None
    tables = list(of_seed.values())
    one = tables[0]
    depth = pc.max(one["block"]).as_py() + 1
    shape = (len(tables), len(one) // depth, depth)
    rows = slice(None, None, depth)
    known = np.array([label is not None for label in one["gold"].to_pylist()[rows]])
    figures = {name: np.stack([_figure(table, name) for table in tables]).reshape(shape)
               for name in FIGURES}  # fmt: skip
    ranks = np.stack([np.array(table["ranks"].to_pylist(), dtype=np.int64) for table in tables])
    _, group = np.unique(np.array(one["group"].to_pylist()[rows], dtype=str),
                             return_inverse=True)  # fmt: skip
    return Read(
        seeds=list(of_seed),
        ids=one["example_id"].to_pylist()[rows], group=group.astype(np.int64), known=known,
        figures={name: array[:, known] if name.startswith("gold") else array
                 for name, array in figures.items()},
        ranks=ranks.reshape(*shape, -1),
        final_ranks=np.stack([
            table["final_top_rank"].to_numpy(zero_copy_only=False).astype(np.int64)
            for table in tables
        ]).reshape(shape),
    )  # fmt: skip


def _part(member: Member, task: str, base: bool) -> pa.Table | None:
    if not (member.place / LENS).exists():
        return None
    table = store.read_table(member.place / LENS)
    return table.filter((pc.field("task") == task) & (pc.field("base") == base))


def _figure(table: pa.Table, name: str) -> Floats:
    if name.endswith("_rank"):
        return np.log10(1 + _numbers(table, name))
    if name == "gold_prob":
        return np.exp(_numbers(table, "gold_log_prob"))
    return _numbers(table, name)


def _numbers(table: pa.Table, name: str) -> Floats:
    column = table[name].cast(pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def levels(one: Read, place: Record, draws: int) -> Iterator[Record]:
    """Of each figure and block the mean over examples and seeds, with its 95 % interval."""
    for figure, values in one.figures.items():
        if values.shape[1]:
            group = one.group[one.known] if figure.startswith("gold") else one.group
            for block, found in enumerate(blocks.levels(values, _dense(group), draws, seed=0)):
                yield {**place, "figure": figure, "block": block, **_interval(found)}


def ranked(one: Read, task: Task, place: Record) -> Iterator[Record]:
    """Of each label and block the rank of its first token: median and quartiles over examples and
    seeds, 0 for the most probable token of the vocabulary.
    """
    of_label = dict(zip(task.label_names, np.moveaxis(one.ranks, 3, 0), strict=True))
    for label, values in of_label.items():
        depth = values.shape[2]
        ends = np.percentile(values.reshape(-1, depth), (25, 50, 75), axis=0)
        for block in range(depth):
            low, value, high = ends[:, block].tolist()
            yield {
                **place,
                "label": label,
                "block": block,
                "value": value,
                "low": low,
                "high": high,
            }


def spoken(cohort: Cohort, task: Task, place: Record) -> Iterator[Record]:
    """The tokens of the first explanation that an arm's first student wrote, with their rank at
    each block; nothing where none was read.
    """
    path = cohort.members[0].place / TOKENS
    table = store.read_table(path) if path.exists() else None
    if table is not None and len(table):
        table = table.filter((pc.field("task") == task.name) & ~pc.field("base"))
        first = table["example_id"][0].as_py() if len(table) else None
        for row in table.filter(pc.field("example_id") == first).to_pylist() if first else ():
            yield {**place, **{name: row[name] for name in
                               ("example_id", "place", "text", "block", "rank", "entropy")}}  # fmt: skip


def differences(base: Read, arm: Read, place: Record, draws: int) -> Iterator[Record]:
    """arm - base of each compared figure at each block, paired by seed and example."""
    for figure, one, other, group in _sides(base, arm):
        found = blocks.contrasts(one, other, group, draws, seed=0)
        for block, contrast in enumerate(found):
            yield {**place, "figure": figure, "block": block, **_contrast(contrast)}


def table6(base: Read, arm: Read, place: Record, draws: int) -> Iterator[Record]:
    """Entropy of arm less that of base over pools of blocks, and `share`: divided by the largest in
    size, which is Table 6 of arXiv 2511.02044. The ends of the share's interval are divided by the
    same number; its own uncertainty is left out.
    """
    _, one, other, group = next(_sides(base, arm))
    columns = blocks.pools(one.shape[2] - 1)
    found = blocks.contrasts(
        blocks.pooled(one, columns), blocks.pooled(other, columns), group, draws, seed=0
    )
    largest = max(abs(contrast.contrast.difference.value) for contrast in found)
    for column, contrast in zip(columns, found, strict=True):
        difference = contrast.contrast.difference
        shares = {f"share{end}": value / largest if largest else None for end, value in
                  (("", difference.value), ("_low", difference.low), ("_high", difference.high))}  # fmt: skip
        yield {**place, "blocks": column.name, **shares, **_contrast(contrast)}


DECISIONS: Mapping[str, Callable[[Read], Floats]] = {
    "sure": lambda one: blocks.sure(one.figures["top_prob"]),
    "decided": lambda one: blocks.decided(one.final_ranks),
}
"""Figure -> [seed, example, 1] the block of a decision."""


def decisions(one: Read, place: Record, draws: int) -> Iterator[Record]:
    """At which block, on average, a student is first sure of a token (`sure`), and from which on what
    it says in the end is on top (`decided`); `never` is the share of answers that get nowhere, which
    count as one block more than there are.
    """
    depth = one.final_ranks.shape[2]
    for figure, block_of in DECISIONS.items():
        first = block_of(one)
        (found,) = blocks.levels(first, _dense(one.group), draws, seed=0)
        yield {**place, "figure": figure, "blocks": depth - 1, **_interval(found),
               "never": float((first == depth).mean())}  # fmt: skip


def decisions_apart(base: Read, arm: Read, place: Record, draws: int) -> Iterator[Record]:
    """How many blocks later an arm decides."""
    for figure, block_of in DECISIONS.items():
        one, other = block_of(base), block_of(arm)
        (found,) = blocks.contrasts(one, other, _dense(base.group), draws, seed=0)
        yield {**place, "figure": figure, **_contrast(found)}


def _sides(base: Read, arm: Read) -> Iterator[tuple[str, Floats, Floats, Ints]]:
    """Of each compared figure both arms' values and the groups; of the same examples and seeds."""
    for figure in COMPARED:
        one, other = base.figures[figure], arm.figures[figure]
        group = base.group[base.known] if figure.startswith("gold") else base.group
        if one.shape[1]:
            yield figure, one, other, _dense(group)


def _dense(group: Ints) -> Ints:
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def _interval(found: Estimate) -> Record:
    return {"value": found.value, "low": found.low, "high": found.high}


def _contrast(found: BlockContrast) -> Record:
    contrast = found.contrast
    return {**_interval(contrast.difference), "p": contrast.p, "p_holm": found.p_holm}


# Weights.


def changes(cohort: Cohort) -> list[list[Change]]:
    """Of each seed, how far its adapter moves each matrix."""
    return [
        [Change(**row) for row in store.read_table(member.place / DELTAS).to_pylist()]
        for member in cohort.members
    ]


def weights(seeds: Sequence[Sequence[Change]], place: Record) -> Iterator[Record]:
    """A row for each matrix: mean and 95 % interval over seeds of the norm; of pairs of arms also
    of the cosine and of how far the spaces overlap that they write to and read from.
    """
    figures = ["frobenius", "spectral", "effective_rank"]
    figures += ["cosine", "column_overlap", "row_overlap"] * hasattr(seeds[0][0], "cosine")
    tables = {name: delta_tables.by_module(seeds, name) for name in figures}
    for at, row in enumerate(tables["frobenius"]):
        yield {
            **place, "module": row.module, "layer": row.layer, "projection": row.projection,
            "seeds": row.seeds, **_interval(row.value),
            **{name: table[at].value.value for name, table in tables.items() if name != "frobenius"},
        }  # fmt: skip


def table5(seeds: Sequence[Sequence[Change]], place: Record) -> Iterator[Record]:
    """A row for each projection: Table 5 of arXiv 2511.02044 as `share`, with the sums behind it."""
    for row in delta_tables.table5(seeds):
        yield {
            **place, "projection": row.projection, "modules": row.modules, "seeds": row.seeds,
            "share": row.share.value, "share_low": row.share.low, "share_high": row.share.high,
            **_interval(row.total),
        }  # fmt: skip
