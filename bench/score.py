"""Scoring: seconds per conversation for the probabilities of five labels of three questions, of
whytune, lm-eval's HFLM, and `generate`.

Every engine and variant runs in a process of its own, all on equal tokens.
Usage: python bench/score.py [--json] [--quick] [--cases 200,600]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import cases
from cases import Conversation, Ids
from machine import facts, note, peak_rss_mb, rounded, work, write

Scores = list[list[dict[str, float]]]
"""Conversation -> question -> label -> log-probability (nats)."""

MARGIN = 1.15
"""Where a batch is this much slower than a smaller one, still larger ones are not tried."""
NEW_TOKENS = 60
"""Of an answer with its explanation, which `generate` writes out before a label can be read."""
GENERATE_PICKS = {"200": [0], "600": [0], "1500": [0], "mixed": [2, 5]}
"""Case -> conversations that are generated for; ours is timed on the same ones for this ratio."""
ORACLE_PICKS = {"200": [0, 1], "600": [0], "1500": [0], "mixed": [0, 3, 7]}
"""Case -> conversations whose log-probabilities are compared."""
MULTI = "600"
"""The case whose labels are also scored with several tokens."""

LM_EVAL = {"batch 1": 1, "batch 4": 4, "batch 8": 8}
GENERATE = {"batch 3": 3}


def main() -> None:
    """Measure, or with `--worker` be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result, not a table")
    parser.add_argument("--quick", action="store_true", help="two layers, two cases, one pass")
    parser.add_argument("--cases", default=None, help="comma-separated, of 200,600,1500,mixed")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(_worker(json.loads(given.worker))))
        return
    named = given.cases or ("200,mixed" if given.quick else ",".join(cases.PREFIXES))
    result = measure(named.split(","), quick=given.quick)
    write("score", result, quick=given.quick)
    if given.json:
        print(json.dumps(result))
    else:
        import table

        table.show_score(result)


# --- in a worker's process


def _worker(spec: dict[str, Any]) -> dict[str, Any]:
    import torch

    every = cases.conversations(spec["case"])
    chosen = [every[i] for i in spec.get("pick", range(len(every)))]
    labels = cases.LABELS[spec.get("labels", "single")]
    model = cases.model(spec["layers"]).eval()
    makers: dict[str, Callable[..., Callable[[list[Conversation]], Scores | None]]] = {
        "ours": _ours, "oracle": _oracle, "lm-eval": _lm_eval, "generate": _generate,
    }  # fmt: skip
    answer = makers[spec["engine"]](model, labels, spec.get("variant"))
    with torch.no_grad():
        if spec["engine"] == "oracle":
            return {"scores": answer(chosen)}
        answer([chosen[0].short])
        return _timed(answer, chosen, spec["plan"])


def _timed(
    answer: Callable[[list[Conversation]], Scores | None],
    chosen: list[Conversation],
    plan: dict[str, Any],
) -> dict[str, Any]:
    times: list[float] = []
    scores = None
    while not times or (len(times) < plan["most"] and sum(times) < plan["seconds"]):
        start = time.perf_counter()
        scores = answer(chosen)
        times.append(time.perf_counter() - start)
    each = [t / len(chosen) for t in times]
    return {"seconds": rounded(statistics.median(each)), "passes": [rounded(s) for s in each],
            "peak_rss_mb": peak_rss_mb(), "scores": scores}  # fmt: skip


def _ours(model: Any, labels: dict[str, Ids], _: Any) -> Callable[[list[Conversation]], Scores]:
    import ours

    student = ours.student(model)
    return lambda chosen: ours.score(student, chosen, labels)


def _oracle(model: Any, labels: dict[str, Ids], _: Any) -> Callable[[list[Conversation]], Scores]:
    """Every label behind its prompt as a sequence of its own; full logits, one forward pass each."""
    import torch

    def one(prompt: Ids, label: Ids) -> float:
        logits = model(input_ids=torch.tensor([prompt + label]), use_cache=False).logits[0]
        rows = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
        return float(rows[range(len(label)), list(label)].sum())

    def question(prompt: Ids) -> dict[str, float]:
        if any(len(ids) > 1 for ids in labels.values()):
            return {name: one(prompt, ids) for name, ids in labels.items()}
        logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
        found = logits.double().log_softmax(-1)
        return {name: float(found[ids[0]]) for name, ids in labels.items()}

    return lambda chosen: [[question(prompt) for prompt in c.sequences] for c in chosen]


