"""What a training takes, against plain autograd and products counted by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from whytune.recipe_arms import Arm
from whytune.recipe_student import Train
from whytune.records import Layout, Lesson
from whytune.student.effort import flops, label_share, memory, supervised
from whytune.student.encode import Branch, Bundle, audit
from whytune.student.models import Student
from whytune.student.objective import weigh, weighted_nll
from whytune.student.targets import Part

Students = Callable[..., Student]


@pytest.fixture
def learner(student: Students) -> Callable[..., Student]:
    """A student whose adapter does something: B begins at zero, which would hide A's gradient."""

    def make(**settings: object) -> Student:
        made = student(seed=0, settings=Train.model_validate(settings))
        torch.manual_seed(5)
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return made

    return make


def encoded(student: Student, lessons: list[Lesson], arm: Arm) -> list[Bundle]:
    return [
        weigh(audit(student.encoder, [x], [x.task]), [x], arm, student.encoder) for x in lessons
    ]


def norm(loss: Tensor, student: Student) -> float:
    own = [p for p in student.model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, own, retain_graph=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in found))


def brute_force(student: Student, bundles: list[Bundle], label: float, rest: float) -> float:
    """The share of one update, every branch read as a sequence by the model's own attention."""
    losses = {True: torch.zeros(()), False: torch.zeros(())}
    student.model.eval()
    for bundle in bundles:
        for branch in bundle.branches:
            ids = torch.tensor([bundle.prefix + branch.ids])
            logits = student.model(input_ids=ids).logits[0, len(bundle.prefix) - 1 : -1]
            nll = cross_entropy(logits, torch.tensor(branch.ids), reduction="none")
            for part, loss in zip(branch.parts, nll, strict=True):
                if part is not Part.PROMPT:
                    is_label = part is Part.LABEL
                    losses[is_label] = losses[is_label] + loss * (label if is_label else rest)
    of_label, of_rest = norm(losses[True], student), norm(losses[False], student)
    return of_label / math.hypot(of_label, of_rest)


