"""What else a study measures about its arms: label by label, slice by slice, over tasks, beside
people. Flat rows, so that `summary.json`, the CSV files and the page show the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whytune import store
from whytune.evidence.ceiling import ceiling, error_correlation
from whytune.evidence.classwise import classwise
from whytune.evidence.compare import WORDS
from whytune.evidence.explanations import measure, sentence
from whytune.evidence.macro import Answers, over_tasks
from whytune.evidence.slices import default_metrics, slices
from whytune.material import Material
from whytune.recipe import Recipe
from whytune.records import Estimate, Prediction, Split

Row = dict[str, Any]
Answered = Mapping[str, Sequence[Prediction]]
"""Arm -> its answers, seed after seed."""
NEARLY_ALIKE = (
    "A rater beside an arm is nearly like with like: a rater is held against one rater fewer, and "
    "where those tie, the answer is left out of its accuracy."
)
LEAST_RATED = 20
"""Examples with several raters from which on a student is set beside people in a sentence."""


def place(material: Material) -> Row:
    """What a row is about."""
    return {"corpus": material.corpus.name, "task": material.task.name}


def columns(figures: Mapping[str, Estimate]) -> Row:
    """Every figure with the ends of its interval, as columns of one row."""
    return {
        name + suffix: store.plain(getattr(estimate, end))
        for name, estimate in figures.items()
        for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
    }


def by_label(recipe: Recipe, material: Material, answers: Answered) -> Iterator[Row]:
    """Precision, recall and F1 of every label, arm by arm."""
    for arm, own in answers.items():
        for card in classwise(own, material.references, material.groups, material.task,
                              draws=recipe.evidence.bootstrap, seed=0):  # fmt: skip
            figures = {"precision": card.precision, "recall": card.recall, "f1": card.f1}
            yield {
                **place(material), "name": arm, "label": card.label, "support": card.support,
                "predicted": card.predicted, **columns(figures),
            }  # fmt: skip


def by_slice(recipe: Recipe, material: Material, answers: Answered) -> Iterator[Row]:
    """The figures of every slice, arm by arm; a slice that is too small has no figures."""
    names = default_metrics(material.task)
    for arm, own in answers.items():
        for one in slices(own, material.references, material.part(Split.TEST), material.task,
                          material.verdicts, draws=recipe.evidence.bootstrap, seed=0):  # fmt: skip
            unknown = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
            figures = {name: one.metrics.get(name, unknown) for name in names}
            yield {
                **place(material), "name": arm, "cut": str(one.cut), "slice": one.name,
                "examples": one.examples, "n": one.n, "unreadable": one.unreadable,
                **columns(figures),
            }  # fmt: skip


def of_raters(recipe: Recipe, material: Material) -> Iterator[Row]:
    """What a rater scores who is held against the others on the test part; nothing where no
    example has two. With teachers that are models, they are the raters. Raters who never once
    differ did not answer apart (those of e-SNLI explain a label that stands already), so they say
    nothing about how well people can do.
    """
    groups = {example.id: example.group for example in material.part(Split.TEST)}
    found = ceiling(material.annotations, groups, material.task,
                    draws=recipe.evidence.bootstrap, seed=0)  # fmt: skip
    if found is not None and found.metrics["label_agreement"].value < 1:
        yield {
            **place(material), "raters": found.raters, "examples": found.examples, "n": found.n,
            "ties": found.ties, **columns(found.metrics),
        }  # fmt: skip


def beside_raters(
    rated: Sequence[Mapping[str, Any]], cards: Sequence[Mapping[str, Any]]
) -> list[str]:
    """How the best arm of a section stands to its raters, one sentence for each section.

    Args:
        rated: what `of_raters` found.
        cards: rows of `summary.json`.
    """
    told = []
    for row in rated:
        own = [c for c in cards if (c["corpus"], c["task"]) == (row["corpus"], row["task"])]
        metric = "mse" if row.get("mse") is not None else "accuracy"
        arms = [(c["scorecard"]["metrics"][metric], c["name"]) for c in own if c["role"] == "arm"]
        known = [(m, name) for m, name in arms if m["value"] is not None]
        if not known or row["examples"] < LEAST_RATED or row[metric] is None:
            continue
        pick = min if metric == "mse" else max
        best, name = pick(known, key=lambda pair: pair[0]["value"])
        told.append(
            f"On {row['task']} ({row['corpus']}), a rater held against the other raters has "
            f"{WORDS[metric]} {_told(row[metric], row[metric + '_low'], row[metric + '_high'])}; "
            f"the best arm, {name}, has {_told(best['value'], best['low'], best['high'])}."
        )
    return told


def _told(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def of_explanations(
    recipe: Recipe, material: Material, said: Answered
) -> Iterator[tuple[Row, str]]:
    """The figures of each arm's explanations, and what they come to in words; nothing of an arm that
    explained nothing.

    Args:
        recipe: how intervals are drawn, and which arms there are.
        material: what is explained.
        said: arm -> answers with explanations, seed after seed.
    """
    for arm, own in said.items():
        if not own:
            continue
        found = measure(own, material.references, material.part(Split.TEST), material.task,
                        material.verdicts, material.lessons(arm, recipe.seeds[0]),
                        draws=recipe.evidence.bootstrap, seed=0)  # fmt: skip
        row = {**place(material), "name": arm, "examples": found.examples, "n": found.n}
        yield {**row, **columns(found.figures)}, sentence(arm, found)


def over_all_tasks(
    recipe: Recipe, materials: Sequence[Material], answers: Mapping[str, Answered]
) -> Iterator[Row]:
    """Means over the tasks of one corpus, arm by arm; nothing of a single task.

    Args:
        recipe: how intervals are drawn.
        materials: of one corpus.
        answers: task -> arm -> answers.
    """
    if len(materials) < 2:
        return
    for arm in recipe.arms:
        parts = [
            Answers(task=m.task, predictions=answers[m.task.name][arm], references=m.references,
                    groups=m.groups)
            for m in materials
        ]  # fmt: skip
        for metric, found in over_tasks(parts, draws=recipe.evidence.bootstrap, seed=0).items():
            yield {
                "corpus": materials[0].corpus.name, "name": arm, "metric": metric,
                "tasks": " ".join(found.tasks), **columns({"mean": found.mean}),
            }  # fmt: skip


def errors_together(
    recipe: Recipe, materials: Sequence[Material], answers: Mapping[str, Answered]
) -> Iterator[Row]:
    """How the errors of every two tasks of one corpus go together, arm by arm."""
    if len(materials) < 2:
        return
    tasks = [m.task for m in materials]
    references = {m.task.name: m.references for m in materials}
    for arm in recipe.arms:
        own = {task.name: answers[task.name][arm] for task in tasks}
        for found in error_correlation(own, references, materials[0].groups, tasks,
                                       draws=recipe.evidence.bootstrap, seed=0):  # fmt: skip
            yield {
                "corpus": materials[0].corpus.name, "name": arm, "one": found.one,
                "other": found.other, "n": found.n, "groups": found.groups,
                **columns({"pearson": found.pearson, "spearman": found.spearman}),
            }  # fmt: skip
