"""A study whose students are made by the nodes of a Ray cluster on this machine, one of which is
killed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from whytune import recipe_file, store
from whytune.errors import FolderError, InputError, MissingExtraError, RecipeError, WorkError
from whytune.material import gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.run_folder import Cell
from whytune.study import grid, holding, ray_connection, ray_grid

NO_RAY = "ray is not installed: pip install 'whytune[cluster]'"
SIZE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
"""Of a node."""
RECIPE = """
name: shared-out
model: {model}
corpora: {{starter: {{train: 4, test: 12}}}}
tasks: [naturalness]
arms:
  label: {{explanation: none}}
  matched: {{explanation: none, gradient_of: why}}
  why: {{explanation: assessment, words: 5}}
seeds: [0, 1]
prompt: {{max_length: 300}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 2, per_device_train_batch_size: 2, eval_steps: 1,
        eval_limit: 2}}
predict: {{per_device_eval_batch_size: 4, explanations: 1, max_new_tokens: 4}}
evidence: {{bootstrap: 100, baselines: [prior]}}
"""
QUIET = Progress(quiet=True)
# Ray reads a setting of its own by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`use_push_based_shuffle`:DeprecationWarning")
FILES = ("predictions.parquet", "adapter/adapter_model.safetensors", "history.jsonl",
         "scorecard.json", "examples.json")  # fmt: skip
"""Of a run, without times."""


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path) -> Recipe:
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="shared-out.yaml")


@pytest.fixture(scope="module")
def alone(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study without Ray."""
    folder = tmp_path_factory.mktemp("alone") / "study"
    grid.study(recipe, folder, QUIET)
    return folder


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of one processor each."""
    if not os.environ.get("WHYTUNE_RAY_STUDY"):
        pytest.skip("studies on Ray nodes are not proved yet; WHYTUNE_RAY_STUDY=1 tries them")
    pytest.importorskip("ray", reason=NO_RAY)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    # Ray notes the head's address there, whatever `temp_dir` says, and does not make the folder.
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
    # Not pytest's folder: its path is too long for a socket's.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        made = Cluster(initialize_head=True, head_node_args={
            **SIZE, "include_dashboard": False, "temp_dir": folder,
            "_system_config": {"health_check_period_ms": 500, "health_check_initial_delay_ms": 0},
        })  # fmt: skip
        made.add_node(**SIZE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", made.address)
            yield made
        made.shutdown()  # type: ignore[no-untyped-call]


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@contextmanager
def once(what: Callable[[], Any], then: Callable[[Any], None]) -> Iterator[None]:
    """Beside the block: do something as soon as there is something to do it to, just once."""
    over = threading.Event()
    met: list[Any] = []

    def watch() -> None:
        while not (over.is_set() or met):
            if found := what():
                met.append(found)
                then(found)
            over.wait(0.01)

    beside = threading.Thread(target=watch)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()
        assert met


def makers(folder: Path) -> dict[int, str]:
    """Process -> the cell that it makes, where it has come to a checkpoint."""
    found = {}
    for lock in folder.glob(f"runs/*/{holding.NAME}"):
        try:
            told = re.match(r"process (\d+) on", lock.read_text())
        except FileNotFoundError:
            continue
        if told and any(lock.parent.glob("checkpoints/step-*")):
            found[int(told[1])] = lock.parent.name
    return found


def is_below(pid: int, ancestor: int) -> bool:
    """Whether a process was begun by another one, or by one that that one began."""
    while pid > 1 and pid != ancestor:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == ancestor


def assert_same(folder: Path, alone: Path) -> None:
    """Each cell once, and everything but times as without Ray."""
    runs = sorted(path.name for path in (alone / "runs").iterdir())
    assert len(runs) == 6
    assert sorted(path.name for path in (folder / "runs").iterdir()) == runs
    for run in runs:
        here, there = folder / "runs" / run, alone / "runs" / run
        assert {p.name for p in here.iterdir()} == {p.name for p in there.iterdir()}
        for file in FILES:
            assert (here / file).read_bytes() == (there / file).read_bytes(), (run, file)
        facts, others = store.read_json(here / "run.json"), store.read_json(there / "run.json")
        for timed in ("started", "seconds", "peak_rss_mb", "command"):
            facts.pop(timed), others.pop(timed)
        assert facts == others
    found, others = (store.read_json(place / "summary.json") for place in (folder, alone))
    for key in ("rows", "comparisons", "labels", "explanations", "finding", "sentences"):
        assert found[key] == others[key], key
    assert sorted(run for row in found["rows"] for run in row["runs"]) == [
        f"runs/{r}" for r in runs
    ]


def finished(folder: Path) -> dict[str, int]:
    """Run -> when it was finished."""
    found = {}
    for path in folder.glob("runs/*/run.json"):
        written = path.stat().st_mtime_ns
        if json.loads(path.read_text())["state"] == "finished":
            found[path.parent.name] = written
    return found


def test_a_node_killed_midway_changes_nothing(
    nodes: Any, recipe: Recipe, alone: Path, tmp_path: Path
) -> None:
    folder, heard = tmp_path / "study", Heard()
    (second,) = nodes.worker_nodes
    raylet = second.all_processes["raylet"][0].process.pid
    killed: list[tuple[str, str]] = []
    before: dict[str, int] = {}

    def there() -> tuple[int, str] | None:
        return next((one for one in makers(folder).items() if is_below(one[0], raylet)), None)

    def kill(found: tuple[int, str]) -> None:
        pid, cell = found
        os.kill(pid, signal.SIGKILL)  # as with the node's power: nothing is finished first
        killed.append((cell, str(pid)))
        before.update(finished(folder))
        nodes.remove_node(second, allow_graceful=False)

    with once(there, kill):
        grid.study(recipe, folder, heard, on="ray")
    nodes.add_node(**SIZE)
    assert_same(folder, alone)
    # What was finished was not begun again, and what was cut off just once.
    assert killed[0][0] not in before
    assert before.items() <= finished(folder).items()
    said = "\n".join(heard.lines)
    again = re.findall(r"^(\S+): process (\d+) on \S+ is gone, goes on as process \d+", said, re.M)
    assert again == killed
    done = re.findall(r"^(\S+): mse ", said, re.M)
    assert sorted(done) == sorted(path.name for path in (alone / "runs").iterdir())
    for seed in "01":
        matched, other = (f"starter--naturalness--{arm}--s{seed}" for arm in ("matched", "why"))
        assert done.index(other) < done.index(matched)
    command = store.read_json(folder / "runs" / killed[0][0] / "run.json")["command"]
    assert command == store.provenance()["command"]


def test_a_cell_that_fails_names_itself_and_stops_no_other(
    nodes: Any, recipe: Recipe, alone: Path, tmp_path: Path
) -> None:
    folder, heard = tmp_path / "study", Heard()
    shutil.copytree(alone, folder)
    place = folder / "runs" / "starter--naturalness--why--s0"
    facts = store.read_json(place / "run.json")
    store.write_json(place / "run.json", {**facts, "label_share": None})
    for run in ("matched--s0", "matched--s1"):
        shutil.rmtree(folder / "runs" / f"starter--naturalness--{run}")
    with pytest.raises(RecipeError) as caught:
        grid.study(recipe, folder, heard, on="ray")
    fault, last = str(caught.value).splitlines()
    assert re.match(
        r"starter--naturalness--matched--s0: arms.matched.gradient_of: .* delete", fault
    )
    assert (
        last == "1 of 2 cells failed; the others are finished; put it right and run the same again"
    )
    assert "\n".join(heard.lines).count("finished before") == 4
    assert "starter--naturalness--matched--s1" in finished(folder)
    shutil.rmtree(place)
    grid.study(recipe, folder, QUIET)
    assert_same(folder, alone)


def test_interrupted_it_goes_on_without_ray(
    nodes: Any, recipe: Recipe, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"

    def interrupt(_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), once(lambda: makers(folder), interrupt):
        grid.study(recipe, folder, QUIET, on="ray")
    assert not makers(folder)
    assert not (folder / "summary.json").exists()
    grid.study(recipe, folder, QUIET)
    assert_same(folder, alone)


# Without Ray


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that makes the run `tmp_path`."""
    code = (
        "import sys, pathlib\nfrom whytune.study import holding\n"
        "with holding.held(pathlib.Path(sys.argv[1])):\n  print('held', flush=True); input()"
    )
    made = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert made.stdout is not None
    assert made.stdout.readline() == "held\n"
    yield made
    made.kill()
    made.communicate()


