"""Ours: whytune's teachers, as a recipe sets them up, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from annotate_engines import high_water_mb
from annotate_work import SAMPLES, TASKS, Conversations

from whytune.recipe_teachers import TeacherSpec
from whytune.teaching.annotate import Work, annotate
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.board import Board
from whytune.teaching.endpoints import Connection, Endpoint
from whytune.teaching.journal_writer import JournalWriter
from whytune.teaching.purse import Purse
from whytune.teaching.questions import Votes
from whytune.teaching.requests import Request
from whytune.teaching.teachers import Teacher

URL = "http://127.0.0.1/v1"
REPLY = '{"score": 3, "assessment": "It answers what was asked.", "confidence": "quite sure"}'


class Instant:
    """A teacher in this process who has the answer ready."""

    async def __aenter__(self) -> Instant:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ask(self, request: Request) -> Answer:
        await asyncio.sleep(0)
        return Answer(ended=Ended.REPLIED, text=REPLY, tokens_in=400, tokens_out=60)


class Finished:
    """Says after every durable reply how many there are."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, count: int = 1, note: str = "") -> None:
        if count:
            self._count += count
            print(f"finished {self._count}", flush=True)


class Memory:
    """Notes the memory that the process holds, at tenths of the work."""

    def __init__(self, total: int):
        self._total, self._count, self._started = total, 0, time.perf_counter()
        self.rows: list[dict[str, float]] = []

    def __call__(self, count: int = 1, note: str = "") -> None:
        self._count += count
        if self._count >= (len(self.rows) + 1) * self._total // 10:
            self.rows.append({
                "rows": self._count,
                "seconds": round(time.perf_counter() - self._started, 1),
                "peak_rss_mb": high_water_mb("self"),
            })  # fmt: skip


async def run(spec: dict[str, Any]) -> None:
    asked = TeacherSpec(model="scripted", url=spec.get("url", URL), parameters={"temperature": 0},
                        **spec.get("settings", {}))  # fmt: skip
    if "memory" in spec:
        examples, tasks, samples = Conversations(spec["memory"], words=8), TASKS[:1], {}
        advance: Finished | Memory = Memory(spec["memory"])
        teacher: Teacher = Instant()
    else:
        examples, tasks, samples = Conversations(spec["conversations"]), TASKS, SAMPLES
        advance = Finished()
        teacher = Connection(Endpoint(url=spec["url"]))
    votes = Votes("scripted", asked, examples, tasks, samples)
    work = Work(name="scripted", spec=asked, questions=votes, teachers={"loopback": teacher})
    with JournalWriter(Path(spec["store"]) / "journal.sqlite") as journal:
        async with teacher:
            await annotate([work], journal, purse=Purse(), board=Board(advance))
    if isinstance(advance, Memory):
        print(json.dumps(advance.rows))


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
