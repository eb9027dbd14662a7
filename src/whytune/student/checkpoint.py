"""Training states that are whole or not there.

A checkpoint is staged, flushed, listed in a manifest of SHA-256 sums, and renamed into place;
resuming takes the newest one whose sums hold. Tensors are safetensors, the rest JSON: nothing
is pickled.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from whytune import store

MANIFEST = "manifest.json"
FILES = ("facts.json", "state.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What training needs to go on as if it had never stopped."""

    step: int
    """Updates done."""
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    """Everything that is not a tensor, as JSON."""


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint below `folder`, durable when this returns; older ones are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder, prefix=".staged."))
    save_file({name: t.contiguous() for name, t in checkpoint.tensors.items()},
              staged / "state.safetensors")  # fmt: skip
    with (staged / "state.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    store.write_json(staged / "facts.json", {"step": checkpoint.step, **checkpoint.facts})
    sums = {path.name: store.sha256(path) for path in sorted(staged.iterdir())}
    store.write_json(staged / MANIFEST, sums)
    final = folder / f"step-{checkpoint.step:08d}"
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
    store.sync_folder(folder)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other)
    return final


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what its manifest says; None without one."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        if _verified(path):
            facts = json.loads((path / "facts.json").read_text(encoding="utf-8"))
            tensors = load_file(path / "state.safetensors")
            return Checkpoint(step=facts.pop("step"), tensors=tensors, facts=facts)
    return None


def _verified(path: Path) -> bool:
    try:
        sums = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return bool(sums == {name: store.sha256(path / name) for name in FILES})
    except (OSError, ValueError):
        return False
