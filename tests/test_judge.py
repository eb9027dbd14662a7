"""A finished student in use: what it is handed, what it answers, and tables in memory."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import whytune
from whytune import judge_items, pipeline, recipe_file, store
from whytune.errors import FolderError, InputError, ModelError, WhytuneError
from whytune.evidence.calibrate import Calibration, Method, apply
from whytune.judge import Judge
from whytune.material import Material, gather, together
from whytune.progress import Progress
from whytune.records import Example, Outcome, Prediction, Split, Turn
from whytune.run_folder import Cell
from whytune.student import models

RECIPE = """
name: judged
model: {model}
corpora: {{starter: {{train: 8, test: 8}}}}
tasks: [naturalness, on_topic]
arms:
  why: {{explanation: assessment, words: 6}}
  first: {{explanation: assessment, words: 5, layout: "explanation, label"}}
  head: {{explanation: none, head: true}}
prompt: {{max_length: 300}}
train: {{tasks: joint, learning_rate: 1.0e-2, num_train_epochs: 1, per_device_train_batch_size: 4}}
predict: {{per_device_eval_batch_size: 4, explanations: 2, max_new_tokens: 4, samples: 2}}
evidence: {{bootstrap: 100}}
"""
QUIET = Progress(quiet=True)
TASKS = ("naturalness", "on_topic")
CHAT = [
    {"role": "user", "content": "When does it open?"},
    {"role": "assistant", "content": "Nine."},
]


@pytest.fixture(scope="session")
def materials(tiny_folder: Path) -> list[Material]:
    recipe = recipe_file.parse(RECIPE.format(model=tiny_folder), place="judged.yaml")
    gathered = gather(recipe)
    return [gathered["starter", task] for task in TASKS]


@pytest.fixture(scope="session")
def runs(
    tiny_folder: Path, materials: list[Material], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Arm -> its finished run."""
    recipe = recipe_file.parse(RECIPE.format(model=tiny_folder), place="judged.yaml")
    folder = tmp_path_factory.mktemp("judged")
    for arm in recipe.arms:
        cell = Cell(corpus="starter", tasks=TASKS, arm=arm, seed=0)
        pipeline.run(recipe, cell, materials, folder / arm, QUIET)
    return {arm: folder / arm for arm in recipe.arms}


@pytest.fixture(scope="session")
def judge(runs: dict[str, Path]) -> Judge:
    return whytune.load(runs["why"])


def close(one: Prediction, other: Prediction) -> bool:
    """Equal up to what another order of additions does."""
    return (
        (one.example_id, one.task, one.label) == (other.example_id, other.task, other.label)
        and one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
        and one.expected == pytest.approx(other.expected, abs=1e-5)
    )


@pytest.mark.parametrize("arm", ["why", "first", "head"])
def test_a_judge_answers_as_its_run_did(
    arm: str, runs: dict[str, Path], materials: list[Material]
) -> None:
    judge = whytune.load(runs[arm])
    test = together(materials, Split.TEST)
    found = judge.predict(test, explain=False)
    told, _ = store.read_predictions(runs[arm] / "predictions.parquet")
    wanted = {(p.example_id, p.task): p for p in told}
    assert [(p.example_id, p.task) for p in found] == [(e.id, t) for e in test for t in TASKS]
    asked = [p for p in found if (p.example_id, p.task) in wanted]
    assert len(asked) == len(wanted)
    assert all(close(p, wanted[p.example_id, p.task]) for p in asked)
    # Some of the prompts are cut to make room for the longer of the two questions.
    assert any(judge.student.encoder.prompt(e, judge.tasks).cut for e in test)
    if arm == "first":
        assert all(p.explanation is not None for p in found)
        assert [p.explanation for p in asked] == [
            wanted[p.example_id, p.task].explanation for p in asked
        ]


def test_a_judge_says_what_it_was_taught(judge: Judge, materials: list[Material]) -> None:
    assert judge.tasks == tuple(m.task for m in materials)
    assert judge.labels == {m.task.name: m.task.label_names for m in materials}
    assert {"user", "assistant"} <= judge.facts.roles


def test_neither_batches_nor_company_nor_the_other_task_change_answers(
    judge: Judge, materials: list[Material]
) -> None:
    test = list(together(materials, Split.TEST))
    wanted = judge.predict(test)
    for size in (1, 3, 64):
        assert all(map(close, judge.predict(test, batch_size=size), wanted))
    for at, name in enumerate(TASKS):
        assert all(map(close, judge.predict(test, name), wanted[at::2]))
    assert all(map(close, judge.predict(test, ["on_topic", "naturalness"])[::2], wanted[1::2]))
    assert all(map(close, judge.predict(test[3:4]), wanted[6:8]))
    again = [p for part in (test[:5], test[5:]) for p in judge.predict(part, batch_size=2)]
    assert all(map(close, again, wanted))


