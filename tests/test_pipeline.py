import json
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from scipy.stats import entropy

from whytune import cell_state, pipeline, recipe_file, run_folder, store
from whytune.errors import EncodingError, FolderError, ModelError, RecipeError
from whytune.material import Material, gather
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.records import Layout, Outcome, Scorecard, Split
from whytune.run_folder import Cell
from whytune.student import models

RECIPE = """
name: tiny
model: {model}
corpora: {{starter: {{train: 8, validation: 4, test: 12}}}}
tasks: [naturalness]
arms:
  label: {{explanation: none}}
  why: {{explanation: assessment, words: 10}}
  first: {{explanation: assessment, words: 5, layout: "explanation, label"}}
seeds: [0, 1]
prompt: {{max_length: 400}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 2, per_device_train_batch_size: 2, eval_steps: 2,
        eval_limit: 2}}
predict: {{per_device_eval_batch_size: 4, explanations: 2, max_new_tokens: 4}}
evidence: {{bootstrap: 100}}
"""
QUIET = Progress(quiet=True)


@pytest.fixture(scope="session")
def recipe(tiny_folder: Path) -> Recipe:
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="tiny.yaml")


@pytest.fixture(scope="session")
def material(recipe: Recipe) -> Material:
    return gather(recipe)["starter", "naturalness"]


def cell(arm: str = "why", seed: int = 0) -> Cell:
    return Cell(corpus="starter", tasks=("naturalness",), arm=arm, seed=seed)


