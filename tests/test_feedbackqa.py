"""FeedbackQA: small files in upstream's layouts, and the real ones where they are."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from whytune import corpora
from whytune.corpora import feedbackqa
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Split
from whytune.tasks import BUILT_IN
from whytune.teaching import replies

TASK = BUILT_IN["usefulness"]


def item(question: str, *ratings: str, text: str = "A passage.", **more: Any) -> dict[str, Any]:
    reference = {
        "page_title": "Title",
        "section_headers": ["One", "Two"],
        "section_content": text,
        "section_content_html": "<p>A passage.</p>",
    }
    return {
        "question": question,
        "passage": {"reference": reference},
        "rating": list(ratings),
        "feedback": [f"because {rating}" for rating in ratings],
        **more,
    }


def write(path: Path, items: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(items).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def small(folder: Path) -> None:
    train = [item("How?", "Bad", "Bad"), item("When?", "Excellent", "Acceptable")]
    write(folder / "WHO" / "feedback_train.json", train)
    write(folder / "UK" / "feedback_valid.json.gz", [item("Why?", "Bad", "Excellent")])
    test = [
        item("Who?", "Bad", "Bad", "Excellent"),
        item("Whose?", "Bad", "Acceptable", "Excellent"),
    ]
    write(folder / "CDC" / "feedback_test.json", test)


def load(folder: Path, **spec: Any) -> corpora.Corpus:
    return corpora.load("feedbackqa", CorpusSpec(path=str(folder), **spec), [TASK])


def test_the_domain_layout(tmp_path: Path) -> None:
    small(tmp_path)
    corpus = load(tmp_path)
    by_question = {e.group: e for e in corpus.examples}
    assert set(by_question) == {"how?", "when?", "why?", "who?"}
    who = by_question["who?"]
    assert (who.split, who.source) == (Split.TEST, "CDC")
    assert who.gold["usefulness"].label == "Bad"
    assert who.gold["usefulness"].score == pytest.approx(1 / 3)
    assert [turn.text for turn in who.turns] == ["Who?", "Title\n\nOne\n\nTwo\n\nA passage."]
    assert by_question["why?"].split is Split.TRAIN
    assert not any(e.gold for e in corpus.examples if e.split is not Split.TEST)
    assert corpus.notes == (
        "1 test examples without a strict majority of their raters were left out.",
    )
    assert list(corpus.inputs) == [
        "WHO/feedback_train.json", "CDC/feedback_test.json", "UK/feedback_valid.json.gz",
    ]  # fmt: skip
    own = [r for r in corpus.replies if r.example_id == who.id]
    assert [r.teacher for r in own] == ["rater-1", "rater-2", "rater-3"]
    read = replies.read(own[2], TASK)
    assert (read.label, read.score, read.assessment) == ("Excellent", 1.0, "because Excellent")


def test_the_merged_layout(tmp_path: Path) -> None:
    write(tmp_path / "data" / "feedback_train.json", [item("How?", "Bad", domain="UK")])
    write(tmp_path / "data" / "feedback_test.json", [item("Who?", "Bad", domain="WHO")])
    for folder in (tmp_path, tmp_path / "data"):
        corpus = load(folder)
        assert sorted(e.source for e in corpus.examples) == ["UK", "WHO"]
    write(tmp_path / "data" / "feedback_test.json", [item("Who?", "Bad")])
    with pytest.raises(CorpusError, match="item 0: found no `domain`"):
        load(tmp_path)


def test_validation_is_drawn_anew_by_question(tmp_path: Path) -> None:
    small(tmp_path)
    corpus = load(tmp_path, validation=1)
    assert sorted(str(e.split) for e in corpus.examples) == [
        "test", "train", "train", "validation",
    ]  # fmt: skip


def test_a_repeated_item_merges_its_raters(tmp_path: Path) -> None:
    small(tmp_path)
    repeated = [item("How?", "Excellent", "Acceptable")]
    write(tmp_path / "UK" / "feedback_train.json", repeated)
    corpus = load(tmp_path)
    (how,) = [e for e in corpus.examples if e.group == "how?"]
    assert sum(r.example_id == how.id for r in corpus.replies) == 4
    assert corpus.notes[0].startswith("1 items repeat")


def test_a_question_on_both_sides_is_an_error(tmp_path: Path) -> None:
    small(tmp_path)
    write(tmp_path / "UK" / "feedback_test.json", [item("HOW? ", "Bad", text="Another.")])
    with pytest.raises(CorpusError, match=r"1 groups on both sides of a split \('how\?'\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (item("How?", "Bad", "Good"), "item 1: found rating 'Good', expected one of Bad"),
        (item("How?", "Bad", feedback=[]), "found 1 ratings and 0 feedbacks"),
        (item("How?"), "no lists `rating`"),
        (item("  ", "Bad"), "found no `question`"),
        (item("How?", "Bad", passage=None), "found no `passage.reference`"),
        (item("How?", "Bad", passage={"reference": {"page_title": "T"}}), "section_headers"),
        ([], "found list, expected an object"),
    ],
)
def test_an_item_that_is_not_upstreams_is_named(tmp_path: Path, broken: Any, expected: str) -> None:
    write(tmp_path / "WHO" / "feedback_train.json", [item("Fine?", "Bad"), broken])
    with pytest.raises(CorpusError) as raised:
        load(tmp_path)
    assert "WHO/feedback_train.json, item 1: " in str(raised.value)
    assert expected in str(raised.value)


def test_wrong_folders_and_tasks(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="found none of FeedbackQA's files"):
        load(tmp_path)
    write(tmp_path / "WHO" / "feedback_train.json", {"items": []})
    with pytest.raises(CorpusError, match="found dict, expected a list"):
        load(tmp_path)
    spec = CorpusSpec(path=str(tmp_path))
    with pytest.raises(CorpusError, match="found task 'on_topic'"):
        corpora.load("feedbackqa", spec, [BUILT_IN["on_topic"]])


def test_hard_wrapped_lines_are_joined_and_lists_are_not() -> None:
    wrapped = (
        "Citizens and permanent residents of Australia and New Zealand\n"
        "To be eligible for early release, citizens and permanent resident of Australia\n"
        "and New Zealand must be in one of the following circumstances :\n"
        "\n\n\n"
        "You are unemployed.\n"
        "you were made redundant\n"
        "In this case it is needed to replace some of the recreational time with non-\n"
        "screen activities, like listening to music, reading, playing board games, and\n"
        "physical activity.\n"
        "* one\n"
        "* two\n"
    )
    assert feedbackqa._unwrapped(wrapped).split("\n") == [
        "Citizens and permanent residents of Australia and New Zealand",
        "To be eligible for early release, citizens and permanent resident of Australia "
        "and New Zealand must be in one of the following circumstances :",
        "",
        "You are unemployed.",
        "you were made redundant",
        "In this case it is needed to replace some of the recreational time with non-screen "
        "activities, like listening to music, reading, playing board games, and physical activity.",
        "* one",
        "* two",
    ]


# The real data


def real_folder() -> Path:
    shared = os.environ.get("WHYTUNE_SHARED")
    root = Path(shared) if shared else Path(__file__).parents[2] / "shared"
    folder = root / "data" / "explained" / "feedbackqa"
    if not folder.exists():
        pytest.skip(f"{folder} is not here: set WHYTUNE_SHARED to check the real FeedbackQA")
    return folder


def test_the_real_feedbackqa_has_the_known_counts() -> None:
    folder = real_folder()
    reading = feedbackqa.read("feedbackqa", folder, [TASK])
    assert len(reading.examples) == 3924
    assert len(reading.replies) == 9843
    assert len({e.id for e in reading.examples}) == 3924
    test = [e for e in reading.examples if e.split is Split.TEST]
    train = [e for e in reading.examples if e.split is Split.TRAIN]
    assert (len(test), len(reading.unsettled)) == (1995, 1995 - 1606)
    questions = {e.group for e in test}, {e.group for e in train}
    assert (len(questions[0]), len(questions[1])) == (665, 643)
    assert not questions[0] & questions[1]
    ratings = [json.loads(r.text)["label"] for r in reading.replies]
    assert [ratings.count(name) for name in TASK.label_names] == [3506, 1577, 1636, 3124]
    assert all(replies.read(r, TASK).assessment is not None for r in reading.replies)


def test_the_real_feedbackqa_loads_and_samples() -> None:
    folder = real_folder()
    corpus = load(folder, train=600, validation=100, test=400)
    assert len(corpus.examples) == 1100
    assert all(e.gold for e in corpus.examples if e.split is Split.TEST)
    assert corpus.notes[0].startswith("389 test examples")
    assert len(corpus.inputs) == 9
    with pytest.raises(CorpusError, match="asked for 1607 examples, found 1606"):
        load(folder, test=1607)
