"""Asks teachers: what a journal does not hold yet is sent, and what comes back is kept in it.

Every teacher has a flow of its own; all of them share the journal and the purse.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from whytune.errors import TeachingError, WorkError
from whytune.recipe_teachers import TeacherSpec
from whytune.records import Outcome
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.board import Board
from whytune.teaching.bridge import Bridge
from whytune.teaching.calls import Call, Fate, Figures
from whytune.teaching.estimates import Estimate
from whytune.teaching.flow import Flow
from whytune.teaching.journal import PERHAPS_PAID, Journal
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.lane import Lane
from whytune.teaching.purse import Purse
from whytune.teaching.questions import Questions
from whytune.teaching.requests import Request, Sent
from whytune.teaching.retries import Policy
from whytune.teaching.standing import Standing, standings
from whytune.teaching.teachers import Teacher

KEPT_UNREADABLE = 10_000
"""Questions that are remembered to be asked again."""
BEAT = 10.0
"""Seconds between two signs of life."""
PATIENCE = 12
"""Failures in a row, before anything was ever answered, after which a teacher is given up."""
_CONCURRENCY = {"local": 8}
_MOST = 256
"""Requests in flight at an address, where nothing is said."""
_SHOWN = 200
"""Characters of a reply that could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One teacher and all that it is asked."""

    name: str
    spec: TeacherSpec
    questions: Questions
    teachers: Mapping[str, Teacher]
    """Name of the address -> who answers there; all of them the same model."""


@dataclass(slots=True)
class Account:
    """What came of one teacher's work in this call."""

    sends: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """US dollars, of the sends whose cost is known."""
    unpriced: int = 0
    """Sends that may have cost something, nobody knows what."""
    unreadable: str = ""
    """The first reply that could not be read, its beginning."""
    cut: int = 0
    """Replies that ran into their limit of new tokens."""
    stopped: bool = False
    """By the budget."""
    given_up: list[str] = field(default_factory=list)
    """Why requests were given up: the first few."""


def concurrency(spec: TeacherSpec) -> int:
    """Requests in flight at each address, at most."""
    return spec.concurrency or _CONCURRENCY.get(spec.api, _MOST)


def settled(questions: Questions, journal: Journal, reasks: int) -> Counter[Outcome | None]:
    """How many questions stand how: outcome -> count; None: not asked yet."""
    return Counter(
        s.annotation.outcome if s.annotation is not None else None
        for s in standings(questions, journal, reasks=reasks)
    )


async def annotate(
    works: Sequence[Work], journal: JournalWriter, *, purse: Purse, board: Board,
    policy: Policy | None = None,
) -> dict[str, Account]:  # fmt: skip
    """Ask every teacher what it was not asked yet, all at the same time.

    Cancelled, it stops sending, waits for what is under way, and has everything in the journal.

    Args:
        works: one for each teacher.
        journal: what was asked before, and where everything goes.
        purse: stops the sending before it is empty.
        board: where it shows how far it is.
        policy: when to send again; `attempts` is each teacher's own.

    Returns:
        Teacher -> what came of it.

    Raises:
        TeachingError: a teacher's first requests were all refused as wrong.
        WorkError: a teacher could not be reached, or the journal not be written.
    """
    askings = [_Asking(work, journal, purse, board, policy or Policy()) for work in works]
    tasks = [asyncio.create_task(asking.run()) for asking in askings]
    heart = asyncio.create_task(_beat(board, askings))
    cancelled = False
    # One who cannot be reached does not stop the others.
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            cancelled = True
            board.say(
                "waiting for what is under way, a minute at most; interrupt again to leave it"
            )
            for task in tasks:
                task.cancel()
    heart.cancel()
    if cancelled:
        raise asyncio.CancelledError
    if failures := [error for task in tasks if (error := task.exception()) is not None]:
        raise failures[0]
    return {work.name: task.result() for work, task in zip(works, tasks, strict=True)}


async def _beat(board: Board, askings: Sequence["_Asking"]) -> None:
    """Says now and then that work goes on, and what holds it up."""
    while True:
        await asyncio.sleep(BEAT)
        board.beat([asking.figures for asking in askings if asking.figures is not None])


