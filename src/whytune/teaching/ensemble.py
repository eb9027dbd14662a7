"""A recipe's teachers together: who is asked what, what they said, and the verdicts of it.

Teachers vote first. What rests on the votes comes after: a merging model that reads all of them,
and reasons for the label that they gave.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whytune.recipe import Recipe
from whytune.recipe_teachers import TeacherSpec
from whytune.records import Annotation, Example, Outcome, Reply, Task, Verdict
from whytune.teaching import merge, merger, methods, prompts, recorded, replies
from whytune.teaching.journal import Journal
from whytune.teaching.prompts import Rendered
from whytune.teaching.questions import Question, Votes, question
from whytune.teaching.standing import standings


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is asked about: the examples of one corpus, and the tasks that they can be asked."""

    examples: Sequence[Example]
    tasks: Sequence[Task]
    replies: Sequence[Reply]
    """That came with the corpus."""


class Reasons:
    """What a teacher is asked once the others have voted; can be walked again and again.

    Args:
        teacher: its name.
        spec: how it is asked.
        asked: example, task, and how it is asked about them, with the label where it is known.
    """

    def __init__(
        self, teacher: str, spec: TeacherSpec,
        asked: Collection[tuple[Example, Task, str | None, Callable[[], Rendered]]],
    ) -> None:  # fmt: skip
        self._teacher, self._spec, self._asked = teacher, spec, asked

    def __len__(self) -> int:
        return len(self._asked)

    def __iter__(self) -> Iterator[Question]:
        for example, task, label, render in self._asked:
            yield question(self._teacher, self._spec, example, task, render(), label)

    def split(self, part: Callable[[Example], int]) -> "dict[int, Reasons]":
        """Part -> the questions about its examples."""
        found: dict[int, _Asked] = defaultdict(list)
        for asked in self._asked:
            found[part(asked[0])].append(asked)
        return {n: Reasons(self._teacher, self._spec, own) for n, own in found.items()}


def voters(recipe: Recipe, about: About) -> dict[str, Votes]:
    """Teacher -> what it is asked on its own account; those that are asked nothing are left out.

    Raises:
        TeachingError: a teacher has no prompt for a task.
    """
    samples = recipe.samples()
    found = {
        name: Votes(name, spec, about.examples, about.tasks, samples)
        for name, spec in recipe.teachers.items()
        if spec.asked
    }
    return {name: votes for name, votes in found.items() if len(votes)}


def said(recipe: Recipe, about: About, journal: Journal | None) -> list[Annotation]:
    """What all voters said, in the order of the recipe; questions not asked yet are left out.

    Raises:
        TeachingError: the journal, or a file of recorded replies, cannot be read.
    """
    if not recipe.teachers:
        return replies.read_all(about.replies, about.tasks)
    asked = voters(recipe, about)
    found: list[Annotation] = []
    for name, spec in recipe.teachers.items():
        if not spec.asked:
            own = about.replies if spec.path is None else _about(
                recorded.load(Path(spec.path), name), about.examples)  # fmt: skip
            found += replies.read_all(own, about.tasks)
        elif name in asked and journal is not None:
            found += answered(asked[name], spec, journal)
    return found


def _about(found: Sequence[Reply], examples: Sequence[Example]) -> list[Reply]:
    known = {example.id for example in examples}
    return [reply for reply in found if reply.example_id in known]


def answered(
    questions: Votes | Reasons, spec: TeacherSpec, journal: Journal
) -> Iterator[Annotation]:
    """What stands in the journal."""
    for standing in standings(questions, journal, reasks=spec.reasks):
        if standing.annotation is not None:
            yield standing.annotation


