"""The overhead of a study's grid: seconds of a whole study beyond the students' own stages (load,
train, review, predict, explain), for each cell.

Students are tiny (two layers, random weights, eight lessons), so that next to nothing else is
measured. Two studies of different size run in a process of their own, after one cell that is not
counted: what the second takes longer is what a cell costs (`per_cell_s`), the rest is what a study
costs whatever its size (`per_study_s`: reading, baselines, tables, figures, page). `whole_per_cell_s`
is the larger study's overhead over its cells, the study's own part included. `processor_` is the
same in seconds of the processor, which other work on the machine disturbs less. With `ray`, cells
are tasks of a Ray cluster of one processor on this machine, one after another; Ray's start counts
to the study. Only the first needs no ray.
Usage: python bench/study.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import facts, peak_rss_mb, rounded, work, write

WANTED_S = 2.0
"""Of overhead for each cell, at most."""
FULL, QUICK = (2, 8), (1, 2)
"""Seeds of the smaller and the larger study; each seed has two cells."""
ARMS = 2
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RECIPE = """
name: overhead
model: {model}
corpora: {{starter: {{train: 8, test: 12}}}}
tasks: [naturalness]
arms: {{label: {{explanation: none}}, why: {{explanation: assessment, words: 10}}}}
seeds: {seeds}
prompt: {{max_length: 400}}
train: {{num_train_epochs: 1, per_device_train_batch_size: 4, eval_steps: 2, eval_limit: 2}}
predict: {{per_device_eval_batch_size: 12, explanations: 1, max_new_tokens: 4}}
evidence: {{bootstrap: 100, baselines: [prior]}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the result, not a table")
    parser.add_argument("--quick", action="store_true", help="two sizes of next to nothing")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(_worker(json.loads(given.worker))))
        return
    result = measure(quick=given.quick)
    write("study", result, quick=given.quick)
    print(json.dumps(result)) if given.json else _show(result)


def measure(*, quick: bool) -> dict[str, Any]:
    """Studies of both sizes, in this process and on Ray."""
    engines = ["here", "ray"] if find_spec("ray") else ["here"]
    found, runs = {}, {}
    for engine in engines:
        spec = {"case": "study", "engine": engine, "seeds": QUICK if quick else FULL}
        runs[engine] = work("study.py", spec)
        found[engine] = _overhead(runs[engine])
    return {
        "benchmark": "study", "quick": quick, "wanted_s": WANTED_S, "engines": found, "runs": runs,
        **facts("study.py", sys.argv[1:]),
    }  # fmt: skip


def _overhead(run: dict[str, Any]) -> dict[str, Any]:
    if "error" in run:
        return {"error": run["error"]}
    small, large = run["studies"]
    found = {}
    for kind in [kind for kind in ("", "processor_") if f"{kind}s" in small]:
        beyond = [one[f"{kind}s"] - one[f"{kind}stages_s"] for one in (small, large)]
        cell = (beyond[1] - beyond[0]) / (large["cells"] - small["cells"])
        found |= {f"{kind}per_cell_s": rounded(cell, 3),
                  f"{kind}per_study_s": rounded(beyond[0] - cell * small["cells"], 3),
                  f"{kind}whole_per_cell_s": rounded(beyond[1] / large["cells"], 3)}  # fmt: skip
    return found


def _show(result: dict[str, Any]) -> None:
    for engine, found in result["engines"].items():
        print(engine)
        for name, figure in found.items():
            print(f"  {name:28} {figure}")
    print(f"wanted: {result['wanted_s']} s a cell at most")


# --- in a worker's process


def _worker(spec: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place, _engine(spec["engine"]) as on:
        folder = Path(place)
        _write_model(folder / "model")
        _study(folder, 1, None)
        studies = [_study(folder, seeds, on) for seeds in spec["seeds"]]
    return {"studies": studies, "peak_rss_mb": peak_rss_mb()}


@contextmanager
def _engine(name: str) -> Iterator[str | None]:
    if name == "here":
        yield None
        return
    import logging

    import ray

    # Of one processor, so that cells run one after another and their seconds can be told apart.
    ray.init(address="local", num_cpus=1, object_store_memory=80 * 2**20, log_to_driver=False,
             logging_level=logging.ERROR)  # fmt: skip
    try:
        yield "ray"
    finally:
        ray.shutdown()


def _study(folder: Path, seeds: int, on: str | None) -> dict[str, Any]:
    """One study, and what of it its students took."""
    from whytune import recipe_file, store
    from whytune.progress import Progress
    from whytune.study import grid

    text = RECIPE.format(model=folder / "model", seeds=list(range(seeds)))
    recipe = recipe_file.parse(text, place="study.py")
    out = folder / f"{on or 'here'}-{seeds}-{time.monotonic_ns()}"
    with _processor_clock() as spent:
        start, begun = time.perf_counter(), time.process_time()
        grid.study(recipe, out, Progress(quiet=True), on)
        seconds, processor = time.perf_counter() - start, time.process_time() - begun
    runs = [store.read_json(path) for path in out.glob("runs/*/run.json")]
    assert len(runs) == ARMS * seeds
    found = {"cells": len(runs), "s": seconds,
             "stages_s": sum(sum(run["seconds"].values()) for run in runs)}  # fmt: skip
    # On Ray, others compute.
    return found if on else {**found, "processor_s": processor, "processor_stages_s": spent[0]}


@contextmanager
def _processor_clock() -> Iterator[list[float]]:
    """The processor's seconds in stages of runs; these themselves tell those of the wall."""
    from whytune import pipeline

    spent, original = [0.0], pipeline.Clock.stage

    @contextmanager
    def stage(self: Any, name: str) -> Iterator[None]:
        begun = time.process_time()
        with original(self, name):
            yield
        spent[0] += time.process_time() - begun

    pipeline.Clock.stage = stage
    try:
        yield spent
    finally:
        pipeline.Clock.stage = original


def _write_model(folder: Path) -> None:
    """A Llama of two layers with random weights, and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    marks = ["<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(marks + letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=marks[1], pad_token=marks[1],
        additional_special_tokens=marks[:1], chat_template=CHATML,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(marks + letters), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
    )).save_pretrained(folder)  # fmt: skip


if __name__ == "__main__":
    main()
