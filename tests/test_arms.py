"""Arms from the recipe to the run: what each teaches, what it sets, and what it is matched to."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whytune import pipeline, recipe_file, run_folder, store, taught
from whytune.errors import RecipeError, TeachingError
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.recipe import Recipe, digest
from whytune.recipe_arms import PSEUDO, Arm
from whytune.records import Example, Kind, Label, Layout, Split, Task, Turn, Verdict
from whytune.run_folder import Cell
from whytune.student import effort, models
from whytune.student.encode import Encoder
from whytune.study import grid, loads
from whytune.teaching import explanations, leaks, reasons, vocabulary
from whytune.teaching.explanations import Told

TASK = Task(
    name="feeling", kind=Kind.NOMINAL, question="Which?",
    labels=tuple(Label(name=name) for name in ("joy", "deep fear", "anger")),
)  # fmt: skip
RECIPE = """
name: tiny
model: {model}
corpora: {{starter: {{train: 12, test: 6}}}}
tasks: [naturalness]
arms:
  weight-matched: {{explanation: none, gradient_of: why}}
  label: {{explanation: none}}
  why: {{explanation: assessment, words: 10}}
  longer: {{explanation: none, tokens_of: why}}
  as-long: {{explanation: assessment, words: 10, updates_of: longer}}
  spoken-to: {{explanation: assessment, words: 10, system: "Judge.", paraphrase: "Say how it is."}}
prompt: {{max_length: 400}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 1, per_device_train_batch_size: 4}}
predict: {{explanations: 1, max_new_tokens: 4}}
evidence: {{bootstrap: 100, baselines: [prior]}}
"""
QUIET = Progress(quiet=True)


def told(text: str, label: str = "joy", n: int = 0) -> Told:
    example = Example(id=f"e{n}", source="s", group=f"g{n}", turns=(Turn(role="text", text="t"),))
    verdict = Verdict(example_id=example.id, task=TASK.name, label=label, score=None,
                      shares={label: 1.0}, votes=1, assessment=text)  # fmt: skip
    return Told(example=example, verdict=verdict, generated=f"as {text}")


# Lessons


@given(
    texts=st.lists(
        st.lists(st.sampled_from(["so", "joy", "Joyful", "deep", "fear", "anger,", "much"]),
                 min_size=1, max_size=9).map(" ".join),
        min_size=2, max_size=6,
    ),
    kind=st.sampled_from(["assessment", "generated", *PSEUDO]),
    words=st.none() | st.integers(1, 5),
    layout=st.sampled_from([Layout.LABEL_EXPLANATION, Layout.BOTH_SIDES]),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_a_masked_lesson_names_no_label(
    texts: list[str], kind: Any, words: int | None, layout: Layout, seed: int
) -> None:
    said = [told(f"office {text}", ("joy", "anger")[n % 2], n) for n, text in enumerate(texts * 2)]
    arm = Arm(explanation=kind, mask_labels=True, words=words, layout=layout)
    made = explanations.lessons(said, TASK, arm, seed)
    for lesson in made:
        assert lesson.explanation is not None
        assert not leaks.leaks(lesson.explanation, TASK.label_names)
    assert [lesson.label for lesson in made] == [one.label for one in said]


def test_a_replacement_has_the_words_of_what_it_stands_for() -> None:
    said = [told(f"clear short warm reply number{n}", ("joy", "anger")[n % 2], n)
            for n in range(8)]  # fmt: skip
    for kind in PSEUDO:
        arm = Arm.model_validate({"explanation": kind, "words": 4})
        for lesson in explanations.lessons(said, TASK, arm, 0):
            assert lesson.explanation is not None
            assert len(lesson.explanation.split()) == 4, kind
    shuffled = Arm(explanation="own-shuffled", of="generated")
    for one, lesson in zip(said, explanations.lessons(said, TASK, shuffled, 0), strict=True):
        assert sorted((lesson.explanation or "").split()) == sorted((one.generated or "").split())


def test_nothing_but_training_examples_gives_words(tmp_path: Path) -> None:
    """Each explanation has a word of its own; those of held-out examples are never drawn."""
    rows = ["text,label,explanation,split"]
    rows += [f"text {n},{'AB'[n % 2]},trained{n},train" for n in range(20)]
    rows += [f"text {n},{'AB'[n % 2]},tested{n},test" for n in range(20, 40)]
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    kinds = [kind for kind in PSEUDO if kind not in ("random-fully", "filler")]
    recipe = Recipe.model_validate({
        "name": "mine", "model": "nowhere",
        "corpora": {"mine": {"loader": "table", "path": str(tmp_path / "data.csv"),
                             "validation": 4, "columns": {
                                 "text": "text", "explanation": "explanation", "split": "split"}}},
        "tasks": [{"name": "letter", "question": "Which?", "labels": ["A", "B"]}],
        "arms": {kind: {"explanation": kind} for kind in kinds},
    })  # fmt: skip
    (material,) = gather(recipe).values()
    of_training = {one.verdict.assessment for one in material.told}
    assert len(of_training) == 16
    for kind in kinds:
        for seed in range(5):
            for lesson in material.lessons(kind, seed):
                assert {*(lesson.explanation or "").split()} <= of_training, kind
    assert material.lessons("random-shuffle", 1) == material.lessons("random-shuffle", 1)
    assert material.lessons("random-shuffle", 1) != material.lessons("random-shuffle", 2)


def test_generated_reasons_are_taught_and_missing_ones_told(tmp_path: Path) -> None:
    recipe = recipe_file.parse(
        """