@pytest.mark.parametrize(("label", "rest"), [(1.0, 1.0), (4.0, 0.5)])
def test_the_share_is_that_of_two_gradients(
    label: float, rest: float, learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner()
    arm = Arm(explanation="assessment", label_weight=label, explanation_weight=rest)
    bundles = encoded(made, lessons[:6], arm)
    batches = [bundles[:4], bundles[4:]]
    expected = [brute_force(made, batch, label, rest) for batch in batches]
    assert abs(expected[0] - expected[1]) > 1e-3
    assert label_share(made, batches) == pytest.approx(sum(expected) / 2, abs=1e-5)
    # Not the mean over forward passes: an update's gradient is one.
    assert label_share(made, batches, 1) == pytest.approx(sum(expected) / 2, abs=1e-5)


def test_a_share_of_one_part_alone_is_known(
    learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner()
    label_only = Arm(explanation="assessment", explanation_weight=0)
    assert label_share(made, [encoded(made, lessons[:2], label_only)]) == 1
    why_only = Arm(explanation="assessment", label_weight=0)
    assert label_share(made, [encoded(made, lessons[:2], why_only)]) == 0
    open_ended = Bundle(prefix=(7, 8), branches=(
        Branch(ids=(9, 10, 11), parts=(Part.PROMPT, Part.EXPLANATION, Part.FRAME)),
    ))  # fmt: skip
    assert label_share(made, [[open_ended]]) == 0
    # Beside a bare label stands its end mark.
    bare = [replace(x, layout=Layout.LABEL, explanation=None) for x in lessons[:4]]
    assert 0 < label_share(made, [encoded(made, bare, Arm())]) < 1


def test_smoothed_labels_are_label_all_the_same(
    learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner()
    arm = Arm(explanation="assessment", explanation_weight=0, label_smoothing=0.3)
    assert label_share(made, [encoded(made, lessons[:2], arm)]) == 1


def test_measuring_leaves_nothing_behind(
    learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner(lora_dropout=0.5)
    bundles = encoded(made, lessons[:3], Arm())
    made.model.train()
    before = torch.get_rng_state()
    first = label_share(made, [bundles])
    flops(made, bundles)
    assert label_share(made, [bundles]) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert made.model.training
    assert all(p.grad is None for p in made.model.parameters())


def test_what_is_no_number_has_no_share(
    learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner()
    with torch.no_grad():
        next(p for p in made.model.parameters() if p.requires_grad).fill_(math.nan)
    assert math.isnan(label_share(made, [encoded(made, lessons[:1], Arm())]))


def test_compiled_attention_is_gone_around(
    learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    # FlexAttention has no way back on a CPU, and only one on a GPU.
    made = learner()
    bundles = encoded(made, lessons[:2], Arm())
    share, count = label_share(made, [bundles]), flops(made, bundles)
    made.attention = "flex"
    assert label_share(made, [bundles]) == share
    assert flops(made, bundles) == count
    assert made.attention == "flex"


def by_hand(prefix: int, branch: int, wanted: int, vocabulary: int, adapted: list[int]) -> int:
    """Operations of the tiny Llama of conftest: width 32, unit 64, 4 heads and 2 key heads of 8."""
    rank, heads, of_head, tokens = 16, 4, 8, prefix + branch
    attends = [("q", 32, 32), ("k", 32, 16), ("v", 32, 16)]
    others = [("o", 32, 32), ("gate", 32, 64), ("up", 32, 64), ("down", 64, 32)]
    products = 2 * (wanted * 32 * vocabulary)  # forward, and back to the states
    pairs = prefix * prefix + branch * tokens
    for layer in range(2):
        products += 2 * heads * of_head * pairs  # scores, and values by them
        if layer >= adapted[0]:  # scores again, then values, weights, queries and keys
            products += 5 * heads * of_head * pairs
        for name, width, out in attends + others:
            products += tokens * width * out
            if layer in adapted:
                products += tokens * rank * (width + out)  # x A' and its B'
                products += tokens * rank * (out + width + out)  # to the middle, to A, to B
            # Nothing below the first adapted block wants a gradient.
            if layer > adapted[0] or (layer == adapted[0] and name not in "qkv"):
                products += tokens * width * out
                products += tokens * rank * width * (layer in adapted)
    return 2 * products


@pytest.mark.parametrize("adapted", [[0, 1], [1]], ids=["all blocks", "upper block"])
def test_operations_are_those_counted_by_hand(
    adapted: list[int], learner: Callable[..., Student]
) -> None:
    made = learner(layers_to_transform=adapted, lora_r=16)
    parts = (*[Part.PROMPT] * 9, *[Part.LABEL] * 3)
    bundle = Bundle(
        prefix=tuple(range(10, 40)), branches=(Branch(ids=tuple(range(50, 62)), parts=parts),)
    )
    expected = by_hand(30, 12, 3, made.model.config.vocab_size, adapted)
    assert flops(made, [bundle]) == expected


def test_fewer_blocks_are_less_work(learner: Callable[..., Student], lessons: list[Lesson]) -> None:
    whole, upper = learner(), learner(layers_to_transform=[1])
    bundles = encoded(whole, lessons, Arm())
    assert flops(upper, bundles) < 0.85 * flops(whole, bundles)


def test_operations_are_scaled_by_tokens(
    learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner()
    bundles = encoded(made, lessons, Arm())
    one = flops(made, bundles[:1])
    assert flops(made, bundles[:1] * 20) == 20 * one
    # Eight about the median stand for all.
    exact = sum(flops(made, [bundle]) for bundle in bundles)
    assert flops(made, bundles) == pytest.approx(exact, rel=0.1)


def test_supervised_tokens_by_span() -> None:
    parts = (Part.PROMPT, Part.LABEL, Part.LABEL, Part.FRAME, Part.EXPLANATION, Part.FRAME)
    explained, bare = Branch(ids=(1, 2, 3, 4, 5, 6), parts=parts), Branch(
        ids=(1, 2, 3), parts=(Part.PROMPT, Part.LABEL, Part.FRAME)
    )  # fmt: skip
    bundles = [
        Bundle(prefix=(1,), branches=(explained, bare)),
        Bundle(prefix=(1,), branches=(bare,)),
    ]
    assert supervised(bundles) == {"label": 4, "explanation": 1, "frame": 4}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_memory_is_what_is_stored_and_what_a_pass_keeps(
    dropout: float, learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner(lora_dropout=dropout)
    bundles = encoded(made, lessons, Arm())
    longest = sorted(bundles, key=len)[-2:]
    found = memory(made, bundles, 2)
    stored = sum(t.nbytes for t in (*made.model.parameters(), *made.model.buffers()))
    trained = sum(p.nbytes for p in made.model.parameters() if p.requires_grad)
    made.model.train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        losses = weighted_nll(made, longest)
    # What was allocated and not freed again: what the way back needs, and the losses.
    kept = sum(row.self_cpu_memory_usage for row in profiled.key_averages()) - losses.nbytes
    assert found - stored - 3 * trained == pytest.approx(kept, rel=0.1)
    # With recomputed activations a pass keeps what enters each block.
    less = learner(lora_dropout=dropout, gradient_checkpointing=True)
    assert memory(less, bundles, 2) - stored - 3 * trained < kept / 4


def test_memory_leaves_the_student_as_it_was(
    learner: Callable[..., Student], lessons: list[Lesson]
) -> None:
    made = learner(lora_dropout=0.0)
    made.model.eval()
    bundles = encoded(made, lessons, Arm())
    one = memory(made, bundles, 1)
    assert memory(made, bundles, 1) == one < memory(made, bundles, 4)
    assert not made.model.training
    assert all(p.grad is None for p in made.model.parameters())
