"""Several reasons instead of one: drawn, each by numbers of its own, and averaged over.

A label's probability is its mean over drawn reasons: a Monte Carlo estimate of the sum over all
reasons. Self-consistency (Wang et al. 2022, https://arxiv.org/abs/2203.11171, section 2) sums over
them too, by a vote of what was decoded after each; here the probabilities are known, so they are
averaged.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from whytune.recipe import digest


class Draws(LogitsProcessor):
    """Leaves each row only the token that it draws; what one row draws does not depend on others.

    Args:
        seeds: one per row, 0 to 2^64 - 1.
        temperature: above 0; logits are divided by it.
        longest: tokens to draw.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, longest: int) -> None:
        self._temperature = temperature
        self._numbers = torch.stack([
            torch.rand(longest, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ])  # fmt: skip
        self._drawn = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) with 0 at the token drawn and -inf elsewhere.

        By the inverse of the distribution function, in float64: it then takes a number within
        rounding of a token's edge for the rest of a batch to change what is drawn.
        """
        # Without the largest, the others would overflow at low temperatures.
        scores = scores.double() - scores.amax(-1, keepdim=True)
        edges = torch.softmax(scores / self._temperature, dim=-1).cumsum(-1)
        number = self._numbers[:, self._drawn, None].to(edges.device) * edges[:, -1:]
        self._drawn += 1
        # Logits that are no numbers have no edges, and the search ends beyond the last.
        token = torch.searchsorted(edges, number, right=True).clamp(max=edges.shape[-1] - 1)
        return torch.full_like(scores, -math.inf, dtype=torch.float32).scatter(-1, token, 0.0)


def seed_of(seed: int, example_id: str, task: str, sample: int) -> int:
    """The seed of one reason, 0 to 2^64 - 1: of nothing but what it is a reason for."""
    return int(digest([seed, example_id, task, sample])[:16], 16)


def mixture(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Label -> log of its mean probability: log((1/N) sum_i exp(log p_i)), in nats."""
    rows = torch.tensor([list(sample.values()) for sample in samples], dtype=torch.float64)
    mean = rows.logsumexp(0) - math.log(len(samples))
    return dict(zip(samples[0], mean.tolist(), strict=True))
