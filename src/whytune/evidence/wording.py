"""Figures of one explanation's words: what it copies, what it repeats, what it is like.

Words are what white space parts, without case and without punctuation at their ends.
"""

import math
from collections.abc import Iterable

from sacrebleu.metrics.chrf import CHRF

from whytune.teaching.vocabulary import bare

RUN = 4
"""Words of a run."""

Words = tuple[str, ...]

_CHRF = CHRF()  # character n-grams to 6, no word n-grams, beta 2: the paper's chrF2


def words(text: str) -> Words:
    """The words of a text, in their order."""
    return tuple(word for raw in text.split() if (word := bare(raw)))


def runs(said: Words) -> list[Words]:
    """Every run of four words, in its order; none of fewer words."""
    return list(zip(*(said[start:] for start in range(RUN)), strict=False))


def copied(said: Words, texts: Iterable[str]) -> float:
    """Share of an explanation's runs that stand in one of the texts that it is about.

    Formula: 1 - (share of novel 4-grams), each as often as the explanation has it. Range 0 to 1;
    not-a-number with fewer than four words. Source: See et al. 2017 (arXiv 1704.04368), figure 6.
    """
    own = runs(said)
    theirs = {run for text in texts for run in runs(words(text))}
    return sum(run in theirs for run in own) / len(own) if own else math.nan


def repeats(said: Words) -> float:
    """Share of an explanation's runs that stood in it before.

    Formula: 1 - different 4-grams / 4-grams. Range 0 to 1; not-a-number with fewer than four
    words. Source: Welleck et al. 2020 (arXiv 1908.04319), seq-rep-4, on words instead of tokens.
    """
    own = runs(said)
    return 1 - len(set(own)) / len(own) if own else math.nan


def likeness(text: str, reference: str) -> float:
    """How like a reference a text is: sacrebleu's chrF, 0 to 100; case counts, white space does not.

    Formula: F-score (beta 2) of the mean precision and recall of character 1- to 6-grams.
    Source: Popović 2015 (W15-3049).
    """
    return float(_CHRF.sentence_score(text, [reference]).score)
