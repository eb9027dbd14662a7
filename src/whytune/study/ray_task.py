"""What a node of a Ray cluster does for a study: one cell, while the board hears how far it is."""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whytune import cell_state
from whytune.errors import WhytuneError
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.records import Scorecard
from whytune.run_folder import Cell
from whytune.study import holding
from whytune.study.summary import Materials

LOOK = 1.0
"""Seconds between two things that a task tells, and between two looks at the board."""

Cards = dict[str, Scorecard] | None
"""Task -> scorecard; None where another process finished the cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What all tasks have in common; each node gets it once."""

    recipe: Recipe
    materials: Materials
    folder: Path
    """Of the study, absolute."""
    claim: Callable[[Recipe, Materials, Path], None]
    """Makes the folder the recipe's own, or refuses to; called before anything is written."""
    threads: int
    command: tuple[str, ...]
    """`sys.argv` of the process that runs the study: a run says how it came about."""

    def place(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.folder / "runs" / cell.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a cell failed of."""

    error: str
    """The name of one of whytune's own errors."""
    message: str


def teach(given: Given, cell: Cell, board: Any, before: Cards | Fault) -> Cards | Fault:
    """A task, on a node: make one cell.

    Args:
        given: what all have in common.
        cell: which.
        board: is told how far it is.
        before: what came of the cell that this one is matched to; None where there is none.

    Returns:
        Scorecards, or what is wrong with input or work; Ray takes what is raised for a fault of
        its own.
    """
    import torch

    if isinstance(before, Fault):
        other = given.recipe.arms[cell.arm].gradient_of
        return Fault(error="WorkError", message=f"not begun, as arm {other} failed before it")
    torch.set_num_threads(given.threads)
    sys.argv = [*given.command]
    own = [given.materials[cell.corpus, task] for task in cell.tasks]
    show = _Telling(board, cell)
    try:
        if cell_state.finished(given.recipe, cell, own, given.place(cell)):
            return None  # its process died when all was done
        return holding.make(
            given.recipe, cell, own, given.place(cell), show,
            begin=lambda: given.claim(given.recipe, given.materials, given.folder),
        )  # fmt: skip
    except WhytuneError as error:
        return Fault(error=type(error).__name__, message=str(error))


class Board:
    """An actor beside the process that runs the study: where each cell runs, and how far it is."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, str]] = {}

    def tell(self, cell: str, where: str, what: str) -> None:
        """Of a cell: which process makes it, and what it does just now."""
        self._told[cell] = (where, what)

    def told(self) -> dict[str, tuple[str, str]]:
        """Cell -> what was told of it last."""
        return self._told


class _Telling(Progress):
    """Shows nothing on the node, and tells the board."""

    def __init__(self, board: Any, cell: Cell):
        super().__init__(quiet=True)
        self._board, self._cell = board, cell
        self._next = 0.0
        self._tell("begins")

    def _tell(self, what: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK
        where = f"process {os.getpid()} on {platform.node()}"
        self._board.tell.remote(self._cell.id, where, what)

    def say(self, text: str) -> None:
        self._tell(text)

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        done = 0
        what = title.removeprefix(f"{self._cell.id}: ")

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done
            done += count
            self._tell(f"{what} {done} of {total}")

        yield advance
