"""Whose inside is looked at: the arms of a study, one or two finished runs with the other seeds of
theirs, or adapters that were trained elsewhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whytune import recipe_file, run_folder, store
from whytune.errors import FolderError, InputError
from whytune.material import Material, gather, together
from whytune.recipe import Recipe
from whytune.records import Example, Layout, Split, Task
from whytune.run_folder import Cell
from whytune.study import contrasts
from whytune.study.summary import Materials

_CONFIG = "adapter_config.json"
"""Marks a PEFT folder."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""How Hugging Face's trainer names what it saves on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One student."""

    seed: int
    """Of foreign adapters the number of its folder."""
    adapter: Path
    """PEFT folder."""
    place: Path
    """Where what is read about it stands: its run, or a folder of its own."""
    moments: Mapping[int, Path] = field(default_factory=dict)
    """Update -> PEFT folder of the adapter as it stood then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """One arm: the same teaching with one or more seeds."""

    arm: str
    members: Sequence[Member]
    recipe: Recipe | None = None
    """How its students are asked; without it they are not."""
    layout: Layout = Layout.LABEL
    head: bool = False
    """Answers by a head, so that there are no words to read at a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Arms that are held against each other."""

    corpus: str
    tasks: tuple[Task, ...]
    cohorts: Mapping[str, Cohort]
    """By arm."""
    pairs: Sequence[tuple[str, str]]
    """(base, arm)"""
    materials: Sequence[Material] = ()
    """What the students are asked about, one for each task; without any, nothing is asked."""
    examples: Sequence[Example] = ()
    """Those of them that no student here was taught."""
    weighed: bool = True
    """Whether the weights are looked at; once is enough for adapters that are asked in several
    settings."""

    @property
    def name(self) -> str:
        """Corpus and tasks in one word; empty for weights alone."""
        return "--".join(filter(None, (self.corpus, "+".join(t.name for t in self.tasks))))


def of_study(
    recipe: Recipe, cells: Sequence[Cell], materials: Materials, folder: Path
) -> list[Setting]:
    """The arms of a study, in pairs as the study compares them.

    Args:
        recipe: of the study.
        cells: its students, all finished.
        materials: of the study.
        folder: of the study.
    """
    found: dict[tuple[str, tuple[str, ...]], dict[str, list[Cell]]] = {}
    for cell in cells:
        found.setdefault((cell.corpus, cell.tasks), {}).setdefault(cell.arm, []).append(cell)
    settings = []
    for (corpus, tasks), by_arm in found.items():
        own = [materials[corpus, task] for task in tasks]
        cohorts = {arm: _cohort(recipe, of_arm, own, folder) for arm, of_arm in by_arm.items()}
        settings.append(Setting(
            corpus=corpus, tasks=tuple(m.task for m in own), cohorts=cohorts,
            pairs=[pair for pair in contrasts.pairs(recipe.arms) if {*pair} <= cohorts.keys()],
            materials=own, examples=together(own, Split.TEST),
        ))  # fmt: skip
    return settings


def _cohort(
    recipe: Recipe, cells: Sequence[Cell], materials: Sequence[Material], folder: Path
) -> Cohort:
    arm = cells[0].arm
    return Cohort(
        arm=arm, recipe=recipe, layout=run_folder.layout(cells[0], materials), head=recipe.arms[arm].head,
        members=[_member(folder / "runs" / c.id, c.seed)
                 for c in sorted(cells, key=lambda c: c.seed)],
    )  # fmt: skip


def _member(run: Path, seed: int) -> Member:
    return Member(seed=seed, adapter=run / "adapter", place=run, moments=run_folder.moments(run))


def of_paths(paths: Sequence[Path], recipe: Recipe | None, out: Path) -> list[Setting]:
    """One or two finished runs, or PEFT folders.

    A run brings the other seeds of its arm that stand beside it. A folder of PEFT folders is one
    arm: those named `checkpoint-<update>`, as Hugging Face's trainer saves, are moments of one
    training, any others its seeds, in the order of their names.

    Args:
        paths: one, or two that are held against each other: base, then arm.
        recipe: what adapters that were trained elsewhere are asked; without it only their weights
            are looked at. Runs have their own.
        out: what is read about adapters that were trained elsewhere goes there.

    Raises:
        FolderError: a folder that is not there, not finished, or holds no adapter.
        InputError: more than two, or a run beside an adapter that was trained elsewhere.
    """
    if len(paths) > 2:
        raise InputError(f"found {len(paths)} folders, expected one, or two that are compared")
    for path in paths:
        if not path.is_dir():
            raise FolderError(f"{path}: no such folder; expected a study, a run or a PEFT folder")
    runs = [(path / "run.json").exists() for path in paths]
    if all(runs):
        return _of_runs(paths)
    if any(runs):
        raise InputError(
            f"{', '.join(map(str, paths))}: found a run and an adapter trained elsewhere; give the "
            "run's adapter folder, and --recipe for what they are asked"
        )
    names = [path.resolve().name for path in paths]
    if len({*names}) < len(names):
        names = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in paths]
    cohorts = {
        name: Cohort(arm=name, members=_foreign(path, out / "read" / str(number)), recipe=recipe)
        for number, (name, path) in enumerate(zip(names, paths, strict=True), 1)
    }
    pairs = [(names[0], names[1])] if len(names) > 1 else []
    weights = Setting(corpus="", tasks=(), cohorts=cohorts, pairs=pairs)
    return [weights, *(_asked(recipe, cohorts, pairs) if recipe else ())]


def _asked(
    recipe: Recipe, cohorts: Mapping[str, Cohort], pairs: Sequence[tuple[str, str]]
) -> Iterator[Setting]:
    by_corpus: dict[str, list[Material]] = {}
    for (corpus, _), material in gather(recipe, stand_in=True).items():
        by_corpus.setdefault(corpus, []).append(material)
    for corpus, own in by_corpus.items():
        yield Setting(corpus=corpus, tasks=tuple(m.task for m in own), cohorts=cohorts, pairs=pairs,
                      materials=own, examples=together(own, Split.TEST), weighed=False)  # fmt: skip


def _foreign(path: Path, place: Path) -> list[Member]:
    inner = sorted(p for p in path.iterdir() if (p / _CONFIG).is_file())
    steps = {int(found[1]): p for p in inner if (found := _CHECKPOINT.fullmatch(p.name))}
    if (path / _CONFIG).is_file():
        return [Member(seed=0, adapter=path, place=place, moments=steps)]
    if steps:
        return [Member(seed=0, adapter=steps[max(steps)], place=place, moments=steps)]
    if not inner:
        raise FolderError(
            f"{path}: found neither run.json nor {_CONFIG}, expected a finished run, a PEFT folder, "
            "or a folder of PEFT folders; correct the path"
        )
    return [Member(seed=seed, adapter=own, place=place / str(seed))
            for seed, own in enumerate(inner)]  # fmt: skip


def _of_runs(paths: Sequence[Path]) -> list[Setting]:
    """One setting for both runs where they are about the same; else one for each, and one for the
    weights of both.
    """
    told = [_finished(path) for path in paths]
    same_arm = len({facts["arm"] for facts in told}) < len(told)
    about: dict[tuple[str, str], dict[str, Path]] = {}
    cohorts = {}
    for path, facts in zip(paths, told, strict=True):
        name = path.resolve().name if same_arm else facts["arm"]
        about.setdefault((facts["corpus"], facts["task"]), {})[name] = path
        cohorts[name] = Cohort(
            arm=facts["arm"], recipe=recipe_file.load(path / "recipe.yaml"),
            layout=Layout(facts["layout"]), head=_has_head(path),
            members=list(_siblings(path, facts, alone=same_arm)),
        )  # fmt: skip
    names = list(cohorts)
    pairs = [(names[0], names[1])] if len(names) > 1 else []
    found = []
    for (corpus, tasks), own in about.items():
        materials = _materials(cohorts[next(iter(own))].recipe, corpus, tasks)
        # Another study may have taught what this one tests on.
        tested = [{p.example_id for p in store.read_predictions(path / "predictions.parquet")[0]}
                  for path in own.values()]  # fmt: skip
        found.append(Setting(
            corpus=corpus, tasks=tuple(m.task for m in materials), materials=materials,
            cohorts={name: cohorts[name] for name in own}, weighed=len(about) == 1,
            examples=[e for e in together(materials, Split.TEST)
                      if all(e.id in ids for ids in tested)],
            pairs=pairs if len(about) == 1 else [],
        ))  # fmt: skip
    if len(about) > 1:
        # Taught on other data: their weights can be compared, their answers cannot.
        found.append(Setting(corpus="", tasks=(), cohorts=cohorts, pairs=pairs))
    return found


def _materials(recipe: Recipe | None, corpus: str, tasks: str) -> list[Material]:
    assert recipe is not None
    gathered = gather(recipe, stand_in=True)
    return [gathered[corpus, task] for task in tasks.split("+")]


def _finished(path: Path) -> dict[str, str]:
    facts = store.read_json(path / "run.json")
    if facts.get("state") != "finished":
        raise FolderError(f"{path}: its training is not finished; run its study again first")
    return dict(facts)


def _has_head(path: Path) -> bool:
    return "head" in store.read_json(path / "adapter" / "whytune.json")


def _siblings(path: Path, facts: Mapping[str, str], *, alone: bool) -> Iterator[Member]:
    """The finished runs beside one that differ from it in the seed alone, itself among them."""
    own = f"{facts['corpus']}--{facts['task']}--{facts['arm']}--s"
    beside = path.resolve().parent.glob(f"{own}*")
    folders = [path.resolve()] if alone or not path.resolve().name.startswith(own) else [*beside]
    members = []
    for folder in folders:
        told = store.read_json(folder / "run.json")
        if told.get("state") == "finished":
            members.append(_member(folder, int(told["seed"])))
    yield from sorted(members, key=lambda member: member.seed)
