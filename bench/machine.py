"""What a figure depends on besides the code: hardware, versions, and the rate of plain matrix
products; and processes of their own for what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cases import PROJECTIONS

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "whytune", "torch", "transformers", "peft", "accelerate", "trl", "lm-eval", "datasets", "numpy",
)  # fmt: skip
ALLOCATORS: dict[str, dict[str, str]] = {
    "system": {},
    "keep": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}
"""How glibc hands out large tensors to a peer. `system`: as it comes, each is mapped anew and its
pages are faulted in. `keep`: freed memory is used again, as whytune sets it for itself when it runs
on a CPU; this helps those most who make and drop logits of every position.
"""


def versions() -> dict[str, str]:
    """Versions of what takes part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def hardware() -> dict[str, Any]:
    """The processor, as Linux names it, and how much of it torch uses."""
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.system(),
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def sgemm_gflops(rows: int, seconds: float = 1.0) -> float:
    """GFLOP/s of bare float32 matrix products at a layer's own sizes.

    One round is what a layer's seven projections need for `rows` tokens: x W^T forward, dY W
    backward, so slow shapes weigh as much as they do in the model. The median round counts.
    """
    import torch

    pairs = []
    for inside, outside in PROJECTIONS.values():
        weight = torch.randn(outside, inside)
        x, y = torch.randn(rows, inside), torch.randn(rows, outside)
        pairs.append((weight, x, y, torch.empty_like(x), torch.empty_like(y)))
    flops = sum(4 * rows * inside * outside for inside, outside in PROJECTIONS.values())
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 4:
        start = time.perf_counter()
        for weight, x, y, to_x, to_y in pairs:
            torch.mm(x, weight.t(), out=to_y)
            torch.mm(y, weight, out=to_x)
        times.append(time.perf_counter() - start)
    return flops / statistics.median(times[1:]) / 1e9


def peak_rss_mb() -> float:
    """The most memory that this process has held (MB), as the system counts it."""
    scale = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6, 1)


def work(script: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a process of its own: `script --worker SPEC`, whose last line is JSON.

    A worker that fails gives `{"error": ...}`: one variant that does not run on this machine ends
    neither the benchmark nor the variants beside it.
    """
    environment = {
        **os.environ, **ALLOCATORS[spec.get("allocator", "system")],
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    if "device" not in spec:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    start = time.perf_counter()
    limit = resource.RLIM_INFINITY if "device" in spec else _memory_limit()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / script), "--worker", json.dumps(spec)],
        capture_output=True, text=True, env=environment, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        trouble = (done.stderr.strip().splitlines() or ["no output"])[-1]
        if "allocate memory" in done.stderr or "MemoryError" in done.stderr:
            trouble = f"needs more than the {limit / 1e9:.1f} GB of memory that are free"
        found: dict[str, Any] = {"error": trouble[:300]}
        if os.environ.get("BENCH_DEBUG"):
            print(done.stderr, file=sys.stderr)
    else:
        found = json.loads(lines[-1])
    found["wall_s"] = round(time.perf_counter() - start, 1)
    named = " ".join(
        str(spec[key]) for key in ("case", "engine", "variant", "allocator") if key in spec
    )
    note(f"{named}: {found.get('error') or found.get('seconds') or 'done'} "
         f"({found['wall_s']} s in all)")  # fmt: skip
    return found


def _memory_limit() -> int:
    """Bytes that a worker may take: nine tenths of what is free, so that a variant too large for
    the machine ends with an error of its own and takes nothing else down.
    """
    path = Path("/proc/meminfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return free[0] * 9 // 10 if free else resource.RLIM_INFINITY


def note(text: str) -> None:
    """Progress goes to stderr, so that the last line of stdout stays the result."""
    print(text, file=sys.stderr, flush=True)


def write(name: str, result: dict[str, Any], *, quick: bool) -> None:
    """Write a results file, whole or not at all; a quick run never stands in for a full one."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (f"{name}-quick.json" if quick else f"{name}.json")
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    staged.replace(path)


def facts(script: str, arguments: list[str]) -> dict[str, Any]:
    """Versions, hardware and command of a run."""
    return {
        "versions": versions(), "hardware": hardware(),
        "command": " ".join(["python", f"bench/{script}", *arguments]),
    }  # fmt: skip


def rounded(value: float, digits: int = 4) -> float:
    """A figure with as many significant digits as its measurement bears."""
    return float(f"{value:.{digits}g}")
