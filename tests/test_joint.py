"""One student for all tasks of a corpus: its run, its study, its page, its check."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from whytune import pipeline, recipe_file, run_folder, store, taught
from whytune.errors import RecipeError
from whytune.material import Material, conversations, gather
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.records import Outcome, Prediction, Split
from whytune.run_folder import Cell
from whytune.student import models
from whytune.study import check, grid
from whytune.study.folder import parts, read_summary

# Two tasks with different labels, so that nothing of one can pass for the other's.
RECIPE = """
name: joint
model: {model}
corpora: {{starter: {{train: 8, validation: 4, test: 10}}}}
tasks:
  - naturalness
  - {{name: on_topic, kind: ordinal, question: 'Does it keep to the point?', labels: [none, partly, all]}}
arms:
  label: {{explanation: none}}
  why: {{explanation: assessment, words: 10}}
prompt: {{context_turns: 0, max_length: 256}}
train: {{tasks: joint, learning_rate: 1.0e-2, num_train_epochs: 2, per_device_train_batch_size: 2,
        eval_steps: 4}}
predict: {{per_device_eval_batch_size: 4, explanations: 2, max_new_tokens: 4}}
evidence: {{bootstrap: 100}}
"""
TASKS = ("naturalness", "on_topic")
RUNS = [f"starter--naturalness+on_topic--{arm}--s0" for arm in ("label", "why")]
QUIET = Progress(quiet=True)


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
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="joint.yaml")


@pytest.fixture(scope="module")
def materials(recipe: Recipe) -> list[Material]:
    return list(gather(recipe).values())


@pytest.fixture(scope="module")
def studied(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[str]]:
    """The study's folder, its summary, and what was worked on."""
    folder = tmp_path_factory.mktemp("joint") / "study"
    show = Listening()
    return folder, grid.study(recipe, folder, show), show.titles


def facts(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def changed(recipe: Recipe, **train: Any) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})


# The run


def test_one_run_answers_all_tasks_of_a_corpus(
    studied: tuple[Path, dict[str, Any], list[str]], materials: list[Material]
) -> None:
    folder = studied[0] / "runs"
    assert sorted(path.name for path in folder.iterdir()) == RUNS
    for name in RUNS:
        predictions, extra = store.read_predictions(folder / name / "predictions.parquet")
        expected = [(m, e) for m in materials for e in m.part(Split.TEST)]
        assert [(p.task, p.example_id) for p in predictions] == [
            (m.task.name, e.id) for m, e in expected
        ]
        assert {p.outcome for p in predictions} == {Outcome.READ}
        for prediction, (material, _) in zip(predictions, expected, strict=True):
            assert tuple(prediction.log_probs) == material.task.label_names
        assert extra["reference_label"] == [m.references[e.id].label for m, e in expected]
        cards = store.read_json(folder / name / "scorecard.json")
        assert list(cards) == list(TASKS)
        assert cards["on_topic"]["labels"] == ["none", "partly", "all"]
        assert {card["n"] for card in cards.values()} == {10}


def test_a_joint_run_tells_its_tasks_apart(
    studied: tuple[Path, dict[str, Any], list[str]], materials: list[Material]
) -> None:
    label, why = (facts(studied[0] / "runs" / name) for name in RUNS)
    assert (label["arm"], why["arm"]) == ("label", "why")
    for found in (label, why):
        assert (found["corpus"], found["task"]) == ("starter", "naturalness+on_topic")
        assert {"kind", "labels", "reference", "dropped", "test_sha256"}.isdisjoint(found)
        assert list(found["tasks"]) == list(TASKS)
        for material in materials:
            own = found["tasks"][material.task.name]
            assert own["labels"] == list(material.task.label_names)
            assert own["lessons"] == len(material.lessons("label", 0))
        assert found["lessons"] == sum(own["lessons"] for own in found["tasks"].values()) == 16
        assert found["conversations"] == 8
        assert found["eval_split"] == "validation"
        assert found["updates"] == 8, "a batch counts conversations, not lessons"
    assert label["examples_sha256"] == why["examples_sha256"]
    assert label["tasks"] == why["tasks"]
    assert label["digest"] != why["digest"]


def test_a_conversation_is_read_once_for_all_its_questions(
    studied: tuple[Path, dict[str, Any], list[str]], materials: list[Material], recipe: Recipe
) -> None:
    found = facts(studied[0] / "runs" / RUNS[1])
    student = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
    cell = Cell(corpus="starter", tasks=TASKS, arm="why", seed=0)
    bundles = taught.lessons(recipe, cell, materials, student)
    assert [len(bundle.branches) for bundle in bundles] == [2] * 8
    prefixes = sum(len(bundle.prefix) for bundle in bundles)
    branches = sum(len(branch.ids) for bundle in bundles for branch in bundle.branches)
    assert found["tokens"]["per_epoch"] == prefixes + branches
    assert found["tokens"]["total"] == 2 * (prefixes + branches)


