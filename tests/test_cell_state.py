import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whytune import cell_state, pipeline, recipe_file, run_folder, store
from whytune.cell_state import State
from whytune.errors import FolderError
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.run_folder import Cell
from whytune.study import grid

RECIPE = """
name: tiny
model: {model}
corpora: {{starter: {{train: 8, validation: 4, test: 12}}}}
tasks: [naturalness]
arms:
  label: {{explanation: none}}
  why: {{explanation: assessment, words: 10}}
  as-long: {{explanation: none, tokens_of: why}}
seeds: [0, 1]
prompt: {{max_length: 400}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 1, per_device_train_batch_size: 4}}
predict: {{explanations: 0, max_new_tokens: 4}}
evidence: {{bootstrap: 100, baselines: []}}
"""
QUIET = Progress(quiet=True)


def cell(arm: str = "why", seed: int = 0) -> Cell:
    return Cell(corpus="starter", tasks=("naturalness",), arm=arm, seed=seed)


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path) -> Recipe:
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="tiny.yaml")


@pytest.fixture(scope="module")
def material(recipe: Recipe) -> Material:
    return gather(recipe)["starter", "naturalness"]


@pytest.fixture(scope="module")
def run(recipe: Recipe, material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "runs" / cell().id
    pipeline.run(recipe, cell(), [material], folder, QUIET)
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run once more, to be spoiled."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def changed(recipe: Recipe, group: str, **settings: Any) -> Recipe:
    return recipe.model_copy(update={group: getattr(recipe, group).model_copy(update=settings)})


def with_arm(recipe: Recipe, arm: str, **settings: Any) -> Recipe:
    own = recipe.arms[arm].model_copy(update=settings)
    return recipe.model_copy(update={"arms": {**recipe.arms, arm: own}})


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_cell_is_as_far_as_its_folder_says(
    recipe: Recipe, material: Material, run: Path, copied: Path, tmp_path: Path
) -> None:
    def state(recipe: Recipe, folder: Path) -> State:
        return cell_state.state(recipe, cell(), [material], folder)

    assert state(recipe, run) is State.FINISHED
    assert state(recipe, tmp_path / "none") is State.TO_DO
    assert state(changed(recipe, "train", learning_rate=0.5), run) is State.CHANGED
    rewrite(copied / "run.json", lambda facts: facts.update(state="started"))
    assert state(recipe, copied) is State.STARTED


@pytest.mark.parametrize(
    ("group", "settings", "told"),
    [
        ("train", {"learning_rate": 0.02}, "train.learning_rate: 0.01 there, 0.02 here"),
        ("train", {"eval_steps": 3}, "train.eval_steps: null there, 3 here"),
        ("prompt", {"system": "Judge."}, "prompt.system: null there, Judge. here"),
        ("predict", {"max_new_tokens": 5}, "predict.max_new_tokens: 4 there, 5 here"),
    ],
)
def test_a_changed_knob_is_named_with_both_values(
    group: str, settings: dict[str, Any], told: str, recipe: Recipe, material: Material, run: Path
) -> None:
    now = changed(recipe, group, **settings)
    assert cell_state.changes(now, cell(), [material], run) == (told,)
    with pytest.raises(FolderError) as refused:
        cell_state.finished(now, cell(), [material], run)
    assert str(refused.value) == (
        f"{run}: made by another recipe or from other data; choose another --out, or delete the "
        f"folder ({told})"
    )


def test_knobs_that_change_no_student_are_not_named(
    recipe: Recipe, material: Material, run: Path
) -> None:
    same = changed(recipe, "train", keep_adapters=True, report_to=["tensorboard"])
    assert cell_state.finished(same, cell(), [material], run)
    both = changed(same, "predict", per_device_eval_batch_size=1, max_new_tokens=5)
    told = cell_state.changes(both, cell(), [material], run)
    assert told == ("predict.max_new_tokens: 4 there, 5 here",)


def test_the_model_is_named(recipe: Recipe, material: Material, run: Path) -> None:
    now = recipe.model_copy(update={"model": "owner/other"})
    (told,) = cell_state.changes(now, cell(), [material], run)
    assert told.startswith("model: /")
    assert told.endswith(" there, owner/other here")


def test_an_arm_is_named_with_what_it_changes(
    recipe: Recipe, material: Material, run: Path
) -> None:
    now = with_arm(recipe, "why", label_weight=2.0)
    told = cell_state.changes(now, cell(), [material], run)
    assert told == ("arms.why.label_weight: 1.0 there, 2.0 here",)
    shorter = with_arm(recipe, "why", words=1)
    other = replace(material, arms=shorter.arms)
    told = cell_state.changes(shorter, cell(), [other], run)
    assert told == ("arms.why.words: 10 there, 1 here", "lessons of naturalness: 8 of 8 changed")


def test_the_arm_that_another_is_matched_to_is_named(
    recipe: Recipe, material: Material, copied: Path
) -> None:
    """Only the folder's own facts are compared, so those of another arm's run will do."""
    rewrite(copied / "run.json", lambda facts: facts.update(arm="as-long"))
    own = cell_state.fingerprints(cell("as-long"), [material])
    store.write_json(copied / cell_state.FINGERPRINTS, own)
    now = with_arm(recipe, "why", label_weight=2.0)
    told = cell_state.changes(now, cell("as-long"), [material], copied)
    assert told == ("arms.why.label_weight: 1.0 there, 2.0 here",)


def test_another_student_is_named(recipe: Recipe, material: Material, run: Path) -> None:
    told = cell_state.changes(recipe, cell("label", seed=1), [material], run)
    assert told[:2] == ("arm: why there, label here", "seed: 0 there, 1 here")


def test_changed_examples_are_counted(recipe: Recipe, material: Material, run: Path) -> None:
    _, second, *rest = material.told
    said = replace(second, verdict=replace(second.verdict, assessment="Because."))
    (gone, moved, *_) = (i for i in material.references)
    label = material.references[moved].label
    other = next(name for name in material.task.label_names if name != label)
    references = {i: r for i, r in material.references.items() if i != gone}
    references[moved] = replace(references[moved], label=other)
    references["new"] = references[moved]
    # A new reference is about a text of the corpus.
    about = replace(material.corpus.examples[0], id="new")
    corpus = replace(material.corpus, examples=(*material.corpus.examples, about))
    now = replace(material, told=(said, *rest), references=references, corpus=corpus)
    assert cell_state.changes(recipe, cell(), [now], run) == (
        "lessons of naturalness: 1 of 7 changed, 1 gone",
        f"references of naturalness: 1 of {len(references) - 1} changed, 1 gone, 1 new",
    )


def test_other_files_and_the_knobs_of_data_are_named_beside_them(recipe: Recipe, run: Path) -> None:
    corpus = recipe.corpora["starter"].model_copy(update={"train": 6, "seed": 1})
    now = recipe.model_copy(update={"corpora": {"starter": corpus}})
    material = gather(now)["starter", "naturalness"]
    (name, _), *_ = material.corpus.inputs.items()
    files = {**material.corpus.inputs, name: "f" * 64}
    material = replace(material, corpus=replace(material.corpus, inputs=files))
    told = cell_state.changes(now, cell(), [material], run)
    assert told[:2] == (
        "corpora.starter.train: 8 there, 6 here", "corpora.starter.seed: 0 there, 1 here",
    )  # fmt: skip
    assert told[2].startswith("lessons of naturalness: ")
    assert told[-1].startswith(f"file {name}: SHA-256 ")
    assert told[-1].endswith(" there, ffffffffffff here")


def test_a_run_without_fingerprints_says_which_part_differs(
    recipe: Recipe, material: Material, copied: Path
) -> None:
    """As versions before them left it, one task bare."""
    (copied / cell_state.FINGERPRINTS).unlink()
    now = replace(material, told=material.told[1:])
    lessons = "lessons of naturalness: others (8 there, 7 here)"
    assert cell_state.changes(recipe, cell(), [now], copied) == (lessons,)
    rewrite(copied / "run.json", lambda facts: facts.pop("tasks"))
    assert cell_state.changes(recipe, cell(), [now], copied) == (lessons,)


def test_a_recipe_of_the_future_and_an_unknown_digest_are_told(
    recipe: Recipe, material: Material, copied: Path
) -> None:
    rewrite(copied / "run.json", lambda facts: facts.update(digest="0" * 64))
    (told,) = cell_state.changes(recipe, cell(), [material], copied)
    assert told.startswith("nothing that the run says of itself")
    (copied / "recipe.yaml").write_text("name: tiny\nfrom_tomorrow: 1\n", encoding="utf-8")
    (told,) = cell_state.changes(recipe, cell(), [material], copied)
    assert "its own recipe cannot be read" in told
    assert "from_tomorrow: no such setting" in told


def test_all_changed_runs_are_told_before_anything_begins(
    recipe: Recipe, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    store.write_text(folder / "recipe.yaml", "name: tiny\n")
    for arm in recipe.arms:
        for seed in (0, 1):
            place = folder / "runs" / cell(arm, seed).id
            shutil.copytree(run, place)
            rewrite(place / "run.json", lambda f, arm=arm, seed=seed: f.update(arm=arm, seed=seed))  # type: ignore[misc]
    shutil.rmtree(folder / "runs" / cell("label").id)
    now = changed(recipe, "train", learning_rate=0.02)
    with pytest.raises(FolderError) as refused:
        grid.study(now, folder, QUIET)
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    named = [cell("why"), cell("as-long"), cell("label", 1)]
    for own, line in zip(named, lines, strict=False):
        assert line.startswith(f"{folder / 'runs' / own.id}: made by another recipe")
        assert "train.learning_rate: 0.01 there, 0.02 here" in line
    assert lines[3].startswith("and 2 more of 6 runs; `whytune study RECIPE --dry-run`")
    assert not (folder / "runs" / cell("label").id).exists()


def test_few_differences_are_named_and_the_others_counted(
    recipe: Recipe, material: Material, run: Path
) -> None:
    now = changed(recipe, "train", learning_rate=0.02, weight_decay=0.1, lora_r=8, eval_steps=1)
    with pytest.raises(FolderError, match=r"[^;]*(; [^;]*){3}; and 1 more\)$"):
        cell_state.finished(now, cell(), [material], run)


def test_the_digest_and_the_fingerprints_change_together(
    recipe: Recipe, material: Material
) -> None:
    prints = cell_state.fingerprints(cell(), [material])
    assert len(prints["lessons"]["naturalness"]) == 8
    assert prints["references"]["naturalness"].keys() == material.references.keys()
    lines = (r for part in prints.values() for own in part.values() for r in own.values())
    assert {len(line) for line in lines} == {12}
    # A text that says something else is another lesson.
    first = material.told[0].example.id
    examples = tuple(
        replace(e, turns=(replace(e.turns[0], text="x"), *e.turns[1:])) if e.id == first else e
        for e in material.corpus.examples
    )
    other = replace(material, corpus=replace(material.corpus, examples=examples))
    after = cell_state.fingerprints(cell(), [other])["lessons"]["naturalness"]
    before = prints["lessons"]["naturalness"]
    assert [i for i in before if before[i] != after[i]] == [first]
    assert run_folder.cell_digest(recipe, cell(), [other]) != run_folder.cell_digest(
        recipe, cell(), [material]
    )
