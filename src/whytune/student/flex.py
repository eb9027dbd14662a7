"""FlexAttention over packed trees, for CUDA: blocks that nobody sees are never computed.

Dong et al. 2024, https://arxiv.org/abs/2412.05496. Compiled once for each bucket of lengths.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

BLOCK = 128
"""Queries and keys of a block; lengths are multiples of it."""


def bucket(tokens: int) -> int:
    """The length to pad to: four an octave, so that few kernels are compiled and at most a quarter
    is padding (from 512 tokens on).
    """
    step = max(BLOCK, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // step) * step


def block_mask(nodes: Tensor, related: Tensor, positions: Tensor, window: int | None) -> BlockMask:
    """Who sees whom, for `attend`.

    Args:
        nodes: (tokens,), the node of each token.
        related: (nodes, nodes), bool: whether a token of the first sees the second at all.
        positions: (tokens,); nobody sees a later one.
        window: positions that a token looks back; None for all.
    """
    more = bucket(len(nodes)) - len(nodes)
    # What fills up the row is a node that sees itself only.
    nodes = functional.pad(nodes, (0, more), value=len(related))
    related = functional.pad(related, (0, 1, 0, 1), value=False)
    related[-1, -1] = True
    positions = functional.pad(positions, (0, more))
    size = len(nodes)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        back = positions[query] - positions[key]
        found = related[nodes[query], nodes[key]] & (back >= 0)
        return found if window is None else found & (back < window)

    return create_block_mask(seen, None, None, size, size, device=nodes.device, BLOCK_SIZE=BLOCK)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float | None,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    """Attention of a whole packed row.

    Args:
        query: (1, heads, tokens, width).
        key: (1, key heads, tokens, width).
        value: like key.
        mask: of `block_mask`.
        scale: of the scores; 1 / sqrt(width) without it.
        softcap: scores are squeezed into (-softcap, softcap).

    Returns:
        (1, heads, tokens, width).
    """
    tokens = query.shape[2]
    more = bucket(tokens) - tokens
    q, k, v = (functional.pad(x, (0, 0, 0, more)) for x in (query, key, value))
    run = _compiled() if query.is_cuda else cast("Callable[..., Any]", flex_attention)
    found = run(
        q, k, v, score_mod=None if softcap is None else _squeezed(softcap), block_mask=mask,
        scale=scale, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return cast("Tensor", found)[:, :, :tokens]


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


@cache
def _squeezed(softcap: float) -> Callable[..., Tensor]:
    def squeezed(score: Tensor, *_: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return squeezed
