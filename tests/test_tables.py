"""CSV, JSON Lines and Parquet through the column mapping."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from whytune import corpora
from whytune.errors import CorpusError
from whytune.recipe_data import Columns, CorpusSpec
from whytune.records import Kind, Label, Reference, Split, Task
from whytune.tasks import BUILT_IN
from whytune.teaching import replies

MOOD = Task(
    name="mood",
    kind=Kind.NOMINAL,
    question="Which mood?",
    labels=(Label(name="joy"), Label(name="fear"), Label(name="3")),
)
TOPIC = BUILT_IN["on_topic"]
Rows = Sequence[Mapping[str, Any]]

PLAIN: Rows = [
    {"text": f"text {i}", "label": "joy" if i % 2 else "fear", "why": f"because {i}"}
    for i in range(10)
]


def write(path: Path, rows: Rows) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        return path
    plain = path.with_name(name)
    if name.endswith(".csv"):
        with plain.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def load(path: Path, columns: Columns, task: Task = MOOD, **spec: Any) -> corpora.Corpus:
    settings = CorpusSpec(loader="table", path=str(path), columns=columns, **spec)
    return corpora.load("mine", settings, [task])


def faults(path: Path, columns: Columns, task: Task = MOOD) -> list[str]:
    with pytest.raises(CorpusError) as raised:
        load(path, columns, task)
    return str(raised.value).split("\n")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.csv.gz", "t.jsonl.gz", "t.parquet"])
def test_every_format_says_the_same(tmp_path: Path, name: str) -> None:
    columns = Columns(text="text", explanation="why")
    corpus = load(write(tmp_path / name, PLAIN), columns)
    assert len(corpus.examples) == 10
    assert list(corpus.inputs) == [name]
    other = load(write(tmp_path / "other.jsonl", PLAIN), columns)
    assert corpus.examples == other.examples
    assert corpus.replies == other.replies
    read = [replies.read(reply, MOOD) for reply in corpus.replies]
    texts = {e.id: e.turns[0].text for e in corpus.examples}
    for annotation in read:
        row = PLAIN[int(texts[annotation.example_id].split()[1])]
        assert (annotation.label, annotation.assessment) == (row["label"], row["why"])
        assert annotation.teacher == "table"


def test_the_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    rows = [*PLAIN, {**PLAIN[0], "why": "another reason"}, PLAIN[1]]
    columns = Columns(text="text", explanation="why")
    first = load(write(tmp_path / "a.csv", rows), columns, train=4, test=3)
    second = load(write(tmp_path / "b.csv", rows[::-1]), columns, train=4, test=3)
    assert first.examples == second.examples
    assert first.replies == second.replies
    assert first.notes == (
        "2 rows that repeat the same rater's label of the same text were left out.",
    )


def test_test_examples_alone_carry_gold(tmp_path: Path) -> None:
    corpus = load(write(tmp_path / "t.csv", PLAIN), Columns(text="text"))
    for example in corpus.examples:
        if example.split is Split.TEST:
            row = PLAIN[int(example.turns[0].text.split()[1])]
            assert example.gold == {"mood": Reference(label=row["label"])}
        else:
            assert not example.gold
    assert {e.split for e in corpus.examples} == {Split.TRAIN, Split.TEST}
    assert {e.source for e in corpus.examples} == {"mine"}


def test_scores_are_moved_to_the_scale_of_the_task(tmp_path: Path) -> None:
    rows = [{"t": f"x{i}", "points": p} for i, p in enumerate(["1", "100", "50.5", "26", ""])]
    columns = Columns(text="t", score="points", scale=(1, 100))
    corpus = load(write(tmp_path / "t.csv", rows), columns, TOPIC, test=2)
    assert corpus.notes == ("1 rows without a label were left out.",)
    texts = {e.id: e.turns[0].text for e in corpus.examples}
    read = {texts[r.example_id]: replies.read(r, TOPIC) for r in corpus.replies}
    assert {t: (a.score, a.label) for t, a in read.items()} == {
        "x0": (0.0, "1"),
        "x1": (1.0, "5"),
        "x2": (0.5, "3"),
        "x3": (pytest.approx(25 / 99), "2"),
    }
    for example in corpus.examples:
        if example.split is Split.TEST:
            annotation = read[example.turns[0].text]
            assert example.gold["on_topic"].label == annotation.label
            assert example.gold["on_topic"].score == annotation.score


def test_raters_of_one_id_become_one_example(tmp_path: Path) -> None:
    votes = {"a": "joy joy fear", "b": "joy fear", "c": "fear fear fear", "d": "joy joy 3"}
    rows = [
        {"id": key, "text": f"text {key}", "who": f"r{i}", "label": label, "part": part}
        for key, part in zip("abcd", ["test", "test", "train", "train"], strict=True)
        for i, label in enumerate(votes[key].split())
    ]
    columns = Columns(text="text", id="id", rater="who", split="part")
    corpus = load(write(tmp_path / "t.jsonl", rows), columns)
    assert sorted(e.id for e in corpus.examples) == ["a", "c", "d"]
    (gold,) = [e.gold["mood"] for e in corpus.examples if e.id == "a"]
    assert gold.label == "joy"
    assert corpus.notes == (
        "1 test examples without a strict majority of their raters were left out.",
    )
    own = [(r.teacher, json.loads(r.text)["label"]) for r in corpus.replies if r.example_id == "d"]
    assert own == [("r0", "joy"), ("r1", "joy"), ("r2", "3")]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_conversations_in_both_spellings(tmp_path: Path, name: str) -> None:
    talks = [
        [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "yo"}]
        for i in range(4)
    ]
    rows = [
        {"talk": json.dumps(talk) if name == "t.csv" else talk, "label": "joy"} for talk in talks
    ]
    corpus = load(write(tmp_path / name, rows), Columns(turns="talk"))
    assert sorted(e.turns[0].text for e in corpus.examples) == ["hi 0", "hi 1", "hi 2", "hi 3"]
    assert all([t.role for t in e.turns] == ["user", "assistant"] for e in corpus.examples)


def test_whole_numbers_with_gaps_are_still_labels(tmp_path: Path) -> None:
    rows: Rows = [
        {"text": "a", "label": 3.0},
        {"text": "b", "label": 3.0},
        {"text": "c", "label": None},
    ]
    corpus = load(write(tmp_path / "t.parquet", rows), Columns(text="text"))
    assert {json.loads(r.text)["label"] for r in corpus.replies} == {"3"}


def test_texts_that_differ_in_case_only_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"text": t, "label": "joy"} for i in range(20) for t in (f"Text {i}", f"text  {i}")]
    corpus = load(write(tmp_path / "t.csv", rows), Columns(text="text"))
    sides: dict[str, set[object]] = {}
    for example in corpus.examples:
        sides.setdefault(example.group, set()).add(example.split)
    assert len(sides) == 20
    assert all(len(parts) == 1 for parts in sides.values())


# Faults


def test_all_faults_are_listed_and_capped(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": "joyy", "part": "train"},
        {"text": " ", "label": "bore", "part": "dev"},
        *({"text": f"t{i}", "label": "?", "part": "test"} for i in range(9)),
    ]
    path = write(tmp_path / "t.csv", rows)
    found = faults(path, Columns(text="text", split="part"))
    assert len(found) == 3
    assert found[0] == (
        f"{path}, line 2: column label: found label 'joyy', expected one of joy, fear, 3; "
        "did you mean 'joy'?"
    )
    assert "line 3: column text: found no text" in found[1]
    assert "; column part: found 'dev', expected train, validation or test" in found[1]
    assert "; column label: found label 'bore'" in found[1]
    assert "line 4: column label: found label '?'" in found[2]
    assert "in all 11 of 11 rows could not be read" in found[2]


def test_missing_columns_are_all_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", PLAIN)
    found = faults(path, Columns(text="txt", explanation="reason", rater="labels"))
    assert len(found) == 3
    assert (
        "column txt: not there (for text); found text, label, why; did you mean text?" in found[0]
    )
    assert "set columns.explanation" in found[1]
    assert "did you mean label?" in found[2]


@pytest.mark.parametrize("value", ["0", "101", "nan", "many", "inf"])
def test_scores_off_the_scale_are_faults(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "t.csv", [{"t": "a", "n": "5"}, {"t": "b", "n": value}])
    (fault,) = faults(path, Columns(text="t", score="n", scale=(1, 100)), TOPIC)
    assert f"line 3: column n: found '{value}', expected" in fault


def test_a_truth_value_is_no_score(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"t": "a", "n": True}])
    (fault,) = faults(path, Columns(text="t", score="n", scale=(0, 1)), TOPIC)
    assert "found True, expected a number" in fault


def test_ids_and_labels_must_not_contradict(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "text": "a", "label": "joy"},
        {"id": "1", "text": "a", "label": "joy"},
        {"id": "2", "text": "b", "label": "joy"},
        {"id": "2", "text": "b", "label": "fear"},
        {"id": "3", "text": "c", "label": "joy"},
        {"id": "3", "text": "d", "label": "joy"},
    ]
    found = faults(write(tmp_path / "t.csv", rows), Columns(text="text", id="id"))
    assert "line 3: id 1 stands already in line 2" in found[0]
    assert "line 5: id 2 has the label fear, but joy in line 4" in found[1]
    assert "line 7: id 3 has another text than in line 6" in found[2]
    # Without an id column the text is the identity.
    found = faults(write(tmp_path / "u.csv", rows[2:4]), Columns(text="text"))
    assert "has the label fear, but joy in line 2" in found[0]


def test_one_rater_with_two_minds(tmp_path: Path) -> None:
    rows = [{"text": "a", "who": "ann", "label": label} for label in ("joy", "fear")]
    (fault,) = faults(write(tmp_path / "t.csv", rows), Columns(text="text", rater="who"))
    assert "has the label fear by ann, but joy in line 2" in fault


def test_one_text_in_two_splits(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "joy", "part": part} for part in ("train", "test")]
    (fault,) = faults(write(tmp_path / "t.csv", rows), Columns(text="text", split="part"))
    assert "has another split than in line 2" in fault


@pytest.mark.parametrize(
    "talk",
    ["", "hello", "[]", "{}", '["hi"]', '[{"role": "user"}]', '[{"role": "u", "text": " "}]'],
)
def test_turns_that_are_not_readable(tmp_path: Path, talk: str) -> None:
    path = write(tmp_path / "t.csv", [{"talk": talk, "label": "joy"}])
    (fault,) = faults(path, Columns(turns="talk"))
    assert "line 2: column talk: " in fault
    assert "expected a list of {role, text}" in fault


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "text,label\na,joy,more\n", "line 2: found 3 cells, expected 2"),
        ("t.csv", "text,label\n\na\n", "line 3: found 1 cells, expected 2"),
        ("t.csv", "text,text,label\na,b,joy\n", "column 'text' stands twice"),
        ("t.csv", 'text,label\n"a\nb"x,joy\n', "line 2: not readable as CSV"),
        ("t.csv", "text,label\n", "found no rows"),
        ("t.csv", "", "found an empty file"),
        ("t.csv", "text,label\na,\n", "none of 1 rows carries a label"),
        ("t.jsonl", '{"text": ["a"], "label": "joy"}\n', "found ['a'], expected text"),
        ("t.jsonl", '{"text": "a\\ud800", "label": "joy"}\n', "half a surrogate pair"),
        ("t.parquet", "PAR1", "not readable as Parquet"),
        ("t.xlsx", "", "found a file of another kind"),
    ],
)
def test_broken_tables(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    found = faults(path, Columns(text="text"))
    assert any(expected in fault for fault in found), found
    assert all(fault.startswith(str(path)) for fault in found)


def test_a_mapping_that_cannot_be(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", PLAIN)
    assert "no order" in faults(path, Columns(text="text", score="label", scale=(1, 2)))[0]
    with pytest.raises(CorpusError, match="exactly one of"):
        corpora.load("table", CorpusSpec(path=str(path)), [MOOD])
    settings = CorpusSpec(loader="table", path=str(path), columns=Columns(text="text"))
    with pytest.raises(CorpusError, match="a table answers one"):
        corpora.load("mine", settings, [MOOD, TOPIC])