class _Asking:
    """One teacher's flow, pass by pass: after each, what could not be read is asked again."""

    def __init__(
        self, work: Work, journal: JournalWriter, purse: Purse, board: Board, policy: Policy
    ) -> None:
        spec = work.spec
        self._work, self._journal, self._purse, self._board = work, journal, purse, board
        self._policy = replace(policy, attempts=spec.attempts)
        self._estimate = Estimate(spec, journal.spent().get(work.name))
        self._account = Account()
        self._bridge = Bridge()
        self._heard = False
        self._failures = 0
        self._unreadable = 0
        self._again: list[Standing] = []
        self._first_pass = True
        self._flow: Flow[Standing, tuple[Sent, Call[Standing]]] | None = None
        local = spec.api == "local"
        # Some more than one batch, so that requests about one conversation find each other.
        most = concurrency(spec) * (3 if local else 1)
        self._lanes = [
            Lane(name, start=most if local else 10, maximum=most,
                 requests_per_minute=spec.requests_per_minute,
                 tokens_per_minute=spec.tokens_per_minute)
            for name in work.teachers
        ]  # fmt: skip

    @property
    def figures(self) -> Figures | None:
        """Of the pass that is under way."""
        return None if self._flow is None else self._flow.figures()

    async def run(self) -> Account:
        """Until everything is settled or given up, or the purse is empty."""
        for _ in range(self._work.spec.reasks + 1):
            self._flow = flow = Flow(
                self._lanes, send=self._send, intend=self._intend, record=self._record,
                may_spend=self._purse.reserve, policy=self._policy,
            )  # fmt: skip
            result = await flow.run(self._calls(self._standings()))
            self._account.stopped = result.ended == "budget"
            told = (f"{dead.answer.ended}: {dead.answer.error}" for dead in result.dead)
            self._account.given_up.extend(dict.fromkeys(told))
            self._first_pass = False
            if self._account.stopped or not self._unreadable:
                break
        return self._account

    def _standings(self) -> Iterator[Standing]:
        """What a pass looks at: all questions, or those that were just answered unreadably."""
        again, self._again = self._again, []
        known, self._unreadable = self._unreadable == len(again), 0
        if not self._first_pass and known:
            return iter(again)
        return standings(self._work.questions, self._journal, reasks=self._work.spec.reasks)

    def _calls(self, looked_at: Iterator[Standing]) -> Iterator[Call[Standing]]:
        """What is still to be asked, each request once, however many questions it answers."""
        waiting: dict[str, Standing] = {}

        def opened() -> Iterator[Request]:
            for standing in looked_at:
                if standing.open is not None:
                    waiting[standing.open.key] = standing
                    yield standing.open
                elif self._first_pass:
                    self._board.found()

        for request in self._journal.unanswered(opened(), most=self._work.spec.attempts):
            # Those before it are answered by another's request, or have failed too often.
            while (key := next(iter(waiting))) != request.key:
                del waiting[key]
            standing = waiting.pop(request.key)
            _, expected, high = self._estimate.before(request)
            yield Call(body=standing, tokens=expected.tokens_in + expected.tokens_out,
                       cost=high.cost or 0.0)  # fmt: skip

    async def _send(self, call: Call[Standing], lane: Lane) -> Answer:
        assert call.body.open is not None
        return await self._work.teachers[lane.name].ask(call.body.open)

    async def _intend(self, call: Call[Standing]) -> tuple[Sent, Call[Standing]]:
        assert call.body.open is not None
        return await self._bridge.wait(self._journal.begin(call.body.open)), call

    async def _record(
        self, intent: tuple[Sent, Call[Standing]], answer: Answer, fate: Fate, seconds: float
    ) -> None:
        sent, call = intent
        cost = self._estimate.after(answer)
        await self._bridge.wait(self._journal.end(sent, answer, seconds=seconds, cost=cost))
        # Nobody knows whether what was cut off had to be paid for.
        unknown = call.cost if answer.ended in PERHAPS_PAID else 0.0
        self._purse.settle(call.cost, unknown if cost is None else cost)
        self._account.sends += 1
        self._account.tokens_in += answer.tokens_in or 0
        self._account.tokens_out += answer.tokens_out or 0
        self._account.cost += cost or 0.0
        if self._work.spec.price is not None:
            self._account.unpriced += cost is None and answer.ended in PERHAPS_PAID
        self._account.cut += answer.cut
        self._board.given_up += fate is Fate.DEAD
        self._read(call.body, answer, fate)
        self._board.answered(answer, cost,
                             settles=self._first_pass and fate is not Fate.AGAIN)  # fmt: skip
        self._hear(answer)

    def _read(self, standing: Standing, answer: Answer, fate: Fate) -> None:
        """Look whether it is to be asked again."""
        if fate is not Fate.DONE:
            return
        if standing.question.read(answer).outcome is not Outcome.UNREADABLE:
            return
        self._board.unreadable += 1
        self._account.unreadable = self._account.unreadable or answer.text[:_SHOWN] or "(empty)"
        if len(standing.before) == self._work.spec.reasks:
            return
        self._unreadable += 1
        # Beyond these, they are found in the journal again, so that memory stays flat.
        if len(self._again) < KEPT_UNREADABLE:
            self._again.append(standing.followed(answer))

    def _hear(self, answer: Answer) -> None:
        """Give a teacher up from whom nothing but failures ever came."""
        if answer.ended in (Ended.REPLIED, Ended.REFUSED):
            self._heard = True
        self._failures += answer.ended is not Ended.RATE_LIMITED
        if self._heard or self._failures < PATIENCE:
            return
        place = f"teachers.{self._work.name} at {', '.join(self._work.teachers)}"
        told = f"{place}: {self._failures} requests failed and none was answered (the last: " \
               f"{answer.ended}, {answer.error or 'no word'})"  # fmt: skip
        if answer.ended is Ended.CLIENT_ERROR:
            raise TeachingError(f"{told}; expected replies; correct its model, key, parameters "
                                "or url, or set `structured: false`")  # fmt: skip
        raise WorkError(f"{told}; expected replies; see that the server is there, and run again")
