import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel

from whytune.errors import ModelError
from whytune.recipe_student import Prompting, Train
from whytune.records import Example, Layout, Lesson, Prediction, Task
from whytune.student import models
from whytune.student.encode import Bundle, audit
from whytune.student.models import Base, Student
from whytune.student.objective import token_nll
from whytune.student.predict import predict
from whytune.student.train import train

Students = Callable[..., Student]

SETTINGS = Train(learning_rate=1e-2, num_train_epochs=2, lora_dropout=0.0, warmup_ratio=0.0)
QUANTISED = SETTINGS.model_copy(update={"load_in_4bit": True})


def ask(student: Student, examples: list[Example], task: Task) -> list[Prediction]:
    return predict(student, examples, [task], Layout.LABEL, batch_size=4)[task.name]


def bundles(student: Student, lessons: list[Lesson]) -> list[Bundle]:
    return [audit(student.encoder, [lesson], [lesson.task]) for lesson in lessons]


def teach(student: Student, lessons: list[Lesson], settings: Train, folder: Path) -> list[float]:
    seen: list[float] = []
    train(student, bundles(student, lessons), settings, seed=0, folder=folder,
          measure=lambda: {"t": 0.0}, advance=lambda _, loss: seen.append(loss))  # fmt: skip
    return seen


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "gemma2"])
@pytest.mark.parametrize("modules", ["the default", "all-linear"])
def test_a_saved_adapter_on_its_base_answers_the_same(
    family: str, modules: str, student: Students, examples: list[Example], lessons: list[Lesson],
    task: Task, tmp_path: Path,
) -> None:  # fmt: skip
    settings = SETTINGS
    if modules == "all-linear":
        settings = SETTINGS.model_copy(update={"target_modules": "all-linear"})
    made = student(family, seed=0, settings=settings)
    teach(made, lessons, settings, tmp_path / "checkpoints")
    answers = ask(made, examples, task)
    models.save_adapter(made, tmp_path / "adapter", {})
    base = student(family)
    untaught = ask(base, examples, task)
    assert ask(models.attach(base, tmp_path / "adapter"), examples, task) == answers
    assert untaught != answers, "the adapter says something"


def test_an_adapter_folder_is_plain_peft_with_a_word_of_our_own(
    student: Students, examples: list[Example], lessons: list[Lesson], task: Task,
    tiny_folder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    made = student(seed=0, settings=SETTINGS)
    teach(made, lessons, SETTINGS, tmp_path / "checkpoints")
    folder = tmp_path / "adapter"
    models.save_adapter(made, folder, {"layout": Layout.LABEL, "labels": {"gut": (1, 2)}})
    names = {path.name for path in folder.iterdir()}
    assert names - {"README.md"} == {
        "adapter_config.json", "adapter_model.safetensors", "whytune.json",
    }  # fmt: skip
    facts = json.loads((folder / "whytune.json").read_text())
    assert facts == {"layout": "label", "labels": {"gut": [1, 2]}}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(folder)).eval()
    (bundle,) = bundles(made, lessons[:1])
    ids = torch.tensor([bundle.prefix])
    with torch.no_grad():
        found = plain(input_ids=ids).logits
        expected = made.model.eval()(input_ids=ids).logits
    # Joined passes round otherwise.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_saving_again_replaces_the_adapter_whole(student: Students, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    models.save_adapter(student(seed=0), folder, {"n": 1})
    (folder / "stale").touch()
    models.save_adapter(student(seed=1), folder, {"n": 2})
    assert json.loads((folder / "whytune.json").read_text()) == {"n": 2}
    assert not (folder / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_half_written_adapter_never_has_the_name(
    student: Students, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("whytune.student.models.store.write_json", full)
    with pytest.raises(OSError, match="No space"):
        models.save_adapter(student(seed=0), tmp_path / "adapter", {})
    assert not (tmp_path / "adapter").exists()


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 500
    return text


@pytest.mark.parametrize(
    "name", ["nobody/no-such-model", "nobody/no-such-model@main", "not a name"]
)
def test_a_base_that_cannot_be_had_is_told_in_one_line(name: str) -> None:
    with pytest.raises(ModelError) as error:
        models.load(models.find(name), Prompting())
    assert f"model {name}: cannot be had" in one_line(error)


def test_a_folder_without_a_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"found no config\.json") as error:
        models.find(str(tmp_path))
    one_line(error)
    with pytest.raises(ModelError, match=r"found no config\.json"):
        models.find(str(tmp_path / "not there"))
    # Pickled weights are none.
    shutil.copy(tiny_folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="safetensors there"):
        models.find(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0nonsense"),
        ("model.safetensors", None),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard-of"}'),
        ("tokenizer.json", b"{}"),
    ],
)
def test_a_folder_that_is_not_whole_is_told_in_one_line(
    file: str, content: bytes | None, tiny_folder: Path, tmp_path: Path
) -> None:
    for path in tiny_folder.iterdir():
        shutil.copy(path, tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ModelError, match="cannot be had") as error:
        models.load(models.find(str(tmp_path)), Prompting())
    one_line(error)


