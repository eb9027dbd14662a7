"""What a study found, from what its runs and baselines wrote: rows, comparisons, one sentence."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from whytune import run_folder, store
from whytune.evidence.compare import compare, sentence
from whytune.evidence.family import corrected
from whytune.material import Material, left_out, not_asked
from whytune.recipe import Recipe
from whytune.recipe_arms import PSEUDO, Arm
from whytune.records import Comparison, Kind, Prediction, Split
from whytune.run_folder import Cell
from whytune.study.diagnosis import PRIOR, Learned, reason

Materials = Mapping[tuple[str, str], Material]
"""(corpus, task) -> material, in the recipe's order."""
MOST_NAMED = 4
"""Comparisons that the finding names; of more it gives the number."""


class _Compared(NamedTuple):
    """A comparison, what it is about, and what the students of its arm have learned."""

    material: Material
    comparison: Comparison
    learned: Learned


def baseline_folder(folder: Path, material: Material, name: str) -> Path:
    """Where a baseline's answers stand in a study."""
    return folder / "baselines" / f"{material.corpus.name}--{material.task.name}--{name}"


def summarise(
    recipe: Recipe, materials: Materials, asked: Sequence[Cell], folder: Path
) -> dict[str, Any]:
    """`summary.json`, all but the study's own time and memory."""
    rows: list[dict[str, Any]] = []
    compared: list[_Compared] = []
    for (corpus, task), material in materials.items():
        own = [cell for cell in asked if cell.corpus == corpus and task in cell.tasks]
        answers = {
            arm: _pooled([c for c in own if c.arm == arm], task, folder) for arm in recipe.arms
        }
        rows += _arm_rows(recipe, material, own, answers)
        rows += _baseline_rows(recipe, material, folder)
        learned = {arm: _learned([c for c in own if c.arm == arm], task, folder)
                   for arm in recipe.arms}  # fmt: skip
        compared += _comparisons(recipe, material, answers, learned, folder)
    comparisons = [_comparison_row(one) for one in _corrected(compared)]
    return {
        "name": recipe.name,
        "model": recipe.model,
        **store.provenance(),
        "finding": finding(rows, comparisons),
        "notes": list(dict.fromkeys(_notes(recipe, materials, folder, asked))),
        "agreement": [
            {"corpus": m.corpus.name, "task": m.task.name, **_agreement(m)}
            for m in materials.values()
        ],
        "rows": rows,
        "comparisons": comparisons,
    }


def _agreement(material: Material) -> dict[str, Any]:
    found = material.agreement()
    return {**found, "unread": sum(found["unread"].values())}


def _pooled(own: Sequence[Cell], task: str, folder: Path) -> list[Prediction]:
    """The answers of an arm to one task, seed after seed."""
    paths = [folder / "runs" / cell.id / "predictions.parquet" for cell in own]
    return [p for path in paths for p in store.read_predictions(path)[0] if p.task == task]


def _learned(own: Sequence[Cell], task: str, folder: Path) -> Learned:
    """How well the students of an arm know what they were taught, seed by seed."""
    told = [store.read_json(folder / "runs" / cell.id / "run.json") for cell in own]
    # 0.1.0 did not ask.
    return [facts["learned"][task] for facts in told if task in facts.get("learned", {})]


