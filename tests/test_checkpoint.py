import json
import shutil
from pathlib import Path

import pytest
import torch

from whytune import store
from whytune.student.checkpoint import MANIFEST, Checkpoint, newest, save

FILES = ("facts.json", MANIFEST, "state.safetensors")


def state(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        tensors={"a/x": torch.full((3, 2), 0.1 * step), "rng/cpu": torch.get_rng_state(),
                 "b/step": torch.tensor(float(step))},
        facts={"loss": 0.1 + 0.2, "history": [{"step": step}]},
    )  # fmt: skip


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with checkpoints 9 and 10; `save` itself keeps the newest only."""
    nine = save(tmp_path / "elsewhere", state(9))
    ten = save(tmp_path / "checkpoints", state(10))
    shutil.copytree(nine, ten.parent / nine.name)
    return ten.parent


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = state(7)
    save(tmp_path, saved)
    found = newest(tmp_path)
    assert found is not None
    assert (found.step, found.facts) == (7, saved.facts)
    assert set(found.tensors) == set(saved.tensors)
    for name, tensor in saved.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_the_newest_is_taken(two: Path) -> None:
    found = newest(two)
    assert found is not None
    assert found.step == 10


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_sends_back_to_the_older_one(name: str, share: float, two: Path) -> None:
    file = two / "step-00000010" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    found = newest(two)
    assert found is not None
    assert found.step == 9


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 9, 17, -20, -4])
def test_a_flipped_bit_sends_back_to_the_older_one(name: str, at: int, two: Path) -> None:
    file = two / "step-00000010" / name
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    found = newest(two)
    assert found is not None
    assert found.step == 9


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_sends_back_to_the_older_one(name: str, two: Path) -> None:
    (two / "step-00000010" / name).unlink()
    found = newest(two)
    assert found is not None
    assert found.step == 9


@pytest.mark.parametrize("listed", [{}, {"facts.json": None}, [], ["facts.json"], 3, None])
def test_a_manifest_that_leaves_files_out_is_not_believed(listed: object, two: Path) -> None:
    folder = two / "step-00000010"
    if listed == {"facts.json": None}:
        listed = {"facts.json": store.sha256(folder / "facts.json")}
    (folder / MANIFEST).write_text(json.dumps(listed))
    found = newest(two)
    assert found is not None
    assert found.step == 9


def test_nothing_staged_is_ever_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, state(2))
    monkeypatch.undo()
    assert any(path.name.startswith(".staged.") for path in tmp_path.iterdir())
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 1
    save(tmp_path, state(3))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_save_that_dies_before_its_manifest_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, state(1))

    def full(path: Path, content: object) -> None:
        if path.name == MANIFEST:
            raise OSError(28, "No space left on device")
        store.write_text(path, json.dumps(content))

    monkeypatch.setattr("whytune.student.checkpoint.store.write_json", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, state(2))
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    again = state(1)
    save(tmp_path, Checkpoint(step=1, tensors=again.tensors, facts={"second": True}))
    found = newest(tmp_path)
    assert found is not None
    assert found.facts == {"second": True}


def test_nothing_is_pickled(tmp_path: Path) -> None:
    folder = save(tmp_path, state(1))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
    # The head of a safetensors file: eight bytes of length, then JSON.
    content = (folder / "state.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert set(json.loads(content[8 : 8 + length])) - {"__metadata__"} == set(state(1).tensors)


def test_no_folder_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None
    (tmp_path / "step-00000001").mkdir()
    assert newest(tmp_path) is None
