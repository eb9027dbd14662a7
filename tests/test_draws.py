import math

import numpy as np
import pytest
import torch
from scipy import stats

from whytune.student.draws import Draws, mixture, seed_of


def tokens(draws: Draws, logits: torch.Tensor) -> list[int]:
    """The only token left to each row."""
    scores = draws(torch.empty(0), logits)
    assert scores.isfinite().sum(-1).tolist() == [1] * len(logits)
    return scores.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_tokens_are_drawn_as_often_as_they_are_probable(temperature: float) -> None:
    logits = torch.randn(9, generator=torch.Generator().manual_seed(1))
    logits[4] = -math.inf
    seeds = [seed_of(0, f"e{row}", "t", 0) for row in range(4000)]
    draws = Draws(seeds, temperature, longest=2)
    first, second = (tokens(draws, logits.expand(4000, 9)) for _ in range(2))
    odds = np.exp(logits.double().numpy() / temperature)
    expected = 8000 * np.delete(odds / odds.sum(), 4)
    counts = np.bincount(first + second, minlength=9)
    assert counts[4] == 0
    assert stats.chisquare(np.delete(counts, 4), expected).pvalue > 1e-3
    # One draw says nothing about the next.
    pairs = sum(one == two for one, two in zip(first, second, strict=True))
    assert stats.binomtest(pairs, 4000, float(((odds / odds.sum()) ** 2).sum())).pvalue > 1e-3


def test_a_row_draws_the_same_alone_and_in_company() -> None:
    logits = torch.randn(5, 3, 50, generator=torch.Generator().manual_seed(2))
    seeds = [1, 2**64 - 1, 0]
    together, alone = Draws(seeds, 0.7, 5), [Draws([seed], 0.7, 5) for seed in seeds]
    for step in logits:
        each = [tokens(draws, row[None])[0] for draws, row in zip(alone, step, strict=True)]
        assert tokens(together, step) == each


@pytest.mark.parametrize("temperature", [1e-300, 1e-9])
def test_the_coldest_draws_are_the_most_probable_words(temperature: float) -> None:
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(3)) * 1e4
    assert tokens(Draws(range(20), temperature, 1), logits) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_still_give_a_token(bad: float) -> None:
    assert tokens(Draws([1, 2], 0.7, 1), torch.full((2, 4), bad)) == [3, 3]


def test_a_seed_is_that_of_its_reason_on_every_machine() -> None:
    # printf '[7,"e1","t",2]' | sha256sum
    assert seed_of(7, "e1", "t", 2) == 0x9F645F7804681730
    names = [(7, "e1", "t", 3), (8, "e1", "t", 2), (7, "e", "1t", 2), (7, "e1", "t", 2)]
    assert len({seed_of(*name) for name in names}) == 4


def test_probabilities_are_averaged_and_not_their_logarithms() -> None:
    found = mixture([{"a": math.log(0.5), "b": -math.inf}, {"a": math.log(0.1), "b": -math.inf}])
    assert found == {"a": pytest.approx(math.log(0.3)), "b": -math.inf}
    # Far below what exp can say.
    assert mixture([{"a": -2000.0}, {"a": -2000.0}]) == {"a": pytest.approx(-2000)}
    assert mixture([{"a": -0.1}]) == {"a": -0.1}
    assert math.isnan(mixture([{"a": -1.0}, {"a": math.nan}])["a"])
