"""Starts who is measured, each in a process of its own, and reads what it has told and kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

HERE = Path(__file__).parent
CURATOR = Path(sys.prefix) / "curator" / "bin" / "python"
"""Its environment lies inside the one of the other peers (bench/requirements-curator.lock)."""
STALLED = 30.0
"""Seconds without a request after which a job is taken to hang."""
_DIGEST = re.compile(r"The reply ([0-9a-f]{12}) ")
"""Every scripted verdict names the request that it answers."""


class Served:
    """The scripted server, while the block lasts."""

    def __enter__(self) -> Served:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "annotate_server.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._base = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.url = f"{self._base}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def reset(self, **options: Any) -> None:
        """`annotate_server.Options`; empties the log."""
        urlopen(Request(f"{self._base}/reset", data=json.dumps(options).encode())).read()

    def log(self) -> list[list[Any]]:
        """`annotate_server.Script.log`."""
        return json.load(urlopen(f"{self._base}/log"))

    def count(self) -> int:
        """Requests so far."""
        return int(urlopen(f"{self._base}/count").read())


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Who is measured."""

    name: str
    script: str
    python: str = sys.executable
    paced: tuple[dict[str, Any], ...] = ({},)
    """Settings to choose the best of, where a rate is permitted."""
    free: dict[str, Any] = field(default_factory=dict)
    """Settings where none is."""
    told: str = r"^finished (\d+)$"
    """How it says how many replies are finished; the last one counts."""
    note: str = ""
    """How it is set up."""

    @property
    def there(self) -> bool:
        """Whether its environment was made."""
        return Path(self.python).exists()

    def start(self, folder: Path, **spec: Any) -> Run:
        """Its job in `folder`, with what it keeps in `folder`/store."""
        store = folder / "store"
        store.mkdir(parents=True, exist_ok=True)
        return Run(self, folder, {**spec, "store": str(store)})


OURS = Engine(name="whytune", script="annotate_ours.py",
              note="no limit is told: it is learned from refusals")  # fmt: skip
OPENAI = Engine(
    name="openai", script="annotate_openai.py",
    paced=tuple({"concurrency": most} for most in (64, 96)), free={"concurrency": 64},
    note="AsyncOpenAI behind a semaphore, max_retries as it comes (2), JSON Lines flushed after "
         "every reply, ids in the file are skipped, what failed is asked again at the end; its "
         "semaphore, chosen by trying, tells it how fast it may be",
)  # fmt: skip
CURATOR_PEER = Engine(
    name="curator", script="annotate_curator.py", python=str(CURATOR), told=r"(\d+)/\d+ \[",
    paced=({}, {"settings": {"max_concurrent_requests": 64}}),
    free={"settings": {"max_concurrent_requests": 64}},
    note="max_requests_per_minute is the permitted rate, tokens are not limited; with and without "
         "max_concurrent_requests; its cache is named after the whole table, so that one row more "
         "makes it another; retries wait until everything was asked once",
)  # fmt: skip
PEERS = (OPENAI, CURATOR_PEER)


class Run:
    """One process at its job."""

    def __init__(self, engine: Engine, folder: Path, spec: dict[str, Any]):
        self._engine, self.store = engine, Path(spec["store"])
        self._output = folder / "output.txt"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [engine.python, str(HERE / engine.script), json.dumps(spec)],
                stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )  # fmt: skip
        self.peak_rss_mb = self.cpu_seconds = 0.0

    @property
    def going(self) -> bool:
        """Whether it still runs; to be asked often, as its memory is looked at meanwhile."""
        if self._process.returncode is None:
            self.peak_rss_mb = max(self.peak_rss_mb, high_water_mb(self._process.pid))
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self._process.returncode is None

    def wait(self, server: Served | None = None) -> None:
        """To its end.

        Raises:
            RuntimeError: it failed, or has asked the server nothing for half a minute.
        """
        asked, since = -1, time.monotonic()
        while self.going:
            time.sleep(0.05)
            if server is None or time.monotonic() - since < STALLED:
                continue
            if asked == (asked := server.count()):
                told = self.told()
                self.kill()
                raise RuntimeError(f"stands still after {told} replies; stopped")
            since = time.monotonic()
        if self._process.returncode:
            raise RuntimeError((self.output().strip().splitlines() or ["no output"])[-1][:300])

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def output(self) -> str:
        """All that it said."""
        return self._output.read_text("utf-8", errors="replace")

    def told(self) -> int:
        """Replies that it said are finished."""
        found = re.findall(self._engine.told, self.output(), re.MULTILINE)
        return int(found[-1]) if found else 0


def high_water_mb(process: int | str) -> float:
    """The most memory that a process has held since it began with its program (MB); 0 where the
    system does not say. (`ru_maxrss` would begin with its parent's.)
    """
    path = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", path.read_text("ascii")) if path.exists() else None
    return round(int(found[1]) / 1024, 1) if found else 0.0


def stored(store: Path) -> set[str]:
    """The requests whose replies are kept, by the first 12 digits of their digests."""
    return {digest for text in _texts(store) for digest in _DIGEST.findall(text)}


def _texts(store: Path) -> Iterator[str]:
    journal = store / "journal.sqlite"
    if journal.exists():
        from whytune.teaching.journal import Journal

        yield from (recorded.answer.text for recorded in Journal(journal).replies())
    for path in [*store.glob("verdicts.jsonl"), *store.glob("*/responses_*.jsonl")]:
        for line in path.read_text("utf-8").splitlines():
            try:
                json.loads(line)
            except ValueError:
                continue  # broken off
            yield line
