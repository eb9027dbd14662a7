"""Requests and answers on the disk: nothing acknowledged is lost, nothing there is asked again."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whytune.errors import TeachingError, WorkError
from whytune.records import Reply
from whytune.teaching import journal_file
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.journal import Journal
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.requests import Request, Sent

REPLIED = Answer(ended=Ended.REPLIED, text='{"score": 3}', status=200, tokens_in=7, tokens_out=2)
BUSY = Answer(ended=Ended.RATE_LIMITED, status=429, error="slow down")
BROKEN = Answer(ended=Ended.SERVER_ERROR, status=500, error="oh")


def asked(n: int = 0, **changes: Any) -> Request:
    return Request(**{
        "example_id": f"e{n}", "task": "on_topic", "teacher": "t", "prompt": "p", "model": "m",
        "messages": ({"role": "user", "content": f"text {n}"},), "scale": (1.0, 4.0), **changes,
    })  # fmt: skip


def write(journal: JournalWriter, request: Request, *answers: Answer) -> None:
    for answer in answers:
        sent = journal.begin(request).result()
        journal.end(sent, answer, seconds=0.5, cost=0.25).result()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[JournalWriter]:
    with JournalWriter(path) as opened:
        yield opened


# Keys


def test_a_key_is_the_hash_of_what_is_asked() -> None:
    request = asked(parameters={"temperature": 0.5})
    # printf '%s' '["t","m",{"temperature":0.5},[{"content":"text 0","role":"user"}],null]' | sha256sum
    assert request.key == "d691a3a11808f04a0911956e040934305fad637f1d291940dd57ab92418eb9b8"


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "u"},
        {"model": "n"},
        {"parameters": {"seed": 1}},
        {"messages": ({"role": "user", "content": "text 0 "},)},
        {"messages": ({"role": "system", "content": "text 0"},)},
        {"schema": {}},
    ],
)
def test_what_asks_otherwise_has_another_key(changes: dict[str, Any]) -> None:
    assert asked(**changes).key != asked().key


@pytest.mark.parametrize(
    "changes", [{"example_id": "other"}, {"task": "u"}, {"prompt": "q"}, {"scale": None}]
)
def test_names_are_not_asked(changes: dict[str, Any]) -> None:
    assert asked(**changes).key == asked().key


def test_the_order_of_parameters_and_how_a_number_is_written_ask_the_same() -> None:
    one = asked(parameters={"temperature": 0, "top_p": 1.0})
    assert one.key == asked(parameters={"top_p": 1, "temperature": 0.0}).key


def test_the_order_of_the_schemas_fields_asks_otherwise() -> None:
    first: dict[str, Any] = {"properties": {"score": {}, "assessment": {}}}
    last: dict[str, Any] = {"properties": {"assessment": {}, "score": {}}}
    assert asked(schema=first).key != asked(schema=last).key


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x"])
def test_what_is_not_json_is_no_request(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        asked(parameters={"seed": value})


# Attempts


def test_every_attempt_stays_and_the_reply_stands(journal: JournalWriter) -> None:
    request = asked()
    write(journal, request, BUSY, BROKEN, REPLIED)
    history = journal.history(request)
    assert [found.attempt for found in history] == [1, 2, 3]
    assert [found.answer for found in history] == [BUSY, BROKEN, REPLIED]
    (stands,) = journal.replies()
    assert stands == history[2]
    assert stands.reply == Reply(example_id="e0", task="on_topic", teacher="t", prompt="p",
                                 text='{"score": 3}', scale=(1.0, 4.0))  # fmt: skip
    assert (stands.key, stands.seconds, stands.cost) == (request.key, 0.5, 0.25)
    assert 0 <= stands.ended - stands.started < 60


def test_a_failure_after_a_reply_does_not_undo_it(journal: JournalWriter) -> None:
    write(journal, asked(), REPLIED, BROKEN)
    (stands,) = journal.replies()
    assert stands.answer == REPLIED


def test_a_reply_asked_for_again_is_the_one_that_stands(journal: JournalWriter) -> None:
    again = Answer(ended=Ended.REPLIED, text="second")
    write(journal, asked(), REPLIED, again)
    assert [found.reply.text for found in journal.replies()] == ["second"]


def test_an_attempt_ends_once(journal: JournalWriter) -> None:
    sent = journal.begin(asked()).result()
    journal.end(sent, REPLIED, seconds=1).result()
    again, other = journal.end(sent, BROKEN, seconds=1), journal.begin(asked(1))
    with pytest.raises(ValueError, match=f"attempt 1 at {asked().key} has ended before"):
        again.result()
    assert other.result().attempt == 1
    assert [found.answer for found in journal.replies()] == [REPLIED]


@settings(deadline=None, max_examples=20)
@given(text=st.text(st.characters(exclude_categories=())), cut=st.booleans())
@example(text="half a pair \ud83d, and \0", cut=False)
def test_an_answer_comes_back_letter_by_letter(
    text: str, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    answer = Answer(ended=Ended.REFUSED, text=text, error=text[::-1], cut=cut, tokens_cached=1)
    with JournalWriter(tmp_path_factory.mktemp("journal") / "journal.sqlite") as journal:
        write(journal, asked(), answer)
        assert [found.answer for found in journal.replies()] == [answer]


def test_counts_that_are_no_numbers_are_not_kept(journal: JournalWriter) -> None:
    junk: Any = {"tokens_in": "12", "tokens_out": 2**70, "tokens_cached": -1}
    write(journal, asked(), Answer(ended=Ended.REPLIED, **junk))
    (found,) = journal.replies()
    assert found.answer == Answer(ended=Ended.REPLIED)


def test_times_and_costs_are_numbers_from_0(journal: JournalWriter) -> None:
    sent = journal.begin(asked()).result()
    for seconds, cost in ((-1.0, None), (float("nan"), None), (1.0, -1.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match=f"{seconds} seconds and cost {cost}, expected 0 or"):
            journal.end(sent, REPLIED, seconds=seconds, cost=cost)


# What is still to be asked


def test_only_what_is_new_is_asked(journal: JournalWriter) -> None:
    first = [asked(n) for n in range(5)]
    for request in journal.unanswered(first):
        write(journal, request, REPLIED)
    assert list(journal.unanswered(first)) == []
    row, task, teacher = asked(5), asked(1, messages=asked(7).messages), asked(2, teacher="u")
    wanted = [row, *first, task, *first, teacher]
    assert list(journal.unanswered(iter(wanted))) == [row, task, teacher]


def test_equal_requests_are_asked_once_and_both_answered(journal: JournalWriter) -> None:
    twin = asked(example_id="twin")
    many = [asked(), *(asked(n) for n in range(1, 2500)), twin]
    assert len(list(journal.unanswered(many))) == 2500
    write(journal, asked(), REPLIED)
    assert list(journal.unanswered([twin])) == []
    assert [found.reply.example_id for found in journal.replies([twin, asked(9), asked()])] == [
        "twin", "e0",
    ]  # fmt: skip


def test_refusals_are_final_and_failures_are_not(journal: JournalWriter) -> None:
    every = {ended: asked(n) for n, ended in enumerate(Ended)}
    for ended, request in every.items():
        write(journal, request, Answer(ended=ended))
    journal.begin(asked(99)).result()
    open_ones = list(journal.unanswered([*every.values(), asked(99)]))
    final = {Ended.REPLIED, Ended.REFUSED}
    assert open_ones == [r for ended, r in every.items() if ended not in final] + [asked(99)]


def test_reasks_are_bounded_but_not_by_a_busy_server(journal: JournalWriter) -> None:
    write(journal, asked(0), BUSY, BUSY, BUSY, BROKEN)
    write(journal, asked(1), BROKEN, BROKEN)
    requests = [asked(0), asked(1)]
    assert list(journal.unanswered(requests, most=2)) == [asked(0)]
    assert list(journal.unanswered(requests, most=3)) == requests
    assert journal.begin(asked(0)).result().attempt == 5


def test_what_is_answered_meanwhile_is_no_longer_asked(journal: JournalWriter) -> None:
    asking = journal.unanswered(asked(n) for n in range(3000))
    assert next(asking) == asked(0)
    write(journal, asked(2999), REPLIED)
    assert [request.example_id for request in asking][-1] == "e2998"


# What stands


def test_the_order_of_arrival_does_not_show(tmp_path: Path) -> None:
    requests = [asked(n, task=task, teacher=teacher, messages=({"role": "user", "content": text},))
                for n in range(4) for task in "ab" for teacher in "tu"
                for text in [f"{n}{task}"]]  # fmt: skip
    found = []
    for seed in range(3):
        random.Random(seed).shuffle(requests)
        with JournalWriter(tmp_path / f"{seed}.sqlite") as journal:
            for request in requests:
                write(journal, request, REPLIED)
            found.append([stands.reply for stands in journal.replies()])
    assert found[0] == found[1] == found[2]
    places = [(r.example_id, r.task, r.teacher) for r in found[0]]
    assert places == sorted(places)
    assert len(places) == 16


attempts = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Ended)), max_size=12)


@settings(deadline=None, max_examples=20)
@given(made=attempts)
def test_counts_and_sums_are_those_of_the_attempts(
    made: list[tuple[int, Ended]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    standing: dict[int, Ended] = {}
    final = {Ended.REPLIED, Ended.REFUSED}
    with JournalWriter(tmp_path_factory.mktemp("journal") / "journal.sqlite") as journal:
        for n, ended in made:
            request = asked(n, teacher=f"t{n % 2}")
            sent = journal.begin(request).result()
            answer = Answer(ended=ended, tokens_in=n, tokens_out=1)
            journal.end(sent, answer, seconds=1, cost=0.5 if n else None).result()
            if ended in final or standing.get(n) not in final:
                standing[n] = ended
        counts, spent = journal.counts(), journal.spent()
    ways = [(f"t{n % 2}", ended) for n, ended in made]
    assert {(c.teacher, c.ended): c.attempts for c in counts} == Counter(ways)
    stand = Counter((f"t{n % 2}", ended) for n, ended in standing.items())
    assert +Counter({(c.teacher, c.ended): c.requests for c in counts}) == stand
    for teacher, sums in spent.items():
        own = [n for n, _ in made if f"t{n % 2}" == teacher]
        assert (sums.attempts, sums.tokens_in, sums.tokens_out) == (len(own), sum(own), len(own))
        assert sums.cost == 0.5 * sum(n > 0 for n in own)
        assert sums.unpriced == own.count(0)
    assert sum(sums.attempts for sums in spent.values()) == len(made)


# Many at a time


def test_many_tasks_and_threads_write_at_once(path: Path) -> None:
    async def ask(journal: JournalWriter, n: int) -> Sent:
        sent = await asyncio.wrap_future(journal.begin(asked(n)))
        await asyncio.wrap_future(journal.end(sent, REPLIED, seconds=0))
        return sent

    async def all_of(journal: JournalWriter) -> list[Sent]:
        return list(await asyncio.gather(*(ask(journal, n) for n in range(300))))

    with JournalWriter(path) as journal:
        threads = [threading.Thread(target=write, args=(journal, asked(n), BUSY, BROKEN, REPLIED))
                   for n in range(1000, 1030)]  # fmt: skip
        for thread in threads:
            thread.start()
        sents = asyncio.run(all_of(journal))
        for thread in threads:
            thread.join()
    assert {sent.attempt for sent in sents} == {1}
    (count, *others) = sorted(Journal(path).counts(), key=lambda c: -c.requests)
    assert (count.ended, count.requests, count.attempts) == (Ended.REPLIED, 330, 330)
    assert [(c.requests, c.attempts) for c in others] == [(0, 30), (0, 30)]


def test_waiters_share_transactions(path: Path) -> None:
    with JournalWriter(path) as journal:
        journal.begin(asked()).result()
        log = path.with_name("journal.sqlite-wal")
        before = log.stat().st_size
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # the writing thread waits while the callers come
        waiting = [journal.begin(asked(n)) for n in range(1, 500)]
        assert not any(future.done() for future in waiting)
        other.close()
        for future in waiting:
            future.result()
        # Alone, each would write at least the three pages (of 4 KiB) that it changes.
        assert log.stat().st_size - before < 499 * 3 * 4096 / 10


def test_a_record_is_written_though_its_waiter_is_gone(path: Path) -> None:
    async def give_up(journal: JournalWriter) -> None:
        sent = await asyncio.wrap_future(journal.begin(asked()))
        waiter = asyncio.wrap_future(journal.end(sent, REPLIED, seconds=0))
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    with JournalWriter(path) as journal:
        asyncio.run(give_up(journal))
    assert [found.answer for found in Journal(path).replies()] == [REPLIED]


def test_closing_writes_what_waits(path: Path) -> None:
    journal = JournalWriter(path)
    waiting = [journal.begin(asked(n)) for n in range(2500)]
    journal.close()
    journal.close()
    assert all(future.done() for future in waiting)
    assert len(list(Journal(path).in_flight())) == 2500
    with pytest.raises(WorkError, match=r"journal.sqlite: closed; expected an open journal"):
        journal.begin(asked())


MANY = """
import resource, sys
from pathlib import Path
from whytune.teaching import journal_file
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.requests import Request