def test_a_stream_is_answered_as_it_comes(judge: Judge) -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"Text number {taken % 5}."

    answers = judge.iterate(texts(), "on_topic", batch_size=2)
    assert taken == 0
    first = list(islice(answers, 10))
    assert taken == 16, "eight batches of two are in memory, no more"
    assert first == judge.predict([f"Text number {n % 5}." for n in range(1, 17)], "on_topic",
                                  batch_size=2)[:10]  # fmt: skip
    assert first[0] == first[5]


def test_one_conversation_in_every_form(judge: Judge) -> None:
    turns = tuple(Turn(role=m["role"], text=m["content"]) for m in CHAT)
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in CHAT]
    forms = [
        CHAT, tuple(CHAT), turns, parts, [{"role": m["role"], "text": m["content"]} for m in CHAT],
        pa.array([CHAT])[0],
    ]  # fmt: skip
    found = judge.predict(forms, "naturalness")
    assert {p.example_id for p in found} == {found[0].example_id}
    # Beside each other they are one prompt.
    assert len({p.label for p in found}) == 1
    own = Example(id="mine", source="", group="", turns=turns)
    (told,) = judge.predict([own], "naturalness")
    assert told.example_id == "mine"
    assert told.log_probs == pytest.approx(found[0].log_probs, abs=1e-4)


JUNK: list[tuple[Any, str]] = [
    ("", r"found no text \(''\), expected some"),
    (" \n", "found no text"),
    (None, r"found None, expected a text, or a list of messages \{role, content\}"),
    (float("nan"), "found nan, expected a text"),
    (7, "found 7, expected a text"),
    (b"bytes", "found b'bytes', expected a text"),
    ({"role": "user", "content": "x"}, "found {'role': 'user', 'content': 'x'}, expected a text"),
    ([], r"found \[\], expected a text"),
    (["a", "b"], r"found 'a' in a conversation, expected \{role, content\}"),
    ([[CHAT]], "in a conversation, expected"),
    ([{"role": "banana", "content": "x"}],
     "found role 'banana', expected assistant, text or user; the student was taught no other"),
    ([{"role": "Users", "content": "x"}], r"did you mean user\?"),
    ([{"role": 3, "content": "x"}], "found role 3, expected who speaks"),
    ([{"content": "x"}], "found role None"),
    ([{"role": "user"}], "found None, expected text"),
    ([{"role": "user", "content": {"a": 1}}], "expected text"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "parts of type text"),
    ([{"role": "user", "content": [{"type": "text", "text": None}]}], "expected text"),
    ([*CHAT, {"role": "user", "content": " "}], "found no text"),
    ("half \ud800 a pair", "found half a surrogate pair at character 5"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "fault"), JUNK, ids=[ascii(item)[:30] for item, _ in JUNK])
def test_what_cannot_be_read_is_named_by_its_number_before_anything_is_asked(
    item: Any, fault: str, judge: Judge
) -> None:
    with pytest.raises(InputError, match=rf"^items\[1\]: .*{fault}"):
        judge.predict(["A text.", item, "Another."])
    answers = judge.iterate(["A text.", item])
    with pytest.raises(InputError, match=rf"^items\[1\]: .*{fault}"):
        list(answers)


def test_many_faults_are_counted(judge: Judge) -> None:
    with pytest.raises(InputError) as fault:
        judge.predict([None] * 9)
    lines = str(fault.value).splitlines()
    assert [line[:8] for line in lines[:5]] == [f"items[{n}]" for n in range(5)]
    assert lines[5:] == ["and 4 more"]


@pytest.mark.parametrize("items", ["one text", b"bytes", CHAT[0], None, 3])
def test_one_item_is_not_taken_for_many(items: Any, judge: Judge) -> None:
    for ask in (judge.predict, judge.iterate):
        with pytest.raises(InputError, match="put a single one into a list"):
            ask(items)


def test_an_example_with_half_a_character_is_refused(judge: Judge) -> None:
    turns = (Turn(role="user", text="\udc80"),)
    with pytest.raises(InputError, match="half a surrogate pair"):
        judge.predict([Example(id="e", source="", group="", turns=turns)])


