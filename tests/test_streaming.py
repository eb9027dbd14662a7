"""Corpora of any length: what is kept of a stream, tables row by row, and rows left out."""

import csv
import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whytune import corpora
from whytune.corpora import files, ledger, raters, sampling, splits
from whytune.corpora.corpus import Item
from whytune.errors import CorpusError
from whytune.recipe_data import Columns, CorpusSpec
from whytune.records import Example, Kind, Label, Reply, Split, Task, Turn
from whytune.teaching import replies

MOOD = Task(
    name="mood",
    kind=Kind.NOMINAL,
    question="Which mood?",
    labels=(Label(name="joy"), Label(name="fear")),
)
POINTS = Task(
    name="points",
    kind=Kind.ORDINAL,
    question="How many?",
    labels=tuple(Label(name=str(i)) for i in range(1, 6)),
)
COLUMNS = Columns(text="text", explanation="why")
LINES = [json.dumps({"text": f"text {i}", "label": "joy", "why": f"w {i}"}) for i in range(300)]


def load(
    path: Path, columns: Columns = COLUMNS, task: Task = MOOD, **spec: object
) -> corpora.Corpus:
    given = CorpusSpec.model_validate(
        {"loader": "table", "path": str(path), "columns": columns, **spec}
    )
    return corpora.load("mine", given, [task])


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


# What is kept of a stream


def item(number: int, group: int, split: Split | None, settled: bool) -> Item:
    turns = (Turn(role="text", text=f"text {number}"),)
    example = Example(id=f"e{number}", source="s", group=f"g{group}", turns=turns, split=split)
    return Item(example=example, settled=settled)


def drawn_from(items: Sequence[Item], spec: CorpusSpec) -> splits.Division:
    unsettled = frozenset(one.example.id for one in items if not one.settled)
    return splits.divide("c", [one.example for one in items], spec, unsettled)


def streamed(items: Sequence[Item], spec: CorpusSpec) -> sampling.Candidates:
    def read(sieve: sampling.Sieve) -> Iterator[Item]:
        for one in items:
            if sieve.passes(one.example.id, one.example.group, one.example.split):
                yield one

    return sampling.candidates(
        "c", spec, read, lambda _: partial(raters.as_one, tasks=[MOOD]),
        repeats="examples repeat", drop_torn=False,
    )  # fmt: skip


def outcome(items: Sequence[Item], spec: CorpusSpec) -> object:
    try:
        return drawn_from(items, spec).examples
    except CorpusError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(
    groups=st.lists(st.integers(0, 40), min_size=1, max_size=80),
    native=st.booleans(),
    unsettled=st.sets(st.integers(0, 79), max_size=40),
    train=st.integers(0, 30),
    validation=st.integers(0, 10),
    test=st.integers(1, 20),
    seed=st.integers(0, 2),
    order=st.randoms(use_true_random=False),
)
def test_candidates_are_all_that_a_sample_needs(
    groups: list[int],
    native: bool,
    unsettled: set[int],
    train: int,
    validation: int,
    test: int,
    seed: int,
    order: random.Random,
) -> None:
    parts = [Split.TRAIN, Split.TEST, Split.TRAIN, Split.VALIDATION, Split.TRAIN]
    items = [
        item(i, group, parts[group % 5] if native else None, i not in unsettled)
        for i, group in enumerate(groups)
    ]
    spec = CorpusSpec(train=train, validation=validation, test=test, seed=seed)
    shuffled = items + items[::3]  # every third comes twice
    order.shuffle(shuffled)
    with mock.patch.object(sampling, "SPARE", 0):
        found = streamed(shuffled, spec)
    assert outcome(found.items, spec) == outcome(items, spec)
    assert found.ledger.counts["examples repeat"] == len(items[::3])


