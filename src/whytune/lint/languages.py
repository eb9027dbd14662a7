"""Which languages texts are in, as far as a small identifier that needs no network can say."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from py3langid import langid

UNSURE = "unsure"
"""Counted where a text is too short or too mixed to tell."""
LETTERS = 20
"""A text with fewer letters is not guessed at."""
SURE = 0.7
"""Probability from which a guess counts, 0 to 1."""
READ = 1000
"""Characters of a text that are read."""


def languages(texts: Sequence[str]) -> dict[str, int]:
    """ISO 639 code -> texts in that language, the most frequent first; unsure ones last."""
    found = Counter(language(text) for text in texts)
    return dict(sorted(found.items(), key=lambda item: (item[0] == UNSURE, -item[1], item[0])))


def language(text: str) -> str:
    """ISO 639 code of the language of a text, or `UNSURE`."""
    if sum(character.isalpha() for character in text[:READ]) < LETTERS:
        return UNSURE
    code, probability = _identifier().classify(text[:READ])
    return str(code) if probability >= SURE else UNSURE


@lru_cache(maxsize=1)
def _identifier() -> langid.LanguageIdentifier:
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
