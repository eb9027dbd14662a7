"""What a training asks of a student: tokens, floating point operations, and what drives it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from whytune.student.encode import Bundle
from whytune.student.models import Student
from whytune.student.objective import terms, token_nll, weighted_nll
from whytune.student.targets import Part

SAMPLE = 8
"""Conversations whose operations are counted."""


def supervised(bundles: Sequence[Bundle]) -> dict[str, int]:
    """Supervised tokens by span: `label`, `explanation`, `frame`."""
    return {
        part.value: sum(
            branch.parts.count(part) for bundle in bundles for branch in bundle.branches
        )
        for part in (Part.LABEL, Part.EXPLANATION, Part.FRAME)
    }


def label_share(
    student: Student, batches: Sequence[Sequence[Bundle]], size: int | None = None
) -> float:
    """Which share of the gradient comes from label tokens: |l| / sqrt(|l|^2 + |o|^2), mean over the
    updates, with l the gradient of the label tokens' part of an update's loss over all trainable
    parameters and o that of all other supervised tokens' part.

    AdamW divides a step by the root mean square of the whole gradient, so what the label moves is
    as large as its part is beside that whole. The two parts are taken as uncorrelated: then the
    mean square of the whole is the sum of theirs.

    Dropout is off, no random number is drawn, and no gradient is left behind.

    Args:
        student: with a trainable adapter.
        batches: the bundles of each update.
        size: bundles in one forward pass; without it, all of an update.

    Returns:
        0 to 1; 0 where no label token weighs anything, not-a-number where the gradient is none.
    """
    with _still(student, batches[0][0]) as still:
        return fmean(_label_share(still, batch, size or len(batch)) for batch in batches)


def _label_share(student: Student, batch: Sequence[Bundle], size: int) -> float:
    if all(part is not Part.LABEL for part, _ in terms(batch)):
        return 0.0
    parameters = _trainable(student)
    sums = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    for at in range(0, len(batch), size):
        bundles = batch[at : at + size]
        losses = weighted_nll(student, bundles)
        is_label = torch.tensor([part is Part.LABEL for part, _ in terms(bundles)])
        for total, chosen in zip(sums, (is_label, ~is_label), strict=True):
            found = torch.autograd.grad(
                losses[chosen.to(losses.device)].sum(), parameters,
                retain_graph=chosen is is_label, materialize_grads=True,
            )  # fmt: skip
            torch._foreach_add_(total, found)
    label, other = (float(torch.stack([g.square().sum() for g in total]).sum()) for total in sums)
    return math.sqrt(label / (label + other)) if label != 0 else 0.0


def flops(student: Student, bundles: Sequence[Bundle]) -> int:
    """Floating point operations of one forward and backward pass over bundles.

    Counted in matrix products and attention (a product of m x k by k x n numbers is 2 m k n
    operations; attention counts what its mask hides) on conversations around the median length,
    and scaled by tokens. Dropout and recomputed activations are not in it.

    Args:
        student: with a trainable adapter.
        bundles: all that it is taught, an epoch.
    """
    ordered = sorted(bundles, key=len)
    first = max(0, (len(ordered) - SAMPLE) // 2)
    sample = ordered[first : first + SAMPLE]
    with (
        _still(student, sample[0]) as still,
        FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter,
    ):
        for bundle in sample:
            loss = weighted_nll(still, [bundle]).sum()
            torch.autograd.grad(loss, _trainable(still), allow_unused=True)
    tokens = sum(map(len, sample))
    counted: int = counter.get_total_flops()
    return round(counted * sum(map(len, bundles)) / tokens)


def memory(student: Student, bundles: Sequence[Bundle], size: int) -> int:
    """Bytes that an update holds at most: weights and buffers as they are stored, of what is trained
    a gradient and AdamW's two moments, and what the longest pass forward keeps for its way back.

    What a pass keeps is counted on the first `size` bundles and scaled by tokens. Not in it: what
    an operation needs while it runs (with recomputed activations, those of one block), what the
    allocator holds in reserve, and Python with its libraries.

    Args:
        student: with a trainable adapter.
        bundles: all that it is taught.
        size: bundles in one forward pass.
    """
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    _try_out(student, bundles[0])
    training = student.model.training
    student.model.train()  # dropout and recomputed activations are part of it
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = weighted_nll(student, bundles[:size])
    finally:
        student.model.train(training)
    held = [*student.model.parameters(), *student.model.buffers()]
    for tensor in held:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del losses  # what it kept could not move until here
    lengths = sorted(map(len, bundles), reverse=True)
    passing = sum(kept.values()) * sum(lengths[:size]) / sum(map(len, bundles[:size]))
    trained = sum(p.numel() * p.element_size() for p in _trainable(student))
    return round(sum(t.numel() * t.element_size() for t in held) + 3 * trained + passing)


def _like(counted: Any) -> Callable[..., int]:
    """The formula of an operation that torch counts."""

    def formula(*shapes: Any, out_shape: Any = None, **more: Any) -> int:
        found: int = flop_registry[counted](*shapes, **more)
        return found

    return formula


_ATEN: Any = torch.ops.aten
_UNCOUNTED = {
    # torch 2.13 counts neither products into their addend nor attention on a CPU.
    _ATEN.addmm_: _like(_ATEN.addmm),
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _like(
        _ATEN._scaled_dot_product_flash_attention
    ),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _like(
        _ATEN._scaled_dot_product_flash_attention_backward
    ),
}


@contextmanager
def _still(student: Student, bundle: Bundle) -> Iterator[Student]:
    """The student inside the block: without dropout, and with an attention that can be counted and
    gone back through twice, which a compiled one can not.
    """
    training = student.model.training
    student.model.eval()
    try:
        _try_out(student, bundle)
        yield replace(student, attention="split") if student.attention == "flex" else student
    finally:
        student.model.train(training)


def _try_out(student: Student, bundle: Bundle) -> None:
    """Let its first pass be over, which tries out whether and how it shares prefixes."""
    if student.shares is None:
        with torch.no_grad():
            token_nll(student, [bundle])


def _trainable(student: Student) -> list[Parameter]:
    return [p for p in student.model.parameters() if p.requires_grad]
