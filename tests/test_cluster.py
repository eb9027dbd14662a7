"""Teachers asked by the nodes of a Ray cluster on this machine, one of which is killed."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from whytune import asking, material, recipe_file
from whytune.errors import InputError, MissingExtraError, RecipeError, WorkError
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.study import cluster
from whytune.study.shards import count, cut
from whytune.teaching import ensemble, journal_join
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.journal import Journal
from whytune.teaching.journal_writer import JournalWriter

NO_RAY = "ray is not installed: pip install 'whytune[cluster]'"
SIZE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
"""Of a node."""
EXAMPLES = 48
REQUESTS = 3 * EXAMPLES
"""Two votes on each example, and why."""
IN_FLIGHT = 4
"""Requests that each of two actors may have in flight at the one address for each of two
teachers."""
RECIPE = """
name: shared-out
model: none
corpora: {{starter: {{train: 36, test: 12}}}}
tasks: [naturalness]
arms: {{label: {{explanation: none}}}}
teachers:
  votes:
    {common}
    prompts: [scale-1-4, scale-1-5]
  why:
    {common}
    prompts: [justify]
"""


class Server:
    """A teacher whose answer to a request is always the same; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.seconds = 0.2
        self.most = self._now = 0
        """In flight at a time."""
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    server.asked[hashlib.sha256(body).hexdigest()] += 1
                    server._now += 1
                    server.most = max(server.most, server._now)
                time.sleep(server.seconds)
                with lock:
                    server._now -= 1
                found = json.dumps(server.reply(body)).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-length", str(len(found)))
                    self.end_headers()
                    self.wfile.write(found)
                except ConnectionError:
                    pass  # whoever asked was killed

            def log_message(self, *_: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # likewise

        self._http = Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def reply(self, body: bytes) -> dict[str, Any]:
        number = hashlib.sha256(body).digest()[0]
        keys = json.loads(body)["response_format"]["json_schema"]["schema"]["properties"]
        # One in eight cannot be read, and is asked again.
        said = {key: 1 + number % 4 if key == "score" else f"because {number}" for key in keys}
        text = json.dumps(said) if number % 8 or "score" not in keys else "no"
        return {
            "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def written(folder: Path, server: Server | None, more: str = "") -> Path:
    url = "http://127.0.0.1:9/v1" if server is None else server.url
    common = f"url: {url}\n    concurrency: {2 * IN_FLIGHT}\n    {more}"
    path = folder / "shared-out.yaml"
    path.write_text(RECIPE.format(common=common))
    return path


def annotate(recipe: Path, address: str, *arguments: str, on: str = "ray") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "whytune", "annotate", str(recipe), "--on", on, "--json"]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_ADDRESS": address},
    )  # fmt: skip


