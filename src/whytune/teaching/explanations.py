"""From a verdict to the lesson of an arm: the same examples in every arm, each with the explanation
that the arm gives it.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whytune.errors import TeachingError
from whytune.recipe_arms import PSEUDO, Arm
from whytune.records import Example, Layout, Lesson, Task, Verdict
from whytune.teaching import variants
from whytune.teaching.leaks import masked
from whytune.teaching.variants import Said

NO_VERDICT = "no verdict"
"""Why an example that nobody spoke about is not taught."""
_NO_LABEL = "no label"
_NO_EXPLANATION = "no explanation"
_NO_OTHER = "no other example with its label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An example, and what is said about it."""

    example: Example
    verdict: Verdict
    generated: str | None = None
    """The reason that a generator wrote for the verdict's label."""

    @property
    def label(self) -> str:
        """Of the verdict, which has one."""
        assert self.verdict.label is not None
        return self.verdict.label

    def explanation(self, arm: Arm) -> str | None:
        """What somebody said that this arm teaches, or that it makes its own from; None where the
        arm needs nothing, or nobody said it.

        `both` is the assessment and the confidence with a space between.
        """
        return _spoken(self.verdict, arm, self.generated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Teachable:
    """What every arm can teach about one task."""

    told: tuple[Told, ...]
    """In the examples' order; each has a label and every explanation that an arm needs."""
    dropped: Mapping[str, int]
    """Reason -> verdicts (and examples without one) left out of all arms; empty where none were."""


def teachable(
    examples: Sequence[Example],
    verdicts: Sequence[Verdict],
    task: Task,
    arms: Mapping[str, Arm],
    generated: Mapping[tuple[str, str], str] | None = None,
) -> Teachable:
    """What can be taught of one part (training or validation), for all arms alike.

    One lesson per verdict: one an example where the verdicts are merged, several where each
    rater has their own; those about one example stay in the verdicts' order. A verdict without a
    label or without an explanation that any of the arms needs, and an example without a verdict,
    is left out of all arms and counted.

    Args:
        examples: of the part.
        verdicts: about any examples and tasks.
        task: which of them count.
        arms: what must be there to be taught.
        generated: (example id, label) -> the reason that a generator wrote.

    Raises:
        TeachingError: an arm needs an explanation that no verdict has, no example is left, or
            all that are left carry one label.
    """
    by_id: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.task == task.name:
            by_id[verdict.example_id].append(verdict)
    written = generated or {}
    told = [
        Told(example=example, verdict=verdict,
             generated=written.get((example.id, verdict.label or "")))
        for example in examples for verdict in by_id[example.id]
    ]  # fmt: skip
    reasons = [_reason(one, arms) for one in told]
    kept = [one for one, reason in zip(told, reasons, strict=True) if reason is None]
    dropped = Counter(reason for reason in reasons if reason is not None)
    if any(arm.explanation == "other-same" for arm in arms.values()):
        alone = _alone(kept)
        dropped[_NO_OTHER] = sum(one.label in alone for one in kept)
        kept = [one for one in kept if one.label not in alone]
    if unspoken := sum(not by_id[example.id] for example in examples):
        dropped[NO_VERDICT] = unspoken
    _check_arms(told, task, arms)
    _check_labels(kept, task, dropped)
    return Teachable(told=tuple(kept), dropped={k: n for k, n in sorted(dropped.items()) if n})


def lessons(
    told: Sequence[Told], task: Task, arm: Arm, seed: int, corpus: str = ""
) -> tuple[Lesson, ...]:
    """What an arm teaches, a lesson for each of `told` in their order.

    First labels are masked, then the words counted that are kept, then others put in their place.

    Args:
        told: all that is taught about the task: replacements are made from it and nothing else.
        task: what is asked.
        arm: how it is taught.
        seed: draws the words of replacements, for each task and corpus others.
        corpus: its name.

    Raises:
        TeachingError: nothing to draw a replacement from.
    """
    said = [
        Said(example_id=one.example.id, label=one.label, text=_cut(_masked(text, task, arm), arm))
        for one in told
        if (text := one.explanation(arm)) is not None
    ]
    if not said:
        return tuple(_lesson(one, task, Layout.LABEL, None) for one in told)
    texts = [one.text for one in said]
    if arm.explanation in PSEUDO:
        # Words that are drawn or reordered may name a label again.
        made = variants.make(arm.explanation, said, seed, f"{corpus} {task.name}")
        texts = [_masked(text, task, arm) for text in made]
    if arm.layout is Layout.BOTH_SIDES:
        texts = [" ".join(text.split()) for text in texts]
    return tuple(
        _lesson(one, task, arm.layout, text) for one, text in zip(told, texts, strict=True)
    )


def said(verdict: Verdict, task: Task, arm: Arm) -> str | None:
    """What an arm would teach about an example that it is measured on, were that taught; None where
    nobody said it, or where the arm teaches something else in its place.
    """
    text = None if arm.explanation in PSEUDO else _spoken(verdict, arm)
    return text and _cut(_masked(text, task, arm), arm)


def _spoken(verdict: Verdict, arm: Arm, generated: str | None = None) -> str | None:
    parts = {
        None: (),
        "assessment": (verdict.assessment,),
        "confidence": (verdict.confidence,),
        "both": (verdict.assessment, verdict.confidence),
        "generated": (generated,),
    }[arm.spoken]
    present = [part for part in parts if part]
    return " ".join(present) if present and len(present) == len(parts) else None


def _lesson(one: Told, task: Task, layout: Layout, text: str | None) -> Lesson:
    return Lesson(example=one.example, task=task, label=one.label, layout=layout, explanation=text)


def _masked(text: str, task: Task, arm: Arm) -> str:
    return masked(text, task.label_names) if arm.mask_labels else text


def _cut(text: str, arm: Arm) -> str:
    return text if arm.words is None else " ".join(text.split()[: arm.words])


def _reason(one: Told, arms: Mapping[str, Arm]) -> str | None:
    """Why a verdict cannot be taught; None where it can."""
    if one.verdict.label is None:
        return _NO_LABEL
    if any(arm.spoken and one.explanation(arm) is None for arm in arms.values()):
        return _NO_EXPLANATION
    return None


def _alone(told: Sequence[Told]) -> set[str]:
    """Labels that one example alone carries."""
    carried: dict[str, set[str]] = defaultdict(set)
    for one in told:
        carried[one.label].add(one.example.id)
    return {label for label, examples in carried.items() if len(examples) == 1}


def _check_arms(told: Sequence[Told], task: Task, arms: Mapping[str, Arm]) -> None:
    for name, arm in arms.items():
        if told and arm.spoken and all(one.explanation(arm) is None for one in told):
            raise TeachingError(
                f"arms.{name}: needs explanation {arm.spoken}, but none of the {len(told)} "
                f"verdicts on {task.name} has it; "
                + ("write them with `whytune explain RECIPE`" if arm.spoken == "generated"
                   else "drop the arm, or use data with explanations")
            )  # fmt: skip


def _check_labels(kept: Sequence[Told], task: Task, dropped: Mapping[str, int]) -> None:
    if not kept:
        found = ", ".join(f"{count} with {reason}" for reason, count in sorted(dropped.items()))
        raise TeachingError(
            f"task {task.name}: no example can be taught ({found or 'there are none'}); expected "
            "labelled examples; check the teachers' replies with `whytune merge`"
        )
    labels = {one.label for one in kept}
    if len(labels) == 1:
        part = kept[0].example.split or "given"
        raise TeachingError(
            f"task {task.name}: all {len({one.example.id for one in kept})} {part} examples carry "
            f"the label {next(iter(labels))}; expected two labels or more; take more examples, "
            "another corpus, or coarser labels"
        )
