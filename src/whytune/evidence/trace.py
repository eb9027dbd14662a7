"""The logit lens: what a student would say if it stopped after a block.

Every block's state at the rows that matter is read as the last one is: through the final norm,
computed anew on that state, and the output layer (nostalgebraist 2020, "interpreting GPT: the
logit lens"). The states come from the very pass that scores: the last block's logits are the
model's own, and each time they are compared with what the lens reads there.

All logarithms are natural, entropies and divergences in nats. Logits exist for a few rows at a
time; what is kept of them is a handful of numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from scipy.special import entr, softmax
from torch import Tensor

from whytune.evidence.readout import Norm, Readout, caught, readout
from whytune.evidence.table import Floats, Ints
from whytune.student.bundle import Tree, logits
from whytune.student.encode import Ids
from whytune.student.models import Student

CHUNK = 2**22
"""Logits that exist at a time (16 MB), or those of all blocks at one row where these are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Figures of every block at some rows; block 0 is what enters the first block (the
    embedding), block n what leaves the nth, and the last one is what the model says.
    """

    tokens: Ints
    """[row, token] ids: first the token that is most probable in the end, then those that were
    to be followed, in their order; -1 where there are fewer."""
    entropy: Floats
    """[block, row] over the vocabulary, 0 to ln(its size)."""
    token_entropy: Floats
    """[block, row] among the followed tokens alone, their probabilities scaled to sum to 1; 0 to
    ln(their number). Not-a-number where none is followed."""
    kl: Floats
    """[block, row] KL(last block || this one), 0 and more; 0 at the last block. Belrose et al.
    2023 (https://arxiv.org/abs/2303.08112, equation 7) measure a lens so."""
    top: Ints
    """[block, row] the block's own most probable token; of equal ones the first."""
    top_probs: Floats
    """[block, row] its probability."""
    log_probs: Floats
    """[block, row, token] of `tokens`, over the vocabulary; not-a-number where there is none."""
    ranks: Ints
    """[block, row, token] how many tokens are strictly more probable, 0 and more; -1 where there
    is none."""
    ties: Ints
    """[block, row, token] how many other tokens are as probable; -1 where there is none."""

    @property
    def probs(self) -> Floats:
        """[block, row, token], 0 to 1."""
        return np.exp(self.log_probs)

    def part(self, start: int, stop: int, tokens: int | None = None) -> "Trace":
        """The figures of some rows, and of the first so many tokens."""
        found = {}
        for name, array in self._arrays():
            rows = array[start:stop] if name == "tokens" else array[:, start:stop]
            found[name] = rows[..., :tokens] if name in _BY_TOKEN else rows
        return Trace(**found)

    def joined(self, other: "Trace") -> "Trace":
        """These rows and then those of another trace, which follows as many tokens."""
        return Trace(**{
            name: np.concatenate([array, getattr(other, name)], axis=int(name != "tokens"))
            for name, array in self._arrays()
        })  # fmt: skip

    def _arrays(self) -> list[tuple[str, Any]]:
        return [(one.name, getattr(self, one.name)) for one in fields(self)]


_BY_TOKEN = frozenset({"tokens", "log_probs", "ranks", "ties"})


def trace(
    student: Student,
    trees: Sequence[Tree],
    follow: Sequence[Ids],
    *,
    norm: Norm = "final",
    base: bool = False,
) -> Trace:
    """Read every block at the wanted places of trees, in the pass that scores them.

    Memory: (blocks + 1) x rows x width for the states, a few numbers for each block, row and
    followed token, and `CHUNK` logits twice.

    Args:
        student: who is asked, in evaluation; shares prefixes or not, as it scores.
        trees: run in one forward pass.
        follow: of each wanted place, in the order of `bundle.logits`, the tokens whose rank and
            probability are wanted: at a label's place those that continue a label.
        norm: `none` reads blocks without the final norm, as Ecco does; a historical contrast.
        base: read with the student's adapter switched off.

    Raises:
        EvidenceError: the student's logits are not numbers.
        ModelError: the lens does not give the model's own logits at the last block, the
            architecture is not known, the student has a label head, or no adapter to switch off.
    """
    read = readout(student)
    with (
        torch.no_grad(),
        caught(student.model, read) as states,
        _base(student) if base else nullcontext(),
    ):
        own = logits(student, trees)
        return _reduce(read, states.last(len(own)), own, follow, norm)


@contextmanager
def _base(student: Student) -> Iterator[None]:
    """The adapter is switched off inside the block."""
    model = student.adapted
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        # Switched on again, peft's adapters can be trained, whatever they were before.
        for parameter, before in trained:
            parameter.requires_grad_(before)


def _reduce(read: Readout, states: Tensor, own: Tensor, follow: Sequence[Ids], norm: Norm) -> Trace:
    """Figures of states (blocks + 1, rows, width), the model's logits (rows, vocabulary) given."""
    blocks, rows, _ = states.shape
    width = 1 + max(map(len, follow))
    tokens = torch.full((rows, width), -1)
    tokens[:, 0] = own.argmax(-1)
    for row, ids in enumerate(follow):
        tokens[row, 1 : 1 + len(ids)] = torch.tensor(ids)
    size = max(1, CHUNK // (blocks * own.shape[1]))
    parts = []
    for at in range(0, rows, size):
        here = slice(at, at + size)
        found, limit = read.logits(read.states(states[:, here], norm))
        read.check(found[-1], own[here], limit)
        found[-1] = own[here]
        parts.append(_figures(found, tokens[here].to(own.device)))
    joined = {
        name: torch.cat([part[name].cpu() for part in parts], dim=1).numpy() for name in parts[0]
    }
    gone = (tokens < 0).numpy()[None]
    log_probs = np.where(gone, np.nan, joined["log_probs"].astype(np.float64))
    return Trace(
        tokens=tokens.numpy(),
        entropy=joined["entropy"].astype(np.float64),
        token_entropy=entropy_among(log_probs[..., 1:]),
        kl=joined["kl"].astype(np.float64),
        top=joined["top"],
        top_probs=joined["top_probs"].astype(np.float64),
        log_probs=log_probs,
        ranks=np.where(gone, -1, joined["ranks"]),
        ties=np.where(gone, -1, joined["ties"]),
    )


def _figures(found: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Figures of logits (blocks, rows, vocabulary), which are used up; of `Trace` see there.

    Sums run over logits less their largest, so that no digits are lost in 32 bits.
    """
    ids = tokens.clamp(min=0).expand(len(found), -1, -1)
    picked = found.gather(-1, ids)
    spare = torch.empty_like(found)
    ones = found.new_ones(found.shape[-1])
    # Comparing into floats and summing by a product is several times as fast as counting; a
    # float32 counts to 16 million.
    above, equal = (
        torch.stack([compare(found, one, out=spare) @ ones for one in picked.split(1, dim=-1)], -1)
        for compare in (torch.gt, torch.eq)
    )
    best, top = found.max(dim=-1)
    found -= best[..., None]
    torch.exp(found, out=spare)
    total = spare.sum(-1)
    log_total = total.log()
    entropy = log_total - torch.einsum("brv,brv->br", spare, found) / total
    last = spare[-1] / total[-1, :, None]
    # KL(last || block) = cross-entropy of the two, less the entropy of the last.
    kl = log_total - torch.einsum("rv,brv->br", last, found) - entropy[-1]
    kl[-1] = 0
    return {
        "entropy": entropy.clamp(min=0), "kl": kl.clamp(min=0), "top": top,
        "top_probs": 1 / total, "log_probs": picked - (best + log_total)[..., None],
        "ranks": above.long(), "ties": equal.long() - 1,
    }  # fmt: skip


def entropy_among(log_probs: Floats) -> Floats:
    """Entropy (nats) over the last axis of the probabilities that are there, scaled to sum to 1;
    not-a-number where none is.
    """
    if np.isnan(log_probs).all():
        return np.full(log_probs.shape[:-1], np.nan)
    known = np.where(np.isnan(log_probs), -np.inf, log_probs)
    with np.errstate(invalid="ignore"):  # a row without any
        shares = softmax(known, axis=-1)
    found: Floats = entr(shares).sum(axis=-1)
    return found
