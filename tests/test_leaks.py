"""Names of labels in reasons: hand-made cases, and one property for any text and labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whytune.teaching.leaks import leaks, masked


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("Joy is what it says.", ["joy"], "[label] is what it says."),
        ("It is joyful; enjoy it.", ["joy"], "It is joyful; enjoy it."),
        ("rated 1, not 10, 1.5 or 2,1", ["1"], "rated [label], not 10, 1.5 or 2,1"),
        ("It is 4. Good.", ["4"], "It is [label]. Good."),
        ("C++ (c++) is not C.", ["C", "C++"], "[label] ([label]) is not [label]."),
        ("C++11 and .NET, not ASP.NET", ["C++", ".NET"], "C++11 and [label], not ASP.NET"),
        ("Could be\n Improved", ["Could be Improved", "Bad"], "[label]"),
        ("pants-fire, so false", ["false", "pants-fire"], "[label], so [label]"),
        ("half-true", ["true", "half-true"], "[label]"),
        ("half-true", ["true"], "half-[label]"),
        ("Élan, ÉLAN, élané", ["élan"], "[label], [label], élané"),
        ("कम, कमी", ["कम"], "[label], कमी"),  # a vowel sign goes on with the word
        ("a label of [label]", ["label"], "a [label] of [label]"),
        ("[LABEL]", ["label"], "[[label]]"),
        ("a+b", ["a", "+b"], "[label][label]"),
        ("no name", [], "no name"),
    ],
)
def test_names_are_found_as_words_of_their_own(text: str, labels: list[str], expected: str) -> None:
    assert masked(text, labels) == expected
    assert leaks(text, labels) == (text != expected)


PIECES = st.sampled_from(
    ["label", "[label]", "[", "]", "LABEL", "a", "B", "ab", "1", "10", ".", ",", "+", "C++", " ",
     "\n", "_", "ß", "é", "e\u0301", "ि", "İ", "ſ", "\\", "-", "|", "(", "^", "$"]
)  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(PIECES).map("".join))
LABELS = TEXTS.map(str.strip).filter(lambda name: len(name.splitlines()) == 1)


@given(text=TEXTS, labels=st.lists(LABELS, max_size=5))
def test_what_is_masked_names_nothing(text: str, labels: list[str]) -> None:
    hidden = masked(text, labels)
    assert not leaks(hidden, labels)
    assert (hidden == text) is not leaks(text, labels)
    assert masked(hidden, labels) == hidden


@given(text=TEXTS, labels=st.lists(LABELS, min_size=1, max_size=3), data=st.data())
def test_a_label_between_spaces_is_found(text: str, labels: list[str], data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    assert leaks(f"{text} {label} {text}", labels) or "[label]" in f"{text}{label}"
