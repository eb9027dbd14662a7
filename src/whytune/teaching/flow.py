"""Many calls through few lanes: as fast as the endpoints permit, nothing lost, nothing twice.

Knows neither HTTP nor files: sending and recording are handed in. All times are those of the
running event loop (`loop.time`), so that a loop with a clock of its own decides what time is.
"""

import asyncio
import heapq
import math
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from whytune.errors import TeachingError
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.calls import Body, Call, DeadLetter, Fate, Figures, LaneFigures
from whytune.teaching.lane import Lane
from whytune.teaching.limits import read_limits, retry_after
from whytune.teaching.retries import FINAL, Letter, Policy, Retries
from whytune.teaching.source import Source

Intent = TypeVar("Intent")
"""What a record of the intent to send is known by."""

KEPT_DEAD = 1000
"""Dead letters kept in the result; all are counted, and all are recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[Body]):
    """How a flow ended."""

    figures: Figures
    ended: Literal["all sent", "budget"]
    """`budget`: `may_spend` said no; what was then waiting or not yet asked for is not done."""
    dead: tuple[DeadLetter[Body], ...]
    """The first KEPT_DEAD ones."""


class Flow(Generic[Body, Intent]):
    """Sends the calls to one model through its lanes.

    Retries go among the first attempts as soon as they are due. Calls are taken from their
    iterator one at a time as lanes become free, so that memory does not grow with their number.

    Args:
        lanes: one or more endpoints of the same model, each with a name of its own; a call
            goes to the one with the most free places among those that may send now.
        send: sends one call through a lane and says how it ended. It raises nothing it can
            classify; what it raises ends the flow.
        intend: awaited before each send; once it returns, the intent is durable.
        record: awaited after each send with what `intend` returned, the answer, what becomes of
            the call, and the seconds that it took; once it returns, the outcome is durable. Only
            then a call counts as done or dead.
        may_spend: asked before each send with the call's estimated cost, once a send, so that
            it can reserve it; False stops the sending.
        policy: when to send again.
        show: called with the live figures, at most `policy.figures_per_second` times a second.

    Raises:
        TeachingError: no lane, or two of one name.
    """

    def __init__(
        self,
        lanes: Iterable[Lane],
        *,
        send: Callable[[Call[Body], Lane], Awaitable[Answer]],
        intend: Callable[[Call[Body]], Awaitable[Intent]],
        record: Callable[[Intent, Answer, Fate, float], Awaitable[None]],
        may_spend: Callable[[float], bool] = lambda cost: True,
        policy: Policy | None = None,
        show: Callable[[Figures], None] | None = None,
    ) -> None:
        self.lanes = tuple(lanes)
        names = [lane.name for lane in self.lanes]
        if not names or len(set(names)) < len(names):
            raise TeachingError(
                f"teacher: found endpoints {', '.join(names) or 'none'}, expected one or more, "
                "each once; name every endpoint of the model once"
            )
        self._send, self._intend, self._record = send, intend, record
        self._may_spend, self._show = may_spend, show
        self._policy = policy or Policy()
        self._retries = Retries(self._policy)
        self._figures = Figures()
        self._again: list[tuple[float, int, Letter[Body]]] = []
        self._dead: list[DeadLetter[Body]] = []
        self._tasks: dict[asyncio.Task[None], Letter[Body]] = {}
        self._failure: BaseException | None = None
        # Where recording is slower than sending, replies to be recorded must not pile up.
        self._most = 2 * sum(lane.window.maximum for lane in self.lanes)
        self._leaving = False
        self._sequence = 0
        self._shown_at = -math.inf

    async def run(
        self,
        calls: Iterable[Call[Body]] | AsyncIterable[Call[Body]],
        *,
        total: int | None = None,
        cached: int = 0,
    ) -> Result[Body]:
        """Sends all of them; once only for each flow.

        Cancelled, it stops sending, gives what is in flight `policy.grace` seconds (a second
        cancellation ends them), waits for all that is being recorded, and is then cancelled.

        Args:
            calls: what to send; a plain iterator must not block.
            total: calls in all, the cached ones included, where it is known.
            cached: how many were answered before.

        Raises:
            Exception: what `calls`, `send`, `intend` or `record` raised, once everything that
                was in flight is recorded.
        """
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._figures.total, self._figures.cached = total, cached
        source = Source(calls, self._notify)
        try:
            ended = await self._pump(source)
            if self._tasks:
                await asyncio.wait(self._tasks)
        except BaseException:
            await self._leave()
            raise
        finally:
            await source.close()
            if self._show:
                self._show(self.figures())
        if self._failure:
            raise self._failure
        return Result(figures=self.figures(), ended=ended, dead=tuple(self._dead))

    def figures(self) -> Figures:
        """Where the flow stands now."""
        now, own = self._loop.time(), self._figures
        lanes = {
            lane.name: LaneFigures(
                in_flight=lane.in_flight,
                concurrency=int(lane.window.size),
                rate=lane.meter.rate(now) if lane.meter else 0.0,
                sent=lane.sent,
            )
            for lane in self.lanes
        }
        rate = sum(lane.rate for lane in lanes.values())
        eta = None
        if own.total is not None and rate > 0:
            eta = max(own.total - own.cached - own.done - own.dead, 0) / rate
        return replace(
            own, in_flight=len(self._tasks), waiting=len(self._again), eta=eta, lanes=lanes
        )

    async def _pump(self, source: Source[Call[Body]]) -> Literal["all sent", "budget"]:
        """Sends until there is nothing left, the budget ends, or something fails."""
        fresh: Letter[Body] | None = None
        while self._failure is None:
            self._tell()
            if fresh is None and (call := source.take()) is not None:
                fresh = Letter(call)
            if len(self._tasks) >= self._most:
                await self._pause(math.inf)
                continue
            now = self._loop.time()
            due = bool(self._again) and self._again[0][0] <= now
            letter = self._again[0][2] if due else fresh
            if letter is None:
                if not (self._again or self._tasks) and source.ended:
                    break
                await self._pause(self._again[0][0] if self._again else math.inf)
                continue
            lane, at = self._choose(now, letter.call.tokens)
            if at > now:
                await self._pause(at)
                continue
            if not self._may_spend(letter.call.cost):
                return "budget"
            if due:
                heapq.heappop(self._again)
            else:
                fresh = None
            self._dispatch(letter, lane, now)
        return "all sent"

    def _choose(self, now: float, tokens: float) -> tuple[Lane, float]:
        """The lane that may send first, and when; of several, the one with most free places."""
        _, _, _, index, at = min(
            (at := max(lane.ready(now, tokens), now), -lane.free, lane.sent, index, at)
            for index, lane in enumerate(self.lanes)
        )
        return self.lanes[index], at

    def _dispatch(self, letter: Letter[Body], lane: Lane, now: float) -> None:
        lane.depart(now, letter.call.tokens)
        self._figures.sends += 1
        self._figures.retried += letter.attempts > 0
        self._retries.departs(letter)
        task = self._loop.create_task(self._one(letter, lane, now))
        self._tasks[task] = letter
        task.add_done_callback(self._finished)

    async def _one(self, letter: Letter[Body], lane: Lane, sent_at: float) -> None:
        """One send with its records."""
        estimated, used = letter.call.tokens, None
        try:
            letter.sending = True
            intent = await self._intend(letter.call)
            left = self._loop.time()
            answer = await self._send(letter.call, lane)
            seconds = self._loop.time() - left
            letter.sending = False
            if answer.ended is Ended.REPLIED:
                used = float((answer.tokens_in or 0) + (answer.tokens_out or 0)) or None
            wait = retry_after(answer.retry_after, time.time())
            self._learn(lane, answer, wait, sent_at)
        finally:
            lane.back(estimated, used)
            self._notify()
        fate, wait = self._retries.judge(letter, answer, wait)
        await self._record(intent, answer, fate, seconds)
        self._figures.count(answer, fate)
        if fate is Fate.AGAIN:
            self._sequence += 1
            due = self._loop.time() + wait
            heapq.heappush(self._again, (due, self._sequence, letter))
        elif fate is Fate.DEAD and len(self._dead) < KEPT_DEAD:
            self._dead.append(DeadLetter(call=letter.call, answer=answer, attempts=letter.attempts))

    def _learn(self, lane: Lane, answer: Answer, wait: float | None, sent_at: float) -> None:
        """What an answer says about the lane."""
        now = self._loop.time()
        if limits := read_limits(answer.limits):
            lane.seed(now, limits)
        if answer.ended is Ended.RATE_LIMITED:
            lane.limited(now, sent_at, wait, self._retries.backoff)
        elif answer.ended in FINAL:
            lane.answered(now, sent_at)
        else:
            lane.failed(now, sent_at, self._retries.backoff)

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if task.cancelled():
            if not self._leaving:
                self._failure = asyncio.CancelledError("a send was cancelled from outside")
        elif (error := task.exception()) and self._failure is None:
            self._failure = error
        self._notify()

    def _notify(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    async def _pause(self, until: float) -> None:
        """Until the time, or until something came back."""
        timer = self._loop.call_at(until, self._notify) if until < math.inf else None
        try:
            await self._wake
        finally:
            if timer:
                timer.cancel()
            self._wake = self._loop.create_future()

    def _tell(self) -> None:
        now = self._loop.time()
        if self._show and now - self._shown_at >= 1 / self._policy.figures_per_second:
            self._shown_at = now
            self._show(self.figures())

    async def _leave(self) -> None:
        """Gives what is being sent the grace, and what is being recorded the time it takes."""
        self._leaving = True
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._policy.grace)
        finally:
            for task, letter in self._tasks.items():
                if letter.sending:
                    task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
