"""Large JSON Lines files: several processes come to what one comes to."""

import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whytune import corpora
from whytune.corpora import files, identity, ledger, mapping, ranges, sampling, tables
from whytune.errors import CorpusError
from whytune.recipe_data import Columns, CorpusSpec
from whytune.records import Kind, Label, Task

MOOD = Task(
    name="mood",
    kind=Kind.NOMINAL,
    question="Which mood?",
    labels=(Label(name="joy"), Label(name="fear")),
)
COLUMNS = Columns(text="text", explanation="why")


def load(path: Path, columns: Columns = COLUMNS, **spec: object) -> corpora.Corpus:
    given = CorpusSpec.model_validate(
        {"loader": "table", "path": str(path), "columns": columns, **spec}
    )
    return corpora.load("mine", given, [MOOD])


def outcome(path: Path, columns: Columns, spec: dict[str, Any]) -> object:
    """Everything that a corpus is, or the error word by word."""
    try:
        corpus = load(path, columns, **spec)
    except CorpusError as error:
        return str(error)
    told = corpus.ledger
    counts = list(told.counts.items())
    return corpus, told.quarantined, told.unreadable, told.rows, counts, told.inputs


@contextmanager
def in_ranges(cuts: Sequence[int]) -> Iterator[None]:
    """The file is cut at these bytes, and read range by range, without processes of their own."""

    def cut(table: tables.Table, sieve: sampling.Sieve) -> list[ranges.Range]:
        if sieve.drawn.rest.room is None:
            return []
        return [
            ranges.Range(table=table, start=start, stop=stop, sieve=sieve)
            for start, stop in pairwise(cuts)
        ]

    @contextmanager
    def processes(ranges: Sequence[ranges.Range]) -> Iterator[Iterator[ranges.Told]]:
        apart = [deepcopy(one) for one in ranges]
        yield (deepcopy(one.read()) for one in apart)

    with (
        mock.patch.object(ranges, "_ranges", cut),
        mock.patch.object(ranges, "_processes", processes),
    ):
        yield


# Whatever a table may hold: repeats, contradictions, raters, rows without a label, torn lines.
CELLS = st.fixed_dictionaries(
    {"text": st.sampled_from([f"Text {i}" for i in range(12)] + ["text  1", "é", "\ud800", " "])},
    optional={
        "label": st.sampled_from(["joy", "fear", "joy ", "rage", "", None]),
        "why": st.sampled_from(["a", "b", " ", None, 3.0]),
        "who": st.sampled_from(["r0", "r1", "r2"]),
        "key": st.integers(0, 9).map(str),
        "topic": st.sampled_from(["g0", "g1", "g2", "g3", ""]),
        "part": st.sampled_from(["train", "test", "validation", "dev"]),
    },
)
LINES = st.one_of(
    *[CELLS.map(lambda cells: json.dumps({"label": "joy", "topic": "g4", **cells}).encode())] * 6,
    CELLS.map(lambda cells: json.dumps(cells).encode() + b"\r"),
    CELLS.map(lambda cells: json.dumps(cells, ensure_ascii=False).encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b"  ", b'{"text": "torn', b"[1]", b"{}", b'{"a":1} 2', b"\xff", b"\xef\xbb\xbf{}"]
    ),
)
MAPPINGS = st.fixed_dictionaries(
    {"text": st.just("text")},
    optional={
        "explanation": st.sampled_from(["why", "none"]),
        "rater": st.just("who"),
        "id": st.just("key"),
        "group": st.just("topic"),
        "split": st.just("part"),
    },
)


@settings(max_examples=400, deadline=None)
@given(
    lines=st.lists(LINES, min_size=1, max_size=60),
    columns=MAPPINGS,
    spec=st.fixed_dictionaries(
        {"train": st.integers(0, 6), "validation": st.integers(0, 3), "test": st.integers(1, 4)},
        optional={"max_unreadable": st.just(1.0), "raters": st.just("all")},
    ),
    mark=st.booleans(),
    ended=st.booleans(),
    data=st.data(),
)
def test_ranges_come_to_the_whole(
    lines: list[bytes], columns: dict[str, str], spec: dict[str, Any], mark: bool, ended: bool,
    data: st.DataObject,
) -> None:  # fmt: skip
    content = b"\xef\xbb\xbf" * mark + b"\n".join(lines) + b"\n" * ended
    starts = [0]
    for line in io.BytesIO(content):
        starts.append(starts[-1] + len(line))
    cuts = sorted({0, len(content), *data.draw(st.lists(st.sampled_from(starts), max_size=6))})
    with (
        TemporaryDirectory() as folder,
        mock.patch.object(sampling, "SPARE", 0),
        mock.patch.object(mapping, "LOOKED_AT", 9),
        mock.patch.object(ledger, "KEPT", 5),
    ):
        path = Path(folder) / "t.jsonl"
        path.write_bytes(content)
        whole = outcome(path, Columns(**columns), spec)
        with in_ranges(cuts):
            assert outcome(path, Columns(**columns), spec) == whole


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    ended=st.booleans(),
    parts=st.integers(1, 12),
    block=st.integers(1, 50),
)
def test_cuts_are_at_beginnings_of_lines(
    lines: list[bytes], ended: bool, parts: int, block: int
) -> None:
    content = b"\n".join(lines) + b"\n" * ended
    with TemporaryDirectory() as folder, mock.patch.object(files, "_BLOCK", block):
        path = Path(folder) / "t.jsonl"
        path.write_bytes(content)
        cuts = files.cuts(path, parts)
        assert (cuts[0], cuts[-1]) == (0, len(content))
        assert all(content[cut - 1 : cut] == b"\n" for cut in cuts[1:-1])
        assert len(cuts) <= parts + 1
        found = [list(files.between(path, *ends)) for ends in pairwise(cuts)]
        assert b"".join(block for blocks in found for block in blocks) == content
        whole = [block for blocks in found for block in blocks]
        assert all(block.endswith(b"\n") for block in whole[:-1])
        assert b"".join(files.blocks(path, ledger.Ledger())) == content


