"""A proposed recipe: what it says about a table, and that the table can be taught with it."""

import csv
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from whytune import recipe_file
from whytune.errors import CorpusError, RecipeError
from whytune.lint import health
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.propose import Proposal, head, labels, propose, words
from whytune.propose.columns import is_score
from whytune.propose.recipe import _scalar
from whytune.study import check, grid

OWN = Path(__file__).resolve().parent.parent / "recipes" / "own-table.csv"
Rows = Sequence[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def taught(found: Proposal) -> Material:
    """The material of the written recipe: what `check` and `study` begin with."""
    recipe = recipe_file.load(found.recipe)
    (material,) = gather(recipe).values()
    assert health.examine(material.corpus).leaks == 0
    assert material.corpus.ledger.unreadable == 0
    return material


def sentence(n: int) -> str:
    return f"This is what traveller number {n} wrote to us."


def test_the_own_table_is_read_as_its_recipe_says(tmp_path: Path) -> None:
    found = propose(OWN, tmp_path / "r.yaml")
    assert found.columns == {"text": "ticket", "label": "urgency", "explanation": "reason"}
    assert (found.kind, found.labels, found.scale) == ("ordinal", ("low", "medium", "high"), None)
    written = yaml.safe_load(found.recipe.read_text("utf-8"))
    by_hand = yaml.safe_load(OWN.with_suffix(".yaml").read_text("utf-8"))
    assert written["arms"] == by_hand["arms"]
    assert written["tasks"][0]["kind"] == by_hand["tasks"][0]["kind"]
    assert written["model"] == by_hand["model"]
    material = taught(found)
    assert set(material.arms) == {"label", "why"}
    assert len(material.corpus.examples) == 24
    assert any("24 rows with 3 columns" in line for line in found.saw)


def test_the_proposal_is_accepted_and_runs(tiny_folder: Path, tmp_path: Path) -> None:
    found = propose(OWN, tmp_path / "r.yaml", model=str(tiny_folder))
    small = ["train.num_train_epochs=1", "evidence.bootstrap=100", "evidence.baselines=[prior]",
             "predict.explanations=1", "predict.max_new_tokens=4"]  # fmt: skip
    recipe = recipe_file.load(found.recipe, small)
    quiet = Progress(quiet=True)
    (findings,) = check.check(recipe, quiet)
    assert findings.faults == ()
    summary = grid.study(recipe, tmp_path / "study", quiet)
    assert {row["name"] for row in summary["rows"]} == {"label", "why", "prior"}


KINDS = ("data.csv", "data.csv.gz", "data.jsonl", "data.parquet")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_table(name: str, tmp_path: Path) -> None:
    rows = [{"id": n, "review": sentence(n), "stars": 1 + n % 5, "comment": f"Because of point {n}."}
            for n in range(40)]  # fmt: skip
    found = propose(write(tmp_path / name, rows))
    assert found.recipe == tmp_path / "data.yaml"
    assert found.columns == {
        "text": "review", "label": "stars", "explanation": "comment", "id": "id",
    }  # fmt: skip
    assert (found.kind, found.labels) == ("ordinal", tuple("12345"))
    material = taught(found)
    assert len(material.corpus.examples) == 40
    assert material.task.value("5") == 1


def test_raters_become_one_example(tmp_path: Path) -> None:
    rows = [
        {"question_id": f"q{n // 4}", "item": f"i{n}", "text": sentence(n), "annotator": who,
         "rating": 0.5 * ((n + shift) % 9), "rationale": f"It seems so to {who}, number {n}."}
        for n in range(30)
        for shift, who in enumerate(("ann", "bob", "cem"))
    ]  # fmt: skip
    found = propose(write(tmp_path / "raters.csv", rows))
    assert found.columns == {
        "text": "text", "score": "rating", "explanation": "rationale", "rater": "annotator",
        "group": "question_id",
    }  # fmt: skip
    assert found.scale == (0.0, 5.0)
    assert any("so the scale 0 to 5 is a guess" in line for line in found.unsure)
    material = taught(found)
    assert len(material.corpus.examples) == 30
    assert len(material.annotations) == 90
    assert {e.group for e in material.corpus.examples} == {f"q{n}" for n in range(8)}


def test_conversations(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"What of {n}?"},
                      {"role": "assistant", "content": sentence(n)}],
         "intent": ("ask", "tell", "thank")[n % 3], "domain": ("shop", "bank")[n % 2],
         "split": ("train", "train", "test")[n // 2 % 3]}
        for n in range(36)
    ]  # fmt: skip
    found = propose(write(tmp_path / "talk.jsonl", rows))
    assert found.columns == {
        "turns": "messages", "label": "intent", "source": "domain", "split": "split",
    }  # fmt: skip
    assert found.kind == "nominal"
    assert any("no column is called an explanation" in line for line in found.unsure)
    material = taught(found)
    assert [turn.role for turn in material.corpus.examples[0].turns] == ["user", "assistant"]
    assert list(material.arms) == ["label"]
    assert sum(e.split == "test" for e in material.corpus.examples) == 12


