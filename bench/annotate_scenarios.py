"""The scenarios: what is asked of an engine, and the figures that come of it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import annotate_log
from annotate_engines import OURS, Engine, Served, stored
from annotate_log import Kill
from annotate_work import CALLS, rows
from machine import rounded

FAULTS = {"disconnect": 0.01, "malformed": 0.005, "seed": 7}
KILLS, QUICK_KILLS = 20, 3
LONGEST = 1.0
"""Seconds from a process's first call to its kill, at most."""
KILLED = 28
"""Conversations of a job that is killed: 1,008 calls."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the command line says."""

    quick: bool = False
    rate: float = 300.0
    """Permitted requests a second."""
    burst: float = 300.0
    """That the server's bucket holds."""
    fractions: bool = False
    """Retry-After in fractions of a second."""
    rows: int = 1_000_000
    """Of the scenario `memory`."""


class Bench:
    """One server, one folder, and the sizes of everything."""

    def __init__(self, server: Served, folder: Path, sizes: Sizes):
        self.server, self._folder, self._count = server, folder, 0
        self.sizes, self.quick = sizes, sizes.quick

    def job(self, conversations: int) -> dict[str, Any]:
        """What a job of so many conversations is told, whoever does it."""
        table = self._folder / f"rows-{conversations}.jsonl"
        if not table.exists():
            lines = (json.dumps(row) + "\n" for row in rows(conversations))
            table.write_text("".join(lines), encoding="utf-8")
        return {"url": self.server.url, "conversations": conversations, "rows": str(table)}

    def folder(self) -> Path:
        """A new one."""
        self._count += 1
        return self._folder / f"job-{self._count}"

    # --- a permitted rate

    def rate(self, engine: Engine) -> dict[str, Any]:
        """The whole job with its best settings, found on a sixth of it."""
        whole = 20 if self.quick else 500
        short = 10 if self.quick else 84
        tried = []
        if len(engine.paced) > 1:
            tried = [self._paced(engine, short, settings) for settings in engine.paced]
            best = max(tried, key=lambda found: found["share_of_permitted_rate_whole_run"])
            found = self._paced(engine, whole, best["settings"])
        else:
            found = self._paced(engine, whole, engine.paced[0])
        return {**found, "tried": tried}

    def _paced(self, engine: Engine, size: int, settings: dict[str, Any]) -> dict[str, Any]:
        sizes = self.sizes
        options = {"latency": 0.2, "rate": sizes.rate, "burst": sizes.burst,
                   "fractions": sizes.fractions, **FAULTS}  # fmt: skip
        self.server.reset(**options)
        run = engine.start(
            self.folder(), **self.job(size), per_minute=int(60 * sizes.rate), **settings
        )
        run.wait(self.server)
        log = self.server.log()
        found = annotate_log.figures(log, sizes.rate)
        return {
            **{name: rounded(value, 5) for name, value in found.items()},
            "calls": size * CALLS, "kept": len(stored(run.store)),
            "cpu_seconds": round(run.cpu_seconds, 2), "peak_rss_mb": run.peak_rss_mb,
            "settings": settings, "server": options,
            "accepted_per_second": annotate_log.per_second(log),
        }  # fmt: skip

    # --- kill -9

    def kill(self, engine: Engine) -> dict[str, Any]:
        """Jobs that are killed and gone on with, until there were 20 kills."""
        wanted, draw = QUICK_KILLS if self.quick else KILLS, random.Random(0)
        found: list[dict[str, int]] = []
        while (before := sum(one["kills"] for one in found)) < wanted:
            found.append(self._killed(engine, wanted - before, draw))
        return {name: sum(one[name] for one in found) for name in found[0]} | {"jobs": len(found)}

    def _killed(self, engine: Engine, most: int, draw: random.Random) -> dict[str, int]:
        """One job to its end, however often it is killed on the way."""
        self.server.reset(latency=0.05)
        folder = self.folder()
        kills: list[Kill] = []
        job = {**self.job(KILLED), **engine.free}
        while True:
            before = self.server.count()
            run = engine.start(folder, **job)
            if len(kills) == most:
                run.wait(self.server)
                break
            while run.going and self.server.count() <= before:
                time.sleep(0.005)
            time.sleep(draw.uniform(0.0, LONGEST))
            if not run.going:
                run.wait(self.server)
                break
            at = time.time()
            run.kill()
            kills.append(Kill(at, run.told(), stored(run.store)))
        kept = len(stored(run.store))
        return annotate_log.after_kills(self.server.log(), kills) | {
            "calls": KILLED * CALLS, "missing_at_the_end": KILLED * CALLS - kept,
        }  # fmt: skip

    # --- one row more

    def row(self, engine: Engine) -> dict[str, Any]:
        """Calls for one conversation that is added to ten."""
        folder = self.folder()
        for size in (10, 11):
            self.server.reset(latency=0.02)
            engine.start(folder, **self.job(size), **engine.free).wait(self.server)
        made = len(annotate_log.calls(self.server.log()))
        return {"calls_after_new_row": made, "reasked_after_new_row": made - CALLS}

    # --- no latency, no limit

    def speed(self, engine: Engine) -> dict[str, Any]:
        """Calls a second."""
        size = 20 if self.quick else 200
        self.server.reset(latency=0.0)
        run = engine.start(self.folder(), **self.job(size), **engine.free)
        run.wait(self.server)
        return {"calls_per_s": rounded(annotate_log.calls_per_s(self.server.log())),
                "calls": size * CALLS, "cpu_seconds": round(run.cpu_seconds, 2),
                "peak_rss_mb": run.peak_rss_mb}  # fmt: skip

    # --- a million calls

    def memory(self, engine: Engine) -> dict[str, Any]:
        """Peak memory at tenths of the work, of a teacher in the process that answers at once."""
        if engine is not OURS:
            return {}
        size = 5_000 if self.quick else self.sizes.rows
        run = engine.start(self.folder(), memory=size, settings={"prompts": ["scale-1-4"]})
        run.wait()
        tenths = json.loads(run.output().splitlines()[-1])
        mid, end = tenths[0]["peak_rss_mb"], tenths[-1]["peak_rss_mb"]
        return {"rows": size, "peak_rss_mb_at_tenths": tenths,
                "growth_of_peak_rss_from_10_to_100_percent": rounded(end / mid - 1, 3)}  # fmt: skip


SCENARIOS: dict[str, Callable[[Bench, Engine], dict[str, Any]]] = {
    "rate": Bench.rate, "kill": Bench.kill, "row": Bench.row, "speed": Bench.speed,
    "memory": Bench.memory,
}  # fmt: skip
