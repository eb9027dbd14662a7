"""The explanation that each arm teaches, on the same examples in every arm."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whytune.errors import TeachingError
from whytune.recipe import Arm
from whytune.records import Example, Layout, Lesson, Task, Verdict

NO_VERDICT = "no verdict"
"""Why an example that nobody spoke about is not taught."""
_NO_LABEL = "no label"
_NO_EXPLANATION = "no explanation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """The lessons of every arm."""

    by_arm: Mapping[str, tuple[Lesson, ...]]
    """Arm -> lessons; the same examples in the same order in every arm, so that arms differ in
    nothing but their explanations."""
    scores: tuple[float | None, ...]
    """The score on [0, 1] behind each lesson's label, one a lesson, the same in every arm; None
    for a nominal task."""
    dropped: Mapping[str, int]
    """Reason -> verdicts (and examples without one) left out of all arms; empty where none were."""


def explanation(verdict: Verdict, arm: Arm) -> str | None:
    """What the arm teaches to say about this verdict; None where the verdict lacks it.

    Also None for an arm without explanation. `both` is the assessment and the confidence with a
    space between; `words` keeps the first so many words of the whole.
    """
    parts = {
        "none": (),
        "assessment": (verdict.assessment,),
        "confidence": (verdict.confidence,),
        "both": (verdict.assessment, verdict.confidence),
    }[arm.explanation]
    present = [part for part in parts if part]
    if not present or len(present) < len(parts):
        return None
    text = " ".join(present)
    return text if arm.words is None else " ".join(text.split()[: arm.words])


def lessons(
    examples: Sequence[Example],
    verdicts: Sequence[Verdict],
    task: Task,
    arms: Mapping[str, Arm],
) -> Lessons:
    """The lessons of one part (training or validation) for every arm, in the examples' order.

    One lesson per verdict: one an example where the verdicts are merged, several where each
    rater has their own; those about one example stay in the verdicts' order. A verdict without a
    label or without an explanation that any of the arms needs, and an example without a verdict,
    is left out of all arms and counted.

    Raises:
        TeachingError: an arm needs an explanation that no verdict has, no example is left, or
            all that are left carry one label.
    """
    by_id: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.task == task.name:
            by_id[verdict.example_id].append(verdict)
    found = [(example, own) for example in examples for own in by_id[example.id] or (None,)]
    reasons = [_reason(own, arms) for _, own in found]
    kept = [(example, own) for (example, own), reason in zip(found, reasons, strict=True)
            if own is not None and reason is None]  # fmt: skip
    dropped = Counter(reason for reason in reasons if reason is not None)
    _check_arms([own for _, own in found if own is not None], task, arms)
    _check_labels(kept, task, dropped)
    return Lessons(
        by_arm={
            name: tuple(_lesson(example, verdict, task, arm) for example, verdict in kept)
            for name, arm in arms.items()
        },
        scores=tuple(verdict.score for _, verdict in kept),
        dropped=dict(sorted(dropped.items())),
    )


def _reason(verdict: Verdict | None, arms: Mapping[str, Arm]) -> str | None:
    """Why an example cannot be taught; None where it can."""
    if verdict is None:
        return NO_VERDICT
    if verdict.label is None:
        return _NO_LABEL
    for arm in arms.values():
        if arm.explanation != "none" and explanation(verdict, arm) is None:
            return _NO_EXPLANATION
    return None


def _check_arms(own: Sequence[Verdict], task: Task, arms: Mapping[str, Arm]) -> None:
    for name, arm in arms.items():
        if own and arm.explanation != "none" and all(explanation(v, arm) is None for v in own):
            raise TeachingError(
                f"arms.{name}: needs explanation {arm.explanation}, but none of the {len(own)} "
                f"verdicts on {task.name} has it; drop the arm, or use data with explanations"
            )


def _check_labels(
    kept: Sequence[tuple[Example, Verdict]], task: Task, dropped: Mapping[str, int]
) -> None:
    if not kept:
        found = ", ".join(f"{count} with {reason}" for reason, count in sorted(dropped.items()))
        raise TeachingError(
            f"task {task.name}: no example can be taught ({found or 'there are none'}); expected "
            "labelled examples; check the teachers' replies with `whytune merge`"
        )
    labels = {verdict.label for _, verdict in kept}
    if len(labels) == 1:
        part = kept[0][0].split or "given"
        raise TeachingError(
            f"task {task.name}: all {len({e.id for e, _ in kept})} {part} examples carry the label "
            f"{next(iter(labels))}; expected two labels or more; take more examples, another "
            "corpus, or coarser labels"
        )


def _lesson(example: Example, verdict: Verdict, task: Task, arm: Arm) -> Lesson:
    assert verdict.label is not None
    text = explanation(verdict, arm)
    return Lesson(
        example=example,
        task=task,
        label=verdict.label,
        layout=Layout.LABEL if text is None else arm.layout,
        explanation=text,
    )