def _lm_eval(
    model: Any, labels: dict[str, Ids], variant: str
) -> Callable[[list[Conversation]], Scores]:
    """lm-eval's own log-likelihood loop, given ids, so that nobody tokenises differently."""
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=model, tokenizer=cases.tokenizer(), backend="causal", logits_cache=True,
        batch_size=LM_EVAL[variant], max_length=8192,
    )  # fmt: skip

    def answer(chosen: list[Conversation]) -> Scores:
        requests = [
            ((f"{c} {q}", name), list(prompt), list(ids))
            for c, conversation in enumerate(chosen)
            for q, prompt in enumerate(conversation.sequences)
            for name, ids in labels.items()
        ]
        found = iter(harness._loglikelihood_tokens(requests, disable_tqdm=True))
        return [[{name: next(found)[0] for name in labels} for _ in c.questions] for c in chosen]

    return answer


def _generate(model: Any, _: dict[str, Ids], variant: str) -> Callable[[list[Conversation]], None]:
    """Greedy answers of a fixed length with a key-value cache; a label would be read from them."""
    import torch
    from transformers import GenerationConfig

    size = GENERATE[variant]
    # No end token: every answer is as long as asked.
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )

    def answer(chosen: list[Conversation]) -> None:
        for conversation in chosen:
            prompts = conversation.sequences
            for at in range(0, len(prompts), size):
                ids = torch.tensor(prompts[at : at + size])  # equally long: no padding
                output = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
                )
                assert output.shape[1] == ids.shape[1] + NEW_TOKENS

    return answer


# --- in the measuring process


def measure(named: list[str], *, quick: bool) -> dict[str, Any]:
    """Run everything; a result as it goes into the file."""
    layers = 2 if quick else cases.LAYERS
    plan = {"most": 1, "seconds": 0.0} if quick else {"most": 3, "seconds": 5.0}
    found = {case: _case({"case": case, "layers": layers}, plan) for case in named}
    errors = {case: _error(runs, "ours") for case, runs in found.items()}
    checks = {case: _error(runs, "lm-eval batch 1") for case, runs in found.items()}
    known = [error for error in errors.values() if error is not None]
    return {
        "benchmark": "score", "quick": quick,
        "ratio_vs_lm_eval": {c: _ratio(runs, "ours", "lm-eval") for c, runs in found.items()},
        "ratio_vs_lm_eval_kept": {c: _ratio(runs, "ours", "kept lm-eval") for c, runs in found.items()},
        "ratio_vs_generate": {c: _ratio(runs, "ours picked", "generate")
                              for c, runs in found.items()},
        "best_variant": {case: {engine: _best(runs, engine)[0] for engine in ("lm-eval", "generate")}
                         for case, runs in found.items()},
        "seconds": {case: _figures(runs, "seconds") for case, runs in found.items()},
        "logp_abs_err": {"max": max(known, default=None), **errors},
        "lm_eval_logp_abs_err": checks,
        "peak_rss_mb": {case: _figures(runs, "peak_rss_mb") for case, runs in found.items()},
        "multi_token": _multi({"case": MULTI if MULTI in named else named[0], "layers": layers,
                               "plan": plan}),
        "notes": {case: _notes(runs) for case, runs in found.items()},
        "picks": {"generate": GENERATE_PICKS, "oracle": ORACLE_PICKS},
        "runs": {case: _bare(runs) for case, runs in found.items()},
        "setting": {**cases.summary(layers), "labels": cases.SINGLE_LABELS,
                    "new_tokens": NEW_TOKENS},
        **facts("score.py", sys.argv[1:]),
    }  # fmt: skip


