"""Training on one GPU: seconds per conversation of whytune and of TRL with `padding_free`, in bf16,
for the shape of SmolLM2-135M and an 8B shape, and one QLoRA step of the 8B shape.

Usage: python bench/gpu.py [--json] [--quick]. `--quick` runs two small layers wherever it is,
without a GPU too, and shows only that it runs. What cannot run (no room, a package that is not
there) stands in the results as an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import cases
from cases import Conversation
from machine import facts, note, rounded, work, write

PREFIX = 1000
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "hidden_size": cases.HIDDEN, "num_hidden_layers": cases.LAYERS,
        "num_attention_heads": cases.HEADS, "num_key_value_heads": cases.KEY_HEADS,
        "intermediate_size": cases.INTERMEDIATE, "vocab_size": cases.VOCABULARY,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
QUICK = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128,
}  # fmt: skip
PASS = {"135m": (8, 32), "8b": (2, 4)}
"""Shape -> conversations in one pass that are tried; the quickest that fits counts."""
STEPS, WARM = 8, 3
"""Steps that are timed, and steps before them, in which kernels are compiled."""
LOSS_TOLERANCE = 2e-2
"""Relative, of the first loss; bf16 rounds on its own way in each engine."""


def main() -> None:
    """Measure, or with `--worker` be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result, not its figures")
    parser.add_argument("--quick", action="store_true", help="two small layers, one step")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(_worker(json.loads(given.worker))))
        return
    result = measure(quick=given.quick)
    write("gpu", result, quick=given.quick)
    if given.json:
        print(json.dumps(result))
    else:
        note(json.dumps({name: result[name] for name in ("seconds", "ratio_vs_trl", "notes")}))


# --- in a worker's process


def _worker(spec: dict[str, Any]) -> dict[str, Any]:
    import torch

    model = _model(spec)
    chosen = _conversations(spec)
    steps, losses = (_ours if spec["engine"] == "ours" else _trl)(model, chosen, spec)
    found: dict[str, Any] = {"seconds": rounded(statistics.median(steps)), "first_loss": losses[0]}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return found


def _conversations(spec: dict[str, Any]) -> list[Conversation]:
    import torch

    generator = torch.Generator().manual_seed(cases.SEED)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(16, cases.VOCABULARY, (n,), generator=generator).tolist())

    questions = [
        tuple(draw(cases.SUFFIX) for _ in range(cases.QUESTIONS)) for _ in range(spec["n"])
    ]
    return [Conversation(draw(PREFIX), asked) for asked in questions]


