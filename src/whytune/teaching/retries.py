"""Which requests are sent again, when, and when to give up."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from whytune.teaching.answers import Answer, Ended
from whytune.teaching.calls import Body, Call, Fate

FINAL = {Ended.REPLIED: Fate.DONE, Ended.REFUSED: Fate.DONE, Ended.CLIENT_ERROR: Fate.DEAD}
"""Endings after which a request is never sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When to send again, and when to stop."""

    attempts: int = 5
    """Sends of one request, those that were rate limited not counted."""
    refusals: int = 100
    """Rate limits of one request after which it is given up."""
    retry_share: float = 0.1
    """Retries in all, as a share of the requests sent so far,"""
    retry_allowance: int = 20
    """and so many besides."""
    backoff: float = 0.5
    """Seconds: the wait after an error is drawn from 0 to this, doubled with every attempt,"""
    longest_backoff: float = 60.0
    """but never above this."""
    grace: float = 60.0
    """Seconds that what is in flight has to finish when the flow is cancelled."""
    figures_per_second: float = 4.0
    seed: int = 0
    """Of the waits."""


@dataclass(slots=True, eq=False)
class Letter(Generic[Body]):
    """A call on its way through the flow."""

    call: Call[Body]
    attempts: int = 0
    """Sends that ended, those that were rate limited not counted."""
    refusals: int = 0
    """Sends that were rate limited."""
    sending: bool = False


class Retries:
    """The retry budget of one flow: requests times attempts never multiply an outage."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._firsts = 0
        self._granted = 0
        self.backoff = full_jitter(
            random.Random(policy.seed), policy.backoff, policy.longest_backoff
        )
        """Number of failures in a row (from 0) -> seconds."""

    def departs(self, letter: Letter[Body]) -> None:
        """A request leaves; every one counts once as traffic."""
        self._firsts += letter.attempts == letter.refusals == 0

    def judge(self, letter: Letter[Body], answer: Answer, wait: float | None) -> tuple[Fate, float]:
        """What becomes of a call, and how many seconds it waits if it is sent again.

        `wait`: seconds, as the endpoint said; None: it did not say.
        """
        if answer.ended is Ended.RATE_LIMITED:
            letter.refusals += 1
            # The lane waits; another one may take the request at once.
            return (Fate.AGAIN if letter.refusals < self._policy.refusals else Fate.DEAD), 0.0
        letter.attempts += 1
        if answer.ended in FINAL:
            return FINAL[answer.ended], 0.0
        # Granted retries count, whether sent or still waiting.
        budget = self._policy.retry_allowance + self._policy.retry_share * self._firsts
        if letter.attempts >= self._policy.attempts or self._granted + 1 > budget:
            return Fate.DEAD, 0.0
        self._granted += 1
        return Fate.AGAIN, max(self.backoff(letter.attempts - 1), wait or 0.0)


def full_jitter(randomness: random.Random, base: float, longest: float) -> Callable[[int], float]:
    """Waits drawn evenly from 0 to min(longest, base 2^n) seconds, n from 0.

    Source: M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015.
    """
    return lambda n: randomness.uniform(0, min(longest, base * 2 ** min(n, 60)))
