import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from whytune.records import Example, Kind, Label, Layout, Outcome, Prediction, Task
from whytune.student import models, predict
from whytune.student.draws import seed_of
from whytune.student.encode import Ids
from whytune.student.generating import generate
from whytune.student.models import Student
from whytune.student.predict import LabelTree, prediction, score
from whytune.student.targets import EXPLAINS_FIRST

Students = Callable[..., Student]
FAMILIES = ["llama", "llama-tied", "qwen2", "gemma2", "mistral", "gpt2"]


def ask(
    student: Student, examples: Sequence[Example], task: Task, layout: Layout = Layout.LABEL,
    batch_size: int = 4, **more: Any,
) -> list[Prediction]:  # fmt: skip
    found = predict.predict(student, examples, [task], layout, batch_size=batch_size, **more)
    return found[task.name]


def prompt_ids(student: Student, example: Example, task: Task) -> Ids:
    prompt = student.encoder.prompt(example, [task])
    return prompt.prefix + prompt.questions[0]


def write(student: Student, prompts: Sequence[Ids], longest: int, stop: Ids = ()) -> list[Ids]:
    """What is generated after whole prompts."""
    found = generate(student, [p[:4] for p in prompts], [[p[4:]] for p in prompts], longest, stop)
    return [words for (words,) in found]


def oracle(student: Student, prompt: Ids, continuation: Ids) -> float:
    """Log-probability of a continuation: float64, one sequence, one whole forward pass."""
    model = student.model.double()
    with torch.no_grad():
        found = model(input_ids=torch.tensor([prompt + continuation])).logits[0].double()
    log_probs = torch.log_softmax(found, dim=-1)
    start = len(prompt) - 1
    return sum(float(log_probs[start + at, token]) for at, token in enumerate(continuation))


