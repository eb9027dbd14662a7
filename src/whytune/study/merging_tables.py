"""How far the teachers agree, and which prompts and merges to trust, as flat rows."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whytune.material import Merged
from whytune.records import Annotation, Estimate, Kind, Outcome, Reference, Verdict
from whytune.study.stored import Record
from whytune.study.tables import SCORE_STEP
from whytune.teaching import golden, latent, merge, methods, reliability
from whytune.teaching.agreement import Difference
from whytune.teaching.ratings import Floats, Ratings, tabulate

GOLD, OTHERS = "gold", "others"
"""What Table 2 is measured against: people's word, or what all other teachers agree on."""
MERGER = "merger"
"""The row of a model that has read what the teachers said."""
VERDICT = "verdict"
"""Among raters, the row of what they say together."""
MOST_PAIRED = 100
"""Raters that are compared in pairs, at most: those with the most votes."""


def judged(material: Merged) -> tuple[Mapping[str, Reference], list[Annotation]]:
    """People's word, and the replies that may be measured against it.

    Replies that came with the corpus may not: in every corpus gold is what they come to. Both are
    empty where nothing is left.
    """
    known = {example.id: example.gold[material.task.name] for example in material.corpus.examples
             if material.task.name in example.gold}  # fmt: skip
    came = {(r.example_id, r.task, r.teacher, r.prompt, r.text) for r in material.corpus.replies}
    own = [a for a in material.annotations
           if (a.example_id, a.task, a.teacher, a.prompt, a.reply) not in came]  # fmt: skip
    return (known, own) if any(a.example_id in known for a in own) else ({}, [])


def table_two(material: Merged, *, merger: bool) -> tuple[str | None, list[Record]]:
    """Prompts and merges against the best reference there is.

    Args:
        material: what is measured.
        merger: its verdicts are those of a model that merges.

    Returns:
        `GOLD`, `OTHERS`, or None where there is neither, with the rows of `golden.table` without
        the task's name: `judge`, `kind`, `mae`, `mse`, `n`, `missing`.
    """
    task = material.task
    known, own = judged(material)
    if known:
        # A model that read people's word too would be measured against what it was told.
        apart = merger and len(own) == len(material.annotations)
        merged = {MERGER: list(material.verdicts.values())} if apart else {}
        return GOLD, _bare(golden.table(own, [task], {task.name: known}, merged=merged), task.name)
    if len({annotation.teacher for annotation in material.annotations}) > 1:
        found = _bare(golden.held_out(material.annotations, [task]), task.name)
        if any(row["n"] or row["missing"] for row in found):
            return OTHERS, found
    return None, []


def _bare(rows: Sequence[Record], task: str) -> list[Record]:
    return [{key.removeprefix(f"{task}_"): value for key, value in row.items()} for row in rows]


def every_method(material: Merged, chosen: str) -> dict[str, dict[str, dict[str, int]]]:
    """What each merge would give and drop.

    Args:
        material: the votes, and the verdicts of the chosen merge.
        chosen: `MERGER` or a method; its verdicts are the material's.

    Returns:
        Merge -> `labels` (label -> verdicts with it, every label in its order) and `dropped`
        (as `merge.dropped`).
    """
    task, verdicts = material.task, list(material.verdicts.values())
    groups = methods.grouped(material.annotations, task)
    found: dict[str, list[Verdict]] = {}
    for method in methods.fitting(task):
        decided = methods.decide(groups, task, method)
        labels = {example: decision.label for example, decision in decided.items()}
        found[method] = [replace(v, label=labels.get(v.example_id)) for v in verdicts]
    found[chosen] = verdicts
    return {
        name: {
            "labels": {x: sum(v.label == x for v in said) for x in task.label_names},
            "dropped": merge.dropped(said, by_merger=name == MERGER),
        }
        for name, said in found.items()
    }


def independent(material: Merged) -> Record:
    """As how many independent ones the raters, and the teachers, count (Kish 1965).

    `effective_number` of raters (a teacher with a prompt), `effective_teachers` of teachers (their
    prompts averaged), and `effective_of`: `errors` against people's word, or `scores`, which give
    a lower bound. NaN without order or people's word.
    """
    known, own = judged(material)
    task = material.task
    found: Record = {}
    for name, pooled in (("effective_number", False), ("effective_teachers", True)):
        if known:
            errors = golden.errors(tabulate(own, task, pooled=pooled), known)
        else:
            errors = tabulate(material.annotations, task, pooled=pooled).scores
        found[name] = reliability.effective_number(errors)
    return {**found, "effective_of": "errors" if known else "scores"}


def agreement(facts: Mapping[str, Any], alphas: Mapping[Difference, Estimate]) -> Record:
    """One row of what `merging.write` tells; a column for each outcome and each bound."""
    kept = ("corpus", "task", "kind", "examples", "replies", "votes")
    row = {name: facts[name] for name in kept}
    row |= {str(o): facts["unread"].get(o, 0) for o in Outcome if o is not Outcome.READ}
    row |= {"teachers": len(facts["teachers"]), "raters": facts["raters"]}
    row["pair_agreement"] = facts["pair_agreement"]
    for difference in Difference:
        estimate = alphas.get(difference)
        for bound, name in (("value", ""), ("low", "_low"), ("high", "_high")):
            row[f"alpha_{difference}{name}"] = getattr(estimate, bound, None)
    return row | {name: facts[name] for name in ("effective_number", "effective_teachers",
                                                 "effective_of")}  # fmt: skip