def test_what_was_not_taught_is_refused(judge: Judge, runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="task 'ontopic': the student was not taught it; it answers "
                                         r"naturalness, on_topic; did you mean on_topic\?"):  # fmt: skip
        judge.predict(["x"], "ontopic")
    with pytest.raises(InputError, match="asked twice"):
        judge.predict(["x"], ["on_topic", "on_topic"])
    with pytest.raises(InputError, match="found none"):
        judge.predict(["x"], [])
    with pytest.raises(InputError, match="batch_size: found 0"):
        judge.predict(["x"], batch_size=0)
    with pytest.raises(InputError, match="was taught labels alone, so it cannot say why"):
        whytune.load(runs["head"]).predict(["x"], explain=True)
    assert judge.predict([]) == []


def test_explanations_are_written_on_request(judge: Judge) -> None:
    plain, told = (judge.predict(["A text."], explain=e) for e in (False, True))
    assert {p.explanation for p in plain} == {None}
    assert all(isinstance(p.explanation, str) for p in told)
    assert [p.label for p in told] == [p.label for p in plain]


def copied(run: Path, to: Path, **changed: Any) -> Path:
    """An adapter folder that says other things of itself."""
    shutil.copytree(run / "adapter", to)
    facts = store.read_json(to / "whytune.json")
    store.write_json(to / "whytune.json", {k: v for k, v in {**facts, **changed}.items()
                                           if v is not ...})  # fmt: skip
    return to


def test_the_calibration_beside_the_adapter_is_applied(
    judge: Judge, runs: dict[str, Path], tmp_path: Path
) -> None:
    task = judge.tasks[1]
    fitted = Calibration(
        method=Method.TEMPERATURE, task=task.name, labels=task.label_names, n=20, unreadable=0,
        temperature=3.0,
    )  # fmt: skip
    calibrated = whytune.load(
        copied(runs["why"], tmp_path / "a", calibration={task.name: fitted.to_json()})
    )
    plain = judge.predict(["A text."])
    found = calibrated.predict(["A text."])
    assert found == [plain[0], apply(fitted, plain[1], task)]
    assert max(found[1].probs.values()) < max(plain[1].probs.values())
    assert calibrated.predict(["A text."], calibrated=False) == plain


def test_adapters_of_earlier_versions_are_asked_too(
    runs: dict[str, Path], tmp_path: Path, judge: Judge
) -> None:
    old = copied(runs["why"], tmp_path / "a", roles=..., samples=..., temperature=...)
    loaded = whytune.load(old)
    assert loaded.facts.roles == {"user", "assistant", "text"}
    assert loaded.predict([CHAT]) == judge.predict([CHAT])


def test_a_model_whose_numbers_break_gives_no_label(judge: Judge, broken: Any) -> None:
    with broken(judge.student.model, lambda logits: logits * float("nan")):
        found = judge.predict(["A text."])
    assert [(p.outcome, p.label) for p in found] == [(Outcome.UNREADABLE, None)] * 2


def test_threads_and_coroutines_share_a_judge(judge: Judge) -> None:
    texts = [f"Text number {n}." for n in range(6)]
    wanted = [judge.predict([text]) for text in texts]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda text: judge.predict([text]), texts)) == wanted

    async def ask() -> list[list[Prediction]]:
        return await asyncio.gather(*(judge.apredict([text]) for text in texts))

    assert asyncio.run(ask()) == wanted


