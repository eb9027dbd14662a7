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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Where files of the trackers go that do not choose a place themselves."""
    settings: Mapping[str, Any]
    """Knob -> value, as the run's configuration."""


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


class Trackers:
    """Those of one training; to be called by its main process alone."""

    def __init__(self, accelerator: Accelerator, tracked: Tracked):
        """Start them, or go on with the runs of an earlier start.

        Args:
            accelerator: made with `log_with` and with the folder as `project_dir`.
            tracked: which training.

        Raises:
            RecipeError: one of them cannot be started.
        """
        self._accelerator = accelerator
        tracked.folder.mkdir(parents=True, exist_ok=True)
        self._steps = tracked.folder / "steps"
        self._told = _last(self._steps)
        self._start(tracked)

    def _start(self, tracked: Tracked) -> None:
        mark = tracked.folder / "runs.json"
        before = store.read_json(mark) if mark.exists() else {}
        runs = before or {"wandb": uuid.uuid4().hex[:12]}
        on = "allow" if before else "never"
        options: dict[str, dict[str, Any]] = {
            "wandb": {"name": tracked.run, "id": runs["wandb"], "resume": on,
                      "dir": str(tracked.folder)},
            "trackio": {"name": tracked.run, "resume": on},
            "mlflow": {"run_name": tracked.run, "run_id": runs.get("mlflow")},
        }  # fmt: skip
        settings = {name: _scalar(value) for name, value in tracked.settings.items()}
        try:
            with _aside():
                self._accelerator.init_trackers(
                    tracked.project, None if before else settings, options
                )
        except Exception as error:
            names = ", ".join(str(name) for name in self._accelerator.log_with)
            raise RecipeError(
                f"train.report_to: {names}: found {type(error).__name__} ({error}), expected a "
                "tracker that starts; set it up as its own manual says, or drop it from the list"
            ) from error
        for tracker in self._accelerator.trackers:
            if tracker.name == "mlflow":
                runs["mlflow"] = tracker.tracker.info.run_id
        store.write_json(mark, runs)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Tell them of an update, unless they know of it; what is no finite number is left out."""
        if step <= self._told:
            return
        # First, so that no step is told twice. A line outlives the process, though not the computer.
        with self._steps.open("a", encoding="utf-8") as file:
            file.write(f"{step}\n")
        self._told = step
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._accelerator.log(finite, step=step)

    def finish(self) -> None:
        """Let them write what they hold."""
        with _aside():
            for tracker in self._accelerator.trackers:
                tracker.finish()
        self._accelerator.trackers.clear()


def _last(steps: Path) -> int:
    """The last step of a file of steps, whose last line may be torn."""
    if not steps.exists():
        return 0
    whole = steps.read_text(encoding="utf-8").rpartition("\n")[0].split()
    return int(whole[-1]) if whole else 0


def _aside() -> contextlib.AbstractContextManager[Any]:
    """What they say goes to standard error, as all that is no result."""
    return contextlib.redirect_stdout(sys.stderr)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
