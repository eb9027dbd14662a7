"""Training: seconds per conversation of whytune, TRL and transformers' Trainer on equal tokens.

Every engine, variant and case runs in a process of its own; ours runs before and after the peers
of each case. Usage: python bench/train.py [--json] [--quick] [--cases 200,600]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from typing import Any

import cases
from cases import Conversation
from machine import facts, note, peak_rss_mb, rounded, sgemm_gflops, work, write

MARGIN = 1.15
"""A variant this much slower than its engine's best so far is given up within its first step."""
LARGER = 1.05
"""Where batches of three are this much slower than one at a time, still more logits at once (batches
of eight, packing) are not tried.
"""
LOSS_TOLERANCE = 1e-5
"""Relative; a variant whose first loss is further off does other work and does not count."""
GRADIENT_PICKS = {"200": [0, 1], "600": [0], "1500": [0], "mixed": [0, 3, 7]}
"""Case -> conversations whose gradients are compared."""


def main() -> None:
    """Measure, or with `--worker` be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result, not a table")
    parser.add_argument("--quick", action="store_true", help="two layers, two cases, one step")
    parser.add_argument("--cases", default=None, help="comma-separated, of 200,600,1500,mixed")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(_worker(json.loads(given.worker))))
        return
    named = given.cases or ("200,mixed" if given.quick else ",".join(cases.PREFIXES))
    result = measure(named.split(","), quick=given.quick)
    write("train", result, quick=given.quick)
    if given.json:
        print(json.dumps(result))
    else:
        import table

        table.show_train(result)


# --- in a worker's process


def _worker(spec: dict[str, Any]) -> dict[str, Any]:
    chosen = cases.conversations(spec["case"])
    if spec["engine"] == "ours":
        found = _ours(spec, chosen)
        # Afterwards, so that neither its time nor its memory counts.
        return {**found, **_gradient(spec, [chosen[i] for i in spec.get("gradient", [])])}
    return _peer(spec, chosen)


def _peer(spec: dict[str, Any], chosen: list[Conversation]) -> dict[str, Any]:
    import trainers

    model = cases.model(spec["layers"])
    fresh = _adapter(model)
    # A step on a short conversation warms up; a trainer of its own, so that it does not count.
    warm = {"most_steps": 1, "seconds": 0.0}
    trainers.run(spec["engine"], spec["variant"], model, [chosen[0].short], warm)
    _reset(model, fresh)
    clock = trainers.run(spec["engine"], spec["variant"], model, chosen, spec["plan"])
    found = _timed(clock.steps, clock.losses)
    return {**found, "at_least": True} if clock.at_least else found


def _ours(spec: dict[str, Any], chosen: list[Conversation]) -> dict[str, Any]:
    import ours
    import torch
    import trainers

    model = cases.model(spec["layers"])
    fresh = _adapter(model)
    rows = round(cases.shared_tokens(chosen) / len(chosen))
    before = sgemm_gflops(rows)
    student = ours.student(model)
    model.train()
    some = ours.bundles(chosen)
    step = _step_of(student, torch.optim.AdamW(_trainable(model), lr=1e-4))
    step(ours.bundles([chosen[0].short]))
    _reset(model, fresh)
    step = _step_of(student, torch.optim.AdamW(_trainable(model), lr=1e-4))
    steps: list[float] = []
    losses: list[float] = []
    while not steps or not trainers.enough(steps, spec["plan"], len(chosen)):
        start = time.perf_counter()
        losses.append(step(some))
        steps.append((time.perf_counter() - start) / len(chosen))
    found = _timed(steps, losses)
    return {**found, "sgemm_gflops": [before, sgemm_gflops(rows)], "sgemm_rows": rows}


def _step_of(student: Any, optimizer: Any) -> Any:
    import ours

    def step(some: list[Any]) -> float:
        supervised = cases.SUPERVISED * cases.QUESTIONS * len(some)
        total = 0.0
        for part in ours.passes(some):
            loss = ours.token_nll(student, part).sum() / supervised
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def _gradient(spec: dict[str, Any], chosen: list[Conversation]) -> dict[str, Any]:
    """How far the gradients of shared passes are from those of separate, plain passes."""
    import ours
    import trainers

    if not chosen:
        return {}
    model = cases.model(spec["layers"])
    model.train()
    supervised = cases.SUPERVISED * cases.QUESTIONS * len(chosen)
    for conversation in chosen:
        for sequence in conversation.sequences:
            (trainers.oracle_nll(model, sequence) / supervised).backward()
    reference = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    student = ours.student(model)
    for part in ours.passes(ours.bundles(chosen)):
        (ours.token_nll(student, part).sum() / supervised).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    if found.keys() != reference.keys():
        raise RuntimeError("other parameters have gradients than the oracle's")
    off = sum(float((found[n] - g).double().square().sum()) for n, g in reference.items())
    size = sum(float(g.double().square().sum()) for g in reference.values())
    return {"grad_rel_err": math.sqrt(off / size), "parameters": len(reference)}


def _trainable(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.requires_grad]


def _adapter(model: Any) -> list[Any]:
    return [parameter.detach().clone() for parameter in _trainable(model)]


def _reset(model: Any, adapter: list[Any]) -> None:
    """Undo the warm-up's update, so that every engine's first loss is the same."""
    import torch

    with torch.no_grad():
        for parameter, before in zip(_trainable(model), adapter, strict=True):
            parameter.copy_(before)


def _timed(steps: list[float], losses: list[float]) -> dict[str, Any]:
    return {"seconds": rounded(statistics.median(steps)), "steps": [rounded(s) for s in steps],
            "first_loss": losses[0] if losses else None, "peak_rss_mb": peak_rss_mb()}  # fmt: skip


# --- in the measuring process


def measure(named: list[str], *, quick: bool) -> dict[str, Any]:
    """Run everything; a result as it goes into the file."""
    layers = 2 if quick else cases.LAYERS
    plan = {"most_steps": 1 if quick else 3, "seconds": 0.0 if quick else 15.0}
    found = {case: _case({"case": case, "layers": layers}, plan) for case in named}
    errors = {case: runs["ours again"].get("grad_rel_err") for case, runs in found.items()}
    known = [error for error in errors.values() if error is not None]
    return {
        "benchmark": "train", "quick": quick,
        "ratio_vs_trl": {case: _ratio(runs, "trl") for case, runs in found.items()},
        "ratio_vs_hf": {case: _ratio(runs, "hf") for case, runs in found.items()},
        "ratio_vs_trl_kept": {case: _ratio(runs, "kept trl") for case, runs in found.items()},
        "ratio_vs_hf_kept": {case: _ratio(runs, "kept hf") for case, runs in found.items()},
        "best_variant": {case: {engine: _best(runs, engine)[0] for engine in ("trl", "hf")}
                         for case, runs in found.items()},
        "seconds": {case: _figures(runs, "seconds") for case, runs in found.items()},
        "grad_rel_err": {"max": max(known, default=None), **errors},
        "tokens_per_s": {case: _tokens_per_s(case, runs) for case, runs in found.items()},
        "sgemm_gflops": {case: _sgemm(runs) for case, runs in found.items()},
        "fraction_of_sgemm": {case: _fraction(case, runs, layers) for case, runs in found.items()},
        "peak_rss_mb": {case: _figures(runs, "peak_rss_mb") for case, runs in found.items()},
        "notes": {case: _notes(runs) for case, runs in found.items()},
        "runs": found, "setting": cases.summary(layers), **facts("train.py", sys.argv[1:]),
    }  # fmt: skip


def _case(spec: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """All engines and variants of one case: `ours`, `ours again`, `gradient`, `trl batch 1`, ..."""
    variants = {
        "trl": ("batch 1", "batch 3", "batch 8", "packing"),
        "hf": ("batch 1", "batch 3"),
    }
    case = spec["case"]
    note(f"== train, case {case}")
    runs = {"ours": work("train.py", {**spec, "engine": "ours", "plan": plan})}
    for engine, names in variants.items():
        for variant in names:
            best = _best(runs, engine)[1]
            hopeless = best * MARGIN if best else None
            asked = {**spec, "engine": engine, "variant": variant,
                     "plan": {**plan, "hopeless": hopeless}}  # fmt: skip
            run = _checked(work("train.py", asked), runs["ours"])
            runs[f"{engine} {variant}"] = run
            if variant == "batch 3" and _is_slower(run, best):
                break
        kept = {
            **spec,
            "engine": engine,
            "variant": (_best(runs, engine)[0] or names[0])[len(engine) + 1 :],
            "plan": plan,
            "allocator": "keep",
        }
        runs[f"kept {engine}"] = _checked(work("train.py", kept), runs["ours"])
    again = {**spec, "engine": "ours", "plan": plan, "gradient": GRADIENT_PICKS[case]}
    runs["ours again"] = work("train.py", again)
    return runs


def _is_slower(run: dict[str, Any], best: float | None) -> bool:
    return "error" in run or (best is not None and run["seconds"] > LARGER * best)


def _checked(run: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """A run marked where its first loss shows that it computes something else than ours."""
    if run.get("first_loss") is None or "error" in reference:
        return run
    off = abs(run["first_loss"] / reference["first_loss"] - 1)
    if off > LOSS_TOLERANCE:
        run["invalid"] = f"its loss {run['first_loss']:.5f} is not {reference['first_loss']:.5f}"
    return run


def _best(runs: dict[str, Any], engine: str) -> tuple[str | None, float | None]:
    """An engine's quickest valid variant and its seconds per conversation."""
    valid = {
        name: run["seconds"] for name, run in runs.items()
        if name.startswith(engine) and "seconds" in run and not {"invalid", "at_least"} & run.keys()
    }  # fmt: skip
    name = min(valid, key=lambda n: valid[n], default=None)
    return (name, valid[name]) if name else (None, None)


