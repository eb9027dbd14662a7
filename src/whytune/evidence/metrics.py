"""The figures of a scorecard.

Every figure is a pure function of a table and of counts [draw, group] that say how often each
group is taken; it answers one number a draw. Not-a-number means: not defined on these
predictions. One answer without a probability makes the figures that need it not-a-number; to
leave it out silently would compare arms on different examples.

What is asked of whom      accuracy  unreadable_rate  others
nobody                     nan       nan              nan
nothing readable           0         1                nan
no probabilities           as ever   as ever          nan: label_nll, label_mass, brier, rps, ece,
                                                      ece_uniform, aurc; as ever: the rest
references all one label   as ever   as ever          nan: mcc, spearman, kendall; the label's
                                                      recall: balanced_accuracy; 0: qwk
one label for all          as ever   as ever          nan: mcc; 0: qwk; spearman and kendall by
                                                      the expected scores, nan where these tie
both the same label        1         as ever          nan: mcc, qwk, spearman, kendall

Figures of the labels stand here, those of the probabilities in `probabilistic`, those of ordinal
tasks in `ordinal`, those of single labels in `classwise`, and means over tasks in `macro`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from whytune.errors import EvidenceError
from whytune.evidence import ordinal, probabilistic, sums
from whytune.evidence.intervals import estimate, resample
from whytune.evidence.probabilistic import BINS as BINS
from whytune.evidence.table import Floats, Table, table_of
from whytune.records import Kind, Prediction, Reference, Scorecard, Task

Metric = Callable[[Table, Floats], Floats]


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
        predictions: answers about one task; without any, every figure is not-a-number.
        references: example id -> what the answer is measured against.
        groups: example id -> group; resampled as a whole.
        task: the task of all predictions.
        reference: what the references are: `gold` or `verdict`.
        draws: bootstrap draws; 0 gives figures without intervals.
        seed: of the draws.

    Raises:
        EvidenceError: see `table.table_of`.
    """
    table = table_of(predictions, references, groups, task)
    counts = resample(table.groups, draws, seed)
    whole = np.ones((1, table.groups))
    metrics = {
        name: estimate(float(figure(table, whole)[0]), figure(table, counts), table.groups)
        for name, figure in metrics_of(task).items()
    }
    cells = sums.confusion(table, whole)[0].astype(int)
    return Scorecard(
        n=len(predictions),
        unreadable=int(table.unread.sum()),
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
    return sums.ratio(counts @ table.hits, counts @ table.asked)


def unreadable_rate(table: Table, counts: Floats) -> Floats:
    """Share of predictions without a label: unreadable, refused or failed.

    Formula: #{without a label} / n, of all asked. Unit: share, 0 to 1, lower is better.
    """
    return sums.ratio(counts @ table.unread, counts @ table.asked)


def balanced_accuracy(table: Table, counts: Floats) -> Floats:
    """Mean recall over the labels that occur in the references of the draw.

    Formula: mean over labels of TP / references. Range 0 to 1, higher is better. As
    scikit-learn's `balanced_accuracy_score`; readable only.
    """
    cells = sums.confusion(table, counts)
    given = cells.sum(axis=2)
    recall = _or_zero(np.diagonal(cells, axis1=1, axis2=2), given)
    return sums.ratio(recall.sum(axis=1), (given > 0).sum(axis=1).astype(np.float64))


def macro_f1(table: Table, counts: Floats) -> Floats:
    """Mean F1 over the labels that occur in the references or the predictions of the draw.

    Formula: mean over labels of 2·TP / (references + predictions). Range 0 to 1, higher is
    better. As scikit-learn's `f1_score(average="macro", zero_division=0)`; readable only.
    """
    cells = sums.confusion(table, counts)
    occurs = (cells.sum(axis=1) + cells.sum(axis=2) > 0).sum(axis=1)
    return sums.ratio(_f1(cells).sum(axis=1), occurs.astype(np.float64))


def weighted_f1(table: Table, counts: Floats) -> Floats:
    """Mean F1 over the labels, each weighted by how many references it has.

    Formula: Σ references·F1 / Σ references. Range 0 to 1, higher is better. As scikit-learn's
    `f1_score(average="weighted", zero_division=0)`; readable only.
    """
    cells = sums.confusion(table, counts)
    given = cells.sum(axis=2)
    return sums.ratio((given * _f1(cells)).sum(axis=1), given.sum(axis=1))


def mcc(table: Table, counts: Floats) -> Floats:
    """Matthews' correlation of predicted and reference labels, of any number of labels.

    Formula: (n·TP - Σ r·p) / √((n² - Σ r²)(n² - Σ p²)); TP all hits, r and p how often references
    and predictions have a label, sums over labels. Range -1 to 1, 0 is chance, higher is better.
    Not defined where either side is all one label (scikit-learn's `matthews_corrcoef` says 0).
    Readable only. Source: Gorodkin 2004, R_K.
    """
    cells = sums.confusion(table, counts)
    given, said = cells.sum(axis=2), cells.sum(axis=1)
    n = cells.sum(axis=(1, 2))
    above = n * np.trace(cells, axis1=1, axis2=2) - (given * said).sum(axis=1)
    spread = (n**2 - (given**2).sum(axis=1)) * (n**2 - (said**2).sum(axis=1))
    return sums.ratio(above, np.sqrt(spread))


EVERY_TASK: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
    "mcc": mcc,
    "label_nll": probabilistic.label_nll,
    "brier": probabilistic.brier,
    "ece": probabilistic.ece,
    "ece_uniform": probabilistic.ece_uniform,
    "aurc": probabilistic.aurc,
    "label_mass": probabilistic.label_mass,
    "unreadable_rate": unreadable_rate,
}
ORDINAL_TASKS: dict[str, Metric] = {
    "mae": ordinal.mae,
    "mse": ordinal.mse,
    "rmse": ordinal.rmse,
    "mae_steps": ordinal.mae_steps,
    "within_one": ordinal.within_one,
    "bias": ordinal.bias,
    "qwk": ordinal.qwk,
    "spearman": ordinal.spearman,
    "kendall": ordinal.kendall,
    "rps": ordinal.rps,
}


def _f1(cells: Floats) -> Floats:
    """[draw, label] F1; 0 for a label that occurs nowhere."""
    found = 2 * np.diagonal(cells, axis1=1, axis2=2)
    return _or_zero(found, cells.sum(axis=1) + cells.sum(axis=2))


def _or_zero(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)
