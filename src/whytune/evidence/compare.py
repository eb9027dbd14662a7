"""Two arms on the same examples: what the change does to a figure, and whether it is chance."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from whytune.errors import EvidenceError
from whytune.evidence.intervals import estimate, resample
from whytune.evidence.metrics import Metric, metric_named
from whytune.evidence.table import Floats, Table, group_codes, read_mask, tabulate
from whytune.records import Comparison, Estimate, Kind, Prediction, Reference, Task

LOWER_IS_BETTER = frozenset({"label_nll", "brier", "ece", "mae", "mse"})
"""Figures that measure an error."""

WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "label_nll": "label loss (nats)",
    "brier": "Brier score",
    "ece": "calibration error",
    "label_mass": "label mass",
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "qwk": "quadratic weighted kappa",
    "spearman": "Spearman correlation",
}
"""Metric -> how a sentence calls it."""

# Equal differences must compare as equal though they were summed in another order.
_ROUNDING = 1e-12


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

    Interval: 95 % percentile bootstrap of the difference; both arms get the same resampled
    groups. p: two-sided permutation test that exchanges the arms' predictions group by group;
    p = (1 + #{|d*| >= |d|}) / (1 + draws) (Phipson & Smyth 2010), so never below 1 / (1 + draws);
    a permuted difference that is not defined counts as at least as large. Where the difference
    is not defined, it, its interval and p are not-a-number. Neither is corrected for the number
    of figures or arms compared.

    Unreadable predictions count (as wrong) for the accuracy only; every other figure, and its
    `n` and `groups`, stands on the pairs that are readable in both arms.

    Args:
        base: predictions of the arm that is compared with.
        arm: predictions of the arm in question; the same examples equally often. The k-th
            prediction of an example (its k-th seed) is paired with the k-th of the other side.
        references: example id -> what the answers are measured against.
        groups: example id -> group; resampled and exchanged as a whole.
        task: the task of all predictions.
        names: of base and arm.
        metrics: figures to compare; without it `default_metrics(task)`.
        draws: bootstrap draws, and as many permutations.
        seed: of both.

    Raises:
        EvidenceError: the two sides are not about the same examples equally often; an unknown
            metric; or what `table.tabulate` and `table.group_codes` refuse.
    """
    figures = {name: metric_named(name, task) for name in metrics or default_metrics(task)}
    partner = _paired(base, arm, names)
    codes = group_codes(base, groups)
    readable = read_mask(base) & read_mask(partner)
    # Both arms in one table, each group twice: counts then say which arm's answers are taken.
    table = tabulate(
        [*base, *partner],
        references,
        task,
        np.concatenate((codes, codes + codes.max(initial=-1) + 1)),
        np.tile(readable, 2),
    )
    taken = resample(table.groups // 2, draws, seed)
    swaps = _swaps(table.groups // 2, draws, seed)
    found = []
    for name, figure in figures.items():
        used = codes if name == "accuracy" else codes[readable]
        size = len(np.unique(used))
        difference, p = _tested(figure, table, taken, swaps, size)
        found.append(
            Comparison(
                base=names[0],
                arm=names[1],
                metric=name,
                difference=difference,
                p=p,
                n=len(used),
                groups=size,
            )
        )
    return found


def sentence(comparison: Comparison, task: Task) -> str:
    """One plain sentence about a comparison.

    It claims a difference only where the interval leaves out 0; else it says that none was
    found at this size, which is not to say that there is none.
    """
    word = WORDS.get(comparison.metric, comparison.metric)
    d, size = comparison.difference, f"{comparison.n} answers in {comparison.groups} groups"
    if math.isnan(d.value):
        return (
            f"On {task.name}, the {word} of {comparison.arm} and {comparison.base} cannot be "
            f"compared: it is not defined on these predictions ({size})."
        )
    if math.isnan(d.low):
        return (
            f"On {task.name}, the {word} of {comparison.arm} differs from that of "
            f"{comparison.base} by {_signed(d.value)}; there are too few groups for an interval "
            f"({size})."
        )
    facts = (
        f"{_signed(d.value)}, 95 % interval {_signed(d.low)} to {_signed(d.high)}, "
        f"p = {comparison.p:.2g}, {size}"
    )
    if d.low <= 0 <= d.high:
        return (
            f"On {task.name}, no difference in {word} between {comparison.arm} and "
            f"{comparison.base} was found at this size ({facts})."
        )
    way, lower = ("lower", True) if d.value < 0 else ("higher", False)
    judged = "better" if lower == (comparison.metric in LOWER_IS_BETTER) else "worse"
    return (
        f"On {task.name}, {comparison.arm} has {way} ({judged}) {word} than "
        f"{comparison.base} ({facts})."
    )


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _paired(
    base: Sequence[Prediction], arm: Sequence[Prediction], names: tuple[str, str]
) -> list[Prediction]:
    """The arm's predictions in the base's order of examples and occurrences."""
    sides: list[dict[str, list[Prediction]]] = []
    for side in (base, arm):
        by_id = defaultdict(list)
        for prediction in side:
            by_id[prediction.example_id].append(prediction)
        sides.append(by_id)
    for example_id in {**sides[0], **sides[1]}:
        often = [len(side.get(example_id, ())) for side in sides]
        if often[0] != often[1]:
            raise EvidenceError(
                f"example {example_id}: found {often[0]} predictions of {names[0]} and {often[1]} "
                f"of {names[1]}, expected as many of both; compare arms on the same examples and "
                "seeds"
            )
    waiting = {example_id: iter(answers) for example_id, answers in sides[1].items()}
    return [next(waiting[prediction.example_id]) for prediction in base]


def _swaps(groups: int, draws: int, seed: int) -> Floats:
    # Not the stream of the bootstrap: interval and p must not share their luck.
    source = np.random.default_rng([seed, 1])
    return source.integers(2, size=(draws, groups)).astype(np.float64)


def _tested(
    figure: Metric, table: Table, taken: Floats, swaps: Floats, size: int
) -> tuple[Estimate, float]:
    """The difference with its interval, and p."""
    value = float(_difference(figure, table, np.ones((1, table.groups // 2)))[0])
    difference = estimate(value, _difference(figure, table, taken), size)
    return difference, _p(value, _exchanged(figure, table, swaps))


def _difference(figure: Metric, table: Table, counts: Floats) -> Floats:
    nothing = np.zeros_like(counts)
    return figure(table, np.hstack((nothing, counts))) - figure(table, np.hstack((counts, nothing)))


def _exchanged(figure: Metric, table: Table, swaps: Floats) -> Floats:
    kept = 1 - swaps
    return figure(table, np.hstack((swaps, kept))) - figure(table, np.hstack((kept, swaps)))


def _p(value: float, exchanged: Floats) -> float:
    if math.isnan(value):
        return math.nan
    smaller = int((np.abs(exchanged) < abs(value) - _ROUNDING).sum())
    return (1 + len(exchanged) - smaller) / (1 + len(exchanged))
