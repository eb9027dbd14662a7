"""Reads a JSON Lines table of two million rows and draws a sample out of it: whytune's table
loader against `datasets.load_dataset("json")`, which only reads. `--rows` makes it another size.

Memory is the most that a process held. The loader's own processes count as well, as many as there
can be, each as if it had held as much as the largest of them: rather too much than too little.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import machine

ROWS, QUICK_ROWS = 2_000_000, 50_000
TRAIN, TEST = 10_000, 5_000
QUICK_TRAIN, QUICK_TEST = 1_000, 500
LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        print(json.dumps(measured(args.engine, args.path, args.quick)))
        return
    runs = run(QUICK_ROWS if args.quick else args.rows, args.quick)
    figures = report(runs)
    if args.quick or args.rows == ROWS:
        facts = machine.facts("corpora.py", sys.argv[1:])
        facts["versions"]["pyarrow"] = version("pyarrow")
        result = {"benchmark": "corpora", "quick": args.quick, **figures, "runs": runs, **facts}
        machine.write("corpora", result, quick=args.quick)
    if args.json:
        print(json.dumps(figures))


def write(path: Path, rows: int) -> None:
    """Texts of about twenty words with a label and a reason, the same on every machine."""
    draw = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdklmnprst" for b in "aeiou" for c in ("n", "ra", "sto", "ly")]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = {
                "id": str(number),
                "text": " ".join(draw.choices(words, k=20)) + f" {number}",
                "label": draw.choice(LABELS),
                "reason": " ".join(draw.choices(words, k=12)),
            }
            file.write(json.dumps(row) + "\n")


def whytune_reads(path: Path, quick: bool) -> int:
    from whytune import corpora
    from whytune.recipe_data import Columns, CorpusSpec
    from whytune.records import Kind, Label, Task

    labels = tuple(Label(name=name) for name in LABELS)
    task = Task(name="mood", kind=Kind.NOMINAL, question="Which mood?", labels=labels)
    columns = Columns(text="text", label="label", explanation="reason", id="id")
    spec = CorpusSpec(
        loader="table", path=str(path), columns=columns,
        train=QUICK_TRAIN if quick else TRAIN, test=QUICK_TEST if quick else TEST,
    )  # fmt: skip
    corpus = corpora.load("mood", spec, [task])
    assert len(corpus.examples) == (spec.train or 0) + (spec.test or 0)
    return corpus.ledger.rows


def datasets_reads(path: Path, quick: bool) -> int:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        found = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        return len(found)


ENGINES = {"whytune": whytune_reads, "datasets": datasets_reads}


def measured(engine: str, path: Path, quick: bool) -> dict[str, float]:
    """Rows a second and the most memory (MB), from this process; imports are not timed."""
    __import__(engine)
    if engine == "whytune":
        __import__("whytune.corpora")
    started = time.perf_counter()
    rows = ENGINES[engine](path, quick)
    seconds = time.perf_counter() - started
    peak = machine.peak_rss_mb()
    if engine == "whytune":
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        peak += largest * len(os.sched_getaffinity(0))
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, "peak_rss_mb": peak}


def run(rows: int, quick: bool) -> list[dict[str, Any]]:
    """Both engines on the same file, twice by turns, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, rows)
        warm(path)
        runs = [{"engine": name, **apart(name, path, quick)} for name in [*ENGINES, *ENGINES]]
    for found in runs:
        assert found["rows"] == rows, found
    return runs


def warm(path: Path) -> None:
    """Both find the file in memory. Read bit by bit: a process starts with its parent's peak."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def apart(engine: str, path: Path, quick: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--engine", engine, "--path", str(path)]
    done = subprocess.run(command + ["--quick"] * quick, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Prints the better run of each engine; the figures that come of them."""
    ours, theirs = (
        min((found for found in runs if found["engine"] == engine), key=lambda f: f["seconds"])
        for engine in ENGINES
    )
    print(f"{'engine':10}{'rows':>12}{'seconds':>10}{'rows/s':>12}{'peak MB':>10}")
    for found in (ours, theirs):
        print(
            f"{found['engine']:10}{found['rows']:12,.0f}{found['seconds']:10.1f}"
            f"{found['rows_per_s']:12,.0f}{found['peak_rss_mb']:10.0f}"
        )
    ratio = ours["rows_per_s"] / theirs["rows_per_s"]
    print(f"whytune reads {ratio:.2f} times as fast, in "
          f"{ours['peak_rss_mb'] / theirs['peak_rss_mb']:.2f} of the memory")  # fmt: skip
    return {
        "ratio_vs_datasets": ratio, "rows_per_s": ours["rows_per_s"],
        "peak_rss_mb": ours["peak_rss_mb"], "rows": ours["rows"],
        "datasets_rows_per_s": theirs["rows_per_s"],
        "datasets_peak_rss_mb": theirs["peak_rss_mb"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