def raters(material: Merged, ratings: Ratings) -> list[Record]:
    """How each rater answers.

    Args:
        material: whose replies, the unreadable ones included.
        ratings: those that could be read.

    Returns:
        One row a rater: `rater`, `teacher`, `prompt`, `votes`, `unread`; of an ordinal task `shared`
        (examples that somebody else rated), `severity` and `spread` (`reliability.severities`) and
        `weight` (what it counts in `latent.severity`; all sum to 1); of a nominal one `accuracy`
        (the share of right labels that Dawid and Skene's model expects of it). None without a vote.
    """
    manners = _manners(ratings) if ratings.examples else {}
    counts = Counter((a.teacher, a.prompt, a.outcome is Outcome.READ) for a in material.annotations)
    rows = []
    for teacher, prompt in sorted({(a.teacher, a.prompt) for a in material.annotations}):
        rater = f"{teacher} / {prompt}"
        rows.append({
            "rater": rater, "teacher": teacher, "prompt": prompt,
            "votes": counts[teacher, prompt, True], "unread": counts[teacher, prompt, False],
            **dict.fromkeys(("shared", "severity", "spread", "weight", "accuracy")),
            **manners.get(rater, {}),
        })  # fmt: skip
    return rows


def _manners(ratings: Ratings) -> dict[str, Record]:
    if ratings.task.kind is Kind.NOMINAL:
        one_hot = ratings.codes[..., None] == np.arange(len(ratings.task.labels))
        classes = latent.dawid_skene(one_hot.astype(np.float64))
        right = np.einsum("rtt,t->r", classes.confusion, classes.frequency)
        return {name: {"accuracy": float(x)}
                for name, x in zip(ratings.raters, right, strict=True)}  # fmt: skip
    weights = latent.severity(ratings.scores).weight
    return {
        row["rater"]: {"shared": row["n"], "severity": row["severity"], "spread": row["spread"],
                       "weight": float(weight)}
        for row, weight in zip(reliability.severities(ratings), weights, strict=True)
    }  # fmt: skip


def pairs(ratings: Ratings) -> list[Record]:
    """Every rater beside every other, both ways round: `n`, `kappa`, `correlation`.

    Kappa is weighted by squares of an ordinal task, and not weighted of a nominal one. On the
    diagonal `n` are the rater's own votes. At most `MOST_PAIRED` raters.
    """
    votes = (~np.isnan(ratings.codes)).sum(axis=0)
    most = np.sort(np.argsort(-votes, kind="stable")[:MOST_PAIRED])
    ratings = replace(
        ratings, raters=tuple(ratings.raters[i] for i in most),
        codes=ratings.codes[:, most], scores=ratings.scores[:, most],
    )  # fmt: skip
    found = reliability.pairwise(ratings)
    return [
        {"rater": one, "other": other, "n": int(found.n[i, j]), "kappa": float(found.kappa[i, j]),
         "correlation": float(found.correlation[i, j])}
        for i, one in enumerate(found.raters) for j, other in enumerate(found.raters)
    ]  # fmt: skip


def scores(ratings: Ratings, verdicts: Collection[Verdict]) -> list[Record]:
    """How often each score (ordinal, in bins of 0.05) or label (nominal) is given: Figure 3.

    Rows of every rater and of the `verdict`: `rater`, `score` or `label`, `n`, `share` (of the
    rater's votes); a bin that nobody of the task uses is left out.
    """
    task = ratings.task
    given: dict[str, Counter[Any]] = {}
    if task.kind is Kind.NOMINAL:
        given[VERDICT] = Counter(v.label for v in verdicts if v.label is not None)
        for place, rater in enumerate(ratings.raters):
            codes = ratings.codes[:, place]
            given[rater] = Counter(task.label_names[int(code)] for code in codes[~np.isnan(codes)])
        places: list[Any] = list(task.label_names)
    else:
        given[VERDICT] = _binned(np.array([v.score for v in verdicts if v.score is not None]))
        for place, rater in enumerate(ratings.raters):
            column = ratings.scores[:, place]
            given[rater] = _binned(column[~np.isnan(column)])
        places = sorted({score for counts in given.values() for score in counts})
    nominal = task.kind is Kind.NOMINAL
    return [
        {"rater": rater, "score": None if nominal else place, "label": place if nominal else None,
         "n": counts[place], "share": counts[place] / (counts.total() or 1)}
        for rater, counts in given.items() for place in places
    ]  # fmt: skip


def _binned(scores: Floats) -> Counter[float]:
    return Counter(round(round(float(score) / SCORE_STEP) * SCORE_STEP, 4) for score in scores)
