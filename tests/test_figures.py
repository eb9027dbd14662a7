"""Figures on draws with repeated examples against scikit-learn, scipy and brute force."""

import doctest
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, permutations
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    mean_absolute_error,
    mean_squared_error,
    root_mean_squared_error,
)

from whytune.evidence import ordinal, probabilistic
from whytune.evidence.metrics import BINS, EVERY_TASK, ORDINAL_TASKS
from whytune.evidence.table import Floats, Ints, Table, of_arrays
from whytune.study.titles import METRICS

ALL = {**EVERY_TASK, **ORDINAL_TASKS}
QUIET = settings(max_examples=40, deadline=None)
Drawn = tuple[Table, Floats]


@st.composite
def drawn(draw: st.DrawFn, least: int = 1, most: int = 40) -> Drawn:
    """Answers of which some tie, some groups of several rows, and a draw that repeats groups."""
    n, labels = draw(st.integers(least, most)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    # Few different answers: ties in everything.
    kinds = rng.dirichlet(np.ones(labels), size=draw(st.integers(1, 12)))
    reference = rng.integers(draw(st.integers(1, labels)), size=n)
    table = of_arrays(reference.tolist(), kinds[rng.integers(len(kinds), size=n)].tolist())
    group = np.sort(rng.integers(draw(st.integers(1, n)), size=n))
    groups = int(group.max()) + 1
    table = replace(
        table,
        group=group,
        asked=np.bincount(group, minlength=groups).astype(float),
        hits=np.bincount(group, weights=table.hits, minlength=groups).astype(float),
        unread=np.zeros(groups),
        # Raters' means between the labels.
        score=np.clip(table.score + rng.choice([0, 0.125, -0.125], size=n), 0, 1),
    )
    return table, rng.integers(0, 4, size=(1, groups)).astype(float)


def written_out(table: Table, counts: Floats) -> Table:
    """The same draw as a table of its own, row by row."""
    rows = np.repeat(np.arange(len(table.group)), counts[0][table.group].astype(int))
    n = len(rows)
    return Table(
        labels=table.labels,
        asked=np.ones(n),
        hits=(table.predicted == table.reference)[rows].astype(float),
        unread=np.zeros(n),
        group=np.arange(n),
        reference=table.reference[rows],
        predicted=table.predicted[rows],
        probs=table.probs[rows],
        nll=table.nll[rows],
        mass=table.mass[rows],
        expected=table.expected[rows],
        score=table.score[rows],
    )


def spread(values: Floats | Ints) -> bool:
    return len(np.unique(values)) > 1


def f1(average: str) -> Callable[[Table], float]:
    return lambda t: float(f1_score(t.reference, t.predicted, average=average, zero_division=0))


def correlation(peer: Callable[..., tuple[float, float]]) -> Callable[[Table], float]:
    def value(t: Table) -> float:
        defined = spread(t.expected) and spread(t.score)
        return float(peer(t.expected, t.score)[0]) if defined else math.nan

    return value


def balanced(t: Table) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of answers that are no reference; their recall is left out
        return float(balanced_accuracy_score(t.reference, t.predicted))


def kappa(t: Table) -> float:
    if not spread(np.concatenate((t.reference, t.predicted))):
        return math.nan
    return float(
        cohen_kappa_score(t.reference, t.predicted, labels=range(t.labels), weights="quadratic")
    )


def matthews(t: Table) -> float:
    defined = spread(t.reference) and spread(t.predicted)
    return float(matthews_corrcoef(t.reference, t.predicted)) if defined else math.nan


def multi_brier(t: Table) -> float:
    return float(
        brier_score_loss(t.reference, t.probs, labels=range(t.labels), scale_by_half=False)
    )


def ranked(t: Table) -> float:
    """The ranked probability score as the mean Brier score of all ways to cut the scale in two."""
    cuts = [
        mean_squared_error(t.reference <= k, t.probs[:, : k + 1].sum(axis=1))
        for k in range(t.labels - 1)
    ]
    return float(np.mean(cuts))


def uniform_bins(t: Table) -> float:
    """Bin by bin, each from one edge to the next."""
    sure, right = t.probs.max(axis=1), t.predicted == t.reference
    total = 0.0
    for b in range(BINS):
        inside = (sure > b / BINS + 1e-10) & (sure <= (b + 1) / BINS + 1e-10)
        total += abs(float((sure - right)[inside].sum()))
    return total / len(sure)


PEERS: dict[str, Callable[[Table], float]] = {
    "accuracy": lambda t: float(accuracy_score(t.reference, t.predicted)),
    "balanced_accuracy": balanced,
    "macro_f1": f1("macro"),
    "weighted_f1": f1("weighted"),
    "mcc": matthews,
    "label_nll": lambda t: float(log_loss(t.reference, t.probs, labels=range(t.labels))),
    "brier": multi_brier,
    "ece_uniform": uniform_bins,
    "label_mass": lambda t: 1.0,
    "unreadable_rate": lambda t: 0.0,
    "mae": lambda t: float(mean_absolute_error(t.score, t.expected)),
    "mse": lambda t: float(mean_squared_error(t.score, t.expected)),
    "rmse": lambda t: float(root_mean_squared_error(t.score, t.expected)),
    "mae_steps": lambda t: float(
        mean_absolute_error(t.score * (t.labels - 1), t.expected * (t.labels - 1))
    ),
    "within_one": lambda t: float(np.mean(np.abs(t.predicted - t.reference) < 1.5)),
    "bias": lambda t: float(t.expected.mean() - t.score.mean()),
    "qwk": kappa,
    "spearman": correlation(spearmanr),
    "kendall": correlation(kendalltau),
    "rps": ranked,
}


@pytest.mark.parametrize("name", PEERS)
@QUIET
@given(case=drawn())
def test_a_draw_equals_another_implementation_on_its_rows(name: str, case: Drawn) -> None:
    rows = written_out(*case)
    found = float(ALL[name](*case)[0])
    if not len(rows.group):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(PEERS[name](rows), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", ALL)
@QUIET
@given(case=drawn())
def test_counting_a_row_twice_is_having_it_twice(name: str, case: Drawn) -> None:
    rows = written_out(*case)
    found, once = ALL[name](*case), ALL[name](rows, np.ones((1, len(rows.group))))
    assert found == pytest.approx(once, abs=1e-9, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(case=drawn(most=6))
def test_aurc_is_the_mean_over_all_orders_of_what_ties(case: Drawn) -> None:
    table = replace(case[0], group=np.arange(len(case[0].group)))
    n = len(table.group)
    sure, wrong = table.probs.max(axis=1), table.predicted != table.reference
    areas = []
    for order in permutations(range(n)):
        if all(sure[a] >= sure[b] for a, b in pairwise(order)):
            areas.append(np.mean(np.cumsum(wrong[list(order)]) / np.arange(1, n + 1)))
    table = replace(table, asked=np.ones(n))
    assert probabilistic.aurc(table, np.ones((1, n)))[0] == pytest.approx(np.mean(areas))


def test_aurc_is_near_its_limits_on_many_examples() -> None:
    n = 20_000
    order = np.arange(n) / n
    sure = np.column_stack((1 - order / 4, order / 4))
    last = of_arrays((order >= 0.8).astype(int).tolist(), sure.tolist())
    at_best = 0.2 + 0.8 * math.log(0.8)
    assert probabilistic.aurc(last, np.ones((1, n)))[0] == pytest.approx(at_best, abs=1e-3)
    one = replace(last, probs=np.tile([0.9, 0.1], (n, 1)))
    assert probabilistic.aurc(one, np.ones((1, n)))[0] == pytest.approx(0.2)


def test_many_draws_are_those_draws_one_by_one() -> None:
    rng = np.random.default_rng(0)
    table = of_arrays(rng.integers(4, size=3000).tolist(), rng.dirichlet(np.ones(4), 3000).tolist())
    # More than one piece of draws.
    counts = rng.integers(0, 3, size=(200, 3000)).astype(float)
    for name, figure in ALL.items():
        single = [figure(table, counts[i : i + 1])[0] for i in (0, 57, 199)]
        assert figure(table, counts)[[0, 57, 199]] == pytest.approx(single), name


def test_two_labels_make_the_ranked_score_half_the_brier_score() -> None:
    table = of_arrays([0, 1, 1], [[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    once = np.ones((1, 3))
    assert ordinal.rps(table, once) == pytest.approx(probabilistic.brier(table, once) / 2)


def test_every_figure_has_a_title_and_few_stand_on_the_page() -> None:
    assert sorted(metric.name for metric in METRICS) == sorted(ALL)
    assert sum(metric.main for metric in METRICS) == 12


@pytest.mark.parametrize("module", [ordinal, probabilistic])
def test_examples_in_docstrings_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
