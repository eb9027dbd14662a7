"""Let a student write: branches of many prefixes at a time, the most probable words or drawn ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList

from whytune.student.bundle import looks_through_window
from whytune.student.draws import Draws
from whytune.student.encode import Ids
from whytune.student.models import Student


def generate(
    student: Student, prefixes: Sequence[Ids], branches: Sequence[Sequence[Ids]], longest: int,
    stop: Ids = (), draws: Draws | None = None,
) -> list[list[Ids]]:  # fmt: skip
    """Continue every branch of every prefix; each prefix is read once.

    Args:
        student: who writes, in evaluation.
        prefixes: conversations.
        branches: of each prefix equally many; they begin behind it.
        longest: in tokens.
        stop: tokens that end a text, beside the end token.
        draws: what draws the tokens, a row for each branch of each prefix in their order; without
            it, the most probable ones are written.
    """
    count = len(branches[0])
    ends = {student.encoder.end, *stop}
    config = GenerationConfig(
        max_new_tokens=longest, do_sample=False, eos_token_id=sorted(ends), pad_token_id=student.pad
    )
    with torch.no_grad():
        if count > 1 and student.shares and not looks_through_window(student.model):
            ids, mask, extra = _read_once(student, prefixes, branches)
        else:
            whole = [p + b for p, own in zip(prefixes, branches, strict=True) for b in own]
            (ids, mask), extra = _left_padded(whole, student.pad), {}
        model: Any = student.model  # a PeftModel forwards `generate` in a way no checker sees
        device = model.device
        output = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config,
            logits_processor=LogitsProcessorList([draws] if draws else []), **extra,
        )  # fmt: skip
    rows = [_until(row, ends) for row in output[:, ids.shape[1] :].tolist()]
    return [rows[i * count : (i + 1) * count] for i in range(len(prefixes))]


def _read_once(
    student: Student, prefixes: Sequence[Ids], branches: Sequence[Sequence[Ids]]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids and mask of all branches, and the keys and values of their prefixes.

    The padding of the branches stands between prefix and branch, where positions pass over it;
    only a window, which counts places, would be misled.
    """
    model, count = student.model, len(branches[0])
    head, seen = _left_padded(prefixes, student.pad)
    tail, begun = _left_padded([b for own in branches for b in own], student.pad)
    cache = DynamicCache(config=model.config)
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    model(
        input_ids=head.to(model.device), attention_mask=seen.to(model.device), use_cache=True,
        position_ids=positions.to(model.device), past_key_values=cache, logits_to_keep=1,
    )  # fmt: skip
    cache.batch_repeat_interleave(count)
    ids = torch.cat([head.repeat_interleave(count, dim=0), tail], dim=1)
    mask = torch.cat([seen.repeat_interleave(count, dim=0), begun], dim=1)
    return ids, mask, {"past_key_values": cache}


def _left_padded(rows: Sequence[Ids], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, each (rows, longest)."""
    width = max(map(len, rows))
    ids = torch.tensor([(pad,) * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _until(ids: list[int], ends: set[int]) -> Ids:
    end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:end])
