"""Inside students: how sure they are after every block, where labels rank there, and which weights
their teaching moved; arms side by side.

Sections 5.4 and 5.5 of arXiv 2511.02044 (Tables 5 and 6, Figures 12 to 65), with intervals over
examples and seeds, tests corrected for the number of blocks, and what two seeds of one arm differ by
as the measure of what is chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune import recipe_file, store
from whytune.errors import FolderError, ModelError
from whytune.material import gather
from whytune.progress import Progress
from whytune.recipe import Inside, Recipe
from whytune.run_folder import Cell
from whytune.study import (
    inside_page,
    inside_reading,
    inside_rows,
    inside_who,
    inside_words,
    report,
)
from whytune.study.inside_figures import UNTAUGHT
from whytune.study.inside_who import Cohort, Setting
from whytune.study.stored import Record
from whytune.study.summary import Materials

DRAWS = 1000
"""For intervals of adapters that no recipe speaks of."""


def of_study(
    recipe: Recipe, cells: Sequence[Cell], materials: Materials, folder: Path, show: Progress
) -> dict[str, Any]:
    """Look inside every student of a finished study; writes `inside.json` into its folder.

    Raises:
        WhytuneError: as `analyze`.
    """
    settings = inside_who.of_study(recipe, cells, materials, folder)
    return _analyzed(settings, recipe.inside or Inside(), folder, show)


def analyze(
    paths: Sequence[Path], changed: Mapping[str, Any], out: Path, show: Progress,
    *, recipe: Recipe | None = None, answers: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Look inside finished students, or adapters that were trained elsewhere.

    What is read stands beside each run and is not read twice; what it comes to is written to `out`:
    `inside.json`, `tables/`, `figures/`, and `inside.html` with `inside.md`, or where `out` is a
    study its own page anew.

    Args:
        paths: one study; one or two runs; one or two PEFT folders (`inside_who.of_paths`).
        changed: knobs of `recipe.Inside`; the others are those of the study's or run's recipe.
        out: folder.
        show: how long it takes.
        recipe: what adapters that were trained elsewhere are asked.
        answers: off, only weights are looked at, without loading a model.

    Returns:
        What `inside.json` holds, and `page`.

    Raises:
        FolderError: a folder that is not there, or not finished.
        InputError: folders that cannot be looked at together.
        ModelError: an adapter that cannot be read, or does not fit its base.
    """
    if len(paths) == 1 and (paths[0] / "summary.json").exists():
        settings = _study(paths[0])
    else:
        settings = inside_who.of_paths(paths, recipe, out)
    recipes = [c.recipe for s in settings for c in s.cohorts.values() if c.recipe]
    how = ((recipes and recipes[0].inside) or Inside()).model_copy(update=changed)
    found = _analyzed(settings, how, out, show, answers=answers)
    whole = (out / "summary.json").exists()
    return {**found, "page": str(report.build(out) if whole else inside_page.build(out))}


def default_folder(paths: Sequence[Path]) -> Path:
    """Where `analyze` writes unless told otherwise: into a study, else below `inside/`."""
    if len(paths) == 1 and (paths[0] / "summary.json").exists():
        return paths[0]
    return Path("inside") / "--and--".join(path.resolve().name for path in paths)


def _study(folder: Path) -> list[Setting]:
    recipe = recipe_file.load(folder / "recipe.yaml")
    materials = gather(recipe, stand_in=True)
    cells = []
    for path in sorted((folder / "runs").glob("*/run.json")):
        facts = store.read_json(path)
        if facts.get("state") == "finished" and facts["arm"] in recipe.arms:
            cells.append(Cell(corpus=facts["corpus"], tasks=tuple(facts["task"].split("+")),
                              arm=facts["arm"], seed=facts["seed"]))  # fmt: skip
    if not cells:
        raise FolderError(f"{folder}: found no finished run, expected those of a study; finish it "
                          "with `whytune study`")  # fmt: skip
    order = list(recipe.arms)
    cells.sort(key=lambda cell: (cell.corpus, cell.task, order.index(cell.arm), cell.seed))
    return inside_who.of_study(recipe, cells, materials, folder)


def _analyzed(
    settings: Sequence[Setting], how: Inside, out: Path, show: Progress, *, answers: bool = True
) -> dict[str, Any]:
    rows: dict[str, list[Record]] = {name: [] for name in inside_page.LISTS}
    notes = []
    for setting in settings:
        if setting.weighed:
            inside_reading.weigh(setting)
            notes += _add(rows, "weights of", setting, _weights(setting))
        if answers and setting.materials:
            notes += inside_reading.read(setting, how, show)
            notes += _add(rows, "answers on", setting, _answers(setting, how))
    if answers and not any(setting.materials for setting in settings):
        notes.append("Only weights were looked at: adapters that were trained elsewhere are asked "
                     "what --recipe says, and none was given.")  # fmt: skip
    found = {
        **store.provenance(), "how": how.model_dump(mode="json"),
        "settings": [_told(setting) for setting in settings],
        "sentences": list(inside_words.sentences(rows)), "notes": list(dict.fromkeys(notes)), **rows,
    }  # fmt: skip
    store.write_json(out / inside_page.NAME, found)
    return found


def _add(
    rows: Mapping[str, list[Record]], what: str, setting: Setting,
    found: Iterator[tuple[str, Iterator[Record]]],
) -> list[str]:  # fmt: skip
    """Take up rows by the list that they belong to; what cannot be compared becomes a note."""
    try:
        for name, own in found:
            rows[name].extend(own)
    except ModelError as error:
        return [f"{what} {setting.name or 'adapters'}: {error}"]
    return []


