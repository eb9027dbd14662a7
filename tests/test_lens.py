"""The logit lens against a brute force: one sequence at a time, plain transformers for the states,
norm and output layer written out in float64.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from whytune.errors import EvidenceError, ModelError
from whytune.evidence import trace as tracing
from whytune.evidence.lens import Reading, lens
from whytune.evidence.lens_rows import by_block, by_token
from whytune.evidence.readout import readout
from whytune.evidence.trace import Trace, trace
from whytune.recipe_student import Attention, Prompting, Train
from whytune.records import Example, Layout, Task
from whytune.student import models
from whytune.student.bundle import Node
from whytune.student.encode import Ids
from whytune.student.models import Student
from whytune.student.predict import LabelTree, predict

Students = Callable[..., Student]
Numbers = npt.NDArray[np.float64]
# GPT-2 keeps its weights the other way round, which peft sees and says.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")
ALL = Train(target_modules="all-linear")
PLACES = {
    "gpt2": ("transformer.h", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers", "gpt_neox.final_layer_norm"),
}
"""Model type -> its blocks and its final norm; of all others `model.layers` and `model.norm`."""
families = pytest.mark.parametrize(
    "family", ["llama", "llama-tied", "qwen2", "mistral", "gemma2", "gpt2", "gpt-neox", "cohere",
               "granite"],
)  # fmt: skip


def inner(student: Student) -> Any:
    return (
        student.adapted.get_base_model() if hasattr(student.model, "peft_config") else student.model
    )


def parts(model: Any) -> tuple[Any, Any]:
    blocks, norm = PLACES.get(model.config.model_type, ("model.layers", "model.norm"))
    return model.get_submodule(blocks), model.get_submodule(norm)


def spread_out(student: Student) -> Student:
    """Norms and adapters that would be missed: drawn anew, where they are ones or zeros."""
    _, norm = parts(inner(student))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
    student.model.eval()
    return student


def normed(model: Any, states: Numbers) -> Numbers:
    """The final norm, written out."""
    _, norm = parts(model)
    weight: Numbers = norm.weight.detach().double().numpy()
    if "rms" not in type(norm).__name__.lower():  # a layer norm; Cohere's has no bias
        eps = getattr(norm, "eps", None) or norm.variance_epsilon
        bias = getattr(norm, "bias", None)
        off = states - states.mean(-1, keepdims=True)
        scaled: Numbers = off / np.sqrt((off**2).mean(-1, keepdims=True) + eps) * weight
        if bias is not None:
            scaled += bias.detach().double().numpy()
        return scaled
    gemma = model.config.model_type == "gemma2"
    eps = norm.eps if gemma else norm.variance_epsilon
    scaled = states / np.sqrt((states**2).mean(-1, keepdims=True) + eps)
    scaled *= 1 + weight if gemma else weight
    return scaled


def read_out(model: Any, states: Numbers) -> Numbers:
    """The output layer and what follows it."""
    found: Numbers = states @ model.get_output_embeddings().weight.detach().double().numpy().T
    if model.config.model_type == "gemma2":
        return 0.5 * np.tanh(found / 0.5)
    return found * (0.25 if model.config.model_type in ("cohere", "granite") else 1)


def states_of(student: Student, ids: Ids, *, base: bool = False) -> Numbers:
    """[block, token, width] of one sequence, by hooks of the test's own."""
    blocks, _ = parts(inner(student))
    caught: list[Tensor] = []

    def keep(states: Any) -> None:
        caught.append(states[0] if isinstance(states, tuple) else states)

    handles = [
        blocks[0].register_forward_pre_hook(
            lambda _, given, named: keep(given[0] if given else named["hidden_states"]),
            with_kwargs=True),
        *(block.register_forward_hook(lambda _, __, out: keep(out)) for block in blocks),
    ]  # fmt: skip
    with torch.no_grad(), student.adapted.disable_adapter() if base else nullcontext():
        student.model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.cat(caught).double().numpy()


