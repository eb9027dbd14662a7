"""A label head beside transformers' own sequence classifier, and an arm that teaches one."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from whytune import pipeline, recipe_file, run_folder, store
from whytune.errors import EncodingError, FolderError, ModelError, RecipeError
from whytune.material import Material, conversations, gather
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.recipe_arms import Arm, match_faults
from whytune.recipe_student import Prompting, Train
from whytune.records import Example, Layout, Lesson, Outcome, Prediction, Split, Task, Turn
from whytune.run_folder import Cell
from whytune.student import models
from whytune.student.encode import Bundle, audit
from whytune.student.label_head import HeadEncoder, LabelHead
from whytune.student.models import Student
from whytune.student.objective import terms, token_nll, weigh, weighted_nll
from whytune.student.predict import predict
from whytune.student.train import train
from whytune.study import check, grid, loads

Students = Callable[..., Student]
QUIET = Progress(quiet=True)
SETTINGS = Train(
    learning_rate=1e-2, num_train_epochs=2, per_device_train_batch_size=2, lora_dropout=0.05,
    warmup_ratio=0.0, eval_steps=2, target_modules="all-linear",
)  # fmt: skip
# peft tells that GPT-2 stores its weights the other way round.
OTHER_WAY = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
of_families = pytest.mark.parametrize("family", [
    "llama", "llama-tied", "qwen2", "gemma2", "mistral", pytest.param("gpt2", marks=OTHER_WAY),
])  # fmt: skip


def headed(
    student: Students, tasks: list[Task], family: str = "llama", *, seed: int = 0, **more: Any
) -> Student:
    rows = {task.name: task.label_names for task in tasks}
    return models.adapt(student(family, **more), SETTINGS, seed, rows)


def spread_out(student: Student) -> Student:
    """Every weight of the adapter is drawn anew, so that none of them says nothing."""
    torch.manual_seed(5)
    for parameter in student.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return student


def asked(lessons: list[Lesson], task: Task) -> list[Lesson]:
    return [
        replace(lesson, task=task, label=task.label_names[n % len(task.labels)],
                layout=Layout.LABEL, explanation=None)
        for n, lesson in enumerate(lessons)
    ]  # fmt: skip


def bundles(student: Student, lessons: list[Lesson]) -> list[Bundle]:
    return [audit(student.encoder, [lesson], [lesson.task]) for lesson in lessons]


def ask(student: Student, examples: list[Example], task: Task) -> list[Prediction]:
    return predict(student, examples, [task], Layout.LABEL, batch_size=5)[task.name]


def state(student: Student) -> dict[str, Tensor]:
    return {k: t.clone() for k, t in get_peft_model_state_dict(student.adapted).items()}


def theirs(student: Student, folder: Path, n: int) -> PeftModel:
    """The classifier of transformers with the adapter that peft reads from our folder, once the
    output layer is called by its other name.
    """
    models.save_adapter(student, folder, {})
    saved = load_file(folder / "adapter_model.safetensors")
    save_file({name.replace("lm_head", "score"): t for name, t in saved.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head"]
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "modules_to_save": ["score"], "task_type": "SEQ_CLS"})
    )
    base = AutoModelForSequenceClassification.from_pretrained(
        student.base.location, num_labels=n, dtype=torch.float32, pad_token_id=student.pad
    )
    return PeftModel.from_pretrained(base, str(folder), is_trainable=True).eval()


def padded(student: Student, prompts: list[tuple[int, ...]]) -> dict[str, Tensor]:
    longest = max(map(len, prompts))
    ids = [[*ids, *[student.pad] * (longest - len(ids))] for ids in prompts]
    mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


# Beside the classifier of transformers


@of_families
def test_probabilities_loss_and_gradients_are_those_of_a_sequence_classifier(
    family: str, student: Students, lessons: list[Lesson], examples: list[Example], task: Task,
    tmp_path: Path,
) -> None:  # fmt: skip
    made = spread_out(headed(student, [task], family))
    other = theirs(made, tmp_path / "adapter", len(task.labels))
    prompts = [made.encoder.prompt(e, [task]) for e in examples]
    batch = padded(made, [prompt.prefix + prompt.questions[0] for prompt in prompts])
    labels = torch.tensor([n % 4 for n in range(len(lessons))])
    expected = other(**batch, labels=labels)
    found = ask(made, examples, task)
    # Mistral's window of 8 tokens shows it the question alone.
    assert len({p.label for p in found}) > 1 or family == "mistral", "they tell texts apart"
    for prediction, row in zip(found, expected.logits.log_softmax(-1).tolist(), strict=True):
        assert list(prediction.log_probs.values()) == pytest.approx(row, abs=1e-4)
        assert prediction.label == task.label_names[max(range(4), key=row.__getitem__)]
        assert prediction.label_mass == pytest.approx(1, abs=1e-6)
        assert prediction.expected == pytest.approx(
            sum(p * value for p, value in zip(prediction.probs.values(), task.values, strict=True))
        )
    loss = token_nll(made, bundles(made, asked(lessons, task))).mean()
    torch.testing.assert_close(loss, expected.loss, atol=1e-4, rtol=1e-4)
    loss.backward()
    expected.loss.backward()
    gradients = {n.replace("score", "lm_head"): p.grad for n, p in other.named_parameters()}
    trained = {n: p.grad for n, p in made.model.named_parameters() if p.requires_grad}
    assert sum("lm_head" in name for name in trained) == 1
    assert trained.keys() == {name for name, grad in gradients.items() if grad is not None}
    for name, gradient in trained.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, gradients[name], atol=1e-4, rtol=1e-3)


@of_families
def test_a_saved_head_on_its_base_answers_the_same(
    family: str, student: Students, lessons: list[Lesson], examples: list[Example], task: Task,
    tmp_path: Path,
) -> None:  # fmt: skip
    made = headed(student, [task], family)
    train(made, bundles(made, asked(lessons, task)), SETTINGS, seed=0, folder=tmp_path / "at",
          measure=lambda: {"t": 0.0})  # fmt: skip
    answers = ask(made, examples, task)
    models.save_adapter(made, tmp_path / "adapter", {"head": made.encoder.head})
    again = models.attach(student(family), tmp_path / "adapter")
    assert ask(again, examples, task) == answers
    assert ask(headed(student, [task], family), examples, task) != answers


def test_peft_alone_finds_the_output_layer_in_the_place_of_the_head(
    student: Students, task: Task, tmp_path: Path
) -> None:
    models.save_adapter(headed(student, [task]), tmp_path / "adapter", {})
    with pytest.raises(ModelError, match=r"does not fit on.*lm_head.*give the base"):
        models.attach(student(), tmp_path / "adapter")


def test_a_head_begins_as_that_of_a_classifier_and_the_adapter_as_without_one(
    student: Students, single_task: Task, task: Task
) -> None:
    made = headed(student, [single_task, task], "llama-tied", seed=3)
    own = state(made)
    head = own.pop("base_model.model.lm_head.weight")
    assert head.shape == (7, 32)
    # conftest's initializer_range
    assert float(head.std()) == pytest.approx(0.15, rel=0.15)
    words = state(student("llama-tied", seed=3, settings=SETTINGS))
    assert own.keys() == words.keys()
    assert all(torch.equal(own[name], words[name]) for name in own)
    again = state(headed(student, [single_task, task], "llama-tied", seed=3))
    assert torch.equal(again["base_model.model.lm_head.weight"], head)
    other = state(headed(student, [single_task, task], "llama-tied", seed=4))
    assert not torch.equal(other["base_model.model.lm_head.weight"], head)
    base: Any = made.adapted.get_base_model()
    embeddings = base.get_input_embeddings().weight
    assert embeddings.shape[0] > 7
    assert not embeddings.requires_grad


@pytest.mark.parametrize("narrow", ["bfloat16", "4 bits"])
def test_a_head_on_a_narrow_base_stays_wide(
    narrow: str, student: Students, folder_of: Callable[[str], Path], lessons: list[Lesson],
    examples: list[Example], task: Task, tmp_path: Path,
) -> None:  # fmt: skip
    base = models.find(str(folder_of("wide")))
    settings = SETTINGS.model_copy(
        update={"load_in_4bit": True, "dtype": "float32"}
        if narrow == "4 bits"
        else {"dtype": "bfloat16"}
    )

    def loaded() -> Student:
        return models.load(base, Prompting(max_length=256), settings)

    made = models.adapt(loaded(), settings, 0, {task.name: task.label_names})
    assert state(made)["base_model.model.lm_head.weight"].dtype is torch.float32
    spread_out(made)
    made.model.train()
    token_nll(made, bundles(made, asked(lessons, task)[:2])).sum().backward()
    assert all(p.grad is not None for p in made.model.parameters() if p.requires_grad)
    models.save_adapter(made, tmp_path / "adapter", {"head": made.encoder.head})
    again = models.attach(loaded(), tmp_path / "adapter")
    assert torch.equal(state(again)["base_model.model.lm_head.weight"],
                       state(made)["base_model.model.lm_head.weight"])  # fmt: skip
    for one, two in zip(ask(again, examples, task), ask(made, examples, task), strict=True):
        assert one.log_probs == pytest.approx(two.log_probs, abs=1e-5)


def test_logits_of_narrow_states_are_wide_under_autocast_too() -> None:
    head = LabelHead(8, 3, bias=False)
    states = torch.randn(5, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(states)
    torch.testing.assert_close(found, (states.double() @ head.weight.double().T).float())


# Several tasks


def test_tasks_of_one_head_do_not_see_each_others_rows(
    student: Students, examples: list[Example], lessons: list[Lesson], task: Task,
    single_task: Task,
) -> None:  # fmt: skip
    tasks = [single_task, task]
    made = spread_out(headed(student, tasks))
    about = [[asked(lessons, own)[n] for own in tasks] for n in range(4)]
    both = [audit(made.encoder, own, tasks) for own in about]
    head = next(p for n, p in made.model.named_parameters() if "lm_head" in n and p.requires_grad)
    made.model.eval()
    losses = token_nll(made, both)
    (gradient,) = torch.autograd.grad(losses[1::2].sum(), head)
    assert not gradient[:3].any()
    assert gradient[3:].any(dim=1).all()
    before = predict(made, examples, tasks, Layout.LABEL, batch_size=4)
    with torch.no_grad():
        head[:3] += 100 * torch.randn(3, 32)
    after = predict(made, examples, tasks, Layout.LABEL, batch_size=4)
    assert after[task.name] == before[task.name]
    assert after["letter"] != before["letter"]
    for own in (task, single_task):
        assert all(p.label_mass == pytest.approx(1) for p in after[own.name])
        assert list(after[own.name][0].log_probs) == list(own.label_names)
    torch.testing.assert_close(token_nll(made, both)[1::2], losses[1::2])


def test_a_head_is_asked_what_it_was_taught(student: Students, task: Task, lessons: list[Lesson]) -> None:  # fmt: skip
    made = headed(student, [task])
    other = replace(task, labels=task.labels[::-1])
    with pytest.raises(EncodingError, match=r"task usefulness \(good.*answers usefulness \(bad"):
        made.encoder.labels(other)
    assert isinstance(made.encoder, HeadEncoder)
    prompting = Prompting(system="Judge.")
    spoken_to = made.encoder.prompted(prompting)
    assert (spoken_to.prompting, spoken_to.head) == (prompting, made.encoder.head)
    (lesson,) = asked(lessons, task)[2:3]
    (branch,) = audit(spoken_to, [lesson], [task]).branches
    assert spoken_to.said(branch.parts[-1], branch.ids[-1:]) == "fairly bad"
    assert (branch.parts.count(branch.parts[-1]), branch.ids[-1], branch.among) == (1, 2, range(4))


def test_smoothing_is_that_of_torch(student: Students, lessons: list[Lesson], task: Task) -> None:
    made = spread_out(headed(student, [task]))
    arm = Arm(head=True, label_smoothing=0.2)
    plain = asked(lessons, task)
    weighed = [
        weigh(bundle, [lesson], arm, made.encoder)
        for bundle, lesson in zip(bundles(made, plain), plain, strict=True)
    ]
    rows = torch.tensor([list(p.log_probs.values()) for p in ask(made, [x.example for x in plain], task)])  # fmt: skip
    labels = torch.tensor([task.label_names.index(lesson.label) for lesson in plain])
    with torch.no_grad():
        found = weighted_nll(made, weighed).sum() / sum(weight for _, weight in terms(weighed))
    expected = functional.cross_entropy(rows, labels, label_smoothing=0.2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# Training


def test_a_head_learns_what_can_be_told_apart(
    student: Students, single_task: Task, tmp_path: Path
) -> None:
    words = {"A": "morning", "B": "useful", "C": "nobody"}

    def text(n: int) -> Example:
        said = f"Office {n}: {words['ABC'[n % 3]]} says page {n * 7 % 11}."
        return Example(id=f"t{n}", source="t", group=f"t{n}", turns=(Turn(role="user", text=said),))

    made = headed(student, [single_task])
    told = [Lesson(example=text(n), task=single_task, label="ABC"[n % 3], layout=Layout.LABEL,
                   explanation=None) for n in range(30)]  # fmt: skip
    settings = SETTINGS.model_copy(update={"num_train_epochs": 6, "eval_steps": None})
    done = train(made, bundles(made, told), settings, seed=0, folder=tmp_path,
                 measure=lambda: {"t": 0.0})  # fmt: skip
    unseen = [text(n) for n in range(30, 60)]
    assert [p.label for p in ask(made, unseen, single_task)] == ["ABC"[n % 3] for n in range(30)]
    assert done.label_share == 1, "nothing but the label is supervised"


def test_an_interrupted_head_ends_where_a_whole_one_ends(
    student: Students, lessons: list[Lesson], task: Task, tmp_path: Path
) -> None:
    def taught_in(folder: Path, stop: int | None = None) -> dict[str, Tensor]:
        made = headed(student, [task])
        settings = SETTINGS.model_copy(update={"load_best_model_at_end": True})

        def advance(step: int, _: float) -> None:
            if step == stop:
                raise KeyboardInterrupt

        def measure() -> dict[str, float]:
            found = ask(made, [lesson.example for lesson in lessons[:3]], task)
            return {task.name: -sum(p.log_probs["good"] for p in found)}

        train(made, bundles(made, asked(lessons, task)), settings, seed=0, folder=folder,
              measure=measure, advance=advance)  # fmt: skip
        return state(made)

    whole = taught_in(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        taught_in(tmp_path / "parts", stop=7)
    again = taught_in(tmp_path / "parts")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert "base_model.model.lm_head.weight" in whole


# The arm

RECIPE = """
name: heads
model: {model}
corpora: {{starter: {{train: 8, validation: 4, test: 10}}}}
tasks:
  - naturalness
  - {{name: on_topic, kind: ordinal, question: 'Does it keep to the point?', labels: [none, partly, all]}}