def ended(running: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    out, err = running.communicate(timeout=80)
    # Without a result, Ray may have had the last word.
    last = out.splitlines()[-1] if out else ""
    return running.returncode, json.loads(last) if last.startswith("{") else {}, err


def wait_for(what: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


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


def test_a_node_killed_midway_costs_what_it_had_in_flight(
    nodes: Any, server: Server, tmp_path: Path
) -> None:
    recipe = written(tmp_path, server)
    (second,) = nodes.worker_nodes
    raylet = second.all_processes["raylet"][0].process.pid
    running = annotate(recipe, nodes.address)
    shards = tmp_path / "shared-out.journal.shards"

    def busy() -> set[int]:
        """Processes of the second node that wait for answers."""
        found = set()
        for lock in shards.glob("*.lock"):
            told = re.match(r"process (\d+) on", lock.read_text())
            if (
                told
                and parent(int(told[1])) == raylet
                and any(Journal(lock.with_suffix("")).in_flight())
            ):
                found.add(int(told[1]))
        return found

    wait_for(lambda: server.asked.total() > REQUESTS / 4 and busy())
    killed = busy()
    for pid in killed:  # as with the node's power: nothing is finished first
        os.kill(pid, signal.SIGKILL)
    nodes.remove_node(second, allow_graceful=False)
    code, told, err = ended(running)
    assert code == 0, err
    assert told["whole"], told
    _check_journal(recipe_file.load(recipe), server)
    # The same without Ray says the same.
    nodes.add_node(**SIZE)
    apart = recipe_file.load(recipe, [f"journal={tmp_path / 'apart'}"])
    asking.ask(apart, Progress(quiet=True))
    assert _verdicts(recipe_file.load(recipe)) == _verdicts(apart)


def parent(pid: int) -> int:
    """0 where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _check_journal(recipe: Recipe, server: Server) -> None:
    """Everything once, but what one node had in flight."""
    assert recipe.journal is not None
    journal = Journal(Path(recipe.journal))
    assert not journal_join.shards(journal.path).exists()
    requests = sum(found.requests for found in journal.counts())
    assert requests == len(server.asked)
    assert sum(found.attempts for found in journal.counts()) == requests
    cut_off = list(journal.in_flight())
    again = server.asked.total() - len(server.asked)
    # Sent, or answered and not yet on the disk: as many again.
    assert 0 < again <= len(cut_off) <= 2 * IN_FLIGHT
    assert server.most <= 2 * IN_FLIGHT * 2
    print(f"{again} requests asked again, {len(cut_off)} cut off, of {requests}")  # noqa: T201


def _verdicts(recipe: Recipe) -> Any:
    return {key: found.verdicts for key, found in material.gather(recipe).items()}


def test_interrupted_it_goes_on_where_it_stopped_with_or_without_ray(
    nodes: Any, server: Server, tmp_path: Path
) -> None:
    recipe = written(tmp_path, server)
    running = annotate(recipe, nodes.address)
    wait_for(lambda: server.asked.total() > REQUESTS / 4)
    running.send_signal(signal.SIGINT)
    code, _, err = ended(running)
    assert (code, err.splitlines()[-1]) == (
        130, "interrupted; the same command goes on where it stopped",
    )  # fmt: skip
    assert any((tmp_path / "shared-out.journal.shards").glob("*.journal"))
    (one, two) = asking.ask(recipe_file.load(recipe), Progress(quiet=True))
    assert one.whole
    assert two.whole
    journal = Journal(tmp_path / "shared-out.journal")
    assert sum(found.attempts for found in journal.counts()) == len(server.asked)
    cut_off = len(list(journal.in_flight()))
    assert server.asked.total() - len(server.asked) <= cut_off <= 2 * IN_FLIGHT


def test_a_budget_is_shared_out_and_never_passed(
    nodes: Any, server: Server, tmp_path: Path
) -> None:
    recipe = written(tmp_path, server,
                     "price: {input: 10, output: 100}\n    parameters: {max_tokens: 20}")  # fmt: skip
    server.seconds = 0.0
    budget = 0.002 * EXAMPLES  # each request costs 0.002
    code, told, err = ended(annotate(recipe, nodes.address, "--budget", str(budget)))
    assert code == 1, err
    (votes,) = told["teachers"]
    assert votes["account"]["stopped"]
    spent = Journal(tmp_path / "shared-out.journal").spent()["votes"].cost
    assert votes["account"]["cost"] == pytest.approx(spent)
    # A send is set aside at up to fifteen times what it costs here; one shard's share is not enough
    # for many, but what they leave goes on in one.
    assert budget / 4 < spent <= budget


def test_what_is_wrong_with_a_server_is_told_as_without_ray(nodes: Any, tmp_path: Path) -> None:
    code, _, err = ended(annotate(written(tmp_path, None), nodes.address))
    assert code == 1
    assert re.search(r"teachers.votes at http://127.0.0.1:9/v1: 12 requests failed", err)
    assert "Traceback" not in err


# Without Ray


def test_shards_hold_what_is_open_and_examples_of_one_text_together(tmp_path: Path) -> None:
    recipe = recipe_file.load(written(tmp_path, None))
    (about,) = asking.abouts(recipe, None)
    renamed = replace(about, examples=[replace(e, id=f"also {e.id}") for e in about.examples])
    asked = asking.by_teacher([ensemble.voters(recipe, a) for a in (about, renamed)])
    first, unread = list(asked["votes"])[:2]
    with JournalWriter(tmp_path / "j") as journal:
        for question, ending in ((first, Ended.REFUSED), (unread, Ended.REPLIED)):
            sent = journal.begin(question.request).result()
            journal.end(sent, Answer(ended=ending, text="?"), seconds=0).result()
        shards = cut(asked, recipe, journal, parts=6, budget=None)
        held = [Counter(q.request.key for q in shard.questions["votes"]) for shard in shards]
        assert 4 < len(shards) <= 6
        opened = (q.request.key for q in asked["votes"] if q.request.key != first.request.key)
        assert sum(held, Counter()) == Counter(opened)
        # What was answered unreadably is in the shard's journal, so that it is not asked again.
        known = [r.key for shard in shards for r in Journal(shard.journal).replies()]
        assert known == [unread.request.key]
        assert all(not one & other for one in held for other in held if one is not other)
        assert [len(shard.questions["votes"]) for shard in shards] == [c.total() for c in held]
        for shard in shards:
            journal_join.absorb(shard.journal, journal, patience=0)


@pytest.mark.parametrize(("examples", "shards"), [(1, 1), (48, 6), (71, 8), (10**6, 8)])
def test_small_work_is_cut_into_fewer(examples: int, shards: int) -> None:
    assert count(examples, actors=2) == shards


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


def test_one_actor_a_node_or_a_gpu_and_together_the_recipe_s_limits(tmp_path: Path) -> None:
    recipe = recipe_file.load(written(tmp_path, None, "requests_per_minute: 90"))
    found = [node(CPU=4.0, GPU=2.0), node(CPU=4.0, GPU=1.0), node(memory=1.0), node(False, CPU=1.0)]
    assert cluster.crew(recipe, found) == (2, 0.0)
    assert cluster.crew(recipe, [node(CPU=1.0)] * 20) == (2 * IN_FLIGHT, 0.0)
    spec = cluster.share(recipe, 3).teachers["why"]
    assert (spec.concurrency, spec.requests_per_minute, spec.tokens_per_minute) == (2, 30.0, None)
    local = recipe_file.load(written(tmp_path, None), ["teachers={a: {api: local}}"])
    assert cluster.crew(local, found) == (3, 1.0)
    assert cluster.crew(local, [node(CPU=2.0)]) == (1, 0.0)


def test_without_ray_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = recipe_file.load(written(tmp_path, None))
    with pytest.raises(MissingExtraError, match=r"ray is not installed; .*'whytune\[cluster\]'"):
        cluster.ask(recipe, Progress(quiet=True), on="ray")


@pytest.mark.parametrize("on", ["dask", "ray:", "ray://", "ray://host", "rayx", ""])
def test_what_is_no_cluster_is_refused(tmp_path: Path, on: str) -> None:
    recipe = recipe_file.load(written(tmp_path, None))
    with pytest.raises(InputError, match=rf"--on {on}: expected ray, or ray://HOST:PORT"):
        cluster.ask(recipe, Progress(quiet=True), on=on)


def test_functions_cannot_be_asked_from_elsewhere(tmp_path: Path) -> None:
    recipe = recipe_file.load(written(tmp_path, None), ["teachers={f: {api: python}}"])
    with pytest.raises(RecipeError, match=r"teachers.f: a function answers .*without --on"):
        cluster.ask(recipe, Progress(quiet=True), on="ray")


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    recipe = recipe_file.load(written(tmp_path, None))
    with pytest.raises(
        WorkError, match=r"--on ray://127.0.0.1:9: Ray cannot be reached \(.*refused"
    ):
        cluster.ask(recipe, Progress(quiet=True), on="ray://127.0.0.1:9")
