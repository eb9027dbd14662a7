"""From files to lessons: one a verdict or one a rater, by arm and by conversation."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from whytune import recipe_file
from whytune.errors import TeachingError
from whytune.material import Material, conversations, gather, left_out, together
from whytune.recipe import Recipe
from whytune.records import Outcome, Split
from whytune.study import baseline_rows

RECIPE = """
name: raters
model: nowhere
corpora: {starter: {train: 20, validation: 6, test: 10}}
tasks: [naturalness, on_topic]
arms: {label: {explanation: none}, why: {explanation: assessment}}
lessons: raters
"""
TABLE = """
name: raters
model: nowhere
corpora:
  mine:
    loader: table
    path: data.csv
    columns: {text: text, label: mood, explanation: why, rater: who, split: part}
tasks: [{name: mood, question: 'Which mood?', labels: [sad, glad]}]
arms: {why: {explanation: assessment}, label: {explanation: none}}
lessons: raters
"""
ROWS = """text,mood,why,who,part
It rains.,sad,No sun.,ann,train
It rains.,glad,I like rain.,bob,train
It snows.,glad,,ann,train
It hails.,sad,It hurts.,bob,train
It thaws.,glad,Spring.,ann,test
It storms.,sad,Loud.,ann,test
"""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return recipe_file.parse(RECIPE, place="r.yaml")


@pytest.fixture(scope="module")
def raters(recipe: Recipe) -> list[Material]:
    return list(gather(recipe).values())


@pytest.fixture(scope="module")
def merged(recipe: Recipe) -> list[Material]:
    return list(gather(recipe.model_copy(update={"lessons": "verdict"})).values())


def test_every_readable_reply_is_a_lesson_with_its_own_label_and_reason(
    raters: list[Material],
) -> None:
    for material in raters:
        training = [e.id for e in material.corpus.examples if e.split is Split.TRAIN]
        said = Counter(
            (a.example_id, a.label, " ".join(a.assessment.split()), a.score)
            for a in material.annotations
            if a.outcome is Outcome.READ and a.example_id in training and a.assessment
        )
        assert material.scores is not None
        taught = Counter(
            (x.example.id, x.label, x.explanation, score)
            for x, score in zip(material.lessons("why", 0), material.scores, strict=True)
        )
        assert taught == said
        assert taught.total() > 8 * len(training)
        assert [(x.example.id, x.label) for x in material.lessons("label", 0)] == [
            (x.example.id, x.label) for x in material.lessons("why", 0)
        ]


def test_what_is_measured_against_does_not_change(
    raters: list[Material], merged: list[Material]
) -> None:
    for one, other in zip(raters, merged, strict=True):
        assert one.references == other.references
        assert one.verdicts == other.verdicts
        assert len(one.lessons("why", 0)) > len(other.lessons("why", 0))


def test_the_score_of_a_merged_lesson_is_the_verdicts(merged: list[Material]) -> None:
    for material in merged:
        assert material.scores == [
            material.verdicts[lesson.example.id].score for lesson in material.lessons("label", 0)
        ]


def test_a_conversation_carries_all_its_lessons(raters: list[Material]) -> None:
    found = conversations(raters, "why", 0)
    assert sum(map(len, found)) == sum(len(material.lessons("why", 0)) for material in raters)
    assert [lessons[0].example.id for lessons in found] == [
        e.id for e in raters[0].corpus.examples if e.split is Split.TRAIN
    ]
    for lessons in found:
        assert len({lesson.example.id for lesson in lessons}) == 1
        tasks = [lesson.task.name for lesson in lessons]
        assert tasks == sorted(tasks, key=["naturalness", "on_topic"].index)


def test_what_one_task_can_measure_is_measured(merged: list[Material]) -> None:
    test = [e for e in merged[0].corpus.examples if e.split is Split.TEST]
    assert list(together(merged, Split.TEST)) == test
    first = test[0]
    known = {i: r for i, r in merged[0].references.items() if i != first.id}
    some = replace(merged[0], references=known)
    assert list(together([some, merged[1]], Split.TEST)) == test
    assert list(together([some], Split.TEST)) == test[1:]


@pytest.fixture
def table(tmp_path: Path) -> Recipe:
    (tmp_path / "data.csv").write_text(ROWS, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(TABLE, encoding="utf-8")
    return recipe_file.load(tmp_path / "r.yaml")


def test_a_reply_without_a_reason_is_left_out_of_all_arms_and_counted(table: Recipe) -> None:
    (material,) = gather(table).values()
    assert sorted((x.label, x.explanation) for x in material.lessons("why", 0)) == [
        ("glad", "I like rain."), ("sad", "It hurts."), ("sad", "No sun."),
    ]  # fmt: skip
    assert len(material.lessons("label", 0)) == 3
    assert material.scores is None
    assert list(left_out(table, material)) == [
        ("1 replies about training examples", "no explanation")
    ]
    one = table.model_copy(update={"lessons": "verdict"})
    assert list(left_out(one, material)) == [("1 training examples", "no explanation")]


def test_baselines_are_fitted_on_what_is_taught(raters: list[Material], recipe: Recipe) -> None:
    (material, _) = raters
    assert material.scores is not None
    for name in ("prior", "tfidf"):
        answers = baseline_rows.without_model(recipe, material, name)
        assert len(answers) == len(material.part(Split.TEST))
    (prior, *_) = baseline_rows.without_model(recipe, material, "prior")
    assert prior.expected == pytest.approx(sum(material.scores) / len(material.scores))


def test_a_corpus_that_nobody_has_answered_about_is_taken_in_when_asked(tmp_path: Path) -> None:
    rows = [
        json.dumps({
            "chosen": f"\n\nHuman: Hello {i}\n\nAssistant: Good day.",
            "rejected": f"\n\nHuman: Hello {i}\n\nAssistant: No.",
        })
        for i in range(6)
    ]  # fmt: skip
    (tmp_path / "test.jsonl").write_text("\n".join(rows) + "\n")
    recipe = Recipe.model_validate({
        "name": "dialogues", "model": "nowhere", "tasks": ["naturalness"],
        "corpora": {"hh_rlhf": {"path": str(tmp_path)}}, "arms": {"label": {}},
    })  # fmt: skip
    with pytest.raises(TeachingError, match="no annotations"):
        gather(recipe)
    (material,) = gather(recipe, untaught=True).values()
    assert not material.told
    assert not material.lessons("label", 0)
    assert (material.references, material.reference) == ({}, "none")
    assert len(material.corpus.examples) == 6


def test_a_golden_set_is_taken_in_when_asked(tmp_path: Path) -> None:
    recipe = recipe_file.parse(TABLE, place="r.yaml")
    held_out = [line.replace(",train", ",test") for line in ROWS.splitlines()]
    (tmp_path / "data.csv").write_text("\n".join(held_out) + "\n")
    spec = recipe.corpora["mine"].model_copy(
        update={"path": str(tmp_path / "data.csv"), "train": 0}
    )
    golden = recipe.model_copy(update={"corpora": {"mine": spec}})
    with pytest.raises(TeachingError, match="no example can be taught"):
        gather(golden)
    (material,) = gather(golden, untaught=True).values()
    assert not material.told
    assert not material.lessons("why", 0)
    assert material.reference == "gold"
    assert {r.label for r in material.references.values()} == {"sad", "glad"}
