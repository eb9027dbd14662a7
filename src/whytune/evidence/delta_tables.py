"""Weight changes as tables: by projection, in the shape of Table 5 of arXiv 2511.02044, and by module.

Works on records alone, so that what a run has stored can be summed up without torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from whytune.errors import EvidenceError
from whytune.evidence.intervals import LOW
from whytune.evidence.table import Floats
from whytune.records import Estimate

PROJECTIONS = ("down", "gate", "up", "k", "o", "q", "v")
"""The columns of Table 5, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How far an adapter moves a matrix of its base: figures of ΔW = s·B·A."""

    module: str
    """Path in the base model."""
    layer: int | None
    """Number of the block, from 0; None outside the blocks."""
    projection: str
    """One of `PROJECTIONS`, or another's path within the block."""
    frobenius: float
    """‖ΔW‖_F = √(Σ σᵢ²), in units of the weights; 0 or more."""
    spectral: float
    """Largest singular value σ₁, in units of the weights: the most that ΔW lengthens an input of
    length 1."""
    effective_rank: float
    """exp(-Σ pᵢ ln pᵢ) with pᵢ = σᵢ / Σ σ (Roy & Vetterli 2007, EUSIPCO, "The effective rank"); 1 to
    the rank of ΔW; not-a-number where ΔW = 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Change):
    """How two adapters of one base differ in a matrix: the figures are those of ΔW₁ - ΔW₂."""

    frobenius_first: float
    """‖ΔW₁‖_F"""
    frobenius_second: float
    """‖ΔW₂‖_F"""
    cosine: float
    """<ΔW₁, ΔW₂> / (‖ΔW₁‖ ‖ΔW₂‖), -1 to 1; not-a-number where either is 0."""
    column_angles: tuple[float, ...]
    """Principal angles (Björck & Golub 1973, Math. Comp. 27:579) between the spaces that the two
    changes write to, in radians, 0 to π/2, from the smallest; as many as the lower of the two ranks."""
    row_angles: tuple[float, ...]
    """The same between the spaces that they read from."""

    @property
    def column_overlap(self) -> float:
        """Mean of cos² over `column_angles`: 0 where the spaces are orthogonal, 1 where one holds the
        other (Hu et al. 2021, section 7.2); not-a-number without angles. Of random spaces of
        dimension r in n about r / n.
        """
        return _overlap(self.column_angles)

    @property
    def row_overlap(self) -> float:
        """The same of `row_angles`."""
        return _overlap(self.row_angles)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionRow:
    """A projection over all layers."""

    projection: str
    modules: int
    """How many matrices were summed."""
    seeds: int
    total: Estimate
    """Σ over layers of the Frobenius norm: mean over seeds, with its 95 % interval."""
    share: Estimate
    """A seed's total over the largest total of that seed, 0 to 1: mean over seeds, with its interval,
    which is not cut at 0 and 1; not-a-number where nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """One matrix of one layer."""

    module: str
    layer: int | None
    projection: str
    seeds: int
    value: Estimate
    """The figure: mean over seeds, with its 95 % interval."""


def table5(seeds: Sequence[Sequence[Change]]) -> list[ProjectionRow]:
    """Which projections changed most, or differ most between two arms: a row for each projection.

    Formula: total = Σ over layers ‖·‖_F, share = total / largest total. The paper divides "by the
    largest" but does not say how layers are put together, nor whether it took the norm of products or
    of the factors; here it is the sum of the layers' norms, of the products s·B·A, which, unlike the
    factors, are the same for all ways to write one change.

    Args:
        seeds: for each seed the records of `deltas.differences` (arm A's seed against arm B's) or of
            `deltas.changes`.

    Returns:
        The paper's projections in its order, then others by name. With one seed the intervals are
        not-a-number, not of no width.

    Raises:
        EvidenceError: no seeds, or seeds that changed different modules.
    """
    first = _aligned(seeds)
    known = {record.projection for record in first}
    names = [name for name in PROJECTIONS if name in known]
    names += sorted(known - set(names))
    column = np.array([names.index(record.projection) for record in first])
    totals = np.array([np.bincount(column, [r.frobenius for r in of_seed]) for of_seed in seeds])
    largest = totals.max(axis=1, keepdims=True)
    shares = np.divide(totals, largest, out=np.full_like(totals, math.nan), where=largest > 0)
    return [
        ProjectionRow(
            projection=name, modules=int((column == at).sum()), seeds=len(seeds),
            total=over_seeds(totals[:, at]), share=over_seeds(shares[:, at]),
        )
        for at, name in enumerate(names)
    ]  # fmt: skip


def by_module(seeds: Sequence[Sequence[Change]], figure: str = "frobenius") -> list[ModuleRow]:
    """A figure of each matrix over the seeds: what Figures 12 to 29 of the paper draw by layer.

    Args:
        seeds: see `table5`.
        figure: a number of the records: `frobenius`, `spectral`, `effective_rank`, and of differences
            `cosine`, `column_overlap` and the like.

    Raises:
        EvidenceError: no seeds, seeds that changed different modules, or a figure that they lack.
    """
    first = _aligned(seeds)
    if not isinstance(getattr(first[0], figure, None), float):
        raise EvidenceError(
            f"weight changes: found figure {figure!r}, expected a number of "
            f"{type(first[0]).__name__}, such as frobenius"
        )
    values = np.array([[getattr(record, figure) for record in of_seed] for of_seed in seeds])
    return [
        ModuleRow(module=record.module, layer=record.layer, projection=record.projection,
                  seeds=len(seeds), value=over_seeds(values[:, at]))
        for at, record in enumerate(first)
    ]  # fmt: skip


def over_seeds(values: Floats) -> Estimate:
    """Mean of one number a seed, with the 95 % interval of Student's t: mean ± t(0.975, n - 1)·s/√n.

    Not-a-number ends with fewer than two seeds; all not-a-number where a seed's number is.
    """
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(value=mean, low=math.nan, high=math.nan)
    half = -float(stdtrit(n - 1, LOW / 100)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=mean, low=mean - half, high=mean + half)


def _aligned(seeds: Sequence[Sequence[Change]]) -> Sequence[Change]:
    """The records of the first seed, once all seeds are known to have the same modules."""
    if not seeds or not seeds[0]:
        raise EvidenceError("weight changes: found none, expected those of one or more seeds")
    names = [record.module for record in seeds[0]]
    for number, of_seed in enumerate(seeds):
        others = [record.module for record in of_seed]
        if others != names:
            raise EvidenceError(
                f"weight changes of seed {number}: found {_unlike(others, names)}, expected the same "
                "modules in every seed; compare adapters with the same target_modules"
            )
    return seeds[0]


def _unlike(found: Sequence[str], expected: Sequence[str]) -> str:
    def told() -> Iterator[str]:
        yield from (f"{name} beside the first seed's" for name in sorted({*found} - {*expected}))
        yield from (f"no {name}" for name in sorted({*expected} - {*found}))

    return next(told(), "them in another order")


def _overlap(angles: Sequence[float]) -> float:
    return float(np.mean(np.cos(angles) ** 2)) if angles else math.nan
