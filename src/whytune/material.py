"""What one corpus says about one task: verdicts, every arm's lessons, and the references.

From files to lessons without torch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whytune import corpora
from whytune.corpora import Corpus
from whytune.errors import TeachingError
from whytune.recipe import Recipe
from whytune.recipe_arms import Arm
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
from whytune.teaching import agreement, ensemble, explanations, merge, reasons, variants
from whytune.teaching.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What one corpus says about one task."""

    corpus: Corpus
    task: Task
    annotations: tuple[Annotation, ...]
    verdicts: Mapping[str, Verdict]
    """Example id -> verdict; empty where nobody has answered yet."""
    questions: Mapping[str, int] = field(default_factory=dict)
    """Teacher -> how many it is to be asked about this, those asked included; without mergers and
    recorded teachers."""

    @property
    def unasked(self) -> dict[str, int]:
        """Teacher -> how many of its questions nobody asked yet; without those that were asked all.

        Votes are missing so where asking ended early, and where a teacher was changed since: what
        the recipe says now is another question.
        """
        told = Counter(annotation.teacher for annotation in self.annotations)
        left = {name: count - told[name] for name, count in self.questions.items()}
        return {name: count for name, count in left.items() if count > 0}

    @property
    def groups(self) -> dict[str, str]:
        """Example id -> group."""
        return {example.id: example.group for example in self.corpus.examples}

    def agreement(self) -> dict[str, Any]:
        """How far the teachers agree."""
        return agreement.summary(self.annotations, self.task)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material(Merged):
    """What one corpus has to teach about one task, for every arm and seed."""

    arms: Mapping[str, Arm]
    told: tuple[explanations.Told, ...]
    """What is taught, the same in every arm: one an example, or one a rater; empty where nothing."""
    unwritten: int = 0
    """Reasons that a generator has yet to write, where others stand in for them."""
    dropped: Mapping[str, int]
    """Why something is taught in no arm -> how many examples, or raters' replies."""
    references: Mapping[str, Reference]
    """Validation or test example id -> what an answer is measured against."""
    reference: str
    """`gold` (people, on test examples that have it), `verdict` (the teachers), or `none`."""

    @property
    def scores(self) -> list[float] | None:
        """The score behind each lesson's label, in the lessons' order; None for a nominal task."""
        if self.task.kind is Kind.NOMINAL:
            return None
        return [one.verdict.score for one in self.told if one.verdict.score is not None]

    def lessons(self, arm: str, seed: int) -> tuple[Lesson, ...]:
        """What an arm teaches the student of a seed, in the order of `told`."""
        return explanations.lessons(self.told, self.task, self.arms[arm], seed, self.corpus.name)

    def part(self, split: Split) -> tuple[Example, ...]:
        """The examples of a split that can be measured."""
        return tuple(
            e for e in self.corpus.examples if e.split is split and e.id in self.references
        )


def conversations(materials: Sequence[Material], arm: str, seed: int) -> list[tuple[Lesson, ...]]:
    """The lessons of one student by what they are about, in the corpus's order.

    Args:
        materials: of one corpus, one for each task of the student.
        arm: which lessons.
        seed: of the student.

    Returns:
        One tuple for each example that is taught: its lessons, task by task, rater by rater.
    """
    own: dict[str, list[Lesson]] = {e.id: [] for e in materials[0].corpus.examples}
    for material in materials:
        for lesson in material.lessons(arm, seed):
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


def not_asked(said: Merged) -> Iterator[str]:
    """Whose votes are missing, a line a teacher."""
    for teacher, count in said.unasked.items():
        yield (
            f"{teacher}: {count} of {said.questions[teacher]} questions were not asked yet; "
            "`whytune annotate` asks them"
        )


def read(recipe: Recipe, name: str) -> tuple[Corpus, ensemble.About]:
    """A corpus of the recipe, and what its examples can be asked.

    Raises:
        CorpusError: it cannot be read.
    """
    corpus = corpora.load(
        name,
        recipe.corpora[name],
        recipe.resolved_tasks(),
        recipe.corpora,
        # In a matrix, what a corpus does not answer is a place that stays empty.
        asked=bool(recipe.teachers) or recipe.matrix,
    )
    own = recipe.corpora[name].task
    tasks = [task for task in recipe.resolved_tasks() if own in (None, task.name)]
    return corpus, ensemble.About(examples=corpus.examples, tasks=tasks, replies=corpus.replies)


def gather(
    recipe: Recipe, *, untaught: bool = False, stand_in: bool = False
) -> dict[tuple[str, str], Material]:
    """Read the corpora, read and merge the replies, and make every arm's lessons.

    Args:
        recipe: which corpora, tasks and arms.
        untaught: take in corpora that teach nothing, too: those without a training part, and those
            about which nobody has answered yet. Their lessons are empty.
        stand_in: where the generator has yet to write a reason, one of `max_new_tokens` words stands
            in for it.

    With `matrix: true`, corpora without a training part are taken in always, and what a corpus has
    no answers to is left out.

    Returns:
        (corpus, task) -> material, in the recipe's order.

    Raises:
        CorpusError, TeachingError: what was handed in cannot be taught, or of a matrix, a task that
            no corpus teaches.
    """
    found = {
        key: _untaught(recipe, said) if (untaught or recipe.matrix) and _teaches_nothing(said)
        else _material(recipe, said, stand_in)
        for key, said in merged(recipe, unasked=untaught).items()
    }  # fmt: skip
    if recipe.matrix and not untaught:
        _check_taught(recipe, found)
    return found


