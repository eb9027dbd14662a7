"""The bundle as one computation: a shared prefix, its branches, and logits at the few rows needed.

A tree is a trunk with nodes that continue it, or one another: a conversation with its questions,
a question with the beginnings of its labels. Its tokens stand in one row; a token sees its own
node up to itself and the nodes above it, and positions go on along every path, so that each path
reads as if it stood alone. Trees of one forward pass are packed one behind the other, without
padding. The head meets only the wanted rows, and everything after it is float32.

The idea of sharing a prefix in training: Prefix Grouper (https://arxiv.org/abs/2506.05433) and
Tree Training (https://arxiv.org/abs/2511.00413), there for groups of samples.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, PreTrainedModel

from whytune.recipe_student import Attention
from whytune.student import flex
from whytune.student.encode import Ids

if TYPE_CHECKING:
    from whytune.student.models import Student

Model = PreTrainedModel | PeftModel
"""A causal language model, with or without an adapter."""

ATTENTION = "whytune_bundle"
"""Our attention's name among those of transformers."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Nats by which sharing may change a log-probability before it is given up."""


class SharingWarning(UserWarning):
    """Prefixes are read once per question, which is slower and no less right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A stretch of tokens in a tree."""

    ids: Ids
    parent: int | None = None
    """Index of the node that it continues; None for the trunk, which comes first."""
    wanted: tuple[int, ...] = ()
    """Places in `ids` whose next-token distribution is needed, in rising order."""


Tree = Sequence[Node]
"""Parents before children."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Where one tree stands in a packed row."""

    trunk: int
    """Tokens of the trunk."""
    nodes: Tensor
    """(tokens,), the node of each."""
    related: Tensor
    """(nodes, nodes), bool: whether the second is the first or stands above it."""
    positions: Tensor
    """(tokens,)"""

    def __len__(self) -> int:
        return len(self.positions)

    def mask(self, start: int, window: int | None) -> Tensor:
        """(from `start`, all), bool; looks back `window` positions at most."""
        here = self.positions[start:, None]
        seen = self.related[self.nodes[start:]][:, self.nodes] & (here >= self.positions)
        return seen if window is None else seen & (here - self.positions < window)


@dataclass(frozen=True, slots=True)
class Layout:
    """How packed trees stand in their row, as the attention needs it."""

    spans: tuple[_Span, ...]
    attention: Attention
    """`split`, `masked` or `flex`."""
    masks: dict[Any, Any] = field(default_factory=dict)
    """Made once, used by every layer."""

    def mask(self, index: int, start: int, window: int | None) -> Tensor:
        """`_Span.mask` of one tree."""
        key = (index, start, window)
        if key not in self.masks:
            self.masks[key] = self.spans[index].mask(start, window)
        found: Tensor = self.masks[key]
        return found

    def blocks(self, window: int | None) -> BlockMask:
        """What is seen in the whole row, for FlexAttention."""
        if window not in self.masks:
            starts = itertools.accumulate((len(span.related) for span in self.spans), initial=0)
            nodes = [span.nodes + at for span, at in zip(self.spans, starts, strict=False)]
            self.masks[window] = flex.block_mask(
                torch.cat(nodes), torch.block_diag(*(span.related for span in self.spans)).bool(),
                torch.cat([span.positions for span in self.spans]), window,
            )  # fmt: skip
        found: BlockMask = self.masks[window]
        return found


def logits(student: "Student", trees: Sequence[Tree], through: Model | None = None) -> Tensor:
    """Next-token logits at the wanted places.

    The student's first tree is run both ways, shared and path by path. Where the two differ, or
    where the model cannot share, every path is run as a sequence of its own from then on.

    Args:
        student: who is asked; remembers whether and how it shares.
        trees: run in one forward pass.
        through: the student's model as wrapped for several devices; without it, the model itself.

    Returns:
        float32, (wanted places of all nodes of all trees in their order, vocabulary).
    """
    if student.attention == "auto":
        student.attention = _quickest(student.model, trees)
    if student.shares is None:
        student.shares = _shares(student.model, trees, student.attention)
    if student.shares is False:
        return separate_logits(student.model, trees, through)
    return packed_logits(student.model, trees, through, student.attention)


