import json
import math
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whytune import store
from whytune.errors import FolderError
from whytune.records import Estimate, Outcome, Prediction


def test_a_file_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "c.txt"
    store.write_text(file, "grüß\n")
    assert file.read_bytes() == "grüß\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_file_alone(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    store.write_text(file, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"whytune.store.{step}", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_text(file, "new")
    monkeypatch.undo()
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_number_becomes_null(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    nan = math.nan
    store.write_json(
        file, {"estimate": Estimate(value=nan, low=-math.inf, high=1.0), "t": (1, nan)}
    )
    text = file.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert store.read_json(file) == {
        "estimate": {"value": None, "low": None, "high": 1.0},
        "t": [1, None],
    }


@pytest.mark.parametrize(
    ("content", "says"), [(None, "not there"), (b'{"a": 1', "cannot be read"), (b"\xff", "utf-8")]
)
def test_json_that_is_not_whole_is_told(content: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FolderError, match=says) as caught:
        store.read_json(file)
    assert str(file) in str(caught.value)


@given(rows=st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none())))
def test_json_lines_read_back(
    rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    store.write_jsonl(file, rows)
    assert store.read_jsonl(file) == rows


def test_json_lines_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert store.read_jsonl(file) == []
    file.write_text('{"a": 1}\n{"a":', encoding="utf-8")
    with pytest.raises(FolderError, match=r"rows\.jsonl line 2: cannot be read"):
        store.read_jsonl(file)


LABELS = ("Bad", "Could be Improved", "ü; \"'")


@st.composite
def predictions(draw: st.DrawFn) -> list[Prediction]:
    answers = draw(st.lists(st.sampled_from([None, *LABELS]), max_size=6))
    probabilities = st.fixed_dictionaries({name: st.floats(-50, 0) for name in LABELS})
    return [
        Prediction(
            example_id=f"e{index}",
            task="usefulness",
            outcome=Outcome.UNREADABLE if label is None else Outcome.READ,
            label=label,
            log_probs=draw(st.just({}) | probabilities),
            expected=draw(st.none() | st.floats(0, 1)),
            explanation=draw(st.none() | st.text()),
        )
        for index, label in enumerate(answers)
    ]


@given(answers=predictions())
def test_predictions_read_back(
    answers: list[Prediction], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("predictions") / "predictions.parquet"
    groups = [f"g{index // 2}" for index in range(len(answers))]
    store.write_predictions(file, answers, {"group": groups})
    assert store.read_predictions(file) == (answers, {"group": groups})


def test_predictions_with_different_labels_are_refused(tmp_path: Path) -> None:
    def answer(*labels: str) -> Prediction:
        return Prediction(
            example_id="e",
            task="t",
            outcome=Outcome.READ,
            label=labels[0],
            log_probs=dict.fromkeys(labels, -1.0),
        )

    with pytest.raises(ValueError, match="labels of prediction e: b, c; expected a, b"):
        store.write_predictions(tmp_path / "p.parquet", [answer("a", "b"), answer("b", "c")], {})


def test_predictions_of_several_tasks_keep_their_own_labels(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    given_ = [
        Prediction(example_id="e", task="t", outcome=Outcome.UNREADABLE, label=None, log_probs={}),
        Prediction(example_id="e", task="u", outcome=Outcome.READ, label="c",
                   log_probs={"c": -0.1, "d": -0.2, "a": -0.3}),
        Prediction(example_id="e", task="t", outcome=Outcome.READ, label="a",
                   log_probs={"a": -0.5, "b": -1.0}),
        Prediction(example_id="e", task="v", outcome=Outcome.READ, label="x", log_probs={}),
    ]  # fmt: skip
    store.write_predictions(file, given_, {})
    assert store.read_predictions(file)[0] == given_
    schema = pq.read_schema(file)
    assert json.loads(schema.metadata[b"labels"]) == {
        "t": ["a", "b"], "u": ["c", "d", "a"], "v": [],
    }  # fmt: skip
    store.write_predictions(file, given_[2:3], {})
    assert json.loads(pq.read_schema(file).metadata[b"labels"]) == ["a", "b"]


def test_predictions_that_are_not_whole_are_told(tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    with pytest.raises(FolderError, match="cannot be read"):
        store.read_predictions(file)
    one = Prediction(
        example_id="e", task="t", outcome=Outcome.READ, label="a", log_probs={"a": -0.5, "b": -1.0}
    )
    store.write_predictions(file, [one] * 50, {})
    whole = file.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(FolderError, match="cannot be read"):
            store.read_predictions(file)


def test_a_parquet_of_something_else_is_told(tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(FolderError, match="not predictions that whytune wrote"):
        store.read_predictions(file)


def test_a_sum_is_that_of_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    # The first test vector of FIPS 180-2.
    assert store.sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_provenance_is_json_and_names_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/bin/whytune", "study", "my recipe.yaml"])
    origin = store.provenance()
    assert origin["command"] == "whytune study 'my recipe.yaml'"
    assert {"python", "whytune", "numpy"} <= set(origin["versions"])
    assert json.loads(json.dumps(origin)) == origin