def _case(spec: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """All engines and variants of one case, ours first and, on what was generated for, last."""
    case, spec = spec["case"], {**spec, "plan": plan}
    note(f"== score, case {case}")
    picked = {**spec, "pick": GENERATE_PICKS[case]}
    runs = {"ours": work("score.py", {**spec, "engine": "ours"})}
    once = {"plan": {"most": 1, "seconds": 0.0}}
    for variant in LM_EVAL:
        run = work("score.py", {**spec, "engine": "lm-eval", "variant": variant})
        best = _best(runs, "lm-eval")[1]
        runs[f"lm-eval {variant}"] = run
        if best and run.get("seconds", 0.0) > MARGIN * best:
            break
    best = (_best(runs, "lm-eval")[0] or "lm-eval batch 1").removeprefix("lm-eval ")
    runs["kept lm-eval"] = work(
        "score.py", {**spec, "engine": "lm-eval", "variant": best, "allocator": "keep"}
    )
    for variant in GENERATE:
        asked = {**picked, **once, "engine": "generate", "variant": variant}
        runs[f"generate {variant}"] = work("score.py", asked)
    runs["ours picked"] = work("score.py", {**picked, "engine": "ours"})
    runs["oracle"] = work("score.py", {**spec, "engine": "oracle", "pick": ORACLE_PICKS[case]})
    runs["oracle"]["pick"] = ORACLE_PICKS[case]
    return runs


def _multi(spec: dict[str, Any]) -> dict[str, Any]:
    """Labels of several tokens, on the oracle's conversations of one case."""
    case = spec["case"]
    note(f"== score, labels of several tokens, case {case}")
    pick = ORACLE_PICKS[case]
    spec = {**spec, "pick": pick, "labels": "multi"}
    runs = {
        "ours": work("score.py", {**spec, "engine": "ours"}),
        "lm-eval batch 1": work("score.py", {**spec, "engine": "lm-eval", "variant": "batch 1"}),
        "lm-eval batch 8": work("score.py", {**spec, "engine": "lm-eval", "variant": "batch 8"}),
        "oracle": work("score.py", {**spec, "engine": "oracle"}),
    }
    runs["oracle"]["pick"] = list(range(len(pick)))
    return {
        "case": case, "labels": cases.MULTI_LABELS,
        "ratio_vs_lm_eval": _ratio(runs, "ours", "lm-eval"), "logp_abs_err": _error(runs, "ours"),
        "seconds": _figures(runs, "seconds"), "notes": _notes(runs),
    }  # fmt: skip


def _best(runs: dict[str, Any], engine: str) -> tuple[str | None, float | None]:
    valid = {name: run["seconds"] for name, run in runs.items()
             if name.startswith(engine) and "seconds" in run}  # fmt: skip
    name = min(valid, key=lambda n: valid[n], default=None)
    return (name, valid[name]) if name else (None, None)


def _ratio(runs: dict[str, Any], own: str, engine: str) -> float | None:
    seconds, peer = runs[own].get("seconds"), _best(runs, engine)[1]
    return rounded(peer / seconds, 3) if seconds and peer else None


def _error(runs: dict[str, Any], name: str) -> float | None:
    """Largest difference of a log-probability (nats) to the oracle's."""
    oracle, scores = runs["oracle"], runs.get(name, {}).get("scores")
    if scores is None or "scores" not in oracle:
        return None
    return max(
        abs(scores[at][q][label] - value)
        for at, questions in zip(oracle["pick"], oracle["scores"], strict=True)
        for q, by_label in enumerate(questions)
        for label, value in by_label.items()
    )


def _figures(runs: dict[str, Any], name: str) -> dict[str, float]:
    return {key: run[name] for key, run in runs.items() if name in run}


def _bare(runs: dict[str, Any]) -> dict[str, Any]:
    """Runs without the log-probabilities."""
    return {name: {k: v for k, v in run.items() if k != "scores"} for name, run in runs.items()}


def _notes(runs: dict[str, Any]) -> list[str]:
    return [f"{name}: {run['error']}" for name, run in runs.items() if "error" in run]


if __name__ == "__main__":
    main()
