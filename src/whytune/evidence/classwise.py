"""Precision, recall and F1 of every label by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whytune.evidence import sums
from whytune.evidence.intervals import estimate, resample
from whytune.evidence.table import Floats, table_of
from whytune.records import Estimate, Prediction, Reference, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCard:
    """How well one label is told from the others; readable predictions only."""

    label: str
    support: int
    """References with it."""
    predicted: int
    """Predictions of it."""
    precision: Estimate
    """TP / predictions of it, 0 to 1; not-a-number where it is never predicted."""
    recall: Estimate
    """TP / references with it, 0 to 1; not-a-number where there is none."""
    f1: Estimate
    """2·TP / (references + predictions), 0 to 1; not-a-number where there is neither."""


def classwise(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    groups: Mapping[str, str],
    task: Task,
    *,
    draws: int,
    seed: int,
) -> tuple[LabelCard, ...]:
    """A card for each label, in the task's order, with 95 % bootstrap intervals over groups.

    The arguments and draws are those of `metrics.scorecard`. The intervals are of single figures:
    of twenty labels, one is expected to leave its interval by chance.

    Raises:
        EvidenceError: see `table.table_of`.
    """
    table = table_of(predictions, references, groups, task)
    counts = resample(table.groups, draws, seed)
    # The predictions as they are stand before the draws.
    cells = sums.confusion(table, np.vstack((np.ones((1, table.groups)), counts)))
    hits, support, predicted = (
        np.diagonal(cells, axis1=1, axis2=2), cells.sum(axis=2), cells.sum(axis=1)
    )  # fmt: skip
    precision, recall = sums.ratio(hits, predicted), sums.ratio(hits, support)
    f1 = sums.ratio(2 * hits, support + predicted)

    def of(figure: Floats, label: int) -> Estimate:
        return estimate(float(figure[0, label]), figure[1:, label], table.groups)

    return tuple(
        LabelCard(
            label=name,
            support=int(support[0, i]),
            predicted=int(predicted[0, i]),
            precision=of(precision, i),
            recall=of(recall, i),
            f1=of(f1, i),
        )
        for i, name in enumerate(task.label_names)
    )