def _told(setting: Setting) -> Record:
    return {
        "corpus": setting.corpus, "tasks": [task.name for task in setting.tasks],
        "examples": len(setting.examples), "pairs": [list(pair) for pair in setting.pairs],
        "arms": [{"arm": name, "layout": cohort.layout,
                  "seeds": [member.seed for member in cohort.members]}
                 for name, cohort in setting.cohorts.items()],
    }  # fmt: skip


def _answers(setting: Setting, how: Inside) -> Iterator[tuple[str, Iterator[Record]]]:
    draws = _draws(setting)
    for task in setting.tasks:
        at = {"corpus": setting.corpus, "task": task.name}
        read = {name: own for name, cohort in setting.cohorts.items()
                if not cohort.head and (own := inside_rows.read(cohort, task)) is not None}  # fmt: skip
        for name, own in read.items():
            place = {**at, "arm": name, "seeds": len(own.seeds), "n": len(own.ids)}
            yield "levels", inside_rows.levels(own, place, draws)
            yield "decisions", inside_rows.decisions(own, place, draws)
            yield "ranks", inside_rows.ranked(own, task, place)
            cohort = setting.cohorts[name]
            yield "spoken", inside_rows.spoken(cohort, task, {**at, "arm": name})
            yield "along_levels", _along(cohort, task, {**at, "arm": name}, how)
        bases = (inside_rows.read(setting.cohorts[name], task, base=True) for name in read)
        base = next((one for one in bases if one is not None), None)
        if base is not None:
            place = {**at, "arm": UNTAUGHT, "seeds": 0, "n": len(base.ids)}
            yield "levels", inside_rows.levels(base, place, draws)
            yield "ranks", inside_rows.ranked(base, task, place)
        for one, other in setting.pairs:
            if {one, other} <= read.keys() and (seeds := read[one].common(read[other])):
                place = {
                    **at,
                    "base": one,
                    "arm": other,
                    "n": len(read[one].ids),
                    "seeds": len(seeds),
                }
                sides = read[one].of(seeds), read[other].of(seeds)
                yield "differences", inside_rows.differences(*sides, place, draws)
                yield "table6", inside_rows.table6(*sides, place, draws)
                yield "decisions_apart", inside_rows.decisions_apart(*sides, place, draws)


def _draws(setting: Setting) -> int:
    recipes = [cohort.recipe for cohort in setting.cohorts.values() if cohort.recipe]
    return recipes[0].evidence.bootstrap if recipes else DRAWS


def _along(cohort: Cohort, task: Any, place: Record, how: Inside) -> Iterator[Record]:
    """Means by block at every adapter that was kept while students were taught."""
    steps = sorted({step for member in cohort.members for step in member.moments})
    for step in steps if how.along else ():
        then = Cohort(arm=cohort.arm, members=[
            inside_who.Member(seed=m.seed, adapter=m.moments[step], place=m.moments[step])
            for m in cohort.members if step in m.moments
        ])  # fmt: skip
        own = inside_rows.read(then, task)
        if own is not None:
            for figure in ("entropy", "label_entropy", "gold_prob"):
                means = own.figures[figure].mean(axis=(0, 1)) if own.figures[figure].size else ()
                for block, value in enumerate(means):
                    yield {**place, "step": step, "figure": figure, "block": block,
                           "value": float(value)}  # fmt: skip


def _weights(setting: Setting) -> Iterator[tuple[str, Iterator[Record]]]:
    from whytune.evidence import adapters, deltas

    at = {"corpus": setting.corpus, "task": "+".join(task.name for task in setting.tasks)}
    opened = {name: {m.seed: adapters.read(m.adapter) for m in cohort.members}
              for name, cohort in setting.cohorts.items()}  # fmt: skip
    for name, cohort in setting.cohorts.items():
        place = {**at, "arm": name}
        yield "changes", inside_rows.weights(inside_rows.changes(cohort), place)
        own = list(opened[name].values())
        if len(own) > 1:
            # What is left when nothing differs but the start and the order of the lessons.
            pairs = deltas.paired(own[:-1], own[1:])
            yield "table5", inside_rows.table5(pairs, {**at, "base": name, "arm": name})
    for one, other in setting.pairs:
        seeds = sorted(opened[one].keys() & opened[other].keys())
        if not seeds:
            seeds_of = [list(opened[name]) for name in (one, other)]
            raise ModelError(f"{one} has seeds {seeds_of[0]}, {other} {seeds_of[1]}, expected a "
                             "common one; teach both with the same seeds")  # fmt: skip
        found = deltas.paired([opened[one][s] for s in seeds], [opened[other][s] for s in seeds])
        place = {**at, "base": one, "arm": other}
        yield "weights", inside_rows.weights(found, place)
        yield "table5", inside_rows.table5(found, place)
        yield "along_weights", _grown(setting.cohorts[one], setting.cohorts[other], place)


def _grown(base: Cohort, arm: Cohort, place: Record) -> Iterator[Record]:
    """Table 5 at every step that both trainings kept."""
    from whytune.evidence import deltas

    both = [(one, other) for one in base.members for other in arm.members
            if one.seed == other.seed and one.moments.keys() & other.moments.keys()]  # fmt: skip
    by_step: dict[int, list[Any]] = {}
    for one, other in both:
        for step, found in deltas.along(one.moments, other.moments).items():
            by_step.setdefault(step, []).append(found)
    for step, seeds in sorted(by_step.items()):
        yield from inside_rows.table5(seeds, {**place, "step": step})
