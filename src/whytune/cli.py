"""Arguments in, calls out: no logic, and torch is imported only by the commands that need it.

Results go to standard output, progress and faults to standard error. Exit codes: 0 done, 1 the
work failed, 2 the input is wrong, 130 interrupted.
"""

import logging
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import typer
from rich.text import Text

from whytune import cli_options as options
from whytune import recipe as recipes
from whytune import recipe_file, shown, store
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

INTERRUPTED = 130
"""What typer answers when Ctrl-C ends a command."""


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
    out: options.DemoOut = Path("studies/demo"),
    quick: options.Quick = False,
    as_json: options.AsJson = False,
) -> None:
    """The whole way on the bundled starter set: merge, teach two arms, measure, report."""
    from whytune.study import demo as demos

    folder = out.with_name(f"{out.name}-quick") if quick else out
    shown.study(demos.demo(folder, Progress(), quick=quick), as_json)


@app.command()
def study(
    recipe: options.RecipePath,
    out: options.Out = None,
    dry_run: options.DryStudy = False,
    on: options.OnNodes = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Run a recipe's grid (corpora x tasks x arms x seeds); goes on where it stopped."""
    from whytune.study import dry_run as dry_runs
    from whytune.study import grid

    plan = recipe_file.load(recipe, overrides or ())
    if dry_run:
        found = dry_runs.plan(plan, out or _default_folder(plan), Progress())
        shown.dry_run(found, as_json)
        return
    shown.study(grid.study(plan, out or _default_folder(plan), Progress(), on), as_json)


@app.command()
def train(
    recipe: options.RecipePath,
    arm: options.OneArm = None,
    out: options.Out = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Teach and measure one student: one corpus, arm and seed of a recipe, and one task or all."""
    from whytune.study import grid

    plan = recipe_file.load(recipe, overrides or ())
    found = grid.single(plan, arm, out or _default_folder(plan), Progress())
    if as_json:
        shown.json_line(found)
    else:
        shown.cards(found["run"], found["scorecard"])


@app.command()
def evaluate(run: options.Run, on: options.OnCorpus, as_json: options.AsJson = False) -> None:
    """Measure a saved student anew, with intervals."""
    from whytune import pipeline, run_folder

    cards = store.plain(run_folder.by_task(pipeline.evaluate(run, on, Progress())))
    if as_json:
        shown.json_line(cards)
    else:
        shown.cards("", cards)


@app.command()
def predict(
    run: options.Judge,
    file: options.Data,
    out: options.Judged = None,
    text: options.TextColumn = None,
    messages: options.MessagesColumn = None,
    task: options.AskedTasks = None,
    explain: options.Explain = False,
    abstain_below: options.AbstainBelow = None,
    batch_size: options.BatchSize = 16,
    base: options.BaseModel = None,
    as_json: options.AsJson = False,
) -> None:
    """Judge every row of a file; goes on where it stopped."""
    from whytune import judge_file

    how = judge_file.How(
        text=text, messages=messages, tasks=task, explain=explain, abstain_below=abstain_below,
        batch_size=batch_size, base=base,
    )  # fmt: skip
    found = judge_file.predict(run, file, out, how, Progress())
    shown.predicted(found)
    if as_json:
        shown.json_line(found)


@app.command()
def check(
    recipe: options.RecipePath,
    page: options.Page = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Lint data, show what is supervised in real lessons, audit labels, estimate the work."""
    from whytune.study import check as checks

    findings = checks.check(recipe_file.load(recipe, overrides or ()), Progress(), page)
    for found in findings:
        shown.findings(found)
    # What is wrong with a corpus is found with each of its tasks.
    faults = list(dict.fromkeys(fault for found in findings for fault in found.faults))
    if as_json:
        shown.json_line({"faults": faults, "findings": findings})
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201
    raise typer.Exit(2 if faults else 0)


@app.command()
def init(
    table: options.Data,
    output: options.Proposed = None,
    model: options.Model = "smollm2-135m",
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Look at a table of labelled texts and propose a recipe for it."""
    from whytune.propose import propose

    found = propose(table, output, model=model, force=force)
    for line in found.saw:
        shown.line(f"saw {line}")
    for line in found.unsure:
        shown.line(f"unsure: {line}")
    shown.line(f"wrote {found.recipe}; read it, then: whytune check {found.recipe}")
    if as_json:
        shown.json_line({**store.plain(found), "recipe": str(found.recipe)})


@app.command()
def annotate(
    recipe: options.RecipePath,
    dry_run: options.DryRun = False,
    limit: options.Limit = None,
    budget: options.Budget = None,
    resume: options.Resuming = options.Resume.AUTO,
    on: options.OnCluster = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask the teachers; goes on where it stopped, and asks nothing twice."""
    from whytune import asking, forecast
    from whytune.study import cluster

    plan = recipe_file.load(recipe, overrides or ())
    if dry_run:
        shown.forecast(forecast.plan(plan, limit=limit), as_json)
        return
    started = time.perf_counter()
    ask = asking.ask if on is None else partial(cluster.ask, on=on)
    found = ask(plan, Progress(), limit=limit, budget=budget, resume=resume.value)
    shown.asked(found)
    if as_json:
        shown.json_line({"journal": plan.journal, "teachers": found,
                     "whole": all(one.whole for one in found),
                     "seconds": time.perf_counter() - started})  # fmt: skip
    raise typer.Exit(0 if all(one.whole for one in found) else 1)


@app.command()
def arms(
    recipe: options.RecipePath, overrides: options.Overrides = None, as_json: options.AsJson = False
) -> None:
    """What every arm will take, in tokens, operations and time, before anything runs."""
    from whytune.study import loads

    found = loads.costs(recipe_file.load(recipe, overrides or ()), Progress())
    shown.arms(found)
    if as_json:
        shown.json_line({**store.plain(found), "seconds": found.seconds})


@app.command()
def explain(
    recipe: options.RecipePath,
    limit: options.LimitTaught = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Teach the recipe's generator, and let it say why each label is right; asks nothing twice."""
    from whytune import explaining

    found = explaining.explain(recipe_file.load(recipe, overrides or ()), Progress(), limit)
    shown.explained(found)
    if as_json:
        shown.json_line(found)


@app.command()
def merge(
    recipe: options.RecipePath,
    out: options.Out = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Merge the teachers' replies into verdicts and say how far they agree (without torch)."""
    from whytune import run_folder
    from whytune.material import merged, not_asked
    from whytune.study import merging

    plan = recipe_file.load(recipe, overrides or ())
    folder = out or _default_folder(plan)
    found = merged(plan, unasked=True)
    answered = merging.answered(found)
    run_folder.claim(folder, plan)
    results = merging.write(folder, plan, answered)
    for row, material in zip(results, answered.values(), strict=True):
        shown.merged(row, not_asked(material))
    for corpus, task in [key for key in found if key not in answered]:
        shown.line(f"{corpus}, {task}: nobody has answered yet")
    shown.line(f"tables: {folder / 'tables'}")
    if as_json:
        shown.json_line({"merged": results})


@app.command()
def compare(
    folders: options.RunsOrStudies,
    base: options.Base = None,
    metric: options.Metrics = None,
    draws: options.Draws = 2000,
    out: options.OutAlso = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare finished runs and studies on the examples that all of them answered."""
    from whytune.study import comparing

    found = comparing.compare(folders, base=base, metrics=metric or (), draws=draws)
    page = comparing.write(found, out) if out else None
    shown.compared(found)
    if page:
        shown.line(f"page: {page}")
    if as_json:
        shown.json_line(comparing.facts(found))


@app.command()
def analyze(
    folders: options.Analyzed,
    recipe: options.AskedBy = None,
    examples: options.ReadOn = None,
    explanation: options.ReadExplanation = False,
    along: options.ReadAlong = None,
    norm: options.ReadNorm = None,
    weights_only: options.WeightsOnly = False,
    out: options.InsideOut = None,
    as_json: options.AsJson = False,
) -> None:
    """Look inside students: entropy and token rank by block, weight changes by projection."""
    from whytune.study import inside

    asked = {"examples": examples, "explanation": explanation or None, "along": along, "norm": norm}
    found = inside.analyze(
        folders, {name: value for name, value in asked.items() if value is not None},
        out or inside.default_folder(folders), Progress(),
        recipe=recipe_file.load(recipe) if recipe else None, answers=not weights_only,
    )  # fmt: skip
    for line in [*found["sentences"], *found["notes"]]:
        shown.line(line)
    shown.line(f"page: {found['page']}")
    if as_json:
        shown.json_line(found)


@app.command()
def report(
    folder: options.Study, examples: options.Examples = True, as_json: options.AsJson = False
) -> None:
    """Write the tables, figures and page of a study anew."""
    from whytune.study import report as reports

    path = reports.build(folder, examples=examples)
    if as_json:
        shown.json_line({"report": str(path)})
    else:
        shown.line(str(path))


@app.command()
def recipe(as_json: options.AsJson = False) -> None:
    """Every knob of a recipe with its default and meaning."""
    rows = list(recipes.knobs())
    if as_json:
        shown.json_line({"knobs": [dict(zip(("name", "default", "meaning"), r, strict=True))
                               for r in rows]})  # fmt: skip
        return
    for name, default, meaning in rows:
        shown.line(Text.assemble((name, "bold"), f" = {default}" if default else ""))
        shown.line(Text(f"    {meaning}"))


def _default_folder(plan: recipes.Recipe) -> Path:
    return Path("studies") / plan.name
