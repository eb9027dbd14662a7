"""Explanations made from others: as many words, with less and less of their meaning.

Fully, Shuffle, Associated, W-Shuffle and W-Associated are those of Regularization Through Reasoning
(arXiv 2511.02044, section 5.3 and table 4); shuffled and sorted own words are named in its abstract;
another example's explanation and the filler are controls that it lacks. Each is a pure function of
what was said and a seed. A word is what stands between white space.
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from whytune.errors import TeachingError
from whytune.teaching.leaks import MASK
from whytune.teaching.vocabulary import bare, dictionary, meanings

FILLER = "word"
"""What a constant explanation repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An explanation, and what it is about."""

    example_id: str
    label: str
    text: str

    @property
    def words(self) -> list[str]:
        """As it says them."""
        return self.text.split()


def make(kind: str, said: Sequence[Said], seed: int, about: str = "") -> list[str]:
    """One explanation in place of each of `said`, in their order.

    Args:
        kind: one of `recipe_arms.PSEUDO`.
        said: all explanations that are taught, and no others: from them alone come the words.
        seed: draws; kinds draw independently of one another, as do corpora and tasks.
        about: corpus and task.

    Raises:
        TeachingError: there is nothing to draw from.
    """
    random = np.random.default_rng([seed, zlib.crc32(f"{about} {kind}".encode())])
    return _KINDS[kind](said, random)


def _fully(said: Sequence[Said], random: Generator) -> list[str]:
    """Words of a dictionary, each equally likely."""
    return _draw(said, dictionary(), random)


def _shuffle(said: Sequence[Said], random: Generator, *, weighted: bool = False) -> list[str]:
    """Words of all explanations without stopwords: equally likely, or each as it is used."""
    used = meanings(one.text for one in said)
    return _draw(said, list(used), random, list(used.values()) if weighted else None)


def _associated(said: Sequence[Said], random: Generator, *, weighted: bool = False) -> list[str]:
    """The same, from the explanations with the same label alone."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(said):
        places[one.label].append(place)
    made = [""] * len(said)
    for own in places.values():
        texts = _shuffle([said[place] for place in own], random, weighted=weighted)
        for place, text in zip(own, texts, strict=True):
            made[place] = text
    return made


def _own_shuffled(said: Sequence[Said], random: Generator) -> list[str]:
    """The explanation's own words in another order."""
    return [" ".join(random.permutation(one.words)) for one in said]


def _bag(said: Sequence[Said], random: Generator) -> list[str]:
    """The explanation's own bare words, each once, sorted."""
    bags = ({raw if raw == MASK else bare(raw) for raw in one.words} - {""} for one in said)
    # Where there is nothing but punctuation, that stays.
    return [" ".join(sorted(bag)) or one.text for one, bag in zip(said, bags, strict=True)]


def _other(said: Sequence[Said], random: Generator, *, same: bool) -> list[str]:
    """The explanation of another example that carries the same label, or another one."""
    pools = {
        label: [one for one in said if (one.label == label) == same]
        for label in dict.fromkeys(one.label for one in said)
    }
    about = {label: {one.example_id for one in pool} for label, pool in pools.items()}
    made = []
    for one in said:
        if about[one.label] <= {one.example_id}:
            raise TeachingError(
                f"label {one.label}: there is no example beside {one.example_id} whose explanation "
                "could stand in; take more examples, or drop the arm"
            )
        pool = pools[one.label]
        other = one
        while other.example_id == one.example_id:
            other = pool[random.integers(len(pool))]
        made.append(other.text)
    return made


def _filler(said: Sequence[Said], random: Generator) -> list[str]:
    """One word again and again."""
    return [" ".join([FILLER] * len(one.words)) for one in said]


def _draw(
    said: Sequence[Said], words: Sequence[str], random: Generator,
    weights: Sequence[int] | None = None,
) -> list[str]:  # fmt: skip
    """As many words as each has, drawn with replacement, equally likely or by their weights."""
    if not words:
        raise TeachingError(
            f"none of the {len(said)} explanations of {' and '.join(sorted({x.label for x in said}))} "
            "has a word that is no stopword, so there is nothing to draw from; use other "
            "explanations, or drop the arm"
        )
    lengths = [len(one.words) for one in said]
    shares = None if weights is None else np.array(weights) / sum(weights)
    drawn = iter(random.choice(len(words), size=sum(lengths), p=shares).tolist())
    return [" ".join(words[next(drawn)] for _ in range(size)) for size in lengths]


_KINDS: dict[str, Callable[[Sequence[Said], Generator], list[str]]] = {
    "random-fully": _fully,
    "random-shuffle": _shuffle,
    "random-associated": _associated,
    "random-w-shuffle": lambda said, random: _shuffle(said, random, weighted=True),
    "random-w-associated": lambda said, random: _associated(said, random, weighted=True),
    "own-shuffled": _own_shuffled,
    "bag-of-words": _bag,
    "other-same": lambda said, random: _other(said, random, same=True),
    "other-different": lambda said, random: _other(said, random, same=False),
    "filler": _filler,
}
