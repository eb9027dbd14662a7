"""What asking a recipe's teachers will take, before anything is sent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whytune import asking
from whytune.recipe import Recipe
from whytune.recipe_teachers import TeacherSpec
from whytune.teaching import ensemble, estimates
from whytune.teaching.ensemble import About
from whytune.teaching.estimates import Bill, Estimate, Range
from whytune.teaching.journal import Journal
from whytune.teaching.questions import Chained, Divisible, Question, Questions
from whytune.teaching.requests import Request
from whytune.teaching.standing import standings


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What asking one teacher will take."""

    teacher: str
    stage: str
    """`asking`, or `explaining`: what rests on the votes."""
    questions: int
    settled: int
    """Of them, those that the journal has an answer to."""
    low: Bill
    expected: Bill
    high: Bill


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What asking will take."""

    forecasts: tuple[Forecast, ...]
    sample: Question | None
    """The first question that would be sent, or the first one where all are settled."""


def plan(recipe: Recipe, *, limit: int | None = None) -> Plan:
    """What `asking.ask` would send, with its tokens and cost; sends nothing, and needs no key.

    What rests on votes is estimated from their number: they may not be there yet.

    Raises:
        RecipeError: nobody to ask.
        TeachingError: the journal cannot be read.
    """
    path = asking.check(recipe)
    journal = Journal(path) if path.exists() else None
    spent = {} if journal is None else journal.spent()
    abouts = asking.abouts(recipe, limit)
    forecasts, samples = [], []
    for name, spec in recipe.teachers.items():
        estimate = Estimate(spec, spent.get(name))
        own = [voters[name] for about in abouts
               if name in (voters := ensemble.voters(recipe, about))]  # fmt: skip
        if own:
            questions = Chained(own)
            bills, done, sample = _known(questions, spec, journal, estimate)
            forecasts.append(_forecast(name, "asking", len(questions), done, bills, spec))
            samples.append(sample)
        if _times(recipe, name):
            forecasts.append(_explaining(recipe, name, abouts, journal, estimate))
    return Plan(forecasts=tuple(forecasts), sample=samples[0] if samples else None)


def _known(
    questions: Questions, spec: TeacherSpec, journal: Journal | None, estimate: Estimate
) -> tuple[Range, int, Question | None]:
    """What the open ones among these will take, how many are settled, and one to show."""
    bills, done, first, sample = estimates.NONE, 0, None, None
    for question, request in _open(questions, spec, journal):
        first = first or question
        if request is None:
            done += 1
            continue
        sample = sample or question
        bills = estimates.add(bills, estimate.before(request))
    return bills, done, sample or first


def _open(
    questions: Questions, spec: TeacherSpec, journal: Journal | None
) -> Iterator[tuple[Question, Request | None]]:
    if journal is None:
        yield from ((question, question.request) for question in questions)
    else:
        for standing in standings(questions, journal, reasks=spec.reasks):
            yield standing.question, standing.open


def _times(recipe: Recipe, name: str) -> int:
    """How often a teacher is asked about the votes on one example and task."""
    return (name == recipe.merger) + ("justify" in (recipe.teachers[name].prompts or ()))


def _explaining(
    recipe: Recipe, name: str, abouts: Sequence[About], journal: Journal | None, estimate: Estimate
) -> Forecast:
    """What rests on votes: known where they are there; elsewhere every request shows the example,
    and to a merger as many replies as there will be."""
    spec, times = recipe.teachers[name], _times(recipe, name)
    known: list[Divisible] = []
    bills, unknown = estimates.NONE, 0
    for about in abouts:
        voters = ensemble.voters(recipe, about)
        votes = [] if journal is None else ensemble.said(recipe, about, journal)
        for task in about.tasks:
            own = [vote for vote in votes if vote.task == task.name]
            asked = ensemble.reasoners(recipe, about, task, own, 0) if own else {}
            if name in asked:
                known += [questions for _, questions in asked[name]]
                continue
            replies = sum(v.of(task) for v in voters.values()) if name == recipe.merger else 0
            for example in about.examples:
                size = sum(len(turn.text.encode()) for turn in example.turns)
                bills = estimates.add(bills, estimate.of_size(size, replies), times)
            unknown += times * len(about.examples)
    questions = Chained(known)
    more, done, _ = _known(questions, spec, journal, estimate)
    return _forecast(name, "explaining", len(questions) + unknown, done,
                     estimates.add(bills, more), spec)  # fmt: skip


def _forecast(
    name: str, stage: str, questions: int, done: int, bills: Range, spec: TeacherSpec
) -> Forecast:
    low, expected, high = estimates.with_repetitions(bills, spec.reasks)
    return Forecast(teacher=name, stage=stage, questions=questions, settled=done, low=low,
                    expected=expected, high=high)  # fmt: skip
