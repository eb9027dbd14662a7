"""Arguments in, calls out: no logic, and torch is imported only by the commands that need it.

Results go to standard output, progress and faults to standard error. Exit codes: 0 done, 1 the
work failed, 2 the input is wrong, 130 interrupted.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from whytune import recipe as recipes
from whytune import recipe_file, store
from whytune.errors import WhytuneError
from whytune.progress import Progress

app = typer.Typer(
    name="whytune",
    help="Teach small language models to classify text, say how sure they are, and say why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a knob; repeatable.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder to write to (default: studies/NAME).")
]

INTERRUPTED = 130
"""What typer answers when Ctrl-C ends a command."""
PARTS = {"prompt": "dim", "label": "bold black on green", "explanation": "black on cyan",
         "frame": "black on yellow"}  # fmt: skip


def main() -> None:
    """Run a command; a fault of whytune's own is printed without a traceback."""
    _quieten_libraries()
    try:
        app()
    except WhytuneError as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:
            message = "interrupted; the same command goes on where it stopped"
            print(message, file=sys.stderr)  # noqa: T201
        raise


def _quieten_libraries() -> None:
    """Bars and notices of the libraries below; only here, where whytune is the application."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # bitsandbytes looks for an optional kernel at import and says so when there is none.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    # peft 0.21 reads a name that transformers 5.23 has deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("studies/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A slice of it, in under three minutes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The whole way on the bundled starter set: merge, teach two arms, measure, report."""
    from whytune.study import demo as demos

    folder = out.with_name(f"{out.name}-quick") if quick else out
    _print_study(demos.demo(folder, Progress(), quick=quick), as_json)


