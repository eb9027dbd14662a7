"""What of the label can be told from an explanation alone: by a model that reads it, or by name.

The reader is `baselines.tfidf` with logistic regression, of ordinal tasks too, trained on the arm's
training explanations and nothing else; it never sees the example.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from whytune.errors import EvidenceError
from whytune.evidence.baselines import tfidf
from whytune.evidence.table import Floats
from whytune.records import Kind, Lesson, Prediction, Reference, Task
from whytune.teaching.leaks import leaks, masked

Columns = dict[str, Floats]
"""Figure -> [explanation] its value; not-a-number where it is not defined."""


def read_back(
    said: Sequence[Prediction],
    references: Mapping[str, Reference],
    task: Task,
    given: Mapping[str, str],
    lessons: Sequence[Lesson],
) -> Columns:
    """Whether the label read back from each explanation is the reference's, and the predicted one.

    Args:
        said: predictions with an explanation.
        references: example id -> what the answer is measured against.
        task: the task of all of them.
        given: example id -> reference explanation, where there is one.
        lessons: the reader learns from their explanations; without any, nothing is read.
    """
    true = [references[p.example_id].label for p in said]
    predicted = [p.label for p in said]
    theirs = [given.get(p.example_id) for p in said]
    read = _reader([*(p.explanation for p in said), *theirs], task, lessons)
    columns = {
        "gives_away": _equal(read[: len(said)], true),
        "gives_away_floor": _equal(_most_frequent(true), true),
        "gives_away_ceiling": _equal(read[len(said) :], true),
        "agrees": _equal(read[: len(said)], predicted),
        "agrees_floor": _equal(_most_frequent(predicted), predicted),
    }
    for name in ("gives_away", "agrees"):
        columns[f"{name}_gain"] = columns[name] - columns[f"{name}_floor"]
    return columns


def named(said: Sequence[Prediction], task: Task) -> Columns:
    """Whether each explanation names a label, and where it does, whether the predicted one."""
    names = task.label_names
    texts = [p.explanation or "" for p in said]
    any_name = [leaks(text, names) for text in texts]
    own = [
        float(_names(text, p.label, names)) if found and p.label else math.nan
        for text, p, found in zip(texts, said, any_name, strict=True)
    ]
    return {"names_label": np.array(any_name, dtype=np.float64), "names_predicted": np.array(own)}


def _reader(texts: Sequence[str | None], task: Task, lessons: Sequence[Lesson]) -> list[str | None]:
    """The label read from each text; None where there is no text, or nobody to read it."""
    taught = [(one.explanation, one.label) for one in lessons if one.explanation is not None]
    if not taught:
        return [None] * len(texts)
    whys, labels = zip(*taught, strict=True)
    asked = [text for text in texts if text is not None]
    # Labels are told apart, not placed on a scale: the one nearest to a mean need not be meant.
    nominal = replace(task, kind=Kind.NOMINAL)
    try:
        answers = iter(tfidf(whys, labels, None, asked, asked, nominal))
    except EvidenceError:  # no training explanation has a word in it
        return [None] * len(texts)
    return [None if text is None else next(answers).label for text in texts]


def _names(text: str, label: str, names: Sequence[str]) -> bool:
    # `not useful` does not name `useful`.
    longer = [name for name in names if len(name) > len(label)]
    return leaks(masked(text, longer) if longer else text, [label])


def _equal(ones: Sequence[str | None], others: Sequence[str | None]) -> Floats:
    return np.array(
        [
            math.nan if one is None or other is None else float(one == other)
            for one, other in zip(ones, others, strict=True)
        ]
    )


def _most_frequent(labels: Sequence[str | None]) -> list[str | None]:
    """The most frequent label, once for each; ties go to the first in the alphabet."""
    counts = Counter(sorted(label for label in labels if label is not None))
    top = counts.most_common(1)[0][0] if counts else None
    return [top] * len(labels)
