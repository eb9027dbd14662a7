"""Two arms on the same examples: what the change does to a figure, and whether it is chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whytune.evidence.intervals import resample
from whytune.evidence.metrics import Metric, metric_named
from whytune.evidence.pairing import by_seed, paired
from whytune.evidence.significance import clustered, crossed
from whytune.evidence.table import Floats, Table, group_codes, read_mask, tabulate
from whytune.records import Comparison, Kind, Prediction, Reference, Task

LOWER_IS_BETTER = frozenset({
    "label_nll", "brier", "rps", "ece", "ece_uniform", "aurc", "unreadable_rate",
    "mae", "mse", "rmse", "mae_steps",
})  # fmt: skip
"""Figures that measure an error."""

NOT_JUDGED = frozenset({"bias"})
"""Figures of which neither more nor less is better."""

WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "mcc": "Matthews correlation",
    "label_nll": "label loss (nats)",
    "brier": "Brier score",
    "rps": "ranked probability score",
    "ece": "calibration error",
    "ece_uniform": "calibration error (bins of equal width)",
    "aurc": "area under the risk-coverage curve",
    "label_mass": "label mass",
    "unreadable_rate": "share of unreadable answers",
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "rmse": "root mean squared error",
    "mae_steps": "mean absolute error in label steps",
    "within_one": "share of labels within one step",
    "bias": "bias of the expected score",
    "qwk": "quadratic weighted kappa",
    "spearman": "Spearman correlation",
    "kendall": "Kendall correlation (tau-b)",
}
"""Metric -> how a sentence calls it."""


# These count unreadable answers too.
_OF_ALL = ("accuracy", "unreadable_rate")


def default_metrics(task: Task) -> tuple[str, ...]:
    """What two arms are compared on unless told otherwise: the paper's loss first."""
    if task.kind is Kind.NOMINAL:
        return ("label_nll", "accuracy", "macro_f1")
    return ("label_nll", "mse", "mae", "accuracy", "macro_f1", "qwk")


def compare(
    base: Sequence[Prediction],
    arm: Sequence[Prediction],
    references: Mapping[str, Reference],
    groups: Mapping[str, str],
    task: Task,
    *,
    names: tuple[str, str],
    metrics: Sequence[str] | None = None,
    draws: int,
    seed: int,
) -> list[Comparison]:
    """The difference arm - base of each figure, paired.

    Several predictions of an example are several seeds; interval and p then speak about other
    examples and other seeds (`significance.crossed`). With one seed they speak about other examples
    answered by this seed (`significance.clustered`): bootstrap draws give both arms the same groups,
    and the permutation test exchanges the arms' predictions group by group.

    Where the difference is not defined, it, its interval and p are not-a-number. Neither is
    corrected for the number of figures or arms compared; for that there is `family.corrected`.

    Unreadable predictions count for the accuracy (as wrong) and the unreadable rate only; every
    other figure, and its `n` and `groups`, stands on the pairs that are readable in both arms.

    Args:
        base: predictions of the arm that is compared with.
        arm: predictions of the arm in question; the same examples equally often. The k-th
            prediction of an example (its k-th seed) is paired with the k-th of the other side.
            Where some examples have more predictions than others, all count as of one seed.
        references: example id -> what the answers are measured against.
        groups: example id -> group; resampled and exchanged as a whole.
        task: the task of all predictions.
        names: of base and arm.
        metrics: figures to compare; without it `default_metrics(task)`.
        draws: bootstrap draws, and with one seed as many permutations.
        seed: of both.

    Raises:
        EvidenceError: the two sides are not about the same examples equally often; an unknown
            metric; or what `table.tabulate` and `table.group_codes` refuse.
    """
    figures = {name: metric_named(name, task) for name in metrics or default_metrics(task)}
    partner = paired(base, arm, names)
    codes = group_codes(base, groups)
    readable = read_mask(base) & read_mask(partner)

    def sides(positions: Sequence[int]) -> _Sides:
        at = np.array(positions, dtype=np.int64)
        tables = (
            tabulate([side[i] for i in positions], references, task, codes[at], readable[at])
            for side in (base, partner)
        )
        return _Sides(*tables)

    whole = sides(range(len(base)))
    seeds = by_seed(base)
    single = len(seeds) == 1
    parts = [whole] if single else [sides(positions) for positions in seeds]
    once, taken = np.ones((1, whole.base.groups)), resample(whole.base.groups, draws, seed)
    if single:
        # Both arms in one table, each group twice: counts then say which arm's answers are taken.
        both = tabulate(
            [*base, *partner],
            references,
            task,
            np.concatenate((codes, codes + whole.base.groups)),
            np.tile(readable, 2),
        )
        swaps = _swaps(whole.base.groups, draws, seed)
    found = []
    for name, figure in figures.items():
        used = codes if name in _OF_ALL else codes[readable]
        size = len(np.unique(used))
        value = float(whole.difference(figure, once)[0])
        drawn = np.array([part.difference(figure, taken) for part in parts])
        if single:
            exchanged = figure(both, swaps[0]) - figure(both, swaps[1])
            tested = clustered(value, drawn[0], exchanged, size)
        else:
            own = np.array([part.difference(figure, once)[0] for part in parts])
            tested = crossed(value, own, drawn, size)
        found.append(
            Comparison(
                base=names[0],
                arm=names[1],
                metric=name,
                difference=tested.difference,
                p=tested.p,
                n=len(used),
                groups=size,
                seeds=len(parts),
                detectable=None if math.isnan(tested.detectable) else tested.detectable,
            )
        )
    return found