def _model(spec: dict[str, Any]) -> Any:
    """Random weights in bf16 (the frozen projections in NF4 where asked for), and an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(cases.SEED)
    config = LlamaConfig(
        **SHAPES[spec["shape"]] | (QUICK if spec["quick"] else {}), max_position_embeddings=8192,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, dtype="bfloat16",
        attn_implementation=spec.get("attention", "sdpa"),
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        base = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if spec.get("nf4"):
        _quantise(base)
    lora = LoraConfig(
        task_type="CAUSAL_LM", bias="none", r=cases.RANK, lora_alpha=cases.ALPHA, lora_dropout=0.0,
        target_modules=list(cases.PROJECTIONS),
    )  # fmt: skip
    return get_peft_model(base, lora).train()


def _quantise(base: Any) -> None:
    """The layers' projections in NF4 with double quantisation, one after another."""
    import torch
    from bitsandbytes.nn import Linear4bit

    for layer in base.model.layers:
        for module in list(layer.children()):
            for name, linear in list(module.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    made = Linear4bit(
                        linear.in_features, linear.out_features, bias=False,
                        compute_dtype=torch.bfloat16, quant_type="nf4",
                    )  # fmt: skip
                    made.load_state_dict({"weight": linear.weight.cpu()})
                    setattr(module, name, made.to(linear.weight.device))
    base.is_loaded_in_4bit = True


def _ours(
    model: Any, chosen: list[Conversation], spec: dict[str, Any]
) -> tuple[list[float], list[float]]:
    import ours
    import torch

    student = ours.student(model)
    some = ours.bundles(chosen)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    steps: list[float] = []
    losses: list[float] = []
    for _ in range(spec["warm"] + spec["steps"]):
        start = _now()
        loss = ours.token_nll(student, some).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append((_now() - start) / len(chosen))
        losses.append(float(loss.detach()))
    return steps[spec["warm"] :], losses


def _trl(
    model: Any, chosen: list[Conversation], spec: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """All rows of the conversations in one batch, without padding, as TRL's docs advise."""
    import tempfile

    import torch
    import trainers
    from trl import SFTConfig, SFTTrainer

    rows = trainers.dataset(chosen)
    most = spec["warm"] + spec["steps"]

    class Clock(trainers.Clock):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._start = _now()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.steps.append((_now() - self._start) / len(chosen))

    clock = Clock({}, len(chosen))
    cuda = torch.cuda.is_available()
    shared = trainers.arguments("", len(rows), 1, most)
    with tempfile.TemporaryDirectory() as folder:
        own = {"output_dir": folder, "bf16": cuda, "use_cpu": not cuda, "max_length": None,
               "padding_free": True}  # fmt: skip
        SFTTrainer(
            model=model, args=SFTConfig(**shared | own), train_dataset=rows,
            processing_class=cases.tokenizer(), callbacks=[clock],
        ).train()  # fmt: skip
    return clock.steps[spec["warm"] :], clock.losses


def _now() -> float:
    """Seconds, when all that was begun on the GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# --- in the measuring process


def measure(*, quick: bool) -> dict[str, Any]:
    """Run everything; a result as it goes into the file."""
    found = {shape: _shape(shape, quick) for shape in SHAPES}
    best = {shape: {engine: _best(runs, engine) for engine in ("ours", "trl", "nf4")}
            for shape, runs in found.items()}  # fmt: skip
    return {
        "benchmark": "gpu", "quick": quick,
        "ratio_vs_trl": {shape: rounded(b["trl"] / b["ours"], 3) if b["trl"] and b["ours"] else None
                         for shape, b in best.items()},
        "seconds": best, "runs": found,
        "notes": {shape: {name: run.get("error") or run["invalid"] for name, run in runs.items()
                          if {"error", "invalid"} & run.keys()} for shape, runs in found.items()},
        "setting": {"prefix": PREFIX, "suffix": cases.SUFFIX, "questions": cases.QUESTIONS,
                    "supervised": cases.SUPERVISED, "shapes": SHAPES},
        **facts("gpu.py", sys.argv[1:]),
    }  # fmt: skip


def _shape(shape: str, quick: bool) -> dict[str, Any]:
    runs: dict[str, Any] = {}
    for n in (1,) if quick else PASS[shape]:
        spec = {"case": shape, "shape": shape, "n": n, "quick": quick, "device": "any",
                "steps": 1 if quick else STEPS, "warm": 0 if quick else WARM}  # fmt: skip
        runs[f"ours {n}"] = own = work("gpu.py", {**spec, "engine": "ours", "variant": str(n)})
        for attention in ("sdpa", "flash_attention_2"):
            asked = {**spec, "engine": "trl", "attention": attention, "variant": f"{attention} {n}"}
            run = runs[f"trl {attention} {n}"] = work("gpu.py", asked)
            if {"first_loss"} <= run.keys() & own.keys():
                off = abs(run["first_loss"] / own["first_loss"] - 1)
                if off > LOSS_TOLERANCE:
                    run["invalid"] = f"loss {run['first_loss']:.4f}, not {own['first_loss']:.4f}"
        if shape == "8b":
            asked = {**spec, "engine": "ours", "nf4": True, "variant": f"nf4 {n}"}
            runs[f"nf4 {n}"] = work("gpu.py", asked)
        write("gpu-partial", runs, quick=quick)
    return runs


def _best(runs: dict[str, Any], engine: str) -> float | None:
    valid = [run["seconds"] for name, run in runs.items()
             if name.startswith(engine) and "seconds" in run and "invalid" not in run]  # fmt: skip
    return min(valid, default=None)


if __name__ == "__main__":
    main()
