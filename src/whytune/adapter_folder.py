"""An adapter's folder: where it lies, and what stands in it about how to ask it (`whytune.json`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from whytune import store
from whytune.errors import FolderError, MissingExtraError, ModelError
from whytune.evidence.calibrate import Calibration
from whytune.recipe import digest
from whytune.recipe_student import Prompting, Train
from whytune.records import Kind, Label, Layout, Task

NAME = "whytune.json"
WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
"""Marks a PEFT folder."""
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
USUAL_ROLES = frozenset({"user", "assistant", "text"})
"""Speakers that every student may be asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How an adapter is to be asked."""

    folder: Path
    base: str
    """Base model, as the recipe named it."""
    base_digest: str | None
    """Of its weights, as `models.Base.digest`."""
    tasks: tuple[Task, ...]
    layout: Layout
    prompting: Prompting
    prompt_digest: str
    """As `Encoder.digest`."""
    train: Train
    """How the base is loaded; the rest of the settings are the defaults."""
    max_new_tokens: int
    samples: int
    temperature: float
    roles: frozenset[str]
    """Speakers of the conversations that it was taught, and the usual ones."""
    calibration: Mapping[str, Calibration]
    """By task; empty without any."""
    digest: str
    """Changes with the adapter's weights and with anything that stands beside them."""


def found(place: str | Path) -> Path:
    """The PEFT folder behind a place.

    Args:
        place: a finished run's folder, an adapter's folder, or the Hub id of one
            (`owner/name[@revision]`), whose files are fetched where they are not there yet; no code
            is run.

    Raises:
        FolderError: no such folder, one without an adapter of whytune's, or an unfinished run.
        ModelError: a Hub id that cannot be had.
        MissingExtraError: huggingface_hub is not installed.
    """
    folder = Path(place)
    if not folder.is_dir():
        folder = _fetched(str(place))
    if (folder / "run.json").is_file():
        if store.read_json(folder / "run.json").get("state") != "finished":
            raise FolderError(
                f"{folder}: its training is not finished; run its study again, which goes on from "
                "there"
            )
        folder = folder / "adapter"
    if not (folder / _CONFIG).is_file():
        runs = sorted(path.parent for path in folder.glob("runs/*/run.json"))
        hint = f"give one of its runs, such as {runs[0]}" if runs else "correct the path"
        raise FolderError(
            f"{place}: found neither run.json nor {_CONFIG}, expected a finished run or an adapter's "
            f"folder; {hint}"
        )
    if not (folder / NAME).is_file():
        raise FolderError(
            f"{place}: an adapter that was not taught by whytune (no {NAME} beside {_CONFIG}), so it "
            "does not say which questions it answers with which labels; teach one with `whytune "
            "train`, or look inside this one with `whytune analyze`"
        )
    return folder


def _fetched(place: str) -> Path:
    parts = _HUB_ID.fullmatch(place)
    if parts is None:
        raise FolderError(
            f"{place}: not there; expected a finished run, an adapter's folder, or a Hub id "
            "(owner/name[@revision]); correct it"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"{place}: no such folder, and to fetch it from the Hub huggingface_hub is needed: "
            "pip install 'whytune[train]'"
        ) from None
    name, revision = parts.groups()
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=[NAME, WEIGHTS, _CONFIG])
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{place}: no such folder, and it cannot be had from the Hub "
            f"({' '.join(str(error).split())[:200]}); correct the path, or go online, and set "
            "HF_TOKEN where it is gated"
        ) from None


def read(folder: Path) -> Facts:
    """What `whytune.json` says.

    Args:
        folder: as `found` gives it.

    Raises:
        FolderError: it is not what whytune writes, or the weights are missing.
        EvidenceError: a calibration that cannot be read.
    """
    if not (folder / WEIGHTS).is_file():
        raise FolderError(f"{folder}: found no {WEIGHTS}; fetch the whole adapter again")
    told = store.read_json(folder / NAME)
    try:
        return _facts(folder, told)
    except (KeyError, TypeError, AttributeError, ValueError, ValidationError) as error:
        shown = " ".join(str(error).split())[:200]
        raise FolderError(
            f"{folder / NAME}: not what whytune writes ({type(error).__name__}: {shown}); fetch the "
            "adapter again, or teach it anew"
        ) from None


def _facts(folder: Path, told: dict[str, Any]) -> Facts:
    return Facts(
        folder=folder,
        base=told["base"],
        base_digest=told["base_digest"],
        tasks=tuple(map(_task, told.get("tasks") or [told["task"]])),  # 0.1.0 wrote one alone
        layout=Layout(told["layout"]),
        prompting=Prompting.model_validate(told["prompt"]),
        prompt_digest=told["prompt_digest"],
        train=Train(dtype=told["dtype"], load_in_4bit=told["load_in_4bit"]),
        max_new_tokens=told["max_new_tokens"],
        samples=told.get("samples", 1),
        temperature=told.get("temperature", 0.7),
        roles=USUAL_ROLES.union(told.get("roles", ())),
        calibration={
            task: Calibration.from_json(one) for task, one in told.get("calibration", {}).items()
        },
        digest=digest([store.sha256(folder / WEIGHTS), told]),
    )


def _task(told: dict[str, Any]) -> Task:
    labels = tuple(Label(**label) for label in told["labels"])
    return Task(
        name=told["name"], kind=Kind(told["kind"]), question=told["question"], labels=labels
    )
