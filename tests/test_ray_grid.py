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
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from whytune import recipe_file, store
from whytune.errors import FolderError, InputError, MissingExtraError, WorkError
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
corpora: {{starter: {{train: 6, test: 12}}}}
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
FILES = ("predictions.parquet", "adapter/adapter_model.safetensors", "history.jsonl",
         "scorecard.json", "examples.json")  # fmt: skip
"""Of a run, without times."""


@pytest.fixture(scope="module")
def written(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared-out") / "r.yaml"
    path.write_text(RECIPE.format(model=tiny_folder))
    return path


@pytest.fixture(scope="module")
def recipe(written: Path) -> Recipe:
    return recipe_file.load(written)


@pytest.fixture(scope="module")
def alone(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study without Ray."""
    folder = tmp_path_factory.mktemp("alone") / "study"
    grid.study(recipe, folder, QUIET)
    return folder


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of one processor each."""
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
        yield made
        made.shutdown()  # type: ignore[no-untyped-call]


def study(recipe: Path, folder: Path, address: str) -> subprocess.Popen[str]:
    import torch

    return subprocess.Popen(
        [sys.executable, "-m", "whytune", "study", str(recipe), "--out", str(folder), "--on", "ray",
         "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Threads decide the order of sums; on a node they follow this process.
        env={**os.environ, "RAY_ADDRESS": address, "COLUMNS": "500",
             "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip


def ended(running: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = running.communicate(timeout=300)
    return running.returncode, err


def wait_for(what: Callable[[], Any], running: subprocess.Popen[str]) -> Any:
    end = time.monotonic() + 120
    while not (found := what()):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


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


def parent(pid: int) -> int:
    """0 where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


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
    assert [run for row in found["rows"] for run in row["runs"]].sort() == runs.sort()


def test_a_node_killed_midway_changes_nothing(
    nodes: Any, written: Path, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    (second,) = nodes.worker_nodes
    raylet = second.all_processes["raylet"][0].process.pid
    running = study(written, folder, nodes.address)
    pid, cell = wait_for(
        lambda: next((one for one in makers(folder).items() if parent(one[0]) == raylet), None),
        running,
    )
    os.kill(pid, signal.SIGKILL)  # as with the node's power: nothing is finished first
    assert store.read_json(folder / "runs" / cell / "run.json")["state"] == "started"
    nodes.remove_node(second, allow_graceful=False)
    before = finished(folder)
    code, err = ended(running)
    nodes.add_node(**SIZE)
    assert code == 0, err
    assert_same(folder, alone)
    # What was finished was not begun again, and what was cut off just once.
    assert before.items() <= finished(folder).items()
    again = re.findall(r"^(\S+): process (\d+) on \S+ is gone, goes on as process \d+", err, re.M)
    assert again == [(cell, str(pid))]
    done = re.findall(r"^(\S+): mse ", err, re.M)
    assert sorted(done) == sorted(path.name for path in (alone / "runs").iterdir())
    first = {name: done.index(name) for name in done}
    for seed in "01":
        assert (
            first[f"starter--naturalness--why--s{seed}"]
            < (first[f"starter--naturalness--matched--s{seed}"])
        )
    command = store.read_json(folder / "runs" / cell / "run.json")["command"]
    assert command.startswith("whytune study")


def finished(folder: Path) -> dict[str, int]:
    """Run -> when it was finished."""
    found = {}
    for path in folder.glob("runs/*/run.json"):
        written = path.stat().st_mtime_ns
        if json.loads(path.read_text())["state"] == "finished":
            found[path.parent.name] = written
    return found


def test_a_cell_that_fails_names_itself_and_stops_no_other(
    nodes: Any, written: Path, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(alone, folder)
    place = folder / "runs" / "starter--naturalness--why--s0"
    facts = store.read_json(place / "run.json")
    store.write_json(place / "run.json", {**facts, "label_share": None})
    for run in ("matched--s0", "matched--s1"):
        shutil.rmtree(folder / "runs" / f"starter--naturalness--{run}")
    code, err = ended(study(written, folder, nodes.address))
    assert code == 2, err
    assert "Traceback" not in err
    *_, fault, last = err.splitlines()
    assert re.match(
        r"starter--naturalness--matched--s0: arms.matched.gradient_of: .* delete", fault
    )
    assert last == (
        "1 of 2 cells failed; 1 are finished and stay; put it right and run the same again"
    )
    assert "starter--naturalness--matched--s1" in finished(folder)
    shutil.rmtree(place)
    code, err = ended(study(written, folder, nodes.address))
    assert code == 0, err
    assert err.count("finished before") == 4
    assert_same(folder, alone)


def test_interrupted_it_goes_on_without_ray(
    nodes: Any, written: Path, recipe: Recipe, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    running = study(written, folder, nodes.address)
    wait_for(lambda: makers(folder), running)
    running.send_signal(signal.SIGINT)
    code, err = ended(running)
    assert code == 130, err
    assert err.splitlines()[-1] == "interrupted; the same command goes on where it stopped"
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
