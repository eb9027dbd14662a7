"""Prompts and merges measured against a golden set.

A golden set is a reference for each of some examples: people's, or made by a rule from votes that
agree. Votes that made the reference cannot be measured against it: their mean is never wrong.
`held_out` asks each teacher what the others agreed on.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whytune.errors import TeachingError
from whytune.records import Annotation, Kind, Outcome, Reference, Task, Verdict
from whytune.teaching import methods
from whytune.teaching.methods import Decision
from whytune.teaching.ratings import Floats, Ratings, mean_score

Golden = Mapping[str, Mapping[str, Reference]]
"""Task -> example id -> reference."""

_Errors = dict[tuple[str, str], list[float | None]]
"""(kind of judge, judge) -> distance from each reference; None without a readable answer."""


def agreed(
    annotations: Sequence[Annotation], task: Task, *, steps: int = 1, least: int = 2
) -> dict[str, Reference]:
    """The examples on which all votes are within a few steps of the scale.

    After the golden set of the first paper (section 2.3), which keeps what two experts rated alike
    (`steps=0`). Scores of unequal scales are compared as the labels nearest to them.

    Args:
        annotations: of any tasks; those of other tasks are passed over.
        task: whose.
        steps: how many labels of an ordinal task the lowest and the highest vote may be apart;
            those of a nominal task must be equal.
        least: votes that an example needs, 1 or more. One that has an unreadable reply is left out:
            nobody knows whether that one agreed.

    Returns:
        Example id -> the mean score and the label nearest to it (nominal: the label), in order of
        appearance.
    """
    apart = 0 if task.kind is Kind.NOMINAL else steps
    found = {}
    for example, votes in methods.grouped(annotations, task).items():
        codes = [task.label_names.index(v.label) for v in votes if v.label is not None]
        if len(codes) == len(votes) >= least and max(codes) - min(codes) <= apart:
            score = mean_score(votes, task)
            label = task.label_names[codes[0]] if score is None else task.nearest(score)
            found[example] = Reference(label=label, score=score)
    return found


def table(
    annotations: Sequence[Annotation],
    tasks: Sequence[Task],
    golden: Golden,
    *,
    merged: Mapping[str, Sequence[Verdict]] | None = None,
) -> list[dict[str, Any]]:
    """Prompts and merges against a golden set: the shape of Table 2 of the first paper.

    Args:
        annotations: what the teachers said, about any examples; merges that learn about raters
            learn from all of it.
        tasks: the columns.
        golden: made of anything but these annotations; see `held_out`.
        merged: further merges: name -> verdicts (as of `merge.of_merger`), of any of the tasks.

    Returns:
        One row a prompt, then one a merge: `judge`, `kind` (`prompt` or `merge`), and for each task
        T `T_mae`, `T_mse` (on [0, 1], lower is better; of a nominal task both are the share of
        wrong labels; NaN without an answer), `T_n` (answers measured: of a prompt every teacher's
        reply, of a merge the verdicts) and `T_missing` (references without a readable answer). Of
        a method that is not for the task's kind the four are None.
    """
    by_task = {
        task.name: _errors(annotations, task, golden.get(task.name, {}), merged or {})
        for task in tasks
    }
    return _rows(by_task)


def held_out(
    annotations: Sequence[Annotation], tasks: Sequence[Task], *, steps: int = 1
) -> list[dict[str, Any]]:
    """Each teacher against what all others agreed on (`agreed`): `table` without a golden set.

    No vote is measured against a reference that it made. A merge is one of the prompts of one
    teacher; the figures are over all teachers together, so that an example counts once for each
    teacher about whom the others agree.

    Raises:
        TeachingError: fewer than two teachers about a task.
    """
    by_task = {}
    for task in tasks:
        groups = methods.grouped(annotations, task)
        judged: dict[str, list[Sequence[Annotation]]] = defaultdict(list)
        for own in groups.values():
            for teacher in {a.teacher for a in own}:
                judged[teacher].append(own)
        teachers = sorted(judged)
        if len(teachers) < 2:
            raise TeachingError(
                f"task {task.name}: found {len(teachers)} teachers, expected two or more, to "
                "measure each against the others; ask another, or hand in a golden set"
            )
        pooled: _Errors = defaultdict(list)
        for teacher in teachers:
            said = [a for own in judged[teacher] for a in own if a.teacher == teacher]
            others = [a for own in judged[teacher] for a in own if a.teacher != teacher]
            golden = agreed(others, task, steps=steps)
            for judge, errors in _errors(said, task, golden, {}).items():
                pooled[judge].extend(errors)
        by_task[task.name] = pooled
    return _rows(by_task)


def errors(ratings: Ratings, golden: Mapping[str, Reference]) -> Floats:
    """How far each rater is from the reference: [example with a reference, rater].

    Score less reference, -1 to 1 (ordinal), or 1 for a wrong label and 0 for the right one
    (nominal); NaN where the rater did not answer. For `reliability.effective_number`.
    """
    rows = [i for i, example in enumerate(ratings.examples) if example in golden]
    known = [golden[ratings.examples[i]] for i in rows]
    task = ratings.task
    if task.kind is Kind.ORDINAL:
        return np.asarray(
            ratings.scores[rows] - np.array([_score(r, task) for r in known])[:, None]
        )
    codes = ratings.codes[rows]
    truth = np.array([task.label_names.index(r.label) for r in known])[:, None]
    return np.where(np.isnan(codes), np.nan, (codes != truth).astype(np.float64))


def _errors(
    annotations: Sequence[Annotation],
    task: Task,
    golden: Mapping[str, Reference],
    merged: Mapping[str, Sequence[Verdict]],
) -> _Errors:
    found: _Errors = defaultdict(list)
    groups = methods.grouped(annotations, task)
    own = [annotation for group in groups.values() for annotation in group]
    for annotation in sorted(own, key=lambda a: a.prompt):
        reference = golden.get(annotation.example_id)
        if reference is not None:
            read = annotation.outcome is Outcome.READ
            label, score = annotation.label, mean_score([annotation], task) if read else None
            found["prompt", annotation.prompt].append(_distance(label, score, reference, task))
    merges: dict[str, Mapping[str, Decision | Verdict]] = {}
    for method in methods.fitting(task):
        merges[method] = methods.decide(groups, task, method)
    for name, verdicts in merged.items():
        merges[name] = {v.example_id: v for v in verdicts if v.task == task.name}
    for name, decided in merges.items():
        found["merge", name] = [
            _distance(said.label, said.score, reference, task) if said else None
            for example, reference in golden.items()
            for said in [decided.get(example)]
        ]
    return found


def _distance(
    label: str | None, score: float | None, reference: Reference, task: Task
) -> float | None:
    if label is None:
        return None
    if score is None:
        return float(label != reference.label)
    return abs(score - _score(reference, task))


def _score(reference: Reference, task: Task) -> float:
    if reference.score is not None:
        return reference.score
    return task.values[task.label_names.index(reference.label)]


def _rows(by_task: Mapping[str, _Errors]) -> list[dict[str, Any]]:
    judges = dict.fromkeys(judge for errors in by_task.values() for judge in errors)
    rows = []
    # Prompts first, as in the paper; the sort keeps the order within a kind.
    for kind, name in sorted(judges, key=lambda judge: judge[0] != "prompt"):
        row: dict[str, Any] = {"judge": name, "kind": kind}
        for task, errors in by_task.items():
            figures = _figures(errors[kind, name]) if (kind, name) in errors else {}
            for figure in ("mae", "mse", "n", "missing"):
                row[f"{task}_{figure}"] = figures.get(figure)
        rows.append(row)
    return rows


def _figures(errors: Sequence[float | None]) -> dict[str, float]:
    known = [error for error in errors if error is not None]
    return {
        "mae": math.fsum(known) / len(known) if known else math.nan,
        "mse": math.fsum(e * e for e in known) / len(known) if known else math.nan,
        "n": len(known),
        "missing": len(errors) - len(known),
    }
