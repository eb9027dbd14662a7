"""Tiny students, made on the spot: real architectures and tokenizers, random weights."""

import os

# Before torch and transformers are imported: nothing here may reach for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from whytune.recipe_student import Prompting, Train
from whytune.records import Example, Kind, Label, Layout, Lesson, Task, Turn
from whytune.student import models
from whytune.student.models import Student

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "How useful is the answer to the person who asked? Labels (lowest to highest): bad, good.",
    "The answer names the page and says what to do next, so the person can act on it.",
    "It repeats the question and leaves out the date; nobody learns anything from it.",
    "Is this reply natural, complete and on topic? Say why in one short sentence.",
    "User: When does the office open? Assistant: It opens at nine in the morning, every day.",
    "This is because the text is about something else, and the words are hard to follow.",
]
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **TINY},
    "llama-tied": {"model_type": "llama", **TINY, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **TINY},
    # Caps its logits and every other layer looks back through a window of 8 tokens.
    "gemma2": {"model_type": "gemma2", **TINY, "head_dim": 8, "sliding_window": 8,
               "final_logit_softcapping": 0.5, "attn_logit_softcapping": 50.0},
    "mistral": {"model_type": "mistral", **TINY, "sliding_window": 8},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt-neox": {"model_type": "gpt_neox", **TINY},
    # They multiply and divide their logits.
    "cohere": {"model_type": "cohere", **TINY, "logit_scale": 0.25},
    "granite": {"model_type": "granite", **TINY, "logits_scaling": 4.0},
    # bitsandbytes quantises in blocks of 64.
    "wide": {"model_type": "llama", **TINY, "hidden_size": 64, "intermediate_size": 128},
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in the manner of GPT-2, with ChatML's marks."""
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"], chat_template=CHATML,
    )  # fmt: skip


@pytest.fixture(scope="session")
def folder_of(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Family -> folder as `save_pretrained` writes it, made once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            torch.manual_seed(0)
            settings = {**FAMILIES[family], "vocab_size": len(tiny_tokenizer)}
            config = AutoConfig.for_model(settings.pop("model_type"), **settings)
            # Wide weights, so that a fault of one token shows in the logits.
            config.initializer_range = 0.15
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
            tiny_tokenizer.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny_folder(folder_of: Callable[[str], Path]) -> Path:
    """A Llama of two layers with random weights."""
    return folder_of("llama")


@pytest.fixture
def student(folder_of: Callable[[str], Path]) -> Callable[..., Student]:
    """A fresh student; `adapted` gives it an adapter with this seed."""

    def make(
        family: str = "llama", *, seed: int | None = None, settings: Train | None = None,
        load_in_4bit: bool = False, folder: Path | None = None, **prompting: Any,
    ) -> Student:  # fmt: skip
        base = models.find(str(folder or folder_of(family)))
        made = models.load(base, Prompting(**{"max_length": 256, **prompting}),
                           Train(dtype="float32", load_in_4bit=load_in_4bit))  # fmt: skip
        return made if seed is None else models.adapt(made, settings or Train(), seed)

    return make


@pytest.fixture(scope="session")
def task() -> Task:
    """Ordinal, with labels of one and of several tokens."""
    names = ("bad", "fairly good", "fairly bad", "good")
    return Task(
        name="usefulness", kind=Kind.ORDINAL, question="How useful is the answer?",
        labels=tuple(Label(name=name) for name in names),
    )  # fmt: skip


@pytest.fixture(scope="session")
def single_task() -> Task:
    """Labels of one token each."""
    labels = tuple(Label(name=name) for name in "ABC")
    return Task(name="letter", kind=Kind.NOMINAL, question="Which letter?", labels=labels)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Texts of very different lengths."""
    return [
        Example(
            id=f"e{n}", source="test", group=f"g{n}",
            turns=(Turn(role="user", text=f"When does office {n} open?"),
                   Turn(role="assistant", text=" ".join([f"At {n} in the morning."] * (1 + n % 5)))),
        )
        for n in range(12)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def lessons(examples: list[Example], task: Task) -> list[Lesson]:
    """One per example; labels and lengths of explanations vary."""
    return [
        Lesson(
            example=example, task=task, label=task.label_names[n % 4],
            layout=Layout.LABEL_EXPLANATION, explanation=" ".join(["because it says so"] * (1 + n % 3)),
        )
        for n, example in enumerate(examples)
    ]  # fmt: skip


@pytest.fixture
def broken() -> Callable[..., Any]:
    """A module whose forward pass gives logits changed by a function, inside a `with` block."""

    @contextmanager
    def change(
        model: torch.nn.Module, to: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[None]:
        def hook(_: Any, __: Any, output: Any) -> Any:
            output.logits = to(output.logits)
            return output

        handle = model.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    return change