# With processes


def write(path: Path, rows: int = 3000) -> Path:
    draw = random.Random(0)
    lines = []
    for number in range(rows):
        label = draw.choice(["joy", "fear"])
        row = {"text": f"Text {number % 2500}", "label": label, "why": "w" * draw.randrange(200)}
        lines.append(json.dumps(row) if draw.random() < 0.995 else '{"torn')
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@contextmanager
def processes(count: int = 3) -> Iterator[list["Popen[bytes]"]]:
    """So many processors, and every file large; the processes that were started."""
    found: list[Popen[bytes]] = []
    start = ranges._started

    def started(one: ranges.Range) -> "Popen[bytes]":
        found.append(start(one))
        return found[-1]

    with (
        mock.patch.object(ranges, "_processors", return_value=count),
        mock.patch.object(ranges, "_LEAST", 1),
        mock.patch.object(ranges, "_started", started),
    ):
        yield found


def test_processes_come_to_what_one_comes_to(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl")
    spec = {"train": 300, "validation": 50, "test": 100, "max_unreadable": 0.5}
    whole = outcome(path, COLUMNS, spec)
    assert not isinstance(whole, str)
    with processes() as started:
        assert outcome(path, COLUMNS, spec) == whole
    assert len(started) == 3
    assert all(process.returncode is not None for process in started)


def test_what_one_process_reads_better(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl")
    with processes() as started:
        load(path, max_unreadable=0.5)
        load(path, max_unreadable=0.5, train=10)
    with processes(count=1) as more:
        load(path, max_unreadable=0.5, train=10, test=10)
    with mock.patch.object(ranges, "_processors", return_value=2):
        load(path, max_unreadable=0.5, train=10, test=10)
    assert started == more == []


def test_a_missing_column_is_an_error_before_any_process(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl")
    with processes() as started:
        with pytest.raises(CorpusError, match=r"column txt: not there \(for text\)"):
            load(path, Columns(text="txt"), train=10, test=10)
        assert not started
        with pytest.raises(CorpusError) as cut:
            load(path, Columns(text="text", explanation="reason"), train=10, test=10)
        assert len(started) == 3
    with pytest.raises(CorpusError) as whole:
        load(path, Columns(text="text", explanation="reason"), train=10, test=10)
    assert str(cut.value) == str(whole.value)


@pytest.mark.parametrize(
    ("command", "how"),
    [("import os; os.kill(os.getpid(), 9)", "Killed"), ("raise SystemExit(3)", "exit code 3")],
)
def test_a_process_that_dies_is_an_error_in_words(tmp_path: Path, command: str, how: str) -> None:
    path = write(tmp_path / "t.jsonl")
    with (
        processes() as started,
        mock.patch.object(ranges, "_COMMAND", command),
        pytest.raises(CorpusError) as raised,
    ):
        load(path, train=10, test=10)
    assert str(raised.value).startswith(f"{path}: the process that read bytes 0 to ")
    assert f"came to nothing ({how}); expected what it found" in str(raised.value)
    assert all(process.returncode is not None for process in started)


def test_an_error_of_a_process_is_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl")
    one = ranges.Range(
        table=tables.checked("mine", path, [MOOD], COLUMNS), start=0, stop=9,
        sieve=sampling.Sieve(CorpusSpec(train=1, test=1), 1),
    )  # fmt: skip
    path.unlink()
    with (
        ranges._processes([one]) as told,
        pytest.raises(CorpusError, match=r"t\.jsonl: not there; correct the path"),
    ):
        next(told)


def test_no_process_outlives_an_interrupt(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl")
    with (
        processes() as started,
        mock.patch.object(ranges, "_COMMAND", "import time; time.sleep(600)"),
        mock.patch.object(files, "sha256", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        load(path, train=10, test=10)
    assert [process.returncode for process in started] == [-9, -9, -9]


def test_a_script_is_not_run_again(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl")
    # A module of the script's folder that has the name of one of Python's must not be found either.
    (tmp_path / "csv.py").write_text("raise SystemExit('found')")
    script = """
        import sys

        sys.path.remove(sys.path[0])
        from whytune import corpora
        from whytune.corpora import ranges
        from whytune.recipe_data import Columns, CorpusSpec
        from whytune.records import Kind, Label, Task

        ranges._processors, ranges._LEAST = lambda: 2, 1
        labels = (Label(name="joy"), Label(name="fear"))
        task = Task(name="mood", kind=Kind.NOMINAL, question="Which?", labels=labels)
        spec = CorpusSpec(loader="table", path="t.jsonl", columns=Columns(text="text"),
                          train=20, test=10, max_unreadable=0.5)
        print(len(corpora.load("mine", spec, [task]).examples))
    """
    (tmp_path / "script.py").write_text(dedent(script))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("30\n", "")


def test_the_short_way_to_a_normal_form_leads_where_the_long_one_does() -> None:
    printable = [character for character in map(chr, range(0x110000)) if character.isprintable()]
    assert [character for character in printable if character.isspace()] == [" "]
    assert not any(c.isspace() for character in printable[1:] for c in character.casefold())
    for text in ("", " ", "A b", "A  b", " A", "A ", "A\tb", "Straße\u2003X\u00a0"):
        assert identity.normal(text) == " ".join(text.casefold().split())
