"""What teachers are asked, cut into shards: each with a journal of its own, so that one process can
go on where another was killed.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from whytune import asking
from whytune.recipe import Recipe
from whytune.recipe_teachers import TeacherSpec
from whytune.records import Example
from whytune.teaching import journal_join
from whytune.teaching.annotate import Work, annotate
from whytune.teaching.board import Board
from whytune.teaching.fence import fenced
from whytune.teaching.journal import Journal
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.purse import Purse
from whytune.teaching.questions import Divisible, Question, Questions
from whytune.teaching.requests import Request
from whytune.teaching.standing import standings
from whytune.teaching.teachers import Teacher

SHARDS = 4
"""For each actor: enough that none waits long for the last one, few enough that each is long."""
SMALLEST = 8
"""Examples in a shard, about, where there are too few for so many shards."""


class Open:
    """Those of some questions that are not settled.

    Args:
        questions: all of them.
        keys: of the requests that ask the open ones first; one request can ask several.
        count: how many are open.
    """

    def __init__(self, questions: Questions, keys: frozenset[str], count: int) -> None:
        self._questions, self._keys, self._count = questions, keys, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Question]:
        return (question for question in self._questions if question.request.key in self._keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one process is to ask at a time."""

    journal: Path
    """Its own; it is there, and holds what is known of its requests."""
    questions: Mapping[str, Questions]
    """Teacher -> what it is asked; all of it is open."""
    budget: float | None
    """US dollars that all in its journal may cost; None: whatever it takes."""


def count(examples: int, actors: int) -> int:
    """How many shards for so many examples."""
    return max(1, min(SHARDS * actors, examples // SMALLEST))


def cut(
    asked: Mapping[str, Divisible], recipe: Recipe, journal: JournalWriter, *, parts: int,
    budget: float | None,
) -> list[Shard]:  # fmt: skip
    """Share out what is still open, and make the journals of the shards.

    Args:
        asked: teacher -> what it is asked.
        recipe: says how.
        journal: what was asked before.
        parts: how many shards at most; those without an open question are left out.
        budget: US dollars that the journal may cost in all. What is left is shared out by the
            number of open questions, so that the shards together cannot pass it.
    """
    pieces: dict[int, dict[str, Open]] = defaultdict(dict)
    keys: dict[int, set[str]] = defaultdict(set)
    for name, questions in asked.items():
        for number, own in questions.split(partial(_part, parts)).items():
            found, known = _open(own, recipe.teachers[name], journal)
            if len(found):
                pieces[number][name] = found
                keys[number] |= known
    sizes = {n: sum(len(questions) for questions in own.values()) for n, own in pieces.items()}
    left = None if budget is None else max(0.0, budget - asking.paid(recipe, journal))
    shards = []
    for number, piece in sorted(pieces.items()):
        path = journal_join.shards(journal.path) / f"{number:04}.journal"
        with JournalWriter(path) as made:
            journal_join.join(journal.path, made, keys[number])
            share = None if left is None else left * sizes[number] / sum(sizes.values())
            limit = None if share is None else asking.paid(recipe, made) + share
        shards.append(Shard(journal=path, questions=piece, budget=limit))
    return shards


def _part(parts: int, example: Example) -> int:
    # Not by the id: examples with one text may share a request, and so must share a journal.
    digest = hashlib.sha256(fenced(example).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) % parts


def _open(questions: Questions, spec: TeacherSpec, journal: Journal) -> tuple[Open, set[str]]:
    """What is open, and the keys of all requests that its state in the journal rests on."""
    asking_first: dict[str, list[str]] = defaultdict(list)
    known: set[str] = set()

    def opened() -> Iterator[Request]:
        for standing in standings(questions, journal, reasks=spec.reasks):
            if standing.open is not None:
                asking_first[standing.open.key].append(standing.question.request.key)
                known.update(standing.before)
                yield standing.open

    wanted = [request.key for request in journal.unanswered(opened(), most=spec.attempts)]
    first = [key for request in wanted for key in asking_first[request]]
    return Open(questions, frozenset(first), len(first)), known.union(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of a shard that is not in its journal."""

    stopped: list[str]
    """Teachers whom the budget stopped."""
    given_up: dict[str, list[str]]
    """Teacher -> why requests were given up."""


class Asker:
    """Asks one shard after the other; teachers stay open from one to the next.

    They are closed by the end of the process.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._opened: dict[str, dict[str, Teacher]] = {}
        self._runner = asyncio.Runner()

    def ask(self, shard: Shard) -> Told:
        """Until all is settled or given up, or the budget is used up.

        Raises:
            RecipeError, TeachingError, WorkError: as `asking.ask`.
        """
        return self._runner.run(self._ask(shard))

    async def _ask(self, shard: Shard) -> Told:
        works = [
            Work(name=name, spec=self._recipe.teachers[name], questions=questions,
                 teachers=await self._teachers(name))
            for name, questions in shard.questions.items()
        ]  # fmt: skip
        Journal(shard.journal)  # one that is gone was joined, and must not be begun anew
        writing = journal_join.patiently(lambda: JournalWriter(shard.journal), asking.PATIENCE)
        with writing as journal:
            spent = 0.0 if shard.budget is None else asking.paid(self._recipe, journal)
            purse = Purse(shard.budget, spent)
            accounts = await annotate(works, journal, purse=purse, board=Board(_quiet))
        return Told(stopped=[name for name, account in accounts.items() if account.stopped],
                    given_up={name: account.given_up for name, account in accounts.items()})  # fmt: skip

    async def _teachers(self, name: str) -> dict[str, Teacher]:
        if name not in self._opened:
            found = asking.addresses(self._recipe, name, {})
            for teacher in found.values():
                await teacher.__aenter__()
            self._opened[name] = found
        return self._opened[name]


def _quiet(count: int = 1, note: str = "") -> None:
    """Show nothing."""