def log_softmax(logits: Numbers) -> Numbers:
    top = logits.max(-1, keepdims=True)
    found: Numbers = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return found


def brute(student: Student, ids: Ids, *, base: bool = False) -> Numbers:
    """[block, token, vocabulary] log-probabilities."""
    return log_softmax(
        read_out(inner(student), normed(inner(student), states_of(student, ids, base=base)))
    )


def assert_row(found: Trace, row: int, expected: Numbers, tolerance: float) -> None:
    """One row of a trace is what log-probabilities (block, vocabulary) say."""
    probs = np.exp(expected)
    near: dict[str, Any] = {"atol": tolerance, "rtol": 0}
    np.testing.assert_allclose(found.entropy[:, row], stats.entropy(probs, axis=-1), **near)
    np.testing.assert_allclose(found.kl[:, row], stats.entropy(probs[-1:], probs, axis=-1), **near)
    np.testing.assert_allclose(found.top_probs[:, row], probs.max(-1), **near)
    assert (
        expected[np.arange(len(expected)), found.top[:, row]] >= expected.max(-1) - tolerance
    ).all()
    for at, token in enumerate(found.tokens[row]):
        if token < 0:
            assert np.isnan(found.log_probs[:, row, at]).all()
            assert (found.ranks[:, row, at] == -1).all()
            continue
        own = expected[:, token]
        np.testing.assert_allclose(found.log_probs[:, row, at], own, **near)
        # A token within the tolerance may stand on either side.
        least, most = ((expected > own[:, None] + way * tolerance).sum(-1) for way in (1, -1))
        assert (least <= found.ranks[:, row, at]).all()
        assert (found.ranks[:, row, at] <= most).all()
        if tolerance <= 2e-5:
            exact = np.mean(found.ranks[:, row, at] == (expected > own[:, None]).sum(-1))
            assert exact >= 0.6, "nearly all ranks are the brute force's own"


def assert_reading(
    reading: Reading, student: Student, example: Example, tasks: list[Task], tolerance: float
) -> None:
    """A reading of a student that labels first, against the brute force."""
    encoder = student.encoder
    prompt = encoder.prompt(example, tasks)
    task = reading.task
    labels = encoder.labels(task)
    begun = prompt.prefix + prompt.questions[tasks.index(task)]
    for row, prefix in enumerate(((), *LabelTree.of(labels).nodes)):
        here = brute(student, begun + prefix, base=reading.base)[:, -1]
        assert_row(reading.labels, row, here, tolerance)
        going_on = list(dict.fromkeys(
            ids[len(prefix)] for ids in labels.values() if ids[: len(prefix)] == prefix
        ))  # fmt: skip
        assert [t for t in reading.labels.tokens[row] if t >= 0][1:] == going_on
        among = np.exp(here[:, going_on])
        np.testing.assert_allclose(
            reading.labels.token_entropy[:, row], stats.entropy(among, axis=-1), atol=tolerance
        )
    assert len(reading.labels.tokens) == row + 1
    whole = np.stack([
        brute(student, begun + ids, base=reading.base)
        [:, range(len(begun) - 1, len(begun) + len(ids) - 1), list(ids)].sum(-1)
        for ids in labels.values()
    ], axis=1)  # fmt: skip
    np.testing.assert_allclose(reading.log_probs, whole, atol=3 * tolerance, rtol=0)
    np.testing.assert_allclose(
        reading.label_entropy, stats.entropy(np.exp(whole), axis=-1), atol=3 * tolerance, rtol=0
    )


def places(count: int, vocabulary: int) -> tuple[list[list[Node]], list[Ids]]:
    """Two small trees with rows in trunks and branches, and what is followed at them."""
    draw = torch.Generator().manual_seed(3)
    ids = tuple(torch.randint(1, vocabulary, (count,), generator=draw).tolist())
    trees = [
        [Node(ids=ids, wanted=(3,)), Node(ids=ids[:5], parent=0, wanted=(0, 4))],
        [Node(ids=ids[4:9], wanted=(1, 4))],
    ]
    return trees, [(1, 2), (3,), (), (4, 5, 6), (7,)]