def test_only_what_can_be_chosen_is_kept() -> None:
    items = [item(i, i // 3, None, True) for i in range(3000)]
    spec = CorpusSpec(train=20, validation=5, test=10)
    found = streamed(items, spec)
    backwards = streamed(items[::-1], spec)
    assert len(found.items) < 250
    assert kept(found) == kept(backwards)
    more = spec.model_copy(update={"train": 50})
    small = drawn_from(found.items, spec).examples
    large = drawn_from(streamed(items, more).items, more).examples
    assert {e.id for e in small} < {e.id for e in large}


def kept(found: sampling.Candidates) -> set[str]:
    return {one.example.id for one in found.items}


def test_a_stream_is_read_again_where_people_did_not_settle() -> None:
    readings = []

    def read(sieve: sampling.Sieve) -> Iterator[Item]:
        readings.append(sieve)
        for number in range(3000):
            one = item(number, number, None, number % 40 == 0)
            if sieve.passes(one.example.id, one.example.group, one.example.split):
                yield one

    spec = CorpusSpec(train=10, test=20)
    found = sampling.candidates(
        "c", spec, read, lambda _: partial(raters.as_one, tasks=[MOOD]), repeats="", drop_torn=False
    )
    assert len(readings) == 3
    test = [e.id for e in drawn_from(found.items, spec).examples if e.split is Split.TEST]
    assert len(test) == 20
    assert all(int(i[1:]) % 40 == 0 for i in test)


def test_a_leak_is_found_though_no_candidate_shows_it() -> None:
    items = [item(i, i, Split.TRAIN if i < 900 else Split.TEST, True) for i in range(1000)]
    torn = [*items, item(1000, 0, Split.TEST, True), item(1001, 1, Split.TEST, True)]
    with pytest.raises(CorpusError, match="found 2 groups on both sides"):
        streamed(torn, CorpusSpec(train=3, test=3))
    with pytest.raises(CorpusError, match="1 of 1001 examples without a split"):
        streamed([*items, item(1000, 0, None, True)], CorpusSpec(train=3, test=3))


def test_replies_about_the_same_content_are_merged_in_any_order() -> None:
    def said(label: str, teacher: str, why: str) -> Item:
        text = json.dumps({"label": label, "assessment": why})
        reply = Reply(example_id="e0", task="mood", teacher=teacher, prompt="p", text=text)
        return Item(example=item(0, 0, None, True).example, replies=(reply,))

    same = [
        said("joy", "a", "x"),
        said("joy", "a", "x"),
        said("fear", "a", "y"),
        said("joy", "b", ""),
    ]
    merged = raters.as_one(same, [MOOD])
    assert merged == raters.as_one(same[::-1], [MOOD])
    assert [reply.teacher for reply in merged.replies] == ["a", "a-2", "b"]
    assert len(replies.read_all(merged.replies, [MOOD])) == 3


# Tables, row by row

# Everything that can be written: no half surrogate pairs, which no file can hold.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from("\n\r\t\0\"',\\\u2028\u0085\u202e\u05d0\ufeff😀𝔸"),
    min_size=1,
    max_size=30,
).filter(lambda text: text.strip())


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=4, max_size=8, unique=True),
    whys=st.lists(TEXT, min_size=8, max_size=8),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read(texts: list[str], whys: list[str], ends: str) -> None:
    rows = [
        {"text": text, "label": "joy", "why": why} for text, why in zip(texts, whys, strict=False)
    ]
    found = []
    with TemporaryDirectory() as folder:
        for kind in ("csv", "jsonl", "parquet", "jsonl.gz"):
            path = Path(folder) / f"t.{kind}"
            write_as(path, rows, ends)
            whole = load(path)
            assert {e.turns[0].text for e in whole.examples} == set(texts)
            assert {json.loads(r.text)["assessment"] for r in whole.replies} <= set(whys)
            assert not whole.ledger.unreadable
            found.append((whole.examples, whole.replies, load(path, train=1, test=1).examples))
    assert all(one == found[0] for one in found)


def write_as(path: Path, rows: Sequence[dict[str, str]], ends: str) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, fieldnames=list(rows[0]), lineterminator=ends, quoting=csv.QUOTE_ALL
            )
            writer.writeheader()
            writer.writerows(rows)
    else:
        content = "".join(json.dumps(row, ensure_ascii=False) + ends for row in rows).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.jsonl"
        with path.open("w") as file:
            for i in range(rows):
                file.write(json.dumps({"text": f"{i} " + "word " * 100, "label": "joy"}) + "\n")
        tracemalloc.start()
        corpus = load(path, Columns(text="text"), train=50, test=20)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert corpus.ledger.rows == rows
        return found

    small, large = peak(2_000), peak(20_000)
    # 18,000 further rows have 9 MB; 8 bytes of each are kept, in buffers that double.
    assert large - small < 1_000_000


