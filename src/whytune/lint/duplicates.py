"""Texts that repeat another, word for word or nearly.

Nearly: the sets of their word triples overlap by `THRESHOLD` or more (Jaccard: shared triples
over all triples). Candidates come from MinHash (Broder 1997, On the Resemblance and Containment
of Documents) in bands; each is then compared in full, so that a pair that is told is a pair.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH

from whytune.corpora.identity import normal

WORDS = 3
"""Words of a shingle; a shorter text is one shingle."""
THRESHOLD = 0.8
"""Overlap of two texts' shingles from which they are near duplicates, 0 to 1."""
BANDS, ROWS = 25, 5
"""A pair at the threshold is missed with probability (1 - 0.8^5)^25, five in a hundred thousand."""
CANDIDATES = 200
"""Earlier texts that one text is compared with in full; forms filled in by the thousand have
more, and looking at all would take the square of their number."""

# Scripts that write no spaces: there, a character counts as a word.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A text and the first text before it that is like it."""

    text: int
    """Index of the text."""
    twin: int
    """Index of the earlier one."""
    similarity: float
    """Jaccard index of their shingles, 0 to 1."""


def shingles(text: str) -> Shingles:
    """Every run of three words, case folded, without punctuation; empty without words."""
    words = _WORD.findall(text.casefold())
    if len(words) <= WORDS:
        return frozenset([tuple(words)] if words else [])
    return frozenset(zip(*(words[start:] for start in range(WORDS)), strict=False))


def jaccard(one: Shingles, other: Shingles) -> float:
    """Shared shingles over all shingles, 0 to 1; 0 where neither has any."""
    shared = len(one & other)
    return shared / max(len(one) + len(other) - shared, 1)


def repeats(texts: Sequence[str]) -> dict[int, int]:
    """Index of each text that an earlier one equals -> index of the first such.

    Case and runs of white space make no difference.
    """
    first: dict[str, int] = {}
    places = {index: first.setdefault(normal(text), index) for index, text in enumerate(texts)}
    return {index: place for index, place in places.items() if place != index}


def near(texts: Sequence[str]) -> list[Twin]:
    """Each distinct text with the first earlier distinct text that it nearly repeats.

    Texts that equal an earlier one are left to `repeats`.
    """
    repeated = repeats(texts)
    sets = {index: shingles(text) for index, text in enumerate(texts) if index not in repeated}
    index_of = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    found = []
    for index, own in sets.items():
        if not own:
            continue
        sketch = _sketch(own)
        candidates = sorted(index_of.query(sketch))[:CANDIDATES]
        found += list(_first(index, candidates, sets))
        index_of.insert(index, sketch, check_duplication=False)
    return found


def _first(index: int, candidates: Sequence[int], sets: dict[int, Shingles]) -> Iterator[Twin]:
    for other in candidates:
        similarity = jaccard(sets[index], sets[other])
        if similarity >= THRESHOLD:
            yield Twin(text=index, twin=other, similarity=similarity)
            return


def _sketch(own: Shingles) -> MinHash:
    sketch = MinHash(num_perm=BANDS * ROWS, seed=1)
    sketch.update_batch([" ".join(words).encode("utf-8", "surrogatepass") for words in own])
    return sketch
