"""Words: without what surrounds them, with a meaning of their own, and of a dictionary."""

from collections import Counter
from collections.abc import Iterable
from functools import cache

from english_words import get_english_words_set
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from whytune.teaching.leaks import MASK

STOP_WORDS = "scikit-learn's ENGLISH_STOP_WORDS"
"""Names the list on the page."""
DICTIONARY = "web2"
"""Which of english-words' lists is the dictionary: Webster's Second International, 1934."""
_ENDS = "\"'“”‘’«»„.,;:!?…()[]{}<>*_`~#–—-/\\|"


def bare(word: str) -> str:
    """A word without case and without punctuation at its ends; empty where nothing is left."""
    return word.strip(_ENDS).casefold().replace("’", "'")


def means_something(word: str) -> bool:
    """Whether a bare word is neither punctuation nor a stopword; `it's` and `didn't` are one."""
    stem = word.partition("'")[0]
    return bool(word) and not word.endswith("n't") and ENGLISH_STOP_WORDS.isdisjoint((word, stem))


def meanings(texts: Iterable[str]) -> Counter[str]:
    """Bare word -> how often the texts use it, without stopwords and masked labels; in order of
    first use.
    """
    return Counter(
        word
        for text in texts
        for raw in text.replace(MASK, " ").split()
        if means_something(word := bare(raw))
    )


@cache
def dictionary() -> tuple[str, ...]:
    """English words of letters only, in lower case, sorted."""
    return tuple(sorted(get_english_words_set([DICTIONARY], alpha=True, lower=True)))
