"""Shared prefixes against the oracle: every path a sequence of its own, plain transformers."""

import warnings
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from whytune.recipe_student import Attention, Train
from whytune.records import Example, Label, Layout, Task
from whytune.records import Kind as TaskKind
from whytune.student import bundle, flex, models
from whytune.student.bundle import (
    Node,
    SharingWarning,
    logits,
    packed_logits,
    separate_logits,
)
from whytune.student.encode import Branch, Bundle, Ids
from whytune.student.generating import generate
from whytune.student.head import WideHead
from whytune.student.models import Student
from whytune.student.objective import token_nll
from whytune.student.predict import LabelTree, predict, score
from whytune.student.targets import Part

Students = Callable[..., Student]
# GPT-2 keeps its weights the other way round, which peft sees and says.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")
SHAPES: dict[str, dict[str, Any]] = {
    "llama, grouped heads": {"model_type": "llama", "num_key_value_heads": 2},
    "llama, tied": {"model_type": "llama", "num_key_value_heads": 4, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 1},
    "gpt-neox": {"model_type": "gpt_neox"},
    "gpt2": {"model_type": "gpt2"},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 7},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {"model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 8,
               "sliding_window": 7, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
}  # fmt: skip
COMMON = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "max_position_embeddings": 512}  # fmt: skip


