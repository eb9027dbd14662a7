"""Figures of the lens over examples and seeds, block by block: their means, what tells two arms
apart and where, and when a student has decided.

Every array is [seed, example, block]; examples are drawn by group, seeds as in `significance`.
Block 0 is what enters the first block (`lens`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from whytune.evidence.family import holm
from whytune.evidence.intervals import resample
from whytune.evidence.significance import Contrast, clustered, crossed
from whytune.evidence.table import Floats, Ints
from whytune.records import Estimate

SURE = 0.95
"""Probability above which a block is sure of its top token."""
ALIKE = 1e-5
"""Differences up to this are the rounding of 32-bit numbers."""
SINGLE, JOINED = 7, 5
"""Table 6 of arXiv 2511.02044 shows the last 7 of 32 blocks one by one, the 5 before them as their
mean, and the mean of the rest."""


class BlockContrast(NamedTuple):
    """What tells two arms apart at a block, or over several."""

    contrast: Contrast
    """Of arm - base."""
    p_holm: float
    """Corrected for the number of blocks at which the arms differ at all."""


class Pool(NamedTuple):
    """Blocks that are averaged."""

    name: str
    first: int
    last: int


def levels(values: Floats, group: Ints, draws: int, seed: int) -> list[Estimate]:
    """Mean over examples and seeds of each block, with its 95 % interval.

    With one seed a percentile bootstrap over groups, with several groups and seeds both random
    (`significance.crossed`).
    """
    return [found.difference for found in _tested(values, group, draws, seed)]


def contrasts(base: Floats, arm: Floats, group: Ints, draws: int, seed: int) -> list[BlockContrast]:
    """arm - base at each block, paired by seed and example, with Holm's correction.

    Blocks below the first adapter are alike in both arms: there the difference is 0, its p
    not-a-number, and they do not count among the tests.

    Args:
        base: [seed, example, block] of the arm that is compared with.
        arm: the same examples and as many seeds.
        group: [example] whole numbers from 0; resampled and exchanged as a whole.
        draws: bootstrap draws, and with one seed as many permutations.
        seed: of both.
    """
    difference = arm - base
    found = [
        one
        if np.abs(difference[:, :, at]).max() > ALIKE
        else Contrast(_NOTHING, math.nan, math.nan)
        for at, one in enumerate(_tested(difference, group, draws, seed))
    ]
    return [
        BlockContrast(one, p)
        for one, p in zip(found, holm([one.p for one in found]), strict=True)
    ]  # fmt: skip


_NOTHING = Estimate(value=0.0, low=0.0, high=0.0)


def pools(blocks: int) -> list[Pool]:
    """The columns of Table 6 for a model of so many blocks: with 32, the paper's own."""
    single = min(SINGLE, blocks)
    joined = min(JOINED, blocks - single)
    rest = blocks - single - joined
    spans = [(1, rest), (rest + 1, rest + joined)]
    spans += [(block, block) for block in range(blocks - single + 1, blocks + 1)]
    return [
        Pool(str(first) if first == last else f"{first}-{last}", first, last)
        for first, last in spans
        if first <= last
    ]


def pooled(values: Floats, columns: Sequence[Pool]) -> Floats:
    """[seed, example, pool] means over the blocks of each pool."""
    return np.stack(
        [values[:, :, one.first : one.last + 1].mean(axis=2) for one in columns], axis=2
    )


def sure(top_probs: Floats) -> Floats:
    """[seed, example, 1] the first block (from 1) whose top token, whatever it is, has a probability
    above `SURE`; one more than there are where none has. Early blocks can be sure of a token that
    nobody would say.
    """
    above = top_probs[:, :, 1:] > SURE
    first = np.where(above.any(axis=2), above.argmax(axis=2) + 1, top_probs.shape[2])
    return np.asarray(first[:, :, None], dtype=np.float64)


def decided(ranks: Ints | Floats) -> Floats:
    """[seed, example, 1] the block (from 1) from which on what the student says in the end stays on
    top.

    Args:
        ranks: [seed, example, block] of the token that is on top at the last block.
    """
    below = ranks[:, :, 1:] > 0
    behind = below.shape[2] - below[:, :, ::-1].argmax(axis=2)
    first = np.where(below.any(axis=2), behind + 1, 1)
    return np.asarray(first[:, :, None], dtype=np.float64)


def _tested(values: Floats, group: Ints, draws: int, seed: int) -> list[Contrast]:
    """Mean of each block against 0."""
    groups = int(group.max()) + 1
    sizes = np.bincount(group, minlength=groups).astype(np.float64)
    # [seed, group, block]
    sums = np.stack([_by_group(of_seed, group, groups) for of_seed in values])
    counts = resample(groups, draws, seed)
    drawn = (counts @ sums) / (counts @ sizes)[None, :, None]
    means = values.mean(axis=1)
    blocks = range(values.shape[2])
    if len(values) > 1:
        return [
            crossed(float(means[:, at].mean()), means[:, at], drawn[:, :, at], groups)
            for at in blocks
        ]
    # Not the stream of the bootstrap: interval and p must not share their luck.
    signs = 2.0 * np.random.default_rng([seed, 1]).integers(2, size=(draws, groups)) - 1
    exchanged = (signs @ sums[0]) / len(group)
    return [
        clustered(float(means[0, at]), drawn[0, :, at], exchanged[:, at], groups) for at in blocks
    ]


def _by_group(values: Floats, group: Ints, groups: int) -> Floats:
    """[group, block] sums over the examples of each group."""
    sums = np.zeros((groups, values.shape[1]))
    np.add.at(sums, group, values)
    return sums
