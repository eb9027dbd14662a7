"""The cells of a study as tasks of a Ray cluster.

Each cell is one task, which takes as many processors as torch takes threads here (or all of the
largest node, where that is fewer), and a GPU where the cluster has any. A cell whose arm is matched
to another one's gradient waits for that one. Everything around the cells stays with the process
that runs the study.

All nodes must have whytune, what it needs to train, and the base model under the name that the
recipe gives it, and must see the study's folder under the same path, on a file system with locks
that hold between nodes.

What is promised:

- **Once.** A cell stands in the results once, whole, or not at all: it has one folder, one process
  at a time writes there (`holding`), and one that is finished is not begun again. A task whose node
  dies is begun anew on another one, at most `RETRIES` times, and goes on from the last checkpoint
  in that folder; updates since then are made again, with the same result.
- **The same.** Tasks compute with as many threads as this process would, which decides the order
  of sums. On processors of the same kind students, answers and figures are those of a study without
  Ray, bit for bit; other kinds, and GPUs, may differ in the last digits.
- **Nothing lost.** A cell that fails does not stop the others; all that failed are named at the
  end. After that, after Ctrl-C, or after this process was killed, running the same again does what
  is missing, with or without Ray.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from whytune import errors, store
from whytune.errors import WorkError
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.run_folder import Cell
from whytune.study import ray_connection
from whytune.study.ray_task import LOOK, Board, Cards, Fault, Given, teach
from whytune.study.summary import Materials

RETRIES = 3
"""How often a cell is begun anew because its process or node died."""
_NAMED = 3
"""Cells of which a line says how far they are."""
_GRACE = 10.0
"""Seconds that interrupted tasks have to end by themselves."""


def run(
    recipe: Recipe, materials: Materials, cells: Sequence[Cell], folder: Path, show: Progress, *,
    on: str, claim: Callable[[Recipe, Materials, Path], None], short: Callable[[Cards], str],
) -> float:  # fmt: skip
    """Make cells on a Ray cluster.

    Args:
        recipe: of the study.
        materials: of the study.
        cells: those that are not finished; one whose arm is matched to another one's gradient
            stands behind that one.
        folder: of the study.
        show: which cells run where, and how far they are.
        on: which cluster, as `ray_connection.check` says.
        claim: as in `Given`; called on the nodes.
        short: what came of a cell, in a line.

    Returns:
        Seconds spent in the runs' own stages by this call, summed over the cells.

    Raises:
        MissingExtraError: ray is not installed.
        WorkError: Ray cannot be reached or fails, or no node has a processor.
        WhytuneError: of the kind of the first cell that failed; names all that did.
    """
    if not cells:
        return 0.0
    import torch

    given = Given(recipe=recipe, materials=materials, folder=folder.absolute(), claim=claim,
                  threads=torch.get_num_threads(), command=tuple(sys.argv))  # fmt: skip
    with ray_connection.connected(on) as ray:
        faults = _Tasks(ray, given, cells, show, short).run(on)
    if faults:
        first = next(iter(faults.values()))
        lines = [f"{cell.id}: {fault.message}" for cell, fault in faults.items()]
        lines.append(f"{len(faults)} of {len(cells)} cells failed; the others are finished; put it "
                     "right and run the same again")  # fmt: skip
        raise getattr(errors, first.error)("\n".join(lines))
    made = (store.read_json(given.place(cell) / "run.json") for cell in cells)
    return sum(sum(facts["seconds"].values()) for facts in made)


def resources(nodes: Sequence[Mapping[str, Any]], threads: int, on: str) -> dict[str, float]:
    """What a cell takes of a node: `num_cpus` and `num_gpus`, as Ray calls them.

    Args:
        nodes: as `ray.nodes` tells of them.
        threads: that a cell computes with.
        on: names the cluster in messages.

    Raises:
        WorkError: no node has a processor.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = float(any(own.get("GPU", 0) >= 1 for own in alive))
    most = max((own.get("CPU", 0.0) for own in alive if own.get("GPU", 0) >= gpus), default=0.0)
    if most <= 0:
        raise WorkError(
            f"--on {on}: found {len(alive)} nodes, none with a processor for a cell; expected one "
            "or more; start a node with processors, and run again"
        )
    return {"num_cpus": min(float(threads), most), "num_gpus": gpus}


