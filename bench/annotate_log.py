"""What the server's log says: rates, refusals, and what was asked twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from annotate_server import SHORT

ON_ITS_WAY = 0.5
"""Seconds: a reply that the server sent so shortly before a kill may not have been kept yet, and
counts as in flight."""

Entry = list[Any]
"""[received, ended or None, digest, what became of it, bytes], times in seconds since 1970."""


def calls(log: list[Entry]) -> list[Entry]:
    """In the order of arrival, without what is too short to be a call of the job."""
    return sorted((entry for entry in log if entry[4] >= SHORT), key=lambda entry: entry[0])


def per_second(log: list[Entry]) -> list[int]:
    """Accepted requests in every second from the first one."""
    accepted = [entry[0] for entry in calls(log) if entry[3] != "429"]
    found = Counter(int(at - accepted[0]) for at in accepted)
    return [found[second] for second in range(max(found) + 1)]


def figures(log: list[Entry], rate: float) -> dict[str, float]:
    """Of a run against a permitted rate (requests a second).

    `share_of_permitted_rate` is accepted / (rate x seconds) between the moments at which a tenth
    and nine tenths were accepted; `.._whole_run` from the first request to the last.
    """
    accepted = [entry[0] for entry in calls(log) if entry[3] != "429"]
    refused = sum(entry[3] == "429" for entry in log)
    low, high = len(accepted) // 10, len(accepted) * 9 // 10
    return {
        "share_of_permitted_rate": (high - low) / (rate * (accepted[high] - accepted[low])),
        "share_of_permitted_rate_whole_run":
            (len(accepted) - 1) / (rate * (accepted[-1] - accepted[0])),
        "share_429": refused / len(log),
        "accepted": len(accepted), "refused": refused,
        "seconds": accepted[-1] - accepted[0],
    }  # fmt: skip


def calls_per_s(log: list[Entry]) -> float:
    """From the first request to the last reply."""
    found = calls(log)
    return len(found) / (max(entry[1] or 0 for entry in found) - found[0][0])


@dataclass(frozen=True)
class Kill:
    """One kill -9."""

    at: float
    told: int
    """Replies that were reported finished until then."""
    stored: set[str]
    """Whose replies were kept, as `annotate_engines.stored`."""


def after_kills(log: list[Entry], kills: list[Kill]) -> dict[str, int]:
    """What kills cost: replies lost, and requests asked again, needlessly or because they were in
    flight.

    A request asked again was in flight where its reply was neither kept nor sent a while before
    the kill.
    """
    asked: dict[str, list[Entry]] = defaultdict(list)
    for entry in calls(log):
        asked[entry[2]].append(entry)
    again = needless = 0
    for entries in asked.values():
        for first, second in pairwise(entries):
            between = [kill for kill in kills if first[0] < kill.at < second[0]]
            if not between:
                continue
            again += 1
            needless += not _in_flight(first, between[0])
    return {
        "kills": len(kills),
        "acknowledged_lost": sum(max(0, kill.told - len(kill.stored)) for kill in kills),
        "asked_again": again,
        "reasked_after_kill": needless,
        "in_flight_at_kill": sum(
            _in_flight(entry, kill)
            for kill in kills for entry in _before(log, kills, kill)
        ),
    }  # fmt: skip


def _before(log: list[Entry], kills: list[Kill], kill: Kill) -> list[Entry]:
    """Calls between the kill before this one and this one."""
    since = max((other.at for other in kills if other.at < kill.at), default=0.0)
    return [entry for entry in calls(log) if since < entry[0] < kill.at]


def _in_flight(entry: Entry, kill: Kill) -> bool:
    _, ended, digest, fate, _ = entry
    if digest[:12] in kill.stored:
        return False
    return fate != "answered" or ended is None or ended > kill.at - ON_ITS_WAY
