"""A recipe's teachers asked about its corpora.

First everybody votes; then, where the recipe has them, the merging model and those who justify are
asked about what the votes say. Torch is loaded only for a local teacher.
"""

import asyncio
import math
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from whytune import material
from whytune.errors import RecipeError, TeachingError
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.recipe_teachers import TeacherSpec
from whytune.records import Outcome
from whytune.teaching import ensemble, journal_join
from whytune.teaching.annotate import Account, Work, annotate, concurrency, settled
from whytune.teaching.board import Board
from whytune.teaching.endpoints import Connection, Endpoint
from whytune.teaching.ensemble import About
from whytune.teaching.estimates import Estimate
from whytune.teaching.journal import Journal
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.purse import Purse
from whytune.teaching.questions import Chained, Divisible, Questions
from whytune.teaching.teachers import Teacher

Resume = Literal["auto", "never", "require"]
PATIENCE = 60.0
"""Seconds to wait for another process to let go of a journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of asking one teacher."""

    teacher: str
    questions: int
    outcomes: Mapping[str, int]
    """Outcome -> questions; `unasked`: those that nobody was asked yet."""
    account: Account

    @property
    def whole(self) -> bool:
        """Whether every question has a reply, readable or not, or a refusal."""
        return not self.outcomes.get("unasked") and not self.outcomes.get(str(Outcome.FAILED))


def ask(
    recipe: Recipe, show: Progress, *, limit: int | None = None, budget: float | None = None,
    resume: Resume = "auto", teachers: Mapping[str, Teacher] | None = None,
) -> list[Asked]:  # fmt: skip
    """Ask every teacher of a recipe what the journal does not hold yet.

    Args:
        recipe: names teachers, corpora, tasks and the journal.
        show: how far it is.
        limit: examples of each corpus, from its beginning; None: all.
        budget: US dollars that all asking into this journal may cost, earlier calls included.
        resume: `never` refuses a journal that is there, `require` one that is not.
        teachers: who answers for a teacher of the recipe instead of its own api; needed for
            those with `api: python`.

    Returns:
        One for each teacher and stage.

    Raises:
        RecipeError: nobody to ask, a budget without prices, or no function for a `python` teacher.
        TeachingError: a journal that may not be used, a missing key, a teacher who refuses all.
        WorkError: a teacher that cannot be reached, or a journal that cannot be written.
    """
    path = check(recipe, budget, resume)
    opened = {name: addresses(recipe, name, teachers or {}) for name in _asked(recipe)}
    with JournalWriter(path) as journal:
        journal_join.gather(journal, patience=PATIENCE)
        purse = Purse(budget, 0.0 if budget is None else paid(recipe, journal))
        try:
            return asyncio.run(_stages(recipe, abouts(recipe, limit), opened, journal, purse, show))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None  # by SIGTERM


def paid(recipe: Recipe, journal: Journal) -> float:
    """What all asking into a journal has cost, in US dollars. Where a server did not say what it
    read and wrote, and where nobody heard the end, a request's high estimate counts.
    """
    known = sum(spent.cost for spent in journal.spent().values())
    return known + math.fsum(
        Estimate(recipe.teachers[request.teacher]).before(request)[2].cost or 0.0
        for request in journal.perhaps_paid()
        if request.teacher in recipe.teachers
    )


async def _stages(
    recipe: Recipe, corpora: Sequence[About], opened: Mapping[str, Mapping[str, Teacher]],
    journal: JournalWriter, purse: Purse, show: Progress,
) -> list[Asked]:  # fmt: skip
    _end_gently()
    async with AsyncExitStack() as stack:
        for teachers in opened.values():
            for teacher in teachers.values():
                await stack.enter_async_context(teacher)
        voting = [ensemble.voters(recipe, about) for about in corpora]
        found = await _stage(
            "asking", _works(recipe, voting, opened), journal, purse, show
        )  # fmt: skip
        if any(one.account.stopped for one in found):
            return found
        then = [own for about in corpora for own in reasoning(recipe, about, journal)]
        return found + await _stage(
            "explaining", _works(recipe, then, opened), journal, purse, show
        )


def _end_gently() -> None:
    """SIGTERM, as batch systems send it, is one Ctrl-C: what is under way is waited for."""
    task = asyncio.current_task()
    assert task is not None
    if threading.current_thread() is threading.main_thread():
        with suppress(NotImplementedError):  # not on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _stage(
    title: str, works: Sequence[Work], journal: JournalWriter, purse: Purse, show: Progress
) -> list[Asked]:
    if not works:
        return []
    with show.work(title, sum(len(work.questions) for work in works)) as advance:
        accounts = await annotate(works, journal, purse=purse, board=Board(advance, show.say))
    return [
        came_of(work.name, work.spec, work.questions, journal, accounts[work.name])
        for work in works
    ]


