"""Datasets of the Hub: addresses, what is fetched, and what is said when it cannot be had."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from whytune import corpora, recipe_file
from whytune.corpora import hub
from whytune.errors import CorpusError
from whytune.records import Split

RECIPE = """
name: hub
model: nowhere
corpora: {emotion: {path: 'hf://datasets/dair-ai/emotion@main/data', train: 2, test: 2}}
tasks: [emotion]
arms: {label: {explanation: none}}
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """A Hub that holds one release; remembers what it was asked for."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(name: str, **how: Any) -> str:
        calls.append((name, how))
        (tmp_path / "data").mkdir(exist_ok=True)
        for part in ("train", "val", "test"):
            rows = [f"i feel {part} {n};{('joy', 'fear')[n % 2]}" for n in range(6)]
            (tmp_path / "data" / f"{part}.txt").write_text("\n".join(rows) + "\n")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_release_on_the_hub_is_read_in_its_own_files(
    asked: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    recipe = recipe_file.parse(RECIPE, place="r.yaml", folder=tmp_path / "elsewhere")
    found = corpora.load("emotion", recipe.corpora["emotion"], recipe.resolved_tasks())
    assert {e.split for e in found.examples} == set(Split)
    assert len(found.examples) == 2 + 6 + 2
    ((name, how),) = asked
    assert name == "dair-ai/emotion"
    assert (how["repo_type"], how["revision"]) == ("dataset", "main")
    assert how["allow_patterns"] == ["data", "data/*"]


def test_a_whole_dataset_without_a_revision(asked: list[tuple[str, dict[str, Any]]]) -> None:
    hub.fetched("corpora.x.path", "hf://datasets/owner/name")
    assert asked[0][1] == {"repo_type": "dataset", "revision": None, "allow_patterns": None}


@pytest.mark.parametrize("address", ["hf://datasets/", "hf://datasets/name", "hf://datasets/a/b@"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(CorpusError, match=r"corpora\.x\.path: found .* expected hf://datasets"):
        hub.fetched("corpora.x.path", address)


def test_what_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **how: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        CorpusError, match=r"cannot be had .no connection at all.*go online"
    ) as told:
        hub.fetched("corpora.x.path", "hf://datasets/owner/name")
    assert "\n" not in str(told.value)
