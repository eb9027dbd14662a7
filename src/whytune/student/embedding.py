"""Vectors of whole texts from any transformer: a sentence encoder's, or a frozen base model's.

The last hidden states of a text's tokens become one vector as a sentence encoder's folder says
(`1_Pooling/config.json` of sentence-transformers, Reimers and Gurevych 2019,
https://arxiv.org/abs/1908.10084, section 3), and their mean where nothing is said. What else such a
folder asks for (a dense layer, an instruction before the text) is not followed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from whytune.errors import ModelError
from whytune.student.encode import Ids
from whytune.student.models import Base

Pooling = Literal["mean", "cls"]
"""How the states of a text's tokens become one vector: their mean, or the first one."""
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "mean": "mean", "cls": "cls",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """A model that reads whole texts."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    base: Base
    pooling: Pooling
    longest: int
    """Tokens that it reads of a text, its own marks included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Texts as vectors."""

    vectors: npt.NDArray[np.float32]
    """(texts, width), each of length 1."""
    cut: int
    """Texts that lost their end."""


def load(base: Base) -> TextEncoder:
    """Load a model without its head, in float32, and see how its vectors are meant.

    Raises:
        ModelError: it cannot be had, reads and writes with two halves, or wants its states pooled
            otherwise than by their mean or the first one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.location, revision=base.revision)
        model = AutoModel.from_pretrained(
            base.location, revision=base.revision, dtype=torch.float32, use_safetensors=True,
            device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ModelError(
            f"evidence.encoder {base.name}: cannot be had ({reason}); give a local folder, an alias "
            "(smollm2-135m), or go online for a Hub id"
        ) from None
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"evidence.encoder {base.name}: found a model that reads and writes with two halves "
            f"({model.config.model_type}), expected one half; give a sentence encoder"
        )
    return TextEncoder(
        model=model.eval(), tokenizer=tokenizer, base=base, pooling=_pooling(base),
        longest=min(_places(model), tokenizer.model_max_length, _own_limit(base)),
    )  # fmt: skip


def embed(
    encoder: TextEncoder,
    texts: Sequence[str],
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Embedded:
    """A vector for each text; the batch size does not change them.

    Args:
        encoder: who reads.
        texts: what is longer than the encoder reads loses its end.
        batch_size: texts in one forward pass, sorted by length so that little is padded.
        advance: called with the number of texts done since the last call.

    Raises:
        ModelError: the states are no numbers.
    """
    whole = [_ids(encoder, text) for text in texts]
    cut = [len(ids) > encoder.longest for ids in whole]
    rows = [
        _ids(encoder, text, encoder.longest) if too_long else ids
        for text, ids, too_long in zip(texts, whole, cut, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    vectors = np.zeros((len(rows), encoder.model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        vectors[chosen] = _read(encoder, [rows[i] for i in chosen]).cpu().numpy()
        advance(len(chosen))
    if not np.isfinite(vectors).all():
        raise ModelError(
            f"evidence.encoder {encoder.base.name}: found states that are no numbers, expected "
            "finite ones; give another model"
        )
    return Embedded(vectors=vectors, cut=sum(cut))


def _read(encoder: TextEncoder, rows: Sequence[Ids]) -> Tensor:
    """(rows, width), of length 1, in one forward pass."""
    width = max(map(len, rows))
    # Models that count positions by their padding token must find it there.
    pad = encoder.tokenizer.pad_token_id or 0
    ids = torch.tensor([row + (pad,) * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    model: Any = encoder.model
    with torch.inference_mode():
        found = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        states = found.last_hidden_state.float()
        if encoder.pooling == "cls":
            return functional.normalize(states[:, 0], dim=-1)
        # No division by the number of tokens: the length becomes 1 anyway.
        seen = mask.to(model.device)[:, :, None]
        return functional.normalize((states * seen).sum(1), dim=-1)


def _ids(encoder: TextEncoder, text: str, longest: int | None = None) -> Ids:
    """Ids with the model's own marks; special tokens spelled out inside the text stay text."""
    limit: dict[str, Any] = {} if longest is None else {"truncation": True, "max_length": longest}
    ids = encoder.tokenizer(text, split_special_tokens=True, verbose=False, **limit).input_ids
    # A tokenizer may drop all there is (control characters) and have no marks either.
    return tuple(ids) or (encoder.tokenizer.eos_token_id or 0,)


def _places(model: PreTrainedModel) -> int:
    """Tokens for which the model has positions."""
    places = int(getattr(model.config, "max_position_embeddings", None) or 2**20)
    for name, module in model.named_modules():
        # RoBERTa and its kin begin to count behind their padding token.
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            places -= int(module.padding_idx) + 1
    return places


def _own_limit(base: Base) -> int:
    said = _said(base, "sentence_bert_config.json").get("max_seq_length")
    return 2**20 if said is None else int(said)


def _pooling(base: Base) -> Pooling:
    said = _said(base, "1_Pooling/config.json")
    modes = [
        key for key, value in said.items() if key.startswith("pooling_mode_") and value is True
    ]
    if "pooling_mode" in said:  # later versions name it
        modes = np.atleast_1d(said["pooling_mode"]).tolist()
    if not modes:
        return "mean"
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise ModelError(
            f"evidence.encoder {base.name}: 1_Pooling/config.json asks for {', '.join(modes)}, "
            "expected the mean of the states or the first one; give another sentence encoder"
        )
    return _POOLINGS[modes[0]]


def _said(base: Base, name: str) -> dict[str, Any]:
    """A JSON file beside the model; empty where there is none, or none to be had offline."""
    found = cached_file(
        base.location, name, revision=base.revision or "main",
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    if found is None:
        return {}
    try:
        said: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{found}: cannot be read ({error}); get the model anew") from None
    return said