def test_a_revision_stands_after_an_at_sign() -> None:
    assert models.find("a/b@v1") == Base(name="a/b@v1", location="a/b", revision="v1")
    assert models.find("a/b") == Base(name="a/b", location="a/b", revision=None)


def test_a_folder_may_have_an_at_sign_in_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a@b"
    shutil.copytree(tiny_folder, folder)
    assert models.find(str(folder)).location == str(folder)


def test_the_alias_is_unpacked_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setenv("WHYTUNE_CACHE", str(tmp_path))

    def unpack(source: Path, file: str, folder: Path) -> None:
        assert (source / file).name == models.SMOLLM2_GGUF
        folder.mkdir()
        (folder / "config.json").touch()

    monkeypatch.setattr(models, "_unpack_gguf", unpack)
    monkeypatch.setattr(models, "SMOLLM2_PACKAGE", "json")
    first = models.find(models.SMOLLM2, log=said.append)
    assert models.find(models.SMOLLM2, log=said.append) == first
    assert first == Base(name=models.SMOLLM2, location=str(tmp_path / "smollm2-135m-q4_1"))
    assert len(said) == 1
    monkeypatch.setattr(models, "SMOLLM2_PACKAGE", "no_such_package")
    assert models.find(models.SMOLLM2).location == models.SMOLLM2_HUB


def test_a_package_without_its_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHYTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "SMOLLM2_PACKAGE", "json")
    with pytest.raises(ModelError, match="not there; reinstall"):
        models.find(models.SMOLLM2)


@pytest.mark.parametrize(("family", "modules"), [("llama", ["query"]), ("gpt2", ["q_proj"])])
def test_projections_that_the_model_has_not_are_told(
    family: str, modules: list[str], student: Students
) -> None:
    with pytest.raises(ModelError, match=r"set train\.target_modules") as error:
        models.adapt(student(family), Train(target_modules=modules), 0)
    one_line(error)


def test_an_adapter_may_stand_on_some_blocks_only(student: Students) -> None:
    upper = SETTINGS.model_copy(update={"layers_to_transform": [1]})
    names = [n for n, p in student(seed=0, settings=upper).model.named_parameters()
             if p.requires_grad]  # fmt: skip
    assert len(names) == 14
    assert all(".layers.1." in name for name in names)
    beyond = SETTINGS.model_copy(update={"layers_to_transform": [0, 2]})
    with pytest.raises(ModelError, match=r"found block 2 .* expected 0 to 1") as error:
        student(seed=0, settings=beyond)
    one_line(error)


def test_an_adapter_is_put_on_a_bare_base_only(student: Students) -> None:
    with pytest.raises(ModelError, match="has an adapter already"):
        models.adapt(student(seed=0), Train(), 0)
    with pytest.raises(ModelError, match="has no adapter yet"):
        _ = student().adapted


def test_a_folder_without_an_adapter_is_refused(
    student: Students, tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelError, match="no adapter there") as error:
        models.attach(student(), tmp_path)
    one_line(error)


def test_an_adapter_of_another_base_is_refused(student: Students, tmp_path: Path) -> None:
    models.save_adapter(student("wide", seed=0), tmp_path / "adapter", {})
    with pytest.raises(ModelError, match="does not fit") as error:
        models.attach(student(), tmp_path / "adapter")
    one_line(error)


