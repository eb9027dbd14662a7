"""Vectors of texts: the same as one plain forward pass a text gives, pooled by hand."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from whytune.errors import ModelError
from whytune.student import embedding, models
from whytune.student.embedding import TextEncoder

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
TEXTS = [
    "Short.", "It opens at nine in the morning, every day of the week.", "a", "At nine. " * 12,
    "The answer names the page and says what to do next.", "Which page <|im_end|> is it?",
    "Words that nobody has said before, 1 2 3!",
]  # fmt: skip
FAMILIES = ["bert", "roberta", "llama", "mistral", "gpt2"]


@pytest.fixture
def encoder_folder(
    tiny_tokenizer: PreTrainedTokenizerFast, folder_of: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Path]:
    """Family -> folder of its own; sentence encoders wrap a text in marks of their own."""

    def make(family: str, **settings: Any) -> Path:
        folder = tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}"
        if family not in ("bert", "roberta"):
            shutil.copytree(folder_of(family), folder)
            return folder
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            family, **{**SMALL, "vocab_size": len(tiny_tokenizer) + 2, "max_position_embeddings": 96,
                       "pad_token_id": tiny_tokenizer.pad_token_id, **settings},
        )  # fmt: skip
        config.initializer_range = 0.15
        AutoModel.from_config(config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")],
        )  # fmt: skip
        tokenizer.save_pretrained(folder)
        return folder

    return make


def loaded(folder: Path) -> TextEncoder:
    return embedding.load(models.find(str(folder)))


def said(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def by_hand(folder: Path, texts: Sequence[str], first: bool = False, longest: int = 94) -> Any:
    """One text at a time: nothing padded, no mask, the model's own tokens."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for text in texts:
        ids = tokenizer(text, split_special_tokens=True, truncation=True, max_length=longest)
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids.input_ids])).last_hidden_state[0].numpy()
        vector = states[0] if first else states.mean(axis=0)
        found.append(vector / np.linalg.norm(vector))
    return np.array(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_vectors_equal_a_plain_forward_of_each_text(
    family: str, batch_size: int, encoder_folder: Callable[..., Path]
) -> None:
    folder = encoder_folder(family)
    done: list[int] = []
    found = embedding.embed(loaded(folder), TEXTS, batch_size=batch_size, advance=done.append)
    assert found.vectors == pytest.approx(by_hand(folder, TEXTS), abs=1e-5)
    assert found.vectors.shape == (len(TEXTS), 32)
    assert found.vectors.dtype.name == "float32"
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (found.cut, sum(done)) == (0, len(TEXTS))
    # Not a test of nothing: texts of one batch differ in length and in what they say.
    assert np.abs(found.vectors[0] - found.vectors[1]).max() > 0.01


@pytest.mark.parametrize("mode", [
    {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"},
])  # fmt: skip
def test_a_sentence_encoder_says_that_its_first_state_counts(
    mode: dict[str, Any], encoder_folder: Callable[..., Path]
) -> None:
    folder = encoder_folder("bert")
    said(folder, "1_Pooling/config.json", {"word_embedding_dimension": 32, **mode})
    found = embedding.embed(loaded(folder), TEXTS, batch_size=3).vectors
    assert found == pytest.approx(by_hand(folder, TEXTS, first=True), abs=1e-5)
    assert np.abs(found - by_hand(folder, TEXTS)).max() > 0.01
    said(
        folder, "1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "include_prompt": True}
    )
    assert loaded(folder).pooling == "mean"


@pytest.mark.parametrize("modes", [
    ["pooling_mode_max_tokens"], ["pooling_mode_mean_tokens", "pooling_mode_cls_token"],
])  # fmt: skip
def test_other_ways_to_pool_are_refused(
    modes: list[str], encoder_folder: Callable[..., Path]
) -> None:
    folder = encoder_folder("bert")
    said(folder, "1_Pooling/config.json", dict.fromkeys(modes, True))
    with pytest.raises(
        ModelError, match=f"1_Pooling/config.json asks for {', '.join(modes)}, expec"
    ):
        loaded(folder)


def test_what_is_too_long_loses_its_end_and_is_counted(encoder_folder: Callable[..., Path]) -> None:
    # BERT has as many places as it says; RoBERTa's begin behind its padding token.
    assert loaded(encoder_folder("bert")).longest == 96
    folder = encoder_folder("roberta", max_position_embeddings=22)
    encoder = loaded(folder)
    assert encoder.tokenizer.pad_token_id == 1
    assert encoder.longest == 20
    long = ["nine in the morning " * 30, *TEXTS]
    lengths = [len(encoder.tokenizer(text, split_special_tokens=True).input_ids) for text in long]
    found = embedding.embed(encoder, long, batch_size=4)
    assert 1 < found.cut == sum(length > 20 for length in lengths) < len(long)
    assert found.vectors == pytest.approx(by_hand(folder, long, longest=20), abs=1e-5)
    said(folder, "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    assert loaded(folder).longest == 12
    assert embedding.embed(loaded(folder), long, batch_size=4).vectors == pytest.approx(
        by_hand(folder, long, longest=12), abs=1e-5
    )


def test_marks_spelled_out_in_a_text_stay_text(encoder_folder: Callable[..., Path]) -> None:
    encoder = loaded(encoder_folder("bert"))
    first, last = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
    ids = embedding._ids(encoder, "a [SEP] b <|im_end|>")
    assert (ids[0], ids[-1], ids.count(last)) == (first, last, 1)
    assert encoder.tokenizer.eos_token_id not in ids


def test_no_text_is_without_a_vector(encoder_folder: Callable[..., Path]) -> None:
    encoder = loaded(encoder_folder("llama"))
    assert encoder.tokenizer("").input_ids == []
    assert np.linalg.norm(embedding.embed(encoder, ["", "a"], batch_size=2).vectors[0]) > 0.99
    assert embedding.embed(encoder, [], batch_size=2).vectors.shape == (0, 32)


def test_what_cannot_read_texts_is_named(
    encoder_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"evidence\.encoder nobody/nothing: cannot be had"):
        embedding.load(models.find("nobody/nothing"))
    folder = encoder_folder("llama")
    config = AutoConfig.for_model("t5", d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
                                  vocab_size=500)  # fmt: skip
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    AutoModel.from_config(config).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"two halves \(t5\), expected one half"):
        loaded(folder)
    folder = encoder_folder("bert")
    said(folder, "1_Pooling/config.json", {})
    (folder / "1_Pooling/config.json").write_text("{")
    with pytest.raises(ModelError, match=r"1_Pooling/config\.json: cannot be read"):
        loaded(folder)


def test_states_that_are_no_numbers_are_told(encoder_folder: Callable[..., Path]) -> None:
    encoder = loaded(encoder_folder("llama"))
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="found states that are no numbers, expected finite ones"):
        embedding.embed(encoder, TEXTS, batch_size=2)
