"""Many requests through few lanes: as fast as the endpoints permit, nothing lost, nothing twice.

Knows neither HTTP nor files: sending and recording are handed in. All times are those of the
running event loop (`loop.time`), so that a loop with a clock of its own decides what time is.
"""

import asyncio
import heapq
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Literal

from whytune.errors import TeachingError
from whytune.teaching.answers import Ended
from whytune.teaching.lane import Lane
from whytune.teaching.retries import FINAL, Letter, Policy, Retries
from whytune.teaching.sent import (
    Body,
    DeadLetter,
    Fate,
    Figures,
    LaneFigures,
    Request,
    Sent,
)
from whytune.teaching.source import Source

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


class Flow(Generic[Body]):
    """Sends the requests of one model through its lanes.

    Retries go among the first attempts as soon as they are due. Requests are taken from their
    iterator one at a time as lanes become free, so that memory does not grow with their number.

    Args:
        lanes: one or more endpoints of the same model, each with a name of its own; a request
            goes to the one with the most free places among those that may send now.
        send: sends one request through a lane and says how it ended. It raises nothing it can
            classify; what it raises ends the flow.
        intend: awaited before each send; once it returns, the intent is durable.
        record: awaited after each send; once it returns, the outcome is durable. Only then a
            request counts as done or dead.
        may_spend: asked before each send with the request's estimated cost, once a send, so that
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
        send: Callable[[Request[Body], Lane], Awaitable[Sent]],
        intend: Callable[[Request[Body], Lane], Awaitable[None]],
        record: Callable[[Request[Body], Lane, Sent, Fate], Awaitable[None]],
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
        requests: Iterable[Request[Body]] | AsyncIterable[Request[Body]],
        *,
        total: int | None = None,
        cached: int = 0,
    ) -> Result[Body]:
        """Sends all of them; once only for each flow.

        Cancelled, it stops sending, gives what is in flight `policy.grace` seconds (a second
        cancellation ends them), waits for all that is being recorded, and is then cancelled.

        Args:
            requests: what to send; a plain iterator must not block.
            total: requests in all, the cached ones included, where it is known.
            cached: how many were answered before.

        Raises:
            Exception: what `requests`, `send`, `intend` or `record` raised, once everything that
                was in flight is recorded.
        """
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._figures.total, self._figures.cached = total, cached
        source = Source(requests, self._notify)
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

    async def _pump(self, source: Source[Request[Body]]) -> Literal["all sent", "budget"]:
        """Sends until there is nothing left, the budget ends, or something fails."""
        fresh: Letter[Body] | None = None
        while self._failure is None:
            self._tell()
            if fresh is None and (request := source.take()) is not None:
                fresh = Letter(request)
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
            lane, at = self._choose(now, letter.request.tokens)
            if at > now:
                await self._pause(at)
                continue
            if not self._may_spend(letter.request.cost):
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
        lane.depart(now, letter.request.tokens)
        self._figures.sends += 1
        self._figures.retried += letter.attempts > 0
        self._retries.departs(letter)
        task = self._loop.create_task(self._one(letter, lane, now))
        self._tasks[task] = letter
        task.add_done_callback(self._finished)

    async def _one(self, letter: Letter[Body], lane: Lane, sent_at: float) -> None:
        """One send with its records."""
        estimated, used = letter.request.tokens, None
        try:
            letter.sending = True
            await self._intend(letter.request, lane)
            sent = await self._send(letter.request, lane)
            letter.sending = False
            if sent.ending is Ended.REPLIED and sent.tokens_in + sent.tokens_out > 0:
                used = float(sent.tokens_in + sent.tokens_out)
            self._learn(lane, sent, sent_at)
        finally:
            lane.back(estimated, used)
            self._notify()
        fate, wait = self._retries.judge(letter, sent)
        await self._record(letter.request, lane, sent, fate)
        self._figures.count(sent, fate)
        if fate is Fate.AGAIN:
            self._sequence += 1
            due = self._loop.time() + wait
            heapq.heappush(self._again, (due, self._sequence, letter))
        elif fate is Fate.DEAD and len(self._dead) < KEPT_DEAD:
            self._dead.append(
                DeadLetter(request=letter.request, sent=sent, attempts=letter.attempts)
            )

    def _learn(self, lane: Lane, sent: Sent, sent_at: float) -> None:
        """What an ending says about the lane."""
        now = self._loop.time()
        if sent.limits:
            lane.seed(now, sent.limits)
        if sent.ending is Ended.RATE_LIMITED:
            lane.limited(now, sent_at, sent.retry_after, self._retries.backoff)
        elif sent.ending in FINAL:
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