def test_a_sample_of_a_table_is_that_of_the_whole(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {i // 2}", "label": "joy" if i % 3 else "fear", "who": f"r{i % 2}"}
        for i in range(800)
    ]
    lines = [json.dumps(row) for row in rows]
    columns = Columns(text="text", rater="who")
    first = load(write(tmp_path / "a.jsonl", lines), columns, train=30, validation=5, test=20)
    random.Random(1).shuffle(lines)
    second = load(write(tmp_path / "b.jsonl", lines), columns, train=30, validation=5, test=20)
    assert first.examples == second.examples
    assert first.replies == second.replies
    assert first.notes == second.notes
    assert len(first.replies) == 2 * len(first.examples)
    counts = [sum(e.split is split for e in first.examples) for split in Split]
    assert counts == [30, 5, 20]
    larger = load(tmp_path / "b.jsonl", columns, train=60, validation=5, test=20)
    assert {e.id for e in first.examples} < {e.id for e in larger.examples}


# Rows that are left out


def test_unreadable_rows_are_left_out_and_told(tmp_path: Path) -> None:
    lines = [*LINES, '{"text": "a", "label": "rage"}', '{"text": "cut off', "[1]"]
    corpus = load(write(tmp_path / "t.jsonl", lines))
    assert len(corpus.examples) == 300
    assert (corpus.ledger.rows, corpus.ledger.unreadable) == (303, 3)
    places = [row.place for row in corpus.ledger.quarantined]
    assert places == ["t.jsonl, line 301", "t.jsonl, line 302", "t.jsonl, line 303"]
    reasons = [row.reason for row in corpus.ledger.quarantined]
    assert reasons[0].startswith("column label: found label 'rage', expected one of joy, fear")
    assert reasons[1].startswith("not readable as JSON (Unterminated string")
    assert reasons[2].startswith("not readable as JSON (found list)")
    assert corpus.ledger.quarantined[1].text == '{"text": "cut off'
    assert corpus.notes == (
        "3 of 303 rows could not be read and were left out, the first in t.jsonl, line 301: "
        f"{reasons[0]}.",
    )


def test_too_many_of_them_are_an_error_that_names_three(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [*LINES, *["torn"] * 4])
    with pytest.raises(CorpusError) as raised:
        load(path)
    lines = str(raised.value).split("\n")
    assert [line.split(": ")[0] for line in lines] == [f"{path}, line {n}" for n in (301, 302, 303)]
    assert "4 of 304 rows could not be read, expected at most 1.00%" in lines[2]
    assert "corpora.mine.max_unreadable" in lines[2]
    assert len(load(path, max_unreadable=0.02).examples) == 300


def test_only_the_first_of_very_many_are_kept() -> None:
    found = ledger.Ledger()
    for number in range(ledger.KEPT + 10):
        found.rows += 1
        found.quarantine("f", number, "torn", "x" * 1000)
    assert (len(found.quarantined), found.unreadable) == (ledger.KEPT, ledger.KEPT + 10)
    assert found.share == 1.0
    assert len(found.quarantined[0].text) == ledger.SHOWN


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ('"cut off,joy', "not readable as CSV (unexpected end of data)"),
        ("cut off", "found 1 cells, expected 2"),
        ('"a\nb"x,joy\n', "not readable as CSV"),
        ("a,b,joy\n", "found 3 cells, expected 2"),
        (b"caf\xe9,joy\n", "byte 0xe9 is not UTF-8"),
        (b'"caf\xe9\n, again",joy\n', "byte 0xe9 is not UTF-8"),
    ],
)
def test_a_torn_csv_row_is_left_out(tmp_path: Path, tail: str | bytes, reason: str) -> None:
    # A byte order mark, CRLF beside LF, an empty line, a cell over two lines.
    rows = [f"text {i},joy" + ("\r\n" if i % 2 else "\n") for i in range(250)]
    content = "\ufefftext,label\r\n" + "".join(rows) + '\n"two\r\nlines",fear\n'
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() + (tail if isinstance(tail, bytes) else tail.encode()))
    corpus = load(path, Columns(text="text"))
    assert len(corpus.examples) == 251
    assert "two\r\nlines" in {e.turns[0].text for e in corpus.examples}
    (row,) = corpus.ledger.quarantined
    assert row.line == 255
    assert row.reason.startswith(reason)


def test_a_quote_that_never_ends_counts_for_all_it_swallows(tmp_path: Path) -> None:
    rows = [f"text {i},joy\n" for i in range(250)]
    rows[50] = '"text 50,joy\n'
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(rows))
    with pytest.raises(CorpusError, match="200 of 250 rows could not be read"):
        load(path, Columns(text="text"))


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    lines = [json.dumps({"text": text, "label": "joy"}) for text in ("a", long, "b")]
    assert long in {
        e.turns[0].text
        for e in load(write(tmp_path / "t.jsonl", lines), Columns(text="text")).examples
    }
    path = write(tmp_path / "t.csv", ["text,label", "a,joy", f'"{long}",joy', "b,joy"])
    assert long in {e.turns[0].text for e in load(path, Columns(text="text")).examples}