def _arm_rows(
    recipe: Recipe, material: Material, own: Sequence[Cell],
    answers: Mapping[str, Sequence[Prediction]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    for arm, spec in recipe.arms.items():
        yield {
            "corpus": material.corpus.name, "task": material.task.name, "name": arm,
            "role": "arm", "seeds": list(recipe.seeds),
            "runs": [f"runs/{cell.id}" for cell in own if cell.arm == arm],
            "scorecard": store.plain(run_folder.scorecard(answers[arm], material, recipe)),
            "layout": str(spec.answers_in), "explanation": spec.explanation,
        }  # fmt: skip


def _baseline_rows(recipe: Recipe, material: Material, folder: Path) -> Iterator[dict[str, Any]]:
    for name in recipe.evidence.baselines:
        place = baseline_folder(folder, material, name)
        yield {
            "corpus": material.corpus.name, "task": material.task.name, "name": name,
            "role": "baseline", "seeds": [], "runs": [],
            "scorecard": store.read_json(place / "scorecard.json"),
            "layout": None, "explanation": None,
        }  # fmt: skip


def _comparisons(
    recipe: Recipe, material: Material, answers: Mapping[str, Sequence[Prediction]],
    learned: Mapping[str, Learned], folder: Path,
) -> Iterator[_Compared]:  # fmt: skip
    """Every arm against the first one without explanation (or the first one), every control against
    the arm that it stands for, and every arm against `prior` on the figure that the section is
    judged by, with a reason where no gain shows.
    """
    plain = [name for name, arm in recipe.arms.items() if arm.explanation == "none"]
    base = (plain or list(recipe.arms))[0]
    pairs: list[tuple[str, Sequence[Prediction], str, tuple[str, ...] | None]]
    pairs = [(base, answers[base], arm, None) for arm in recipe.arms if arm != base]
    pairs += [(one, answers[one], arm, None) for one, arm in _controls(recipe.arms)]
    if PRIOR in recipe.evidence.baselines:
        place = baseline_folder(folder, material, PRIOR) / "predictions.parquet"
        # It answers alike for every seed.
        constant = store.read_predictions(place)[0] * len(recipe.seeds)
        judged = ("mse" if material.task.kind is Kind.ORDINAL else "accuracy",)
        pairs += [(PRIOR, constant, arm, judged) for arm in recipe.arms]
    for name, theirs, arm, metrics in pairs:
        found = compare(
            theirs, answers[arm], material.references, material.groups, material.task,
            names=(name, arm), metrics=metrics, draws=recipe.evidence.bootstrap, seed=0,
        )  # fmt: skip
        for comparison in found:
            yield _Compared(material, comparison, learned[arm])


def _controls(arms: Mapping[str, Arm]) -> Iterator[tuple[str, str]]:
    """(arm, its control): an explanation and its replacement, an arm and one matched to it."""
    for name, arm in arms.items():
        stands_for = (
            other
            for other, its in arms.items()
            if arm.explanation in PSEUDO
            and (its.explanation, its.words, its.layout) == (arm.spoken, arm.words, arm.layout)
        )
        yield from ((other, name) for other in dict.fromkeys(arm.matched.values()))
        yield from ((other, name) for other in islice(stands_for, 1))


def _corrected(compared: Sequence[_Compared]) -> list[_Compared]:
    """With each p corrected for the number of comparisons of its figure in the whole study, those
    with the prior apart.
    """
    families: dict[tuple[str, bool], list[int]] = {}
    for at, one in enumerate(compared):
        key = (one.comparison.metric, one.comparison.base == PRIOR)
        families.setdefault(key, []).append(at)
    found = list(compared)
    for places in families.values():
        adjusted = corrected([compared[at].comparison for at in places])
        for at, comparison in zip(places, adjusted, strict=True):
            found[at] = compared[at]._replace(comparison=comparison)
    return found


def _comparison_row(one: _Compared) -> dict[str, Any]:
    material, comparison = one.material, one.comparison
    row = {"corpus": material.corpus.name, "task": material.task.name, **store.plain(comparison)}
    why = reason(row, one.learned) if comparison.base == PRIOR else ""
    return {**row, "sentence": f"{sentence(comparison, material.task)} {why}".rstrip()}


def finding(rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What was found, in one sentence, also when it is nothing.

    First whether the arms differ in label loss (of several comparisons: how many and which do,
    by an interval that leaves out zero), then, task by task, how the best arm stands to the
    training mean or the most frequent label.
    """
    losses = [c for c in comparisons if c["metric"] == "label_nll"]
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


def _notes(
    recipe: Recipe, materials: Materials, folder: Path, asked: Sequence[Cell]
) -> Iterator[str]:
    for (corpus, task), material in materials.items():
        for note in material.corpus.notes:
            yield f"{corpus}: {note}"
        for missing in not_asked(material):
            yield f"{corpus}, {task}, {missing}."
        for what, why in left_out(recipe, material):
            yield f"{corpus}, {task}: {what} taught in no arm ({why})."
    # Every seed reads the same conversations, cut alike; so do arms, unless one has an instruction.
    firsts: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for cell in asked:
        facts = store.read_json(folder / "runs" / cell.id / "run.json")
        firsts.setdefault((cell.corpus, cell.tasks), {}).setdefault(cell.arm, facts)
    for (corpus, tasks), by_arm in firsts.items():
        facts = next(iter(by_arm.values()))
        place = f"{corpus}, {', '.join(tasks)}"
        cuts = {arm: own["cut"] for arm, own in by_arm.items()}
        told = (str(facts["cut"]) if len({*cuts.values()}) == 1
                else ", ".join(f"{n} ({arm})" for arm, n in cuts.items()))  # fmt: skip
        if any(cuts.values()):
            yield (f"{place}: {told} of {facts['conversations']} conversations were "
                   "longer than prompt.max_length and lost their middle.")  # fmt: skip
        if facts["eval_split"] == Split.TEST:
            yield (f"{place}: the loss curves are drawn on the test part; no checkpoint "
                   "was chosen by them.")  # fmt: skip