def test_a_run_is_made_by_one_process_at_a_time(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    found = rf"{tmp_path}: process {holder.pid} on \S+, since .* makes it, expected one process"
    with pytest.raises(FolderError, match=found), holding.held(tmp_path, patience=0.2):
        pass
    holder.kill()
    with holding.held(tmp_path):
        assert (tmp_path / holding.NAME).read_text().startswith(f"process {os.getpid()} on ")
    assert not any(tmp_path.iterdir())


def test_who_waits_for_a_run_gets_it_once_it_is_let_go(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with (tmp_path / holding.NAME).open() as opened:  # as one does who waits
        holder.communicate("\n")
        assert not any(tmp_path.iterdir())
        with holding.held(tmp_path, patience=0):
            place = tmp_path / holding.NAME
            assert not os.path.samestat(os.fstat(opened.fileno()), place.stat())


def test_a_run_that_another_process_finished_is_not_begun(recipe: Recipe, alone: Path) -> None:
    cell = Cell(corpus="starter", tasks=("naturalness",), arm="label", seed=0)
    material = gather(recipe)["starter", "naturalness"]
    before = finished(alone)
    found = holding.make(
        recipe, cell, [material], alone / "runs" / cell.id, QUIET, begin=lambda: None
    )
    assert found is None
    assert finished(alone) == before
    assert not (alone / "runs" / cell.id / holding.NAME).exists()


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("found", "threads", "expected"),
    [
        ([node(CPU=8.0), node(CPU=2.0)], 2, {"num_cpus": 2.0, "num_gpus": 0.0}),
        ([node(CPU=1.0), node(CPU=1.0)], 2, {"num_cpus": 1.0, "num_gpus": 0.0}),
        ([node(CPU=16.0), node(CPU=4.0, GPU=2.0)], 8, {"num_cpus": 4.0, "num_gpus": 1.0}),
        ([node(CPU=1.0), node(False, CPU=4.0, GPU=1.0)], 1, {"num_cpus": 1.0, "num_gpus": 0.0}),
    ],
)
def test_a_cell_takes_its_threads_and_a_gpu_where_there_is_one(
    found: list[Mapping[str, Any]], threads: int, expected: dict[str, float]
) -> None:
    assert ray_grid.resources(found, threads, "ray") == expected


def test_a_cluster_without_processors_is_refused() -> None:
    with pytest.raises(WorkError, match=r"--on ray: found 1 nodes, none with a processor"):
        ray_grid.resources([node(memory=1.0)], 1, "ray")


def test_what_is_no_cluster_is_refused_before_anything_is_read(
    recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"--on dask: expected ray, or ray://HOST:PORT"):
        grid.study(recipe, tmp_path / "study", QUIET, on="dask")


def test_without_ray_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray is not installed; .*'whytune\[cluster\]'"):
        ray_connection.check("ray")