def test_a_half_surrogate_is_named(tmp_path: Path) -> None:
    lines = [*LINES, '{"text": "a\\ud800", "label": "joy"}']
    (row,) = load(write(tmp_path / "t.jsonl", lines)).ledger.quarantined
    assert (row.line, row.reason) == (
        301, "column text: found half a surrogate pair at character 1, expected whole characters; "
        "correct it"
    )  # fmt: skip


def test_what_contradicts_itself_is_left_out(tmp_path: Path) -> None:
    rows = [("text 0", "fear"), ("text 1", "joy"), ("new", "joy"), ("new", "joy")]
    lines = [*LINES, *(json.dumps({"text": text, "label": label}) for text, label in rows)]
    path = write(tmp_path / "t.jsonl", lines)
    corpus = load(path)
    assert "text 0" not in {e.turns[0].text for e in corpus.examples}
    assert len(corpus.examples) == 300
    (row,) = corpus.ledger.quarantined
    assert (row.line, corpus.ledger.unreadable) == (301, 2)
    assert "has the label fear, but joy in line 1" in row.reason
    assert corpus.ledger.counts[raters.REPEATS] == 2
    # Nobody contradicts: two people may differ.
    lines = [json.dumps({**json.loads(line), "who": i % 7}) for i, line in enumerate(lines)]
    corpus = load(write(tmp_path / "u.jsonl", lines), Columns(text="text", rater="who"))
    assert corpus.ledger.unreadable == 0


def test_a_missing_column_is_an_error_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", LINES * 10)
    with pytest.raises(CorpusError, match=r"column txt: not there \(for text\)"):
        load(path, Columns(text="txt"), max_unreadable=1.0)
    with pytest.raises(CorpusError, match=r"column raeson: not there \(for explanation\)"):
        load(path, Columns(text="text", explanation="raeson"))
    late = [*LINES, json.dumps({"text": "a", "label": "joy", "late": "because"})]
    assert load(write(tmp_path / "l.jsonl", late), Columns(text="text", explanation="late"))


def test_bytes_that_are_no_text_in_parquet(tmp_path: Path) -> None:
    texts = [f"text {i}".encode() for i in range(200)]
    texts[150] = b"caf\xe9"
    labels = pa.array(["joy"] * 200)
    table = pa.table({"text": pa.array(texts, pa.binary()).view(pa.string()), "label": labels})
    pq.write_table(table, tmp_path / "t.parquet")
    corpus = load(tmp_path / "t.parquet", Columns(text="text"))
    (row,) = corpus.ledger.quarantined
    assert (row.line, row.reason) == (151, "byte 0xe9 is not UTF-8; expected UTF-8")
    assert len(corpus.examples) == 199


def test_a_byte_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", LINES)
    path.write_bytes(path.read_bytes() + b'{"text": "caf\xe9", "label": "joy"}\n')
    (row,) = load(path).ledger.quarantined
    assert (row.line, row.reason) == (301, "byte 0xe9 is not UTF-8; expected UTF-8 text")


# Files


def test_lines_are_numbered_and_the_file_is_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\xff\nx\xe2\x80\xa8y\n\nlast")
    found = ledger.Ledger()
    assert list(files.lines(path, found)) == [(1, "one"), (3, "x\u2028y"), (4, ""), (5, "last")]
    assert found.inputs == {"a.txt": files.read(path).sha256}
    assert [(row.line, row.reason) for row in found.quarantined] == [(2, "byte 0xff is not UTF-8")]
    assert files.sha256(path) == files.read(path).sha256
    latin = [text for _, text in files.lines(path, ledger.Ledger(), encoding="latin-1")]
    assert latin[1] == "two\xff"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("a.txt.gz", b"plain", "not gzip data"),
        (
            "a.txt.gz",
            gzip.compress(random.Random(0).randbytes(999), mtime=0)[:-50],
            "ends too early",
        ),
        ("a.txt.gz", gzip.compress(b"a\n" * 99, mtime=0)[:-8] + b"\0" * 8, "damaged gzip data"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=expected):
        list(files.lines(tmp_path / name, ledger.Ledger()))
