"""What one corpus says about one task: verdicts, every arm's lessons, and the references.

From files to lessons without torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whytune import corpora
from whytune.corpora import Corpus
from whytune.errors import TeachingError
from whytune.recipe import Recipe
from whytune.records import (
    Annotation,
    Example,
    Kind,
    Lesson,
    Reference,
    Split,
    Task,
    Verdict,
)
from whytune.teaching import agreement, explanations, merge, replies


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one corpus has to say about one task, for every arm and seed."""

    corpus: Corpus
    task: Task
    annotations: tuple[Annotation, ...]
    verdicts: Mapping[str, Verdict]
    """Example id -> verdict."""
    lessons: Mapping[str, tuple[Lesson, ...]]
    """Arm -> lessons; the same examples in every arm. One an example, or one a rater."""
    scores: tuple[float, ...] | None
    """The score behind each lesson's label, in the lessons' order; None for a nominal task."""
    dropped: Mapping[str, int]
    """Why something is taught in no arm -> how many examples, or raters' replies."""
    references: Mapping[str, Reference]
    """Validation or test example id -> what an answer is measured against."""
    reference: str
    """`gold` (people, on test examples that have it), `verdict` (the teachers), or `none`."""

    def part(self, split: Split) -> tuple[Example, ...]:
        """The examples of a split that can be measured."""
        return tuple(
            e for e in self.corpus.examples if e.split is split and e.id in self.references
        )

    @property
    def groups(self) -> dict[str, str]:
        """Example id -> group."""
        return {example.id: example.group for example in self.corpus.examples}

    def agreement(self) -> dict[str, Any]:
        """How far the teachers agree."""
        return agreement.summary(self.annotations, self.task)


def conversations(materials: Sequence[Material], arm: str) -> list[tuple[Lesson, ...]]:
    """The lessons of one student by what they are about, in the corpus's order.

    Args:
        materials: of one corpus, one for each task of the student.
        arm: which lessons.

    Returns:
        One tuple for each example that is taught: its lessons, task by task, rater by rater.
    """
    own: dict[str, list[Lesson]] = {e.id: [] for e in materials[0].corpus.examples}
    for material in materials:
        for lesson in material.lessons[arm]:
            own[lesson.example.id].append(lesson)
    return [tuple(lessons) for lessons in own.values() if lessons]


def together(materials: Sequence[Material], split: Split) -> tuple[Example, ...]:
    """The examples of a split that can be measured on at least one of the tasks of a corpus."""
    return tuple(
        example
        for example in materials[0].corpus.examples
        if example.split is split and any(example.id in m.references for m in materials)
    )


def left_out(recipe: Recipe, material: Material) -> Iterator[tuple[str, str]]:
    """What is taught in no arm, as (how many of what, why)."""
    for reason, count in material.dropped.items():
        of_raters = recipe.lessons == "raters" and reason != explanations.NO_VERDICT
        yield f"{count} {'replies about ' if of_raters else ''}training examples", reason


def gather(recipe: Recipe, *, untaught: bool = False) -> dict[tuple[str, str], Material]:
    """Read the corpora, read and merge the replies, and make every arm's lessons.

    Args:
        recipe: which corpora, tasks and arms.
        untaught: take in corpora that teach nothing, too: those without a training part, and those
            about which nobody has answered yet. Their lessons are empty.

    Returns:
        (corpus, task) -> material, in the recipe's order.

    Raises:
        CorpusError, TeachingError: what was handed in cannot be taught.
    """
    found = {}
    for name, spec in recipe.corpora.items():
        tasks = [t for t in recipe.resolved_tasks() if spec.task in (None, t.name)]
        corpus = corpora.load(name, spec, recipe.resolved_tasks(), recipe.corpora)
        for task in tasks:
            found[name, task.name] = _material(recipe, corpus, task, spec.seed, untaught)
    return found


def _material(
    recipe: Recipe, corpus: Corpus, task: Task, seed: int, untaught: bool
) -> Material:  # fmt: skip
    annotations = replies.read_all([r for r in corpus.replies if r.task == task.name], [task])
    training = [e for e in corpus.examples if e.split is Split.TRAIN]
    if untaught and not annotations:
        return _untaught(recipe, corpus, task, {}, annotations)
    verdicts = {v.example_id: v for v in merge.merge(annotations, task, seed)}
    if untaught and not training:
        return _untaught(recipe, corpus, task, verdicts, annotations)
    said = (
        list(verdicts.values()) if recipe.lessons == "verdict" else merge.apart(annotations, task)
    )
    taught = explanations.lessons(training, said, task, recipe.arms)
    references, kind = _references(corpus.examples, verdicts, task)
    return Material(
        corpus=corpus, task=task, annotations=tuple(annotations), verdicts=verdicts,
        lessons=taught.by_arm, scores=_scores(taught, task), dropped=taught.dropped,
        references=references, reference=kind,
    )  # fmt: skip


def _untaught(
    recipe: Recipe, corpus: Corpus, task: Task, verdicts: Mapping[str, Verdict],
    annotations: Sequence[Annotation],
) -> Material:  # fmt: skip
    references, kind = _references(corpus.examples, verdicts, task) if annotations else ({}, "none")
    return Material(
        corpus=corpus, task=task, annotations=tuple(annotations), verdicts=verdicts,
        lessons={arm: () for arm in recipe.arms}, dropped={},
        scores=None if task.kind is Kind.NOMINAL else (), references=references, reference=kind,
    )  # fmt: skip


def _scores(taught: explanations.Lessons, task: Task) -> tuple[float, ...] | None:
    if task.kind is Kind.NOMINAL:
        return None
    return tuple(score for score in taught.scores if score is not None)


def _references(
    examples: Sequence[Example], verdicts: Mapping[str, Verdict], task: Task
) -> tuple[dict[str, Reference], str]:
    """People's word where test examples have it, else the teachers' verdict; never both."""
    of_teachers = {
        v.example_id: Reference(label=v.label, score=v.score)
        for v in verdicts.values()
        if v.label is not None
    }
    test = [e for e in examples if e.split is Split.TEST]
    gold = {e.id: e.gold[task.name] for e in test if task.name in e.gold}
    of_test = gold or {e.id: of_teachers[e.id] for e in test if e.id in of_teachers}
    labels = {reference.label for reference in of_test.values()}
    if len(labels) < 2:
        raise TeachingError(
            f"task {task.name}: the {len(of_test)} test examples carry {len(labels)} label(s) "
            f"({', '.join(sorted(labels)) or 'none'}); expected two or more, or nothing can be "
            "compared; take more test examples"
        )
    validation = [e.id for e in examples if e.split is Split.VALIDATION and e.id in of_teachers]
    return {**{i: of_teachers[i] for i in validation}, **of_test}, "gold" if gold else "verdict"
