"""The tables that the benchmarks print, and all ratios in one, from bench/results/*.json.

Usage: python bench/table.py [--quick]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from machine import RESULTS

RATIOS = {
    "train": {
        "ratio_vs_trl": "training vs TRL",
        "ratio_vs_hf": "training vs HF Trainer",
        "ratio_vs_trl_kept": "  TRL with kept memory",
        "ratio_vs_hf_kept": "  HF with kept memory",
    },
    "score": {
        "ratio_vs_lm_eval": "scoring vs lm-eval",
        "ratio_vs_lm_eval_kept": "  lm-eval with kept memory",
        "ratio_vs_generate": "scoring vs generate",
    },
}


def main() -> None:
    """Print the table of ratios of the results that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="of the quick runs")
    suffix = "-quick" if parser.parse_args().quick else ""
    rows = [("how many times faster", *CASES)]
    lines: list[str] = []
    for name, ratios in RATIOS.items():
        path = RESULTS / f"{name}{suffix}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            rows += [_row(title, result[key]) for key, title in ratios.items()]
            lines += _extremes(result)
    print_table(rows)
    print("\n".join(["", *lines]))


CASES = ("200", "600", "1500", "mixed")


def _row(title: str, by_case: dict[str, Any], form: str = "{:.2f}x") -> tuple[str, ...]:
    return (title, *(_cell(by_case.get(case), form) for case in CASES))


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _extremes(result: dict[str, Any]) -> list[str]:
    """The figures that stand beside the ratios, worst case each."""
    lines = []
    if (error := result.get("grad_rel_err", {}).get("max")) is not None:
        lines.append(f"gradients off by {error:.1e} (relative, worst case)")
    fractions = [f for f in result.get("fraction_of_sgemm", {}).values() if f is not None]
    if fractions:
        lines.append(f"training runs at {min(fractions):.0%} to {max(fractions):.0%} of the "
                     "machine's matrix-product rate")  # fmt: skip
    if (error := result.get("logp_abs_err", {}).get("max")) is not None:
        lines.append(f"log-probabilities off by {error:.1e} nats (worst case)")
    return lines


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns aligned; the first row is the head."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for index, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("| " + " | ".join(cells) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def _engines(by_case: dict[str, dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(engine for found in by_case.values() for engine in found))


def _per_engine(by_case: dict[str, dict[str, float]], form: str) -> list[tuple[str, ...]]:
    return [
        _row(engine, {case: found.get(engine) for case, found in by_case.items()}, form)
        for engine in _engines(by_case)
    ]


def show_train(result: dict[str, Any]) -> None:
    """A training result."""
    rows = [("training, seconds per conversation", *CASES)]
    rows += _per_engine(result["seconds"], "{:.3f}")
    rows += [_row("TRL's best / ours", result["ratio_vs_trl"])]
    rows += [_row("HF Trainer's best / ours", result["ratio_vs_hf"])]
    rows += [_row("TRL's best with kept memory / ours", result["ratio_vs_trl_kept"])]
    rows += [_row("HF Trainer's best with kept memory / ours", result["ratio_vs_hf_kept"])]
    rows += [_row("gradient error (relative)", result["grad_rel_err"], "{:.1e}")]
    rows += [_row("sgemm (GFLOP/s)", result["sgemm_gflops"], "{:.0f}")]
    rows += [_row("ours / sgemm", result["fraction_of_sgemm"], "{:.1%}")]
    print_table(rows)
    print()
    print_table([("peak memory (MB)", *CASES), *_per_engine(result["peak_rss_mb"], "{:.0f}")])
    _print_notes(result)


def show_score(result: dict[str, Any]) -> None:
    """A scoring result."""
    rows = [("scoring, seconds per conversation", *CASES)]
    rows += _per_engine(result["seconds"], "{:.3f}")
    rows += [_row("lm-eval's best / ours", result["ratio_vs_lm_eval"])]
    rows += [_row("generate's best / ours", result["ratio_vs_generate"])]
    rows += [_row("log-probability error (nats)", result["logp_abs_err"], "{:.1e}")]
    print_table(rows)
    print()
    print_table([("peak memory (MB)", *CASES), *_per_engine(result["peak_rss_mb"], "{:.0f}")])
    many = result["multi_token"]
    print(f"\nlabels of several tokens, case {many['case']}: "
          f"{_cell(many['ratio_vs_lm_eval'], '{:.2f}x')} lm-eval, off by "
          f"{_cell(many['logp_abs_err'], '{:.1e}')} nats")  # fmt: skip
    _print_notes(result)


def _print_notes(result: dict[str, Any]) -> None:
    for case, notes in result["notes"].items():
        for text in notes:
            print(f"case {case}: {text}")


if __name__ == "__main__":
    main()
