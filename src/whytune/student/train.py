"""The one training loop.

An update takes `per_device_train_batch_size x gradient_accumulation_steps` bundles. Its loss does
not depend on how they are divided into forward passes. An interrupted training goes on from its
last checkpoint and ends where the uninterrupted one ends, bit for bit on a CPU in float32.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from whytune.errors import TrainingError
from whytune.recipe_student import Train
from whytune.student import checkpoint
from whytune.student.bundle import Model
from whytune.student.checkpoint import Checkpoint
from whytune.student.effort import label_share
from whytune.student.encode import Bundle
from whytune.student.models import Student
from whytune.student.objective import terms, weighted_nll
from whytune.student.tracking import Tell, Tracked, options, telling

SAMPLE = 12
"""Conversations on which the label's share of the gradient is measured."""


@dataclass(slots=True)
class Progress:
    """Where training stands; all of it goes into a checkpoint."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per measurement: step, epoch, train_loss, label_nll, label_nlls (task ->
    its own), label_share, learning_rate."""
    label_share_at_start: float | None = None
    """None before it is measured."""
    loss_sum: float = 0.0
    """Losses of the updates since the last measurement."""
    best: float = math.inf
    stale: int = 0
    """Measurements since the best one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training did."""

    history: tuple[dict[str, Any], ...]
    updates: int
    tokens: int
    """Tokens that went through the student, prompts included."""
    stopped_early: bool
    label_share: float
    """`effort.label_share` on the same few lessons at the start and at every measurement, linear in
    between; its mean over the updates, each with the weight of its learning rate."""
    label_share_at_start: float
    """The same before the first update."""


def schedule(n: int, settings: Train, processes: int = 1) -> int:
    """How many updates `n` bundles make."""
    size = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * processes
    return max(1, math.ceil(n * settings.num_train_epochs / size))


def lesson_order(n: int, seed: int) -> Iterator[int]:
    """Endless passes over `n` lessons, each in an order of its own drawn from the seed."""
    epoch = 0
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        yield from torch.randperm(n, generator=generator).tolist()
        epoch += 1


def train(
    student: Student,
    bundles: Sequence[Bundle],
    settings: Train,
    *,
    seed: int,
    folder: Path,
    measure: Callable[[], dict[str, float]],
    keep: Callable[[int], None] = lambda step: None,
    advance: Callable[[int, float], None] = lambda step, loss: None,
    track: Tracked | None = None,
) -> Trained:
    """Teach a student its lessons, in place.

    Args:
        student: base with a fresh adapter.
        bundles: the encoded lessons, a conversation each, with their weights.
        settings: learning rate, batch, epochs, choice of checkpoint.
        seed: draws the order of the lessons and the dropout.
        folder: where checkpoints go; one that is there and whole is gone on from.
        measure: task -> mean label NLL (nats) on held-out examples, called between updates; the
            adapter with the lowest mean over the tasks is kept with `load_best_model_at_end`.
        keep: called with the step after each measurement, before its checkpoint is written: what it
            keeps of the student is whole wherever training goes on from.
        advance: called after each update with the step and its loss.
        track: how the trackers of `report_to` know this training; None: they are not told.

    Raises:
        TrainingError: a loss that is not a finite number, or an update in which nothing weighs.
        RecipeError: a tracker cannot be started.
    """
    is_bf16 = student.model.dtype is torch.bfloat16
    accelerator = Accelerator(mixed_precision="bf16" if is_bf16 else "no",
                              **options(track, settings.report_to))  # fmt: skip
    total = schedule(len(bundles), settings, accelerator.num_processes)
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, eps=1e-8
    )
    scheduler = get_scheduler(
        settings.lr_scheduler_type, optimizer,
        num_warmup_steps=round(settings.warmup_ratio * total), num_training_steps=total,
    )  # fmt: skip
    # Gradients are gathered by the wrapper; everything else asks the student's own model.
    wrapped, prepared = accelerator.prepare(student.model, optimizer)
    loop = _Loop(student, bundles, settings, accelerator, wrapped, prepared, scheduler, total,
                 seed, folder)  # fmt: skip
    torch.manual_seed(seed)
    loop.resume()
    with telling(accelerator, track) as tell:
        loop.run(measure, keep, advance, tell)
    return Trained(
        history=tuple(loop.at.history),
        updates=loop.at.step,
        tokens=loop.tokens(),
        stopped_early=loop.at.step < total,
        label_share=loop.mean_label_share(),
        label_share_at_start=_number(loop.at.label_share_at_start),
    )


