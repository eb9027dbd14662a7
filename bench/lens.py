"""The logit lens: seconds and memory for entropy, probability and rank of five labels after every
block at the last row of prompts of 660 tokens, of whytune and TransformerLens 4.3's `logit_lens`.

The model has the shape of SmolLM2-135M with random weights, float32, without an adapter (which the
peer cannot wrap); prompts share no prefix. A last case reads words with SmolLM2's own weights, where
these are at hand. The figures on top are the worst of all cases. Every engine runs in a process of its own. Memory is the
most that torch's tensors took beyond the weights, less that of scoring alone (our pass without the
lens), as torch's profiler counts it. Ranks count as wrong where they are outside what float64 logits
say within 1e-5: tokens nearer than float32 can tell may stand on either side.
Usage: python bench/lens.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cases
from machine import facts, note, rounded, work, write

TOKENS = 660
BATCHES = (1, 8)
TARGETS = [ids[0] for ids in cases.SINGLE_LABELS.values()]
REAL = "smollm2-135m-q4_1"
"""Where whytune's own environment has unpacked SmolLM2; this one does not have its package."""
NEAR = 1e-5
"""Logits that float32 cannot tell apart."""
FLOOR = 1.0
"""MB; extra memory below this counts as this, so that no ratio stands on next to nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the result, not a table")
    parser.add_argument("--quick", action="store_true", help="two layers, short; measures nothing")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(_worker(json.loads(given.worker))))
        return
    result = measure(quick=given.quick)
    write("lens", result, quick=given.quick)
    if given.json:
        print(json.dumps(result))
        return
    for case, found in result["cases"].items():
        print(case)
        for name, figure in found.items():
            print(f"  {name:32} {figure}")


def measure(*, quick: bool) -> dict[str, Any]:
    """Both engines and the oracle, for each batch size."""
    layers, tokens = (2, 40) if quick else (cases.LAYERS, TOKENS)
    found, runs = {}, {}
    specs = {f"batch {batch}": {"batch": batch} for batch in BATCHES}
    if not quick and (Path.home() / ".cache" / "whytune" / REAL).is_dir():
        specs["SmolLM2"] = {"batch": 2, "real": True}
    for case, own in specs.items():
        note(f"== lens, {case}")
        spec = {"case": case, **own, "layers": layers, "tokens": tokens,
                "passes": 1 if quick else 5}  # fmt: skip
        runs[case] = {
            engine: work("lens.py", {**spec, "engine": engine})
            for engine in ("ours", "transformer-lens", "oracle")
        }
        found[case] = _compared(runs[case])
    result = {"benchmark": "lens", "quick": quick, **_worst(found), "cases": found, "runs": {
        case: {name: {k: v for k, v in run.items() if k not in ("entropy", "ranks", "bands")}
               for name, run in of_case.items()} for case, of_case in runs.items()
    }, "setting": {"model": cases.summary(layers)["model"], "tokens": tokens, "targets": TARGETS},
        **facts("lens.py", sys.argv[1:])}  # fmt: skip
    try:
        result["versions"]["transformer-lens"] = version("transformer-lens")
    except PackageNotFoundError:
        result["versions"]["transformer-lens"] = "absent"
    return result


def _compared(runs: dict[str, Any]) -> dict[str, Any]:
    ours, peer, oracle = runs["ours"], runs["transformer-lens"], runs["oracle"]
    found: dict[str, Any] = {"notes": [r["error"] for r in runs.values() if "error" in r]}
    if "error" in ours or "error" in oracle:
        return found
    scoring = ours["scoring_peak_mb"]
    found |= {
        "overhead_on_scoring": rounded(ours["overhead_on_scoring"], 3),
        "extra_mb": rounded(ours["peak_mb"] - scoring, 3),
        "oracle_entropy_abs_err": _off(ours["entropy"], oracle["entropy"]),
        "rank_mismatches": _wrong(ours["ranks"], oracle["bands"]),
        "ranks": len(ours["ranks"]),
    }
    if "error" not in peer:
        extra = peer["peak_mb"] - scoring
        found |= {
            "ratio_vs_transformer_lens": rounded(peer["seconds"] / ours["seconds"], 3),
            "transformer_lens_extra_mb": rounded(extra, 3),
            "memory_ratio": rounded(extra / max(ours["peak_mb"] - scoring, FLOOR), 3),
            "entropy_abs_err": _off(ours["entropy"], peer["entropy"]),
            "transformer_lens_rank_mismatches": _wrong(peer["ranks"], oracle["bands"]),
            "different_ranks": sum(a != b for a, b in zip(ours["ranks"], peer["ranks"], strict=True)),
        }  # fmt: skip
    return found


def _worst(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of each figure the one that speaks least for us; without it where no case has it."""
    worst = {"ratio_vs_transformer_lens": min, "memory_ratio": min, "entropy_abs_err": max,
             "rank_mismatches": max, "overhead_on_scoring": max}  # fmt: skip
    values = {name: [case[name] for case in found.values() if name in case] for name in worst}
    return {name: worst[name](own) for name, own in values.items() if own}