def student_of(shape: str, vocabulary: int, *, joined: bool = False) -> Student:
    torch.manual_seed(7)
    chosen = {**COMMON, "tie_word_embeddings": False, **SHAPES[shape], "vocab_size": vocabulary,
              "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    if chosen["model_type"] == "gpt2":
        chosen["n_head"], chosen["n_layer"], chosen["n_embd"] = 4, 2, 32
    config = AutoConfig.for_model(chosen.pop("model_type"), **chosen)
    config.initializer_range = 0.15
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made = Student(model=model.eval(), encoder=None, base=models.Base(name="x", location="x"))  # type: ignore[arg-type]
    adapted = models.adapt(made, Train(lora_dropout=0.0, target_modules="all-linear"), 0)
    for name, parameter in adapted.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of A
            torch.nn.init.normal_(parameter, std=0.1)
    if not joined:
        take_apart(adapted.model)
    adapted.model.eval()
    return adapted


def take_apart(model: torch.nn.Module) -> None:
    """Undo `fused.install`, so that an oracle is transformers and peft alone."""
    for module in model.modules():
        if "_own_forward" in module.__dict__:
            del module.forward, module._own_forward


def bundles_of(vocabulary: int) -> st.SearchStrategy[list[Bundle]]:
    ids = st.lists(st.integers(1, vocabulary - 1), min_size=1, max_size=40).map(tuple)

    @st.composite
    def branch(draw: Any) -> Branch:
        own = draw(ids)
        prompt = draw(st.integers(0, len(own) - 1))
        parts = (Part.PROMPT,) * prompt + (Part.LABEL,) * (len(own) - prompt)
        return Branch(ids=own, parts=parts)

    one = st.builds(
        lambda prefix, branches: Bundle(prefix=prefix, branches=tuple(branches)),
        ids, st.lists(branch(), min_size=1, max_size=8),
    )  # fmt: skip
    return st.lists(one, min_size=1, max_size=3)


def oracle_nll(student: Student, bundles: list[Bundle]) -> Tensor:
    """Every branch alone with its prefix, all logits, labels masked as transformers does."""
    found = []
    for one in bundles:
        for branch in one.branches:
            ids = torch.tensor([one.prefix + branch.ids])
            rows = student.model(input_ids=ids).logits[0].log_softmax(-1)
            for at, part in enumerate(branch.parts):
                if part is not Part.PROMPT:
                    place = len(one.prefix) + at
                    found.append(-rows[place - 1, ids[0, place]])
    return torch.stack(found)


def gradients(student: Student, loss: Tensor) -> Tensor:
    student.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in student.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("joined", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_equal_those_of_separate_sequences(shape: str, joined: bool) -> None:
    vocabulary = 211
    student = student_of(shape, vocabulary, joined=joined)
    oracle = student_of(shape, vocabulary)
    assert any("_own_forward" in m.__dict__ for m in student.model.modules()) == joined

    @settings(max_examples=12)
    @given(bundles_of(vocabulary))
    def check(bundles: list[Bundle]) -> None:
        found, expected = token_nll(student, bundles), oracle_nll(oracle, bundles)
        assert student.shares
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        own, true = gradients(student, found.mean()), gradients(oracle, expected.mean())
        assert float((own - true).norm() / true.norm()) < 1e-5

    check()


@pytest.mark.parametrize("shape", SHAPES)
def test_label_probabilities_equal_those_of_separate_sequences(shape: str) -> None:
    vocabulary = 97
    student = student_of(shape, vocabulary)
    ids = st.lists(st.integers(1, vocabulary - 1), min_size=1, max_size=20).map(tuple)
    # A token that no other place uses ends every label, so that none begins another.
    labels = st.lists(
        st.lists(st.integers(1, 6), max_size=3).map(tuple), min_size=2, max_size=6, unique=True
    ).map(lambda names: {f"l{i}": (*name, 9) for i, name in enumerate(names)})

    @settings(max_examples=10)
    @given(st.lists(st.tuples(ids, st.lists(st.tuples(ids, labels), min_size=1, max_size=3)),
                    min_size=1, max_size=3))  # fmt: skip
    def check(asked: list[tuple[Ids, list[tuple[Ids, dict[str, Ids]]]]]) -> None:
        found = score(student, [(p, [(q, LabelTree.of(x)) for q, x in qs]) for p, qs in asked])
        for (prefix, questions), of_prefix in zip(asked, found, strict=True):
            for (question, of_task), probs in zip(questions, of_prefix, strict=True):
                for name, label in of_task.items():
                    branch = Branch(ids=question + label,
                                    parts=(Part.PROMPT,) * len(question) + (Part.LABEL,) * len(label))  # fmt: skip
                    with torch.no_grad():
                        nll = oracle_nll(student, [Bundle(prefix=prefix, branches=(branch,))])
                    assert probs[name] == pytest.approx(-float(nll.sum()), abs=1e-4)

    check()


def test_branches_do_not_see_each_other() -> None:
    student = student_of("llama, grouped heads", 50)
    tree = [Node(ids=(1, 2, 3)), Node(ids=(4, 5), parent=0, wanted=(0, 1)),
            Node(ids=(6, 7), parent=1, wanted=(1,)), Node(ids=(8, 9, 10), parent=0, wanted=(2,))]  # fmt: skip
    other = [*tree[:3], Node(ids=(18, 19, 20), parent=0, wanted=(2,))]
    with torch.no_grad():
        one, two = packed_logits(student.model, [tree]), packed_logits(student.model, [other])
    assert torch.equal(one[:3], two[:3])
    assert not torch.allclose(one[3], two[3])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("attention", get_args(Attention))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_to_share_gives_the_same(shape: str, attention: Attention) -> None:
    student = student_of(shape, 150)
    student.attention = attention
    tree = [Node(ids=(1, 2, 3, 4)), Node(ids=(4, 5), parent=0, wanted=(0, 1)),
            Node(ids=(6, 7), parent=1, wanted=(1,)), Node(ids=(8, 9, 10), parent=0, wanted=(2,))]  # fmt: skip
    trees = [tree, [Node(ids=tuple(range(1, 150)), wanted=(0, 148))]]
    with torch.no_grad():  # FlexAttention has no backward pass on a CPU
        found = logits(student, trees)
        expected = separate_logits(student.model, trees)
    assert student.shares is (attention != "separate")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 100_000))
def test_padding_to_a_bucket_is_bounded(tokens: int) -> None:
    size = flex.bucket(tokens)
    assert size % flex.BLOCK == 0
    assert 0 <= size - tokens < max(flex.BLOCK, tokens / 4)
    assert flex.bucket(size) == size


def test_buckets_are_few() -> None:
    assert len({flex.bucket(n) for n in range(1, 16_385)}) <= 4 * 6


