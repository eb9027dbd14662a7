"""The head in float32: a model in bfloat16 would round its logits to three digits."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from transformers import PreTrainedModel

CHUNK = 8192
"""Rows of the vocabulary that are widened at a time (64 MB at a width of 2048)."""


def install(model: PreTrainedModel) -> None:
    """Let the head of a model in a narrower type give float32 logits."""
    head: Any = model.get_output_embeddings()
    is_plain = type(head) is torch.nn.Linear
    if is_plain and head.weight.dtype is not torch.float32:
        head._own_forward = head.forward
        head.forward = MethodType(_forward, head)


def _forward(head: Any, states: Tensor) -> Tensor:
    if head.weight.requires_grad or head.bias is not None:
        found: Tensor = head._own_forward(states)
        return found
    logits: Tensor = WideHead.apply(states, head.weight)  # type: ignore[no-untyped-call]
    return logits


class WideHead(Function):
    """states W' as float32 products of float32 numbers, with W frozen."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(weight)
        ctx.dtype = states.dtype
        wide = states.float()
        return torch.cat([wide @ part.float().T for part in weight.split(CHUNK)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        (weight,) = ctx.saved_tensors
        pieces = zip(grads[0].split(CHUNK, dim=-1), weight.split(CHUNK), strict=True)
        found = sum(g @ part.float() for g, part in pieces)
        assert isinstance(found, Tensor)
        return found.to(ctx.dtype), None