def _off(some: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def _wrong(ranks: list[int], bands: list[list[int]]) -> int:
    return sum(not low <= rank <= high for rank, (low, high) in zip(ranks, bands, strict=True))


# --- in a worker's process


def _worker(spec: dict[str, Any]) -> dict[str, Any]:
    import torch

    if spec.get("real"):
        model, ids = _smollm2(spec["batch"], spec["tokens"])
    else:
        model = cases.model(spec["layers"]).unload().eval()
        draw = torch.Generator().manual_seed(cases.SEED)
        ids = torch.randint(16, cases.VOCABULARY, (spec["batch"], spec["tokens"]), generator=draw)
    engines = {"ours": _ours, "transformer-lens": _peer, "oracle": _oracle}
    with torch.no_grad():
        return engines[spec["engine"]](model, ids, spec["passes"])


def _smollm2(batch: int, tokens: int) -> tuple[Any, Any]:
    """SmolLM2 as whytune knows it, and rows of this project's own words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from whytune.student import models

    place = models.cache_folder() / REAL
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(place)(text, return_tensors="pt").input_ids
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    return model, ids[0, : batch * tokens].reshape(batch, tokens)


def _ours(model: Any, ids: Any, passes: int) -> dict[str, Any]:
    import ours

    from whytune.evidence.trace import trace
    from whytune.student.bundle import Node, logits

    student = ours.student(model)
    student.encoder.head = None
    trees = [[Node(ids=tuple(row), wanted=(len(row) - 1,))] for row in ids.tolist()]
    follow = [tuple(TARGETS)] * len(trees)
    found = trace(student, trees, follow)  # settles whether prefixes are shared, too
    # By turns, so that both meet the same machine.
    scoring, lens = _timed([lambda: logits(student, trees),
                            lambda: trace(student, trees, follow)], passes)  # fmt: skip
    return {
        "seconds": statistics.median(lens), "passes": lens, "scoring_passes": scoring,
        "overhead_on_scoring": statistics.median(
            one / other - 1 for one, other in zip(lens, scoring, strict=True)
        ),
        "scoring_peak_mb": _peak_mb(lambda: logits(student, trees)),
        "peak_mb": _peak_mb(lambda: trace(student, trees, follow)),
        "entropy": found.entropy.ravel().tolist(), "ranks": found.ranks[:, :, 1:].ravel().tolist(),
    }  # fmt: skip


def _peer(model: Any, ids: Any, passes: int) -> dict[str, Any]:
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.tools.analysis.logit_lens import logit_lens

    bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config).eval()

    def read() -> Any:
        return logit_lens(bridge, ids, targets=TARGETS, return_type="log_probs").readout

    found = read()
    (times,) = _timed([read], passes)
    return {
        "seconds": statistics.median(times), "passes": times, "peak_mb": _peak_mb(read),
        "entropy": found.entropy.flatten().tolist(),
        "ranks": found.target_ranks.flatten().tolist(),
    }  # fmt: skip


def _oracle(model: Any, ids: Any, _: int) -> dict[str, Any]:
    """Plain transformers; norm, output layer and everything after them in float64."""
    import torch

    states: list[Any] = []
    layers = model.model.layers
    layers[0].register_forward_pre_hook(lambda _, given: states.append(given[0][:, -1].double()))
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: states.append(out[:, -1].double()))
    model(input_ids=ids, use_cache=False, logits_to_keep=1)
    head, norm = model.lm_head.weight.double(), model.model.norm
    entropy, bands = [], []
    for state in states:
        scale = (state.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        logits = (state * scale * norm.weight.double()) @ head.T
        log_probs = torch.log_softmax(logits, dim=-1)
        entropy += (-(log_probs.exp() * log_probs).sum(-1)).tolist()
        for row in logits:
            bands += [[int((row > row[t] + NEAR).sum()), int((row > row[t] - NEAR).sum()) - 1]
                      for t in TARGETS]  # fmt: skip
    return {"entropy": entropy, "bands": bands}


def _timed(calls: list[Callable[[], Any]], passes: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(passes):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return times


def _peak_mb(call: Callable[[], Any]) -> float:
    """The most that tensors made by a call took at a time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    held = peak = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 1e6


if __name__ == "__main__":
    main()