def test_conversations_in_a_csv(tmp_path: Path) -> None:
    rows = [{"chat": json.dumps([{"role": "user", "text": sentence(n)}]), "label": "yn"[n % 2]}
            for n in range(20)]  # fmt: skip
    found = propose(write(tmp_path / "talk.csv", rows))
    assert found.columns == {"turns": "chat", "label": "label"}
    assert found.labels == ("n", "y")
    assert len(taught(found).corpus.examples) == 20


def test_a_label_without_a_name_is_found_and_doubted(tmp_path: Path) -> None:
    rows = [{"a": sentence(n), "b": ("never", "often", "always")[n % 3], "c": n / 7}
            for n in range(30)]  # fmt: skip
    found = propose(write(tmp_path / "x.csv", rows))
    assert found.columns == {"text": "a", "label": "b"}
    assert found.labels == ("never", "often", "always")
    assert any("no column is called a label; 'b' was taken" in line for line in found.unsure)
    taught(found)


def test_a_split_with_other_names_is_left_out_and_said(tmp_path: Path) -> None:
    rows = [{"text": sentence(n), "label": "ab"[n % 2], "split": ("train", "dev", "test")[n % 3]}
            for n in range(24)]  # fmt: skip
    found = propose(write(tmp_path / "x.csv", rows))
    assert "split" not in found.columns
    assert any("'split' looks like a split but holds dev, test, train" in s for s in found.unsure)
    taught(found)


def test_only_the_first_rows_are_looked_at(tmp_path: Path) -> None:
    rows = [{"text": sentence(n), "label": "ab"[n % 2]} for n in range(head.ROWS + 50)]
    found = propose(write(tmp_path / "x.jsonl", rows))
    assert any(f"only the first {head.ROWS} rows were looked at" in line for line in found.unsure)
    assert len(head.look(tmp_path / "x.jsonl").rows) == head.ROWS
    assert len(taught(found).corpus.examples) == head.ROWS + 50


def test_what_the_loader_says_is_passed_on(tmp_path: Path) -> None:
    rows = [{"text": sentence(n % 15), "label": "ab"[n % 4 // 2]} for n in range(30)]
    found = propose(write(tmp_path / "x.csv", rows))
    assert any("the table cannot be used as it is" in line for line in found.unsure)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": sentence(n), "number": sentence(n + 50)} for n in range(9)],
         r"x\.csv: found no column that could be the label or the score, expected .*; found text "
         r"\(9 different\); number \(9 different\); add one, or name it `label`"),
        ([{"text": sentence(n), "label": "same"} for n in range(9)], r"no column that could be the"),
        ([{"label": "ab"[n % 2], "n": n} for n in range(9)],
         r"x\.csv: found no column that could be the text or a conversation"),
        ([{"a;b": f"{n};x"} for n in range(9)],
         r"x\.csv, line 1: found cells with ';' between them, expected commas; convert it"),
    ],
)  # fmt: skip
def test_tables_without_what_is_needed_are_refused(rows: Rows, says: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=says):
        propose(write(tmp_path / "x.csv", rows))
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"", r"x\.csv: found no rows that can be read, expected some below"),
        ("x.csv", b"text,label\n", r"x\.csv: found no rows"),
        ("x.csv", b"text,text\na,b\n", r"line 1: column .text. stands twice in what"),
        ("x.txt", b"text", r"x\.txt: found a file of another kind, expected \.csv"),
        ("x.jsonl", b"not json\n", r"x\.jsonl: found no rows"),
        ("x.parquet", b"PAR1", r"x\.parquet: not readable as Parquet"),
        ("x.csv.gz", b"text,label", r"x\.csv\.gz: not gzip data"),
        ("x.csv", b"version https://git-lfs.github.com/spec/v1\n", r"Git LFS pointer"),
    ],
)
def test_files_that_are_no_tables(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=says):
        propose(tmp_path / name)
    if name != "x.txt":
        with pytest.raises(CorpusError, match="not there"):
            propose(tmp_path / f"gone-{name}")


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    output = tmp_path / "r.yaml"
    output.write_text("mine", "utf-8")
    with pytest.raises(RecipeError, match=r"r\.yaml: is there already; nothing was written"):
        propose(OWN, output)
    assert output.read_text("utf-8") == "mine"
    propose(OWN, output, force=True, model="./models/own")
    assert yaml.safe_load(output.read_text("utf-8"))["model"] == "./models/own"


