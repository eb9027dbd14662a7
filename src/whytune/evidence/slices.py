"""Figures by slice: where a student is good, and where it is not.

A slice holds the answers about some of the examples: those with one reference label, of one
source, of one length, those the raters agreed on, those with a short explanation. Slices are cut
after the fact and there are many of them, so an interval that stands apart is a place to look, not
a finding.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from whytune.errors import EvidenceError
from whytune.evidence.metrics import metric_named, scorecard
from whytune.records import Estimate, Example, Kind, Outcome, Prediction, Reference, Task, Verdict

LEAST = 20
"""Examples below which a slice is counted and not measured."""
_ROUNDING = 1e-9


class Cut(StrEnum):
    """What examples are told apart by."""

    LABEL = "label"
    """The reference's label; the accuracy of such a slice is the recall of the label."""
    SOURCE = "source"
    LENGTH = "length"
    """Words of all turns, shortest third to longest."""
    AGREEMENT = "agreement"
    """`unanimous`: all raters gave one label; `majority`: one label has more than half of the
    votes; `split`: none has. Examples with fewer than two votes are in no slice."""
    EXPLANATION = "explanation"
    """Words of the verdict's assessment, shortest third to longest; examples without one are in no
    slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The answers about some of the examples."""

    cut: Cut
    name: str
    """The label, the source, how far the raters agree, or `12 to 40 words`."""
    examples: int
    n: int
    """Answers: more than examples where several seeds are pooled; unreadable ones included."""
    unreadable: int
    metrics: Mapping[str, Estimate]
    """Empty where there are too few examples."""


def default_metrics(task: Task) -> tuple[str, ...]:
    """Figures that mean something among examples of a single label, too."""
    both = ("accuracy", "label_nll")
    return both if task.kind is Kind.NOMINAL else (*both, "mae", "mse")


def slices(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    examples: Sequence[Example],
    task: Task,
    verdicts: Mapping[str, Verdict],
    *,
    metrics: Sequence[str] | None = None,
    least: int = LEAST,
    draws: int,
    seed: int,
) -> list[Slice]:
    """The figures of every slice, cut by cut; a cut that does not tell the examples apart is absent.

    Thirds are of the examples that were asked about, not of the answers. Examples of equal length
    stand in one slice, so thirds may differ in size, and there may be fewer than three.

    Args:
        predictions: answers about one task; several of one example (seeds) may be pooled.
        references: example id -> what the answer is measured against.
        examples: those predicted, others may stand among them.
        task: the task of all predictions.
        verdicts: example id -> what the raters said, with their explanation; empty where nobody did.
        metrics: figures of each slice; without it `default_metrics(task)`.
        least: examples below which a slice is counted and not measured.
        draws: bootstrap draws of each slice, over groups; 0 gives figures without intervals.
        seed: of the draws.

    Raises:
        EvidenceError: a prediction about an example that is not there, an unknown metric, or what
            `metrics.scorecard` refuses.
    """
    wanted = default_metrics(task) if metrics is None else tuple(metrics)
    for name in wanted:
        metric_named(name, task)
    own: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        own[prediction.example_id].append(prediction)
    known = {example.id: example for example in examples}
    for example_id in own:
        if example_id not in known or example_id not in references:
            what = "example" if example_id not in known else "reference"
            raise EvidenceError(
                f"prediction {example_id}: found no {what} of this id, expected one for every "
                "prediction; hand in those of the same corpus"
            )
    groups = {example.id: example.group for example in examples}
    found = []
    for cut, parts in _cuts([known[i] for i in own], references, task, verdicts):
        for name, ids in parts.items():
            answers = [prediction for i in ids for prediction in own[i]]
            figures: Mapping[str, Estimate] = {}
            if len(ids) >= least:
                figures = scorecard(
                    answers, references, groups, task, reference="", draws=draws, seed=seed
                ).metrics
            found.append(
                Slice(
                    cut=cut,
                    name=name,
                    examples=len(ids),
                    n=len(answers),
                    unreadable=sum(a.outcome is not Outcome.READ for a in answers),
                    metrics={key: figures[key] for key in wanted if figures},
                )
            )
    return found


Parts = dict[str, list[str]]
"""Name of a slice -> ids of its examples."""


def _cuts(
    examples: Sequence[Example],
    references: Mapping[str, Reference],
    task: Task,
    verdicts: Mapping[str, Verdict],
) -> Iterator[tuple[Cut, Parts]]:
    """Every cut that tells the examples apart."""
    spoken = {e.id: verdicts[e.id] for e in examples if e.id in verdicts}
    labels = {e.id: references[e.id].label for e in examples}
    sources = {e.id: e.source for e in examples}
    lengths = {e.id: sum(len(turn.text.split()) for turn in e.turns) for e in examples}
    agreed = {i: _agreement(v, task) for i, v in spoken.items() if v.votes > 1}
    said = {i: len(v.assessment.split()) for i, v in spoken.items() if v.assessment}
    cuts = {
        Cut.LABEL: _named(labels, task.label_names),
        Cut.SOURCE: _named(sources, sorted(set(sources.values()))),
        Cut.LENGTH: _thirds(lengths),
        Cut.AGREEMENT: _named(agreed, ("unanimous", "majority", "split")),
        Cut.EXPLANATION: _thirds(said),
    }
    return ((cut, parts) for cut, parts in cuts.items() if len(parts) > 1)


def _agreement(verdict: Verdict, task: Task) -> str:
    top = max(verdict.shares.values())
    # Of a nominal task the shares may be a model's probabilities instead of votes.
    alike = verdict.agreement if task.kind is Kind.NOMINAL else top
    if alike is not None and alike >= 1 - _ROUNDING:
        return "unanimous"
    return "majority" if top > 0.5 + _ROUNDING else "split"


def _named(names: Mapping[str, str], order: Sequence[str]) -> Parts:
    parts: Parts = {name: [] for name in order}
    for example_id, name in names.items():
        parts[name].append(example_id)
    return {name: ids for name, ids in parts.items() if ids}


def _thirds(words: Mapping[str, int]) -> Parts:
    if not words:
        return {}
    edges = np.quantile(list(words.values()), (1 / 3, 2 / 3), method="lower")
    thirds: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for example_id, count in words.items():
        thirds[int((count > edges).sum())].append(example_id)
    parts: Parts = {}
    for ids in filter(None, thirds.values()):
        low, high = min(words[i] for i in ids), max(words[i] for i in ids)
        name = f"{low} to {high}" if low < high else str(low)
        parts[f"{name} word{'s' if high > 1 else ''}"] = ids
    return parts
