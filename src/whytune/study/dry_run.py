"""What a study would do, before it does anything: its cells, how far each is, and what is left.

Tokens are counted; hours are those of a few timed conversations, and memory is that of one pass, as
`loads` says. Nothing is run and nothing is written.
"""

from dataclasses import dataclass
from pathlib import Path

from whytune import cell_state, pipeline
from whytune.cell_state import State
from whytune.material import gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.run_folder import Cell
from whytune.study import calibrating, grid, loads
from whytune.study.findings import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell."""

    id: str
    corpus: str
    tasks: tuple[str, ...]
    arm: str
    seed: int
    state: State
    step: int
    """Updates behind it, of the checkpoint that it goes on from; 0 without one."""
    changes: tuple[str, ...]
    """Of a changed cell, what differs (`cell_state.changes`)."""
    lessons: int
    tokens: int
    """Of all passes over its lessons, prompts included."""
    updates: int
    seconds: float
    """Teaching and measuring, all of it, from a few timed conversations."""
    memory: int
    """Bytes that an update holds at most (`effort.memory`)."""

    @property
    def left(self) -> float:
        """Share of its work that is left, 0 to 1; a changed cell is refused, not run."""
        if self.state in (State.FINISHED, State.CHANGED):
            return 0.0
        return 1 - min(self.step, self.updates) / self.updates


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a study would do."""

    rows: tuple[Row, ...]
    """In the order in which they are run."""
    unwritten: int
    """Reasons that the generator has yet to write; they count as long as they may be, and cells
    that teach them count as changed where they were run before."""

    @property
    def states(self) -> dict[str, int]:
        """State -> cells."""
        return {state.value: sum(row.state is state for row in self.rows) for state in State}

    @property
    def totals(self) -> dict[str, float]:
        """Of all cells: `lessons`, `tokens`, `seconds`, `memory` (of the largest); of what is left
        to do: `tokens_left`, `seconds_left`. Baselines and the writing of shown explanations are
        not in it.
        """
        return {
            "lessons": sum(row.lessons for row in self.rows),
            "tokens": sum(row.tokens for row in self.rows),
            "tokens_left": round(sum(row.left * row.tokens for row in self.rows)),
            "seconds": sum(row.seconds for row in self.rows),
            "seconds_left": sum(row.left * row.seconds for row in self.rows),
            "memory": max(row.memory for row in self.rows),
        }


def plan(recipe: Recipe, folder: Path, show: Progress) -> DryRun:
    """What `grid.study` would do with a folder.

    Args:
        recipe: which cells.
        folder: where the study stands, or would stand; it is only read.
        show: says what goes on.

    Raises:
        WhytuneError: the data or the model cannot be had, an arm cannot be taught, or a run cannot
            be read. Cells that changed are told, not raised.
    """
    pipeline.require_trackers(recipe)
    materials = gather(recipe, stand_in=True)
    calibrating.check(recipe, materials)
    asked = grid.cells(recipe, grid.teaching(materials))
    found = loads.costs(recipe, show)
    by_cell = {(load.corpus, load.task, load.arm): load for load in found.loads}
    rows = []
    for cell in asked:
        own = [materials[cell.corpus, task] for task in cell.tasks]
        place = folder / "runs" / cell.id
        state = cell_state.state(recipe, cell, own, place)
        changes = cell_state.changes(recipe, cell, own, place) if state is State.CHANGED else ()
        rows.append(_row(cell, state, place, changes, by_cell[cell.corpus, cell.task, cell.arm]))
    return DryRun(rows=tuple(rows), unwritten=found.unwritten)


def _row(cell: Cell, state: State, folder: Path, changes: tuple[str, ...], load: Load) -> Row:
    return Row(
        id=cell.id, corpus=cell.corpus, tasks=cell.tasks, arm=cell.arm, seed=cell.seed,
        state=state, step=_step(folder), changes=changes, lessons=load.lessons,
        tokens=round(load.tokens_per_epoch * load.passes), updates=load.updates,
        seconds=load.seconds + load.measuring, memory=load.memory,
    )  # fmt: skip


def _step(folder: Path) -> int:
    """Of the newest checkpoint; whether it is whole is seen when it is gone on from."""
    steps = (place.name.removeprefix("step-") for place in (folder / "checkpoints").glob("step-*"))
    return max(map(int, steps), default=0)