def test_the_path_is_seen_from_the_recipe(tmp_path: Path) -> None:
    rows = [{"text": sentence(n), "label": "ab"[n % 2]} for n in range(20)]
    (tmp_path / "data").mkdir()
    (tmp_path / "recipes").mkdir()
    write(tmp_path / "data" / "x.csv", rows)
    found = propose(tmp_path / "data" / "x.csv", tmp_path / "recipes" / "x.yaml")
    written = yaml.safe_load(found.recipe.read_text("utf-8"))
    assert written["corpora"]["x"]["path"] == "../data/x.csv"
    taught(found)


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(NAMES)
def test_any_text_survives_the_recipe(value: str) -> None:
    written = _scalar(value)
    assert len(written.splitlines()) == 1
    assert yaml.safe_load(f"[{written}]  # comment") == [value]
    assert yaml.safe_load(f"key: {written}  # comment") == {"key": value}


@pytest.mark.parametrize(
    "name", ["${HOME}", "yes", "a: b", "1", "x # y", "é\u2028z", "#", "'", '"']
)
def test_odd_column_and_label_names(name: str, tmp_path: Path) -> None:
    column = f"label {name}"
    start = name if len(name.splitlines()) == 1 else "on one line"  # as every label must be
    rows = [{"text": sentence(n), column: f"{start} {'ab'[n % 2]}"} for n in range(20)]
    found = propose(write(tmp_path / "x.jsonl", rows))
    assert found.columns["label"] == column
    assert found.labels == (f"{start} a", f"{start} b")
    assert len(taught(found).corpus.examples) == 20


@given(st.text(max_size=80))
def test_names_are_such_as_recipes_and_folders_carry(name: str) -> None:
    kept = words.safe(name, "own-table")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]*(-[A-Za-z0-9._]+)*", kept)


def column(values: Sequence[Any]) -> head.Column:
    return head._column("c", values)


@pytest.mark.parametrize(
    ("values", "kind", "expected", "scale"),
    [
        ([1, 2, 3, 4, 5], "ordinal", "12345", None),
        ([1, 2, 5], "ordinal", "12345", None),
        ([1, 3, 4], "ordinal", "1234", None),
        ([0, 1, 2], "ordinal", "012", None),
        (["3", "1", "2"], "ordinal", "1234", None),
        ([0, 1], "nominal", "01", None),
        ([0.1, 0.9], "ordinal", "12345", (0, 1)),
        ([1, 7, 10], "ordinal", "12345", (1, 10)),
        ([1.5, 3.0], "ordinal", "1234", (1, 4)),
        ([2, 88], "ordinal", "12345", (1, 100)),
        ([-40.5, 7], "ordinal", "12345", (-40.5, 7)),
    ],
)  # fmt: skip
def test_numbers(
    values: list[float], kind: str, expected: str, scale: tuple[float, float] | None
) -> None:
    found = column(values)
    asked = head.Head(place="x", rows=(), whole=True, columns={"c": found})
    answer = labels.task(asked, {"score" if is_score(found) else "label": "c"})
    assert (answer.kind, answer.labels, answer.scale) == (kind, tuple(expected), scale)
    # No label begins another, or a student could not tell them apart.
    assert not [(a, b) for a in answer.labels for b in answer.labels if a != b and b.startswith(a)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["High", "low", "Medium"], ("low", "Medium", "High")),
        (["2 - fair", "1 - poor", "10 - superb"], ("1 - poor", "2 - fair", "10 - superb")),
        (["agree", "disagree", "neutral"], ("disagree", "neutral", "agree")),
        (["Bad", "Excellent", "Could be Improved", "Acceptable"],
         ("Bad", "Could be Improved", "Acceptable", "Excellent")),
        (["joy", "anger", "fear"], None),
        (["yes", "no"], None),
        (["low", "high", "blue"], None),
    ],
)  # fmt: skip
def test_orders_of_names(values: list[str], expected: tuple[str, ...] | None) -> None:
    asked = head.Head(place="x", rows=(), whole=True, columns={"c": column(values)})
    answer = labels.task(asked, {"label": "c"})
    assert (answer.labels if answer.kind == "ordinal" else None) == expected
    assert set(answer.labels) == set(values)


def test_labels_that_differ_in_case_only_are_told() -> None:
    asked = head.Head(place="x", rows=(), whole=True, columns={"c": column(["a", "A", "a", "b"])})
    answer = labels.task(asked, {"label": "c"})
    assert "'a' and 'A' differ in case only" in answer.doubts