# The brute force


@families
@pytest.mark.parametrize("seed", [None, 0], ids=["base", "adapter"])
def test_every_block_is_what_the_brute_force_says(
    student: Students, examples: list[Example], task: Task, single_task: Task, family: str,
    seed: int | None,
) -> None:  # fmt: skip
    made = spread_out(student(family, seed=seed, settings=ALL))
    tasks = [single_task, task]
    readings = lens(made, examples[:2], tasks, Layout.LABEL, batch_size=2)
    assert [r.prediction.example_id for r in readings] == ["e0", "e0", "e1", "e1"]
    for reading, example in zip(readings, [examples[0]] * 2 + [examples[1]] * 2, strict=True):
        assert_reading(reading, made, example, tasks, 2e-5)
    vocabulary = len(made.encoder.tokenizer)
    for found in (r.labels for r in readings):
        assert (found.entropy >= 0).all()
        assert (found.entropy <= math.log(vocabulary) + 1e-6).all()
        assert (found.kl[:-1] > 0).all()
        assert (found.kl[-1] == 0).all()
        assert (found.ranks[-1, :, 0] == 0).all()
        assert (found.tokens[:, 0] == found.top[-1]).all()


def test_scoring_and_lens_are_one(
    student: Students, examples: list[Example], task: Task, single_task: Task
) -> None:
    made = spread_out(student(seed=0))
    tasks = [task, single_task]
    passes: list[int] = []
    scored = predict(made, examples, tasks, Layout.LABEL, batch_size=3)
    handle = made.model.register_forward_pre_hook(lambda *_: passes.append(1))
    done: list[int] = []
    readings = lens(
        made, examples, tasks, Layout.LABEL, {"letter": {"e1": "B"}}, batch_size=5,
        advance=done.append,
    )  # fmt: skip
    handle.remove()
    assert (len(passes), done) == (3, [5, 5, 2])
    expected = [scored[own.name][i] for i in range(len(examples)) for own in tasks]
    for reading, own in zip(readings, expected, strict=True):
        assert reading.prediction.label == own.label
        assert reading.prediction.log_probs == pytest.approx(own.log_probs, abs=1e-5)
        assert reading.log_probs[-1] == pytest.approx(list(reading.prediction.log_probs.values()))
    assert [r.gold for r in readings if r.task is single_task] == [None, "B", *[None] * 10]
    # "fairly good" and "fairly bad" begin alike.
    assert readings[0].firsts == {"bad": 1, "fairly good": 2, "fairly bad": 2, "good": 3}


def test_adapter_on_and_off_in_one_call(
    student: Students, examples: list[Example], task: Task
) -> None:
    made = spread_out(student(seed=0))
    bare = spread_out(student())
    trained = [p.requires_grad for p in made.model.parameters()]
    on, off = lens(made, examples[3:4], [task], Layout.LABEL, batch_size=1, base=True)
    assert (on.base, off.base) == (False, True)
    assert_reading(on, made, examples[3], [task], 2e-5)
    assert_reading(off, made, examples[3], [task], 2e-5)
    (plain,) = lens(bare, examples[3:4], [task], Layout.LABEL, batch_size=1)
    np.testing.assert_allclose(off.labels.log_probs, plain.labels.log_probs, atol=1e-5)
    assert np.abs(on.log_probs - off.log_probs).max() > 0.01
    assert [p.requires_grad for p in made.model.parameters()] == trained
    for parameter in made.model.parameters():
        parameter.requires_grad_(False)
    lens(made, examples[3:4], [task], Layout.LABEL, batch_size=1, base=True)
    assert not any(p.requires_grad for p in made.model.parameters())
    with pytest.raises(ModelError, match="has no adapter"):
        lens(bare, examples[:1], [task], Layout.LABEL, batch_size=1, base=True)