def refused(tmp_path: Path, run: Path) -> list[tuple[str, type[WhytuneError], Any]]:
    """What is wrong with a place, the error, and its message."""
    started = tmp_path / "started"
    store.write_json(started / "run.json", {"state": "started"})
    foreign = tmp_path / "foreign"
    shutil.copytree(run / "adapter", foreign)
    (foreign / "whytune.json").unlink()
    study = tmp_path / "study"
    store.write_json(study / "runs" / "one" / "run.json", {})
    bare = copied(run, tmp_path / "bare")
    (bare / "adapter_model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    odd = copied(run, tmp_path / "odd", layout="sideways")
    other = copied(run, tmp_path / "other", base_digest="0" * 64)
    gone = copied(run, tmp_path / "gone", base=str(tmp_path / "no-base"))
    template = copied(run, tmp_path / "template", prompt_digest="0" * 64)
    return [
        (str(started), FolderError, "its training is not finished"),
        (str(foreign), FolderError, r"an adapter that was not taught by whytune \(no whytune.json"),
        (str(study), FolderError, r"give one of its runs, such as .*one"),
        (str(bare), FolderError, "found no adapter_model.safetensors"),
        (str(tmp_path / "empty"), FolderError, "found neither run.json nor adapter_config.json"),
        (str(tmp_path / "nowhere" / "x"), FolderError, "not there; expected a finished run"),
        ("nobody/nothing", ModelError, "no such folder, and it cannot be had from the Hub"),
        (str(odd), FolderError, "whytune.json: not what whytune writes .*sideways"),
        (str(other), ModelError, r"was taught on other weights .* give those as `base`"),
        (str(gone), ModelError, "no-base: found no config.json .* say where with `base`"),
        (str(template), ModelError, "renders prompts otherwise"),
    ]  # fmt: skip


def test_what_is_no_student_of_ours_is_refused_with_a_way_out(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    for place, error, message in refused(tmp_path, runs["why"]):
        with pytest.raises(error, match=message):
            whytune.load(place)


def test_a_base_that_moved_is_named(
    runs: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    moved = copied(runs["why"], tmp_path / "a", base=str(tmp_path / "no-base"))
    shutil.copytree(tiny_folder, tmp_path / "base")
    whytune.load(moved, base=tmp_path / "base")
    with pytest.raises(ModelError, match=r"^elsewhere/model: cannot be had|elsewhere/model"):
        whytune.load(moved, base="elsewhere/model")


def test_importing_whytune_and_its_load_does_without_torch() -> None:
    code = "import whytune, sys; whytune.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        whytune.lode  # noqa: B018


def test_a_frame_comes_back_with_answers(judge: Judge) -> None:
    pd = pytest.importorskip("pandas")
    texts = ["One text.", None, "Another text.", float("nan"), 7, " "]
    table = pd.DataFrame({"n": range(6), "text": texts}, index=list("abcdef"))
    before = table.copy()
    found = judge.frame(table, tasks="naturalness")
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(found[["n", "text"]], before)
    assert list(found.columns) == [
        "n", "text", "label", "outcome", "expected", "confidence", "label_mass",
        *(f"p_{label}" for label in judge.labels["naturalness"]), "reason",
    ]  # fmt: skip
    assert list(found["outcome"] == "read") == [True, False, True, False, False, False]
    (one, two) = judge.predict(["One text.", "Another text."], "naturalness")
    for row, told in (("a", one), ("c", two)):
        assert found.label[row] == told.label
        assert found.confidence[row] == pytest.approx(told.probs[told.label or ""])
        assert found.expected[row] == pytest.approx(told.expected)
        assert found.label_mass[row] == pytest.approx(told.label_mass)
    unread = found.loc[list("bdef")]
    assert unread.label.isna().all()
    assert unread.confidence.isna().all()
    assert list(unread.reason.str.startswith("found")) == [True] * 4
    assert judge.predict(table["text"][["a", "c"]], "naturalness") == [one, two]
    with pytest.raises(InputError, match="column label: there already"):
        judge.frame(found, tasks="naturalness")
    again = judge.frame(found, tasks="naturalness", prefix="again_")
    assert list(again["again_label"].dropna()) == list(found["label"].dropna())


def test_an_arrow_table_comes_back_with_answers(judge: Judge) -> None:
    table = pa.table({"chat": [CHAT, None, json.dumps(CHAT)][:2], "n": [1, 2]})
    found = judge.frame(table, messages="chat", explain=True)
    assert found.column_names[:2] == ["chat", "n"]
    assert found["naturalness_outcome"].to_pylist() == ["read", "unreadable"]
    assert found["on_topic_label"].to_pylist()[0] == judge.predict([CHAT], "on_topic")[0].label
    assert found["on_topic_explanation"].to_pylist()[1] is None
    assert judge.predict(table["chat"].slice(0, 1)) == judge.predict([CHAT])
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"text": "txt"}, "column txt: not there; known: chat, n"),
        ({}, "found the columns chat, n"),
        ({"text": "n", "messages": "chat"}, "expected one of the two"),
    ]
    for wrong, message in wrongs:
        with pytest.raises(InputError, match=message):
            judge.frame(table, **wrong)
    with pytest.raises(InputError, match="found list, expected a pandas DataFrame or an Arrow"):
        judge.frame([1])


def test_ids_are_of_the_content(judge: Judge) -> None:
    one, two = judge_items.read(["a text", "a text"], ())
    assert one == two
    assert replace(one, id="x") != judge_items.example("another", ())


def test_a_judge_is_the_student_that_plain_peft_loads(judge: Judge, tiny_folder: Path) -> None:
    """Its label probabilities are those of the text's next tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(judge.facts.folder)).eval()
    (told,) = judge.predict(["A text."], "on_topic")
    task = judge.tasks[1]
    encoder = judge.student.encoder
    prompt = encoder.prompt(judge_items.example("A text.", ()), judge.tasks)
    start = prompt.prefix + prompt.questions[1]
    for label, ids in encoder.labels(task).items():
        with torch.no_grad():
            logits = model(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1]
        rows = torch.log_softmax(logits, dim=-1)
        alone = sum(float(rows[at, token]) for at, token in enumerate(ids))
        assert told.log_probs[label] == pytest.approx(alone, abs=1e-4)
    assert isinstance(judge.student, models.Student)
