import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from whytune import recipe, recipe_data, recipe_file, recipe_student, recipe_teachers
from whytune.errors import RecipeError
from whytune.records import Kind
from whytune.settings import Settings
from whytune.tasks import BUILT_IN

SOUND = """
name: small
model: smollm2-135m
corpora: {starter: {train: 20}}
tasks: [naturalness]
arms: {label: {explanation: none}, why: {explanation: assessment, words: 25}}
"""


def parse(text: str, **more: Any) -> recipe.Recipe:
    return recipe_file.parse(text, place="r.yaml", **more)


def faults(text: str, **more: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse(text, **more)
    return str(caught.value).splitlines()


def test_a_sound_recipe_says_what_it_says() -> None:
    r = parse(SOUND)
    assert (r.name, r.corpora["starter"].train, r.arms["why"].words) == ("small", 20, 25)
    assert r.resolved_tasks() == (BUILT_IN["naturalness"],)
    assert r.corpora["starter"].loader == "starter"


def test_every_fault_at_once_one_line_each() -> None:
    text = """
name: small
model: smollm2-135m
corpora:
  starter: {trian: 20}
  mine: {loader: table, path: a.csv}
  feedbackqa: {}
  other: {path: b.csv}
  scores: {loader: table, path: c.csv, columns: {text: t, score: s}}
tasks: [naturalnes, {name: own, question: 'Which?', labels: [a, a]}]
arms:
  label: {words: 5}
  "up/down": {}
seeds: [1, 1]
train: {learning_rate: -1, lora_r: many}
tokens: 3
"""
    assert faults(text) == [
        "r.yaml: corpora.starter.trian: no such setting; did you mean train?",
        "r.yaml: corpora.mine: expected exactly one of `columns.text` and `columns.turns`",
        "r.yaml: corpora.feedbackqa: found no path; feedbackqa needs `path:`",
        f"r.yaml: corpora.other.loader: 'other' is no loader; known: {', '.join(recipe_data.LOADERS)}",
        "r.yaml: corpora.scores.columns: `score` and `scale` belong together; give both or neither",
        "r.yaml: tasks.0: 'naturalnes' is no built-in task; did you mean naturalness?",
        "r.yaml: tasks.1: task own: a label stands twice in a, a",
        "r.yaml: arms.label: found words 5, but the arm has no explanation; add "
        "`explanation:` or drop `words`",
        "r.yaml: arms.up/down: found a name that cannot be a folder; use letters, digits, . _ and "
        "single -",
        "r.yaml: seeds: found [1, 1]; a seed stands twice",
        "r.yaml: train.learning_rate: found -1; input should be greater than 0",
        'r.yaml: train.lora_r: found "many"; input should be a valid integer, unable to parse '
        "string as an integer",
        "r.yaml: tokens: no such setting; known: name, model, corpora, tasks, arms, seeds, matrix, inside, "
        "teachers, merge, merger, journal, lessons, prompt, train, predict, evidence, generator, reasons",
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("tasks: [naturalness]\n", "", "tasks: missing; add it"),
        ("tasks: [naturalness]", "tasks: [naturalness, naturalness]", "tasks: naturalness stands"),
        ("tasks: [naturalness]", "tasks: [{name: t, labels: [a, b]}]", "tasks.0.question: missing"),
        ("tasks: [naturalness]", "tasks: [7]", "tasks.0: found 7; input should be a valid string"),
        (
            "tasks: [naturalness]",
            "tasks: [{name: t, question: q, labels: [a, {nmae: b}]}]",
            "tasks.0.labels.1.name: missing; add it\n"
            "r.yaml: tasks.0.labels.1.nmae: no such setting; did you mean name?",
        ),
        ("{train: 20}", "{train: 20, columns: {txet: a}}", "corpora.starter.columns.txet: no such "
         "setting; did you mean text?"),
        ("{starter: {train: 20}}", "{columns: {loader: starter, txt: a}}", "corpora.columns.txt: "
         "no such setting; known: loader, path"),
        ("{starter: {train: 20}}", "{starter: {task: natural}}", "tasks: corpora.starter.task is "
         "'natural'; did you mean naturalness?"),
        ("{starter: {train: 20}}", "[starter]", "corpora: found [\"starter\"]; input should be a "
         "valid dictionary"),
        ("words: 25", "layout: label", "arms.why: found layout label with explanation assessment, "
         "which it has no place for; drop `layout`"),
        ("name: small", "name: small\ntrain: {target_modules: [1]}", "train.target_modules.0: "
         "found 1; input should be a valid string"),
        ("name: small", "name: small\ntrain: {target_modules: all}", "train.target_modules: found "
         "\"all\"; input should be 'all-linear'"),
        ("name: small", "name: small\ntrain: {learning_rate: .inf}", "train.learning_rate: found "
         "Infinity; input should be a finite number"),
        ("name: small", "name: small\ntrain: {early_stopping_patience: 2}", "train: choosing a "
         "checkpoint needs a validation part (never the test part); set "
         "corpora.starter.validation, or drop"),
    ],
)  # fmt: skip
def test_one_fault_names_its_place_and_nothing_else(old: str, new: str, fault: str) -> None:
    assert old in SOUND
    found = "\n".join(faults(SOUND.replace(old, new)))
    assert found.startswith(f"r.yaml: {fault}")
    assert len(found.splitlines()) == len(fault.splitlines())


