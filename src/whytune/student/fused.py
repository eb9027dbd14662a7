"""The same numbers with less traffic: three modules whose passes over memory are joined.

On a CPU the matrix products of a small model take half of an update; the rest is reading and
writing activations, one pass per operation. Here a low-rank adapter adds into its base's output
in place, a norm takes three passes instead of six, and a gated unit keeps two tensors instead
of four. The backward passes are written out by hand, so each is tested against autograd.
"""

from collections.abc import Iterator
from types import MethodType
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from transformers.activations import SiLUActivation

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Norms of transformers that compute x / rms(x) * weight in float32."""
GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""Units of transformers that compute down(act(gate(x)) * up(x)); used where act is SiLU."""


def install(model: torch.nn.Module) -> None:
    """Join the passes of the modules that are known; all others stay as they are.

    Modules that compute something else at the moment (another type than float32, dropout, a
    quantised base, several adapters, a frozen norm that is not frozen) go their own way.
    """
    for module in cast("Iterator[Any]", model.modules()):
        name = type(module).__name__
        joined = _low_rank if isinstance(module, LoraLinear) else (
            _norm if name in NORMS else _gated if name in GATED else None)  # fmt: skip
        if joined is not None and "_own_forward" not in module.__dict__:
            module._own_forward = module.forward
            module.forward = MethodType(joined, module)


def _low_rank(module: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs or not _is_plain(module, x):
        found: Tensor = module._own_forward(x, *args, **kwargs)
        return found
    (adapter,) = module.active_adapters
    base = module.base_layer
    return LowRank.apply(  # type: ignore[no-untyped-call, no-any-return]
        x, base.weight, base.bias, module.lora_A[adapter].weight, module.lora_B[adapter].weight,
        module.scaling[adapter],
    )  # fmt: skip


def _is_plain(module: Any, x: Tensor) -> bool:
    active = module.active_adapters
    if module.disable_adapters or module.merged or len(active) != 1:
        return False
    (adapter,) = active
    if adapter not in module.lora_A or adapter in module.lora_variant:
        return False
    base, a, b = module.base_layer, module.lora_A[adapter], module.lora_B[adapter]
    dropout = module.lora_dropout[adapter]
    drops = module.training and getattr(dropout, "p", 0.0) > 0
    frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
    return (
        not drops
        and type(base) is torch.nn.Linear
        and frozen
        and a.bias is None
        and b.bias is None
        and {x.dtype, base.weight.dtype, a.weight.dtype} == {torch.float32}
        and not torch.is_autocast_enabled(x.device.type)
    )


class LowRank(Function):
    """y = x W' + bias + scale x A' B', with W and bias frozen (Hu et al. 2021, section 4.1)."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down = rows @ a.T
        out = functional.linear(rows, weight, bias).addmm_(down, b.T, alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, down)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        rows, weight, a, b, down = ctx.saved_tensors
        g = grads[0].reshape(-1, weight.shape[0])
        up = g @ b
        wanted = ctx.needs_input_grad
        grad_a = torch.mm(up.T, rows).mul_(ctx.scale) if wanted[3] else None
        grad_b = torch.mm(g.T, down).mul_(ctx.scale) if wanted[4] else None
        grad_x = None
        if wanted[0]:
            grad_x = (g @ weight).addmm_(up, a, alpha=ctx.scale).view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None


def _norm(module: Any, x: Tensor) -> Tensor:
    if x.dtype is not torch.float32 or module.weight.requires_grad:
        found: Tensor = module._own_forward(x)
        return found
    eps = module.variance_epsilon
    out: Tensor = RootMeanSquare.apply(x, module.weight, eps)  # type: ignore[no-untyped-call]
    return out


class RootMeanSquare(Function):
    """y = x / sqrt(mean(x^2) + eps) * weight, with the weight frozen
    (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467, equation 4).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # noqa: D102
        squared = torch.linalg.vecdot(x, x).unsqueeze(-1)
        inverse = squared.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        out: Tensor = (x * inverse).mul_(weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight, inverse = ctx.saved_tensors
        g = grads[0] * weight
        along = torch.linalg.vecdot(g, x).unsqueeze(-1)
        along.mul_(inverse.pow(3)).div_(-x.shape[-1])
        return g.mul_(inverse).addcmul_(x, along), None, None


def _gated(module: Any, x: Tensor) -> Tensor:
    if (
        not isinstance(module.act_fn, torch.nn.SiLU | SiLUActivation)
        or x.dtype is not torch.float32
    ):
        found: Tensor = module._own_forward(x)
        return found
    joined = GatedUnit.apply(module.gate_proj(x), module.up_proj(x))  # type: ignore[no-untyped-call]
    out: Tensor = module.down_proj(joined)
    return out


class GatedUnit(Function):
    """y = silu(gate) * up (Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 5)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        gate, up = ctx.saved_tensors
        to_up = functional.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), to_up
