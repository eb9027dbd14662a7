"""The base model after answered examples: what it reads, and that its answers are exact."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from whytune.errors import EncodingError
from whytune.recipe_student import Prompting
from whytune.records import Example, Layout, Lesson, Task
from whytune.student import few_shot
from whytune.student.bundle import logits
from whytune.student.encode import Encoder, Ids
from whytune.student.models import Student
from whytune.student.predict import predict

Students = Callable[..., Student]
FAMILIES = ["llama", "qwen2", "gemma2", "mistral", "gpt2"]
INST = "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]"


def taught(examples: Sequence[Example], task: Task) -> list[Lesson]:
    """One lesson about each, the labels in turn."""
    names = task.label_names
    return [
        Lesson(example=example, task=task, label=names[n % len(names)], layout=Layout.LABEL)
        for n, example in enumerate(examples)
    ]


def lesson_ids(encoder: Encoder, lesson: Lesson) -> Ids:
    bundle = encoder.bundle([lesson], [lesson.task])
    return bundle.prefix + bundle.branches[0].ids


def prompt_ids(encoder: Encoder, example: Example, task: Task) -> Ids:
    prompt = encoder.prompt(example, [task])
    return prompt.prefix + prompt.questions[0]


def oracle(student: Student, before: Ids, label: Ids) -> float:
    """Log-probability of a label: float64, one sequence, one whole forward pass."""
    with torch.no_grad():
        found = student.model.double()(input_ids=torch.tensor([before + label])).logits[0]
    log_probs = torch.log_softmax(found.double(), dim=-1)
    start = len(before) - 1
    return sum(float(log_probs[start + at, token]) for at, token in enumerate(label))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_log_probs_equal_a_plain_forward_of_all_tokens(
    family: str, batch_size: int, student: Students, examples: list[Example], task: Task,
    single_task: Task,
) -> None:  # fmt: skip
    # GPT-2 has places for so many tokens only.
    made, exact = student(family, max_length=120), student(family, max_length=120)
    labels = made.encoder.labels(task)
    assert len({len(ids) for ids in labels.values()}) > 1, "labels of several lengths"
    for asked in (task, single_task):
        shots = taught(examples[5:7], asked)
        found = few_shot.predict(made, shots, examples[:5], asked, batch_size=batch_size)
        shown = sum((lesson_ids(exact.encoder, shot) for shot in shots), ())
        for example, answer in zip(examples, found, strict=False):
            before = shown + prompt_ids(exact.encoder, example, asked)
            assert answer.example_id == example.id
            assert answer.log_probs == pytest.approx(
                {name: oracle(exact, before, ids)
                 for name, ids in exact.encoder.labels(asked).items()}, abs=1e-5,
            )  # fmt: skip


def test_the_shots_and_their_order_change_the_answers(
    student: Students, examples: list[Example], task: Task
) -> None:
    made = student()
    shots = taught(examples[5:8], task)
    alone = predict(made, examples[:3], [task], Layout.LABEL, batch_size=3)[task.name]
    one, other = (
        few_shot.predict(made, own, examples[:3], task, batch_size=3)
        for own in (shots, shots[::-1])
    )
    for first, second in ((alone, one), (one, other)):
        for a, b in zip(first, second, strict=True):
            assert a.log_probs != pytest.approx(b.log_probs, abs=1e-3)
    assert one[0].expected is not None


def test_the_shots_are_read_once_in_a_pass(
    student: Students, examples: list[Example], single_task: Task
) -> None:
    made = student()
    shots = taught(examples[5:8], single_task)
    few_shot.predict(made, shots, examples[:1], single_task, batch_size=1)  # sees that it shares
    read: list[int] = []

    def count(_: Any, __: Any, given: dict[str, Any]) -> None:
        read.append(given["input_ids"].numel())

    handle = made.model.register_forward_pre_hook(count, with_kwargs=True)
    few_shot.predict(made, shots, examples[:4], single_task, batch_size=4)
    handle.remove()
    encoder = made.encoder
    assert read == [
        sum(len(lesson_ids(encoder, shot)) for shot in shots)
        + sum(len(prompt_ids(encoder, example, single_task)) for example in examples[:4])
    ]


@pytest.mark.parametrize("template", [INST, None])
def test_the_start_of_a_row_stands_once(
    template: str | None, student: Students, examples: list[Example], task: Task,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = student()
    tokenizer = AutoTokenizer.from_pretrained(made.base.location)
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    tokenizer.chat_template = template
    if template is None:  # as a base model's tokenizer does it
        monkeypatch.setattr(tokenizer.__class__, "__call__", _with_start(tokenizer.__class__))
    made = replace(made, encoder=Encoder(tokenizer, Prompting(max_length=256), 2048))
    start = tokenizer.bos_token_id
    shots = taught(examples[5:7], task)
    whole = lesson_ids(made.encoder, shots[0])
    assert (whole[0], whole.count(start)) == (start, 1)
    trunks = _trunks(made, shots, examples[:2], task, monkeypatch)
    for trunk, asked in trunks:
        assert trunk == whole + lesson_ids(made.encoder, shots[1])[1:]
        assert start not in asked


def test_a_mark_that_opens_every_turn_is_no_start_of_a_row(
    student: Students, examples: list[Example], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = student()
    made.encoder.tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    shots = taught(examples[5:7], task)
    ((trunk, asked),) = _trunks(made, shots, examples[:1], task, monkeypatch)
    assert trunk == sum((lesson_ids(made.encoder, shot) for shot in shots), ())
    assert asked == prompt_ids(made.encoder, examples[0], task)


def _with_start(kind: type[Any]) -> Callable[..., Any]:
    plain = kind.__call__

    def call(self: Any, text: str, add_special_tokens: bool = True, **more: Any) -> Any:
        start = self.bos_token if add_special_tokens else ""
        return plain(self, start + text, add_special_tokens=False, **more)

    return call


def _trunks(
    student: Student, shots: Sequence[Lesson], examples: Sequence[Example], task: Task,
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[Ids, Ids]]:  # fmt: skip
    """(trunk, conversation and question) of each pass over one example."""
    seen: list[tuple[Ids, Ids]] = []

    def listen(asked: Student, trees: Any) -> Any:
        ((trunk, conversation, question, *_),) = trees
        seen.append((trunk.ids, conversation.ids + question.ids))
        return logits(asked, trees)

    monkeypatch.setattr(few_shot, "logits", listen)
    few_shot.predict(student, shots, examples, task, batch_size=1)
    return seen


def test_shots_that_do_not_fit_are_refused_before_anything_is_asked(
    student: Students, examples: list[Example], task: Task
) -> None:
    made = student()
    done: list[int] = []
    shots = taught(examples[5:9], task)
    size = sum(len(lesson_ids(made.encoder, shot)) for shot in shots)
    largest = max(len(prompt_ids(made.encoder, e, task)) for e in examples[:5])
    longest = max(map(len, made.encoder.labels(task).values()))
    made.encoder.context = size + largest + longest
    few_shot.predict(made, shots, examples[:5], task, batch_size=2, advance=done.append)
    assert done == [2, 2, 1]
    made.encoder.context -= 1
    with pytest.raises(EncodingError, match=(
        rf"example e4: takes {size + largest + longest} tokens with its answer after 4 shots, but "
        rf"the model reads {made.encoder.context}; lower evidence\.shots or prompt\.max_length"
    )):  # fmt: skip
        few_shot.predict(made, shots, examples[:5], task, batch_size=2, advance=done.append)
    assert len(done) == 3


def test_shots_are_spread_over_the_labels(examples: list[Example], task: Task) -> None:
    lessons = taught(examples, task)
    lopsided = [*lessons[:2], *(replace(lesson, label="good") for lesson in lessons[2:])]
    for seed in range(20):
        for count in range(1, 9):
            shots = few_shot.choose(lessons, count, seed)
            told = [shot.label for shot in shots]
            assert len(told) == count == len({shot.example.id for shot in shots})
            times = [told.count(name) for name in task.label_names]
            assert max(times) - min(times) <= 1
        told = [shot.label for shot in few_shot.choose(lopsided, 5, seed)]
        assert sorted(told) == sorted([lessons[0].label, lessons[1].label, *["good"] * 3])


def test_shots_are_drawn_by_the_seed_alone(examples: list[Example], task: Task) -> None:
    lessons = taught(examples, task)
    drawn = [tuple(s.example.id for s in few_shot.choose(lessons, 4, seed)) for seed in range(60)]
    assert drawn[0] == tuple(s.example.id for s in few_shot.choose(lessons, 4, 0))
    assert len(set(drawn)) > 50
    assert len({own[0] for own in drawn}) == len({x for own in drawn for x in own}) == 12
    # Any label may come first, and any label may be the one that is there twice.
    first = {few_shot.choose(lessons, 5, seed)[0].label for seed in range(60)}
    assert first == set(task.label_names)


def test_shots_are_lessons_of_labels_alone_about_different_examples(
    lessons: list[Lesson],
) -> None:
    raters = [
        replace(lesson, label=label) for lesson in lessons[:3] for label in lesson.task.label_names
    ]
    shots = few_shot.choose(raters, 9, 0)
    assert len(shots) == len({shot.example.id for shot in shots}) == 3
    assert {(shot.layout, shot.explanation) for shot in shots} == {(Layout.LABEL, None)}
