"""Every request to a teacher and everything that came of it: what is still to be asked, what stands.

One SQLite file a study, on a local disk. Rows are added and never changed, so what was paid for
once is not asked again, and every attempt stays. Replies are kept as they came; reading them is
elsewhere, and may be repeated at will.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from whytune.errors import TeachingError
from whytune.records import Reply
from whytune.teaching import journal_file
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.requests import Count, Recorded, Request, Sent, Spent

Given = ParamSpec("Given")
Made = TypeVar("Made")

_BATCH = 50
"""Requests a look-up; whoever walks them on an event loop stops it for so long."""
_FINAL = f"e.outcome IN ('{Ended.REPLIED}', '{Ended.REFUSED}')"
# A busy server or a lost connection says nothing about the request itself.
_FAULTS = f"e.outcome IN ('{Ended.SERVER_ERROR}', '{Ended.TIMEOUT}', '{Ended.CLIENT_ERROR}')"
_ATTEMPTS = "requests r JOIN intents i ON i.request = r.id JOIN endings e ON e.intent = i.id"
_STANDING_FIRST = f"{_FINAL} DESC, i.attempt DESC"
_ENDINGS_OF = f"""SELECT i.attempt, i.started, e.* FROM {_ATTEMPTS} WHERE r.key = ?
    ORDER BY {_STANDING_FIRST}"""
_STATE_OF = f"""SELECT ifnull(max({_FINAL}), 0), ifnull(sum({_FAULTS}), 0)
    FROM {_ATTEMPTS} WHERE r.key = ?"""
_COUNTS = f"""SELECT teacher, task, prompt, outcome, sum(place = 1), count(*) FROM (
    SELECT r.teacher, r.task, r.prompt, e.outcome,
           row_number() OVER (PARTITION BY i.request ORDER BY {_STANDING_FIRST}) AS place
    FROM {_ATTEMPTS}) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
_SPENT = f"""SELECT r.teacher, count(*), ifnull(sum(e.tokens_in), 0), ifnull(sum(e.tokens_out), 0),
    total(e.cost), sum(e.cost IS NULL) FROM {_ATTEMPTS} GROUP BY 1 ORDER BY 1"""
_IN_FLIGHT = """SELECT i.id, i.attempt, i.started, r.*
    FROM intents i LEFT JOIN endings e ON e.intent = i.id JOIN requests r ON r.id = i.request
    WHERE e.intent IS NULL ORDER BY r.key, i.attempt"""

PERHAPS_PAID = (Ended.REPLIED, Ended.REFUSED, Ended.TIMEOUT, Ended.CONNECTION)
"""Endings of attempts that may have cost something."""
_PERHAPS_PAID = f"""SELECT r.* FROM requests r JOIN intents i ON i.request = r.id
    LEFT JOIN endings e ON e.intent = i.id
    WHERE e.intent IS NULL OR (e.cost IS NULL AND e.outcome IN
    ({", ".join(f"'{ended}'" for ended in PERHAPS_PAID)})) ORDER BY r.key, i.attempt"""


