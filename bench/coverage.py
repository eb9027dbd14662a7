"""Whether intervals and tests hold their level: made-up studies in which the truth is known.

    python bench/coverage.py                  2,000 studies of each design, into results/coverage.json
    python bench/coverage.py --studies 200    fewer, printed only

A study: two arms answer the same examples in groups of 1 to 5, with 1, 2, 3 or 5 seeds. An example's
loss differs between the arms by its group's effect + the seed's + the group's with this
seed + its own noise, all normal. `share` is what the seeds contribute to the variance of the mean
difference.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from whytune.evidence.intervals import resample
from whytune.evidence.significance import Contrast, clustered, crossed

STUDIES = 2000
RESULTS = Path(__file__).parent / "results" / "coverage.json"


@dataclass(frozen=True)
class Design:
    seeds: int
    share: float = 0.0
    """Of the seeds in the variance of the mean difference."""
    groups: int = 60
    draws: int = 1000


DESIGNS = (
    Design(1),
    Design(1, groups=20),
    *(Design(seeds, share) for seeds in (3, 5) for share in (0.0, 0.3, 0.6, 0.9)),
    *(Design(2, share) for share in (0.0, 0.5, 0.9)),
)


def differences(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Examples in each group, and [seed, group] sums of the differences over them; truth 0."""
    sizes = rng.integers(1, 6, size=design.groups)
    n = sizes.sum()
    over = rng.normal(0, 0.5, size=(1, design.groups)) * sizes
    both = rng.normal(0, 0.3, size=(design.seeds, design.groups)) * sizes
    noise = rng.normal(0, 0.5 * np.sqrt(sizes), size=(design.seeds, design.groups))
    within = (0.09 * (sizes**2).sum() + 0.25 * n) / design.seeds
    rest = (0.25 * (sizes**2).sum() + within) / n**2
    spread = np.sqrt(design.share / (1 - design.share) * rest * design.seeds)
    seed = rng.normal(0, spread, size=(design.seeds, 1)) * sizes
    return sizes, over + both + noise + seed


def study(design: Design, number: int) -> Contrast:
    rng = np.random.default_rng([number, design.seeds, design.groups, round(100 * design.share)])
    sizes, sums = differences(design, rng)
    counts = resample(design.groups, design.draws, number)
    drawn = sums @ counts.T / (counts @ sizes)
    own = sums.sum(axis=1) / sizes.sum()
    if design.seeds > 1:
        return crossed(float(own.mean()), own, drawn, design.groups)
    signs = 1 - 2 * rng.integers(2, size=counts.shape)
    return clustered(float(own[0]), drawn[0], signs @ sums[0] / sizes.sum(), design.groups)


def measured(design: Design, studies: int) -> dict[str, float]:
    """Shares of studies of two arms that do not differ.

    coverage: their 95 % intervals hold 0. size: p < 0.05. power: they would have found the
    difference that is detectable on average; a true difference shifts their intervals by itself.
    """
    start = time.perf_counter()
    found = [study(design, number) for number in range(studies)]
    low, high = (np.array([getattr(t.difference, end) for t in found]) for end in ("low", "high"))
    truth = np.mean([t.detectable for t in found])
    return {
        "coverage": float(np.mean((low <= 0) & (high >= 0))),
        "size": float(np.mean([t.p < 0.05 for t in found])),
        "power": float(np.mean((low + truth > 0) | (high + truth < 0))),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, help="of each design; printed only")
    studies = parser.parse_args().studies
    rows = []
    for design in DESIGNS:
        rows.append({**asdict(design), **measured(design, studies or STUDIES)})
        print(json.dumps(rows[-1]), flush=True)
    if studies is None:
        facts = {"studies": STUDIES, "numpy": np.__version__, "designs": rows}
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
