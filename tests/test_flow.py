"""Many requests through few lanes, on a clock that jumps, against a server made up here."""

import asyncio
import math
import random
import selectors
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from email.utils import formatdate
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whytune.errors import TeachingError
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.calls import Call, Fate, Figures
from whytune.teaching.flow import Flow
from whytune.teaching.lane import Lane, Window
from whytune.teaching.limits import LONGEST_HOLD, Bucket, Limits, read_limits, retry_after
from whytune.teaching.retries import Policy

T = TypeVar("T")


class Jumping(selectors.SelectSelector):
    """Where a loop would wait, its clock moves on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something that will never come"
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def virtual(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class Server:
    """Permits `rate` requests a second from a bucket of `burst`; the rest is refused with 429."""

    def __init__(
        self,
        rate: Callable[[float], float],
        *,
        burst: float,
        whole_seconds: bool,
        latency: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.rate, self.burst, self.whole = rate, burst, whole_seconds
        self.latency = latency
        self.random = random.Random(seed)
        self.level, self.at = burst, 0.0
        self.log: list[tuple[float, Ended]] = []
        self.by_body: Counter[int] = Counter()

    async def __call__(self, request: Call[int], lane: Lane) -> Answer:
        now = asyncio.get_running_loop().time()
        rate = self.rate(now)
        self.level, self.at = min(self.level + (now - self.at) * rate, self.burst), now
        self.by_body[request.body] += 1
        if self.level < 1:
            wait = (1 - self.level) / rate
            sent = Answer(
                ended=Ended.RATE_LIMITED,
                retry_after=str(max(1, math.ceil(wait)) if self.whole else wait),
            )
        else:
            self.level -= 1
            drawn = self.random.random()
            broken = Answer(ended=Ended.CONNECTION)
            text = "{" if drawn > 0.995 else '{"score": 3}'
            whole = Answer(ended=Ended.REPLIED, text=text, tokens_in=90, tokens_out=10)
            sent = broken if drawn < 0.01 else whole
        self.log.append((now, sent.ended))
        await asyncio.sleep(self.latency)
        return sent

    def figures(self, begin: float, end: float) -> tuple[float, float]:
        """Share of the permitted rate, and share of refusals, between two times."""
        endings = [ending for at, ending in self.log if begin <= at < end]
        refused = endings.count(Ended.RATE_LIMITED)
        steps = 1000
        permitted = sum(
            self.rate(begin + (end - begin) * (step + 0.5) / steps) for step in range(steps)
        )
        permitted *= (end - begin) / steps
        return (len(endings) - refused) / permitted, refused / len(endings)


async def nothing(*_: Any) -> int:
    return 0


class Book:
    """Records what a journal would, and when."""

    def __init__(self) -> None:
        self.intended: Counter[int] = Counter()
        self.recorded: list[tuple[int, Ended, Fate]] = []

    async def intend(self, call: Call[int]) -> int:
        self.intended[call.body] += 1
        return call.body

    async def record(self, body: int, answer: Answer, fate: Fate, seconds: float) -> None:
        await asyncio.sleep(0)
        self.recorded.append((body, answer.ended, fate))

    def of(self, fate: Fate) -> list[int]:
        return sorted(body for body, _, own in self.recorded if own is fate)


Sender = Callable[[Call[int], Lane], Awaitable[Answer]]


def flow_of(send: Sender, book: Book, *lanes: Lane, **rest: Any) -> Flow[int, int]:
    lanes = lanes or (Lane("a"),)
    return Flow(lanes, send=send, intend=book.intend, record=book.record, **rest)


def numbered(n: int) -> Iterator[Call[int]]:
    return (Call(body=i, tokens=100) for i in range(n))


def always(*endings: Ended, latency: float = 0.2) -> Sender:
    """Ends the sends of each request one after another like this, the last for good."""
    seen: Counter[int] = Counter()

    async def send(request: Call[int], lane: Lane) -> Answer:
        ending = endings[min(seen[request.body], len(endings) - 1)]
        seen[request.body] += 1
        await asyncio.sleep(latency)
        return Answer(ended=ending, tokens_in=3, tokens_out=2)

    return send


# The permitted rate


@pytest.mark.parametrize(
    ("rate", "burst", "whole_seconds", "n"),
    [
        (20, 20, True, 6000),
        (100, 50, True, 18000),
        (100, 100, False, 9000),
        (100, 1000, True, 12000),
        (300, 300, True, 18000),
        (300, 75, False, 12000),
    ],
)
def test_the_permitted_rate_is_found_and_kept(
    rate: float, burst: float, whole_seconds: bool, n: int
) -> None:
    server, book = Server(lambda _: rate, burst=burst, whole_seconds=whole_seconds), Book()
    result = virtual(flow_of(server, book).run(numbered(n), total=n))
    assert book.of(Fate.DONE) == list(range(n))
    assert result.figures.done == n
    assert result.figures.dead == 0
    share, refused = server.figures(0.3 * n / rate, 0.95 * n / rate)
    assert share >= 0.95
    assert refused <= 0.02
    assert result.figures.sends == len(server.log) <= 1.05 * n
    assert book.intended.total() == len(book.recorded) == len(server.log)


@pytest.mark.parametrize(("before", "after"), [(100, 50), (100, 180)])
def test_a_rate_that_changes_is_found_again(before: float, after: float) -> None:
    def rate(now: float) -> float:
        return before if now < 60 else after

    server, book = Server(rate, burst=50, whole_seconds=False), Book()
    n = int(60 * before + 120 * after)
    virtual(flow_of(server, book).run(numbered(n)))
    assert server.figures(30, 60)[0] >= 0.95
    share, refused = server.figures(90, 170)
    assert share >= 0.95
    assert refused <= 0.02
    assert server.figures(0, 170)[1] <= 0.02


@pytest.mark.parametrize("heard", [False, True])
def test_a_stated_limit_is_kept_without_any_refusal(heard: bool) -> None:
    server, book = Server(lambda _: 50, burst=60, whole_seconds=True), Book()

    async def send(request: Call[int], lane: Lane) -> Answer:
        left = server.level
        sent = await server(request, lane)
        return replace(
            sent,
            limits={
                "x-ratelimit-limit-requests": "3000",
                "x-ratelimit-remaining-requests": str(left - 1),
            },
        )

    lane = Lane("a", maximum=60, requests_per_minute=None if heard else 3000)
    virtual(flow_of(send if heard else server, book, lane).run(numbered(3000)))
    share, refused = server.figures(2, 55)
    assert refused == 0
    assert share >= 0.98


def test_a_limit_of_tokens_is_kept() -> None:
    server, book = Server(lambda _: 1000, burst=1000, whole_seconds=True), Book()
    lane = Lane("a", tokens_per_minute=60 * 2000)
    requests = (Call(body=i, tokens=400) for i in range(1000))
    virtual(flow_of(server, book, lane).run(requests))
    # 100 tokens each, whatever was estimated, and 2,000 a second: 20 requests a second, a little
    # less as broken ones count as estimated.
    assert len([at for at, _ in server.log if 10 <= at < 40]) == pytest.approx(600, rel=0.1)


def test_two_endpoints_share_the_work_as_they_can() -> None:
    book = Book()
    servers = {
        name: Server(lambda _, r=rate: r, burst=rate, whole_seconds=False)  # type: ignore[misc]
        for name, rate in (("a", 50), ("b", 50), ("c", 150))
    }

    async def send(request: Call[int], lane: Lane) -> Answer:
        return await servers[lane.name](request, lane)

    virtual(flow_of(send, book, *map(Lane, servers)).run(numbered(12500)))
    assert book.of(Fate.DONE) == list(range(12500))
    for server in servers.values():
        assert server.figures(20, 48)[0] >= 0.95
    assert len(servers["a"].log) == pytest.approx(len(servers["b"].log), rel=0.05)


# What becomes of a request


def test_endings_are_counted_apart_and_nothing_is_raised() -> None:
    kinds = [*Ended]

    async def send(request: Call[int], lane: Lane) -> Answer:
        return Answer(ended=kinds[request.body % len(kinds)], text="as it came", retry_after=None)

    book, policy = Book(), Policy(attempts=3, refusals=4, retry_allowance=1000)
    result = virtual(flow_of(send, book, policy=policy).run(numbered(len(kinds) * 3)))
    figures = result.figures
    assert (figures.done, figures.refused, figures.dead) == (6, 3, 15)
    assert (figures.server_errors, figures.timeouts, figures.connections) == (9, 9, 9)
    assert figures.rate_limited == 12
    assert figures.retried == 18
    assert figures.sends == 6 + 3 + 27 + 12
    by_ending = {letter.answer.ended: letter for letter in result.dead}
    assert {ending: letter.attempts for ending, letter in by_ending.items()} == {
        Ended.CLIENT_ERROR: 1, Ended.RATE_LIMITED: 0, Ended.SERVER_ERROR: 3,
        Ended.TIMEOUT: 3, Ended.CONNECTION: 3,
    }  # fmt: skip
    assert by_ending[Ended.TIMEOUT].answer.text == "as it came"


@settings(max_examples=40)
@given(st.lists(st.lists(st.sampled_from(list(Ended)), min_size=1, max_size=6), max_size=60))
def test_every_request_ends_once_and_sends_are_bounded(plans: list[list[Ended]]) -> None:
    """A brute-force oracle: each request follows its own plan, whatever the order of sends."""
    seen: Counter[int] = Counter()

    async def send(request: Call[int], lane: Lane) -> Answer:
        plan = plans[request.body]
        seen[request.body] += 1
        await asyncio.sleep(0.1)
        return Answer(ended=plan[min(seen[request.body], len(plan)) - 1])

    policy = Policy(attempts=3, refusals=5, retry_allowance=10**6)
    book = Book()
    virtual(flow_of(send, book, policy=policy).run(numbered(len(plans))))
    for body, plan in enumerate(plans):
        attempts = refusals = sends = 0
        fate = Fate.AGAIN
        while fate is Fate.AGAIN:
            ending = plan[min(sends, len(plan) - 1)]
            sends += 1
            if ending is Ended.RATE_LIMITED:
                refusals += 1
                fate = Fate.DEAD if refusals == 5 else Fate.AGAIN
            elif ending in (Ended.REPLIED, Ended.REFUSED):
                fate = Fate.DONE
            else:
                attempts += 1
                dead = attempts == 3 or ending is Ended.CLIENT_ERROR
                fate = Fate.DEAD if dead else Fate.AGAIN
        own = [fate for found, _, fate in book.recorded if found == body]
        assert own == [Fate.AGAIN] * (sends - 1) + [fate]
        assert book.intended[body] == sends


def test_retries_stay_in_their_budget() -> None:
    policy = Policy(retry_share=0.1, retry_allowance=5, backoff=0.01)
    lane = Lane("a")
    book = Book()

    async def send(request: Call[int], lane: Lane) -> Answer:
        await asyncio.sleep(0.01)
        failed = request.body % 2
        return Answer(ended=Ended.SERVER_ERROR if failed else Ended.REPLIED)

    result = virtual(flow_of(send, book, lane, policy=policy).run(numbered(2000)))
    assert result.figures.retried <= 205
    assert result.figures.done == 1000
    assert result.figures.dead == 1000


def test_retries_go_among_first_attempts() -> None:
    order: list[int] = []
    failing = always(Ended.TIMEOUT, Ended.REPLIED)

    async def send(request: Call[int], lane: Lane) -> Answer:
        order.append(request.body)
        if request.body % 50 == 0:
            return await failing(request, lane)
        await asyncio.sleep(0.2)
        return Answer(ended=Ended.REPLIED)

    virtual(flow_of(send, Book(), Lane("a", maximum=10)).run(numbered(2000)))
    for body in range(0, 1900, 50):
        first = order.index(body)
        # Half a second at 50 requests a second, and what left meanwhile.
        assert 0 < order.index(body, first + 1) - first < 60


def test_an_endpoint_that_is_down_does_not_eat_the_requests() -> None:
    async def send(request: Call[int], lane: Lane) -> Answer:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        return Answer(ended=Ended.CONNECTION if 10 <= now < 300 else Ended.REPLIED)

    book = Book()
    lane = Lane("a", requests_per_minute=6000)
    result = virtual(flow_of(send, book, lane).run(numbered(10_000)))
    assert result.figures.done >= 9980
    assert result.figures.connections < 100


# Budget, cancelling, failing


def test_the_budget_ends_the_sending_and_nothing_else() -> None:
    spent = 0.0

    def may_spend(cost: float) -> bool:
        nonlocal spent
        if spent + cost > 1:
            return False
        spent += cost
        return True

    book = Book()
    flow = flow_of(always(Ended.REPLIED), book, may_spend=may_spend)
    result = virtual(flow.run(Call(body=i, cost=1 / 64) for i in range(1000)))
    assert result.ended == "budget"
    assert book.of(Fate.DONE) == list(range(64))


@pytest.mark.parametrize("grace", [60.0, 0.05])
def test_cancelling_gives_what_is_in_flight_its_grace(grace: float) -> None:
    book = Book()
    flow = flow_of(
        always(Ended.REPLIED, latency=1), book, Lane("a", maximum=10), policy=Policy(grace=grace)
    )

    async def cancelled() -> tuple[int, Figures]:
        task = asyncio.ensure_future(flow.run(numbered(1000)))
        await asyncio.sleep(2.7)
        sent = book.intended.total()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sent, flow.figures()

    sent, figures = virtual(cancelled())
    assert book.intended.total() == sent > 20
    assert figures.in_flight == 0
    assert figures.done == len(book.recorded)
    assert 0 <= sent - figures.done <= (0 if grace > 1 else 10)
    assert (figures.done == sent) == (grace > 1)


def test_what_was_received_is_recorded_even_beyond_the_grace() -> None:
    written: list[int] = []

    async def intend(call: Call[int]) -> int:
        return call.body

    async def slowly(body: int, *_: Any) -> None:
        await asyncio.sleep(5)
        written.append(body)

    flow: Flow[int, int] = Flow(
        [Lane("a", maximum=10)], send=always(Ended.REPLIED), intend=intend, record=slowly,
        policy=Policy(grace=0.05),
    )  # fmt: skip

    async def cancelled() -> None:
        task = asyncio.ensure_future(flow.run(numbered(10)))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual(cancelled())
    assert sorted(written) == list(range(10))


@pytest.mark.parametrize("place", ["intend", "send", "record", "requests"])
def test_a_fault_of_our_own_ends_the_flow_once_the_rest_is_recorded(place: str) -> None:
    book = Book()

    def broken(here: str, body: int) -> None:
        if here == place and body == 25:
            raise OSError(f"no space left: {place}")

    async def intend(call: Call[int]) -> int:
        broken("intend", await book.intend(call))
        return call.body

    async def record(body: int, *rest: Any) -> None:
        broken("record", body)
        await book.record(body, *rest)

    replying = always(Ended.REPLIED)

    async def send(request: Call[int], lane: Lane) -> Answer:
        broken("send", request.body)
        return await replying(request, lane)

    def requests() -> Iterator[Call[int]]:
        for request in numbered(1000):
            broken("requests", request.body)
            yield request

    flow: Flow[int, int] = Flow([Lane("a")], send=send, intend=intend, record=record)
    with pytest.raises(OSError, match=f"no space left: {place}"):
        virtual(flow.run(requests()))
    lost = set(book.intended) - set(book.of(Fate.DONE))
    assert lost <= {25}
    assert len(book.intended) < 60


@pytest.mark.parametrize("limit", ["maximum", "requests_per_minute", "tokens_per_minute"])
def test_a_limit_that_lets_nothing_through_is_refused(limit: str) -> None:
    with pytest.raises(TeachingError, match="endpoint a: found a limit of 0, expected one above 0"):
        Lane("a", **{limit: 0})


def test_lanes_need_names_of_their_own() -> None:
    with pytest.raises(
        TeachingError, match="found endpoints a, a, expected one or more, each once"
    ):
        flow_of(always(Ended.REPLIED), Book(), Lane("a"), Lane("a"))


# Requests, figures


def test_requests_are_taken_only_as_lanes_become_free() -> None:
    taken = ended = most = 0

    async def requests() -> AsyncIterator[Call[int]]:
        nonlocal taken
        for request in numbered(3000):
            taken += 1
            yield request

    async def record(*_: Any) -> None:
        nonlocal ended, most
        most = max(most, taken - ended)
        ended += 1

    flow: Flow[int, int] = Flow(
        [Lane("a", maximum=50)], send=always(Ended.REPLIED), intend=nothing, record=record
    )
    result = virtual(flow.run(requests()))
    assert result.figures.done == 3000
    assert most <= 50 + 20


def test_replies_do_not_pile_up_where_recording_is_slow() -> None:
    recording = most = 0

    async def record(*_: Any) -> None:
        nonlocal recording, most
        recording += 1
        most = max(most, recording)
        await asyncio.sleep(10)
        recording -= 1

    flow: Flow[int, int] = Flow(
        [Lane("a", maximum=20)], send=always(Ended.REPLIED), intend=nothing, record=record
    )
    assert virtual(flow.run(numbered(500))).figures.done == 500
    assert 20 < most <= 40


def test_the_figures_say_where_it_stands() -> None:
    shown: list[tuple[float, Figures]] = []

    def show(figures: Figures) -> None:
        shown.append((asyncio.get_running_loop().time(), figures))

    lane = Lane("a", requests_per_minute=1200)
    flow = flow_of(always(Ended.REPLIED), Book(), lane, show=show)
    virtual(flow.run(numbered(1000), total=1500, cached=500))
    assert len(shown) <= 4 * 50 + 2
    at, middle = next((at, figures) for at, figures in shown if at >= 25)
    assert (middle.total, middle.cached) == (1500, 500)
    assert middle.eta == pytest.approx(1000 / 20 - at, rel=0.1)
    assert middle.lanes["a"].rate == pytest.approx(20, rel=0.1)
    assert 0 < middle.in_flight <= middle.lanes["a"].concurrency
    assert (middle.tokens_in, middle.tokens_out) == (3 * middle.done, 2 * middle.done)
    last = shown[-1][1]
    assert (last.done, last.in_flight, last.waiting, last.eta) == (1000, 0, 0, 0)


# Limits


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("1e9", None),
        ("٣", None),
        ("0", 0),
        ("7", 7),
        (" 1.5 ", 1.5),
        ("99999999", LONGEST_HOLD),
        (formatdate(1_000_030, usegmt=True), 30),
        (formatdate(999_000, usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_HOLD),
        ("Fri, 99 Dec 2024 23:59:59 GMT", None),
    ],
)
def test_retry_after_is_read_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=1_000_000) == seconds


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, None),
        ({"x-ratelimit-limit-requests": "many"}, None),
        ({"x-ratelimit-limit-requests": "5000", "x-ratelimit-remaining-requests": "4999",
          "x-ratelimit-limit-tokens": "160000", "x-ratelimit-remaining-tokens": "0"},
         Limits(requests_per_minute=5000, requests_left=4999, tokens_per_minute=160000,
                tokens_left=0)),
    ],
)  # fmt: skip
def test_limits_are_read_from_headers(headers: Mapping[str, str], limits: Limits | None) -> None:
    assert read_limits(headers) == limits


@given(st.floats(1, 6000), st.lists(st.floats(0.1, 500), min_size=1, max_size=50))
def test_a_bucket_never_lets_through_more_than_flowed_in(
    per_minute: float, amounts: list[float]
) -> None:
    bucket, now, taken = Bucket(per_minute), 0.0, 0.0
    capacity = max(1.0, per_minute / 60)
    for amount in amounts:
        while (at := bucket.ready(now, amount)) > now:
            now = at
        assert taken + min(amount, capacity) <= capacity + now * per_minute / 60 + 1e-6
        bucket.take(amount)
        taken += amount


def test_a_bucket_takes_over_what_the_endpoint_says() -> None:
    bucket = Bucket()
    assert bucket.ready(0, 1e9) == 0
    bucket.seed(0, 600, 4, 1)
    for _ in range(3):
        assert bucket.ready(0, 1) == 0
        bucket.take(1)
    assert bucket.ready(0, 1) == pytest.approx(0.1)


def test_a_window_doubles_then_adds_and_is_cut_once_a_cooldown() -> None:
    window, now = Window(start=10, maximum=50, cooldown=5), 0.0

    def answers(count: int) -> None:
        for _ in range(count):
            window.sent(int(window.size))
            window.answered(now)

    sizes = []
    for _ in range(4):
        now += 1
        answers(int(window.size))
        sizes.append(window.size)
    assert sizes == [20, 40, 50, 50]
    window.cut(now)
    window.cut(now + 4)
    assert window.size == 40
    answers(40)
    assert window.size == 42.5
    for cut in range(100):
        window.cut(now + 5 * (cut + 1))
    assert window.size == 1


def test_a_wait_is_obeyed_to_the_letter() -> None:
    times: list[float] = []

    async def send(request: Call[int], lane: Lane) -> Answer:
        times.append(asyncio.get_running_loop().time())
        if request.body == 12 and len(times) < 15:
            return Answer(ended=Ended.RATE_LIMITED, retry_after="37")
        await asyncio.sleep(0.1)
        return Answer(ended=Ended.REPLIED)

    virtual(flow_of(send, Book(), Lane("a", start=1)).run(numbered(40)))
    refused = times[12]
    assert not [at for at in times if refused < at < refused + 37]


def test_the_machinery_itself_is_quick() -> None:
    async def send(request: Call[int], lane: Lane) -> Answer:
        await asyncio.sleep(0)
        return Answer(ended=Ended.REPLIED)

    async def kept(*_: Any) -> None:
        pass

    flow: Flow[int, int] = Flow([Lane("a")], send=send, intend=nothing, record=kept)
    begin = time.process_time()
    asyncio.run(flow.run(numbered(5000)))
    # A quarter of what a quiet machine does.
    assert 5000 / (time.process_time() - begin) > 1000
