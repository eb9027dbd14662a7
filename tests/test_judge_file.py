"""`whytune predict`: files in, the same files with answers out, whatever stops it on the way."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import whytune
from whytune import judge_file, judge_tables, pipeline, recipe_file
from whytune.errors import CorpusError, FolderError, InputError
from whytune.judge import Judge
from whytune.judge_columns import Answer
from whytune.judge_file import How, Summary
from whytune.judge_journal import Journal
from whytune.material import gather
from whytune.progress import Advance, Progress
from whytune.run_folder import Cell

RECIPE = """
name: judged
model: {model}
corpora: {{starter: {{train: 8, test: 6}}}}
tasks: [naturalness]
arms: {{why: {{explanation: assessment, words: 4}}}}
prompt: {{max_length: 256}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 1, per_device_train_batch_size: 4}}
predict: {{explanations: 0, max_new_tokens: 3}}
evidence: {{bootstrap: 100}}
"""
QUIET = Progress(quiet=True)
SMALL = How(batch_size=1)  # chunks of eight
ADDED = ["label", "outcome", "expected", "confidence", "label_mass", *(f"p_{n}" for n in range(1, 6)),
         "reason"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = recipe_file.parse(RECIPE.format(model=tiny_folder), place="judged.yaml")
    folder = tmp_path_factory.mktemp("judged") / "run"
    cell = Cell(corpus="starter", tasks=("naturalness",), arm="why", seed=0)
    pipeline.run(recipe, cell, [gather(recipe)["starter", "naturalness"]], folder, QUIET)
    return folder


@pytest.fixture(scope="module")
def judge(run: Path) -> Judge:
    return whytune.load(run)


class Telling(Progress):
    """Remembers what was said, and stops after so many rows."""

    def __init__(self, stop_after: int | None = None):
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.counted = 0
        self.stop_after = stop_after

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        def advance(count: int = 1, note: str = "") -> None:
            self.counted += count
            if self.stop_after is not None and self.counted >= self.stop_after:
                raise KeyboardInterrupt

        yield advance


def texts(count: int) -> list[str]:
    return [f"Text {n}: " + "it opens, " * (n * 7 % 5) for n in range(count)]


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))


def names(prefix: str = "naturalness_") -> list[str]:
    return [prefix + name for name in ADDED]


def test_a_csv_keeps_its_columns_and_gets_answers(run: Path, judge: Judge, tmp_path: Path) -> None:
    rows = [[str(n), text, 'a "quoted", cell\nof two lines'] for n, text in enumerate(texts(20))]
    file = write_csv(tmp_path / "data.csv", [["n", "text", "label"], *rows])
    show = Telling()
    found = judge_file.predict(run, file, None, SMALL, show)
    place = tmp_path / "data.judged.csv"
    assert found == Summary(out=str(place), rows=20, judged=20, unreadable=0, abstained=0,
                            seconds=found.seconds)  # fmt: skip
    assert show.counted == 20
    out = read_csv(place)
    assert list(out[0]) == ["n", "text", "label", *names()]
    assert [[row["n"], row["text"], row["label"]] for row in out] == rows
    for row, told in zip(out, judge.predict(texts(20)), strict=True):
        assert row["naturalness_label"] == told.label
        assert row["naturalness_outcome"] == "read"
        assert float(row["naturalness_confidence"]) == pytest.approx(max(told.probs.values()))
        assert float(row["naturalness_expected"]) == pytest.approx(told.expected)
        assert float(row["naturalness_label_mass"]) == pytest.approx(told.label_mass, rel=1e-4)
        assert sum(float(row[f"naturalness_p_{n}"]) for n in range(1, 6)) == pytest.approx(1)
        assert row["naturalness_reason"] == ""


def test_rows_that_cannot_be_read_stay_and_are_named(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(
        b"\xef\xbb\xbftext,n\n"  # 1
        b"Good.,1\n"  # 2
        b",2\n"  # 3: no text
        b"too few\n"  # 4
        b"too,many,cells\n"  # 5
        b"byte \xff,5\n"  # 6
        b'"bad "quote",6\n'  # 7
        b"\n"  # 8: no row
        b'"Also\ngood.",8\n'  # 9
    )
    show = Telling()
    found = judge_file.predict(run, file, None, SMALL, show)
    assert (found.rows, found.judged, found.unreadable, found.abstained) == (7, 2, 5, 0)
    out = read_csv(Path(found.out))
    assert [(row["text"], row["n"]) for row in out] == [
        ("Good.", "1"), ("", "2"), ("too few", ""), ("too", "many,cells"), ("byte \udcff", "5"),
        ('"bad "quote",6', ""), ("Also\ngood.", "8"),
    ]  # fmt: skip
    assert [row["naturalness_outcome"] for row in out] == ["read", *["unreadable"] * 5, "read"]
    assert [row["naturalness_label"] == "" for row in out] == [False, *[True] * 5, False]
    assert [line.split(":")[0] for line in show.said] == [
        f"data.csv, line {n}" for n in range(3, 8)
    ]
    for line, why in zip(show.said, ["found no text", "found 1 cells, expected 2", "found 3 cells",
                                     "byte 0xff is not UTF-8", "not readable as CSV"], strict=True):  # fmt: skip
        assert why in line
    # And nobody but these rows: the file as it was is the beginning of every line.
    assert b"byte \xff,5," in Path(found.out).read_bytes()


def test_json_lines_keep_every_digit(run: Path, judge: Judge, tmp_path: Path) -> None:
    lines = [
        '{"text": "One.", "x": 1.2345678901234567890123, "x": 1e999}',
        "not json", '["a list"]', '{"n": 1}', "", '{"text": 5}', "{}", '{"text": "Zwei ü."} ',
        '{"text": "half \\ud800"}',
    ]  # fmt: skip
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    show = Telling()
    found = judge_file.predict(run, file, None, SMALL, show)
    assert (found.rows, found.judged, found.unreadable) == (8, 2, 6)
    out = Path(found.out).read_text(encoding="utf-8").split("\n")
    assert out[0].startswith('{"text": "One.", "x": 1.2345678901234567890123, "x": 1e999, "natural')
    read = [json.loads(line) for line in out[:-1]]
    assert [list(row)[-len(ADDED) :] for row in read] == [names()] * 8
    assert read[1]["unread"] == "not json"
    assert read[2]["unread"] == '["a list"]'
    assert read[3]["n"] == 1
    assert [row["naturalness_label"] is None for row in read] == [False, *[True] * 5, False, True]
    assert read[6]["naturalness_label"] == judge.predict(["Zwei ü."])[0].label
    assert "found 5, expected text" in read[4]["naturalness_reason"]
    assert [line.split(":")[0] for line in show.said] == [
        f"data.jsonl, line {n}" for n in (2, 3, 4, 6, 7, 9)
    ]


def test_parquet_keeps_its_types(run: Path, judge: Judge, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At nine."}]
    broken = pa.StringArray.from_buffers(3, pa.array([0, 2, 4, 6], pa.int32()).buffers()[1],
                                         pa.py_buffer(b"ok\xff\xfeok"))  # fmt: skip
    table = pa.table({
        "messages": [chat, None, [{"role": "ghost", "content": "x"}]],
        "when": pa.array([1, 2, None], pa.timestamp("us")), "odd": broken,
    }).replace_schema_metadata({"mine": "kept"})  # fmt: skip
    pq.write_table(table, tmp_path / "data.parquet")
    found = judge_file.predict(run, tmp_path / "data.parquet", None, SMALL, QUIET)
    out = pq.read_table(found.out)
    assert out.schema.metadata[b"mine"] == b"kept"
    assert out.column_names == ["messages", "when", "odd", *names()]
    assert out.select(["messages", "when"]).equals(table.select(["messages", "when"]))
    assert out["naturalness_outcome"].to_pylist() == ["read", "unreadable", "unreadable"]
    assert out["naturalness_label"][0].as_py() == judge.predict([chat])[0].label
    again = judge_file.predict(run, tmp_path / "data.parquet", tmp_path / "odd.parquet",
                               replace(SMALL, text="odd"), QUIET)  # fmt: skip
    assert pq.read_table(again.out)["naturalness_outcome"].to_pylist() == [
        "read", "unreadable", "read",
    ]  # fmt: skip


def test_abstaining_changes_without_asking_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_csv(tmp_path / "data.csv.txt", [["text"], *([text] for text in texts(9)), [" "]])
    packed = tmp_path / "data.csv.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    plain = judge_file.predict(run, packed, None, SMALL, QUIET)
    assert plain.out.endswith("data.judged.csv.gz")
    before = read_csv(Path(plain.out))
    sure = sorted(float(row["naturalness_confidence"]) for row in before[:9])
    least = (sure[3] + sure[4]) / 2
    monkeypatch.setattr("whytune.judge.load", lambda *_, **__: pytest.fail("asked again"))
    found = judge_file.predict(run, packed, None, replace(SMALL, abstain_below=least), QUIET)
    assert (found.rows, found.judged, found.unreadable, found.abstained) == (10, 5, 1, 4)
    for row, old in zip(read_csv(Path(found.out)), before, strict=True):
        withheld = old["naturalness_confidence"] and float(old["naturalness_confidence"]) < least
        if withheld:
            assert (row["naturalness_label"], row["naturalness_outcome"]) == ("", "abstained")
            assert f"is below {least:g}" in row["naturalness_reason"]
            assert row["naturalness_p_1"] == old["naturalness_p_1"]
        else:
            assert row == old


KILLED = """
import os, sys
from pathlib import Path
from whytune import judge_file, judge_journal
from whytune.progress import Progress