def test_a_head_in_bfloat16_gives_logits_in_float32() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 70, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    given = torch.randn(5, 16, dtype=torch.bfloat16, requires_grad=True)
    true = given.detach().float().requires_grad_()
    found = WideHead.apply(given, head.weight)  # type: ignore[no-untyped-call]
    expected = true @ head.weight.float().T
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    ahead = torch.randn(5, 70)
    (found * ahead).sum().backward()
    (expected * ahead).sum().backward()
    assert given.grad is not None
    assert true.grad is not None
    assert torch.equal(given.grad, true.grad.bfloat16())


def test_a_model_with_a_running_state_is_read_separately_and_says_why() -> None:
    config = AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=1, vocab_size=60,
                                  state_size=4)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    student = Student(model=model, encoder=None, base=models.Base(name="x", location="x"))  # type: ignore[arg-type]
    one = Bundle(prefix=(1, 2, 3), branches=tuple(
        Branch(ids=(4, n, 6), parts=(Part.PROMPT, Part.LABEL, Part.LABEL)) for n in (5, 7)))  # fmt: skip
    with pytest.warns(SharingWarning, match=r"mamba.*next"), torch.no_grad():
        found = token_nll(student, [one])
    assert student.shares is False
    torch.testing.assert_close(found, oracle_nll(student, [one]), rtol=1e-5, atol=1e-5)


def test_a_model_that_fails_the_check_is_read_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_of("qwen2", 60)
    right = packed_logits
    monkeypatch.setattr(bundle, "packed_logits", lambda *a, **k: right(*a, **k) * 1.01)
    one = Bundle(prefix=(1, 2, 3), branches=(Branch(ids=(4, 5), parts=(Part.PROMPT, Part.LABEL)),))
    with pytest.warns(SharingWarning, match="are off by"):
        found = token_nll(student, [one])
    torch.testing.assert_close(found, oracle_nll(student, [one]), rtol=1e-5, atol=1e-5)


def test_recomputed_activations_give_the_same_gradients() -> None:
    one = Bundle(prefix=(1, 2, 3), branches=tuple(
        Branch(ids=(4, n, 6), parts=(Part.PROMPT, Part.LABEL, Part.LABEL)) for n in (5, 7)))  # fmt: skip
    found = []
    for again in (False, True):
        student = student_of("llama, grouped heads", 50)
        if again:
            plain: Any = student.adapted.get_base_model()
            models.recompute(plain)
        student.model.train()
        found.append(gradients(student, token_nll(student, [one]).sum()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_generating_from_a_shared_prefix_equals_generating_alone(
    family: str, student: Students
) -> None:
    made = student(family)
    torch.manual_seed(3)

    def draw(n: int) -> Ids:
        return tuple(torch.randint(5, 300, (n,)).tolist())

    prefixes = [draw(n) for n in (12, 5, 9)]
    branches = [[draw(n) for n in sizes] for sizes in ((3, 7), (6, 2), (4, 4))]
    made.shares = False
    expected = generate(made, prefixes, branches, 8)
    made.shares = True
    assert generate(made, prefixes, branches, 8) == expected
    alone = [
        [generate(made, [p], [[b]], 8)[0][0] for b in of]
        for p, of in zip(prefixes, branches, strict=True)
    ]
    assert alone == expected


def test_all_tasks_are_answered_as_each_alone(
    student: Students, examples: list[Example], task: Task, single_task: Task
) -> None:
    made = student()
    for layout in Layout:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            both = predict(made, examples, [task, single_task], layout, batch_size=5,
                           explain=True, max_new_tokens=5)  # fmt: skip
        for one in (task, single_task):
            alone = predict(made, examples, [one], layout, batch_size=3, explain=True,
                            max_new_tokens=5)[one.name]  # fmt: skip
            for a, b in zip(both[one.name], alone, strict=True):
                assert a.explanation == b.explanation
                assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)


def test_a_cut_prefix_is_the_same_for_every_task(
    student: Students, examples: list[Example], task: Task
) -> None:
    made = student(max_length=130)
    longer = Task(name="longer", kind=TaskKind.NOMINAL, question=task.question * 6,
                  labels=(Label(name="a"), Label(name="b")))  # fmt: skip
    example = max(examples, key=lambda e: len(e.turns[-1].text))
    prompt = made.encoder.prompt(example, [task, longer])
    assert prompt.cut > made.encoder.prompt(example, [task]).cut
    assert len(prompt.prefix) + len(prompt.questions[1]) == 130
