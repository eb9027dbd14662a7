"""Whether a folder holds a given cell, and what differs where it holds another one.

The digest in `run.json` decides. What differs is told from what lies beside it: the resolved
recipe, the sums of the files read, and a fingerprint of every example.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from whytune import recipe_file, run_folder, store
from whytune.errors import FolderError, RecipeError
from whytune.material import Material
from whytune.recipe import Recipe, digest
from whytune.recipe_student import Train
from whytune.run_folder import Cell

FINGERPRINTS = "fingerprints.json"
"""In a run folder: `fingerprints`."""
NAMED = 3
"""Changed runs, and differences of each, that a message names before it counts."""
_DATA = ("teachers", "merge", "merger", "lessons", "generator")
"""Knobs that show in what is taught or measured alone."""
_NONE = "nothing"


class State(StrEnum):
    """How far a cell is."""

    FINISHED = "finished"
    STARTED = "goes on"
    TO_DO = "to do"
    CHANGED = "changed"
    """Its folder is that of another recipe or of other data."""


Places = Mapping[Cell, tuple[Sequence[Material], Path]]
"""Cell -> its materials, one a task, and the folder of its run."""


def state(recipe: Recipe, cell: Cell, materials: Sequence[Material], folder: Path) -> State:
    """How far a cell is, as its folder says.

    Raises:
        FolderError: its `run.json` cannot be read.
    """
    if not (folder / "run.json").exists():
        return State.TO_DO
    facts = store.read_json(folder / "run.json")
    if facts.get("digest") != run_folder.cell_digest(recipe, cell, materials):
        return State.CHANGED
    return State.FINISHED if facts.get("state") == "finished" else State.STARTED


def states(recipe: Recipe, places: Places) -> dict[Cell, State]:
    """How far each cell is.

    Raises:
        FolderError: folders of other recipes or other data; the first few with what differs.
    """
    found = {cell: state(recipe, cell, *place) for cell, place in places.items()}
    changed = [cell for cell, own in found.items() if own is State.CHANGED]
    lines = [_refusal(recipe, cell, *places[cell]) for cell in changed[:NAMED]]
    if len(changed) > NAMED:
        lines.append(f"and {len(changed) - NAMED} more of {len(places)} runs; `whytune study RECIPE "
                     "--dry-run` names them all")  # fmt: skip
    if lines:
        raise FolderError("\n".join(lines))
    return found


def finished(recipe: Recipe, cell: Cell, materials: Sequence[Material], folder: Path) -> bool:
    """Whether this very cell stands complete in `folder`.

    Raises:
        FolderError: the folder is of another recipe or other data.
    """
    return states(recipe, {cell: (materials, folder)})[cell] is State.FINISHED


def _refusal(recipe: Recipe, cell: Cell, materials: Sequence[Material], folder: Path) -> str:
    told = changes(recipe, cell, materials, folder)
    more = f"; and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return (f"{folder}: made by another recipe or from other data; choose another --out, or delete "
            f"the folder ({'; '.join(told[:NAMED])}{more})")  # fmt: skip


def changes(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], folder: Path
) -> tuple[str, ...]:
    """What differs between a cell and the run of another digest that lies in its folder.

    Args:
        recipe: as it is now.
        cell: as it is now.
        materials: one for each of its tasks.
        folder: of the run; runs of versions that wrote no fingerprints say less.

    Returns:
        A phrase for each difference (`train.learning_rate: 0.001 there, 0.0005 here`): of the
        student, of the knobs that it depends on, of its examples, of the files read. Never empty.

    Raises:
        FolderError: a file of the run cannot be read.
    """
    facts = store.read_json(folder / "run.json")
    data = [*_examples(cell, materials, folder, facts), *_files(materials[0], facts)]
    names = ("corpus", "task", "arm", "seed")
    student = _differences({name: facts.get(name) for name in names},
                           {name: getattr(cell, name) for name in names})  # fmt: skip
    told = (*student, *_knobs(recipe, cell, folder, bool(data)), *data)
    versions = facts.get("versions", {}).get("whytune"), store.provenance()["versions"]["whytune"]
    return told or (
        "nothing that the run says of itself: texts that are neither taught nor measured, or the "
        f"version of whytune, {versions[0]} there, {versions[1]} here",
    )


def _knobs(recipe: Recipe, cell: Cell, folder: Path, data: bool) -> list[str]:
    try:
        there = recipe_file.load(folder / "recipe.yaml")
    except RecipeError as error:
        return [f"its own recipe cannot be read: {' '.join(str(error).split())}"]
    arms = [cell.arm, *recipe.arms[cell.arm].matched.values()]
    return _differences(_told(there, cell, arms, data), _told(recipe, cell, arms, data))


def _told(recipe: Recipe, cell: Cell, arms: Sequence[str], data: bool) -> dict[str, Any]:
    """The knobs that a cell depends on; with `data`, those that show in its examples, too."""
    tree = recipe.model_dump(mode="json")
    kept = {
        "model": recipe.model,
        "prompt": tree["prompt"],
        "train": recipe.train.effective(),
        "predict": run_folder.asking(recipe),
        "arms": {name: tree["arms"].get(name, _NONE) for name in arms},
    }
    if data:
        tasks = {task.name: store.plain(task) for task in recipe.resolved_tasks()}
        kept |= {
            "corpora": {cell.corpus: tree["corpora"].get(cell.corpus, _NONE)},
            "tasks": {name: tasks.get(name, _NONE) for name in cell.tasks},
            **{name: tree[name] for name in _DATA},
        }
    return kept


def settings(recipe: Recipe, cell: Cell, train: Train) -> dict[str, Any]:
    """Dotted knob -> value, of all that a cell depends on beside its data.

    Args:
        recipe: of the study.
        cell: which student.
        train: its own training, where its arm is matched to another.
    """
    student = {"corpus": cell.corpus, "task": cell.task, "seed": cell.seed}
    told = _told(recipe, cell, [cell.arm], data=False)
    return {**student, **_leaves({**told, "train": train.effective()})}


def fingerprints(cell: Cell, materials: Sequence[Material]) -> dict[str, Any]:
    """What a cell is taught on and measured against, by example and without its words.

    Returns:
        `lessons` or `references` -> task -> example id -> 12 hex digits of the SHA-256 of its text
        and of what is taught about it, or of what its answers are measured against.
    """
    turns = {e.id: store.plain(e.turns) for e in materials[0].corpus.examples}
    lessons: dict[str, dict[str, str]] = {}
    for material in materials:
        taught: dict[str, list[Any]] = {}
        for lesson in material.lessons(cell.arm, cell.seed):
            own = [lesson.label, lesson.layout, lesson.explanation]
            taught.setdefault(lesson.example.id, []).append(own)
        lessons[material.task.name] = {i: digest([turns[i], own])[:12] for i, own in taught.items()}
    references = {
        material.task.name: {i: digest([turns[i], store.plain(reference)])[:12]
                             for i, reference in material.references.items()}
        for material in materials
    }  # fmt: skip
    return {"lessons": lessons, "references": references}


def _examples(
    cell: Cell, materials: Sequence[Material], folder: Path, facts: Mapping[str, Any]
) -> Iterator[str]:
    if not (folder / FINGERPRINTS).exists():
        yield from _sums(cell, materials, facts)
        return
    before = store.read_json(folder / FINGERPRINTS)
    for part, tasks in fingerprints(cell, materials).items():
        for task, here in tasks.items():
            there = before[part].get(task, {})
            both = there.keys() & here.keys()
            counts = {f"of {len(both)} changed": sum(there[i] != here[i] for i in both),
                      "gone": len(there.keys() - here.keys()),
                      "new": len(here.keys() - there.keys())}  # fmt: skip
            if said := ", ".join(f"{count} {what}" for what, count in counts.items() if count):
                yield f"{part} of {task}: {said}"


def _sums(cell: Cell, materials: Sequence[Material], facts: Mapping[str, Any]) -> Iterator[str]:
    """The same from the sums that every run has: which parts differ, not in how many examples."""
    sums = {"examples_sha256": "lessons", "test_sha256": "test examples"}
    for task, here in run_folder.identity(cell, materials)["tasks"].items():
        there = facts.get("tasks", {}).get(task, facts)  # 0.1.0 wrote one task bare
        for name, what in sums.items():
            if there.get(name) != here[name]:
                counts = f" ({there.get('lessons')} there, {here['lessons']} here)"
                yield f"{what} of {task}: others{counts if what == 'lessons' else ''}"


def _files(material: Material, facts: Mapping[str, Any]) -> Iterator[str]:
    there, here = facts.get("inputs", {}), material.corpus.inputs
    for name in dict.fromkeys((*there, *here)):
        if there.get(name) != here.get(name):
            sums = (str(one.get(name, _NONE))[:12] for one in (there, here))
            yield f"file {name}: SHA-256 {' there, '.join(sums)} here"


def _differences(there: Any, here: Any) -> list[str]:
    """`name: value there, value here` for every leaf of two trees that is not the same."""
    before, now = _leaves(there), _leaves(here)
    return [
        f"{name}: {_shown(before.get(name, _NONE))} there, {_shown(now.get(name, _NONE))} here"
        for name in dict.fromkeys((*before, *now))
        if before.get(name, _NONE) != now.get(name, _NONE)
    ]


def _leaves(tree: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {place: tree}
    return {
        name: leaf
        for key, below in tree.items()
        for name, leaf in _leaves(below, f"{place}.{key}".lstrip(".")).items()
    }


def _shown(value: Any) -> str:
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{said[:57]}…" if len(said) > 58 else said
