"""What a study found, in one sentence, also when it is nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whytune.study.contrasts import Family
from whytune.study.diagnosis import PRIOR

MOST_NAMED = 4
"""Comparisons that the finding names; of more it gives the number."""


def finding(rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What was found, in one sentence, also when it is nothing.

    First whether the arms differ in label loss (of several comparisons: how many and which do,
    by an interval that leaves out zero), then, task by task, how the best arm stands to the
    training mean or the most frequent label.
    """
    losses = [
        c
        for c in comparisons
        if c["metric"] == "label_nll" and c.get("family", Family.ARMS) == Family.ARMS
    ]
    losses = [c for c in losses if c["base"] == losses[0]["base"]]  # controls have others
    if not losses:
        told = "One arm only, so there is nothing to compare"
    elif len(losses) == 1:
        told = losses[0]["sentence"].rstrip(".")
    else:
        told = _tally(losses)
    return "; ".join([told, *_against_priors(rows, comparisons)]) + "."


def _tally(losses: Sequence[Mapping[str, Any]]) -> str:
    better = [c for c in losses if (c["difference"]["high"] or 0) < 0]
    worse = [c for c in losses if (c["difference"]["low"] or 0) > 0]
    return (
        f"Of {len(losses)} comparisons with the arm without explanation, the label loss is "
        f"lower in {_which(better, losses)}, higher in {_which(worse, losses)}, and not told "
        f"apart in {len(losses) - len(better) - len(worse)}"
    )


def _which(some: Sequence[Mapping[str, Any]], losses: Sequence[Mapping[str, Any]]) -> str:
    """How many, and where they are few, which: by what differs among all."""
    if not some or len(some) > MOST_NAMED:
        return str(len(some))
    varying = [k for k in ("arm", "task", "corpus") if len({c[k] for c in losses}) > 1]
    return f"{len(some)} ({'; '.join(' on '.join(c[k] for k in varying) for c in some)})"


def _against_priors(
    rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """How the best arm of every section stands to its prior; one clause for each kind of task."""
    apart = {(c["corpus"], c["task"], c["arm"], c["metric"]): c["difference"]
            for c in comparisons if c["base"] == PRIOR}  # fmt: skip
    sections: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        sections.setdefault((row["corpus"], row["task"]), []).append(row)
    several = len({corpus for corpus, _ in sections}) > 1
    for metric, figure, prior in (("mse", "mean squared error", "the training mean"),
                                  ("accuracy", "accuracy", "the most frequent label")):  # fmt: skip
        found = [
            (f"{task} on {corpus}" if several else task, *best,
             _interval(apart.get((corpus, task, best[0], metric))))
            for (corpus, task), own in sections.items()
            if (best := _best(own, metric)) is not None
        ]  # fmt: skip
        if len(sections) == 1:
            yield from (f"the best arm, {arm}, has {figure} {own:.3f} against {other:.3f} of {prior}"
                        f"{ends}" for _, arm, own, other, ends in found)  # fmt: skip
        elif len(found) > MOST_NAMED:
            won = sum(
                own < other if metric == "mse" else own > other for *_, own, other, _ in found
            )
            yield f"the best arm's {figure} is better than that of {prior} in {won} of {len(found)}"
        elif found:
            stands = (f"{own:.3f} ({arm}) against {other:.3f} on {place}{ends}"
                      for place, arm, own, other, ends in found)  # fmt: skip
            yield f"{figure} of the best arm against that of {prior}: {', '.join(stands)}"


def _interval(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["low"] is None:
        return ""
    low, high = difference["low"], difference["high"]
    return f" (difference {low:+.3f} to {high:+.3f}, 95 % interval)"


def _best(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[str, float, float] | None:
    """The best arm of one section with its figure and that of the prior; None where the section is
    judged by another figure or one of them is not defined.
    """
    if metric != ("mse" if "mse" in rows[0]["scorecard"]["metrics"] else "accuracy"):
        return None
    found = {row["name"]: row["scorecard"]["metrics"][metric]["value"] for row in rows}
    arms = {row["name"]: found[row["name"]] for row in rows if row["role"] == "arm"}
    if found.get("prior") is None or None in arms.values():
        return None
    best = (min if metric == "mse" else max)(arms, key=lambda name: arms[name])
    return best, arms[best], found["prior"]
