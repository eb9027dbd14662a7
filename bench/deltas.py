"""Weight changes of a LoRA adapter pair of Mistral-7B's shape: seconds and memory from the factors
alone, against the dense products.

Two random adapters (32 layers, all seven projections, rank 16, float32) are written to a temporary
folder. Ours runs in a process of its own, from the folders to the rows of Table 5: norms, spectra,
effective ranks, cosines and principal angles of all 224 matrices. The dense way forms both products of
each matrix of ONE layer in float32 and takes the three norms and the cosine, no singular values and no
angles; its seconds are those of that layer times the layers. Seconds are the processor's, one thread, so
that on an idle machine they are those of the clock (`wall_seconds`), and on a busy one the ratio holds.
Merging with peft is not timed: it needs the base, 28 GB in float32.
Usage: python bench/deltas.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import table
import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits

LAYERS, RANK, ALPHA = 32, 16, 32
MISTRAL = {
    "self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096), "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096), "mlp.down_proj": (4096, 14336),
}  # fmt: skip
"""Projection -> outputs, inputs."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the result, not a table")
    parser.add_argument("--quick", action="store_true", help="two layers; measures nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        spec = json.loads(given.worker)
        torch.set_num_threads(1)
        with threadpool_limits(1):
            print(json.dumps(ENGINES[spec["engine"]](*map(Path, spec["folders"]))))
        return
    result = {"benchmark": "deltas", "quick": given.quick, **measure(2 if given.quick else LAYERS),
              **machine.facts("deltas.py", sys.argv[1:])}  # fmt: skip
    machine.write("deltas", result, quick=given.quick)
    print(json.dumps(result)) if given.json else _show(result)


def measure(layers: int) -> dict[str, Any]:
    """Both ways on the same two folders."""
    with tempfile.TemporaryDirectory() as place:
        folders = [_written(Path(place) / name, layers, seed) for seed, name in enumerate("ab")]
        size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
        ours, dense = (
            machine.work("deltas.py", {"engine": engine, "folders": [str(f) for f in folders]})
            for engine in ENGINES
        )
    if trouble := ours.get("error") or dense.get("error"):
        raise SystemExit(f"bench/deltas.py: {trouble}")
    scaled = dense["seconds"] * layers
    return {
        "layers": layers, "rank": RANK, "matrices": layers * len(MISTRAL), "files_mb": size / 1e6,
        "seconds": machine.rounded(ours["seconds"]),
        "wall_seconds": machine.rounded(ours["wall_seconds"]),
        "peak_rss_mb": ours["peak_rss_mb"], "start_rss_mb": ours["start_rss_mb"],
        "dense_seconds_a_layer": machine.rounded(dense["seconds"]),
        "dense_seconds_scaled": machine.rounded(scaled),
        "dense_wall_seconds_a_layer": machine.rounded(dense["wall_seconds"]),
        "dense_peak_rss_mb": dense["peak_rss_mb"],
        "ratio_vs_dense": machine.rounded(scaled / ours["seconds"]),
        "max_rel_difference": max(
            abs(ours["frobenius"][name] / norm - 1) for name, norm in dense["frobenius"].items()
        ),
        "notes": [f"the dense way ran on one layer; its seconds times {layers} are its time, and "
                  "it has norms and cosines only"],
    }  # fmt: skip


def _written(folder: Path, layers: int, seed: int) -> Path:
    folder.mkdir()
    source = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name, (outputs, inputs) in MISTRAL.items():
            path = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{path}.lora_A.weight"] = torch.randn(RANK, inputs, generator=source) * 0.01
            tensors[f"{path}.lora_B.weight"] = torch.randn(outputs, RANK, generator=source) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _ours(first: Path, second: Path) -> dict[str, Any]:
    from whytune.evidence.adapters import read
    from whytune.evidence.delta_tables import table5
    from whytune.evidence.deltas import differences

    start, begun, wall = machine.peak_rss_mb(), time.process_time(), time.perf_counter()
    found = differences(read(first), read(second))
    table5([found])
    return {
        "seconds": time.process_time() - begun, "wall_seconds": time.perf_counter() - wall,
        "start_rss_mb": start, "peak_rss_mb": machine.peak_rss_mb(),
        "frobenius": {d.module: d.frobenius for d in found if d.layer == 0},
    }  # fmt: skip


def _dense(first: Path, second: Path) -> dict[str, Any]:
    from safetensors import safe_open

    files = [safe_open(f / "adapter_model.safetensors", framework="pt") for f in (first, second)]
    begun, wall, norms = time.process_time(), time.perf_counter(), {}
    for name in MISTRAL:
        path = f"base_model.model.model.layers.0.{name}"
        one, other = (
            (file.get_tensor(f"{path}.lora_B.weight") @ file.get_tensor(f"{path}.lora_A.weight"))
            .mul_(ALPHA / RANK)
            for file in files
        )  # fmt: skip
        sizes = _norm(one) * _norm(other)
        torch.dot(one.flatten(), other.flatten()).div(sizes).item()
        norms[path.removeprefix("base_model.model.")] = _norm(one.sub_(other))
    return {"seconds": time.process_time() - begun, "wall_seconds": time.perf_counter() - wall,
            "frobenius": norms, "peak_rss_mb": machine.peak_rss_mb()}  # fmt: skip


def _norm(matrix: torch.Tensor) -> float:
    # Summed in float32, millions of squares lose half a percent on one thread.
    return torch.linalg.vector_norm(matrix, dtype=torch.float64).item()


ENGINES = {"whytune": _ours, "dense": _dense}


def _show(result: dict[str, Any]) -> None:
    table.print_table([
        (f"{result['matrices']} matrices, rank {result['rank']}", "whytune", "dense, scaled"),
        ("seconds", f"{result['seconds']:.1f}", f"{result['dense_seconds_scaled']:.1f}"),
        ("peak memory (MB)", f"{result['peak_rss_mb']:.0f}", f"{result['dense_peak_rss_mb']:.0f}"),
    ])  # fmt: skip
    print(f"\n{result['ratio_vs_dense']:.1f} times faster; norms off by "
          f"{result['max_rel_difference']:.1e} at most (the dense ones are float32)")  # fmt: skip
    print("\n".join(result["notes"]))


if __name__ == "__main__":
    main()