def sentence(comparison: Comparison, task: Task) -> str:
    """One plain sentence about a comparison.

    It claims a difference only where the interval leaves out 0; else it says that none was
    found at this size, which is not to say that there is none, and how large a difference would
    have been found. A claim that Holm's correction does not bear out says so.
    """
    word = WORDS.get(comparison.metric, comparison.metric)
    arm, base, d = comparison.arm, comparison.base, comparison.difference
    size = f"{comparison.n} answers in {comparison.groups} groups"
    size += f" by {comparison.seeds} seeds" if comparison.seeds > 1 else ""
    if math.isnan(d.value):
        return (
            f"On {task.name}, the {word} of {arm} and {base} cannot be compared: it is not "
            f"defined on these predictions ({size})."
        )
    if math.isnan(d.low):
        why = "too few groups" if comparison.groups < 2 else "not defined often enough"
        return (
            f"On {task.name}, the {word} of {arm} differs from that of {base} by "
            f"{_signed(d.value)}; {why} for an interval ({size})."
        )
    facts = _facts(comparison, size)
    if d.low <= 0 <= d.high:
        return (
            f"On {task.name}, no difference in {word} between {arm} and {base} was found at this "
            f"size ({facts}){_detectable(comparison)}."
        )
    way, lower = ("lower", True) if d.value < 0 else ("higher", False)
    judged = " (better)" if lower == (comparison.metric in LOWER_IS_BETTER) else " (worse)"
    judged = "" if comparison.metric in NOT_JUDGED else judged
    doubt = "; among all that was compared it may be chance" if _undone(comparison) else ""
    return f"On {task.name}, {arm} has {way}{judged} {word} than {base} ({facts}){doubt}."


def _facts(comparison: Comparison, size: str) -> str:
    d, holm = comparison.difference, comparison.p_holm
    corrected = "" if holm is None else f" ({holm:.2g} after Holm's correction)"
    scope = "" if comparison.seeds > 1 else "; about such examples and this seed only"
    return (
        f"{_signed(d.value)}, 95 % interval {_signed(d.low)} to {_signed(d.high)}, "
        f"p = {comparison.p:.2g}{corrected}, {size}{scope}"
    )


def _detectable(comparison: Comparison) -> str:
    if not comparison.detectable:
        return ""
    return (
        f"; a difference of {comparison.detectable:.2g} or more would have been found in 4 of 5 "
        "such studies"
    )


def _undone(comparison: Comparison) -> bool:
    return comparison.p_holm is not None and comparison.p_holm > 0.05


def _signed(value: float) -> str:
    return f"{value:+.3g}"


@dataclass(frozen=True, slots=True)
class _Sides:
    """The answers of both arms, with the same groups."""

    base: Table
    arm: Table

    def difference(self, figure: Metric, counts: Floats) -> Floats:
        return figure(self.arm, counts) - figure(self.base, counts)


def _swaps(groups: int, draws: int, seed: int) -> tuple[Floats, Floats]:
    """How often each group of the base and then of the arm counts, on either side."""
    # Not the stream of the bootstrap: interval and p must not share their luck.
    source = np.random.default_rng([seed, 1])
    swapped = source.integers(2, size=(draws, groups)).astype(np.float64)
    kept = 1 - swapped
    return np.hstack((swapped, kept)), np.hstack((kept, swapped))
