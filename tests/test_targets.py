import pytest
from hypothesis import given
from hypothesis import strategies as st

from whytune.records import Label, Layout
from whytune.student.targets import SEPARATOR, Part, read, render

BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def is_label(name: str) -> bool:
    try:
        Label(name=name)
    except ValueError:
        return False
    return True


texts = st.text(st.characters() | st.sampled_from(BREAKS + " \t"))
labels = st.text(st.characters() | st.sampled_from(" " + BREAKS), min_size=1).filter(is_label)
with_explanation = st.sampled_from([Layout.LABEL_EXPLANATION, Layout.EXPLANATION_LABEL])


@given(label=labels, why=texts, layout=with_explanation)
def test_what_is_rendered_is_read_back(label: str, why: str, layout: Layout) -> None:
    answer = read(render(label, why, layout).text, layout, {label, "another"})
    assert (answer.label, answer.explanation) == (label, why)


words = st.lists(
    st.text(st.characters() | st.sampled_from(BREAKS), min_size=1).filter(
        lambda w: w.split() == [w]
    )
)


@given(label=labels, words=words)
def test_a_label_between_two_halves_is_read_back(label: str, words: list[str]) -> None:
    why, layout = " ".join(words), Layout.BOTH_SIDES
    target = render(label, why, layout)
    answer = read(target.text, layout, {label, "another"})
    assert (answer.label, answer.explanation) == (label, why)
    first, middle, second = target.text.split("\n")
    assert middle == label
    assert first.split() + second.split() == words
    assert 0 <= len(first.split()) - len(second.split()) <= 1


def test_the_parts_of_a_label_between_two_halves() -> None:
    target = render("good", "it says why so", Layout.BOTH_SIDES)
    assert target.text == "it says\ngood\nwhy so"
    assert [target.text[s.start : s.end] for s in target.explanation] == ["it says", "why so"]
    why, frame = Part.EXPLANATION, (Part.FRAME, SEPARATOR)
    assert target.pieces == (
        (why, "it says"), frame, (Part.LABEL, "good"), frame, (why, "why so"),
    )  # fmt: skip
    assert render("good", "yes", Layout.BOTH_SIDES).text == "yes\ngood\n"
    assert render("good", "one two three", Layout.BOTH_SIDES).text == "one two\ngood\nthree"


@pytest.mark.parametrize("why", [" a", "a ", "a  b", "a\nb", "a\u2028b", "a\tb", "\n"])
def test_an_explanation_that_could_not_be_halved_and_read_back_is_refused(why: str) -> None:
    with pytest.raises(ValueError, match="expected words with single spaces between them"):
        render("good", why, Layout.BOTH_SIDES)


def test_an_answer_cut_off_before_its_second_half_has_the_first() -> None:
    answer = read("it says\ngood", Layout.BOTH_SIDES, {"good"})
    assert (answer.label, answer.explanation) == ("good", "it says")


@given(label=labels)
def test_a_label_alone_is_read_back(label: str) -> None:
    answer = read(render(label, None, Layout.LABEL).text, Layout.LABEL, {label})
    assert (answer.label, answer.explanation) == (label, None)


@given(label=labels, why=texts, layout=with_explanation)
def test_spans_cut_out_label_and_explanation(label: str, why: str, layout: Layout) -> None:
    target = render(label, why, layout)
    assert target.text[target.label.start : target.label.end] == label
    (span,) = target.explanation
    assert target.text[span.start : span.end] == why


@given(label=labels, why=texts, layout=with_explanation)
def test_pieces_stand_in_reading_order_and_join_to_the_text(
    label: str, why: str, layout: Layout
) -> None:
    target = render(label, why, layout)
    order = [Part.LABEL, Part.FRAME, Part.EXPLANATION]
    if layout is Layout.EXPLANATION_LABEL:
        order.reverse()
    assert [part for part, _ in target.pieces] == order
    assert "".join(text for _, text in target.pieces) == target.text
    assert dict(target.pieces) == {Part.LABEL: label, Part.FRAME: SEPARATOR, Part.EXPLANATION: why}


@pytest.mark.parametrize("text", ["goods", "Good", " good", "good ", "", "bad or good"])
@pytest.mark.parametrize("layout", Layout)
def test_what_is_no_label_of_the_task_is_none_and_never_repaired(text: str, layout: Layout) -> None:
    assert read(text, layout, {"good", "bad"}).label is None


def test_an_answer_cut_off_before_its_explanation_has_none() -> None:
    answer = read("good", Layout.LABEL_EXPLANATION, {"good"})
    assert (answer.label, answer.explanation) == ("good", None)


def test_a_label_named_inside_the_explanation_is_not_read_as_the_answer() -> None:
    text = "good\nat first sight, yet\nbad"
    assert read(text, Layout.EXPLANATION_LABEL, {"good", "bad"}).label == "bad"
    assert read(text, Layout.LABEL_EXPLANATION, {"good", "bad"}).label == "good"


@pytest.mark.parametrize(
    ("why", "layout"),
    [("because", Layout.LABEL), *((None, layout) for layout in Layout if layout != Layout.LABEL)],
)
def test_a_layout_and_an_explanation_that_contradict_are_refused(
    why: str | None, layout: Layout
) -> None:
    with pytest.raises(ValueError, match="with explanation"):
        render("good", why, layout)
