"""Journals joined into one, against what the same attempts would be in one set."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whytune.errors import TeachingError, WorkError
from whytune.teaching import journal_file, journal_join
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.journal import Journal
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.requests import Request

ENDINGS = (Ended.REPLIED, Ended.REFUSED, Ended.SERVER_ERROR, Ended.RATE_LIMITED)
Row = tuple[Any, ...]
Attempt = tuple[int, float, Ended | None]
"""Number of the request, when it was begun, and how it ended, if it did."""


def asked(n: int, **changes: Any) -> Request:
    return Request(**{
        "example_id": f"e{n}", "task": "on_topic", "teacher": "t", "prompt": "p", "model": "m",
        "messages": ({"role": "user", "content": f"text {n}"},), "scale": (1.0, 4.0), **changes,
    })  # fmt: skip


def written(path: Path, attempts: Sequence[Attempt]) -> Path:
    """A journal of these attempts, in their order, as its writer makes it but for the times."""
    with JournalWriter(path) as journal:
        sents = []
        for n, started, ended in attempts:
            sent = journal.begin(asked(n)).result()
            if ended is not None:
                answer = Answer(ended=ended, text=f"{n} at {started}", tokens_in=3)
                journal.end(sent, answer, seconds=started, cost=0.5).result()
            sents.append((started, sent.intent))
    with sqlite3.connect(path) as plain:
        plain.executemany("UPDATE intents SET started = ? WHERE id = ?", sents)
        plain.execute("UPDATE endings SET ended = 0")
    plain.close()
    return path


def rows(path: Path) -> tuple[list[Row], list[Row]]:
    """All requests, and all attempts with how they ended, without the numbers of rows."""
    with sqlite3.connect(path) as plain:
        requests = plain.execute(
            "SELECT key, example_id, task, teacher, prompt, low, high, content FROM requests "
            "ORDER BY key"
        ).fetchall()
        attempts = plain.execute(
            "SELECT key, attempt, started, e.ended, outcome, status, cut, tokens_in, tokens_out, "
            "tokens_cached, seconds, cost, error, text FROM requests r JOIN intents i "
            "ON i.request = r.id LEFT JOIN endings e ON e.intent = i.id ORDER BY key, attempt"
        ).fetchall()
        assert plain.execute("PRAGMA foreign_key_check").fetchall() == []
    plain.close()
    return requests, attempts


def joined(path: Path, sources: Sequence[Path]) -> tuple[list[Row], list[Row]]:
    with JournalWriter(path) as target:
        for source in sources:
            journal_join.join(source, target)
    return rows(path)


# Every attempt there is: a request's are begun one after another, in whichever journal.
ATTEMPTS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([*ENDINGS, None])), max_size=12
).map(lambda found: [(n, float(at), ended) for at, (n, ended) in enumerate(found)])


@settings(max_examples=30)
@given(ATTEMPTS, st.randoms(use_true_random=False))
def test_joined_in_any_order_and_again_they_are_the_union(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[Attempt], draw: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("join")
    parts = [[a for a in attempts if draw.random() < 0.6] for _ in range(3)]
    sources = [written(folder / f"{i}.journal", part) for i, part in enumerate(parts)]
    union = sorted({attempt for part in parts for attempt in part}, key=lambda a: a[1])
    expected = rows(written(folder / "union", union))
    orders = [draw.choices(sources, k=5) + draw.sample(sources, k=3) for _ in range(2)]
    for place, order in enumerate(orders):
        assert joined(folder / f"joined-{place}", order) == expected


def test_numbers_and_times_stay_and_an_end_comes_to_its_beginning(tmp_path: Path) -> None:
    early = written(tmp_path / "early", [(0, 1.0, Ended.TIMEOUT), (0, 2.0, None)])
    late = written(
        tmp_path / "late",
        [(0, 1.0, Ended.TIMEOUT), (0, 2.0, Ended.REPLIED), (1, 3.0, Ended.REFUSED)],
    )
    assert joined(tmp_path / "all", [early, late]) == rows(late)
    with JournalWriter(tmp_path / "all") as target:
        assert journal_join.join(late, target) == 0
        assert [found.attempt for found in target.history(asked(0))] == [1, 2]


def test_what_stands_is_the_last_reply_whichever_was_joined_first(tmp_path: Path) -> None:
    first = written(tmp_path / "first", [(0, 5.0, Ended.REPLIED)])
    second = written(tmp_path / "second", [(0, 9.0, Ended.REPLIED)])
    for place, order in enumerate(([first, second], [second, first])):
        joined(tmp_path / str(place), order)
        (stands,) = Journal(tmp_path / str(place)).replies()
        assert (stands.reply.text, stands.attempt) == ("0 at 9.0", 2)


def test_the_names_of_the_first_asking_stay(tmp_path: Path) -> None:
    written(tmp_path / "all", [(0, 1.0, Ended.REPLIED)])
    with JournalWriter(tmp_path / "other") as other:
        other.begin(asked(0, example_id="renamed")).result()
    with JournalWriter(tmp_path / "all") as target:
        journal_join.join(tmp_path / "other", target)
    assert [found.reply.example_id for found in Journal(tmp_path / "all").replies()] == ["e0"]


def test_only_the_keys_that_are_named(tmp_path: Path) -> None:
    source = written(tmp_path / "source", [(n, float(n), Ended.REPLIED) for n in (0, 1, 2)])
    with JournalWriter(tmp_path / "all") as target:
        assert journal_join.join(source, target, [asked(1).key, asked(7).key]) == 1
        assert [found.reply.example_id for found in target.replies()] == ["e1"]


WRITING = r"""
import os, sys, threading
from pathlib import Path
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.requests import Request

