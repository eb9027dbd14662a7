"""How a model turns a state into logits, and its states caught block by block.

The parts are found by name: the blocks (a list as long as the configuration says), the final norm
beside them, the output layer, and what some families do to logits: a factor (Cohere's
`logit_scale`, Granite's `logits_scaling`) or a soft cap (Gemma 2). Whether they were the right
ones, the model's own logits must tell: see `Readout.check`.

Blocks are hooked, since the last of transformers' `hidden_states` stands behind the final norm:
read as a block's state, it would be normed twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from whytune.errors import EvidenceError, ModelError
from whytune.student.bundle import TOLERANCE, Model
from whytune.student.models import Student

Norm = Literal["final", "none"]
"""What stands between a block's state and the output layer: the model's final norm, computed anew
on that state; or nothing, as in Ecco (Alammar 2021, https://aclanthology.org/2021.acl-demo.30)."""

NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "final_norm")
"""What transformers' models call the norm after the last block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """The parts of a model that its logits come from."""

    name: str
    """The base's name and architecture, for messages."""
    blocks: nn.ModuleList
    norm: nn.Module
    head: nn.Module
    scale: float
    """Logits are multiplied by it."""
    cap: float | None
    """Logits are squeezed into (-cap, cap)."""
    tolerance: float
    """Nats by which a log-probability may differ from the model's own."""

    def states(self, states: Tensor, norm: Norm) -> Tensor:
        """What the output layer is given.

        Without the norm, the last block's state is normed all the same: Ecco reads transformers'
        `hidden_states`, whose last one is.

        Args:
            states: (blocks + 1, rows, width).
            norm: which reading.
        """
        if norm == "none":
            return torch.cat([states[:-1], self.norm(states[-1:])])
        normed: Tensor = self.norm(states)
        return normed

    def logits(self, states: Tensor) -> tuple[Tensor, float]:
        """Float32 logits (..., vocabulary) of what `states` gives, and the tolerance for them.

        An output layer that answers in 16 bits (`head.install` leaves one with a bias or with an
        adapter of its own alone) rounds its logits: the tolerance then has two roundings of the
        largest logit on top.
        """
        found: Tensor = self.head(states)
        limit = self.tolerance
        if found.dtype is not torch.float32:
            limit += 2 * torch.finfo(found.dtype).eps * float(found.abs().max())
        wide = found.float()
        if self.scale != 1:
            wide = wide * self.scale
        if self.cap is not None:
            wide = (wide / self.cap).tanh() * self.cap
        return wide, limit

    def check(self, found: Tensor, own: Tensor, limit: float) -> None:
        """Prove the reading: at the last block it must be the model's own.

        Args:
            found: (rows, vocabulary), read from the last block's states.
            own: the same, as the model gives them.
            limit: nats by which log-probabilities may differ.

        Raises:
            EvidenceError: the model's logits are not numbers.
            ModelError: the two differ.
        """
        if not own.isfinite().all():
            raise EvidenceError(
                f"{self.name}: its logits are not finite, so there is nothing to read; teach it "
                "with a lower learning rate"
            )
        off = float((found.log_softmax(-1) - own.log_softmax(-1)).abs().max())
        if not off <= limit:
            raise ModelError(
                f"{self.name}: its last block, read through {type(self.norm).__name__} and "
                f"{type(self.head).__name__}, is off the model's own log-probabilities by "
                f"{off:.1e} nats, expected at most {limit:.0e}; something else stands between "
                "blocks and logits: analyse another base"
            )


def readout(student: Student) -> Readout:
    """Find the parts; nothing is computed.

    Raises:
        ModelError: they are not there under names that are known, or the student answers by a
            label head: its states lead to labels, not to a vocabulary, and the entropies of the
            two do not compare.
    """
    model: Any = student.model
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = inner.config.get_text_config()
    name = f"{student.base.name} ({type(inner).__name__})"
    if student.encoder.head is not None:
        raise ModelError(
            f"{name}: answers by a label head, which has no vocabulary to be read block by block; "
            "analyse an arm that writes its labels"
        )
    blocks, norm = _stack(inner, config.num_hidden_layers)
    head = inner.get_output_embeddings()
    if blocks is None or norm is None or head is None:
        missing = ("list of blocks" if blocks is None else
                   f"final norm ({', '.join(NORMS)})" if norm is None else "output layer")  # fmt: skip
        raise ModelError(
            f"{name}: found no {missing}, expected a decoder of blocks, final norm and output "
            "layer; analyse another base"
        )
    return Readout(
        name=name, blocks=blocks, norm=norm, head=head, scale=_scale(config),
        cap=getattr(config, "final_logit_softcapping", None), tolerance=TOLERANCE[inner.dtype],
    )  # fmt: skip


def _stack(model: nn.Module, count: int) -> tuple[nn.ModuleList | None, nn.Module | None]:
    """The outermost list of so many modules, and the norm beside it."""
    for parent in model.modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                there = dict(parent.named_children())
                return child, next((there[name] for name in NORMS if name in there), None)
    return None, None


def _scale(config: Any) -> float:
    factor = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    return float(factor if factor is not None else 1) / float(divisor or 1)


@dataclass(slots=True)
class States:
    """What the blocks gave in forward passes, at the rows whose logits were asked for."""

    passes: list[list[Tensor]] = field(default_factory=list)
    """[pass][block], each (rows, width); block 0 is what enters the first block."""
    keep: Tensor = field(default_factory=lambda: torch.zeros(0))

    def started(self, kept: Tensor) -> None:
        """A forward pass begins."""
        self.keep = kept
        self.passes.append([])

    def add(self, states: Tensor) -> None:
        """States (1, tokens, width) of the next block."""
        keep = self.keep
        self.passes[-1].append(states[keep] if keep.dtype is torch.bool else states[0, keep])

    def last(self, rows: int) -> Tensor:
        """Those of the last passes with so many rows between them.

        Before its first answer a student tries out whether it can share prefixes; these passes
        come first.

        Returns:
            (blocks + 1, rows, width)
        """
        found: list[list[Tensor]] = []
        while rows > 0:
            found.insert(0, self.passes.pop())
            rows -= len(found[0][0])
        return torch.stack([torch.cat(of_block) for of_block in zip(*found, strict=True)])


@contextmanager
def caught(model: Model, read: Readout) -> Iterator[States]:
    """The states of the blocks in every forward pass inside the `with` block."""
    states = States()

    def start(_: nn.Module, __: Any, named: dict[str, Any]) -> None:
        states.started(named["logits_to_keep"])

    def enter(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states.add(given[0] if given else named["hidden_states"])

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        states.add(output[0] if isinstance(output, tuple) else output)

    handles = [
        model.register_forward_pre_hook(start, with_kwargs=True),
        read.blocks[0].register_forward_pre_hook(enter, with_kwargs=True),
        *(block.register_forward_hook(leave) for block in read.blocks),
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
