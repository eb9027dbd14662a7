"""The recipes that come with whytune: each is sound, and runs on a tiny student.

Releases that recipes read are made up here in their own formats, so that nothing is skipped.
"""

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from whytune import asking, material, recipe_file
from whytune.material import gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.recipe_data import CorpusSpec
from whytune.records import Split
from whytune.study import grid, merging, paper
from whytune.teaching.requests import Request
from whytune.teaching.teachers import Function

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
OWN = sorted(FOLDER.glob("*.yaml"))
PAPER = sorted((FOLDER / "paper").glob("*.yaml"))
LARGE = [path for path in PAPER if not path.stem.endswith("-small")]
"""The papers' own sizes, which nothing here can run."""
RUN = {path.stem: path for path in (*OWN, *PAPER) if path not in LARGE}
"""All others run here; a new one by being there."""
MERGED = ["golden-small"]
"""Teach nothing: their teachers are asked and their replies merged."""
QUICK = ["train.num_train_epochs=1", "train.per_device_train_batch_size=20", "seeds=[0]",
         "prompt.max_length=256", "predict.explanations=1", "predict.max_new_tokens=4",
         "train.layers_to_transform=null", "evidence.bootstrap=100"]  # fmt: skip
SIZES = {"starter": (8, 6), "mixed": (6, 6), "table": (8, None)}
"""Loader -> examples to learn from and to measure on; releases are as small as they are made."""
MORE = {
    "starter-arms": ["corpora.starter.train=40"],  # every label, for explanations of another one
    "feedbackqa-baselines": ["corpora.feedbackqa.validation=12"],
}


def test_the_papers_recipes_come_in_pairs() -> None:
    names = ("cross", "golden", "inside", "length", "random", "two-stage", "with-without")
    assert [path.stem for path in LARGE] == list(names)
    small = [path.stem.removesuffix("-small") for path in PAPER if path not in LARGE]
    assert sorted(small) == sorted([*names, "kinds"])
    assert len(RUN) == len(OWN) + len(PAPER) - len(LARGE)


@pytest.mark.parametrize("path", [*OWN, *PAPER], ids=lambda path: path.stem)
def test_a_recipe_is_sound_and_explains_itself(path: Path) -> None:
    recipe = recipe_file.load(path)
    assert recipe.name == path.stem
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    if path in PAPER:
        head = text.partition("\nname:")[0]
        assert all(word in head for word in ("arXiv 25", "\n# Needs: ", "\n# Changed: "))


@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_a_large_recipe_has_the_papers_sizes(path: Path) -> None:
    recipe = recipe_file.load(path)
    if path.stem == "two-stage":
        sizes = [(spec.train, spec.test) for spec in recipe.corpora.values()]
        assert (recipe.model, sizes) == ("meta-llama/Llama-3.2-1B-Instruct", [(16000, 2000)])
        return
    assert recipe.model == "mistralai/Mistral-7B-v0.1"
    asked = [spec.prompts for spec in recipe.teachers.values()]
    assert asked == [None, None, None, []]  # the paper's four prompts each, and one who merges
    if path.stem == "golden":
        return
    taught = {name: spec for name, spec in recipe.corpora.items() if "Golden" not in name}
    assert {(spec.train, spec.test) for spec in taught.values()} == {(10000, 5000)}
    assert [paper.called(recipe, name) for name in taught] == list(taught)
    own = recipe.train
    assert (own.load_in_4bit, own.dtype, own.learning_rate) == (True, "bfloat16", 5e-5)
    assert (own.lora_r, own.lora_alpha, own.lora_dropout, len(own.target_modules)) == (16, 32, 0.05, 7)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in RUN if name not in MERGED])
