"""The baselines of a study: which there are, what they answer, and that models are asked once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whytune import recipe_file, store
from whytune.evidence import baselines
from whytune.material import Material, gather
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.records import Split
from whytune.student import embedding, few_shot, models
from whytune.student.models import Student
from whytune.student.prompting import conversation_text
from whytune.study import baseline_rows, grid

RECIPE = """
name: rows
model: {model}
corpora: {{starter: {{train: 8, validation: 4, test: 6}}}}
tasks:
  - naturalness
  - {{name: tone, kind: nominal, question: 'Which tone?', labels: [flat, warm, cold]}}
arms: {{label: {{}}}}
prompt: {{context_turns: 0, max_length: 200}}
train: {{learning_rate: 1.0e-2, per_device_train_batch_size: 4}}
predict: {{per_device_eval_batch_size: 4, explanations: 0}}
evidence:
  bootstrap: 100
  baselines: [few-shot, ordinal, majority, prior, encoder, tfidf, zero-shot]
  encoder: {model}
  shots: 2
"""
ALL = ["few-shot", "ordinal", "majority", "prior", "encoder", "tfidf", "zero-shot"]


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
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="rows.yaml")


@pytest.fixture(scope="module")
def material(recipe: Recipe) -> Material:
    return gather(one_task(recipe))["starter", "naturalness"]


def one_task(recipe: Recipe, **evidence: Any) -> Recipe:
    told = recipe.evidence.model_copy(update=evidence)
    return recipe.model_copy(update={"tasks": ["naturalness"], "evidence": told})


@pytest.fixture(scope="module")
def studied(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[str]]:
    folder, show = tmp_path_factory.mktemp("rows") / "study", Listening()
    return folder, grid.study(one_task(recipe), folder, show), show.titles


def place(folder: Path, name: str) -> Path:
    return folder / "baselines" / f"starter--naturalness--{name}"


def asked(titles: list[str]) -> list[str]:
    return [title for title in titles if "encoding" in title or "base model" in title]


def test_every_baseline_has_a_row_in_the_recipes_order(
    studied: tuple[Path, dict[str, Any], list[str]], material: Material
) -> None:
    folder, summary, titles = studied
    rows = [row for row in summary["rows"] if row["role"] == "baseline"]
    assert [row["name"] for row in rows] == ALL
    for row in rows:
        assert row["scorecard"]["n"] == 6
        predictions, _ = store.read_predictions(place(folder, row["name"]) / "predictions.parquet")
        assert [p.example_id for p in predictions] == [e.id for e in material.part(Split.TEST)]
        assert all(p.expected is not None for p in predictions)
        without = row["name"] in ("majority", "tfidf")
        assert all((p.log_probs == {}) == without for p in predictions)
    assert asked(titles) == [
        "starter, naturalness: encoding texts", "starter: asking the base model",
        "starter, naturalness: asking the base model after 2 examples",
    ]  # fmt: skip


def test_rows_hold_what_their_own_modules_answer(
    studied: tuple[Path, dict[str, Any], list[str]], recipe: Recipe, material: Material
) -> None:
    told, test = [one.example for one in material.told], material.part(Split.TEST)
    labels, ids = [one.label for one in material.told], [example.id for example in test]
    encoder = embedding.load(models.find(recipe.model))
    vectors = [
        np.array([
            embedding.embed(encoder, [conversation_text(e.turns, 0)], batch_size=1).vectors[0]
            for e in own
        ], dtype=np.float64) for own in (told, test)
    ]  # fmt: skip
    lessons = material.lessons("label", 0)
    student = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
    expected = {
        "encoder": baselines.probe(vectors[0], labels, vectors[1], ids, material.task),
        "few-shot": few_shot.predict(
            student, few_shot.choose(lessons, 2, 0), test, material.task, batch_size=1
        ),
    }
    for name, own in expected.items():
        found, _ = store.read_predictions(place(studied[0], name) / "predictions.parquet")
        for a, b in zip(found, own, strict=True):
            assert (a.example_id, a.label) == (b.example_id, b.label)
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-3)


def test_models_are_asked_again_only_where_something_changed(
    studied: tuple[Path, dict[str, Any], list[str]], recipe: Recipe, tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, _, _ = studied
    again, materials = Listening(), gather(one_task(recipe))
    before = [(place(folder, name) / "scorecard.json").read_bytes() for name in ALL]
    baseline_rows.write(one_task(recipe), materials, folder, again)
    assert [(place(folder, name) / "scorecard.json").read_bytes() for name in ALL] == before
    assert asked(again.titles) == []
    loads: list[str] = []
    plain = models.load

    def load(*given: Any) -> Student:
        loads.append("base")
        return plain(*given)

    monkeypatch.setattr(models, "load", load)
    baseline_rows.write(one_task(recipe, shots=3), materials, folder, again)
    baseline_rows.write(one_task(recipe, shots=3), materials, folder, again)
    assert asked(again.titles) == ["starter, naturalness: asking the base model after 3 examples"]
    again.titles.clear()
    baseline_rows.write(one_task(recipe, encoder=f"{tiny_folder}/"), materials, folder, again)
    assert asked(again.titles) == [
        "starter, naturalness: encoding texts",
        "starter, naturalness: asking the base model after 2 examples",
    ]
    loads.clear()
    for name in ("few-shot", "zero-shot"):
        (place(folder, name) / "digest.json").unlink()
    baseline_rows.write(one_task(recipe), materials, folder, again)
    assert loads == ["base"], "once for both"


def test_kept_answers_are_measured_by_what_is_right_now(
    studied: tuple[Path, dict[str, Any], list[str]], recipe: Recipe, material: Material,
    tmp_path: Path,
) -> None:  # fmt: skip
    show = Listening()
    only = one_task(recipe, baselines=["zero-shot"])
    baseline_rows.write(only, {("starter", "naturalness"): material}, tmp_path, show)
    answers, _ = store.read_predictions(place(tmp_path, "zero-shot") / "predictions.parquet")
    right = {
        p.example_id: replace(material.references[p.example_id], label=p.label)
        for p in answers
        if p.label is not None
    }
    other = replace(material, references={**material.references, **right})
    baseline_rows.write(only, {("starter", "naturalness"): other}, tmp_path, show)
    card = store.read_json(place(tmp_path, "zero-shot") / "scorecard.json")
    assert card["metrics"]["accuracy"]["value"] == 1
    assert asked(show.titles) == ["starter: asking the base model"]


def test_a_baseline_that_cannot_answer_has_no_row(recipe: Recipe, material: Material) -> None:
    assert baseline_rows.names(recipe, material) == ALL
    nominal = replace(material, task=recipe.resolved_tasks()[1])
    assert baseline_rows.names(recipe, nominal) == [name for name in ALL if name != "ordinal"]
    golden = replace(material, told=())
    assert baseline_rows.names(recipe, golden) == ["zero-shot"]
