"""What finished students answer about parts of corpora that are not their own test part.

A matrix asks them about the test parts of other corpora, calibration about the validation part of
their own. Answers stand beside the run, under `elsewhere/`; what stands there is not asked again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from whytune import pipeline, run_folder, store, taught
from whytune.errors import FolderError, ModelError, RecipeError
from whytune.material import Material, together
from whytune.progress import Progress
from whytune.recipe import Recipe, digest
from whytune.records import Example, Prediction, Split
from whytune.run_folder import Cell

if TYPE_CHECKING:
    from whytune.student.models import Student


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One student and what it is asked about."""

    cell: Cell
    materials: Sequence[Material]
    """Of the corpus, one for each of the student's tasks that it has answers to."""
    split: Split
    place: Path

    @property
    def examples(self) -> tuple[Example, ...]:
        return together(self.materials, self.split)


def part_folder(folder: Path, cell: Cell, corpus: str, split: Split) -> Path:
    """Where a student's answers about a part of a corpus stand in a study."""
    return folder / "runs" / cell.id / "elsewhere" / f"{corpus}--{split}"


def read(folder: Path, cell: Cell, corpus: str, split: Split) -> list[Prediction]:
    """What a student answered about a part of a corpus, task after task.

    Raises:
        FolderError: it was not asked.
    """
    return store.read_predictions(part_folder(folder, cell, corpus, split) / "predictions.parquet")[
        0
    ]


def answer(
    recipe: Recipe, wanted: Sequence[tuple[Cell, str, Split]],
    materials: Mapping[tuple[str, str], Material], folder: Path, show: Progress,
) -> None:  # fmt: skip
    """Let finished students answer, with the base model loaded once for all of them.

    Writes for each `runs/<cell>/elsewhere/<corpus>--<split>/` with `predictions.parquet`,
    `scorecard.json` and `digest.json`. Calling again goes on where it stopped.

    Args:
        recipe: of the study.
        wanted: (student, corpus, part) each; students without a finished run are an error.
        materials: of the study.
        folder: of the study.
        show: how long it takes.

    Raises:
        FolderError: a run that is not finished.
        RecipeError: a part without an example that one of the student's tasks has answers to.
        ModelError: the base model is not the one that an adapter was taught on.
    """
    missing: dict[Cell, list[_Part]] = {}
    for part in _parts(wanted, materials, folder):
        if not _there(part, folder):
            missing.setdefault(part.cell, []).append(part)
    if not missing:
        return
    pipeline.require_torch()
    from whytune.student import models

    base = models.load(models.find(recipe.model, log=show.say), recipe.prompt, recipe.train)
    for cell, parts in missing.items():
        adapter = folder / "runs" / cell.id / "adapter"
        with attached(recipe, cell.arm, base, adapter) as student:
            for part in parts:
                _ask(recipe, part, student, folder, show)


def _parts(
    wanted: Sequence[tuple[Cell, str, Split]], materials: Mapping[tuple[str, str], Material],
    folder: Path,
) -> Iterator[_Part]:  # fmt: skip
    for cell, corpus, split in wanted:
        own = [materials[corpus, task] for task in cell.tasks if (corpus, task) in materials]
        if split is not Split.TEST:  # only there do people's words count
            own = [replace(material, reference="verdict") for material in own]
        place = part_folder(folder, cell, corpus, split)
        part = _Part(cell=cell, materials=own, split=split, place=place)
        if not own or not part.examples:
            raise RecipeError(
                f"{cell.id}: corpora.{corpus} has no {split} part with answers to "
                f"{', '.join(cell.tasks)}, so it cannot be asked about it; set "
                f"corpora.{corpus}.{split}, or give a corpus that has"
            )
        yield part


def _there(part: _Part, folder: Path) -> bool:
    mark = part.place / "digest.json"
    return mark.exists() and store.read_json(mark) == _digest(part, folder)


def _digest(part: _Part, folder: Path) -> str:
    """Changes with anything that these answers, or their figures, depend on."""
    run = folder / "runs" / part.cell.id
    facts = store.read_json(run / "run.json")
    if facts.get("state") != "finished":
        raise FolderError(
            f"{run}: its training is not finished; run its study again, which goes on from there"
        )
    return digest([
        facts["digest"],  # model, lessons, training, and how answers are asked for
        [[e.id, e.group, store.plain(e.turns)] for e in part.examples],
        [[m.task.name, {e.id: store.plain(m.references[e.id]) for e in m.part(part.split)}]
         for m in part.materials],
    ])  # fmt: skip


@contextmanager
def attached(recipe: Recipe, arm: str, base: "Student", adapter: Path) -> "Iterator[Student]":
    """A student of a study, as it is asked, until the block ends, which leaves the base as it was.

    Args:
        recipe: of the study.
        arm: of the student.
        base: as `models.load` gives it.
        adapter: a PEFT folder; whytune's own say which base they were taught on.

    Raises:
        ModelError: another base than that one, or no adapter that fits on it.
    """
    from transformers import PreTrainedModel

    from whytune.student import models

    facts = adapter / "whytune.json"
    if facts.exists() and store.read_json(facts)["base_digest"] != base.base.digest:
        raise ModelError(
            f"{adapter}: was taught on other weights of {recipe.model}; get those, or run the "
            "study anew in another folder"
        )
    model = base.model
    assert isinstance(model, PreTrainedModel)
    # A label head takes the output layer's place and changes how its logits are read.
    outputs, config = model.get_output_embeddings(), dict(vars(model.config))
    student = models.attach(base, adapter)
    try:
        yield taught.prompted(student, recipe, arm, asked=True)
    finally:
        student.adapted.unload()
        model.set_output_embeddings(outputs)
        vars(model.config).update(config)


def _ask(recipe: Recipe, part: _Part, student: "Student", folder: Path, show: Progress) -> None:
    cell, materials = part.cell, part.materials
    # All tasks are asked, as in its own study: a prompt that is cut is cut by the longest question.
    tasks = [task for task in recipe.resolved_tasks() if task.name in cell.tasks]
    found = pipeline.ask(
        recipe, student, part.examples, tasks, run_folder.layout(cell, materials), show,
        f"{cell.id} on {part.place.name}",
    )  # fmt: skip
    # Should this end halfway, no mark may stand beside other answers than its own.
    (part.place / "digest.json").unlink(missing_ok=True)
    run_folder.record(part.place, pipeline.referenced(found, materials), materials, recipe)
    store.write_json(part.place / "digest.json", _digest(part, folder))
