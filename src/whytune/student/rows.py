"""One forward pass over several sequences, with logits at the few rows that are needed.

The head meets only those rows (`logits_to_keep` of transformers), and everything after it is
float32. A sequence may end in a small tree: tail tokens that continue the trunk, or one
another. Tail tokens see the trunk and their own ancestors only, so every path reads as if it
stood alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from whytune.student.encode import Ids

Model = PreTrainedModel | PeftModel
"""A causal language model, with or without an adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a batch: a trunk, and tail tokens with the tail index of their parent."""

    trunk: Ids
    tail: Ids = ()
    parents: tuple[int, ...] = ()
    """One per tail token; -1 continues the trunk."""
    wanted: tuple[int, ...]
    """Positions (trunk, then tail) whose next-token distribution is needed."""

    def __len__(self) -> int:
        """Tokens in the row."""
        return len(self.trunk) + len(self.tail)


def logits(model: Model, rows: Sequence[Row], pad: int) -> Tensor:
    """Next-token logits at the wanted positions.

    Args:
        model: base or adapted.
        rows: the batch; padded on the right to its longest row.
        pad: id to pad with. No real position ever sees it: it stands to the right, and a
            causal row looks to the left only.

    Returns:
        float32, (wanted positions of all rows in their order, vocabulary).
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    keep = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row.trunk + row.tail)
        keep[index, list(row.wanted)] = True
    layout = {} if not any(row.tail for row in rows) else _tree_layout(rows, width, model)
    device = model.device
    output = model(
        input_ids=ids.to(device), logits_to_keep=keep.to(device), use_cache=False, **layout
    )
    found: Tensor = output.logits
    return found.float()


def _tree_layout(rows: Sequence[Row], width: int, model: Model) -> dict[str, Tensor]:
    """Position ids and mask of rows that end in a tree; positions continue along each path."""
    positions = torch.arange(width).repeat(len(rows), 1)
    visible = torch.ones((width, width), dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    for index, row in enumerate(rows):
        start = len(row.trunk)
        for offset, parent in enumerate(row.parents):
            at = start + offset
            above = start - 1 if parent < 0 else start + parent
            positions[index, at] = positions[index, above] + 1
            visible[index, at, start:] = visible[index, above, start:] if parent >= 0 else False
            visible[index, at, at] = True
    mask = torch.zeros(visible.shape, dtype=model.dtype)
    mask.masked_fill_(~visible, torch.finfo(model.dtype).min)
    return {
        "position_ids": positions.to(model.device),
        "attention_mask": mask[:, None].to(model.device),
    }


def can_share(model: Model) -> bool:
    """Whether a mask alone isolates the paths of a tree in this model.

    Not where a layer keeps a running state (Mamba, gated DeltaNet) or looks back through a
    window: there a mask of our own would be ignored or would replace the window's.
    """
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
    recurrent = getattr(model, "_is_stateful", False)
    window = getattr(model.config, "sliding_window", None)
    return set(kinds) == {"full_attention"} and not recurrent and not window