def chosen_among(rows: Tensor, among: Sequence[range | None]) -> Tensor:
    """Logits with those that must not be chosen at minus infinity.

    Args:
        rows: (rows, vocabulary).
        among: of each row the ids that may be chosen; None for all.
    """
    if all(own is None for own in among):
        return rows
    ids = torch.arange(rows.shape[1])
    edges = torch.tensor([(own.start, own.stop) if own else (0, len(ids)) for own in among])
    barred = (ids < edges[:, :1]) | (ids >= edges[:, 1:])
    return rows.masked_fill(barred.to(rows.device), -torch.inf)


def packed_logits(
    model: Model, trees: Sequence[Tree], through: Model | None = None,
    attention: Attention = "split",
) -> Tensor:  # fmt: skip
    """Like `logits`: all trees in one row, each prefix once."""
    device = model.device
    ids = torch.tensor([[i for tree in trees for node in tree for i in node.ids]])
    keep = torch.tensor([[flag for tree in trees for node in tree for flag in _flags(node)]])
    layout = Layout(tuple(_span(tree, device) for tree in trees), attention)
    with bundled(model):
        output = (through or model)(
            input_ids=ids.to(device),
            position_ids=torch.cat([span.positions for span in layout.spans])[None],
            # Four dimensions: transformers hands it on as it is and builds no mask of its own.
            attention_mask=torch.zeros((1, 1, 1, 1), dtype=torch.bool, device=device),
            logits_to_keep=keep.to(device), use_cache=False, bundle_layout=layout,
        )  # fmt: skip
    found: Tensor = output.logits
    return found.flatten(0, -2).float()


def separate_logits(model: Model, trees: Sequence[Tree], through: Model | None = None) -> Tensor:
    """Like `logits`: every path a sequence of its own, by the model's own attention."""
    found = []
    for tree in trees:
        for node in tree:
            if node.wanted:
                above = _above(tree, node)
                rows = torch.tensor([len(above) + at for at in node.wanted], device=model.device)
                ids = torch.tensor([above + node.ids], device=model.device)
                output = (through or model)(input_ids=ids, logits_to_keep=rows, use_cache=False)
                found.append(output.logits[0].float())
    return torch.cat(found)


def _above(tree: Tree, node: Node) -> Ids:
    ids: Ids = ()
    while node.parent is not None:
        node = tree[node.parent]
        ids = node.ids + ids
    return ids


def _quickest(model: Model, trees: Sequence[Tree]) -> Attention:
    """FlexAttention where the model lies on a GPU and the kernel can be had, else `split`."""
    if model.device.type != "cuda" or why_not_shared(model) is not None:
        return "split"
    try:
        with torch.no_grad():
            packed_logits(model, trees[:1], attention="flex")
    except (ImportError, RuntimeError, ValueError) as error:  # no Triton, or an odd head width
        warnings.warn(
            f"FlexAttention cannot be used here ({' '.join(str(error).split())[:200]}); branches "
            "look back through masked attention, which is slower and no less right",
            SharingWarning, stacklevel=3,
        )  # fmt: skip
        return "split"
    return "flex"


def _shares(model: Model, trees: Sequence[Tree], attention: Attention) -> bool | None:
    """Whether the packed way gives what the separate way gives; warns where it does not.

    None where the model gives no numbers at all, so that nothing can be told.
    """
    if attention == "separate":  # as was asked for
        return False
    reason = why_not_shared(model)
    if reason is None:
        sample = trees[:2]
        training = model.training
        model.eval()
        with torch.no_grad():
            packed = packed_logits(model, sample, attention=attention)
            separate = separate_logits(model, sample)
        model.train(training)
        if not separate.isfinite().all():
            return None
        off = float((packed.log_softmax(-1) - separate.log_softmax(-1)).abs().max())
        limit = TOLERANCE[model.dtype]
        if off <= limit:
            return True
        reason = f"log-probabilities are off by {off:.1e}, expected at most {limit:.0e}"
    warnings.warn(
        f"prefixes are not shared, every question is read with its whole conversation: {reason}",
        SharingWarning, stacklevel=2,
    )  # fmt: skip
    return False


@contextmanager
def bundled(model: Model) -> Iterator[None]:
    """The model looks back through our attention inside the block, through its own outside."""
    config = model.config
    own = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = own


