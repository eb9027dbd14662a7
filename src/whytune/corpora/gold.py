"""What several people's answers about one example come to, as the reference to measure by."""

from collections import Counter
from collections.abc import Sequence
from math import fsum

from whytune.records import Reference, Task


def of_labels(labels: Sequence[str], task: Task) -> Reference | None:
    """The strict majority (more than half) and, for an ordinal task, the raters' mean on [0, 1].

    None without a strict majority: such an example has no gold label, and none is made up.
    """
    label, votes = Counter(labels).most_common(1)[0]
    if 2 * votes <= len(labels):
        return None
    values = [value for name in labels if (value := task.value(name)) is not None]
    return Reference(label=label, score=fsum(values) / len(values) if values else None)


def of_scores(scores: Sequence[float], task: Task) -> Reference:
    """The mean of scores on [0, 1] and the label of an ordinal task nearest to it."""
    mean = fsum(scores) / len(scores)
    return Reference(label=task.nearest(mean), score=mean)
