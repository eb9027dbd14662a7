"""Finished students on parts of corpora that are not their own test part."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from whytune import pipeline, recipe_file, run_folder, store, taught
from whytune.errors import FolderError, ModelError, RecipeError
from whytune.material import Material, gather
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.records import Outcome, Split
from whytune.run_folder import Cell
from whytune.student import models
from whytune.study import elsewhere, grid

RECIPE = """
name: elsewhere
model: {model}
matrix: true
corpora:
  arena: {{loader: starter, sources: [arena], train: 6, validation: 4, test: 8}}
  reading: {{loader: starter, sources: [reading], train: 6, test: 8}}
tasks: [naturalness]
arms:
  label: {{explanation: none}}
  head: {{explanation: none, head: true}}
  why: {{explanation: assessment, words: 5, system: "You judge."}}
prompt: {{context_turns: 0, max_length: 256, system: ""}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 1, per_device_train_batch_size: 2}}
predict: {{per_device_eval_batch_size: 4, explanations: 1, max_new_tokens: 4}}
evidence: {{bootstrap: 100}}
"""
QUIET = Progress(quiet=True)
Materials = dict[tuple[str, str], Material]


@dataclass
class Listening(Progress):
    """Remembers what was worked on."""

    titles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(quiet=True)

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        self.titles.append(title)
        with super().work(title, total) as advance:
            yield advance


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path) -> Recipe:
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="e.yaml")


@pytest.fixture(scope="module")
def materials(recipe: Recipe) -> Materials:
    return gather(recipe)


@pytest.fixture(scope="module")
def cells(recipe: Recipe, materials: Materials) -> list[Cell]:
    return grid.cells(recipe, grid.teaching(materials))


@pytest.fixture(scope="module")
def runs(
    recipe: Recipe, materials: Materials, cells: list[Cell],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A folder with the finished students."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for cell in cells:
        own = [materials[cell.corpus, task] for task in cell.tasks]
        pipeline.run(recipe, cell, own, folder / "runs" / cell.id, QUIET)
    return folder


@pytest.fixture
def study(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs, tmp_path / "study")
    return tmp_path / "study"


def other(cell: Cell) -> str:
    return "reading" if cell.corpus == "arena" else "arena"


def test_answers_are_those_of_evaluate_which_loads_everything_anew(
    recipe: Recipe, materials: Materials, cells: list[Cell], study: Path
) -> None:
    wanted = [(cell, other(cell), Split.TEST) for cell in cells]
    elsewhere.answer(recipe, wanted, materials, study, QUIET)
    for cell, corpus, split in wanted:
        expected = pipeline.evaluate(study / "runs" / cell.id, corpus, QUIET)["naturalness"]
        found = elsewhere.read(study, cell, corpus, split)
        material = materials[corpus, "naturalness"]
        assert [p.example_id for p in found] == [e.id for e in material.part(Split.TEST)]
        assert store.plain(run_folder.scorecard(found, material, recipe)) == store.plain(expected)
        place = elsewhere.part_folder(study, cell, corpus, split)
        assert store.read_json(place / "scorecard.json") == store.plain(expected)


def test_the_base_is_as_it_was_after_every_student(
    recipe: Recipe, materials: Materials, cells: list[Cell], study: Path
) -> None:
    base = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    config = base.model.config.to_dict()
    material = materials["arena", "naturalness"]

    def asked(student: models.Student) -> list[dict[str, float]]:
        found = pipeline.ask(recipe, student, material.part(Split.TEST), [material.task],
                             run_folder.layout(cells[0], [material]), QUIET, "")  # fmt: skip
        return [dict(p.log_probs) for p in found["naturalness"]]

    alone = asked(base)
    answers = []
    for cell in [*cells, cells[0]]:
        with elsewhere.attached(
            recipe, cell.arm, base, study / "runs" / cell.id / "adapter"
        ) as student:
            answers.append(asked(student))
        after = base.model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert base.model.config.to_dict() == config
        for one, then in zip(alone, asked(base), strict=True):
            assert then == pytest.approx(one, abs=1e-5)
    assert answers[0] == answers[-1]  # whoever was attached in between
    assert len({json.dumps(one) for one in answers}) == len(cells)
    fresh = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
    fresh = models.attach(fresh, study / "runs" / cells[-1].id / "adapter")
    assert asked(taught.prompted(fresh, recipe, cells[-1].arm, asked=True)) == answers[-2]


def test_what_stands_there_is_not_asked_again(
    recipe: Recipe, materials: Materials, cells: list[Cell], study: Path
) -> None:
    wanted = [(cell, other(cell), Split.TEST) for cell in cells]
    first = Listening()
    elsewhere.answer(recipe, wanted[:3], materials, study, first)
    assert first.titles == [f"{cell.id} on {corpus}--test" for cell, corpus, _ in wanted[:3]]
    then = Listening()
    elsewhere.answer(recipe, wanted, materials, study, then)
    assert then.titles == [f"{cell.id} on {corpus}--test" for cell, corpus, _ in wanted[3:]]
    # Half a folder has no mark.
    cell, corpus, split = wanted[1]
    (elsewhere.part_folder(study, cell, corpus, split) / "digest.json").unlink()
    # Another reference is another measurement, of all students on this corpus.
    changed = materials["arena", "naturalness"]
    example = changed.part(Split.TEST)[0]
    reference = replace(changed.references[example.id], score=0.123)
    changed = replace(changed, references={**changed.references, example.id: reference})
    again = Listening()
    elsewhere.answer(recipe, wanted, {**materials, ("arena", "naturalness"): changed}, study, again)
    assert again.titles == [
        f"{one.id} on {where}--test" for one, where, _ in wanted if where == "arena" or one == cell
    ]
    quiet = Listening()
    elsewhere.answer(recipe, wanted, {**materials, ("arena", "naturalness"): changed}, study, quiet)
    assert quiet.titles == []


def test_the_validation_part_of_its_own_corpus(
    recipe: Recipe, materials: Materials, cells: list[Cell], study: Path
) -> None:
    cell = cells[1]
    elsewhere.answer(recipe, [(cell, "arena", Split.VALIDATION)], materials, study, QUIET)
    found = elsewhere.read(study, cell, "arena", Split.VALIDATION)
    part = materials["arena", "naturalness"].part(Split.VALIDATION)
    assert [p.example_id for p in found] == [e.id for e in part]
    assert len(part) == 4
    assert {p.outcome for p in found} == {Outcome.READ}
    place = elsewhere.part_folder(study, cell, "arena", Split.VALIDATION)
    assert store.read_json(place / "scorecard.json")["reference"] == "verdict"


def test_what_cannot_be_asked(
    recipe: Recipe, materials: Materials, cells: list[Cell], study: Path
) -> None:
    cell = cells[0]

    def refused(error: type[Exception], match: str, corpus: str = "reading", **of: Any) -> None:
        split = of.get("split", Split.TEST)
        with pytest.raises(error, match=match):
            elsewhere.answer(recipe, [(cell, corpus, split)], materials, study, QUIET)

    refused(RecipeError, "corpora.reading has no validation part .*set corpora.reading.validation",
            split=Split.VALIDATION)  # fmt: skip
    refused(RecipeError, "corpora.nowhere has no test part", "nowhere")
    with pytest.raises(FolderError, match=r"predictions.parquet: cannot be read"):
        elsewhere.read(study, cell, "reading", Split.TEST)
    adapter = study / "runs" / cell.id / "adapter" / "whytune.json"
    told = store.read_json(adapter)
    store.write_json(adapter, {**told, "base_digest": "0" * 64})
    refused(ModelError, "was taught on other weights")
    store.write_json(adapter, told)
    facts = study / "runs" / cell.id / "run.json"
    store.write_json(facts, {**store.read_json(facts), "state": "started"})
    refused(FolderError, "its training is not finished; run its study again")
    facts.unlink()
    refused(FolderError, "run.json: not there")