def test_a_recipe_runs(
    name: str, releases: Mapping[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = _small(name, releases, tiny_folder, tmp_path)
    _ask(recipe)
    summary = grid.study(recipe, tmp_path / recipe.name, Progress(quiet=True))
    assert Path(summary["report"]).is_file()
    arms = [row for row in summary["rows"] if row["role"] == "arm"]
    assert [(row["corpus"], row["task"], row["name"]) for row in arms] == [
        (corpus, task.name, arm)
        for corpus, spec in recipe.corpora.items()
        if not _loader(corpus, spec).startswith("golden_")
        for task in recipe.resolved_tasks()
        for arm in recipe.arms
    ]
    assert {row["scorecard"]["n"] for row in arms} == {row["scorecard"]["n"] for row in arms[:1]}
    assert bool(summary.get("matrix")) == recipe.matrix


@pytest.mark.parametrize("name", MERGED)
def test_a_recipe_is_answered_and_merged(
    name: str, releases: Mapping[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = _small(name, releases, tiny_folder, tmp_path)
    _ask(recipe)
    rows = merging.write(tmp_path / "study", recipe, merging.answered(material.merged(recipe)))
    assert [row["against"] for row in rows] == ["gold"] * len(recipe.tasks)
    with (tmp_path / "study" / "tables" / "golden.csv").open(encoding="utf-8") as file:
        judges = {row["judge"]: row for row in csv.DictReader(file)}
    for task in recipe.resolved_tasks():
        for judge in paper.merging(task.name, "mae"):  # every row of table 2
            assert 0 <= float(judges[judge][f"{task.name}_mae"]) <= 1


def _small(
    name: str, releases: Mapping[str, Path], model: Path, folder: Path
) -> Recipe:  # fmt: skip
    """A recipe with tiny sizes, the tiny student, and releases that are made up."""
    recipe = recipe_file.load(RUN[name])
    changed = [f"model={model}", *QUICK, f"reasons={folder}/reasons", f"journal={folder}/journal"]
    for corpus, spec in recipe.corpora.items():
        changed += _sizes(f"corpora.{corpus}", corpus, spec, releases)
    if recipe.generator is not None:
        for corpus, spec in recipe.generator.corpora.items():
            changed += _sizes(f"generator.corpora.{corpus}", corpus, spec, releases)
        changed += ["generator.max_new_tokens=4", "generator.train.num_train_epochs=1",
                    "generator.train.layers_to_transform=null"]  # fmt: skip
    if recipe.evidence.encoder is not None:
        changed.append(f"evidence.encoder={model}")
    return recipe_file.load(RUN[name], [*changed, *MORE.get(name, [])])


def _loader(corpus: str, spec: CorpusSpec) -> str:
    return spec.loader or corpus


def _sizes(
    knob: str, corpus: str, spec: CorpusSpec, releases: Mapping[str, Path]
) -> list[str]:  # fmt: skip
    loader = _loader(corpus, spec)
    if loader in SIZES:
        numbers = zip(("train", "test"), SIZES[loader], strict=True)
        return [f"{knob}.{part}={number}" for part, number in numbers if number]
    assert loader in releases, f"{knob}: make up a small release of {loader} in `releases`"
    return [f"{knob}.path={releases[loader]}", f"{knob}.train=null", f"{knob}.test=null"]


def _ask(recipe: Recipe) -> None:
    if recipe.asks:
        teachers = {name: Function(_reply) for name in recipe.teachers}
        asked = asking.ask(recipe, Progress(quiet=True), teachers=teachers)
        assert all(one.outcomes == {"read": one.questions} for one in asked)


def _reply(request: Request) -> str:
    """Keeps to the schema; all say nearly the same of one example."""
    assert request.schema is not None
    drawn = int(hashlib.sha256(request.example_id.encode()).hexdigest(), 16) % 100 / 100
    return json.dumps({
        name: form["enum"][int(drawn * len(form["enum"]))] if "enum" in form else f"{name} {drawn}"
        for name, form in request.schema["properties"].items()
    })  # fmt: skip


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Loader -> a folder in the release's own format, of 12 examples to learn from and 6 others."""
    root = tmp_path_factory.mktemp("releases")
    files: dict[str, dict[str, Any]] = {
        "esnli": {**_pairs("dev", 12), **_pairs("test", 6)},
        "feedbackqa": {"WHO/feedback_train.json": _passages(18, 2),
                       "WHO/feedback_test.json": _passages(6, 3)},
        "emotion": {"train.txt": _moods(0, 12), "val.txt": _moods(12, 6), "test.txt": _moods(18, 6)},
        "flan_cot": {"ecqa_train.tsv": [
            f"Where would person {n} stand?\\nOptions:\\n- a park\\n- Mars\ta park\tPeople stand "
            f"in parks on day {n}." for n in range(12)]},
        "golden_topical_usr": {"topical_chat.json": [
            {"source": f"Have you seen film {n} ?\n", "system_output": f"Yes, film {n} is good.\n",
             "context": "_nofact\n", "system_id": "bot", "scores": {"naturalness": 1 + n % 3}}
            for n in range(6)]},
        "golden_dailydialog": {
            f"{kind}_data_release.csv": [",".join(map(str, [n, *before, f"Reply {n} .",
                                                            *[1 + n % 5] * 10])) for n in range(6)]
            for kind, before in (("context", ["And then ?"]), ("fluency", []))},
    }  # fmt: skip
    for loader, own in files.items():
        for name, content in own.items():
            place = root / loader / name
            place.parent.mkdir(parents=True, exist_ok=True)
            plain = json.dumps(content) if name.endswith(".json") else "\n".join(content) + "\n"
            place.write_text(plain, encoding="utf-8")
    return {loader: root / loader for loader in files}


def _pairs(ending: str, count: int) -> dict[str, list[str]]:
    labels = ("entailment", "neutral", "contradiction")
    columns = {
        "s1": [f"A man walks on day {n} of {ending} ." for n in range(count)],
        "s2": [f"Person {n} is outside ." for n in range(count)],
        "labels": [labels[n % 3] for n in range(count)],
        **{f"preproc1_expl_{k}": [f"walking on day {n} means reason {k}" for n in range(count)]
           for k in (1, 2, 3)},
    }  # fmt: skip
    return {f"{stem}.{ending}": rows for stem, rows in columns.items()}


def _passages(count: int, raters: int) -> list[dict[str, Any]]:
    labels = ("Bad", "Could be Improved", "Acceptable", "Excellent")
    return [
        {
            "question": f"What of symptom {n} with {raters}?",
            "passage": {"reference": {
                "page_title": "Symptoms", "section_headers": [f"Number {n}"],
                "section_content": f"Symptom {n} lasts {n} days.", "section_content_html": "",
            }},
            "rating": [labels[n % 4]] * raters,
            "feedback": [f"it says how long number {n} lasts" for _ in range(raters)],
        }
        for n in range(count)
    ]  # fmt: skip


def _moods(first: int, count: int) -> list[str]:
    moods = ("sadness", "joy", "love", "anger", "fear", "surprise")
    return [f"i feel it on day {n};{moods[n % 6]}" for n in range(first, first + count)]


def test_the_arms_of_the_starter_recipe_say_different_things() -> None:
    recipe = recipe_file.load(FOLDER / "starter-three-tasks.yaml")
    for own in gather(recipe).values():
        said = {
            (str(lessons[0].layout), *(lesson.explanation for lesson in lessons))
            for lessons in [own.lessons(arm, 0) for arm in recipe.arms]
        }
        assert len(said) == len(recipe.arms) == 5


def test_the_table_has_every_label_in_both_parts() -> None:
    with (FOLDER / "own-table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert all(row["ticket"] and row["reason"] for row in rows)
    recipe = recipe_file.load(FOLDER / "own-table.yaml")
    (own,) = gather(recipe).values()
    names = set(own.task.label_names)
    assert {lesson.label for lesson in own.lessons("why", 0)} == names
    held_out = own.part(Split.TEST)
    assert {own.references[example.id].label for example in held_out} == names
    assert len(held_out) + len(own.lessons("why", 0)) == 24
