"""A peer: Bespoke Labs' Curator, as its documentation sets it up for a known rate limit.

Runs in an environment of its own (bench/requirements-curator.lock) and needs nothing of whytune.
Curator keeps every response in a file of its cache folder and goes on from there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

spec = json.loads(sys.argv[1])
_LITELLM = Path(importlib.util.find_spec("litellm").origin).parent  # type: ignore[union-attr, arg-type]
os.environ.update({
    "CURATOR_CACHE_DIR": spec["store"], "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "TELEMETRY_ENABLED": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1",
    # The encoding with which it estimates tokens lies in litellm; else it would be fetched.
    "TIKTOKEN_CACHE_DIR": str(_LITELLM / "litellm_core_utils" / "tokenizers"),
})  # fmt: skip

from bespokelabs import curator  # noqa: E402 it reads its settings on import
from pydantic import BaseModel  # noqa: E402

MANY = 10**9
"""No limit."""


class Verdict(BaseModel):
    score: int
    assessment: str
    confidence: str


class Judge(curator.LLM):
    response_format = Verdict

    def prompt(self, row: dict[str, Any]) -> list[dict[str, str]]:
        return json.loads(row["messages"])

    def parse(self, row: dict[str, Any], response: Verdict) -> dict[str, Any]:
        return {"id": row["id"], **response.model_dump()}


if __name__ == "__main__":
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text("utf-8").splitlines()]
    table = [{"id": row["id"], "messages": json.dumps(row["messages"])} for row in rows]
    judge = Judge(
        model_name="scripted", backend="openai", generation_params={"temperature": 0},
        backend_params={
            "base_url": spec["url"], "api_key": "none", "max_tokens_per_minute": MANY,
            "max_requests_per_minute": spec.get("per_minute", MANY), **spec.get("settings", {}),
        },
    )  # fmt: skip
    judge(table)
