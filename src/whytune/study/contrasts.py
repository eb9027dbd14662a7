"""Which rows of a study are compared, and what is said about it: comparisons in families, each
corrected for its size, and the settings counted in which one arm beats another.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from whytune import store
from whytune.evidence.compare import compare, default_metrics, sentence
from whytune.evidence.family import corrected, sign_sentence
from whytune.material import Material
from whytune.recipe import Recipe
from whytune.recipe_arms import PSEUDO, Arm
from whytune.records import Comparison, Kind, Prediction
from whytune.study.diagnosis import PRIOR, Learned, reason

FEWEST_SETTINGS = 3
"""Settings from which on it is counted in how many an arm is better."""
CALIBRATED = ("label_nll", "brier", "ece")
"""Figures that calibration is to better."""
DEPENDENT = (
    "Where an arm is counted to be better in so many settings, settings that share texts or students "
    "are not independent, which makes p too small."
)


class Family(StrEnum):
    """Comparisons that answer one question, and are corrected together."""

    ARMS = "arms"
    PRIOR = "prior"
    CALIBRATION = "calibration"


class Contrast(NamedTuple):
    """A comparison, what it is about, and what the students of its arm have learned."""

    family: Family
    material: Material
    comparison: Comparison
    learned: Learned = ()


Answers = Mapping[str, Sequence[Prediction]]
"""Arm -> its answers, seed after seed."""


def contrasts(
    recipe: Recipe, material: Material, answers: Answers, learned: Mapping[str, Learned],
    prior: Sequence[Prediction] | None, calibrated: Answers,
) -> Iterator[Contrast]:  # fmt: skip
    """Every arm against the first one without explanation (or the first one), every control against
    the arm that it stands for; every arm against `prior` on the figure that the section is judged
    by; and every arm calibrated against itself as it was.

    Args:
        recipe: says which arms there are and how intervals are drawn.
        material: what the answers are about.
        answers: of every arm.
        learned: arm -> how well its students know their own lessons.
        prior: its answers, alike for every seed; None where it is not asked for.
        calibrated: of the arms whose probabilities were calibrated.
    """

    def against(
        name: str, theirs: Sequence[Prediction], arm: str, own: Sequence[Prediction],
        metrics: tuple[str, ...] | None = None,
    ) -> list[Comparison]:  # fmt: skip
        return compare(
            theirs, own, material.references, material.groups, material.task, names=(name, arm),
            metrics=metrics, draws=recipe.evidence.bootstrap, seed=0,
        )  # fmt: skip

    for one, arm in pairs(recipe.arms):
        for found in against(one, answers[one], arm, answers[arm]):
            yield Contrast(Family.ARMS, material, found, learned[arm])
    judged = ("mse" if material.task.kind is Kind.ORDINAL else "accuracy",)
    for arm in recipe.arms if prior is not None else ():
        assert prior is not None
        for found in against(PRIOR, prior, arm, answers[arm], judged):
            yield Contrast(Family.PRIOR, material, found, learned[arm])
    for arm, own in calibrated.items():
        for found in against(arm, answers[arm], calibrated_name(arm), own, CALIBRATED):
            yield Contrast(Family.CALIBRATION, material, found)


def pairs(arms: Mapping[str, Arm]) -> list[tuple[str, str]]:
    """(base, arm): every arm beside the first one without explanation (or the first one), and every
    control beside the arm that it stands for.
    """
    plain = [name for name, arm in arms.items() if arm.explanation == "none"]
    base = (plain or list(arms))[0]
    first = [(base, arm) for arm in arms if arm != base]
    return list(dict.fromkeys([*first, *_controls(arms)]))


def calibrated_name(arm: str) -> str:
    """How an arm is called once its probabilities are calibrated; no arm's own name has a space."""
    return f"{arm} calibrated"


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


def rows(found: Sequence[Contrast]) -> list[dict[str, Any]]:
    """The comparisons of `summary.json`, each p corrected for the number of comparisons of its
    figure and family in the whole study, each with its sentence.
    """
    families: dict[tuple[str, Family], list[int]] = {}
    for at, one in enumerate(found):
        families.setdefault((one.comparison.metric, one.family), []).append(at)
    final = list(found)
    for places in families.values():
        adjusted = corrected([found[at].comparison for at in places])
        for at, comparison in zip(places, adjusted, strict=True):
            final[at] = found[at]._replace(comparison=comparison)
    return [_row(one) for one in final]


def _row(one: Contrast) -> dict[str, Any]:
    material, comparison = one.material, one.comparison
    row = {
        "corpus": material.corpus.name, "task": material.task.name, "family": str(one.family),
        **store.plain(comparison),
    }  # fmt: skip
    why = reason(row, one.learned) if one.family is Family.PRIOR else ""
    return {**row, "sentence": f"{sentence(comparison, material.task)} {why}".rstrip()}


def counted(found: Sequence[Contrast]) -> list[str]:
    """In how many settings an arm is better than another, a sentence for each pair and main figure,
    where they meet in `FEWEST_SETTINGS` or more.
    """
    meetings: dict[tuple[str, str, str], list[Contrast]] = {}
    for one in found:
        comparison = one.comparison
        main = default_metrics(one.material.task)[:2]
        if one.family is Family.ARMS and comparison.metric in main:
            key = (comparison.base, comparison.arm, comparison.metric)
            meetings.setdefault(key, []).append(one)
    return [
        sign_sentence([one.comparison for one in own])
        for own in meetings.values()
        if len(own) >= FEWEST_SETTINGS
    ]
