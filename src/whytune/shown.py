"""What commands print: results on standard output, faults on standard error."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from whytune import store

PARTS = {"prompt": "dim", "label": "bold black on green", "explanation": "black on cyan",
         "frame": "black on yellow"}  # fmt: skip


def forecast(plan: Any, as_json: bool) -> None:
    """What asking will take (`forecast.Plan`), with one prompt as it will be sent."""
    if plan.sample is not None:
        request = plan.sample.request
        line(Text(f"{request.teacher}, {request.task}, prompt {request.prompt}:", "bold"))
        for message in request.messages:
            line(Text(message["content"]))
    line("low / expected / high; nothing was sent:")
    for row in plan.forecasts:
        bills = (row.low, row.expected, row.high)
        cost = "no price" if row.high.cost is None else f"${_range((b.cost for b in bills), 4)}"
        line(f"{row.teacher}, {row.stage}: {row.questions} questions, {row.settled} of them in the "
             f"journal; tokens in {_range(b.tokens_in for b in bills)}, out "
             f"{_range(b.tokens_out for b in bills)}; {cost}")  # fmt: skip
    if as_json:
        json_line({"prompt": plan.sample and plan.sample.request.messages,
                     "forecasts": plan.forecasts})  # fmt: skip


def _range(values: Iterable[float], digits: int = 0) -> str:
    return " / ".join(f"{value:,.{digits}f}" for value in values)


def asked(found: Sequence[Any]) -> None:
    """What came of asking (`asking.Asked`); what went wrong goes to standard error."""
    for one in found:
        account = one.account
        unknown = f" and {account.unpriced} of unknown cost" if account.unpriced else ""
        line(f"{one.teacher}: {one.questions} questions: {_counts(one.outcomes)}; {account.sends} "
             f"sends now, {account.tokens_in:,} tokens in, {account.tokens_out:,} out, "
             f"${account.cost:.4f}{unknown}")  # fmt: skip
        if account.unreadable:
            cut = f", {account.cut} cut by their limit of tokens" if account.cut else ""
            line(f"  could not be read{cut}; the first: {_plain(account.unreadable)!r}")
    for one in found:
        if one.account.stopped:
            print(f"{one.teacher}: stopped, or the budget would be passed; raise --budget to go on",  # noqa: T201
                  file=sys.stderr)  # fmt: skip
        for fault in one.account.given_up[:3]:
            print(f"{one.teacher}: given up, {_plain(fault)}", file=sys.stderr)  # noqa: T201


def explained(found: Any) -> None:
    """What came of explaining (`explaining.Summary`), with a few of the reasons."""
    for note in found.notes:
        line(f"generator, {note}")
    line(f"generator: {found.generator}; {found.lessons} lessons; a token of a held-out reason costs "
         f"{_number(found.reason_nll)} nats, {_number(found.reason_nll_before)} before it was "
         "taught")  # fmt: skip
    for row in found.counts:
        line(f"{row.corpus}, {row.task}: {row.reasons} reasons, {row.written} written now, "
             f"{row.found} before; {row.cut} cut, {row.empty} empty, {row.leaks} name a label")  # fmt: skip
    line(f"reasons: {found.reasons}   ({found.tokens:,} tokens now; teaching "
         f"{found.seconds['teach']:.0f} s, writing {found.seconds['write']:.0f} s)")  # fmt: skip
    for one in found.samples:
        line(f"  {_plain(one.label)}: {_plain(one.reason)}")


def _plain(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def study(summary: dict[str, Any], as_json: bool) -> None:
    """A study's summary."""
    for key in dict.fromkeys((row["corpus"], row["task"]) for row in summary["rows"]):
        rows = [row for row in summary["rows"] if (row["corpus"], row["task"]) == key]
        names = [n for n in ("mse", "mae", "accuracy", "macro_f1", "qwk", "label_nll", "ece")
                 if n in rows[0]["scorecard"]["metrics"]]  # fmt: skip
        table = Table("", *names, title=f"{key[0]}, {key[1]} (95 % intervals on the page)")
        for row in rows:
            metrics = row["scorecard"]["metrics"]
            table.add_row(row["name"], *(_number(metrics[name]["value"]) for name in names))
        line(table)
    line(summary["finding"])
    line(f"page: {summary['report']}   ({summary['seconds']:.0f} s, "
           f"{summary['peak_rss_mb']:.0f} MiB at most)")  # fmt: skip
    if as_json:
        json_line(_study_facts(summary))