def why_not_shared(model: Model) -> str | None:
    """Why a tree's paths would not be isolated in this model; None where they are."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    other = kinds - {"full_attention", "sliding_attention"}
    if other or getattr(model, "_is_stateful", False):
        named = ", ".join(sorted(other)) or "a running state"
        return (
            f"{model.config.model_type} has {named}: what it carries from token to token passes "
            "from one branch into the next, and no attention mask can keep it apart"
        )
    if not getattr(model, "_supports_attention_backend", False):
        return (
            f"{model.config.model_type} computes its attention by itself and cannot be told which "
            "tokens see which"
        )
    return None


def looks_through_window(model: Model) -> bool:
    """Whether some layer looks back a limited number of places."""
    kinds = getattr(model.config, "layer_types", None)
    windowed = "sliding_attention" in kinds if kinds else True
    return windowed and bool(getattr(model.config, "sliding_window", None))


def _flags(node: Node) -> list[bool]:
    flags = [False] * len(node.ids)
    for at in node.wanted:
        flags[at] = True
    return flags


def _span(tree: Tree, device: torch.device) -> _Span:
    firsts = [0]
    for node in tree[1:]:
        assert node.parent is not None
        firsts.append(firsts[node.parent] + len(tree[node.parent].ids))
    ranges = [torch.arange(f, f + len(n.ids)) for f, n in zip(firsts, tree, strict=True)]
    related = torch.eye(len(tree), dtype=torch.bool)
    for index, node in enumerate(tree):
        if node.parent is not None:
            related[index] |= related[node.parent]
    lengths = torch.tensor([len(node.ids) for node in tree])
    return _Span(
        trunk=len(tree[0].ids),
        nodes=torch.arange(len(tree)).repeat_interleave(lengths).to(device),
        related=related.to(device), positions=torch.cat(ranges).to(device),
    )  # fmt: skip


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
    *, bundle_layout: Layout, scaling: float | None = None, dropout: float = 0.0,
    sliding_window: int | None = None, softcap: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over packed trees, as the layout says: the whole row at once through
    FlexAttention, or tree by tree, under a mask or each trunk causally and then the rest.

    Args:
        module: the layer, for transformers' sake.
        query: (1, heads, tokens, width).
        key: (1, key heads, tokens, width); a key head serves `heads / key heads` query heads.
        value: like key.
        mask: not used; the layout says what is seen.
        bundle_layout: how the trees stand in the row.
        scaling: of the scores; 1 / sqrt(width) without it.
        dropout: of the attention's weights.
        sliding_window: positions that a layer looks back.
        softcap: scores are squeezed into (-softcap, softcap).

    Returns:
        (1, tokens, heads, width), and no weights.
    """
    if bundle_layout.attention == "flex" and dropout == 0:
        blocks = bundle_layout.blocks(sliding_window)
        found = flex.attend(query, key, value, blocks, scaling, softcap)
        return found.transpose(1, 2).contiguous(), None
    groups = query.shape[1] // key.shape[1]
    sizes = [len(span) for span in bundle_layout.spans]
    parts = []
    chunks = (x.split(sizes, dim=2) for x in (query, key, value))
    for index, (q, k, v) in enumerate(zip(*chunks, strict=True)):
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        trunk, total = bundle_layout.spans[index].trunk, sizes[index]
        narrow = sliding_window is not None and sliding_window < total
        if bundle_layout.attention == "masked" or softcap is not None or narrow:
            seen = bundle_layout.mask(index, 0, sliding_window)
            parts.append(_dense(q, k, v, seen, scaling, dropout, softcap))
            continue
        of_trunk, of_rest = q.split([trunk, total - trunk], dim=2)
        parts.append(functional.scaled_dot_product_attention(
            of_trunk, k[:, :, :trunk], v[:, :, :trunk],
            is_causal=True, scale=scaling, dropout_p=dropout,
        ))  # fmt: skip
        if total > trunk:
            seen = bundle_layout.mask(index, trunk, None)
            parts.append(functional.scaled_dot_product_attention(
                of_rest, k, v, attn_mask=seen, scale=scaling, dropout_p=dropout,
            ))  # fmt: skip
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _dense(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scaling: float | None, dropout: float,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    if softcap is None:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=scaling, dropout_p=dropout
        )
    scores = q @ k.transpose(-1, -2) * (scaling or q.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return functional.dropout(weights, dropout) @ v


AttentionInterface.register(ATTENTION, _attention)