def assert_same(found: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    for one, two in zip(found, expected, strict=True):
        assert (one.example_id, one.label) == (two.example_id, two.label)
        assert one.log_probs == pytest.approx(two.log_probs, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_label_log_probs_equal_an_oracle_in_float64(
    family: str, student: Students, examples: list[Example], task: Task, single_task: Task
) -> None:
    made = student(family)
    for asked in (task, single_task):
        labels = made.encoder.labels(asked)
        found = ask(made, examples[:4], asked)
        exact = student(family)
        for example, answer in zip(examples, found, strict=False):
            prompt = prompt_ids(exact, example, asked)
            expected = {name: oracle(exact, prompt, ids) for name, ids in labels.items()}
            assert answer.log_probs == pytest.approx(expected, abs=1e-5)
            assert answer.label == max(expected, key=lambda name: expected[name])
    # Not a test of nothing: these labels branch after a first token that they share.
    ids = made.encoder.labels(task)
    assert ids["fairly good"][0] == ids["fairly bad"][0]
    assert max(map(len, ids.values())) > 2
    assert {len(ids) for ids in made.encoder.labels(single_task).values()} == {1}


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_batch_size_does_not_change_the_answers(
    batch_size: int, layout: Layout, student: Students, examples: list[Example], task: Task
) -> None:
    made = student()
    expected = ask(made, examples, task, layout, max_new_tokens=8, explain=True)
    found = ask(made, examples, task, layout, batch_size, max_new_tokens=8, explain=True)
    assert_same(found, expected)
    assert [p.explanation for p in found] == [p.explanation for p in expected]


@pytest.fixture(scope="module")
def of_module(folder_of: Callable[[str], Path]) -> Student:
    from whytune.recipe_student import Prompting

    return models.load(models.find(str(folder_of("llama"))), Prompting(max_length=256))


@settings(max_examples=20)
@given(order=st.permutations(range(12)), batch_size=st.integers(1, 5))
def test_the_order_does_not_change_the_answers(
    of_module: Student, examples: list[Example], task: Task, order: list[int], batch_size: int
) -> None:
    expected = ask(of_module, examples, task)
    found = ask(of_module, [examples[i] for i in order], task, batch_size=batch_size)
    assert_same(found, [expected[i] for i in order])


def test_probabilities_sum_to_one_and_the_label_mass_does_not_pass_it(
    student: Students, examples: list[Example], task: Task
) -> None:
    for answer in ask(student(), examples, task):
        assert math.fsum(answer.probs.values()) == pytest.approx(1, abs=1e-12)
        assert answer.label_mass is not None
        assert 0 < answer.label_mass <= 1 + 1e-6
        by_hand = sum(p * v for p, v in zip(answer.probs.values(), task.values, strict=True))
        assert answer.expected == pytest.approx(by_hand)
        assert answer.label == max(answer.probs, key=lambda name: answer.probs[name])


def test_every_text_together_has_probability_one(
    student: Students, examples: list[Example]
) -> None:
    # Any first token but one, and that one followed by any token: together, all there is.
    made = student()
    size = made.model.config.vocab_size
    labels: dict[str, Ids] = {str(i): (i,) for i in range(1, size)}
    labels |= {f"0 {i}": (0, i) for i in range(size)}
    tree = LabelTree.of(labels)
    task = Task(name="t", kind=Kind.NOMINAL, question="Which?",
                labels=(Label(name="a"), Label(name="b")))  # fmt: skip
    prompt = made.encoder.prompt(examples[0], [task])
    ((found,),) = score(made, [(prompt.prefix, [(prompt.questions[0], tree)])])
    assert math.fsum(map(math.exp, found.values())) == pytest.approx(1, abs=1e-5)


def test_a_tie_goes_to_the_first_label_in_the_tasks_order(task: Task) -> None:
    log_probs = dict.fromkeys(task.label_names, -2.0)
    assert prediction("e", task, log_probs).label == task.label_names[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("layout", Layout)
def test_logits_that_are_no_numbers_give_no_label(
    bad: float, layout: Layout, samples: int, student: Students, examples: list[Example],
    task: Task, broken: Callable[..., Any],
) -> None:  # fmt: skip
    made = student()
    with broken(made.model, lambda found: torch.full_like(found, bad)):
        answers = ask(made, examples[:3], task, layout, max_new_tokens=2, samples=samples)
    for answer in answers:
        assert (answer.outcome, answer.label, answer.log_probs) == (Outcome.UNREADABLE, None, {})
        assert answer.expected is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.1, -math.inf])
def test_log_probs_that_cannot_be_are_unreadable(value: float, task: Task) -> None:
    log_probs = dict.fromkeys(task.label_names, value)
    assert prediction("e", task, log_probs).outcome is Outcome.UNREADABLE


def test_one_label_that_is_impossible_leaves_the_others(task: Task) -> None:
    log_probs = dict.fromkeys(task.label_names, -1.0) | {"bad": -math.inf}
    found = prediction("e", task, log_probs)
    assert (found.label, found.probs["bad"]) == ("fairly good", 0.0)


def greedy(student: Student, prompt: Ids, longest: int, ends: set[int]) -> Ids:
    """The most probable token, one whole forward pass after the other."""
    written: Ids = ()
    while len(written) < longest:
        with torch.no_grad():
            found = student.model(input_ids=torch.tensor([prompt + written])).logits[0, -1]
        token = int(found.argmax())
        if token in ends:
            break
        written += (token,)
    return written


@pytest.mark.parametrize("layout", sorted(EXPLAINS_FIRST))
def test_a_student_that_explains_first_is_scored_after_its_own_words(
    layout: Layout, student: Students, examples: list[Example], task: Task
) -> None:
    made = student()
    encoder = made.encoder
    found = ask(made, examples[:3], task, layout, max_new_tokens=6)
    labels = encoder.labels(task)
    ends = {encoder.end, encoder.separator[0]}
    exact = student()
    for example, answer in zip(examples, found, strict=False):
        prompt = prompt_ids(made, example, task)
        words = greedy(made, prompt, 6, ends)
        assert answer.explanation == encoder.decode(words)
        begun = prompt + words + encoder.separator
        expected = {name: oracle(exact, begun, ids) for name, ids in labels.items()}
        assert answer.log_probs == pytest.approx(expected, abs=1e-5)
    assert any(answer.explanation for answer in found)


def test_an_explanation_after_the_label_follows_the_label_given(
    student: Students, examples: list[Example], task: Task
) -> None:
    made = student()
    plain = ask(made, examples[:4], task, Layout.LABEL_EXPLANATION)
    found = ask(made, examples[:4], task, Layout.LABEL_EXPLANATION, explain=True, max_new_tokens=6)
    assert_same(found, plain)
    assert {p.explanation for p in plain} == {None}
    for example, answer in zip(examples, found, strict=False):
        assert answer.label is not None
        prompt = prompt_ids(made, example, task)
        begun = prompt + made.encoder.labels(task)[answer.label] + made.encoder.separator
        words = greedy(made, begun, 6, {made.encoder.end})
        assert answer.explanation == made.encoder.decode(words)


def test_the_second_half_of_an_explanation_follows_the_label_given(
    student: Students, examples: list[Example], task: Task
) -> None:
    made, layout = student(), Layout.BOTH_SIDES
    encoder = made.encoder
    plain = ask(made, examples[:4], task, layout, max_new_tokens=6)
    found = ask(made, examples[:4], task, layout, explain=True, max_new_tokens=6)
    assert_same(found, plain)
    for example, first, both in zip(examples, plain, found, strict=False):
        assert both.label is not None
        prompt = prompt_ids(made, example, task)
        half = greedy(made, prompt, 6, {encoder.end, encoder.separator[0]})
        assert first.explanation == encoder.decode(half)
        label = encoder.labels(task)[both.label]
        begun = prompt + half + encoder.separator + label + encoder.separator
        other = encoder.decode(greedy(made, begun, 6, {encoder.end}))
        assert first.explanation
        assert other
        assert both.explanation == f"{first.explanation} {other}"


def drawn(
    student: Student, prompt: Ids, longest: int, ends: set[int], seed: int, temperature: float
) -> Ids:
    """Tokens drawn with numpy, one whole forward pass after the other."""
    numbers = torch.rand(
        longest, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    written: Ids = ()
    for number in numbers.tolist():
        with torch.no_grad():
            found = student.model(input_ids=torch.tensor([prompt + written])).logits[0, -1]
        odds = np.exp(found.double().numpy() / temperature)
        token = int(np.searchsorted(np.cumsum(odds) / odds.sum(), number, side="right"))
        if token in ends:
            break
        written += (token,)
    return written


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("layout", sorted(EXPLAINS_FIRST))
def test_several_reasons_are_averaged_as_if_each_were_read_alone(
    family: str, layout: Layout, student: Students, examples: list[Example], task: Task,
    single_task: Task,
) -> None:  # fmt: skip
    made, exact, tasks = student(family), student(family), [task, single_task]
    encoder, seeds = made.encoder, set()
    found = predict.predict(
        made, examples[:3], tasks, layout, batch_size=4, max_new_tokens=5, samples=3,
        temperature=0.9, seed=11,
    )  # fmt: skip
    ends = {encoder.end, encoder.separator[0]}
    for asked in tasks:
        for example, answer in zip(examples, found[asked.name], strict=False):
            prompt = prompt_ids(made, example, asked)
            ways = []
            for number in range(3):
                seeds.add(own := seed_of(11, example.id, asked.name, number))
                ways.append(drawn(made, prompt, 5, ends, own, 0.9))
            probs = {
                name: [math.exp(oracle(exact, prompt + words + encoder.separator, ids))
                       for words in ways]
                for name, ids in encoder.labels(asked).items()
            }  # fmt: skip
            expected = {name: math.log(math.fsum(own) / 3) for name, own in probs.items()}
            assert answer.log_probs == pytest.approx(expected, abs=1e-5)
            assert answer.label == max(expected, key=lambda name: expected[name])
            best = max(range(3), key=lambda way: probs[answer.label or ""][way])
            assert answer.explanation == encoder.decode(ways[best])
            assert len(set(ways)) > 1
    assert len(seeds) == 2 * 3 * 3


@pytest.mark.parametrize("layout", sorted(EXPLAINS_FIRST))
def test_drawn_reasons_depend_on_the_seed_and_on_nothing_beside_it(
    layout: Layout, student: Students, examples: list[Example], task: Task
) -> None:
    made = student()

    def answers(which: Sequence[Example], batch_size: int, seed: int = 5) -> list[Prediction]:
        return ask(made, which, task, layout, batch_size, max_new_tokens=6, explain=True,
                   samples=3, seed=seed)  # fmt: skip

    expected = answers(examples, 4)
    for batch_size in (1, 2, 16):  # fewer and more than the samples
        found = answers(examples, batch_size)
        assert_same(found, expected)
        assert [p.explanation for p in found] == [p.explanation for p in expected]
    assert_same(answers(examples[7:3:-1], 4), expected[7:3:-1])
    other = answers(examples, 4, seed=6)
    assert all(a.explanation != b.explanation for a, b in zip(other, expected, strict=True))


@pytest.mark.parametrize(("samples", "batch_size", "rows"), [(5, 2, 2), (2, 4, 4), (3, 4, 3)])
def test_no_more_reasons_are_written_at_a_time_than_the_batch_size(
    samples: int, batch_size: int, rows: int, student: Students, examples: list[Example], task: Task
) -> None:
    made, seen = student(), list[int]()
    handle = made.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )
    ask(made, examples[:4], task, Layout.EXPLANATION_LABEL, batch_size, max_new_tokens=2,
        samples=samples)  # fmt: skip
    handle.remove()
    assert max(seen) == rows


@pytest.mark.parametrize("layout", Layout)
def test_one_reason_is_not_drawn_and_who_labels_first_draws_none(
    layout: Layout, student: Students, examples: list[Example], task: Task
) -> None:
    made, seen = student(), list[int]()
    samples = 1 if layout in EXPLAINS_FIRST else 3
    plain = ask(made, examples[:4], task, layout, explain=True, max_new_tokens=5)
    found = ask(made, examples[:4], task, layout, explain=True, max_new_tokens=5, samples=samples,
                temperature=3.0, seed=9, advance=seen.append)  # fmt: skip
    assert found == plain
    assert seen == [4]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("layout", sorted(EXPLAINS_FIRST))
@pytest.mark.parametrize("only", ["end", "separator", "word"])
def test_a_label_is_read_after_any_reason(
    only: str, layout: Layout, samples: int, student: Students, examples: list[Example],
    task: Task, broken: Callable[..., Any],
) -> None:  # fmt: skip
    made = student()
    word = made.encoder.text_ids("because")
    token = {"end": made.encoder.end, "separator": made.encoder.separator[0], "word": word[0]}[only]

    def likely(found: torch.Tensor) -> torch.Tensor:
        found = found.clone()
        found[..., token] += 100
        return found

    with broken(made.model, likely):
        answers = ask(made, examples[:3], task, layout, max_new_tokens=4, samples=samples)
    cut = made.encoder.decode(word[:1] * 4)
    for answer in answers:
        assert answer.outcome is Outcome.READ
        assert math.fsum(answer.probs.values()) == pytest.approx(1)
        assert answer.explanation == (cut if only == "word" else "")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_padding_does_not_change_what_is_generated(
    family: str, student: Students, examples: list[Example], task: Task
) -> None:
    made = student(family)
    prompts = [prompt_ids(made, example, task) for example in examples[:5]]
    assert len(set(map(len, prompts))) > 1
    together = write(made, prompts, 8)
    assert together == [write(made, [prompt], 8)[0] for prompt in prompts]
    assert together == [greedy(made, prompt, 8, {made.encoder.end}) for prompt in prompts]


def test_generating_ends_at_the_end_token_and_at_a_stop(
    student: Students, examples: list[Example], task: Task, broken: Callable[..., Any]
) -> None:
    made = student()
    prompts = [prompt_ids(made, example, task) for example in examples[:3]]
    free = write(made, prompts, 8)
    assert [len(words) for words in free] == [8, 8, 8]
    stop = free[1][3]
    stopped = write(made, prompts, 8, stop=(stop,))
    assert stopped == [w[: w.index(stop)] if stop in w else w for w in free]
    assert len(stopped[1]) < 8

    def ending(found: torch.Tensor) -> torch.Tensor:
        found = found.clone()
        found[..., made.encoder.end] = 1e4
        return found

    with broken(made.model, ending):
        assert write(made, prompts, 8) == [(), (), ()]


def test_a_base_models_own_generation_settings_are_left_out(
    student: Students, tiny_folder: Path, tmp_path: Path, examples: list[Example], task: Task
) -> None:
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(
        '{"repetition_penalty": 5.0, "do_sample": true, "temperature": 2.0, "min_new_tokens": 4}'
    )
    plain, coloured = student(), student(folder=tmp_path)
    prompts = [prompt_ids(plain, example, task) for example in examples[:4]]
    assert write(coloured, prompts, 12) == write(plain, prompts, 12)


def test_progress_counts_every_example_once(
    student: Students, examples: list[Example], single_task: Task
) -> None:
    seen: list[int] = []
    ask(student(), examples, single_task, batch_size=5, advance=seen.append)
    assert seen == [5, 5, 2]


def test_asking_leaves_the_weights_as_they_were(
    student: Students, examples: list[Example], task: Task, tiny_folder: Path
) -> None:
    made = student()
    ask(made, examples, task, Layout.EXPLANATION_LABEL, max_new_tokens=4)
    state = made.model.state_dict()
    for name, tensor in load_file(tiny_folder / "model.safetensors").items():
        assert torch.equal(state[name], tensor), name


def test_no_examples_no_answers(student: Students, task: Task) -> None:
    assert ask(student(), [], task) == []