add = judge_journal.Journal.add
def dying(self, rows):
    add(self, rows)
    if self.done >= 16:
        os.write(self._handle, b'{"first": 16, "rows": [[["1", 0.')
        os._exit(9)
judge_journal.Journal.add = dying
run, file, out = sys.argv[1:]
judge_file.predict(run, Path(file), Path(out), judge_file.How(batch_size=1), Progress(quiet=True))
"""


def test_what_is_killed_goes_on_and_ends_with_the_identical_file(run: Path, tmp_path: Path) -> None:
    rows = [[text] for text in [*texts(10), "", *texts(19)]]
    file = write_csv(tmp_path / "data.csv", [["text"], *rows])
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    judge_file.predict(run, file, whole, SMALL, QUIET)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), str(file), str(cut)], check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 9
    assert not cut.exists()
    show = Telling()
    with pytest.raises(KeyboardInterrupt):
        judge_file.predict(run, file, cut, SMALL, Telling(stop_after=24))
    assert not cut.exists()
    found = judge_file.predict(run, file, cut, SMALL, show)
    assert show.said == ["data.csv: 24 rows were judged before"]
    assert (found.rows, found.judged, found.unreadable) == (30, 29, 1)
    assert cut.read_bytes() == whole.read_bytes()
    journals = [place.with_name(f"{place.name}.journal").read_bytes() for place in (whole, cut)]
    assert journals[0] == journals[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.csv", "cut.csv.journal", "data.csv", "whole.csv", "whole.csv.journal",
    ]  # fmt: skip


def test_a_journal_of_something_else_is_refused(run: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "data.csv", [["text", "other"], ["A text.", "B"]])
    found = judge_file.predict(run, file, None, SMALL, QUIET)
    journal = Path(f"{found.out}.journal")
    for how, what in ((replace(SMALL, text="other"), "column"),
                      (replace(SMALL, explain=True), "explain")):  # fmt: skip
        with pytest.raises(FolderError, match=f"was begun with another {what} .*delete the file"):
            judge_file.predict(run, file, None, how, QUIET)
    with file.open("a", encoding="utf-8") as more:
        more.write("C text.,D\n")
    with pytest.raises(FolderError, match="another input"):
        judge_file.predict(run, file, None, SMALL, QUIET)
    lines = journal.read_text().splitlines()
    with (
        Journal(journal, json.loads(lines[0])),
        pytest.raises(FolderError, match="another process writes it"),
    ):
        Journal(journal, {})
    journal.write_text("\n".join([lines[0], lines[1].replace('"first": 0', '"first": 7')]) + "\n")
    with pytest.raises(FolderError, match=r"line 2: not what whytune wrote .row 7, expected 0"):
        Journal(journal, json.loads(lines[0]))
    journal.write_text("half a li")
    with Journal(journal, {"input": "x"}) as fresh:
        assert fresh.done == 0
        fresh.add([[Answer(reason="none")], [Answer(label="1", probs=(0.1, 0.9), confidence=0.9)]])
        assert [row[0].outcome for row in fresh.rows()] == ["unreadable", "read"]


def test_an_input_that_changes_meanwhile_is_noticed(run: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "data.csv", [["text"], ["A text."]])

    class Meddling(Telling):
        @contextmanager
        def work(self, title: str, total: int) -> Iterator[Advance]:
            with super().work(title, total) as advance:
                yield advance
            file.write_text("text\nAnother.\n", encoding="utf-8")

    with pytest.raises(CorpusError, match="changed while it was judged"):
        judge_file.predict(run, file, None, SMALL, Meddling())
    assert not (tmp_path / "data.judged.csv").exists()


def refused(
    folder: Path,
) -> Iterator[tuple[Path, dict[str, Any], Path | None, type[InputError], str]]:
    good = write_csv(folder / "good.csv", [["text", "naturalness_label"], ["A", "B"]])
    plain = write_csv(folder / "plain.csv", [["words"], ["A"]])
    yield good, {}, None, InputError, "column naturalness_label: there already"
    yield plain, {}, None, InputError, "found the columns words; say which one"
    yield plain, {"text": "wrods"}, None, InputError, "column wrods: not there; did you mean words"
    yield plain, {"text": "words", "tasks": ["no"]}, None, InputError, "was not taught it"
    yield plain, {"text": "words"}, plain, InputError, "is the input"
    yield plain, {"text": "words"}, folder / "o.jsonl", InputError, "found .jsonl, expected .csv"
    yield plain, {"text": "words"}, folder / "no" / "o.csv", FolderError, "no such folder"
    yield plain, {"text": "words"}, good, FolderError, "there already, without a journal"
    yield folder / "none.csv", {}, None, CorpusError, "not there"
    for name, content, message in (
        ("data.txt", "x", "found a file of another kind"),
        ("empty.csv", "", "found an empty file, expected a header"),
        ("header.csv", "text\n", "found no rows"),
        ("twice.csv", "text,text\nA,B\n", "column 'text' stands twice"),
        ("damaged.parquet", "PAR1 is not enough", "not readable as Parquet"),
        ("damaged.csv.gz", "text", "not gzip data"),
        ("empty.jsonl", "\n\n", "found no rows"),
    ):
        (folder / name).write_text(content, encoding="utf-8")
        yield folder / name, {}, None, CorpusError, message


def test_what_cannot_be_judged_is_refused_with_a_way_out(run: Path, tmp_path: Path) -> None:
    for file, how, out, error, message in refused(tmp_path):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(error, match=message):
            judge_file.predict(run, file, out, replace(SMALL, **how), QUIET)
        assert sorted(tmp_path.iterdir()) == before


def test_tables_are_read_in_flat_memory(tmp_path: Path) -> None:
    """Sixteen times the rows do not take more memory, to read and to write."""
    import tracemalloc

    def peak(rows: int) -> int:
        file = tmp_path / f"{rows}.csv"
        write_csv(file, [["text", "n"], *([f"Text {n}", str(n)] for n in range(rows))])
        tracemalloc.start()
        table = judge_tables.opened(file)
        assert sum(1 for _ in table.rows("text")) == rows
        table.write(tmp_path / "out.csv", [("a", pa.string())], (["x"] for _ in range(rows)))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is kept for ever after
    small, large = peak(500), peak(8_000)
    assert large < small + 2**18