class Journal:
    """Reads a journal, also while another process writes it; memory does not grow with it.

    All methods raise TeachingError where the file cannot be read.
    """

    def __init__(self, path: Path):
        """Open for reading.

        Raises:
            TeachingError: no file, not a journal, a damaged one, or one of a newer whytune.
        """
        self.path = path
        if not path.exists():
            raise TeachingError(f"{path}: not there; expected a journal; ask the teachers first")
        with self._reading() as connection:
            journal_file.check(connection, path)

    def unanswered(
        self, requests: Iterable[Request], *, most: int | None = None
    ) -> Iterator[Request]:
        """Those without a reply or refusal, in their order, each key once.

        With `most`, also without those that have failed so often: by a server error, a timeout
        or as wrong. Rate limits and lost connections do not count.
        """
        with self._reading() as connection:
            connection.execute("CREATE TEMP TABLE given (key BLOB PRIMARY KEY) WITHOUT ROWID")
            stream = iter(requests)
            while batch := list(islice(stream, _BATCH)):
                connection.execute("BEGIN")
                wanted = [request for request in batch if _wanted(connection, request, most)]
                # Before the batch is handed out: an open snapshot would let the log grow.
                connection.execute("COMMIT")
                yield from wanted

    def replies(self, requests: Iterable[Request] | None = None) -> Iterator[Recorded]:
        """What stands: of each request its last reply or refusal, or else its last failure.

        Of these requests, under their names and in their order; those never asked, or still in
        flight, are passed over. Without `requests` all that were ever asked, under the names of
        the first asking, by example, task, teacher, prompt and key: whatever the order of
        arrival, the same.
        """
        with self._reading() as connection:
            asked = _asked(connection) if requests is None else map(_named, requests)
            for key, names in asked:
                row = connection.execute(f"{_ENDINGS_OF} LIMIT 1", (key,)).fetchone()
                if row is not None:
                    yield _recorded(key, names, row)

    def history(self, request: Request) -> list[Recorded]:
        """All ended attempts at a request, the first one first."""
        key, names = _named(request)
        with self._reading() as connection:
            rows = connection.execute(_ENDINGS_OF, (key,)).fetchall()
        return sorted((_recorded(key, names, row) for row in rows), key=lambda r: r.attempt)

    def counts(self) -> list[Count]:
        """Requests and attempts by teacher, task, prompt and ending; reads the whole file."""
        with self._reading() as connection:
            return [
                Count(teacher=teacher, task=task, prompt=prompt, ended=_ended(ended),
                      requests=requests, attempts=attempts)
                for teacher, task, prompt, ended, requests, attempts in connection.execute(_COUNTS)
            ]  # fmt: skip

    def spent(self) -> dict[str, Spent]:
        """Teacher -> what its attempts took, retries included; reads the whole file."""
        with self._reading() as connection:
            return {
                teacher: Spent(attempts=attempts, tokens_in=tokens_in, tokens_out=tokens_out,
                               cost=cost, unpriced=unpriced)
                for teacher, attempts, tokens_in, tokens_out, cost, unpriced
                in connection.execute(_SPENT)
            }  # fmt: skip

    def in_flight(self) -> Iterator[Sent]:
        """Attempts without an end: under way, or cut off by a crash, in which case nobody knows
        whether they were paid for. By key and attempt.
        """
        with self._reading() as connection:
            for intent, attempt, started, *row in connection.execute(_IN_FLIGHT):
                yield Sent(request=_request(row), attempt=attempt, started=started, intent=intent)

    def perhaps_paid(self) -> Iterator[Request]:
        """The request of each attempt that may have cost something, nobody knows what: the server
        did not say, or nobody heard the end.
        """
        with self._reading() as connection:
            for row in connection.execute(_PERHAPS_PAID):
                yield _request(row)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            connection = journal_file.connect(self.path, "ro")
            yield connection
        except sqlite3.Error as error:
            raise TeachingError(
                f"{self.path}: cannot be read ({error}); expected a whole journal of whytune; "
                "restore it from a copy, or move it away to begin anew"
            ) from error
        finally:
            if connection is not None:
                connection.close()


def _decoding(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """What cannot be made of a row is damage, as what SQLite itself cannot read."""

    @wraps(make)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return make(*args, **kwargs)
        except (ValueError, TypeError, AttributeError) as error:
            raise sqlite3.DatabaseError(f"a row makes no sense: {error}") from error

    return made


@_decoding
def _request(row: Sequence[Any]) -> Request:
    """From a row of `requests`."""
    *_, low, high, content = row
    names: dict[str, Any] = dict(
        zip(("example_id", "task", "teacher", "prompt"), row[2:6], strict=True)
    )
    _, model, parameters, messages, schema = json.loads(content)
    return Request(**names, scale=_scale(low, high), model=model, parameters=parameters,
                   messages=tuple(messages), schema=schema)  # fmt: skip


def _named(request: Request) -> tuple[bytes, Mapping[str, Any]]:
    return bytes.fromhex(request.key), {
        name: getattr(request, name)
        for name in ("example_id", "task", "teacher", "prompt", "scale")
    }


def _asked(connection: sqlite3.Connection) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    for key, example_id, task, teacher, prompt, low, high in connection.execute(
        "SELECT key, example_id, task, teacher, prompt, low, high FROM requests "
        "ORDER BY example_id, task, teacher, prompt, key"
    ):
        yield key, {"example_id": example_id, "task": task, "teacher": teacher, "prompt": prompt,
                    "scale": _scale(low, high)}  # fmt: skip


def _scale(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


@_decoding
def _recorded(key: bytes, names: Mapping[str, Any], row: Sequence[Any]) -> Recorded:
    (attempt, started, _, ended, outcome, status, cut, tokens_in, tokens_out, tokens_cached,
     seconds, cost, error, text) = row  # fmt: skip
    answer = Answer(
        ended=Ended(outcome), text=_loaded(text), cut=bool(cut), status=status, tokens_in=tokens_in,
        tokens_out=tokens_out, tokens_cached=tokens_cached, error=_loaded(error),
    )  # fmt: skip
    return Recorded(
        reply=Reply(text=answer.text, **names), answer=answer, key=key.hex(), attempt=attempt,
        started=started, ended=ended, seconds=seconds, cost=cost,
    )  # fmt: skip


@_decoding
def _ended(outcome: str) -> Ended:
    return Ended(outcome)


def _wanted(connection: sqlite3.Connection, request: Request, most: int | None) -> bool:
    key = (bytes.fromhex(request.key),)
    final, faults = connection.execute(_STATE_OF, key).fetchone()
    if final or (most is not None and faults >= most):
        return False
    return connection.execute("INSERT OR IGNORE INTO given VALUES (?)", key).rowcount == 1


def _loaded(found: str | bytes) -> str:
    return found.decode("utf-8", "surrogatepass") if isinstance(found, bytes) else found