def reasoners(
    recipe: Recipe, about: About, task: Task, votes: Sequence[Annotation], seed: int
) -> dict[str, list[tuple[str, Reasons]]]:
    """Who is asked what, now that there are votes on a task.

    Args:
        recipe: names the merger and those who justify.
        about: the examples.
        task: one of its tasks.
        votes: what `said` found; of this task.
        seed: as for `merge.merge`.

    Returns:
        Teacher -> (`merge`, `merge-explanations` or `justify`, its questions). Examples on which a
        voter was not asked yet are left out: their votes may still change.
    """
    verdicts = _plain(recipe, task, votes, seed)
    asked = voters(recipe, about)
    expected = sum(own.of(task) for own in asked.values())
    by_example: dict[str, list[Annotation]] = defaultdict(list)
    for vote in votes:
        by_example[vote.example_id].append(vote)
    ready = [
        (example, own, verdicts[example.id].label)
        for example in about.examples
        if (own := by_example.get(example.id, []))
        and sum(vote.teacher in asked for vote in own) == expected
    ]
    found: dict[str, list[tuple[str, Reasons]]] = defaultdict(list)
    for name, spec in recipe.teachers.items():
        if spec.prompts is not None and "justify" in spec.prompts:
            found[name].append(("justify", Reasons(name, spec, _justify(ready, task, spec))))
        if name == recipe.merger:
            decides = recipe.merge == "merger"
            kind = "merge" if decides else "merge-explanations"
            of_votes = (_decide if decides else _combine)(ready, task, spec)
            found[name].append((kind, Reasons(name, spec, of_votes)))
    return found


_Ready = Sequence[tuple[Example, list[Annotation], str | None]]
_Asked = list[tuple[Example, Task, str | None, Callable[[], Rendered]]]


def _justify(ready: _Ready, task: Task, spec: TeacherSpec) -> _Asked:
    return [
        (example, task, label, _later(prompts.justify, example, task, label,
                                      order=spec.order, confidence=True))
        for example, _, label in ready if label is not None
    ]  # fmt: skip


def _decide(ready: _Ready, task: Task, spec: TeacherSpec) -> _Asked:
    return [
        (example, task, None, _later(merger.decide, example, task, votes, order=spec.order))
        for example, own, _ in ready if (votes := methods.read(own))
    ]  # fmt: skip


def _combine(ready: _Ready, task: Task, spec: TeacherSpec) -> _Asked:
    return [
        (example, task, label,
         _later(merger.combine, example, task, label, explained, order=spec.order))
        for example, own, label in ready
        if label is not None and len(explained := _explained(own)) > 1
    ]  # fmt: skip


def _explained(votes: Sequence[Annotation]) -> list[Annotation]:
    return [vote for vote in methods.read(votes) if vote.assessment or vote.confidence]


def _later(
    render: Callable[..., Rendered], *args: object, **kwargs: object
) -> Callable[[], Rendered]:
    return lambda: render(*args, **kwargs)


def verdicts(
    recipe: Recipe, about: About, task: Task, votes: Sequence[Annotation],
    journal: Journal | None, seed: int,
) -> dict[str, Verdict]:  # fmt: skip
    """Example id -> what the ensemble says, by the recipe's way of merging.

    Args:
        recipe: says how.
        about: the examples.
        task: which.
        votes: what `said` found; of this task.
        journal: with what a merger and those who justify said; None: nobody was asked.
        seed: as for `merge.merge`.

    Raises:
        TeachingError: as `merge.merge`.
    """
    speakers: dict[str, Annotation] = {}
    if journal is not None:
        for name, asked in reasoners(recipe, about, task, votes, seed).items():
            for kind, questions in asked:
                found = list(answered(questions, recipe.teachers[name], journal))
                if kind == "merge":
                    return _by_id(merge.of_merger(found, votes, task, seed=seed))
                read = {a.example_id: a for a in found if a.outcome is Outcome.READ}
                # What the merger made of all reasons stands before one teacher's own.
                speakers = {**speakers, **read} if kind != "justify" else {**read, **speakers}
    return _plain(recipe, task, votes, seed, speakers)


def _plain(
    recipe: Recipe, task: Task, votes: Sequence[Annotation], seed: int,
    speakers: Mapping[str, Annotation] | None = None,
) -> dict[str, Verdict]:  # fmt: skip
    method = methods.of_recipe(recipe.merge, task)
    return _by_id(merge.merge(votes, task, seed, method=method, speakers=speakers))


def _by_id(found: Sequence[Verdict]) -> dict[str, Verdict]:
    return {verdict.example_id: verdict for verdict in found}