def test_over_a_base_of_four_bits(student: Students, examples: list[Example], task: Task) -> None:
    made = spread_out(student("wide", seed=0, load_in_4bit=True))
    for reading in lens(made, examples[:1], [task], Layout.LABEL, batch_size=1, base=True):
        assert_reading(reading, made, examples[0], [task], 1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_shared_and_separate_prefixes_say_the_same(
    student: Students, examples: list[Example], task: Task, single_task: Task, family: str
) -> None:
    found = []
    ways: tuple[Attention, ...] = ("auto", "separate")
    for attention in ways:
        made = spread_out(student(family, seed=0, settings=ALL))
        made.attention = attention
        found.append(lens(made, examples[:3], [task, single_task], Layout.LABEL, batch_size=2))
        assert made.shares is (attention == "auto")
    for one, two in zip(*found, strict=True):
        for name in ("entropy", "kl", "log_probs", "top_probs"):
            np.testing.assert_allclose(
                getattr(one.labels, name), getattr(two.labels, name), atol=2e-5
            )


def test_a_model_in_sixteen_bits_is_read_in_float32(
    folder_of: Callable[[str], Any], examples: list[Example], task: Task
) -> None:
    made = models.load(models.find(str(folder_of("llama"))), Prompting(max_length=256),
                       Train(dtype="bfloat16"))  # fmt: skip
    (reading,) = lens(made, examples[:1], [task], Layout.LABEL, batch_size=1)
    states = states_of(made, made.encoder.prompt(examples[0], [task]).prefix
                       + made.encoder.prompt(examples[0], [task]).questions[0])[:, -1]  # fmt: skip
    expected = log_softmax(read_out(made.model, normed(made.model, states)))
    np.testing.assert_allclose(
        reading.labels.entropy[:, 0], stats.entropy(np.exp(expected), axis=-1), atol=2e-2
    )


# Rows anywhere, norms, ties, memory


def test_a_trace_reads_any_place_of_trees(student: Students) -> None:
    made = spread_out(student(seed=0))
    trees, follow = places(12, 300)
    found = trace(made, trees, follow)
    assert found.log_probs.shape == found.ranks.shape == (3, 5, 4)
    assert found.entropy.shape == (3, 5)
    ids = trees[0][0].ids
    for row, path in enumerate([ids[:4], ids + ids[:1], ids + ids[:5], ids[4:6], ids[4:9]]):
        assert_row(found, row, brute(made, path)[:, -1], 2e-5)
    assert np.isnan(found.token_entropy[:, 2]).all(), "nothing is followed there"
    assert (found.token_entropy[:, 1] == 0).all(), "a single token"
    both = found.part(0, 2).joined(found.part(2, 5))
    assert all(np.array_equal(a, b, equal_nan=True) for (_, a), (_, b)
               in zip(both._arrays(), found._arrays(), strict=True))  # fmt: skip
    assert found.part(1, 3, 2).ranks.shape == (3, 2, 2)


def test_without_the_norm_blocks_are_read_as_ecco_does(student: Students) -> None:
    made = spread_out(student(seed=0))
    ids = tuple(range(5, 25))
    (tree,) = [[Node(ids=ids, wanted=(19,))]]
    found = trace(made, [tree], [(3,)], norm="none")
    states = states_of(made, ids)[:, -1]
    model = inner(made)
    expected = log_softmax(
        read_out(model, np.concatenate([states[:-1], normed(model, states[-1:])]))
    )
    assert_row(found, 0, expected, 2e-5)
    assert np.abs(found.entropy[:-1] - trace(made, [tree], [(3,)]).entropy[:-1]).min() > 1e-3


def test_equal_tokens_are_ties_and_no_ranks(student: Students) -> None:
    made = student()
    trees, _ = places(12, 300)
    with torch.no_grad():
        made.model.lm_head.weight[[11, 12]] = made.model.lm_head.weight[10].clone()
    found = trace(made, trees, [(10, 11, 12, 13)] * 5)
    assert (found.ties[..., 1:4] == 2).all()
    assert (found.ranks[..., 1:2] == found.ranks[..., 1:4]).all()
    assert (found.ties[..., 4] == 0).all()


@pytest.mark.parametrize("chunk", [1, 2400, 10**6])
def test_logits_exist_for_a_few_rows_at_a_time(
    student: Students, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    made = spread_out(student(seed=0))
    trees, follow = places(12, 300)
    expected = trace(made, trees, follow)
    monkeypatch.setattr(tracing, "CHUNK", chunk)
    seen: list[int] = []
    head = inner(made).lm_head
    handle = head.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    found = trace(made, trees, follow)
    handle.remove()
    own, *parts = seen
    assert own == 5 * head.out_features
    assert max(parts) <= max(chunk, 3 * head.out_features)
    assert sum(parts) == 15 * head.out_features
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_allclose(found.kl, expected.kl, atol=1e-5)


# Explanations


@pytest.mark.parametrize("layout", [
    Layout.LABEL_EXPLANATION, Layout.EXPLANATION_LABEL, Layout.BOTH_SIDES,
])  # fmt: skip
def test_every_row_of_an_explanation(
    student: Students, examples: list[Example], task: Task, layout: Layout
) -> None:
    made = spread_out(student(seed=0))
    readings = lens(
        made, examples[:3], [task], layout, batch_size=2, explanation=True, max_new_tokens=6,
        base=True,
    )  # fmt: skip
    scored = predict(
        made, examples[:3], [task], layout, batch_size=2, explain=True, max_new_tokens=6
    )[task.name]
    encoder = made.encoder
    for on, off, example, own in zip(readings[::2], readings[1::2], examples, scored, strict=False):
        assert on.prediction.label == own.label
        assert on.prediction.explanation == own.explanation == off.prediction.explanation
        assert on.prediction.log_probs == pytest.approx(own.log_probs, abs=1e-5)
        assert on.explanation is not None
        assert off.explanation is not None
        words = tuple(int(t) for t in on.explanation.tokens[:, 1])
        prompt = encoder.prompt(example, [task])
        begun = prompt.prefix + prompt.questions[0]
        assert own.label is not None
        label = encoder.labels(task)[own.label]
        if layout is Layout.EXPLANATION_LABEL:
            paths = [(begun, words)]
        elif layout is Layout.LABEL_EXPLANATION:
            paths = [(begun + label + encoder.separator, words)]
        else:
            first = words[:6]
            behind = begun + first + encoder.separator + label + encoder.separator
            paths = [(begun, first), (behind, words[6:])]
        row = 0
        for before, then in paths:
            for base, found in ((False, on.explanation), (True, off.explanation)):
                expected = brute(made, before + then, base=base)
                for at in range(len(then)):
                    assert_row(found, row + at, expected[:, len(before) + at - 1], 2e-5)
            row += len(then)
        assert row == len(words)
        if layout is not Layout.LABEL_EXPLANATION:
            expected = brute(made, begun + paths[0][1] + encoder.separator)[:, -1]
            assert_row(on.labels, 0, expected, 2e-5)


def test_an_explanation_is_read_only_on_request(
    student: Students, examples: list[Example], task: Task
) -> None:
    made = student(seed=0)
    (first,) = lens(made, examples[:1], [task], Layout.EXPLANATION_LABEL, batch_size=1,
                    max_new_tokens=4)  # fmt: skip
    assert first.explanation is None
    assert first.prediction.explanation
    (plain,) = lens(made, examples[:1], [task], Layout.LABEL, batch_size=1, explanation=True)
    assert (plain.explanation, plain.prediction.explanation) == (None, None)


# What is refused


def test_something_between_blocks_and_logits_is_found(
    student: Students, broken: Callable[..., Any], examples: list[Example], task: Task
) -> None:
    def ask(made: Student) -> list[Reading]:
        return lens(made, examples[:1], [task], Layout.LABEL, batch_size=1)

    made = student()
    ask(made)
    with (
        broken(made.model, lambda logits: logits * 1.01),
        pytest.raises(ModelError, match=r"LlamaForCausalLM.*LlamaRMSNorm.*off.*analyse another"),
    ):
        ask(made)
    with (
        broken(made.model, lambda logits: logits * torch.nan),
        pytest.raises(EvidenceError, match="its logits are not finite"),
    ):
        ask(made)
    ask(made)

    def twice(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = 1.01 * output.last_hidden_state
        return output

    made.model.model.register_forward_hook(twice)
    with pytest.raises(ModelError, match="something else stands between"):
        ask(made)


def test_a_norm_that_is_not_the_models_is_found(
    student: Students, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spread_out(student())
    norm = made.model.model.norm
    own = norm.forward

    def tampered(states: Tensor) -> Tensor:
        # In the model's own pass there is a batch of one row of tokens.
        found: Tensor = own(states)
        return found if states.shape[0] == 1 else found * 1.02

    monkeypatch.setattr(norm, "forward", tampered)
    with pytest.raises(ModelError, match=r"expected at most 1e-04"):
        trace(made, *places(12, 300))


def refused(model_type: str, **settings: Any) -> Iterator[str]:
    config = AutoConfig.for_model(model_type, vocab_size=60, hidden_size=32, num_hidden_layers=2,
                                  **settings)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    encoder: Any = type("Plain", (), {"head": None})()
    made = Student(model=model, encoder=encoder, base=models.Base(name="odd", location="odd"))
    with pytest.raises(ModelError) as caught:
        readout(made)
    yield str(caught.value)


def test_an_architecture_that_is_not_known_is_named() -> None:
    (message,) = refused("rwkv", attention_hidden_size=32, context_length=16)
    assert message.startswith("odd (RwkvForCausalLM): found no final norm (norm, ln_f,")
    assert message.endswith("analyse another base")


def test_a_label_head_has_no_vocabulary(
    student: Students, examples: list[Example], task: Task
) -> None:
    made = models.adapt(student(), Train(), 0, {task.name: task.label_names})
    with pytest.raises(ModelError, match=r"answers by a label head.*an arm that writes its labels"):
        lens(made, examples[:1], [task], Layout.LABEL, batch_size=1)


# Flat rows


def test_rows_say_what_readings_say(student: Students, examples: list[Example], task: Task) -> None:
    made = spread_out(student(seed=0))
    readings = lens(
        made, examples[:2], [task], Layout.LABEL_EXPLANATION, {task.name: {"e0": "fairly bad"}},
        batch_size=2, base=True, explanation=True, max_new_tokens=3,
    )  # fmt: skip
    blocks = pa.Table.from_pylist(list(by_block(readings))).to_pylist()
    assert len(blocks) == 4 * 3
    first, (on, *_) = blocks[2], readings
    assert (first["example_id"], first["task"], first["base"], first["block"]) == (
        "e0", "usefulness", False, 2,
    )  # fmt: skip
    assert first["entropy"] == on.labels.entropy[2, 0]
    assert first["label_entropy"] == on.label_entropy[2]
    assert first["predicted"] == on.prediction.label
    assert first["gold_log_prob"] == on.log_probs[2, 2]
    assert first["gold_rank"] == on.labels.ranks[2, 0, 2]
    assert first["final_top_rank"] == first["kl"] == 0
    assert blocks[-1]["gold_rank"] is None
    tokens = pa.Table.from_pylist(list(by_token(readings))).to_pylist()
    told = sum(int((r.explanation.tokens >= 0).sum()) for r in readings if r.explanation)
    assert len(tokens) == 3 * (sum(int((r.labels.tokens >= 0).sum()) for r in readings) + told)
    (row,) = [t for t in tokens if t["example_id"] == "e1" and t["base"] and t["block"] == 1
              and t["part"] == "explanation" and t["place"] == 2 and not t["final_top"]]  # fmt: skip
    other = readings[3].explanation
    assert other is not None
    assert row["token"] == other.tokens[2, 1]
    assert row["rank"] == other.ranks[1, 2, 1]
    assert row["log_prob"] == other.log_probs[1, 2, 1]