journal = JournalWriter(Path(sys.argv[1]))

def work(worker):
    for n in range(10**9):
        request = Request(example_id="e", task="t", teacher="t", prompt="p", model="m",
                          messages=({"role": "user", "content": f"{worker} {n}"},))
        sent = journal.begin(request).result()
        journal.end(sent, Answer(ended=Ended.REPLIED, text=request.key), seconds=0).result()
        os.write(1, f"{request.key}\n".encode())

for worker in range(4):
    threading.Thread(target=work, args=(worker,), daemon=True).start()
threading.Event().wait()
"""


def test_what_a_killed_writer_left_is_taken_in_with_its_log(tmp_path: Path) -> None:
    source = tmp_path / "all.shards" / "00.journal"
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(source)], stdout=subprocess.PIPE, text=True
    ) as writing:
        assert writing.stdout is not None
        keys = [writing.stdout.readline().strip() for _ in range(40)]
        with JournalWriter(tmp_path / "all") as target, \
                pytest.raises(TeachingError, match=rf"00.journal: process {writing.pid} on"):  # fmt: skip
            journal_join.gather(target, patience=0.2)
        # Its lock goes with it, a moment after the first try.
        threading.Timer(0.3, writing.kill).start()
        with JournalWriter(tmp_path / "all") as target:
            journal_join.gather(target, patience=30)
            keys += writing.stdout.read().split()
            found = {each.key: each.reply.text for each in target.replies()}
            assert set(keys) <= found.keys()
            assert len(found) - len(set(keys)) <= 4  # durable, but not yet said
            assert all(key == text for key, text in found.items())
            assert len(list(target.in_flight())) <= 4
    assert writing.returncode == -signal.SIGKILL
    assert not source.parent.exists()


def test_a_target_whose_reader_was_cut_off_takes_the_same_again(tmp_path: Path) -> None:
    """A crash between the join and the removal of what was joined."""
    source = written(tmp_path / "all.shards" / "00.journal", [(0, 1.0, Ended.REPLIED)])
    once = joined(tmp_path / "all", [source])
    with JournalWriter(tmp_path / "all") as target:
        journal_join.gather(target, patience=0)
    assert rows(tmp_path / "all") == once
    assert not source.exists()


def test_a_foreign_damaged_or_other_version_s_source_is_named(tmp_path: Path) -> None:
    source = written(tmp_path / "s", [(n, float(n), Ended.REPLIED) for n in range(200)])
    whole = source.read_bytes()
    with JournalWriter(tmp_path / "all") as target:
        with pytest.raises(TeachingError, match="gone: not there; expected a journal"):
            journal_join.join(tmp_path / "gone", target)
        source.write_bytes(b"what is this" * 500)
        with pytest.raises(TeachingError, match=r"s: cannot be read \(file is not a database\)"):
            journal_join.join(source, target)
        for damaged in (whole[: len(whole) // 2], whole[:8192] + bytes(8192) + whole[16384:]):
            source.write_bytes(damaged)
            with pytest.raises(
                TeachingError, match=r"s: cannot be read \(.*restore it from a copy"
            ):
                journal_join.join(source, target)
        source.write_bytes(whole)
        with sqlite3.connect(source) as plain:
            plain.execute("PRAGMA user_version = 9")
        plain.close()
        with pytest.raises(TeachingError, match="s: a journal of version 9, expected 1"):
            journal_join.join(source, target)
        assert list(target.replies()) == []


def test_a_target_that_cannot_be_written_is_named_and_unchanged(tmp_path: Path) -> None:
    source = written(tmp_path / "source", [(0, 1.0, Ended.REPLIED)])
    with JournalWriter(tmp_path / "all") as target:
        with sqlite3.connect(tmp_path / "all") as plain:
            plain.execute("CREATE TRIGGER full BEFORE INSERT ON endings "
                          "BEGIN SELECT RAISE(ABORT, 'disk full'); END")  # fmt: skip
        plain.close()
        with pytest.raises(WorkError, match=r"all: .*source cannot be joined into it \(disk full"):
            journal_join.join(source, target)
    assert rows(tmp_path / "all") == ([], [])


def test_a_source_that_is_held_is_waited_for_and_then_named(tmp_path: Path) -> None:
    source = written(tmp_path / "source", [(0, 1.0, Ended.REPLIED)])
    handle = journal_file.lock(source)
    with JournalWriter(tmp_path / "all") as target:
        with pytest.raises(TeachingError, match=r"source: process .* writes it"):
            journal_join.absorb(source, target, patience=0.2)
        threading.Timer(0.3, os.close, [handle]).start()
        journal_join.absorb(source, target, patience=30)
        assert len(list(target.replies())) == 1
    assert list(tmp_path.glob("source*")) == []
