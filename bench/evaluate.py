"""Intervals of fifteen figures: seconds for 10,000 bootstrap draws of 6,000 predictions in clusters,
of whytune against a plain loop over scikit-learn's and scipy's functions.

Seconds are those of the processor: both sides run in this process on one thread, so that on an idle
machine they are those of the clock, and on a busy one the ratio holds. The loop's time is that of a
few draws of the same clusters, scaled to all. Ours runs whole: from the predictions to a scorecard of all figures
(`seconds`), and the fifteen alone (`seconds_of_fifteen`, which the ratio stands on).
Usage: python bench/evaluate.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import machine
import numpy as np
import table
from scipy.stats import kendalltau, spearmanr
from sklearn import metrics as peer
from threadpoolctl import threadpool_limits

from whytune.evidence.intervals import estimate, resample
from whytune.evidence.metrics import BINS, metrics_of, scorecard
from whytune.evidence.table import Table, table_of
from whytune.records import Kind, Label, Outcome, Prediction, Reference, Task

TASK = Task(
    name="usefulness", kind=Kind.ORDINAL, question="How useful?",
    labels=tuple(Label(name=str(i)) for i in range(1, 6)),
)  # fmt: skip
FULL = {"predictions": 6000, "clusters": 1500, "draws": 10_000, "loop_draws": 20}
QUICK = {"predictions": 600, "clusters": 150, "draws": 500, "loop_draws": 3}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the result, not a table")
    parser.add_argument("--quick", action="store_true", help="small; measures nothing")
    given = parser.parse_args()
    with threadpool_limits(1), warnings.catch_warnings(action="error"):
        result = measure(**(QUICK if given.quick else FULL))
    result = {"benchmark": "evaluate", "quick": given.quick, **result,
              **machine.facts("evaluate.py", sys.argv[1:])}  # fmt: skip
    result["versions"] |= {name: version(name) for name in ("scikit-learn", "scipy")}
    machine.write("evaluate", result, quick=given.quick)
    print(json.dumps(result)) if given.json else _show(result)


def measure(predictions: int, clusters: int, draws: int, loop_draws: int) -> dict[str, Any]:
    """Both sides on the same made-up answers."""
    answers, references, groups = _world(predictions, clusters)
    begun = time.process_time()
    scorecard(answers, references, groups, TASK, reference="gold", draws=draws, seed=0)
    seconds = time.process_time() - begun
    machine.note(f"a scorecard of {len(metrics_of(TASK))} figures: {seconds:.2f} s")

    begun = time.process_time()
    made = table_of(answers, references, groups, TASK)
    counts = resample(clusters, draws, 0)
    ours, each = {}, {}
    for name in LOOP:
        start = time.process_time()
        figure = metrics_of(TASK)[name]
        ours[name] = figure(made, counts)
        value = float(figure(made, np.ones((1, clusters)))[0])
        estimate(value, ours[name], clusters)
        each[name] = time.process_time() - start
    fifteen = time.process_time() - begun
    machine.note(f"{len(LOOP)} figures: {fifteen:.2f} s")

    loop, loop_each, error = _looped(made, counts[:loop_draws], ours)
    return {
        "predictions": predictions, "clusters": clusters, "draws": draws, "figures": len(LOOP),
        "seconds": machine.rounded(seconds), "seconds_of_fifteen": machine.rounded(fifteen),
        "loop_draws": loop_draws, "loop_seconds_a_draw": machine.rounded(loop),
        "loop_seconds_scaled": machine.rounded(loop * draws),
        "ratio_vs_loop": machine.rounded(loop * draws / fifteen),
        "max_abs_difference": error,
        "by_figure": {name: {"seconds": machine.rounded(each[name]),
                             "loop_seconds_scaled": machine.rounded(loop_each[name] * draws)}
                      for name in LOOP},
        "peak_rss_mb": machine.peak_rss_mb(),
        "notes": [f"the loop ran {loop_draws} draws; its median draw, times {draws}, is its time"],
    }  # fmt: skip


def _looped(
    made: Table, counts: Any, ours: dict[str, Any]
) -> tuple[float, dict[str, float], float]:
    """Seconds of a median draw, in all and by figure, and the greatest difference from ours."""
    # Found once, before the clock runs.
    rows_of = [np.flatnonzero(made.group == g) for g in range(made.groups)]
    whole: list[float] = []
    each: dict[str, list[float]] = {name: [] for name in LOOP}
    error = 0.0
    for index, taken in enumerate(counts.astype(int)):
        start = time.process_time()
        rows = np.concatenate([rows_of[g] for g in np.repeat(np.arange(made.groups), taken)])
        drawn = _written_out(made, rows)
        for name, figure in LOOP.items():
            begun = time.process_time()
            value = figure(drawn)
            each[name].append(time.process_time() - begun)
            error = max(error, abs(value - float(ours[name][index])))
        whole.append(time.process_time() - start)
    medians = {name: statistics.median(times) for name, times in each.items()}
    return statistics.median(whole), medians, error


def _world(n: int, clusters: int) -> tuple[list[Prediction], dict[str, Reference], dict[str, str]]:
    """Answers somewhat better than chance; references are means of two raters."""
    rng = np.random.default_rng(0)
    names, values = TASK.label_names, np.array(TASK.values)
    truth = rng.integers(5, size=n)
    logits = rng.normal(size=(n, 5)) + 1.2 * np.eye(5)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = np.clip(values[truth] + rng.choice([-0.125, 0, 0.125], size=n), 0, 1)
    answers = [
        Prediction(example_id=f"e{i}", task=TASK.name, outcome=Outcome.READ,
                   label=names[int(row.argmax())],
                   log_probs=dict(zip(names, np.log(row).tolist(), strict=True)),
                   expected=float(row @ values))
        for i, row in enumerate(probs)
    ]  # fmt: skip
    references = {
        f"e{i}": Reference(label=names[t], score=float(score))
        for i, (t, score) in enumerate(zip(truth, scores, strict=True))
    }
    return answers, references, {f"e{i}": f"g{i % clusters}" for i in range(n)}


def _written_out(made: Table, rows: Any) -> Table:
    empty = np.empty(0)  # no figure of the loop reads what is by group
    return Table(
        labels=made.labels, asked=empty, hits=empty, unread=empty, group=rows,
        reference=made.reference[rows], predicted=made.predicted[rows], probs=made.probs[rows],
        nll=made.nll[rows], mass=made.mass[rows], expected=made.expected[rows],
        score=made.score[rows],
    )  # fmt: skip


def _f1(average: str) -> Callable[[Table], float]:
    return lambda t: peer.f1_score(t.reference, t.predicted, average=average, zero_division=0)


def _ece(t: Table) -> float:
    sure = t.probs.max(axis=1)
    order = np.argsort(sure, kind="stable")
    gap = (sure - (t.predicted == t.reference))[order]
    return sum(abs(part.sum()) for part in np.array_split(gap, BINS)) / len(gap)


LABELS = list(range(5))
LOOP: dict[str, Callable[[Table], float]] = {
    "accuracy": lambda t: peer.accuracy_score(t.reference, t.predicted),
    "balanced_accuracy": lambda t: peer.balanced_accuracy_score(t.reference, t.predicted),
    "macro_f1": _f1("macro"),
    "weighted_f1": _f1("weighted"),
    "mcc": lambda t: peer.matthews_corrcoef(t.reference, t.predicted),
    "label_nll": lambda t: peer.log_loss(t.reference, t.probs, labels=LABELS),
    "brier": lambda t: peer.brier_score_loss(
        t.reference, t.probs, labels=LABELS, scale_by_half=False
    ),
    "ece": _ece,
    "mae": lambda t: peer.mean_absolute_error(t.score, t.expected),
    "mse": lambda t: peer.mean_squared_error(t.score, t.expected),
    "rmse": lambda t: peer.root_mean_squared_error(t.score, t.expected),
    "within_one": lambda t: float((np.abs(t.predicted - t.reference) <= 1).mean()),
    "qwk": lambda t: peer.cohen_kappa_score(
        t.reference, t.predicted, labels=LABELS, weights="quadratic"
    ),
    "spearman": lambda t: spearmanr(t.expected, t.score).statistic,
    "kendall": lambda t: kendalltau(t.expected, t.score).statistic,
}
"""Fifteen figures, each as one would call it."""


def _show(result: dict[str, Any]) -> None:
    rows = [("seconds for all draws", "whytune", "loop, scaled")]
    rows += [(name, f"{found['seconds']:.2f}", f"{found['loop_seconds_scaled']:.0f}")
             for name, found in result["by_figure"].items()]  # fmt: skip
    rows.append((f"{result['figures']} figures, with tables and draws",
                 f"{result['seconds_of_fifteen']:.2f}", f"{result['loop_seconds_scaled']:.0f}"))  # fmt: skip
    table.print_table(rows)
    print(f"\n{result['ratio_vs_loop']:.0f} times faster; off by {result['max_abs_difference']:.1e} "
          f"at most; a whole scorecard: {result['seconds']:.2f} s")  # fmt: skip
    print("\n".join(result["notes"]))


if __name__ == "__main__":
    main()