def test_an_adapter_of_several_tasks_says_how_to_ask_each(
    studied: tuple[Path, dict[str, Any], list[str]], materials: list[Material]
) -> None:
    found = store.read_json(studied[0] / "runs" / RUNS[0] / "adapter" / "whytune.json")
    assert found["tasks"] == [store.plain(material.task) for material in materials]
    assert {task: list(ids) for task, ids in found["label_ids"].items()} == {
        m.task.name: list(m.task.label_names) for m in materials
    }
    assert not {"task", "labels"} & set(found)


def test_the_curve_has_a_loss_for_each_task_and_their_mean(
    studied: tuple[Path, dict[str, Any], list[str]],
) -> None:
    rows = store.read_jsonl(studied[0] / "runs" / RUNS[0] / "history.jsonl")
    assert [row["step"] for row in rows] == [4, 8]
    for row in rows:
        assert list(row["label_nlls"]) == list(TASKS)
        assert row["label_nll"] == pytest.approx(sum(row["label_nlls"].values()) / 2)
    part = {p.task: p for p in parts(studied[0], read_summary(studied[0]))}
    for task in TASKS:
        (student,) = part[task].students["label"]
        assert [moment.label_nll for moment in student.history] == [
            row["label_nlls"][task] for row in rows
        ]


def test_a_joint_run_asked_again_answers_the_same(
    studied: tuple[Path, dict[str, Any], list[str]],
) -> None:
    folder = studied[0] / "runs" / RUNS[1]
    cards = store.plain(pipeline.evaluate(folder, "starter", QUIET))
    for task, card in store.read_json(folder / "scorecard.json").items():
        for name, figure in card["metrics"].items():
            assert cards[task]["metrics"][name] == pytest.approx(figure, abs=1e-5), (task, name)


def test_what_one_task_has_no_reference_for_is_measured_on_the_other_alone(
    recipe: Recipe, materials: list[Material], tmp_path: Path
) -> None:
    first, second = materials
    lost = first.part(Split.TEST)[0].id
    # Of one validation example nobody knows the answer either.
    unknown = {lost, first.part(Split.VALIDATION)[0].id}
    some = replace(
        first, references={i: r for i, r in first.references.items() if i not in unknown}
    )
    cell = Cell(corpus="starter", tasks=TASKS, arm="why", seed=0)
    cards = pipeline.run(recipe, cell, [some, second], tmp_path / "run", QUIET)
    assert {task: card.n for task, card in cards.items()} == {"naturalness": 9, "on_topic": 10}
    predictions, _ = store.read_predictions(tmp_path / "run" / "predictions.parquet")
    assert [p.task for p in predictions if p.example_id == lost] == ["on_topic"]
    shown = store.read_json(tmp_path / "run" / "examples.json")
    assert [row["task"] for row in shown] == ["naturalness"] * 2 + ["on_topic"] * 2
    assert {row["example_id"] for row in shown if row["task"] == "on_topic"} >= {lost}
    assert all(row["explanation"] is not None for row in shown)


def test_what_one_task_cannot_teach_is_taught_on_the_other_alone(
    materials: list[Material],
) -> None:
    first, second = materials
    short = replace(first, told=first.told[1:])
    found = conversations([short, second], "why", 0)
    assert [len(lessons) for lessons in found] == [1, *[2] * 7]
    assert {lesson.task.name for lesson in found[0]} == {"on_topic"}
    for lessons in found:
        assert len({lesson.example.id for lesson in lessons}) == 1
    order = [example.id for example in first.corpus.examples]
    places = [order.index(lessons[0].example.id) for lessons in found]
    assert places == sorted(places)


def test_one_task_is_the_same_student_jointly_or_not(
    recipe: Recipe, materials: list[Material]
) -> None:
    cell = Cell(corpus="starter", tasks=("naturalness",), arm="why", seed=0)
    both = Cell(corpus="starter", tasks=TASKS, arm="why", seed=0)
    own = [run_folder.cell_digest(changed(recipe, tasks=tasks), cell, materials[:1])
           for tasks in ("joint", "separate")]  # fmt: skip
    assert own[0] == own[1]
    assert run_folder.cell_digest(recipe, both, materials) not in own


# The study


def test_the_grid_teaches_by_task_or_by_corpus(recipe: Recipe) -> None:
    materials = gather(recipe)
    assert [cell.id for cell in grid.cells(recipe, materials)] == RUNS
    apart = grid.cells(changed(recipe, tasks="separate"), materials)
    assert [cell.id for cell in apart] == [
        f"starter--{task}--{arm}--s0" for task in TASKS for arm in ("label", "why")
    ]


def test_tasks_whose_names_make_no_folder_are_refused(recipe: Recipe) -> None:
    materials = gather(recipe)
    long = {("starter", task * 20): material for (_, task), material in materials.items()}
    with pytest.raises(RecipeError, match=r"2 tasks in \d+ bytes, expected 255 at most"):
        grid.cells(recipe, long)
    assert grid.cells(changed(recipe, tasks="separate"), long)