def compared(found: Any) -> None:
    """What `study.comparing.compare` found; as plain lines where nobody looks at a terminal."""
    for told in (*found.sentences, *found.notes):
        line(told)
    for setting in found.settings:
        line(f"{setting.corpus}, {setting.task}: {setting.n} examples that all answered, "
             f"{setting.left_out} left out")  # fmt: skip
        table = Table("", *setting.metrics)
        for row in setting.rows:
            figures = [_number(row.scorecard.metrics[name].value) for name in setting.metrics]
            table.add_row(row.name, *figures)
            if not sys.stdout.isatty():
                told = ", ".join(map(" ".join, zip(setting.metrics, figures, strict=True)))
                line(f"  {row.name}: {told}")
        if sys.stdout.isatty():
            line(table)


def _study_facts(summary: dict[str, Any]) -> dict[str, Any]:
    cards: dict[str, dict[str, dict[str, Any]]] = {}
    for row in summary["rows"]:
        cards.setdefault(row["task"], {})[row["name"]] = row["scorecard"]
    runs = list(dict.fromkeys(run for row in summary["rows"] for run in row["runs"]))
    kept = ("report", "finding", "seconds", "peak_rss_mb", "comparisons")
    return {"runs": runs, "scorecards": cards, **{name: summary[name] for name in kept}}


