"""Explanations made from others: what the paper says of each, and what no draw may break."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from whytune.errors import TeachingError
from whytune.recipe_arms import PSEUDO
from whytune.teaching import variants, vocabulary
from whytune.teaching.variants import Said

OF_OTHERS = ("other-same", "other-different")
DRAWN = ("random-fully", "random-shuffle", "random-associated", "random-w-shuffle",
         "random-w-associated")  # fmt: skip
WORDS = [
    "The",
    "answer",
    "names",
    "the",
    "office,",
    "and",
    "it's",
    "clear:",
    "opening",
    "hours",
    "—",
]
SAID = [
    Said(example_id="e0", label="good", text="Clear answer, names the office and its hours."),
    Said(example_id="e1", label="bad", text="It repeats the question"),
    Said(example_id="e2", label="good", text="Hours are clear and the office is named"),
    Said(example_id="e3", label="bad", text="Wrong office; wrong hours, wrong day"),
    Said(example_id="e3", label="good", text="Names the day"),
]


@st.composite
def told(draw: st.DrawFn) -> list[Said]:
    """Explanations with something to draw from, of two labels and four examples or more."""
    texts = draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), min_size=4,
                          max_size=12))  # fmt: skip
    made = [
        Said(example_id=f"e{n}", label="AB"[n % 2], text=" ".join([*words, "office"]))
        for n, words in enumerate(texts)
    ]
    assume(len(made) > 3)
    return made


@given(said=told(), seed=st.integers(0, 9))
@pytest.mark.parametrize("kind", PSEUDO)
def test_an_explanation_is_replaced_word_for_word(kind: str, said: list[Said], seed: int) -> None:
    made = variants.make(kind, said, seed)
    assert made == variants.make(kind, said, seed)
    assert len(made) == len(said)
    if kind not in (*OF_OTHERS, "bag-of-words"):
        assert [len(text.split()) for text in made] == [len(one.words) for one in said]


@given(said=told(), seed=st.integers(0, 9))
def test_words_come_from_where_the_paper_takes_them(said: list[Said], seed: int) -> None:
    def meaning(texts: list[str]) -> set[str]:
        # By the list itself, not by ours: what is left of a word without its punctuation.
        words = {word.strip(",:—").lower() for text in texts for word in text.split()}
        return {word for word in words if word and word not in {*ENGLISH_STOP_WORDS, "it's"}}

    everything = meaning([one.text for one in said])
    assert {*vocabulary.meanings(one.text for one in said)} == everything
    for kind in ("random-shuffle", "random-w-shuffle"):
        assert {word for text in variants.make(kind, said, seed) for word in text.split()} <= (
            everything
        )
    for kind in ("random-associated", "random-w-associated"):
        for one, text in zip(said, variants.make(kind, said, seed), strict=True):
            own = meaning([other.text for other in said if other.label == one.label])
            assert {*text.split()} <= own
    words = {word for text in variants.make("random-fully", said, seed) for word in text.split()}
    assert words <= {*vocabulary.dictionary()}


@given(said=told(), seed=st.integers(0, 9))
def test_own_words_stay_and_others_are_others(said: list[Said], seed: int) -> None:
    for one, text in zip(said, variants.make("own-shuffled", said, seed), strict=True):
        assert Counter(text.split()) == Counter(one.words)
    for one, text in zip(said, variants.make("bag-of-words", said, seed), strict=True):
        assert text.split() == sorted({*text.split()})
        assert {*text.split()} == {vocabulary.bare(word) for word in one.words} - {""}
    for kind, same in (("other-same", True), ("other-different", False)):
        for one, text in zip(said, variants.make(kind, said, seed), strict=True):
            assert text in {x.text for x in said if x is not one and (x.label == one.label) == same}
    for one, text in zip(said, variants.make("filler", said, seed), strict=True):
        assert text.split() == [variants.FILLER] * len(one.words)


def _many(text: str, label: str, n: int) -> list[Said]:
    return [Said(example_id=f"{label}{i}", label=label, text=text) for i in range(n)]


@pytest.mark.parametrize("kind", ["random-w-shuffle", "random-w-associated", "random-shuffle"])
def test_words_are_drawn_by_how_often_they_are_used(kind: str) -> None:
    """Chi-square of what is drawn against the frequencies in the source, counted by hand."""
    said = [*_many("apple apple apple pear", "A", 2000), *_many("pear plum the plum", "B", 2000)]
    drawn = variants.make(kind, said, 5)
    shares = {
        "random-w-shuffle": [{"apple": 3 / 7, "pear": 2 / 7, "plum": 2 / 7}] * 2,
        "random-shuffle": [{"apple": 1 / 3, "pear": 1 / 3, "plum": 1 / 3}] * 2,
        "random-w-associated": [{"apple": 3 / 4, "pear": 1 / 4}, {"pear": 1 / 3, "plum": 2 / 3}],
    }[kind]
    for part, share in zip((drawn[:2000], drawn[2000:]), shares, strict=True):
        found = Counter(word for text in part for word in text.split())
        assert set(found) == set(share)
        expected = [share[word] * found.total() for word in found]
        assert chisquare(list(found.values()), expected).pvalue > 0.001
    # The other kind's frequencies would have been told apart.
    wrong = {"apple": 1 / 3, "pear": 1 / 3, "plum": 1 / 3} if kind != "random-shuffle" else {
        "apple": 3 / 7, "pear": 2 / 7, "plum": 2 / 7}  # fmt: skip
    found = Counter(word for text in drawn for word in text.split())
    expected = [wrong[word] * found.total() for word in found]
    assert chisquare(list(found.values()), expected).pvalue < 1e-6


def test_dictionary_words_are_equally_likely() -> None:
    drawn = variants.make("random-fully", _many("a b c d e f g h", "A", 5000), 1)
    halves = Counter(
        word < vocabulary.dictionary()[len(vocabulary.dictionary()) // 2]
        for text in drawn
        for word in text.split()
    )
    assert chisquare(list(halves.values())).pvalue > 0.001
    assert all(word.isalpha() and word.islower() for word in vocabulary.dictionary())


@pytest.mark.parametrize("kind", [*DRAWN, "own-shuffled", *OF_OTHERS])
def test_another_seed_draws_other_words(kind: str) -> None:
    said = [Said(example_id=f"e{n}", label="AB"[n % 2], text=f"one two three four{n} five{n}")
            for n in range(20)]  # fmt: skip
    assert variants.make(kind, said, 0) != variants.make(kind, said, 1)


def test_raters_of_one_example_do_not_stand_in_for_each_other() -> None:
    for seed in range(20):
        made = variants.make("other-different", SAID, seed)
        assert made[3] != SAID[4].text
        assert made[4] == SAID[1].text  # e3's own other rater says bad as well


def test_a_masked_label_stays_one_in_a_bag() -> None:
    said = [Said(example_id="e", label="a", text="[label] it is, [label]")]
    assert variants.make("bag-of-words", said, 0) == ["[label] is it"]
    assert not vocabulary.meanings(one.text for one in said)


@pytest.mark.parametrize(
    ("word", "meaning"),
    [("men", True), ("given", True), ("ton", True), ("isn't", False), ("didn't", False),
     ("it's", False), ("the", False), ("", False)],
)  # fmt: skip
def test_stopwords_are_those_of_the_list(word: str, meaning: bool) -> None:
    assert vocabulary.means_something(word) is meaning


def test_what_cannot_be_replaced_is_told() -> None:
    with pytest.raises(TeachingError, match="label bad: there is no example beside e1"):
        variants.make("other-same", SAID[:3], 0)
    with pytest.raises(TeachingError, match="none of the 2 explanations of A has a word"):
        variants.make("random-shuffle", _many("it is the", "A", 2), 0)
    with pytest.raises(TeachingError, match="none of the 1 explanations of B has"):
        variants.make("random-associated", [*_many("pear", "A", 2), *_many("the", "B", 1)], 0)