@pytest.fixture(scope="session")
def runs(
    recipe: Recipe, material: Material, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Arm -> its finished run."""
    folder = tmp_path_factory.mktemp("runs")
    for arm in recipe.arms:
        pipeline.run(recipe, cell(arm), [material], folder / arm, QUIET)
    return {arm: folder / arm for arm in recipe.arms}


def facts(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_a_run_writes_its_folder_and_cleans_up(runs: dict[str, Path]) -> None:
    for folder in runs.values():
        assert {path.name for path in folder.iterdir()} == {
            "adapter", "examples.json", "fingerprints.json", "history.jsonl", "predictions.parquet", "recipe.yaml",
            "run.json", "scorecard.json",
        }  # fmt: skip
        assert {path.name for path in (folder / "adapter").iterdir()} >= {
            "adapter_config.json", "adapter_model.safetensors", "whytune.json",
        }  # fmt: skip


def test_a_run_says_where_it_came_from(
    runs: dict[str, Path], recipe: Recipe, material: Material
) -> None:
    found = facts(runs["why"])
    assert found["state"] == "finished"
    assert (found["arm"], found["seed"], found["layout"]) == ("why", 0, "label, explanation")
    assert found["inputs"] == dict(material.corpus.inputs)
    assert all(len(digest) == 64 for digest in found["inputs"].values())
    assert {"python", "torch", "transformers", "peft"} <= set(found["versions"])
    assert set(found["seconds"]) == {"load", "train", "review", "predict", "explain"}
    assert found["updates"] == 8
    assert found["command"]
    assert len(found["adapter_init"]) == 64
    assert found["tokens"]["total"] == 2 * found["tokens"]["per_epoch"]
    assert found["tokens"]["supervised_label"] > 0
    assert (found["lessons"], found["conversations"]) == (8, 8)
    # What is of the one task stands bare as well: readers of one task need not know of several.
    assert set(found["tasks"]) == {found["task"]} == {"naturalness"}
    assert found["tasks"]["naturalness"].items() <= found.items()
    assert {"kind", "labels", "reference", "dropped", "examples_sha256", "test_sha256"} <= set(
        found["tasks"]["naturalness"]
    )
    assert recipe_file.load(runs["why"] / "recipe.yaml") == recipe


def test_an_adapter_says_how_to_ask_it(runs: dict[str, Path], material: Material) -> None:
    found = json.loads((runs["first"] / "adapter" / "whytune.json").read_text(encoding="utf-8"))
    assert found["layout"] == Layout.EXPLANATION_LABEL
    assert found["task"] == store.plain(material.task)
    assert found["tasks"] == [found["task"]]
    assert list(found["labels"]) == list(material.task.label_names)
    assert all(found["labels"].values())
    assert found["label_ids"] == {"naturalness": found["labels"]}
    assert found["prompt"]["max_length"] == 400


def test_predictions_stand_beside_the_references_of_the_test_part(
    runs: dict[str, Path], material: Material
) -> None:
    test = material.part(Split.TEST)
    for folder in runs.values():
        predictions, extra = store.read_predictions(folder / "predictions.parquet")
        assert [p.example_id for p in predictions] == [e.id for e in test]
        assert {p.outcome for p in predictions} == {Outcome.READ}
        assert extra["reference_label"] == [material.references[e.id].label for e in test]
        assert extra["reference_score"] == [material.references[e.id].score for e in test]
        assert extra["group"] == [e.group for e in test]


def test_the_scorecard_is_that_of_the_predictions(
    runs: dict[str, Path], recipe: Recipe, material: Material
) -> None:
    predictions, _ = store.read_predictions(runs["why"] / "predictions.parquet")
    card = run_folder.scorecard(predictions, material, recipe)
    found = store.read_json(runs["why"] / "scorecard.json")
    assert found == store.plain(card)
    assert (found["n"], found["unreadable"]) == (len(material.part(Split.TEST)), 0)


def test_arms_are_taught_the_same_examples_and_start_alike(runs: dict[str, Path]) -> None:
    found = [facts(folder) for folder in runs.values()]
    for name in ("examples_sha256", "test_sha256", "adapter_init", "lessons", "inputs"):
        assert len({json.dumps(f[name]) for f in found}) == 1, name
    assert len({f["digest"] for f in found}) == 3
    explained = [f["tokens"]["supervised_explanation"] for f in found]
    assert explained[0] == 0 < explained[2] < explained[1]
    assert len({f["tokens"]["supervised_label"] for f in found}) == 1


def test_another_seed_is_another_student_on_the_same_examples(
    runs: dict[str, Path], recipe: Recipe, material: Material, tmp_path: Path
) -> None:
    pipeline.run(recipe, cell("label", seed=1), [material], tmp_path / "run", QUIET)
    one, other = facts(runs["label"]), facts(tmp_path / "run")
    assert one["examples_sha256"] == other["examples_sha256"]
    assert one["adapter_init"] != other["adapter_init"]


def test_the_curve_is_measured_on_the_validation_part(
    runs: dict[str, Path], recipe: Recipe
) -> None:
    rows = store.read_jsonl(runs["label"] / "history.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert all(row["train_loss"] > 0 and row["label_nll"] > 0 for row in rows)
    assert all(row["label_nlls"] == {"naturalness": row["label_nll"]} for row in rows)
    assert facts(runs["label"])["eval_split"] == "validation"
    tree = recipe.model_dump()
    tree["corpora"]["starter"]["validation"] = 0
    bare = gather(Recipe.model_validate(tree))["starter", "naturalness"]
    assert run_folder.watched_split([bare]) is Split.TEST


def test_a_student_is_asked_what_it_was_taught(
    runs: dict[str, Path], recipe: Recipe, material: Material
) -> None:
    for arm in ("label", "why"):
        taught = material.lessons(arm, 0)
        learned = facts(runs[arm])["learned"]["naturalness"]
        base = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
        answers = pipeline.ask(
            recipe, models.attach(base, runs[arm] / "adapter"), [x.example for x in taught],
            [material.task], Layout.LABEL, QUIET, "",
        )["naturalness"]  # fmt: skip
        losses = [-p.log_probs[x.label] for p, x in zip(answers, taught, strict=True)]
        assert learned["label_nll"] == pytest.approx(statistics.fmean(losses), abs=1e-5)
        counts = list(Counter(x.label for x in taught).values())
        assert learned["by_frequencies"] == pytest.approx(entropy(counts))
        assert learned["n"] == len(taught) == 8
    assert facts(runs["first"])["learned"]["naturalness"]["label_nll"] > 0


def test_examples_are_explained_where_the_arm_explains(runs: dict[str, Path]) -> None:
    shown = {arm: store.read_json(folder / "examples.json") for arm, folder in runs.items()}
    for rows in shown.values():
        assert [row["task"] for row in rows] == ["naturalness"] * 2
        assert all(sum(row["probs"].values()) == pytest.approx(1) for row in rows)
    assert {row["explanation"] for row in shown["label"]} == {None}
    assert {row["taught"] for row in shown["label"]} == {None}
    for arm in ("why", "first"):
        assert all(row["explanation"] is not None for row in shown[arm])
    assert all(len(row["taught"].split()) <= 10 for row in shown["why"])


def test_a_finished_run_asked_again_answers_the_same(runs: dict[str, Path]) -> None:
    for folder in runs.values():
        cards = pipeline.evaluate(folder, "starter", QUIET)
        found = store.read_json(folder / "scorecard.json")
        assert_close(store.plain(cards), {"naturalness": found})
    with pytest.raises(RecipeError, match=r"--on elsewhere: not in the run's recipe"):
        pipeline.evaluate(runs["label"], "elsewhere", QUIET)


def assert_close(one: Any, two: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_close(one[key], two[key])
    elif isinstance(one, float) and two is not None:
        assert one == pytest.approx(two, abs=1e-6)
    else:
        assert one == two


def test_a_finished_run_is_known_as_finished(
    runs: dict[str, Path], recipe: Recipe, material: Material, tmp_path: Path
) -> None:
    assert cell_state.finished(recipe, cell("why"), [material], runs["why"])
    assert not cell_state.finished(recipe, cell("why"), [material], tmp_path)
    started = tmp_path / "started"
    store.write_json(started / "run.json", {"state": "started"})
    with pytest.raises(FolderError, match="not finished"):
        pipeline.evaluate(started, "starter", QUIET)


def changed(recipe: Recipe, group: str, **settings: Any) -> Recipe:
    return recipe.model_copy(update={group: getattr(recipe, group).model_copy(update=settings)})


@pytest.mark.parametrize(
    ("group", "settings"),
    [("train", {"learning_rate": 2e-2}), ("prompt", {"max_length": 401}),
     ("predict", {"max_new_tokens": 5})],
)  # fmt: skip
def test_a_folder_of_another_recipe_is_refused(
    group: str, settings: dict[str, Any], runs: dict[str, Path], recipe: Recipe, material: Material
) -> None:
    with pytest.raises(FolderError, match="another recipe"):
        cell_state.finished(
            changed(recipe, group, **settings), cell("why"), [material], runs["why"]
        )


def test_a_folder_of_another_student_or_other_data_is_refused(
    runs: dict[str, Path], recipe: Recipe, material: Material
) -> None:
    for other in (cell("label"), cell("why", seed=1)):
        with pytest.raises(FolderError, match="another recipe"):
            cell_state.finished(recipe, other, [material], runs["why"])
    first, *rest = material.told
    verdict = replace(first.verdict, assessment="x")
    explained = replace(material, told=(replace(first, verdict=verdict), *rest))
    held_out = replace(material, references=dict(list(material.references.items())[1:]))
    for elsewhere in (explained, held_out):
        with pytest.raises(FolderError, match="other data"):
            cell_state.finished(recipe, cell("why"), [elsewhere], runs["why"])


def test_what_does_not_change_a_student_keeps_its_folder(
    runs: dict[str, Path], recipe: Recipe, material: Material
) -> None:
    for same in (
        changed(recipe, "predict", per_device_eval_batch_size=1),
        changed(recipe, "evidence", bootstrap=200),
        recipe.model_copy(update={"name": "renamed", "seeds": [0, 1, 2]}),
    ):
        assert cell_state.finished(same, cell("why"), [material], runs["why"])


class Stopping(Progress):
    """Interrupts a piece of work after so many units."""

    def __init__(self, word: str, at: int):
        super().__init__(quiet=True)
        self.word, self.at = word, at

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done
            done += count
            if self.word in title and done >= self.at:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize(("word", "at"), [("teaching", 1), ("teaching", 5), ("answering", 4)])
def test_an_interrupted_run_goes_on_and_ends_where_a_whole_one_ends(
    word: str, at: int, runs: dict[str, Path], recipe: Recipe, material: Material, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    begun: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(
            recipe, cell("why"), [material], folder, Stopping(word, at),
            lambda: begun.append(folder.exists()),
        )  # fmt: skip
    assert begun == [False], "once, and before anything is written"
    assert facts(folder)["state"] == "started"
    assert not cell_state.finished(recipe, cell("why"), [material], folder)
    assert (folder / "checkpoints").is_dir() == (at > 2)
    pipeline.run(recipe, cell("why"), [material], folder, QUIET)
    whole = runs["why"]
    assert cell_state.finished(recipe, cell("why"), [material], folder)
    for name in ("history.jsonl", "predictions.parquet", "scorecard.json", "examples.json",
                 "adapter/adapter_model.safetensors", "adapter/whytune.json"):  # fmt: skip
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    one, other = facts(folder), facts(whole)
    for varying in ("seconds", "command", "started", "peak_rss_mb"):
        del one[varying], other[varying]
    assert one == other


def test_the_adapter_that_answers_is_the_one_that_was_saved(
    runs: dict[str, Path], material: Material
) -> None:
    saved = load_file(runs["why"] / "adapter" / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)


def test_input_that_is_wrong_leaves_nothing_behind(
    recipe: Recipe, material: Material, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    begun: list[bool] = []
    for wrong, error in (
        (changed(recipe, "prompt", max_length=40), EncodingError),
        (changed(recipe, "train", target_modules=["query"]), ModelError),
        (recipe.model_copy(update={"model": "nobody/no-such-model"}), ModelError),
    ):
        with pytest.raises(error):
            pipeline.run(wrong, cell(), [material], folder, QUIET, lambda: begun.append(True))
    assert not folder.exists()
    assert begun == []


def test_cells_have_folders_of_their_own() -> None:
    one = Cell(corpus="a-b", tasks=("c",), arm="d", seed=0)
    other = Cell(corpus="a", tasks=("b-c",), arm="d", seed=0)
    both = Cell(corpus="a", tasks=("b", "c"), arm="d", seed=0)
    assert len({one.id, other.id, both.id}) == 3
    assert both.id == "a--b+c--d--s0"


def test_a_scorecard_counts_what_could_not_be_read(
    recipe: Recipe, material: Material, runs: dict[str, Path]
) -> None:
    predictions, _ = store.read_predictions(runs["why"] / "predictions.parquet")
    first = replace(
        predictions[0], outcome=Outcome.UNREADABLE, label=None, log_probs={}, expected=None
    )
    card: Scorecard = run_folder.scorecard([first, *predictions[1:]], material, recipe)
    assert card.unreadable == 1
    assert card.n == len(predictions)