def _check_taught(recipe: Recipe, found: Mapping[tuple[str, str], Material]) -> None:
    for corpus in recipe.corpora:
        if not any(name == corpus for name, _ in found):
            raise TeachingError(
                f"corpora.{corpus}: has no answers to any of the recipe's tasks "
                f"({', '.join(task.name for task in recipe.resolved_tasks())}); name the task that "
                "it answers, or drop it"
            )
    for task in recipe.resolved_tasks():
        if not any(name == task.name and own.told for (_, name), own in found.items()):
            raise TeachingError(
                f"task {task.name}: no corpus of the matrix has lessons about it, expected one or "
                "more; add a corpus with a training part that answers it, or drop the task"
            )


def merged(recipe: Recipe, *, unasked: bool = False) -> dict[tuple[str, str], Merged]:
    """Read the corpora, and read and merge the replies.

    Args:
        recipe: which corpora, tasks, teachers and merge.
        unasked: take in what nobody has answered yet, too.

    Returns:
        (corpus, task) -> what is said about it, in the recipe's order.

    Raises:
        CorpusError, TeachingError: what was handed in cannot be read or merged.
    """
    journal = _journal(recipe, unasked)
    found = {}
    for name, spec in recipe.corpora.items():
        corpus, about = read(recipe, name)
        said = ensemble.said(recipe, about, journal)
        asked = ensemble.voters(recipe, about)
        for task in about.tasks:
            votes = tuple(vote for vote in said if vote.task == task.name)
            if recipe.matrix and not votes and not recipe.asks:
                continue  # nobody will ever answer
            verdicts = {} if unasked and not votes else ensemble.verdicts(
                recipe, about, task, votes, journal, spec.seed)  # fmt: skip
            found[name, task.name] = Merged(
                corpus=corpus, task=task, annotations=votes, verdicts=verdicts,
                questions={name: own.of(task) * len(about.examples) for name, own in asked.items()},
            )  # fmt: skip
    return found


def _journal(recipe: Recipe, unasked: bool) -> Journal | None:
    if not recipe.asks or recipe.journal is None:
        return None
    path = Path(recipe.journal)
    return None if unasked and not path.exists() else Journal(path)


def _teaches_nothing(said: Merged) -> bool:
    training = any(example.split is Split.TRAIN for example in said.corpus.examples)
    return not (training and said.annotations)


def _material(recipe: Recipe, said: Merged, stand_in: bool) -> Material:
    training = [e for e in said.corpus.examples if e.split is Split.TRAIN]
    taught_from = (
        list(said.verdicts.values())
        if recipe.lessons == "verdict"
        else merge.apart(said.annotations, said.task)
    )
    written = _generated(recipe, said, taught_from)
    unwritten = {(v.example_id, v.label or "") for v in taught_from} - written.keys()
    if stand_in and recipe.generator is not None:
        longest = " ".join([variants.FILLER] * recipe.generator.max_new_tokens)
        written |= dict.fromkeys(unwritten, longest)
    taught = explanations.teachable(training, taught_from, said.task, recipe.arms, written)
    for name, arm in recipe.arms.items():  # what cannot be taught is told before anybody is
        try:
            explanations.lessons(taught.told, said.task, arm, recipe.seeds[0])
        except TeachingError as error:
            raise TeachingError(f"arms.{name}, task {said.task.name}, {error}") from None
    references, kind = _references(said.corpus.examples, said.verdicts, said.task)
    return Material(
        corpus=said.corpus, task=said.task, annotations=said.annotations, verdicts=said.verdicts,
        questions=said.questions,
        arms=recipe.arms, told=taught.told, dropped=taught.dropped,
        unwritten=len(unwritten & {(one.example.id, one.label) for one in taught.told})
        if recipe.generator else 0,
        references=references, reference=kind,
    )  # fmt: skip


def _untaught(recipe: Recipe, said: Merged) -> Material:
    references, kind = (
        _references(said.corpus.examples, said.verdicts, said.task)
        if said.annotations
        else ({}, "none")
    )
    return Material(
        corpus=said.corpus, task=said.task, annotations=said.annotations, verdicts=said.verdicts,
        questions=said.questions,
        arms=recipe.arms, told=(), dropped={}, references=references, reference=kind,
    )  # fmt: skip


def _generated(
    recipe: Recipe, said: Merged, verdicts: Sequence[Verdict]
) -> dict[tuple[str, str], str]:
    """(example id, label) -> the reason that the generator wrote."""
    if recipe.reasons is None:
        return {}
    written = reasons.read(Path(recipe.reasons) / reasons.NAME)
    by_id = {example.id: example for example in said.corpus.examples}
    return {
        (verdict.example_id, verdict.label): reason
        for verdict in verdicts
        if verdict.label is not None
        and (reason := written.get(
            reasons.about(recipe, by_id[verdict.example_id], said.task, verdict.label)))
    }  # fmt: skip


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
            "compared; take more test examples, or have teachers answer about all of them"
        )
    validation = [e.id for e in examples if e.split is Split.VALIDATION and e.id in of_teachers]
    return {**{i: of_teachers[i] for i in validation}, **of_test}, "gold" if gold else "verdict"