def came_of(
    name: str, spec: TeacherSpec, questions: Questions, journal: Journal, account: Account
) -> Asked:
    """Where all that one teacher was asked stands now."""
    counts = settled(questions, journal, spec.reasks)
    outcomes = {"unasked" if found is None else str(found): n for found, n in counts.items()}
    return Asked(teacher=name, questions=len(questions), outcomes=outcomes, account=account)


def _works(
    recipe: Recipe, asked: Sequence[Mapping[str, Divisible]],
    opened: Mapping[str, Mapping[str, Teacher]],
) -> list[Work]:  # fmt: skip
    return [
        Work(name=name, spec=recipe.teachers[name], questions=questions, teachers=opened[name])
        for name, questions in by_teacher(asked).items()
    ]


def by_teacher(asked: Sequence[Mapping[str, Divisible]]) -> dict[str, Chained]:
    """Teacher -> all that it is asked."""
    found: dict[str, list[Divisible]] = defaultdict(list)
    for own in asked:
        for name, questions in own.items():
            found[name].append(questions)
    return {name: Chained(parts) for name, parts in found.items()}


def reasoning(recipe: Recipe, about: About, journal: Journal) -> Iterator[dict[str, Divisible]]:
    """What is asked once the votes are there, for each task; nothing about a task without any."""
    votes = ensemble.said(recipe, about, journal)
    for task in about.tasks:
        own = [vote for vote in votes if vote.task == task.name]
        if any(vote.outcome is Outcome.READ for vote in own):
            asked = ensemble.reasoners(recipe, about, task, own, 0)
            for name, parts in asked.items():
                yield {name: Chained([questions for _, questions in parts])}


def check(recipe: Recipe, budget: float | None = None, resume: Resume = "auto") -> Path:
    """The journal's path, where the recipe can be asked under these terms; `ask` says what not."""
    if not recipe.asks or recipe.journal is None:
        raise RecipeError(
            f"{recipe.name}: found no teacher that can be asked; expected one under `teachers:`, "
            "as {name: {model: …, url: http://127.0.0.1:8000/v1}}"
        )
    voting = [spec for spec in recipe.teachers.values()
              if not spec.asked or spec.prompts is None or set(spec.prompts) - {"justify"}]  # fmt: skip
    if not voting:
        raise RecipeError(
            f"{recipe.name}: none of {', '.join(recipe.teachers)} votes, so there is nothing to merge "
            "or to justify; give one of them prompts, or add `{api: recorded}`"
        )
    unpriced = [n for n, spec in recipe.teachers.items() if spec.remote and spec.price is None]
    if budget is not None and unpriced:
        raise RecipeError(
            f"--budget {budget}: found no price of {', '.join(unpriced)}; expected US dollars for a "
            "million tokens; set teachers.NAME.price: {input: …, output: …} (0 where it is free)"
        )
    path = Path(recipe.journal)
    if resume == "never" and path.exists():
        raise TeachingError(
            f"{path}: is there already, and --resume never wants a new journal; move it away, or "
            "go on with it by --resume auto"
        )
    if resume == "require" and not path.exists():
        raise TeachingError(
            f"{path}: not there, and --resume require wants to go on with it; correct `journal:`, "
            "or begin one by --resume auto"
        )
    return path


def _asked(recipe: Recipe) -> list[str]:
    return [name for name, spec in recipe.teachers.items() if spec.asked]


def abouts(recipe: Recipe, limit: int | None) -> list[About]:
    """What is asked about: the first `limit` examples of each corpus, or all of them."""
    found = [material.read(recipe, name)[1] for name in recipe.corpora]
    return [replace(about, examples=about.examples[:limit]) for about in found]


def addresses(recipe: Recipe, name: str, given: Mapping[str, Teacher]) -> dict[str, Teacher]:
    """Name of each address -> who answers there."""
    spec = recipe.teachers[name]
    if name in given:
        return {name: given[name]}
    if spec.api == "python":
        raise RecipeError(
            f"teachers.{name}: a function answers for it; hand it in from Python: "
            "whytune.asking.ask(recipe, show, teachers={name: Function(reply)})"
        )
    if spec.api == "local":
        from whytune.pipeline import require_torch

        require_torch()
        from whytune.student.local_teacher import LocalTeacher

        return {name: LocalTeacher(spec.model or name, batch_size=concurrency(spec))}
    return {url: _connection(spec, url) for url in spec.urls}


def _connection(spec: TeacherSpec, url: str) -> Connection:
    assert spec.api in ("openai", "anthropic")
    endpoint = Endpoint(url=url, api=spec.api, key=spec.key)
    return Connection(endpoint, timeout=spec.timeout)