name: two
model: nowhere
corpora: {starter: {train: 12, test: 6}}
tasks: [naturalness]
generator: {corpora: {starter: {train: 6, test: 2}}, tasks: [naturalness], max_new_tokens: 7}
arms: {label: {}, told: {explanation: generated}}
""",
        place="two.yaml", folder=tmp_path,
    )  # fmt: skip
    with pytest.raises(TeachingError, match=r"arms\.told: needs explanation generated.*explain"):
        gather(recipe)
    (material,) = gather(recipe, stand_in=True).values()
    assert material.unwritten == 12
    assert {len((x.explanation or "").split()) for x in material.lessons("told", 0)} == {7}
    file = tmp_path / "two.reasons" / reasons.NAME
    reasons.append(file, [
        reasons.Reason(corpus="starter", task="naturalness", example_id=one.example.id,
                       label=one.label, reason=f"it is {one.label}", cut=False, leaks=True,
                       about=reasons.about(recipe, one.example, material.task, one.label), key="k")
        for one in material.told[1:]
    ])  # fmt: skip
    (material,) = gather(recipe).values()
    assert (material.unwritten, material.dropped) == (0, {"no explanation": 1})
    for lesson in material.lessons("told", 0):
        assert lesson.explanation == f"it is {lesson.label}"
    settings = recipe.generator and recipe.generator.model_copy(update={"max_new_tokens": 9})
    (other,) = gather(recipe.model_copy(update={"generator": settings}), stand_in=True).values()
    assert other.unwritten == 12, "written with other settings"


def test_the_only_example_of_a_label_is_left_out_where_none_can_stand_in() -> None:
    said = [told(f"text {n}", "joy" if n < 3 else "anger" if n < 5 else "deep fear", n)
            for n in range(6)]  # fmt: skip
    examples, verdicts = [one.example for one in said], [one.verdict for one in said]
    arms = {"other": Arm(explanation="other-same")}
    found = explanations.teachable(examples, verdicts, TASK, arms)
    assert found.dropped == {"no other example with its label": 1}
    assert len(explanations.lessons(found.told, TASK, arms["other"], 0)) == 5
    assert not explanations.teachable(examples, verdicts, TASK, {"label": Arm()}).dropped


def test_every_task_draws_words_of_its_own(material: Material) -> None:
    arm = Arm(explanation="random-fully")
    one, other = (
        [x.explanation for x in explanations.lessons(material.told, task, arm, 0, corpus)]
        for task, corpus in (
            (material.task, "starter"), (replace(material.task, name="other"), "starter"))
    )  # fmt: skip
    assert not {*one} & {*other}


def test_versions_of_the_word_lists_are_recorded() -> None:
    assert {"english-words", "scikit-learn"} <= store.provenance()["versions"].keys()
    assert len(vocabulary.dictionary()) > 200_000


# Knobs


@pytest.mark.parametrize(
    ("arms", "fault"),
    [
        ({"a": {"explanation": "assessment", "of": "confidence"}}, "`of` is for what is made"),
        ({"a": {"explanation": "none", "words": 3}}, "found words 3, but the arm has no"),
        ({"a": {"explanation": "none", "mask_labels": True}}, "found mask_labels True"),
        ({"a": {"explanation": "none", "label_weight": 0}}, "then nothing is learned"),
        ({"a": {"explanation": "random-words"}}, "random-words"),
        ({"a": {}, "b": {"tokens_of": "c"}}, "b.tokens_of: 'c' is no arm; known: a, b"),
        ({"a": {"tokens_of": "a"}}, "names the arm itself"),
        ({"a": {}, "b": {"tokens_of": "a"}, "c": {"tokens_of": "b"}}, "itself matched"),
        ({"a": {}, "b": {"tokens_of": "a", "updates_of": "a"}}, "both tokens_of and updates_of"),
        ({"a": {"explanation": "assessment", "label_weight": 0}, "b": {"gradient_of": "a"}},
         "labels weigh nothing in a"),
        ({"a": {"explanation": "generated"}}, "generator: missing, but arms.a teaches generated"),
    ],
)  # fmt: skip
def test_arms_that_cannot_be_are_refused(arms: dict[str, Any], fault: str) -> None:
    text = json.dumps({"name": "x", "model": "m", "corpora": {"starter": {}},
                       "tasks": ["naturalness"], "arms": arms})  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        recipe_file.parse(text, place="x.yaml")
    assert fault in str(caught.value)


# Runs


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path) -> Recipe:
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="tiny.yaml")


@pytest.fixture(scope="module")
def material(recipe: Recipe) -> Material:
    return gather(recipe)["starter", "naturalness"]


@pytest.fixture(scope="module")
def studied(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "tiny"
    grid.study(recipe, folder, QUIET)
    return folder


def cell(arm: str) -> Cell:
    return Cell(corpus="starter", tasks=("naturalness",), arm=arm, seed=0)


def facts(studied: Path, arm: str) -> dict[str, Any]:
    found = store.read_json(studied / "runs" / cell(arm).id / "run.json")
    assert isinstance(found, dict)
    return found


def test_a_run_says_what_it_took(studied: Path, recipe: Recipe, material: Material) -> None:
    student = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
    for arm in ("label", "why"):
        found = facts(studied, arm)
        bundles = taught.lessons(recipe, cell(arm), [material], student)
        for span, count in effort.supervised(bundles).items():
            assert found["tokens"][f"supervised_{span}"] == count
        adapted = models.adapt(student, recipe.train, 0)
        student = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
        assert found["flops"] == effort.flops(adapted, bundles)  # one pass
        assert 0 < found["label_share"] <= 1
        assert 0 < found["label_share_at_start"] <= 1
    assert facts(studied, "label")["label_share"] > facts(studied, "why")["label_share"]
    assert facts(studied, "label")["updates"] == facts(studied, "why")["updates"] == 3


def test_a_control_is_matched_to_its_arm(studied: Path, recipe: Recipe) -> None:
    why, longer = facts(studied, "why"), facts(studied, "longer")

    def seen(found: dict[str, Any]) -> float:
        tokens: dict[str, int] = found["tokens"]
        per_epoch = sum(n for name, n in tokens.items() if name.startswith("supervised_"))
        return per_epoch * tokens["total"] / tokens["per_epoch"]

    # An update is never split, so training is longer by a part of one at most.
    assert 1 <= seen(longer) / seen(why) < 1 + 1 / longer["updates"] + 0.05
    assert facts(studied, "as-long")["updates"] == longer["updates"] > why["updates"]
    gentle = facts(studied, "weight-matched")
    assert gentle["label_share"] == gentle["label_share_at_start"] == 1
    assert gentle["matched"] == {"learning_rate": 1e-2 * why["label_share"]}
    history = store.read_jsonl(studied / "runs" / cell("why").id / "history.jsonl")
    (row,) = history
    start, end, falling = why["label_share_at_start"], row["label_share"], (1, 2 / 3, 1 / 3)
    between = [start + (end - start) * step / 3 for step in range(3)]
    expected = math.fsum(r * share for r, share in zip(falling, between, strict=True)) / 2
    assert why["label_share"] == pytest.approx(expected)
    rates = [row["learning_rate"] for row in
             store.read_jsonl(studied / "runs" / cell("weight-matched").id / "history.jsonl")]  # fmt: skip
    plain = [row["learning_rate"] for row in
             store.read_jsonl(studied / "runs" / cell("label").id / "history.jsonl")]  # fmt: skip
    assert rates == pytest.approx([rate * why["label_share"] for rate in plain])


def test_what_is_matched_is_taught_first(
    studied: Path, recipe: Recipe, material: Material, tmp_path: Path
) -> None:
    order = [one.arm for one in grid.cells(recipe, {("starter", "naturalness"): material})]
    assert order == ["label", "why", "longer", "as-long", "spoken-to", "weight-matched"]
    with pytest.raises(RecipeError, match=r"gradient_of: why is not taught yet.*--arm why"):
        grid.single(recipe, "weight-matched", tmp_path / "alone", QUIET)
    assert not (tmp_path / "alone").exists()
    # What the other arm is taught is part of what this one is.
    other = recipe.arms["why"].model_copy(update={"label_weight": 2.0})
    changed = recipe.model_copy(update={"arms": {**recipe.arms, "why": other}})
    for arm, same in (("label", True), ("why", False), ("weight-matched", False)):
        before, after = (
            run_folder.cell_digest(r, cell(arm), [material]) for r in (recipe, changed)
        )
        assert (before == after) is same, arm


def test_a_run_of_a_version_without_these_knobs_stays_what_it_is(
    recipe: Recipe, material: Material
) -> None:
    """The digest as 0.1.0 wrote it, put together by hand."""
    knobs = recipe.predict.model_dump(mode="json")
    for new in ("samples", "temperature", "per_device_eval_batch_size"):
        del knobs[new]
    assert run_folder.cell_digest(recipe, cell("why"), [material]) == digest({
        "model": recipe.model,
        "tasks": [{
            "task": store.plain(material.task),
            "lessons": [[x.example.id, x.label, x.layout, x.explanation]
                        for x in material.lessons("why", 0)],
            "references": store.plain(material.references),
        }],
        "turns": [store.plain(example.turns) for example in material.corpus.examples],
        "seed": 0,
        "prompt": recipe.prompt.model_dump(mode="json"),
        "train": recipe.train.model_dump(
            mode="json", exclude={"tasks", "keep_adapters", "report_to"}
        ),
        "predict": knobs,
    })  # fmt: skip


def test_a_student_is_taught_with_one_instruction_and_asked_with_another(
    studied: Path, recipe: Recipe, material: Material
) -> None:
    folder = studied / "runs" / cell("spoken-to").id
    told = store.read_json(folder / "adapter" / "whytune.json")
    assert told["prompt"]["system"] == "Judge."
    found = store.read_predictions(folder / "predictions.parquet")[0]
    base = models.load(models.find(recipe.model), recipe.prompt, recipe.train)
    student = models.attach(base, folder / "adapter")
    answers = {}
    for system in ("Judge.", "Say how it is."):
        prompting = recipe.prompt.model_copy(update={"system": system})
        asked = replace(student, encoder=Encoder(base.encoder.tokenizer, prompting,
                                                 base.encoder.context))  # fmt: skip
        answers[system] = pipeline.ask(
            recipe, asked, material.part(Split.TEST), [material.task], Layout.LABEL_EXPLANATION,
            QUIET, "",
        )["naturalness"]  # fmt: skip
    assert [p.log_probs for p in answers["Say how it is."]] == [
        pytest.approx(p.log_probs) for p in found
    ]
    assert answers["Judge."][0].log_probs != pytest.approx(found[0].log_probs)
    cards = pipeline.evaluate(folder, "starter", QUIET)
    kept = store.read_json(folder / "scorecard.json")["metrics"]["label_nll"]["value"]
    assert cards["naturalness"].metrics["label_nll"].value == pytest.approx(kept)


def test_what_arms_take_is_known_before_they_run(studied: Path, recipe: Recipe) -> None:
    costs = loads.costs(recipe, QUIET)
    assert [load.arm for load in costs.loads] == list(recipe.arms)
    for load in costs.loads:
        found = facts(studied, load.arm)
        assert load.updates == found["updates"]
        assert load.tokens_per_epoch == found["tokens"]["per_epoch"]
        assert load.lessons == found["lessons"]
        assert load.supervised == {
            span: found["tokens"][f"supervised_{span}"] for span in load.supervised
        }
        assert load.seconds > 0
        assert load.measuring > 0
    assert costs.seconds == sum(load.seconds + load.measuring for load in costs.loads)
