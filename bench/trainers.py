"""The peers of training: TRL's SFTTrainer, and transformers' Trainer with PEFT."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from typing import Any

import torch
from cases import SUFFIX, SUPERVISED, Conversation, Ids, tokenizer
from datasets import Dataset
from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainingArguments

IGNORED = -100

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "trl": {
        "batch 1": {"batch": 1},
        "batch 3": {"batch": 3},
        "batch 8": {"batch": 8},
        "packing": {"batch": 1, "packing": True},
    },
    "hf": {"batch 1": {"batch": 1}, "batch 3": {"batch": 3}},
}
"""Engine -> variant -> settings that differ."""


class HopelessError(Exception):
    """The step has taken longer already than the engine's best variant needs for it."""


class Clock(TrainerCallback):
    """Times optimizer steps, and ends training when enough is known.

    A step runs from before its first forward pass to after the optimizer; fetching and collating
    the data is not counted.
    """

    def __init__(self, plan: dict[str, Any], conversations: int):
        """`plan`: most steps, seconds to measure, and `hopeless` seconds per conversation."""
        self.plan, self.conversations = plan, conversations
        self.steps: list[float] = []
        self.losses: list[float] = []
        self.at_least = False
        """The one step was given up, so its seconds are a lower bound."""
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = time.perf_counter()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        hopeless = self.plan.get("hopeless")
        spent = (time.perf_counter() - self._start) / self.conversations
        if hopeless is not None and not self.steps and spent > hopeless:
            self.steps.append(spent)
            self.at_least = True
            raise HopelessError

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append((time.perf_counter() - self._start) / self.conversations)
        if enough(self.steps, self.plan, self.conversations):
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def enough(steps: list[float], plan: dict[str, Any], conversations: int) -> bool:
    """Whether timing ends here: steps, time, or hope are used up.

    `steps` are seconds per conversation.
    """
    spent = sum(steps) * conversations
    hopeless = plan.get("hopeless")
    behind = hopeless is not None and min(steps) > hopeless
    return len(steps) >= plan["most_steps"] or spent >= plan["seconds"] or behind


def dataset(chosen: list[Conversation]) -> Dataset:
    """Pre-tokenised rows, a question with its conversation each; the last tokens supervised."""
    ids = [list(sequence) for c in chosen for sequence in c.sequences]
    labels = [[IGNORED] * (len(i) - SUPERVISED) + i[-SUPERVISED:] for i in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def arguments(folder: str, batch: int, sequences: int, most_steps: int) -> dict[str, Any]:
    """Settings of both trainers: one update per pass over the rows, in the order of their length.

    The rows of one conversation stand beside each other and are equally long, so that a batch of
    three has no padding; gradients are not clipped, since ours are not either.
    """
    return {
        "output_dir": folder, "per_device_train_batch_size": batch,
        # More than there are batches: the update comes at the end of the pass.
        "gradient_accumulation_steps": sequences, "num_train_epochs": most_steps,
        "train_sampling_strategy": "sequential", "max_grad_norm": 0.0, "learning_rate": 1e-4,
        "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }  # fmt: skip


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Padded on the right to the longest row, and no further."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])

    ids, labels = padded("input_ids", 0), padded("labels", IGNORED)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(width) < lengths[:, None]).long()
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def run(
    engine: str, variant: str, model: PeftModel, chosen: list[Conversation], plan: dict[str, Any]
) -> Clock:
    """Train a peer's variant; gives its clock."""
    settings = VARIANTS[engine][variant]
    clock = Clock(plan, len(chosen))
    rows = dataset(chosen)
    with tempfile.TemporaryDirectory() as folder:
        shared = arguments(folder, settings["batch"], len(rows), plan["most_steps"])
        make = _trl if engine == "trl" else _hf
        with suppress(HopelessError):
            make(model, rows, shared, settings, clock).train()
    return clock


def _trl(
    model: PeftModel, rows: Dataset, shared: dict[str, Any], settings: dict[str, Any], clock: Clock
) -> Trainer:
    from trl import SFTConfig, SFTTrainer

    longest = max(len(ids) for ids in rows["input_ids"])
    extra: dict[str, Any] = {"max_length": None}
    if settings.get("packing"):
        # Room for three of the longest rows; equally long rows leave none of it empty.
        extra = {"packing": True, "packing_strategy": "bfd", "max_length": 3 * longest}
    return SFTTrainer(
        model=model, args=SFTConfig(**shared, **extra), train_dataset=rows,
        processing_class=tokenizer(), callbacks=[clock],
    )  # fmt: skip


def _hf(
    model: PeftModel, rows: Dataset, shared: dict[str, Any], settings: dict[str, Any], clock: Clock
) -> Trainer:
    return Trainer(
        model=model, args=TrainingArguments(**shared), train_dataset=rows, data_collator=collate,
        callbacks=[clock],
    )  # fmt: skip


def oracle_nll(model: PeftModel, sequence: Ids) -> torch.Tensor:
    """Summed negative log-likelihood (nats) of a sequence's supervised tokens, by nothing but the
    model's own forward pass and full logits.
    """
    assert SUPERVISED < SUFFIX
    ids = torch.tensor([sequence])
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    return torch.nn.functional.cross_entropy(
        logits[-SUPERVISED - 1 : -1], ids[0, -SUPERVISED:], reduction="sum"
    )