class _Tasks:
    """The tasks of a study, from their beginning to the last one's end."""

    def __init__(
        self, ray: Any, given: Given, cells: Sequence[Cell], show: Progress,
        short: Callable[[Cards], str],
    ):  # fmt: skip
        self._ray, self._given, self._show, self._short = ray, given, show, short
        self._cells = cells
        self._open: dict[Any, Cell] = {}
        """Task -> cell, of those that have not ended."""
        self._where: dict[str, str] = {}
        """Cell -> the process that makes it."""
        self._faults: dict[Cell, Fault] = {}

    def run(self, on: str) -> dict[Cell, Fault]:
        """Until all have ended; those that failed, in the order of the cells."""
        ray = self._ray
        wanted = resources(ray.nodes(), self._given.threads, on)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        try:
            self._begin(board, wanted)
            with self._show.work("students on Ray", len(self._cells)) as advance:
                while self._open:
                    done, _ = ray.wait(list(self._open), num_returns=1, timeout=LOOK)
                    self._look(board, advance)
                    for task in done:
                        self._end(task)
                        advance(1)
        except ray.exceptions.RayError as error:
            raise WorkError(f"--on {on}: {_said(error)}") from error
        finally:
            self._stop()
        return {cell: self._faults[cell] for cell in self._cells if cell in self._faults}

    def _begin(self, board: Any, wanted: Mapping[str, float]) -> None:
        ray = self._ray
        # Spread, so that no node is short of memory while another one is idle.
        task = ray.remote(teach).options(
            **wanted, max_retries=RETRIES, scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._given.threads)}},
        )  # fmt: skip
        given = ray.put(self._given)
        begun: dict[Cell, Any] = {}
        for cell in self._cells:
            other = self._given.recipe.arms[cell.arm].gradient_of
            before = other and begun.get(replace(cell, arm=other))
            begun[cell] = task.remote(given, cell, board, before)
            self._open[begun[cell]] = cell

    def _look(self, board: Any, advance: Advance) -> None:
        """Show what the tasks tell."""
        told: dict[str, tuple[str, str]] = self._ray.get(board.told.remote())
        running = {cell.id for cell in self._open.values()} & told.keys()
        for cell, (where, _) in told.items():
            if self._where.get(cell, where) != where:
                self._show.say(f"{cell}: {self._where[cell]} is gone, goes on as {where}")
            elif cell not in self._where:
                self._show.say(f"{cell}: runs as {where}")
            self._where[cell] = where
        waiting = len(self._open) - len(running)
        doing = "; ".join(f"{cell} {told[cell][1]}" for cell in sorted(running)[:_NAMED])
        parts = (f"{len(running)} running", f"{waiting} waiting", doing)
        advance(0, ", ".join(part for part in parts if part))

    def _end(self, task: Any) -> None:
        cell = self._open.pop(task)
        try:
            found = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            found = Fault(error="WorkError", message=_said(error))
        if isinstance(found, Fault):
            self._faults[cell] = found
            self._show.say(f"{cell.id}: failed: {found.message}")
        else:
            self._show.say(f"{cell.id}: {self._short(found)}")

    def _stop(self) -> None:
        """End what still runs; all of it is fit to go on from."""
        left = list(self._open)
        with suppress(self._ray.exceptions.RayError):  # what stopped it is told already
            for task in left:
                self._ray.cancel(task)
            if left:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=_GRACE)
            for task in left:
                self._ray.cancel(task, force=True)


def _said(error: Exception) -> str:
    """What Ray tells, by its last line, which is the cause."""
    last = str(error).strip().rpartition("\n")[2]
    return (
        f"Ray: {type(error).__name__} ({last[:300]}); expected the cell to end; see to the cluster, "
        "and run the same again: it goes on where it stopped"
    )
