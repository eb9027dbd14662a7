"""One endpoint and model: how many requests may be in flight, and when the next may leave.

A lane has three brakes. The window bounds what is in flight (AIMD: D.-M. Chiu and R. Jain,
Computer Networks and ISDN Systems 17, 1989). The buckets keep to limits that are known. The
pace is the rate of requests learned from refusals, where the endpoint does not say its limit.
"""

import math
from collections.abc import Callable

from whytune.errors import TeachingError
from whytune.teaching.limits import LONGEST_HOLD, Bucket, Limits
from whytune.teaching.pace import Meter, Pace

_FAILURES_IN_A_ROW = 8
"""So many without one answer between, and the endpoint is taken to be down."""


class Window:
    """How many requests may be in flight; changes with what comes back.

    Begins at `start` and doubles with every window of answers, at most once a second, until
    the first refusal. From then on it adds a twentieth of what it was at the last cut (at least
    1) with every window of answers, and is cut to 0.8 by a refusal, at most once in `cooldown`
    seconds. It grows only where it was full, and stays between 1 and `maximum`.
    """

    def __init__(self, start: int = 10, maximum: int = 256, cooldown: float = 5.0) -> None:
        self.maximum = maximum
        self.size = float(min(max(1, start), self.maximum))
        self._start = self.size
        self._cooldown = cooldown
        self._step = 0.0  # 0: doubling
        self._answers = 0
        self._filled = False
        self._changed = -math.inf
        self._cut = -math.inf

    def sent(self, in_flight: int) -> None:
        """A request left; with it so many are in flight."""
        self._filled = self._filled or in_flight >= int(self.size)

    def answered(self, now: float) -> None:
        """An answer came."""
        self._answers += 1
        if self._answers < self.size or (not self._step and now - self._changed < 1):
            return
        if self._filled:
            self.size = min(self.size + (self._step or self.size), self.maximum)
            self._changed = now
        self._answers, self._filled = 0, False

    def cut(self, now: float) -> None:
        """A refusal for sending too much."""
        if now - self._cut < self._cooldown:
            return
        self._cut = now
        self._step = max(1.0, self.size / 20)
        self.size = max(1.0, 0.8 * self.size)

    def restart(self) -> None:
        """The endpoint was down: begin with one request, and double again."""
        self.size, self._step, self._answers = 1.0, 0.0, 0


class Lane:
    """One endpoint and model.

    Args:
        name: for the figures.
        start: requests in flight at the beginning.
        maximum: requests in flight at most.
        requests_per_minute: a known limit; None: learned from refusals and headers.
        tokens_per_minute: a known limit, likewise; tokens are counted in and out.
        cooldown: seconds between two cuts of the window.

    Raises:
        TeachingError: a limit that lets nothing through.
    """

    def __init__(
        self,
        name: str,
        *,
        start: int = 10,
        maximum: int = 256,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        cooldown: float = 5.0,
    ) -> None:
        for limit in (maximum, requests_per_minute, tokens_per_minute):
            if limit is not None and not limit > 0:
                raise TeachingError(
                    f"teacher: endpoint {name}: found a limit of {limit}, expected one above 0; "
                    "leave it out where none is known"
                )
        self.name = name
        self.in_flight = 0
        self.sent = 0
        self.window = Window(start, maximum, cooldown)
        self.pace = Pace()
        self.meter: Meter | None = None
        self._requests = Bucket(requests_per_minute)
        self._tokens = Bucket(tokens_per_minute)
        self._tokens_on_way = 0.0
        self._not_before = -math.inf
        self._last_hold = -math.inf
        self._failures = 0
        self._refusals = 0
        self._round_trip = 0.0

    @property
    def free(self) -> int:
        """Requests that may still be put in flight."""
        return int(self.window.size) - self.in_flight

    def ready(self, now: float, tokens: float) -> float:
        """When a request of so many tokens may leave; infinite while the window is full."""
        if self.free <= 0:
            return math.inf
        return max(
            self._not_before,
            self.pace.ready(now),
            self._requests.ready(now, 1),
            self._tokens.ready(now, tokens),
        )

    def depart(self, now: float, tokens: float) -> None:
        """A request of an estimated number of tokens leaves."""
        self.in_flight += 1
        self.sent += 1
        self.window.sent(self.in_flight)
        # Twice as fast as answers make room: what may leave at once is spread, as it would
        # otherwise look like too high a rate to an endpoint, and come back in one heap for ever.
        self.pace.sent(now, self._round_trip / (2 * self.window.size))
        self._requests.take(1)
        self._tokens.take(tokens)
        self._tokens_on_way += tokens

    def back(self, estimated: float, used: float | None) -> None:
        """A request is no longer in flight; what it really used, where that is known."""
        self.in_flight -= 1
        self._tokens_on_way -= estimated
        if used is not None:
            self._tokens.take(used - estimated)

    def seed(self, now: float, limits: Limits) -> None:
        """Takes over the limits that an endpoint states, at the beginning or with any reply."""
        self._requests.seed(now, limits.requests_per_minute, limits.requests_left, self.in_flight)
        self._tokens.seed(now, limits.tokens_per_minute, limits.tokens_left, self._tokens_on_way)

    def answered(self, now: float, sent_at: float) -> None:
        """The endpoint answered: a reply, or a refusal of this one request."""
        last = now - sent_at
        self._round_trip += (last - self._round_trip) * (0.1 if self._round_trip else 1)
        self._failures = self._refusals = 0
        self.window.answered(now)
        self._accept(now)

    def failed(self, now: float, sent_at: float, backoff: Callable[[int], float]) -> None:
        """A server error, a timeout or a broken connection.

        Says nothing about rates, so that neither window nor pace changes; but after eight in a
        row the endpoint is taken to be down, and is tried with one request at a time.
        """
        self._failures += 1
        self._accept(now)
        if self._failures >= _FAILURES_IN_A_ROW and sent_at >= self._last_hold:
            self._hold(now, backoff(self._failures - _FAILURES_IN_A_ROW))
            self.window.restart()

    def limited(
        self, now: float, sent_at: float, wait: float | None, backoff: Callable[[int], float]
    ) -> None:
        """The endpoint refused for sending too much (429).

        Args:
            now: the clock, in seconds.
            sent_at: when the refused request left. Refusals of what left before the last cut
                are one event with it: they prolong the wait, and cut nothing.
            wait: seconds, as the endpoint said; None: `backoff` by the refusals in a row.
            backoff: number of refusals in a row (from 0) -> seconds.
        """
        again = sent_at <= self._last_hold
        if wait is None:
            wait = 0.0 if again else backoff(self._refusals)
        if again:
            self._not_before = max(self._not_before, now + wait)
            self.pace.hold(self._not_before)
            return
        self._refusals += 1
        self._hold(now, wait)
        self.window.cut(now)
        self.pace.refused(now, self._not_before, now - sent_at)

    def _hold(self, now: float, wait: float) -> None:
        self._last_hold = now
        self._not_before = max(self._not_before, now + min(wait, LONGEST_HOLD))

    def _accept(self, now: float) -> None:
        self.pace.accepted(now)
        if self.meter is None:
            self.meter = Meter(now)
        self.meter.count(now)