def _own_seconds(runs: dict[str, Any]) -> float | None:
    """Median over the steps of both of our runs, before and after the peers."""
    both = [runs[name] for name in ("ours", "ours again") if "steps" in runs[name]]
    steps = [seconds for run in both for seconds in run["steps"]]
    return statistics.median(steps) if steps else None


def _ratio(runs: dict[str, Any], engine: str) -> float | None:
    own, peer = _own_seconds(runs), _best(runs, engine)[1]
    return rounded(peer / own, 3) if own and peer else None


def _figures(runs: dict[str, Any], name: str) -> dict[str, float]:
    found = {key: run[name] for key, run in runs.items() if name in run}
    if name == "seconds" and (own := _own_seconds(runs)):
        found = {"ours": rounded(own), **{k: v for k, v in found.items() if "ours" not in k}}
    return found


def _tokens_per_s(case: str, runs: dict[str, Any]) -> dict[str, float]:
    """Tokens as peers count them (each question with its conversation) per second."""
    chosen = cases.PREFIXES[case]
    each = sum(cases.QUESTIONS * (p + cases.SUFFIX) for p in chosen) / len(chosen)
    return {k: rounded(each / s) for k, s in _figures(runs, "seconds").items()}


def _sgemm(runs: dict[str, Any]) -> float | None:
    rates = [r for n in ("ours", "ours again") for r in runs[n].get("sgemm_gflops", [])]
    return rounded(statistics.mean(rates)) if rates else None


def _fraction(case: str, runs: dict[str, Any], layers: int) -> float | None:
    own, rate = _own_seconds(runs), _sgemm(runs)
    if not own or not rate:
        return None
    chosen = cases.conversations(case)
    needed = cases.training_flops(chosen, layers) / len(chosen)
    return rounded(needed / own / (rate * 1e9), 3)


def _notes(runs: dict[str, Any]) -> list[str]:
    told = {name: run.get("error") or run.get("invalid") for name, run in runs.items()}
    gave_up = {name: "given up, so at least the seconds above"
               for name, run in runs.items() if run.get("at_least")}  # fmt: skip
    return [f"{name}: {text}" for name, text in {**told, **gave_up}.items() if text]


if __name__ == "__main__":
    main()