ANSWER = Answer(ended=Ended.REPLIED, text="y" * 200)

def some(count):
    return (Request(example_id=f"e{n}", task="t", teacher="t", prompt="p", model="m",
                    messages=({"role": "user", "content": f"{n}" + "x" * 400},)) for n in range(count))

with JournalWriter(Path(sys.argv[1])) as journal:
    for rows in (3_000, 25_000):
        pending = []
        for request in journal.unanswered(some(rows)):
            pending.append(journal.begin(request))
            if len(pending) == 1000:
                ended = [journal.end(sent.result(), ANSWER, seconds=0) for sent in pending]
                assert [each.result() for each in ended] == [None] * 1000
                pending.clear()
        new = [request.example_id for request in journal.unanswered(some(rows + 1))]
        assert new == [f"e{rows}"], new
        assert sum(1 for _ in journal.replies()) == rows
        assert [count.requests for count in journal.counts()] == [rows]
        assert journal.spent()["t"].attempts == rows
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MANY, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = (int(line) / 1024 for line in done.stdout.split())
    assert path.stat().st_size > 15 * 2**20
    assert many - few < 8  # MiB


# One writer


def test_a_second_writer_is_told_who_writes(path: Path, journal: JournalWriter) -> None:
    expected = (rf"journal.sqlite: process {os.getpid()} on .+, since .+, writes it, expected one "
                r"writer at a time; wait until that ends, or stop it \(reading")  # fmt: skip
    with pytest.raises(TeachingError, match=expected):
        JournalWriter(path)
    write(journal, asked(), REPLIED)
    assert len(list(Journal(path).replies())) == 1


