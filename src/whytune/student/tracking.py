"""Trackers beside a training: each step is told to them once, however often training goes on.

accelerate starts and feeds them. Their folder says how far they were told and as which runs, so
that a training that goes on from a checkpoint goes on in the same runs, and keeps what it does
again to itself.
"""

import contextlib
import json
import math
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from whytune import store
from whytune.errors import MissingExtraError, RecipeError
from whytune.recipe_student import Tracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """A training as trackers know it."""

    project: str
    """The study: its runs stand together."""
    run: str
    """The cell."""
    folder: Path
    """Where the files go of trackers that choose no place themselves."""
    settings: Mapping[str, Any]
    """Knob -> value, as the run's configuration."""


class Tell(Protocol):
    """Tells trackers of an update."""

    def __call__(
        self, step: int, loss: float, rate: float, measured: Mapping[str, Any] | None
    ) -> None:
        """Its number, loss and learning rate, and the row of the measurement after it, if any."""


def check(names: Sequence[Tracker]) -> None:
    """Make sure, before anything is taught, that trackers can be told.

    Raises:
        MissingExtraError: the package of one is not installed.
    """
    there = {str(one) for one in get_available_trackers()}
    missing = [name for name in names if name not in there]
    if missing:
        raise MissingExtraError(
            f"train.report_to: {', '.join(missing)} is not installed; pip install "
            f"{' '.join(missing)}, or drop it from the list"
        )


def options(tracked: Tracked | None, names: Sequence[Tracker]) -> dict[str, Any]:
    """What an `Accelerator` is to know of the trackers of a training; nothing where none is told."""
    return {"log_with": list(names), "project_dir": tracked.folder} if tracked and names else {}


@contextlib.contextmanager
def telling(accelerator: Accelerator, tracked: Tracked | None) -> Iterator[Tell]:
    """Start the trackers of a training, or go on with the runs of an earlier start; they end with
    the block.

    Args:
        accelerator: made with `options`.
        tracked: which training.

    Raises:
        RecipeError: one of them cannot be started.
    """
    # Of several processes one tells; accelerate leaves that to us for those that can tell of all.
    if tracked is None or not accelerator.log_with or not accelerator.is_main_process:
        yield lambda step, loss, rate, measured: None
        return
    _start(accelerator, tracked)
    steps = tracked.folder / "steps"
    before = _last(steps)

    def tell(step: int, loss: float, rate: float, measured: Mapping[str, Any] | None) -> None:
        if step <= before:
            return
        # First, so that no step is told twice. The line outlives this process, if not the computer;
        # it begins anew, as the last one may be torn.
        with steps.open("a", encoding="utf-8") as file:
            file.write(f"\n{step}\n")
        accelerator.log(_values(loss, rate, measured), step=step)

    try:
        yield tell
    finally:
        with _aside():
            for tracker in accelerator.trackers:
                # trackio ends its current run once more at exit, and says so, unless told itself.
                (sys.modules["trackio"] if tracker.name == "trackio" else tracker).finish()


def _start(accelerator: Accelerator, tracked: Tracked) -> None:
    mark = tracked.folder / "runs.json"
    before = store.read_json(mark) if mark.exists() else {}
    runs = before or {"wandb": uuid.uuid4().hex[:12]}
    resume = "allow" if before else "never"
    settings = {name: _scalar(value) for name, value in tracked.settings.items()}
    own: dict[str, dict[str, Any]] = {
        "wandb": {"name": tracked.run, "id": runs["wandb"], "resume": resume,
                  "dir": str(tracked.folder)},
        # It keeps the configuration of its last start alone.
        "trackio": {"name": tracked.run, "resume": resume, "config": settings},
        "mlflow": {"run_name": tracked.run, "run_id": runs.get("mlflow")},
    }  # fmt: skip
    tracked.folder.mkdir(parents=True, exist_ok=True)
    try:
        with _aside():
            accelerator.init_trackers(tracked.project, None if before else settings, own)
    except Exception as error:
        raise RecipeError(
            f"train.report_to: {', '.join(map(str, accelerator.log_with))}: found "
            f"{type(error).__name__} ({error}), expected trackers that start; set them up as their "
            "manuals say, or drop them from the list"
        ) from error
    for tracker in accelerator.trackers:
        if tracker.name == "mlflow":
            runs["mlflow"] = tracker.tracker.info.run_id
    store.write_json(mark, runs)


def _values(loss: float, rate: float, measured: Mapping[str, Any] | None) -> dict[str, float]:
    """What is told of an update, without what is no finite number."""
    values = {"train/loss": loss, "train/learning_rate": rate}
    if measured is not None:
        values |= {f"eval/{name}": measured[name] for name in ("label_nll", "label_share")}
        values |= {f"eval/{task}/label_nll": nll for task, nll in measured["label_nlls"].items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _last(steps: Path) -> int:
    """The last step of a file of steps, whose last line may be torn."""
    if not steps.exists():
        return 0
    whole = steps.read_text(encoding="utf-8").rpartition("\n")[0].split()
    return int(whole[-1]) if whole else 0


def _aside() -> contextlib.AbstractContextManager[Any]:
    """What they print goes to standard error, as all that is no result."""
    return contextlib.redirect_stdout(sys.stderr)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
