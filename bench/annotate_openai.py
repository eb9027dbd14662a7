"""A peer: the script that one writes around the `openai` client.

A semaphore bounds what is in flight, the client retries as it does by default, every verdict is
appended to a JSON Lines file and flushed, and ids that stand there are not asked again. What
failed is asked once more at the end, until nothing is missing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

PASSES = 5


async def main(spec: dict[str, Any]) -> None:
    from openai import AsyncOpenAI

    rows = [json.loads(line) for line in Path(spec["rows"]).read_text("utf-8").splitlines()]
    path = Path(spec["store"]) / "verdicts.jsonl"
    client = AsyncOpenAI(base_url=spec["url"], api_key="none")
    gate = asyncio.Semaphore(spec["concurrency"])
    done = finished(path)
    with path.open("a", encoding="utf-8") as file:

        async def ask(row: dict[str, Any]) -> None:
            async with gate:
                try:
                    response = await client.chat.completions.create(
                        model="scripted", messages=row["messages"], temperature=0,
                        response_format={"type": "json_schema", "json_schema": {
                            "name": "answer", "strict": True, "schema": row["schema"]}},
                    )  # fmt: skip
                    verdict = json.loads(response.choices[0].message.content)
                except Exception as error:  # noqa: BLE001 what such a script does
                    print(f"{row['id']}: {error!r:.100}", file=sys.stderr)
                    return
            file.write(json.dumps({"id": row["id"], **verdict}) + "\n")
            file.flush()
            done.add(row["id"])
            print(f"finished {len(done)}", flush=True)

        for _ in range(PASSES):
            missing = [row for row in rows if row["id"] not in done]
            if not missing:
                break
            await asyncio.gather(*(ask(row) for row in missing))


def finished(path: Path) -> set[str]:
    """Ids in the file; a line that breaks off was not finished."""
    found = set()
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                found.add(json.loads(line)["id"])
            except ValueError:
                continue
    return found


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