# Crashes

CRASHING = r"""
import os, sys, threading
from pathlib import Path
from whytune.teaching import journal_file
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.requests import Request

journal = JournalWriter(Path(sys.argv[1]))

def work(worker):
    for n in range(10**9):
        request = Request(example_id=f"{sys.argv[2]}-{worker}-{n}", task="t", teacher="t", prompt="p",
                          model="m", messages=({"role": "user", "content": f"{sys.argv[2]} {worker} {n}"},))
        sent = journal.begin(request).result()
        os.write(1, f"sent {request.key}\n".encode())
        journal.end(sent, Answer(ended=Ended.REPLIED, text=request.key), seconds=0).result()
        os.write(1, f"replied {request.key}\n".encode())

for worker in range(16):
    threading.Thread(target=work, args=(worker,), daemon=True).start()
threading.Event().wait()
"""


def test_nothing_acknowledged_is_lost_to_kill_9(path: Path) -> None:
    draw = random.Random(5)
    acknowledged: set[tuple[str, str]] = set()
    for run in range(5):
        command = [sys.executable, "-c", CRASHING, str(path), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crashing:
            assert crashing.stdout is not None
            lines = [crashing.stdout.readline()]
            with pytest.raises(TeachingError, match=f"process {crashing.pid} on .* writes it"):
                JournalWriter(path)
            timer = threading.Timer(draw.uniform(0.02, 0.4), crashing.kill)
            timer.start()
            lines += crashing.stdout.readlines()
        assert crashing.returncode == -signal.SIGKILL
        for line in lines:
            word, key = line.split()
            acknowledged.add((word, key))
        journal = Journal(path)
        replied = {found.key: found for found in journal.replies()}
        in_flight = {sent.request.key for sent in journal.in_flight()}
        assert {key for word, key in acknowledged if word == "replied"} <= replied.keys()
        assert {key for word, key in acknowledged if word == "sent"} <= replied.keys() | in_flight
        assert not replied.keys() & in_flight
        assert len(in_flight) <= 16 * (run + 1)
        assert all(found.reply.text == key for key, found in replied.items())
    assert len(acknowledged) > 20
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    plain.close()


def test_every_commit_waits_for_the_disk(journal: JournalWriter) -> None:
    # A killed process leaves its unsynced pages to the kernel, so no kill shows this.
    assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_attempt_that_a_crash_cut_off_can_be_ended(journal: JournalWriter) -> None:
    request = asked(schema={"b": 1, "a": 2}, parameters={"seed": 1})
    journal.begin(request).result()
    (lost,) = journal.in_flight()
    assert lost.request == request
    journal.end(lost, Answer(ended=Ended.CONNECTION, error="lost"), seconds=0).result()
    assert list(journal.in_flight()) == []
    assert [found.answer.error for found in journal.history(request)] == ["lost"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_log_loses_only_its_end(path: Path, share: float, tmp_path: Path) -> None:
    with JournalWriter(path) as journal:
        for n in range(20):
            write(journal, asked(n), REPLIED)
    copy = tmp_path / "torn" / "journal.sqlite"
    copy.parent.mkdir()
    with JournalWriter(path) as journal:
        for n in range(20, 40):
            write(journal, asked(n), REPLIED)
        shutil.copy(path, copy)
        log = path.with_name("journal.sqlite-wal").read_bytes()
    copy.with_name("journal.sqlite-wal").write_bytes(log[: int(len(log) * share)])
    with JournalWriter(copy) as torn:
        found = {int(stands.reply.example_id[1:]) for stands in torn.replies()}
        assert found == set(range(len(found)))
        assert 20 <= len(found) < 40
        again = list(torn.unanswered(asked(n) for n in range(40)))
    assert [request.example_id for request in again] == [f"e{n}" for n in range(len(found), 40)]


@pytest.mark.parametrize("size", [0, 50, 4096, 5000, 20_000])
def test_a_cut_file_is_refused(path: Path, size: int) -> None:
    with JournalWriter(path) as journal:
        for future in [journal.begin(asked(n)) for n in range(500)]:
            future.result()
    os.truncate(path, size)
    for kind in (Journal, JournalWriter):
        with pytest.raises(
            TeachingError, match=r"journal.sqlite: .*restore (it|this one) from a copy"
        ):
            kind(path)


def test_a_log_without_its_journal_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("journal.sqlite-wal").write_bytes(b"x" * 5000)
    with pytest.raises(TeachingError, match=r"not there, but its log journal.sqlite-wal is"):
        JournalWriter(path)


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("id,text\n" * 1000)
    with pytest.raises(TeachingError, match=r"cannot be read \(file is not a database\)"):
        JournalWriter(path)
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE requests (id)")
    foreign.close()
    with pytest.raises(
        TeachingError, match=r"not a journal of whytune \(application 0x0, expected"
    ):
        JournalWriter(path)
    with pytest.raises(TeachingError, match=r"there.sqlite: not there; expected a journal; ask"):
        Journal(path.with_name("there.sqlite"))


def test_a_newer_journal_is_refused(path: Path) -> None:
    JournalWriter(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(TeachingError, match=r"a journal of version 2, expected 1; use the whytune"):
        JournalWriter(path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TeachingError, match=r"cannot be written .*; expected a folder on a local"):
        JournalWriter(tmp_path / "file" / "journal.sqlite")


# Failing to write


@pytest.mark.parametrize("name", ["journal.sqlite", "journal.sqlite-wal"])
def test_a_deleted_file_acknowledges_nothing(path: Path, name: str) -> None:
    journal = JournalWriter(path)
    sent = journal.begin(asked()).result()
    path.with_name(name).unlink()
    waiting: list[Future[Any]] = [journal.end(sent, REPLIED, seconds=0)]
    waiting += [journal.begin(asked(n)) for n in range(9)]
    for future in waiting:
        with pytest.raises(
            WorkError, match=r"journal.sqlite: cannot be written \(.*; expected room"
        ):
            future.result(timeout=20)
    with pytest.raises(WorkError, match="cannot be written"):
        journal.close()


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import *

journal = JournalWriter(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
kept = 0
try:
    for n in range(10_000):
        write(journal, asked(n), REPLIED)
        kept += 1
except WorkError as error:
    print(error)
late = journal.begin(asked())
print(type(late.exception(timeout=20)).__name__)
try:
    with journal:
        raise KeyError("the caller's own")
except KeyError:
    print(kept)
"""


def test_a_full_disk_reaches_the_caller_and_loses_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, late, kept = done.stdout.splitlines()
    assert "journal.sqlite: cannot be written (" in message
    assert "everything acknowledged is kept: put it right and run again" in message
    assert late == "WorkError"
    with JournalWriter(path) as journal:
        assert 0 < int(kept) <= len(list(journal.replies())) <= int(kept) + 1
        write(journal, asked(99_999), REPLIED)


def test_damage_met_while_reading_is_an_error(path: Path) -> None:
    with JournalWriter(path) as journal:
        for n in range(200):
            write(journal, asked(n), REPLIED)
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = b"\xff" * (len(content) - 3 * 4096)
    path.write_bytes(content)
    with pytest.raises(TeachingError, match=r"journal.sqlite: cannot be read \(.*malformed"):
        list(Journal(path).replies())


@pytest.mark.parametrize(
    ("damage", "reader", "told"),
    [
        ("UPDATE endings SET outcome = 'nonsense'", "replies", "'nonsense' is not a valid Ended"),
        ("UPDATE endings SET outcome = 'nonsense'", "counts", "'nonsense' is not a valid Ended"),
        ("UPDATE endings SET text = x'FF00'", "replies", "can't decode byte 0xff"),
        ("UPDATE requests SET key = 'text'", "replies", "no attribute 'hex'"),
        ("DELETE FROM endings; UPDATE requests SET content = '['", "in_flight", "Expecting value"),
        ("DELETE FROM endings; UPDATE requests SET content = '[1]'", "in_flight", "not enough"),
        ("DELETE FROM endings; UPDATE requests SET content = '1'", "in_flight", "cannot unpack"),
    ],
)
def test_rows_that_make_no_sense_are_damage(
    path: Path, damage: str, reader: str, told: str
) -> None:
    with JournalWriter(path) as journal:
        write(journal, asked(), REPLIED)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(damage)
    with pytest.raises(TeachingError) as raised:
        list(getattr(Journal(path), reader)())
    assert str(raised.value).startswith(f"{path}: cannot be read (a row makes no sense: ")
    assert told in str(raised.value)
    assert str(raised.value).endswith("restore it from a copy, or move it away to begin anew")


@pytest.mark.parametrize("reader", ["replies", "unanswered"])
def test_a_fault_of_the_caller_is_no_damage(journal: JournalWriter, reader: str) -> None:
    def requests() -> Iterator[Request]:
        yield asked()
        raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        list(getattr(journal, reader)(requests()))


# Where nothing can be written

LOCKED = """
import os, sys
from pathlib import Path
from whytune.teaching.journal import Journal

if os.getuid() == 0:
    os.setuid(65534)
path = Path(sys.argv[1])
assert not os.access(path.parent, os.W_OK)
print([found.answer.text for found in Journal(path).replies()])
"""


@pytest.mark.parametrize("rest", [{}, {"-wal": 0}, {"-shm": 32_768}, {"-wal": 0, "-shm": 32_768}])
def test_a_journal_on_a_disk_that_cannot_be_written_is_read(rest: dict[str, int]) -> None:
    # Not in pytest's own folder, which another user may not enter.
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "journal.sqlite"
        with JournalWriter(path) as journal:
            write(journal, asked(), REPLIED)
        for end, size in rest.items():
            path.with_name(f"{path.name}{end}").write_bytes(bytes(size))
        os.chmod(place, 0o555)
        done = subprocess.run([sys.executable, "-c", LOCKED, str(path)],
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        os.chmod(place, 0o755)
        assert (done.returncode, done.stdout) == (0, f"{[REPLIED.text]}\n"), done.stderr
        assert len(os.listdir(place)) == 2 + len(rest), "nothing was made beside it"


@pytest.mark.parametrize(
    ("mode", "writable", "beside", "alone"),
    [
        ("ro", False, {}, True),
        ("ro", False, {"-wal": b""}, True),
        ("ro", False, {"-shm": b"left behind"}, True),
        ("ro", False, {"-wal": b"waits"}, False),
        ("ro", False, {"-wal": b"", "-shm": b"somebody writes"}, False),
        ("ro", True, {}, False),
        ("rw", False, {}, False),
    ],
)
def test_only_a_journal_at_rest_is_read_without_its_log(
    mode: str, writable: bool, beside: dict[str, bytes], alone: bool,
    path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    JournalWriter(path).close()
    for end, content in beside.items():
        path.with_name(f"{path.name}{end}").write_bytes(content)
    link = path.parent.parent / "link.sqlite"
    link.symlink_to(path)
    monkeypatch.setattr(os, "access", lambda place, _: writable or place != path.parent)
    for place in (path, link):
        assert ("immutable=1" in journal_file._uri(place, mode)) is alone


# Secrets


def test_no_key_gets_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "sk-canary-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", canary)
    for name in ("api_key", "Authorization", "extra_headers"):
        with pytest.raises(ValueError, match=f"found the parameters {name}; expected") as refused:
            asked(parameters={name: canary})
        assert canary not in str(refused.value)
    with JournalWriter(path) as journal:
        write(journal, asked(), BROKEN, REPLIED)
        files = [file.read_bytes() for file in path.parent.iterdir()]
    assert len(files) >= 3
    assert any(b"text 0" in content for content in files)
    assert not any(canary.encode() in content for content in files)