class _Loop:
    """The state of one training and the steps that move it."""

    def __init__(
        self, student: Student, bundles: Sequence[Bundle], settings: Train,
        accelerator: Accelerator, wrapped: Model, optimizer: Any, scheduler: LambdaLR, total: int,
        seed: int, folder: Path,
    ):  # fmt: skip
        self.student, self.bundles, self.settings = student, bundles, settings
        self.accelerator, self.wrapped = accelerator, wrapped
        self.optimizer, self.scheduler = optimizer, scheduler
        self.total, self.seed, self.folder = total, seed, folder
        self.at = Progress()
        self.best_adapter: dict[str, Tensor] = {}
        self.order: list[int] = []
        self.stream = lesson_order(len(bundles), seed)
        self.size = (settings.per_device_train_batch_size * settings.gradient_accumulation_steps
                     * accelerator.num_processes)  # fmt: skip

    def run(
        self, measure: Callable[[], dict[str, float]], keep: Callable[[int], None],
        advance: Callable[[int, float], None], tell: Tell,
    ) -> None:  # fmt: skip
        every = self.settings.eval_steps or max(1, round(len(self.bundles) / self.size))
        patience = self.settings.early_stopping_patience
        if self.at.step == 0:
            self.at.label_share_at_start = self._label_share()
        while self.at.step < self.total and not (patience and self.at.stale >= patience):
            loss = self._update(self._lessons(self.at.step))
            self.at.step += 1
            self.at.loss_sum += loss
            advance(self.at.step, loss)
            measuring = self.at.step % every == 0 or self.at.step == self.total
            if measuring:
                self._measure(measure)
            rate = float(self.scheduler.get_last_lr()[0])
            tell(self.at.step, loss, rate, self.at.history[-1] if measuring else None)
            if measuring:
                keep(self.at.step)
                self._save()
        if self.settings.load_best_model_at_end and self.best_adapter:
            set_peft_model_state_dict(self.student.adapted, self.best_adapter)

    def tokens(self) -> int:
        """Tokens of all lessons seen so far."""
        return sum(len(b) for step in range(self.at.step) for b in self._lessons(step))

    def resume(self) -> None:
        found = checkpoint.newest(self.folder)
        # An earlier version's checkpoint does not know the share at the start.
        if found is None or "label_share_at_start" not in found.facts["progress"]:
            return
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in found.tensors.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        set_peft_model_state_dict(self.student.adapted, groups["adapter"])
        self.best_adapter = groups.get("best", {})
        # The schedule itself is no state; LambdaLR wants the name all the same.
        self.scheduler.load_state_dict({**found.facts["scheduler"], "lr_lambdas": [None]})
        self._load_optimizer(groups["optimizer"])
        torch.set_rng_state(groups["rng"]["cpu"])
        if "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"])
        self.at = Progress(step=found.step, **found.facts["progress"])
        self.at.best = math.inf if self.at.best is None else self.at.best

    def _lessons(self, step: int) -> list[Bundle]:
        """The lessons of an update: the same for every division into forward passes."""
        first = step * self.size
        while len(self.order) < first + self.size:
            self.order.append(next(self.stream))
        return [self.bundles[i] for i in self.order[first : first + self.size]]

    def _update(self, lessons: list[Bundle]) -> float:
        self.wrapped.train()
        total = sum(weight for _, weight in terms(lessons))
        if total == 0:
            raise TrainingError(
                f"update {self.at.step + 1}: the weights of its {len(lessons)} conversations sum to "
                "0, expected more; raise the arm's label_weight or explanation_weight"
            )
        own = lessons[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self.settings.per_device_train_batch_size
        passes = [own[at : at + size] for at in range(0, len(own), size)]
        loss = torch.zeros((), device=self.accelerator.device)
        for index, lessons_of_pass in enumerate(passes):
            last = index == len(passes) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                part = weighted_nll(self.student, lessons_of_pass, self.wrapped).sum() / total
                # Gradients are averaged over processes; the loss is a sum over them.
                self.accelerator.backward(part * self.accelerator.num_processes)
                loss += part.detach()
        value = float(self.accelerator.reduce(loss))
        if not math.isfinite(value):
            raise TrainingError(
                f"update {self.at.step + 1}: the loss is {value}; lower train.learning_rate "
                f"(now {self.settings.learning_rate})"
            )
        trained = [p for p in self.student.model.parameters() if p.requires_grad]
        self.accelerator.clip_grad_norm_(trained, self.settings.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return value

    def _measure(self, measure: Callable[[], dict[str, float]]) -> None:
        label_nlls = measure()
        label_nll = statistics.fmean(label_nlls.values())
        previous = self.at.history[-1]["step"] if self.at.history else 0
        self.at.history.append({
            "step": self.at.step,
            "epoch": self.at.step * self.size / len(self.bundles),
            "train_loss": self.at.loss_sum / (self.at.step - previous),
            "label_nll": label_nll,
            "label_nlls": label_nlls,
            "label_share": self._label_share(),
            "learning_rate": self.scheduler.get_last_lr()[0],
        })  # fmt: skip
        self.at.loss_sum = 0.0
        self.at.stale += 1
        if label_nll < self.at.best:
            self.at.best, self.at.stale = label_nll, 0
            if self.settings.load_best_model_at_end:
                state = get_peft_model_state_dict(self.student.adapted)
                self.best_adapter = {name: t.detach().clone() for name, t in state.items()}

    def mean_label_share(self) -> float:
        steps = [0, *(row["step"] for row in self.at.history)]
        shares = [self.at.label_share_at_start, *(row["label_share"] for row in self.at.history)]
        updates = np.arange(self.at.step)
        rates = [self.scheduler.lr_lambdas[0](step) for step in updates.tolist()]
        between = np.interp(updates, steps, [_number(share) for share in shares])
        return float(np.average(between, weights=rates)) if sum(rates) else float(between.mean())

    def _label_share(self) -> float:
        sample = self.bundles[:SAMPLE]
        batches = [sample[at : at + self.size] for at in range(0, len(sample), self.size)]
        return label_share(self.student, batches, self.settings.per_device_train_batch_size)

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = get_peft_model_state_dict(self.student.adapted)
        tensors = {f"adapter/{name}": tensor for name, tensor in state.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best_adapter.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}.{name}": t for name, t in moments.items()}
        tensors["rng/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng/cuda"] = torch.cuda.get_rng_state()
        progress = {"history": self.at.history, "loss_sum": self.at.loss_sum,
                    "label_share_at_start": self.at.label_share_at_start,
                    "best": self.at.best, "stale": self.at.stale}  # fmt: skip
        scheduler = {name: value for name, value in self.scheduler.state_dict().items()
                     if name != "lr_lambdas"}  # fmt: skip
        checkpoint.save(self.folder, Checkpoint(
            step=self.at.step, tensors=tensors,
            facts={"progress": progress, "scheduler": scheduler},
        ))  # fmt: skip

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state = self.optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        groups = [
            {**group, "lr": self.scheduler.get_last_lr()[0]} for group in state["param_groups"]
        ]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _number(saved: float | None) -> float:
    """A checkpoint writes what is not a finite number as null."""
    return math.nan if saved is None else saved
