"""The figures of a scorecard.

Every figure is a pure function of a table and of counts [draw, group] that say how often each
group is taken; it answers one number a draw. Not-a-number means: not defined on these
predictions (no readable ones, an answerer without probabilities, no spread to correlate). One
answer without a probability makes the figures that need it not-a-number; to leave it out
silently would compare arms on different examples.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from whytune.errors import EvidenceError
from whytune.evidence.intervals import estimate, resample
from whytune.evidence.table import Floats, Ints, Table, group_codes, read_mask, tabulate
from whytune.records import Kind, Prediction, Reference, Scorecard, Task

Metric = Callable[[Table, Floats], Floats]

BINS = 15
"""Bins of the expected calibration error."""


def scorecard(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    groups: Mapping[str, str],
    task: Task,
    *,
    reference: str,
    draws: int,
    seed: int,
) -> Scorecard:
    """Every figure of the task, with 95 % percentile bootstrap intervals over groups.

    Several predictions of one example (several seeds) may be pooled. The interval then speaks
    about other examples and these seeds, not about other seeds.

    Args:
        predictions: answers about one task.
        references: example id -> what the answer is measured against.
        groups: example id -> group; resampled as a whole.
        task: the task of all predictions.
        reference: what the references are: `gold` or `verdict`.
        draws: bootstrap draws; 0 gives figures without intervals.
        seed: of the draws.

    Raises:
        EvidenceError: see `table.tabulate` and `table.group_codes`.
    """
    readable = read_mask(predictions)
    table = tabulate(predictions, references, task, group_codes(predictions, groups), readable)
    counts = resample(table.groups, draws, seed)
    whole = np.ones((1, table.groups))
    metrics = {
        name: estimate(float(figure(table, whole)[0]), figure(table, counts), table.groups)
        for name, figure in metrics_of(task).items()
    }
    cells = _confusion(table, whole)[0].astype(int)
    return Scorecard(
        n=len(predictions),
        unreadable=int((~readable).sum()),
        reference=reference,
        labels=task.label_names,
        metrics=metrics,
        confusion=tuple(tuple(int(cell) for cell in row) for row in cells),
    )


def metrics_of(task: Task) -> dict[str, Metric]:
    """The figures that a task has, by name."""
    if task.kind is Kind.NOMINAL:
        return dict(EVERY_TASK)
    return {**EVERY_TASK, **ORDINAL_TASKS}


def metric_named(name: str, task: Task) -> Metric:
    """One figure of a task.

    Raises:
        EvidenceError: the task has no such figure.
    """
    known = metrics_of(task)
    if name not in known:
        raise EvidenceError(
            f"task {task.name} ({task.kind}): found metric {name!r}, expected one of "
            f"{', '.join(known)}"
        )
    return known[name]


def accuracy(table: Table, counts: Floats) -> Floats:
    """Share of predictions with the reference's label; unreadable ones are wrong.

    Formula: #{predicted = reference} / n. Unit: share, 0 to 1, higher is better.
    """
    return _ratio(counts @ table.hits, counts @ table.asked)


def macro_f1(table: Table, counts: Floats) -> Floats:
    """Mean F1 over the labels that occur in the references or the predictions of the draw.

    Formula: mean over labels of 2·TP / (references + predictions). Range 0 to 1, higher is
    better. As scikit-learn's `f1_score(average="macro", zero_division=0)`; readable only.
    """
    cells = _confusion(table, counts)
    given = cells.sum(axis=1) + cells.sum(axis=2)
    found = 2 * np.diagonal(cells, axis1=1, axis2=2)
    f1 = np.divide(found, given, out=np.zeros_like(given), where=given > 0)
    return _ratio(f1.sum(axis=1), (given > 0).sum(axis=1).astype(np.float64))


def label_nll(table: Table, counts: Floats) -> Floats:
    """Mean negative log-likelihood of the reference's label among all texts.

    Formula: mean of -ln p(label's tokens | prompt), not renormalised over the labels: the
    score-token loss of arXiv 2511.02044. Unit: nats, 0 upwards, lower is better.
    """
    return _mean(table, table.nll, counts)


def brier(table: Table, counts: Floats) -> Floats:
    """Squared error of the probabilities among the labels (Brier 1950, the original form).

    Formula: mean over examples of sum over labels of (p - [label is the reference])².
    Range 0 to 2, lower is better.
    """
    truth = np.eye(table.labels)[table.reference]
    return _mean(table, ((table.probs - truth) ** 2).sum(axis=1), counts)


def ece(table: Table, counts: Floats) -> Floats:
    """Expected calibration error of the top label, 15 bins of equal mass.

    Formula: sum over bins of (bin's share) · |mean confidence - accuracy|. Confidence is the
    highest probability among the labels. Examples are sorted by it and split as evenly as
    possible (the first bins are one larger); fewer examples than bins: one bin an example.
    Examples of equal confidence that straddle an edge are spread over both bins in proportion,
    so that the figure does not depend on the order of the examples. Range 0 to 1, lower is
    better. Biased upwards on few examples, the interval too: noise inside a bin counts as
    error. Source: Naeini et al. 2015; equal mass after Nixon et al. 2019 (arXiv 1904.01685).
    """
    confidence = table.probs.max(axis=1, initial=0)
    if np.isnan(confidence).any():
        return np.full(len(counts), np.nan)
    gap = confidence - (table.predicted == table.reference)
    place = _places(confidence)
    return np.array([_ece(place, gap, taken[table.group]) for taken in counts])


def label_mass(table: Table, counts: Floats) -> Floats:
    """Mean probability that the answer is any of the labels. Range 0 to 1; near 1 is healthy."""
    return _mean(table, table.mass, counts)


def mae(table: Table, counts: Floats) -> Floats:
    """Mean absolute error of the expected score.

    Formula: mean of |expected - reference score|. Unit: the scale [0, 1], lower is better.
    """
    return _mean(table, np.abs(table.expected - table.score), counts)


def mse(table: Table, counts: Floats) -> Floats:
    """Mean squared error of the expected score.

    Formula: mean of (expected - reference score)². Unit: the scale [0, 1] squared, lower is
    better.
    """
    return _mean(table, (table.expected - table.score) ** 2, counts)


def qwk(table: Table, counts: Floats) -> Floats:
    """Quadratic weighted kappa of the labels (Cohen 1968).

    Formula: 1 - Σ (i-j)²·O_ij / Σ (i-j)²·E_ij over label indices i, j; O the confusion, E what
    its margins give by chance. Range -1 to 1, 0 is chance, higher is better. Not defined where
    references and predictions are all one and the same label.
    """
    cells = _confusion(table, counts)
    index = np.arange(table.labels, dtype=np.float64)
    weights = (index[:, None] - index) ** 2
    seen = (cells * weights).sum(axis=(1, 2))
    chance = np.einsum("di,dj,ij->d", cells.sum(axis=2), cells.sum(axis=1), weights)
    return 1 - _ratio(seen * cells.sum(axis=(1, 2)), chance)


def spearman(table: Table, counts: Floats) -> Floats:
    """Rank correlation of the expected score with the reference's score (Spearman 1904).

    Formula: Pearson's correlation of the ranks; ties share their mean rank. Range -1 to 1,
    higher is better. Not defined where either side is constant.
    """
    if np.isnan(table.expected).any():
        return np.full(len(counts), np.nan)
    given, truth = _places(table.expected), _places(table.score)
    return np.array([_spearman(given, truth, taken[table.group]) for taken in counts])


EVERY_TASK: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "label_nll": label_nll,
    "brier": brier,
    "ece": ece,
    "label_mass": label_mass,
}
ORDINAL_TASKS: dict[str, Metric] = {"mae": mae, "mse": mse, "qwk": qwk, "spearman": spearman}


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _mean(table: Table, values: Floats, counts: Floats) -> Floats:
    # Sums of the groups first: the draws then cost draws x groups, however many rows there are.
    sums = np.bincount(table.group, weights=values, minlength=table.groups)
    sizes = np.bincount(table.group, minlength=table.groups).astype(np.float64)
    return _ratio(counts @ sums, counts @ sizes)


def _confusion(table: Table, counts: Floats) -> Floats:
    """[draw, reference label, predicted label] over the readable rows."""
    cells = table.reference * table.labels + table.predicted
    # Only the cells that occur: of 28 x 28 emotions most do not.
    used, cell = np.unique(cells, return_inverse=True)
    shape = (table.groups, len(used))
    by_group = np.bincount(table.group * len(used) + cell, minlength=shape[0] * shape[1])
    sums = np.zeros((len(counts), table.labels**2))
    sums[:, used] = counts @ by_group.reshape(shape).astype(np.float64)
    return sums.reshape(-1, table.labels, table.labels)


def _places(values: Floats) -> Ints:
    """Where each value stands among the distinct ones, from the smallest; ties stand together."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64).reshape(-1)


def _ece(place: Ints, gap: Floats, taken: Floats) -> float:
    total = int(taken.sum())
    if not total:
        return float("nan")
    sizes = np.bincount(place, weights=taken)
    gaps = np.bincount(place, weights=taken * gap)[sizes > 0]
    bins = min(BINS, total)
    step = np.arange(bins + 1)
    edges = step * (total // bins) + np.minimum(step, total % bins)
    # The running sum of the gaps, read at the edges: a tie block is a straight piece of it.
    ends = np.concatenate(([0.0], np.cumsum(sizes[sizes > 0])))
    running = np.interp(edges, ends, np.concatenate(([0.0], np.cumsum(gaps))))
    return float(np.abs(np.diff(running)).sum() / total)


def _spearman(given: Ints, truth: Ints, taken: Floats) -> float:
    ranks = [_ranks(place, taken) for place in (given, truth)]
    spread = float(np.sqrt((taken @ ranks[0] ** 2) * (taken @ ranks[1] ** 2)))
    return float(taken @ (ranks[0] * ranks[1])) / spread if spread else float("nan")


def _ranks(place: Ints, taken: Floats) -> Floats:
    """Mean ranks of a sample in which row i stands `taken[i]` times, centred at exactly 0."""
    sizes = np.bincount(place, weights=taken)
    ranks: Floats = np.cumsum(sizes) - (sizes - 1) / 2 - (taken.sum() + 1) / 2
    return ranks[place]
