"""What an endpoint says about its limits, and buckets that keep to them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

LONGEST_HOLD = 600.0
"""Seconds: the longest wait that is taken from an endpoint; beyond, it is asked again."""
_BURST = 1.0
"""Seconds of the rate that a bucket holds: limits a minute are enforced in shorter spans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an endpoint grants; None where it does not say."""

    requests_per_minute: float | None = None
    requests_left: float | None = None
    tokens_per_minute: float | None = None
    tokens_left: float | None = None


_NAMES = {
    "requests_per_minute": ("x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit"),
    "requests_left": ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"),
    "tokens_per_minute": ("x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit"),
    "tokens_left": ("x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining"),
}
"""Names in OpenAI's interface (those who speak it follow) and in Anthropic's."""


def read_limits(headers: Mapping[str, str]) -> Limits | None:
    """What a reply's headers say about rate limits; None without any.

    Args:
        headers: names in lower case. What is not a finite number of at least 0 is passed over.
    """
    found = {
        what: next((_number(headers[name]) for name in names if name in headers), None)
        for what, names in _NAMES.items()
    }
    return Limits(**found) if any(value is not None for value in found.values()) else None


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait as a Retry-After header says (RFC 9110, 10.2.3), 0 to LONGEST_HOLD.

    Args:
        value: seconds (fractions too, which endpoints send), or an HTTP date.
        now: the wall clock, in seconds since 1970, for dates.

    Returns:
        None where there is nothing, or nothing that can be read: the caller backs off by itself.
    """
    if value is None:
        return None
    seconds = _number(value)
    if seconds is None:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_HOLD)


class Bucket:
    """A token bucket: `per_minute` units flow in, at most a second's worth is kept.

    The level may fall below zero, where a request takes more than the bucket holds or took more
    than was estimated; the next one waits until that has flowed in. Without `per_minute` (above 0)
    there is no limit until one is seeded.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        self._rate = math.inf if per_minute is None else per_minute / 60
        self._level = self._capacity
        self._at = -math.inf

    @property
    def _capacity(self) -> float:
        return max(1.0, self._rate * _BURST)

    def ready(self, now: float, amount: float) -> float:
        """When so much can be taken: `now`, or a later time."""
        if self._rate == math.inf:
            return now
        self._flow(now)
        lacking = min(amount, self._capacity) - self._level
        return now + lacking / self._rate if lacking > 1e-9 else now

    def take(self, amount: float) -> None:
        """Takes so much; a negative amount gives back what was taken too much."""
        self._level = min(self._level - amount, self._capacity)

    def seed(self, now: float, per_minute: float | None, left: float | None, on_way: float) -> None:
        """Takes over what the endpoint says.

        Args:
            now: the clock, in seconds.
            per_minute: the limit; None: unchanged.
            left: what it would still grant; None: unknown.
            on_way: what was sent and not yet answered, which `left` may not know of.
        """
        if per_minute is not None and per_minute > 0:
            first = self._rate == math.inf
            self._flow(now)
            self._rate = per_minute / 60
            self._level = self._capacity if first else min(self._level, self._capacity)
        if left is not None and self._rate < math.inf:
            self._level = min(self._level, left - on_way)

    def _flow(self, now: float) -> None:
        if self._rate < math.inf and self._at > -math.inf:
            self._level = min(self._level + (now - self._at) * self._rate, self._capacity)
        self._at = now


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\s*\d{1,15}(\.\d*)?\s*", text, re.ASCII):
        return None
    return float(text)
