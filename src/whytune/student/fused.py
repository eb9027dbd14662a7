"""The same numbers with less traffic: modules whose passes over memory are joined.

On a CPU the matrix products of a small model take half of an update; the rest is reading and
writing activations, one pass per operation. Here the adapters of one input meet it in one product
and add into their bases' outputs in place, positions turn queries and keys in three passes
instead of five, a norm takes three instead of six, and a gated unit keeps two tensors instead of
four. The backward passes are written out by hand, so each is tested against autograd.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from whytune.student.bundle import Model

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Norms of transformers that compute x / rms(x) * weight in float32."""
GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""Units of transformers that compute down(act(gate(x)) * up(x)); used where act is SiLU."""
ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention")
"""Attentions of transformers that turn queries and keys by their positions and do no more."""

GLIBC = {-4: 0, -1: 2**31 - 1, -2: 2**28}
"""M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h -> their values (bytes)."""


def install(model: Model) -> None:
    """Join the passes of the modules that are known; all others stay as they are.

    Modules that compute something else at the moment (another type than float32, dropout, a
    quantised base, several adapters, a frozen norm that is not frozen) go their own way.
    """
    if model.device.type == "cpu":
        _keep_freed_memory()
    ours: dict[str, Callable[..., Any]] = {**dict.fromkeys(NORMS, _norm), **dict.fromkeys(GATED, _gated),
            **dict.fromkeys(ATTENTIONS, _attend)}  # fmt: skip
    for module in cast("Iterator[Any]", model.modules()):
        joined = _low_rank if isinstance(module, LoraLinear) else ours.get(type(module).__name__)
        if joined is not None and "_own_forward" not in module.__dict__:
            module._own_forward = module.forward
            module.forward = MethodType(joined, module)


def _keep_freed_memory() -> None:
    """Let glibc use freed memory again, instead of mapping every large tensor anew and faulting in
    its pages, which took up to 8 % of an update. The process keeps its peak until it ends.
    """
    # Other systems have habits of their own.
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option, value in GLIBC.items():
            set_option(option, value)


def _low_rank(module: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs or not _is_plain(module, x):
        found: Tensor = module._own_forward(x, *args, **kwargs)
        return found
    return _together(x, module)[0]


def _together(x: Tensor, *modules: Any) -> tuple[Tensor, ...]:
    """Several projections of the same states; joined where all of them are plain adapters."""
    if not all(isinstance(m, LoraLinear) and _is_plain(m, x) for m in modules):
        return tuple(m(x) for m in modules)
    parts: list[Any] = []
    for module in modules:
        (adapter,) = module.active_adapters
        base, a, b = module.base_layer, module.lora_A[adapter], module.lora_B[adapter]
        parts += [base.weight, base.bias, a.weight, b.weight, module.scaling[adapter]]
    found: tuple[Tensor, ...] = LowRank.apply(x, *parts)  # type: ignore[no-untyped-call]
    return found


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
    """y_i = x W_i' + bias_i + scale_i x A_i' B_i' for one x and several i, with W and bias frozen
    (Hu et al. 2021, section 4.1).

    Thin products are slow; all A meet x in one of them, and so do their gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> tuple[Tensor, ...]:  # noqa: D102
        rows = x.reshape(-1, x.shape[-1])
        weights, biases, ups, scales = parts[::5], parts[1::5], parts[3::5], parts[4::5]
        a = torch.cat(parts[2::5])
        down = rows @ a.T
        downs = down.split([b.shape[1] for b in ups], dim=1)
        found = [
            functional.linear(rows, weight, bias).addmm_(down, b.T, alpha=scale)
            for weight, bias, down, b, scale in zip(
                weights, biases, downs, ups, scales, strict=True
            )
        ]
        ctx.save_for_backward(rows, a, down, *weights, *ups)
        ctx.scales, ctx.shape = scales, x.shape
        return tuple(y.view(*x.shape[:-1], -1) for y in found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        rows, a, down, *rest = ctx.saved_tensors
        weights, ups = rest[: len(grads)], rest[len(grads) :]
        ranks = [b.shape[1] for b in ups]
        gs = [g.reshape(-1, g.shape[-1]) for g in grads]
        # Gradients of x A', with the scale in them.
        thin = rows.new_empty(down.shape)
        pieces = thin.split(ranks, dim=1)
        for g, b, piece, scale in zip(gs, ups, pieces, ctx.scales, strict=True):
            torch.mm(g, b, out=piece).mul_(scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = thin @ a
            for g, weight in zip(gs, weights, strict=True):
                grad_x.addmm_(g, weight)
            grad_x = grad_x.view(ctx.shape)
        found: list[Tensor | None] = [grad_x]
        to_a = (thin.T @ rows).split(ranks)
        for index, (g, piece) in enumerate(zip(gs, down.split(ranks, dim=1), strict=True)):
            to_b = (piece.T @ g).T.mul(ctx.scales[index])
            found += [None, None, to_a[index], to_b, None]
        return tuple(found)


def _attend(
    module: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None, past_key_values: Any = None, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """What the attention of transformers does, with joined projections and rotations."""
    attention = ALL_ATTENTION_FUNCTIONS.get(module.config._attn_implementation)
    if hidden_states.dtype is not torch.float32 or attention is None or position_embeddings is None:
        found: tuple[Tensor, Tensor | None] = module._own_forward(
            hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
        )
        return found
    shape = (*hidden_states.shape[:-1], -1, module.head_dim)
    projected = _together(hidden_states, module.q_proj, module.k_proj, module.v_proj)
    query, key, value = (states.view(shape).transpose(1, 2) for states in projected)
    cos, sin = (turn.unsqueeze(1) for turn in position_embeddings)
    query, key = Turned.apply(query, cos, sin), Turned.apply(key, cos, sin)  # type: ignore[no-untyped-call]
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, module.layer_idx)
    window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
    states, weights = attention(
        module, query, key, value, attention_mask, scaling=module.scaling, sliding_window=window,
        dropout=module.attention_dropout if module.training else 0.0, **kwargs,
    )  # fmt: skip
    return module.o_proj(states.reshape(*hidden_states.shape[:-1], -1)), weights


class Turned(Function):
    """Each pair of x's halves turned by the angle of its position, angles frozen
    (Su et al. 2021, https://arxiv.org/abs/2104.09864, equation 34).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    """Halves (a, b) of the last axis become (a cos - b sin, b cos + a sin); `way` -1 turns back."""
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-way)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:], value=way)
    return turned


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
    joined = GatedUnit.apply(*_together(x, module.gate_proj, module.up_proj))  # type: ignore[no-untyped-call]
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