def test_two_tasks_ask_which_one_a_table_answers() -> None:
    text = SOUND.replace(
        "{starter: {train: 20}}", "{t: {loader: table, path: a, columns: {text: t}}}"
    )
    assert parse(text)
    two = text.replace("[naturalness]", "[naturalness, on_topic]")
    assert faults(two) == [
        "r.yaml: tasks: found 2 tasks; say in corpora.t.task which one its label column answers, or "
        "have teachers answer all of them: set corpora.t.columns.label to null"
    ]
    assert parse(two, overrides=["corpora.t.task=on_topic"])


def test_a_key_given_twice_is_a_fault() -> None:
    (fault,) = faults(SOUND + "seeds: [0]\nseeds: [1]\n")
    assert "key 'seeds' stands twice in the mapping at line" in fault


def test_a_mapping_takes_over_another_ones_entries() -> None:
    text = SOUND + "predict: &asked {samples: 3}\ntrain: {<<: {lora_r: 4}, lora_alpha: 8}\n"
    found = parse(text).train
    assert (found.lora_r, found.lora_alpha) == (4, 8)


@pytest.mark.parametrize("text", ["name: [", "name: 2024-13-45", "- a list", ""])
def test_what_is_no_mapping_is_one_fault(text: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith("r.yaml: ")


def test_the_environment_fills_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE", "owner/base")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert parse(SOUND.replace("smollm2-135m", "${BASE}@v1")).model == "owner/base@v1"
    assert faults(SOUND.replace("smollm2-135m", "${BASE}/${NOWHERE}")) == [
        "r.yaml: ${NOWHERE} is not set in the environment; set it, or write the value"
    ]


def test_overrides_reach_every_depth_and_are_numbers() -> None:
    r = parse(SOUND, overrides=["train.learning_rate=1e-3", "seeds=[3, 4]", "arms.why.words=7"])
    assert (r.train.learning_rate, r.seeds, r.arms["why"].words) == (1e-3, [3, 4], 7)
    assert type(r.train.learning_rate) is float


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.learning_rate", "no `=` in it"),
        ("model.name=x", "model is not a group of settings"),
        ("seeds=[1", "not readable as YAML"),
        ("train.learning_rat=1", "did you mean learning_rate?"),
    ],
)
def test_an_override_that_cannot_be(override: str, says: str) -> None:
    (fault,) = faults(SOUND, overrides=[override])
    assert says in fault


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    text = SOUND.replace("{starter: {train: 20}}", "{feedbackqa: {path: ../data/qa}}")
    file = tmp_path / "recipes" / "r.yaml"
    file.parent.mkdir()
    file.write_text(text.replace("smollm2-135m", "./base"), encoding="utf-8")
    r = recipe_file.load(file)
    assert r.corpora["feedbackqa"].path == str(tmp_path / "data" / "qa")
    assert r.model == str(tmp_path / "recipes" / "base")
    assert recipe_file.load(file, ["model=owner/base"]).model == "owner/base"


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.yaml: cannot be read \(No such file"):
        recipe_file.load(tmp_path / "gone.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"bytes\.yaml: not UTF-8 text"):
        recipe_file.load(tmp_path / "bytes.yaml")


def test_what_is_dumped_reads_back_the_same() -> None:
    text = SOUND.replace(
        "tasks: [naturalness]",
        "tasks: [on_topic, {name: own, kind: ordinal, question: 'Wie gut? ✓', "
        "labels: ['0', {name: '1', definition: good}]}]",
    ).replace(
        "{starter: {train: 20}}",
        "{mine: {loader: table, path: a.csv, task: own, columns: {turns: t, score: s, scale: [1, 9]}}}",
    )
    r = parse(text, overrides=["arms.why.layout=explanation, label", "train.learning_rate=1e-4"])
    again = parse(recipe.dump(r))
    assert again == r
    assert again.resolved_tasks()[1].kind is Kind.ORDINAL
    assert recipe.dump(again) == recipe.dump(r)


def test_a_digest_depends_on_content_not_on_order() -> None:
    assert recipe.digest({"a": 1, "b": [2]}) == recipe.digest({"b": [2], "a": 1})
    assert recipe.digest({"a": 1}) != recipe.digest({"a": 2})


def groups() -> Iterator[type[Settings]]:
    for item in {**vars(recipe_data), **vars(recipe_teachers), **vars(recipe)}.values():
        if isinstance(item, type) and issubclass(item, Settings):
            yield item


def test_every_knob_is_listed_once_with_its_meaning() -> None:
    listed = list(recipe.knobs())
    names = [name for name, _, _ in listed]
    assert len(set(names)) == len(names)
    assert all(meaning for _, _, meaning in listed)
    # A field is listed unless it is itself a group, whose fields are listed instead.
    fields = sorted(
        field
        for group in groups()
        for field, info in group.model_fields.items()
        if not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel))
        or (group, field) == (recipe.Generator, "train")  # the knobs of `train`, listed there
    )
    assert sorted(name.rpartition(".")[2] for name in names) == fields
    assert ("train.lora_r", "16") in [(name, default) for name, default, _ in listed]
    assert {"corpora.NAME.columns.text", "arms.NAME.words", "tasks.N.labels.N.name"} <= set(names)


def test_defaults_are_the_papers() -> None:
    train = recipe_student.Train()
    assert (train.lora_r, train.lora_alpha, train.lora_dropout) == (16, 32, 0.05)
    assert train.learning_rate == 5e-5
    assert len(train.target_modules) == 7


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValueError, match=re.escape("frozen")):
        parse(SOUND).train.lora_r = 3  # type: ignore[misc]