arms:
  label: {{explanation: none}}
  head: {{explanation: none, head: true, system: "Judge.", paraphrase: "Say how it is."}}
  longer: {{head: true, updates_of: label, label_smoothing: 0.1}}
prompt: {{context_turns: 0, max_length: 256}}
train: {{tasks: {tasks}, learning_rate: 1.0e-2, num_train_epochs: 2, eval_steps: 2,
        per_device_train_batch_size: 2}}
predict: {{per_device_eval_batch_size: 4, explanations: 2, max_new_tokens: 4}}
evidence: {{bootstrap: 100, baselines: [prior]}}
"""
FILES = ("predictions.parquet", "history.jsonl", "examples.json", "scorecard.json",
         "adapter/adapter_model.safetensors", "adapter/whytune.json")  # fmt: skip


class Stopping(Progress):
    """Interrupts the teaching of an arm."""

    def __init__(self, title: str, at: int):
        super().__init__(quiet=True)
        self.title, self.left = title, at

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        with super().work(title, total) as advance:

            def counted(count: int = 1, note: str = "") -> None:
                advance(count, note)
                self.left -= title == self.title
                if self.left == 0:
                    raise KeyboardInterrupt

            yield counted


def recipe_of(folder: Path, tasks: str = "joint") -> Recipe:
    return recipe_file.parse(RECIPE.format(model=folder, tasks=tasks), place="heads.yaml")


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path) -> Recipe:
    return recipe_of(tiny_folder)


@pytest.fixture(scope="module")
def materials(recipe: Recipe) -> list[Material]:
    return list(gather(recipe).values())


@pytest.fixture(scope="module")
def studied(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "study"
    grid.study(recipe, folder, QUIET)
    return folder


def run_of(studied: Path, arm: str) -> Path:
    return studied / "runs" / f"starter--naturalness+on_topic--{arm}--s0"


def test_a_study_has_label_and_head_in_one_table(studied: Path, materials: list[Material]) -> None:
    summary = store.read_json(studied / "summary.json")
    assert {"label", "head", "longer"} <= {row["name"] for row in summary["rows"]}
    predictions, _ = store.read_predictions(run_of(studied, "head") / "predictions.parquet")
    assert {p.outcome for p in predictions} == {Outcome.READ}
    assert all(p.label_mass == pytest.approx(1) for p in predictions)
    facts = {arm: store.read_json(run_of(studied, arm) / "run.json") for arm in ("label", "head")}
    assert facts["head"]["tokens"]["supervised_label"] == facts["head"]["lessons"] == 16
    assert facts["head"]["tokens"]["supervised_frame"] == 0
    assert facts["head"]["tasks"] == facts["label"]["tasks"]
    told = store.read_json(run_of(studied, "head") / "adapter" / "whytune.json")
    assert told["head"] == {m.task.name: list(m.task.label_names) for m in materials}
    assert not {"label_ids", "labels"} & set(told)
    assert "head" not in store.read_json(run_of(studied, "label") / "adapter" / "whytune.json")


def test_an_interrupted_study_of_heads_ends_the_same(
    studied: Path, recipe: Recipe, tmp_path: Path
) -> None:
    stopping = Stopping("starter--naturalness+on_topic--head--s0: teaching", 5)
    with pytest.raises(KeyboardInterrupt):
        grid.study(recipe, tmp_path, stopping)
    assert (run_of(tmp_path, "head") / "checkpoints").is_dir()
    grid.study(recipe, tmp_path, QUIET)
    for arm in recipe.arms:
        for name in FILES:
            whole, again = (run_of(folder, arm) / name for folder in (studied, tmp_path))
            assert whole.read_bytes() == again.read_bytes(), (arm, name)


def test_a_head_asked_again_answers_the_same(studied: Path) -> None:
    folder = run_of(studied, "head")
    cards = store.plain(pipeline.evaluate(folder, "starter", QUIET))
    for task, card in store.read_json(folder / "scorecard.json").items():
        for name, figure in card["metrics"].items():
            assert cards[task]["metrics"][name] == pytest.approx(figure, abs=1e-5), (task, name)
    told = folder / "adapter" / "whytune.json"
    whole = told.read_bytes()
    told.write_text("{")
    with pytest.raises(FolderError, match=r"whytune\.json: cannot be read"):
        pipeline.evaluate(folder, "starter", QUIET)
    told.write_bytes(whole)


def test_a_head_of_one_task_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_folder, "separate")
    material = gather(recipe)["starter", "on_topic"]
    cell = Cell(corpus="starter", tasks=("on_topic",), arm="head", seed=0)
    (card,) = pipeline.run(recipe, cell, [material], tmp_path, QUIET).values()
    assert card.n == 10
    told = store.read_json(tmp_path / "adapter" / "whytune.json")
    assert told["task"] == store.plain(material.task)
    assert told["head"] == {"on_topic": ["none", "partly", "all"]}


def test_the_knob_changes_the_digest_of_its_own_arm_alone(
    recipe: Recipe, materials: list[Material]
) -> None:
    def digest(arm: Arm) -> str:
        cell = Cell(corpus="starter", tasks=("naturalness",), arm="own", seed=0)
        material = replace(materials[0], arms={"own": arm})
        return run_folder.cell_digest(
            recipe.model_copy(update={"arms": {"own": arm}}), cell, [material]
        )

    plain = digest(Arm())
    assert digest(Arm(head=False)) == plain
    assert digest(Arm(head=True)) != plain
    assert "head" not in Arm().model_dump(exclude_defaults=True)


def test_a_check_shows_what_a_head_learns(recipe: Recipe, materials: list[Material]) -> None:
    last = check.check(recipe, QUIET)[-1]
    assert not last.faults
    shown = [masked for masked in last.masks if masked.arm == "head"]
    about = conversations(materials, "head", 0)
    for masked, lessons in zip(shown, about, strict=False):
        labels = [p.text for p in masked.pieces if p.part == "label"]
        assert labels == [lesson.label for lesson in lessons]
        assert {p.part for p in masked.pieces} == {"prompt", "label"}
        assert masked.pieces[0].text.startswith("<|im_start|>system\nJudge.")
    (load,) = (load for load in last.loads if load.arm == "head")
    assert load.supervised == {"label": 16, "explanation": 0, "frame": 0}
    assert load.seconds > 0


def test_a_recipe_of_heads_alone_can_be_checked(recipe: Recipe) -> None:
    alone = recipe.model_copy(update={"arms": {"head": recipe.arms["head"]}})
    (load,) = check.check(alone, QUIET)[-1].loads
    assert load.measuring > 0
    (cost,) = loads.costs(alone, QUIET).loads
    assert (cost.supervised, cost.updates) == (load.supervised, load.updates)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"explanation": "assessment"}, r"head with explanation assessment.*drop `head`, or"),
        ({"gradient_of": "why"}, r"head with gradient_of, but a head supervises no tokens"),
        ({"tokens_of": "why"}, r"head with tokens_of, but a head supervises no tokens"),
    ],
)
def test_what_a_head_cannot_be_is_refused(knobs: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arm.model_validate({"head": True, **knobs})


def test_no_tokens_are_matched_to_those_of_a_head(recipe: Recipe) -> None:
    for knob in ("tokens_of", "gradient_of"):
        arms = {"head": Arm(head=True), "other": Arm.model_validate({knob: "head"})}
        (fault,) = match_faults(arms)
        assert fault == (f"other.{knob}: head has a head, which supervises no tokens; name an arm "
                         "without")  # fmt: skip
    assert not match_faults({"head": Arm(head=True), "other": Arm(updates_of="head")})
    with pytest.raises(RecipeError, match=r"arms\.head.*drop `head`"):
        recipe_file.parse("name: x\nmodel: m\ncorpora: {starter: {}}\ntasks: [naturalness]\n"
                          "arms: {head: {head: true, explanation: assessment}}\n", place="x.yaml")  # fmt: skip


def test_every_test_example_is_answered(studied: Path, materials: list[Material]) -> None:
    predictions, _ = store.read_predictions(run_of(studied, "longer") / "predictions.parquet")
    expected = [(m.task.name, e.id) for m in materials for e in m.part(Split.TEST)]
    assert [(p.task, p.example_id) for p in predictions] == expected
