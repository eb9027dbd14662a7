"""The rate an endpoint permits, learned from its refusals, and the rate that is reached."""

import math


class Pace:
    """The rate of requests an endpoint permits, learned from when it refuses.

    Between two moments at which a token bucket is empty, it let through what flowed into it. So
    what was accepted between two refusals, divided by the time between them, is the permitted
    rate, whatever the bucket's size. Waits that the endpoint asked for are left out of that time
    up to a twentieth of it, because a small bucket overflows meanwhile.

    From that rate the pace goes on as b (1 + 0.02 (t/K - 1)^5), with t in seconds since the
    refusal's wait was over: just below the measured rate b, flat around t = K, then faster and
    faster (the plateau of CUBIC, RFC 9438, 4.2). K is 20 times the wait, so that waits cost a
    small share of the time, at least 20 round trips, so that a refusal is heard before the pace
    is far beyond it, and 4 to 120 s.
    """

    def __init__(self) -> None:
        self._base = math.inf
        self._plateau = 4.0
        self._search = 0.05
        self._refused = (math.nan, 0)  # (time, accepted until then), as the marks are
        self._resumed = 0.0
        self._accepted = 0
        self._next = -math.inf
        self._marks: list[tuple[float, int]] = []  # one to two seconds ago; up to a second ago

    def rate(self, now: float) -> float:
        """Requests a second; infinite before the first refusal."""
        x = min((now - self._resumed) / self._plateau, 10.0) - 1
        return self._base * (1 + 0.02 * max(x, -1.0) ** 5)

    def ready(self, now: float) -> float:
        """When the next request may leave: `now`, or a later time."""
        return max(self._next, now)

    def sent(self, now: float, apart: float) -> None:
        """A request leaves, and the next at least `apart` seconds later.

        Being late is made up for, up to 50 ms.
        """
        self._next = max(self._next, now - 0.05) + max(apart, 1 / self.rate(now))

    def accepted(self, now: float) -> None:
        """A request was let through, whatever became of it."""
        if not self._marks:
            self._marks = [(now, 0), (now, 0)]
        self._accepted += 1
        if now - self._marks[1][0] >= 1:
            self._marks = [self._marks[1], (now, self._accepted)]

    def refused(self, now: float, until: float, round_trip: float) -> None:
        """A refusal of what was sent after the last one.

        Args:
            now: the clock, in seconds.
            until: when sending goes on.
            round_trip: seconds from the sending to the refusal.
        """
        recent = self._since(now, self._marks[0]) if self._marks else 0.0
        measured, settled = self._measured(now, recent)
        self._base = min(measured, self.rate(now))
        # While the rate is unknown it is sought faster, but ever less so: each search costs a wait.
        self._search = 1.0 if settled else min(2 * self._search, 1.0)
        self._plateau = self._search * min(max(4.0, 20 * (until - now), 20 * round_trip), 120.0)
        self._refused = (now, self._accepted)
        self.hold(until)

    def hold(self, until: float) -> None:
        """Nothing leaves before `until`, and nothing is made up for then."""
        self._resumed = until
        self._next = max(self._next, until + 0.05)

    def _measured(self, now: float, recent: float) -> tuple[float, bool]:
        """The permitted rate, and whether it can be relied on."""
        at, count = self._refused
        if math.isnan(at):
            # The bucket was full at first: this is too much, and the next refusal corrects it.
            return max(recent, 1.0), False
        if self._accepted - count < 10:
            return 0.8 * self.rate(now), False
        elapsed = now - at
        between = (self._accepted - count) / max(elapsed - (self._resumed - at), 0.95 * elapsed)
        # Much below what was just let through: the bucket ran over meanwhile, or its store was
        # used up just now. The truth lies between.
        return (between, True) if between >= 0.9 * recent else ((between + recent) / 2, False)

    def _since(self, now: float, mark: tuple[float, int]) -> float:
        """Accepted requests a second since a mark."""
        return (self._accepted - mark[1]) / max(now - mark[0], 0.2)


class Meter:
    """Events a second over about the last ten seconds."""

    _SPAN = 10.0

    def __init__(self, now: float) -> None:
        self._level, self._at, self._since = 0.0, now, now

    def count(self, now: float) -> None:
        """One event."""
        self._level = self._level * math.exp((self._at - now) / self._SPAN) + 1
        self._at = now

    def rate(self, now: float) -> float:
        """Events a second; 0 before the first."""
        share = 1 - math.exp((self._since - now) / self._SPAN)
        level = self._level * math.exp((self._at - now) / self._SPAN)
        return level / (self._SPAN * share) if share > 0 else 0.0