@app.command()
def study(
    recipe: RecipePath, out: Out = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Run a recipe's grid (corpora x tasks x arms x seeds); goes on where it stopped."""
    from whytune.study import grid

    plan = recipe_file.load(recipe, overrides or ())
    _print_study(grid.study(plan, out or _default_folder(plan), Progress()), as_json)


@app.command()
def train(
    recipe: RecipePath,
    arm: Annotated[str | None, typer.Option(help="The arm to teach (default: the first).")] = None,
    out: Out = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Teach and measure one student: one corpus, arm and seed of a recipe, and one task or all."""
    from whytune.study import grid

    plan = recipe_file.load(recipe, overrides or ())
    found = grid.single(plan, arm, out or _default_folder(plan), Progress())
    if as_json:
        _print_json(found)
    else:
        _print_cards(found["run"], found["scorecard"])


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    on: Annotated[str, typer.Option("--on", metavar="CORPUS", help="A corpus of its recipe.")],
    as_json: AsJson = False,
) -> None:
    """Measure a saved student anew, with intervals."""
    from whytune import pipeline, run_folder

    cards = store.plain(run_folder.by_task(pipeline.evaluate(run, on, Progress())))
    if as_json:
        _print_json(cards)
    else:
        _print_cards("", cards)


@app.command()
def check(
    recipe: RecipePath,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a page, its tables and unreadable rows there."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Lint data, show what is supervised in real lessons, audit labels, estimate the work."""
    from whytune.study import check as checks

    findings = checks.check(recipe_file.load(recipe, overrides or ()), Progress(), page)
    for found in findings:
        _print_findings(found)
    # What is wrong with a corpus is found with each of its tasks.
    faults = list(dict.fromkeys(fault for found in findings for fault in found.faults))
    if as_json:
        _print_json({"faults": faults, "findings": findings})
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201
    raise typer.Exit(2 if faults else 0)


@app.command()
def init(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSON Lines or Parquet.")],
    output: Annotated[
        Path | None, typer.Option(help="The recipe to write (default: beside the table).")
    ] = None,
    model: Annotated[str, typer.Option(help="Base model of the recipe.")] = "smollm2-135m",
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at a table of labelled texts and propose a recipe for it."""
    from whytune.propose import propose

    found = propose(table, output, model=model, force=force)
    for line in found.saw:
        _print(f"saw {line}")
    for line in found.unsure:
        _print(f"unsure: {line}")
    _print(f"wrote {found.recipe}; read it, then: whytune check {found.recipe}")
    if as_json:
        _print_json({**store.plain(found), "recipe": str(found.recipe)})


@app.command()
def merge(
    recipe: RecipePath, out: Out = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Merge the teachers' replies into verdicts and say how far they agree (without torch)."""
    from whytune import run_folder
    from whytune.material import gather

    plan = recipe_file.load(recipe, overrides or ())
    folder = out or _default_folder(plan)
    materials = gather(plan)
    run_folder.claim(folder, plan)
    results = []
    for (corpus, task), material in materials.items():
        path = folder / "verdicts" / f"{corpus}--{task}.jsonl"
        store.write_jsonl(path, material.verdicts.values())
        results.append({"corpus": corpus, "task": task, "verdicts": str(path),
                        **material.agreement()})  # fmt: skip
    table = Table("corpus", "task", "examples", "votes", "alpha", "agreement", "verdicts")
    for row in results:
        table.add_row(row["corpus"], row["task"], str(row["examples"]), str(row["votes"]),
                      _number(row["alpha"]), _number(row["pair_agreement"]), row["verdicts"])  # fmt: skip
    _print(table)
    if as_json:
        _print_json({"merged": results})


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study folder.")],
    examples: Annotated[
        bool, typer.Option(help="Show test examples; leave them out to publish the page.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write the tables, figures and page of a study anew."""
    from whytune.study import report as reports

    path = reports.build(folder, examples=examples)
    if as_json:
        _print_json({"report": str(path)})
    else:
        _print(str(path))


@app.command()
def recipe(as_json: AsJson = False) -> None:
    """Every knob of a recipe with its default and meaning."""
    rows = list(recipes.knobs())
    if as_json:
        _print_json({"knobs": [dict(zip(("name", "default", "meaning"), r, strict=True))
                               for r in rows]})  # fmt: skip
        return
    for name, default, meaning in rows:
        _print(Text.assemble((name, "bold"), f" = {default}" if default else ""))
        _print(Text(f"    {meaning}"))


def _default_folder(plan: recipes.Recipe) -> Path:
    return Path("studies") / plan.name


def _print_study(summary: dict[str, Any], as_json: bool) -> None:
    for key in dict.fromkeys((row["corpus"], row["task"]) for row in summary["rows"]):
        rows = [row for row in summary["rows"] if (row["corpus"], row["task"]) == key]
        names = [n for n in ("mse", "mae", "accuracy", "macro_f1", "qwk", "label_nll", "ece")
                 if n in rows[0]["scorecard"]["metrics"]]  # fmt: skip
        table = Table("", *names, title=f"{key[0]}, {key[1]} (95 % intervals on the page)")
        for row in rows:
            metrics = row["scorecard"]["metrics"]
            table.add_row(row["name"], *(_number(metrics[name]["value"]) for name in names))
        _print(table)
    _print(summary["finding"])
    _print(f"page: {summary['report']}   ({summary['seconds']:.0f} s, "
           f"{summary['peak_rss_mb']:.0f} MiB at most)")  # fmt: skip
    if as_json:
        _print_json(_study_facts(summary))


def _study_facts(summary: dict[str, Any]) -> dict[str, Any]:
    cards: dict[str, dict[str, dict[str, Any]]] = {}
    for row in summary["rows"]:
        cards.setdefault(row["task"], {})[row["name"]] = row["scorecard"]
    runs = list(dict.fromkeys(run for row in summary["rows"] for run in row["runs"]))
    kept = ("report", "finding", "seconds", "peak_rss_mb", "comparisons")
    return {"runs": runs, "scorecards": cards, **{name: summary[name] for name in kept}}


def _print_findings(found: Any) -> None:
    from whytune.study import remarks

    _print(Text(f"{found.corpus}, {found.task}", style="bold"))
    _print("  examples: " + ", ".join(f"{n} {split}" for split, n in found.parts.items())
           + f"; measured against {found.reference}")  # fmt: skip
    _print("  lessons: " + ", ".join(f"{label}: {n}" for label, n in found.labels.items()))
    for line in remarks.lines(found):
        _print(f"  {line}")
    for label, ids in found.label_ids.items():
        _print(f"  label {label!r}: token ids {list(ids)}")
    for load in found.loads:
        _print(f"  arm {load.arm}, {load.task}: {load.lessons} lessons on {load.conversations} "
               f"conversations, {load.tokens_per_epoch} tokens an epoch, longest {load.longest}, "
               f"{load.cut} cut, {load.updates} updates, about {load.seconds / 60:.1f} min")  # fmt: skip
    for remark in found.remarks:
        _print(f"  remark: {remark}")
    for masked in found.masks:
        _print(Text(f"  arm {masked.arm}, example {masked.example_id} (supervised: ")
               + Text("label", PARTS["label"]) + Text(" ") + Text("explanation", PARTS["explanation"])
               + Text(" ") + Text("frame", PARTS["frame"]) + Text(")"))  # fmt: skip
        for index, task in enumerate(masked.tasks):
            if len(masked.tasks) > 1:
                _print(f"  branch {index + 1} of {len(masked.tasks)}, {task}:")
            own = (p for p in masked.pieces if p.branch == index)
            _print(Text.assemble(*((_visible(p.text, p.part), PARTS[p.part]) for p in own)))


def _print_cards(name: str, cards: dict[str, Any]) -> None:
    """The scorecard of one task, or of several by task, a line each."""
    alone = not all(isinstance(card, dict) and "metrics" in card for card in cards.values())
    lines = {"": cards} if alone else cards
    for task, card in lines.items():
        place = ", ".join(part for part in (name, task) if part)
        _print(f"{place}: {_figures(card)}" if place else _figures(card))


def _visible(text: str, part: str) -> str:
    """Line breaks that are supervised are drawn, so that they can be seen."""
    return text if part == "prompt" else text.replace("\n", "⏎")


def _figures(card: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_number(e['value'])}" for name, e in card["metrics"].items())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _print(content: Any) -> None:
    # Text is wrapped by the terminal, not by us, so that paths can be copied.
    Console(highlight=False).print(content, markup=False, soft_wrap=isinstance(content, str))


def _print_json(content: Any) -> None:
    print(json.dumps(store.plain(content), ensure_ascii=False))  # noqa: T201