def merged(row: dict[str, Any], not_asked: Iterable[str]) -> None:
    """One corpus and task of `study.merging.write`, and whose votes are missing."""
    method = row["merge"] if row["merge"] == row["method"] else f"{row['merge']} ({row['method']})"
    figures = {"mae": "wrong"} if row["kind"] == "nominal" else {"mae": "MAE", "mse": "MSE"}
    against = {
        "gold": "people's word",
        "others": "what the other teachers agree on",
        None: "nothing",
    }
    table = Table("", *figures.values(), "labels", "dropped",
                  title=f"{row['corpus']}, {row['task']}: merged by {method}",
                  caption=f"{', '.join(figures.values())} against {against[row['against']]}")  # fmt: skip
    errors = {judge["judge"]: judge for judge in row["golden"]}
    for name in dict.fromkeys((*errors, *row["methods"])):
        error, made = errors.get(name, {}), row["methods"].get(name, {"labels": {}, "dropped": {}})
        table.add_row(name, *(_number(error.get(figure)) for figure in figures),
                      _counts(made["labels"]), _counts(made["dropped"]))  # fmt: skip
    line(table)
    unread = f", {_counts(row['unread'])}" if row["unread"] else ""
    line(f"  {row['examples']} examples, {row['votes']} votes{unread}; agreement in pairs "
           f"{_number(row['pair_agreement'])}; alpha "
           + ", ".join(f"{_number(a.value)} ({_number(a.low)} to {_number(a.high)}) {name}"
                       for name, a in row["alphas"].items()))  # fmt: skip
    # Scores that agree may be right: then raters share less of their errors than it seems.
    least = "at least " if row["effective_of"] == "scores" else ""
    counted = ((row["raters"], "raters (a teacher with a prompt)", row["effective_number"]),
               (len(row["teachers"]), "teachers", row["effective_teachers"]))  # fmt: skip
    for count, what, number in counted:
        if count > 1 and not math.isnan(number):
            line(f"  shared errors: {count} {what} count for {least}{number:.3f} independent ones")
    for missing in not_asked:
        line(f"  {missing}")
    kept = " (filled in, so left as it was)" if row["review_kept"] else ""
    line(f"  verdicts: {row['verdicts']}; for people to look at: {row['tables']['review']}{kept}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def findings(found: Any) -> None:
    """What `whytune check` found about one corpus and task."""
    from whytune.study import remarks

    line(Text(f"{found.corpus}, {found.task}", style="bold"))
    line("  examples: " + ", ".join(f"{n} {split}" for split, n in found.parts.items())
           + f"; measured against {found.reference}")  # fmt: skip
    line("  lessons: " + ", ".join(f"{label}: {n}" for label, n in found.labels.items()))
    for remark in remarks.lines(found):
        line(f"  {remark}")
    for label, ids in found.label_ids.items():
        line(f"  label {label!r}: token ids {list(ids)}")
    for load in found.loads:
        line(f"  arm {load.arm}, {load.task}: {load.lessons} lessons on {load.conversations} "
               f"conversations, {load.tokens_per_epoch} tokens an epoch, longest {load.longest}, "
               f"{load.cut} cut, {load.updates} updates, about {load.seconds / 60:.1f} min")  # fmt: skip
    for remark in found.remarks:
        line(f"  remark: {remark}")
    for masked in found.masks:
        line(Text(f"  arm {masked.arm}, example {masked.example_id} (supervised: ")
               + Text("label", PARTS["label"]) + Text(" ") + Text("explanation", PARTS["explanation"])
               + Text(" ") + Text("frame", PARTS["frame"]) + Text(")"))  # fmt: skip
        for index, task in enumerate(masked.tasks):
            if len(masked.tasks) > 1:
                line(f"  branch {index + 1} of {len(masked.tasks)}, {task}:")
            own = (p for p in masked.pieces if p.branch == index)
            line(Text.assemble(*((_visible(p.text, p.part), PARTS[p.part]) for p in own)))


def predicted(found: Any) -> None:
    """What came of judging a file (`judge_file.Summary`)."""
    line(f"{found.out}: {found.rows:,} rows; {found.judged:,} judged, {found.unreadable:,} unreadable, "
         f"{found.abstained:,} abstained   ({_duration(found.seconds)})")  # fmt: skip


def arms(found: Any) -> None:
    """What every arm takes (`loads.Costs`), a line each."""
    table = Table("arm", "learns", *(
        Column(title, justify="right") for title in (
            "lessons", "label", "explanation", "frame", "tokens", "passes", "updates", "GFLOP",
            "teach", "measure")
    ), title="supervised tokens (label, explanation, frame) and all tokens, an epoch")  # fmt: skip
    for load in found.loads:
        table.add_row(
            load.arm, load.task, f"{load.lessons:,}", *(f"{n:,}" for n in load.supervised.values()),
            f"{load.tokens_per_epoch:,}", f"{load.passes:.4g}", f"{load.updates:,}",
            f"{load.flops / 1e9:,.0f}", _duration(load.seconds), _duration(load.measuring),
        )  # fmt: skip
    line(table)
    if found.unwritten:
        line(_unwritten(found.unwritten))
    line(f"all of them, {found.seeds} seed(s): about {_duration(found.seconds)}, from a few timed "
         "conversations; without explaining examples and baselines")  # fmt: skip


def dry_run(found: Any, as_json: bool) -> None:
    """What a study would do (`dry_run.DryRun`), a line each cell."""
    for row in found.rows:
        at = f" from update {row.step}" if row.step else ""
        line(f"{row.id}: {row.state}{at}; {row.lessons:,} lessons, {row.tokens:,} tokens, "
             f"{row.updates:,} updates, about {_duration(row.seconds)}, {_memory(row.memory)}")  # fmt: skip
        for change in row.changes:
            line(f"  {change}")
    totals = found.totals
    counts = ", ".join(f"{count} {state}" for state, count in found.states.items() if count)
    line(f"{len(found.rows)} cells: {counts}; nothing was run")
    if any(row.changes for row in found.rows):
        line("changed runs are not made anew: choose another --out, or delete their folders")
    if found.unwritten:
        line(_unwritten(found.unwritten))
    line(f"all of them: {totals['lessons']:,} lessons, {totals['tokens']:,} tokens, about "
         f"{_duration(totals['seconds'])}, {_memory(totals['memory'])} at most; left: "
         f"{totals['tokens_left']:,} tokens, about {_duration(totals['seconds_left'])}, from a few "
         "timed conversations; without explaining examples and baselines")  # fmt: skip
    if as_json:
        json_line({"cells": found.rows, "states": found.states, "totals": totals,
                   "unwritten": found.unwritten})  # fmt: skip


def _unwritten(count: int) -> str:
    return (f"{count} reasons are not written yet (`whytune explain`); they count as long as the "
            "generator may write")  # fmt: skip


def _memory(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def cards(name: str, cards: dict[str, Any]) -> None:
    """The scorecard of one task, or of several by task, a line each."""
    alone = not all(isinstance(card, dict) and "metrics" in card for card in cards.values())
    lines = {"": cards} if alone else cards
    for task, card in lines.items():
        place = ", ".join(part for part in (name, task) if part)
        line(f"{place}: {_figures(card)}" if place else _figures(card))


def _visible(text: str, part: str) -> str:
    """Line breaks that are supervised are drawn, so that they can be seen."""
    return text if part == "prompt" else text.replace("\n", "⏎")


def _figures(card: dict[str, Any]) -> str:
    from whytune.study.titles import METRICS

    shown = [metric.name for metric in METRICS if metric.main and metric.name in card["metrics"]]
    return ", ".join(f"{name} {_number(card['metrics'][name]['value'])}" for name in shown)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def line(content: Any) -> None:
    """A line of text, or a table."""
    # Text is wrapped by the terminal, not by us, so that paths can be copied.
    Console(highlight=False).print(content, markup=False, soft_wrap=isinstance(content, str))


def json_line(content: Any) -> None:
    """One JSON object as the last line."""
    print(json.dumps(store.plain(content), ensure_ascii=False))  # noqa: T201
