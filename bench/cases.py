"""What every engine is measured on: the model, the conversations, and the work they need.

Everything comes from a seed; neither weights nor data nor a tokenizer is fetched from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerFast

Ids = tuple[int, ...]

QUESTIONS = 3
"""Questions about each conversation."""
SUFFIX = 60
"""Tokens of a question with its target."""
SUPERVISED = 16
"""Last tokens of a suffix, on which a student is taught."""
SEED = 20250704

# The shape of SmolLM2-135M.
HIDDEN, LAYERS, HEADS, KEY_HEADS, INTERMEDIATE, VOCABULARY = 576, 30, 9, 3, 1536, 49152
RANK, ALPHA = 16, 32
PROJECTIONS = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (HIDDEN, HIDDEN // HEADS * KEY_HEADS),
    "v_proj": (HIDDEN, HIDDEN // HEADS * KEY_HEADS),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (HIDDEN, INTERMEDIATE),
    "up_proj": (HIDDEN, INTERMEDIATE),
    "down_proj": (INTERMEDIATE, HIDDEN),
}
"""Projection of a layer -> (in, out)."""

# Prefix lengths of FeedbackQA: all 3924 question-passage conversations that whytune's loader reads
# (merged by content), with the default chat header, in tokens of SmolLM2-135M-Instruct's tokenizer,
# nothing cut; nearest-rank quantiles at 0, 1/40, ..., 1. Mean 285.5.
FEEDBACKQA_QUANTILES = (
    70, 107, 117, 125, 131, 138, 145, 151, 157, 163, 170, 176, 182, 187, 191, 197, 203, 211, 217,
    224, 232, 240, 247, 255, 266, 275, 284, 295, 304, 315, 327, 341, 356, 379, 404, 436, 478, 535,
    632, 857, 3100,
)  # fmt: skip
MIXED = 8
"""Conversations of the mixed case."""

SINGLE_LABELS: dict[str, Ids] = {name: (1000 + n,) for n, name in enumerate("abcde")}
"""Five labels of one token each."""
MULTI_LABELS: dict[str, Ids] = {
    "a": (1000, 1010), "b": (1000, 1011), "c": (1001,), "d": (1002, 1012, 1013), "e": (1003,),
}  # fmt: skip
"""Five labels of one to three tokens, two with the same beginning."""
LABELS = {"single": SINGLE_LABELS, "multi": MULTI_LABELS}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prefix and the questions about it."""

    prefix: Ids
    questions: tuple[Ids, ...]

    @property
    def sequences(self) -> list[Ids]:
        """Each question with the whole prefix, as peers read it."""
        return [self.prefix + question for question in self.questions]

    @property
    def short(self) -> Conversation:
        """Enough to warm up on."""
        return Conversation(self.prefix[:64], self.questions)


def _mixed_lengths() -> tuple[int, ...]:
    """Lengths at the middles of equal shares, linear between the quantiles."""
    last = len(FEEDBACKQA_QUANTILES) - 1
    found = []
    for n in range(MIXED):
        at = (n + 0.5) / MIXED * last
        low = int(at)
        below, above = FEEDBACKQA_QUANTILES[low], FEEDBACKQA_QUANTILES[low + 1]
        found.append(round(below + (at - low) * (above - below)))
    return tuple(found)


PREFIXES: dict[str, tuple[int, ...]] = {
    "200": (200,) * 3, "600": (600,) * 2, "1500": (1500,) * 2, "mixed": _mixed_lengths(),
}  # fmt: skip
"""Case -> prefix lengths of the conversations of one optimizer step, in rising order."""


def conversations(case: str) -> list[Conversation]:
    """The conversations of a case: random ids, the same in every process."""
    import torch

    generator = torch.Generator().manual_seed(SEED)

    def draw(n: int) -> Ids:
        return tuple(torch.randint(16, VOCABULARY, (n,), generator=generator).tolist())

    return [
        Conversation(draw(length), tuple(draw(SUFFIX) for _ in range(QUESTIONS)))
        for length in PREFIXES[case]
    ]


def sequence_tokens(chosen: list[Conversation]) -> int:
    """Tokens as peers read them: every question with the whole conversation."""
    return sum(len(ids) for c in chosen for ids in c.sequences)


def shared_tokens(chosen: list[Conversation]) -> int:
    """Tokens with every prefix read once."""
    return sum(len(c.prefix) + sum(map(len, c.questions)) for c in chosen)


def model(layers: int = LAYERS) -> PeftModel:
    """The model with its adapter, float32; equal weights for equal `layers`, in every process.

    The adapter's B matrices are small noise instead of zeros, so that the gradients of A are not
    zero either.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        hidden_size=HIDDEN, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, intermediate_size=INTERMEDIATE, vocab_size=VOCABULARY,
        max_position_embeddings=8192, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, dtype="float32",
    )  # fmt: skip
    base = LlamaForCausalLM(config)
    base.generation_config = GenerationConfig(pad_token_id=0)
    lora = LoraConfig(
        task_type="CAUSAL_LM", bias="none", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0,
        target_modules=list(PROJECTIONS),
    )  # fmt: skip
    adapted = get_peft_model(base, lora)
    assert isinstance(adapted, PeftModel)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    return adapted


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the vocabulary's size: trainers and harnesses want one, nothing asks it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{n}": n for n in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")),
        unk_token="w1", pad_token="w0", eos_token="w0", bos_token="w0",
    )  # fmt: skip


def _attention_pairs(conversation: Conversation) -> int:
    """(query, key) pairs of one layer and head: the prefix causally, each branch on top of it."""
    prefix = len(conversation.prefix)
    pairs = prefix * (prefix + 1) // 2
    for question in conversation.questions:
        n = len(question)
        pairs += n * prefix + n * (n + 1) // 2
    return pairs


def training_flops(chosen: list[Conversation], layers: int = LAYERS) -> float:
    """Floating-point operations that shared training needs, forward and backward.

    Per token: 2 N forward and 2 N for the gradient of the input (N: weights of the projections,
    which are frozen), and 6 r (in + out) for each adapter; attention on the pairs that are seen,
    forward and 2.5 times that backward; the head on supervised rows only, forward and backward.
    """
    linear = sum(a * b for a, b in PROJECTIONS.values())
    adapter = RANK * sum(a + b for a, b in PROJECTIONS.values())
    tokens = shared_tokens(chosen)
    attention = sum(3.5 * 4 * HIDDEN * _attention_pairs(c) for c in chosen)
    head = 4 * VOCABULARY * HIDDEN * SUPERVISED * sum(len(c.questions) for c in chosen)
    return layers * (tokens * (4 * linear + 6 * adapter) + attention) + head


def summary(layers: int) -> dict[str, Any]:
    """What is measured, for a results file."""
    return {
        "model": f"random LlamaConfig({HIDDEN}, {layers} layers, {HEADS}/{KEY_HEADS} heads, "
        f"{INTERMEDIATE}, vocabulary {VOCABULARY}), tied, float32",
        "adapter": f"LoRA r={RANK} alpha={ALPHA} dropout=0 on {', '.join(PROJECTIONS)}",
        "questions": QUESTIONS, "suffix": SUFFIX, "supervised": SUPERVISED,
        "prefixes": {case: list(lengths) for case, lengths in PREFIXES.items()},
    }  # fmt: skip