def test_rows_stay_by_task_and_name_the_same_run(
    studied: tuple[Path, dict[str, Any], list[str]],
) -> None:
    folder, summary, _ = studied
    arms = [row for row in summary["rows"] if row["role"] == "arm"]
    assert [(row["task"], row["name"], row["runs"]) for row in arms] == [
        (task, arm, [f"runs/{run}"])
        for task in TASKS
        for arm, run in zip(("label", "why"), RUNS, strict=True)
    ]
    cards = store.read_json(folder / "runs" / RUNS[1] / "scorecard.json")
    assert arms[3]["scorecard"] == cards["on_topic"]
    base = [row["name"] for row in summary["rows"] if row["role"] == "baseline"]
    assert base == ["prior", "tfidf", "zero-shot"] * 2
    assert {(c["task"], c["sentence"].split(",")[0]) for c in summary["comparisons"]} == {
        (task, f"On {task}") for task in TASKS
    }
    assert "Of 2 comparisons" in summary["finding"]
    assert all(f"on {task}" in summary["finding"] for task in TASKS)


def test_teaching_is_counted_once(
    studied: tuple[Path, dict[str, Any], list[str]], recipe: Recipe, tmp_path: Path
) -> None:
    folder, summary, _ = studied
    tables = sorted(path.name for path in (folder / "tables").glob("*--runs.csv"))
    assert tables == ["starter--naturalness--runs.csv"]
    of_students = [note for note in summary["notes"] if "lost their middle" in note]
    assert [note.partition(":")[0] for note in of_students] == ["starter, naturalness, on_topic"]
    shutil.copytree(folder, tmp_path / "study")
    for name in RUNS:
        place = tmp_path / "study" / "runs" / name
        store.write_json(place / "run.json", {**facts(place), "seconds": {"train": 10_000.0}})
    again = grid.study(recipe, tmp_path / "study", QUIET)
    assert 20_000 <= again["seconds"] < 25_000


def test_the_base_model_is_asked_once_about_each_conversation(
    studied: tuple[Path, dict[str, Any], list[str]], recipe: Recipe, materials: list[Material]
) -> None:
    folder, _, titles = studied
    assert [title for title in titles if "base model" in title] == [
        "starter: asking the base model"
    ]
    answers: dict[str, list[Prediction]] = {}
    for task in TASKS:
        place = folder / "baselines" / f"starter--{task}--zero-shot"
        answers[task], _ = store.read_predictions(place / "predictions.parquet")
        assert store.read_json(place / "scorecard.json")["n"] == 10
        assert {p.task for p in answers[task]} == {task}
    again = Listening()
    grid.study(recipe, folder, again)
    assert again.titles == []
    (folder / "baselines" / "starter--on_topic--zero-shot" / "digest.json").unlink()
    grid.study(recipe, folder, again)
    assert again.titles == ["starter: asking the base model"]


def test_the_page_says_that_one_student_answers_all(
    studied: tuple[Path, dict[str, Any], list[str]],
) -> None:
    html = Path(studied[1]["report"]).read_text(encoding="utf-8")
    said = "taught naturalness and on_topic together"
    sections = html.split('<section class="part"')[1:]
    assert len(sections) == 2
    assert all(said in section for section in sections)
    assert ["What each student saw" in section for section in sections] == [True, False]
    shown = html.count("what the lesson would say")
    assert shown == 4, "two examples a task, of the one arm that explains"


def test_train_teaches_one_student_of_all_tasks(recipe: Recipe, tmp_path: Path) -> None:
    found = grid.single(recipe, "label", tmp_path / "one", QUIET)
    assert found["run"].endswith(RUNS[0])
    assert list(found["scorecard"]) == list(TASKS)
    with pytest.raises(RecipeError, match=r"found 2 corpora x tasks .*train\.tasks: joint"):
        grid.single(changed(recipe, tasks="separate"), "label", tmp_path / "two", QUIET)


# The check


def test_check_shows_a_conversation_with_all_its_branches(recipe: Recipe) -> None:
    first, last = check.check(recipe, QUIET)
    assert (first.task, first.masks, first.loads) == ("naturalness", (), ())
    assert (set(first.label_ids), set(last.label_ids)) == (set("12345"), {"none", "partly", "all"})
    assert [(load.arm, load.task, load.lessons, load.conversations) for load in last.loads] == [
        (arm, "naturalness+on_topic", 16, 8) for arm in ("label", "why")
    ]
    assert [load.updates for load in last.loads] == [8, 8]
    assert len(last.masks) == 4
    for masked in last.masks:
        assert masked.tasks == TASKS
        assert [piece.branch for piece in masked.pieces] == sorted(p.branch for p in masked.pieces)
        for branch in (0, 1):
            own = {p.part: p.text for p in masked.pieces if p.branch == branch}
            assert own["label"] in (first.label_ids, last.label_ids)[branch]
            assert ("explanation" in own) == (masked.arm == "why")
        asked = [p.text for p in masked.pieces if p.part == "prompt"]
        assert len(asked) == 2
        assert "How natural" in asked[0]
        assert "How natural" not in asked[1]
        assert "keep to the point" in asked[1]
