"""Sums over the rows of a table for many draws at once, from which the figures are made.

What is a mean or a count by cell is summed by group first and costs one matrix product. What
needs the rows in an order (ranks, bins, coverage) takes the draws in pieces of bounded memory,
laid out as [row, draw], so that a step over the rows is one vector operation over the draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whytune.evidence.table import Floats, Ints, Table

_CELLS = 1 << 18
"""Entries of one [row, draw] piece: 2 MiB, which stays in the cache of a core."""


def ratio(above: Floats, below: Floats) -> Floats:
    """Above / below; not-a-number where below is not positive."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def by_group(table: Table, values: Floats) -> Floats:
    """[group] sums of what stands at the rows."""
    sums = np.bincount(table.group, weights=values, minlength=table.groups)
    return sums.astype(np.float64)


def mean(table: Table, values: Floats, counts: Floats) -> Floats:
    """[draw] mean over the rows of what stands at them."""
    return ratio(counts @ by_group(table, values), taken(table, counts))


def taken(table: Table, counts: Floats) -> Floats:
    """[draw] how many rows are taken, each as often as its group."""
    return counts @ np.bincount(table.group, minlength=table.groups).astype(np.float64)


def confusion(table: Table, counts: Floats) -> Floats:
    """[draw, reference label, predicted label] over the rows."""
    cells = table.reference * table.labels + table.predicted
    # Only the cells that occur: of 28 x 28 emotions most do not.
    used, cell = np.unique(cells, return_inverse=True)
    sums = np.zeros((len(counts), table.labels**2))
    sums[:, used] = counts @ crossed(table, cell, len(used))
    return sums.reshape(-1, table.labels, table.labels)


def crossed(table: Table, cell: Ints, cells: int, values: Floats | None = None) -> Floats:
    """[group, cell] rows of each group in each cell, or sums of what stands at them."""
    flat = np.bincount(table.group * cells + cell, values, minlength=table.groups * cells)
    return flat.reshape(table.groups, cells).astype(np.float64)


def piecewise(table: Table, counts: Floats, figure: Callable[[Floats], Floats]) -> Floats:
    """[draw] a figure of [row, draw] counts, in pieces; not-a-number where no row is readable."""
    found = np.full(len(counts), np.nan)
    if not len(table.group):
        return found
    # glibc maps arrays of a piece's size anew, page by page, until it has seen a larger one freed;
    # then it keeps their memory, which makes all of this twice as fast.
    np.empty(8 * _CELLS)
    step = max(1, _CELLS // len(table.group))
    for at in range(0, len(counts), step):
        piece = np.ascontiguousarray(counts[at : at + step].T)
        found[at : at + step] = figure(piece[table.group])
    return found


def running(rows: Floats) -> Floats:
    """[row + 1, draw] sums of all rows before each one, and of all."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]))
    np.cumsum(rows, axis=0, out=sums[1:])
    return sums


@dataclass(frozen=True, slots=True)
class Levels:
    """The distinct values of the rows, from the smallest; equal values stand together."""

    place: Ints
    """[row] index of the row's level."""
    order: Ints
    """Rows from the lowest level to the highest."""
    starts: Ints
    """[level] where in that order it begins."""

    @classmethod
    def of(cls, values: Floats) -> "Levels":
        """The levels of one value or more, none of them not-a-number."""
        place = np.unique(values, return_inverse=True)[1].astype(np.int64).reshape(-1)
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(place[order[-1]] + 1))
        return cls(place, order, starts)

    def sums(self, rows: Floats) -> Floats:
        """[level, draw] sums of what stands at the rows."""
        ordered: Floats = rows[self.order]
        if len(self.starts) == len(ordered):
            return ordered
        return np.add.reduceat(ordered, self.starts, axis=0)