def test_a_fresh_adapter_says_what_the_base_says(
    student: Students, examples: list[Example], task: Task
) -> None:
    fresh, base = ask(student(seed=0), examples, task), ask(student(), examples, task)
    for one, other in zip(fresh, base, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@pytest.fixture
def quantised(student: Students) -> Callable[..., Student]:
    def make(seed: int | None = 0, settings: Train = QUANTISED) -> Student:
        return student("wide", seed=seed, settings=settings, load_in_4bit=True)

    return make


def packed(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    import bitsandbytes.nn.modules

    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()
            if isinstance(parameter, bitsandbytes.nn.modules.Params4bit)}  # fmt: skip


def test_a_base_in_four_bits_learns_and_stays_as_it_was(
    quantised: Callable[..., Student], lessons: list[Lesson], tmp_path: Path
) -> None:
    made = quantised()
    before = packed(made.model)
    assert len(before) == 2 * 7
    assert {tensor.dtype for tensor in before.values()} == {torch.uint8}
    states = [
        getattr(p, "quant_state", None) for p in made.model.parameters() if p.dtype is torch.uint8
    ]
    assert [(state.quant_type, state.nested) for state in states if state] == [("nf4", True)] * 14
    assert all("lora" in n for n, p in made.model.named_parameters() if p.requires_grad)
    with torch.no_grad():
        first = float(token_nll(made, bundles(made, lessons)).mean())
    teach(made, lessons, QUANTISED.model_copy(update={"num_train_epochs": 1 / 3}), tmp_path)
    made.model.eval()
    with torch.no_grad():
        assert float(token_nll(made, bundles(made, lessons)).mean()) < first - 1e-3
    for name, tensor in packed(made.model).items():
        assert torch.equal(tensor, before[name]), name


def test_four_bits_answer_much_as_the_whole_base_does(
    quantised: Callable[..., Student], student: Students, examples: list[Example], task: Task
) -> None:
    found = ask(quantised(None), examples, task)
    whole = ask(student("wide"), examples, task)
    assert found != whole
    for one, two in zip(found, whole, strict=True):
        assert one.log_probs == pytest.approx(two.log_probs, rel=0.3, abs=0.5)


def test_asking_in_between_does_not_change_what_a_base_in_four_bits_learns(
    quantised: Callable[..., Student], examples: list[Example], lessons: list[Lesson], task: Task,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = QUANTISED.model_copy(update={"eval_steps": 1})
    prints = []
    for asked in (False, True):
        made = quantised()

        def measure(made: Student = made, asked: bool = asked) -> dict[str, float]:
            if asked:
                ask(made, examples[:2], task)
            return {"t": 0.0}

        train(made, bundles(made, lessons), settings, seed=0, measure=measure,
              folder=tmp_path / str(asked))  # fmt: skip
        prints.append(models.fingerprint(made))
    assert prints[0] == prints[1]


def test_gradients_through_four_bits_are_right_after_asking(
    quantised: Callable[..., Student], examples: list[Example], lessons: list[Lesson], task: Task
) -> None:
    made = quantised()
    ask(made, examples[:2], task)
    lesson = bundles(made, lessons[:1])
    made.model.eval()
    parameter = next(p for n, p in made.model.named_parameters() if "lora_B" in n)
    token_nll(made, lesson).sum().backward()
    assert parameter.grad is not None
    at = int(parameter.grad.abs().argmax())
    found = float(parameter.grad.view(-1)[at])
    losses = []
    for shift in (1e-2, -1e-2):
        with torch.no_grad():
            parameter.view(-1)[at] += shift
            losses.append(float(token_nll(made, lesson).sum()))
            parameter.view(-1)[at] -= shift
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(found, rel=0.02)


def test_an_adapter_learned_in_four_bits_comes_back(
    quantised: Callable[..., Student], examples: list[Example], lessons: list[Lesson], task: Task,
    tmp_path: Path,
) -> None:  # fmt: skip
    made = quantised()
    teach(made, lessons, QUANTISED, tmp_path / "checkpoints")
    models.save_adapter(made, tmp_path / "adapter", {})
    again = models.attach(quantised(None), tmp_path / "adapter")
    assert get_peft_model_state_dict(again.adapted).keys()
    for one, two in zip(ask(again, examples, task), ask(made, examples, task), strict=True):
        assert one.log_probs == pytest.approx(two.log_probs, abs=1e-5)


def test_gradient_checkpointing_works_in_four_bits(
    quantised: Callable[..., Student], lessons: list[Lesson], tmp_path: Path
) -> None:
    prints = []
    for saving in (False, True):
        settings = QUANTISED.model_copy(update={"gradient_checkpointing": saving})
        made = quantised(settings=settings)
        teach(made, lessons, settings, tmp_path / str(saving))
        prints.append(models.fingerprint(made))
    assert prints[0] == prints[1]
