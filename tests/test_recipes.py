"""The recipes that come with whytune: each is sound, and runs where its data is at hand."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from whytune import asking, explaining, recipe_file
from whytune.material import gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Split
from whytune.study import grid
from whytune.teaching.requests import Request
from whytune.teaching.teachers import Function

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
STYLES = ("arena", "helpful", "support", "products", "reading", "dialogue")
BUNDLED = {
    "starter-arms": [
        *["corpora.starter.train=40", "corpora.starter.test=6"],
        *["generator.corpora.starter.train=6", "generator.corpora.starter.test=4"],
        *["generator.train.num_train_epochs=1", "generator.max_new_tokens=4"],
        "train.per_device_train_batch_size=20",
    ],
    "own-table": ["corpora.tickets.train=8"],
    "starter-matrix": [
        *[f"corpora.{style}.{part}=6" for style in STYLES for part in ("train", "test")],
        *["corpora.mixed.train=6", "corpora.mixed.test=6", "train.layers_to_transform=null"],
        "train.per_device_train_batch_size=6",
    ],
    "starter-raters": ["corpora.starter.train=8", "corpora.starter.test=6"],
    "starter-three-tasks": ["corpora.starter.train=8", "corpora.starter.test=6"],
}
ASKING = {
    "local-teacher": ["corpora.starter.train=8", "corpora.starter.test=6"],
    "teachers": ["corpora.starter.train=8", "corpora.starter.test=6"],
}
"""Those with teachers, for whom a function answers here."""
QUICK = ["train.num_train_epochs=1", "seeds=[0]", "prompt.max_length=256", "predict.explanations=1",
         "predict.max_new_tokens=4", "evidence.bootstrap=100"]  # fmt: skip


def test_every_recipe_is_known_here() -> None:
    assert [path.stem for path in RECIPES] == sorted(
        [
            *BUNDLED,
            *ASKING,
            "arms-esnli",
            "feedbackqa-baselines",
            "feedbackqa-small",
            "two-stage-emotion",
        ]
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_sound_and_explains_itself(path: Path) -> None:
    recipe = recipe_file.load(path)
    assert recipe.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", BUNDLED)
def test_a_recipe_runs(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    overrides = [f"model={tiny_folder}", *QUICK, *BUNDLED[name], f"reasons={tmp_path}/reasons"]
    _runs(recipe_file.load(FOLDER / f"{name}.yaml", overrides), tmp_path)


@pytest.mark.parametrize("name", ASKING)
def test_a_recipe_asks_and_runs(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    overrides = [f"model={tiny_folder}", *QUICK, *ASKING[name], f"journal={tmp_path / 'journal'}"]
    recipe = recipe_file.load(FOLDER / f"{name}.yaml", overrides)
    asked = asking.ask(recipe, Progress(quiet=True),
                       teachers={name: Function(_reply) for name in recipe.teachers})  # fmt: skip
    assert all(one.outcomes == {"read": one.questions} for one in asked)
    _runs(recipe, tmp_path)


def _reply(request: Request) -> str:
    """Keeps to the schema; all say nearly the same of one example."""
    assert request.schema is not None
    drawn = int(hashlib.sha256(request.example_id.encode()).hexdigest(), 16) % 100 / 100
    return json.dumps({
        name: form["enum"][int(drawn * len(form["enum"]))] if "enum" in form else f"{name} {drawn}"
        for name, form in request.schema["properties"].items()
    })  # fmt: skip


def _runs(recipe: Recipe, folder: Path) -> None:
    summary = grid.study(recipe, folder / recipe.name, Progress(quiet=True))
    assert Path(summary["report"]).is_file()
    arms = [row for row in summary["rows"] if row["role"] == "arm"]
    assert [(row["corpus"], row["task"], row["name"]) for row in arms] == [
        (corpus, task.name, arm)
        for corpus in recipe.corpora
        for task in recipe.resolved_tasks()
        for arm in recipe.arms
    ]
    assert {row["scorecard"]["n"] for row in arms} == {row["scorecard"]["n"] for row in arms[:1]}


def test_stage_one_of_the_two_stage_recipe_runs(tiny_folder: Path, tmp_path: Path) -> None:
    small = ["corpora.emotion.train=12", "corpora.emotion.test=8",
             "generator.corpora.flan_cot.train=8", "generator.corpora.flan_cot.test=4",
             "generator.max_new_tokens=4", "generator.train.layers_to_transform=null"]  # fmt: skip
    recipe = recipe_file.load(
        FOLDER / "two-stage-emotion.yaml",
        [f"model={tiny_folder}", f"reasons={tmp_path / 'reasons'}", *small],
    )
    assert recipe.generator is not None
    for spec in (*recipe.corpora.values(), *recipe.generator.corpora.values()):
        if not Path(spec.path or "").exists():
            pytest.skip(f"{spec.path} is not here; docs/corpora.md says how to get it")
    found = explaining.explain(recipe, Progress(quiet=True))
    assert [(row.corpus, row.reasons, row.written) for row in found.counts] == [("emotion", 12, 12)]


def test_the_arms_of_the_starter_recipe_say_different_things() -> None:
    recipe = recipe_file.load(FOLDER / "starter-three-tasks.yaml")
    for material in gather(recipe).values():
        said = {
            (str(own[0].layout), *(lesson.explanation for lesson in own))
            for own in [material.lessons(arm, 0) for arm in recipe.arms]
        }
        assert len(said) == len(recipe.arms) == 5


def test_the_table_has_every_label_in_both_parts() -> None:
    with (FOLDER / "own-table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert all(row["ticket"] and row["reason"] for row in rows)
    recipe = recipe_file.load(FOLDER / "own-table.yaml")
    (material,) = gather(recipe).values()
    names = set(material.task.label_names)
    assert {lesson.label for lesson in material.lessons("why", 0)} == names
    held_out = material.part(Split.TEST)
    assert {material.references[example.id].label for example in held_out} == names
    assert len(held_out) + len(material.lessons("why", 0)) == 24
