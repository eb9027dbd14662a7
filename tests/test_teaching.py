"""Replies to annotations, annotations to verdicts, verdicts to lessons."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whytune.errors import TeachingError
from whytune.recipe_arms import Arm
from whytune.records import (
    Annotation,
    Example,
    Kind,
    Label,
    Layout,
    Outcome,
    Reply,
    Split,
    Task,
    Turn,
    Verdict,
)
from whytune.tasks import BUILT_IN
from whytune.teaching import explanations, merge, replies

TASK = BUILT_IN["on_topic"]
MOOD = Task(
    name="mood",
    kind=Kind.NOMINAL,
    question="?",
    labels=(Label(name="joy"), Label(name="fear"), Label(name="calm")),
)


def reply(text: str, scale: tuple[float, float] | None = (1, 4), task: Task = TASK) -> Reply:
    return Reply(example_id="e", task=task.name, teacher="t", prompt="p", text=text, scale=scale)


def read(text: str, scale: tuple[float, float] | None = (1, 4), task: Task = TASK) -> Annotation:
    return replies.read(reply(text, scale, task), task)


# Reading


@pytest.mark.parametrize(
    ("text", "score", "label"),
    [
        ('{"score": 1}', 0.0, "1"),
        ('{"score": 4}', 1.0, "5"),
        ('{"score": 2}', 1 / 3, "2"),
        ('{"score": 2.5}', 0.5, "3"),
        ('```json\n{"score": 4}\n```', 1.0, "5"),
        ('Here you are: {"score": 4} Glad to help.', 1.0, "5"),
        ('{"score": 4, "label": "1"}', 1.0, "5"),
    ],
)
def test_a_score_is_moved_to_the_unit_scale(text: str, score: float, label: str) -> None:
    found = read(text)
    assert (found.outcome, found.label) == (Outcome.READ, label)
    assert found.score == pytest.approx(score)
    assert found.reply == text


def test_a_label_brings_its_value() -> None:
    found = read('{"label": "4", "assessment": " so ", "confidence": "sure"}', None)
    assert (found.label, found.score) == ("4", 0.75)
    assert (found.assessment, found.confidence) == (" so ", "sure")
    found = read('{"label": "joy"}', None, MOOD)
    assert (found.label, found.score, found.assessment) == ("joy", None, None)


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 5}',
        '{"score": 0}',
        '{"score": -1}',
        '{"score": true}',
        '{"score": NaN}',
        '{"score": Infinity}',
        '{"score": 1e999}',
        '{"score": "3"}',
        '{"score": null}',
        '{"score": [3]}',
        '{"score": 1' + "0" * 400 + "}",
        '{"score": 1' + "0" * 5000 + "}",
        '{"label": "3"}',
        '{"assessment": "good"}',
        '{"score": 3',
        "{score: 3}",
        '{"score": 3} or {"score": 4}',
        '{"score": 3, "score": 4}',
        '{"draft" {"score": 3}}',
        '[{"score": 3}]',
        "3",
        "",
        "I cannot say.",
        '{"a":' * 100_000,
    ],
)
def test_what_is_not_the_asked_score_is_unreadable(text: str) -> None:
    found = read(text)
    assert found.outcome is Outcome.UNREADABLE
    assert (found.label, found.score, found.assessment) == (None, None, None)


@pytest.mark.parametrize(("said", "score"), [("3", 2 / 3), ("3.0", 2 / 3), ("4e0", 1), ("2.5", None),
                                             ("1.0000001", None), ("true", None), ("5", None)])  # fmt: skip
def test_a_live_model_gives_whole_numbers(said: str, score: float | None) -> None:
    found = replies.read(reply(f'{{"score": {said}}}'), TASK, ordered=True)
    assert found.score == (None if score is None else pytest.approx(score))
    assert (found.outcome is Outcome.READ) == (score is not None)


@pytest.mark.parametrize(
    "text",
    ['{"label": "Joy"}', '{"label": "grief"}', '{"label": 3}', '{"label": true}', '{"score": 1}'],
)
def test_what_is_no_label_is_unreadable(text: str) -> None:
    assert read(text, None, MOOD).outcome is Outcome.UNREADABLE


def test_a_score_has_no_meaning_for_labels_without_order() -> None:
    assert read('{"score": 1}', (1, 4), MOOD).outcome is Outcome.UNREADABLE


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert read('{"score": 1, "assessment": "so \\ud83d"}').assessment == "so ?"


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text()
    | st.fixed_dictionaries(
        {}, optional={"score": anything, "label": anything, "assessment": anything}
    ).map(json.dumps),
    scale=st.none() | st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    task=st.sampled_from([TASK, MOOD]),
)
def test_reading_never_leaves_the_task(
    text: str, scale: tuple[float, float] | None, task: Task
) -> None:
    found = read(text, scale, task)
    assert found.label is None or found.label in task.label_names
    assert (found.label is None) == (found.outcome is Outcome.UNREADABLE)
    assert found.score is None or 0 <= found.score <= 1
    assert found.label is None or (found.score is None) == (task.kind is Kind.NOMINAL)


def test_replies_about_other_tasks_are_passed_over() -> None:
    given_ = [reply('{"score": 1}'), reply('{"label": "joy"}', None, MOOD)]
    assert [a.task for a in replies.read_all(given_, [MOOD])] == ["mood"]
    assert len(replies.read_all(given_, [MOOD, TASK])) == 2


# Merging


def vote(teacher: str, value: float | str | None, example: str = "e", **said: str) -> Annotation:
    """A number is a score of on_topic, a text a label of mood, None an unreadable reply."""
    ordinal = not isinstance(value, str)
    return Annotation(
        example_id=example,
        task=TASK.name if ordinal else MOOD.name,
        teacher=teacher,
        prompt="p",
        reply="raw",
        outcome=Outcome.UNREADABLE if value is None else Outcome.READ,
        score=value if isinstance(value, float) else None,
        label=TASK.nearest(value) if isinstance(value, float) else value if value else None,
        assessment=said.get("assessment"),
        confidence=said.get("confidence"),
    )


def test_an_ordinal_verdict_is_the_mean() -> None:
    votes = [
        vote("a", 0.0, assessment="far"),
        vote("b", 0.5, assessment="  near\n the\tmean ", confidence="sure"),
        vote("c", 0.75),
        vote("d", None),
    ]
    (found,) = merge.merge(votes, TASK, seed=0)
    assert found.score == pytest.approx(1.25 / 3)
    assert (found.label, found.votes, found.unread) == ("3", 3, 1)
    assert found.shares == pytest.approx({"1": 1 / 3, "3": 1 / 3, "4": 1 / 3})
    assert found.agreement == pytest.approx(1 - (0.5 + 0.75 + 0.25) / 3)
    assert (found.assessment, found.confidence) == ("near the mean", "sure")


def test_a_nominal_verdict_is_the_plurality() -> None:
    votes = [vote("a", "joy", assessment="x"), vote("b", "fear", assessment="y"),
             vote("c", "fear", assessment="z"), vote("d", "calm")]  # fmt: skip
    (found,) = merge.merge(votes, MOOD, seed=0)
    assert (found.label, found.score) == ("fear", None)
    assert found.agreement == pytest.approx(1 / 6)
    assert found.shares == {"joy": 0.25, "fear": 0.5, "calm": 0.25}
    assert found.assessment in ("y", "z")
    (tie,) = merge.merge(votes[:2], MOOD, seed=0)
    assert (tie.label, tie.assessment, tie.votes) == (None, None, 2)


def test_ties_between_explanations_depend_on_the_seed_and_on_names_only() -> None:
    votes = [vote(name, 0.5, assessment=name) for name in "abcdefgh"]
    chosen = {merge.merge(votes, TASK, seed=seed)[0].assessment for seed in range(20)}
    assert len(chosen) > 2
    for seed in range(5):
        shuffled = list(votes)
        random.Random(seed).shuffle(shuffled)
        assert merge.merge(shuffled, TASK, seed) == merge.merge(votes, TASK, seed)


def test_of_equals_the_fuller_explanation_speaks() -> None:
    votes = [vote(name, 0.5, assessment=name) for name in "abcd"]
    votes.append(vote("e", 0.5, assessment="e", confidence="sure"))
    for seed in range(10):
        assert merge.merge(votes, TASK, seed)[0].confidence == "sure"


def test_an_example_without_a_readable_reply_has_no_label() -> None:
    found = merge.merge([vote("a", None), vote("a", 1.0, "f")], TASK, seed=0)
    assert [v.example_id for v in found] == ["e", "f"]
    first = found[0]
    assert (first.label, first.score, first.votes, first.unread) == (None, None, 0, 1)
    assert (first.shares, first.agreement) == ({}, None)


def test_apart_every_rater_has_a_verdict_of_their_own() -> None:
    votes = [
        vote("a", 0.0, assessment="  far\n off "),
        vote("b", 0.6, "f", confidence="sure"),
        vote("c", None),
        vote("d", 0.5),
        vote("e", "joy", assessment="elsewhere"),
    ]
    found = merge.apart(votes, TASK)
    assert [(v.example_id, v.label, v.score, v.votes, v.unread) for v in found] == [
        ("e", "1", 0.0, 1, 0), ("f", "3", 0.6, 1, 0), ("e", None, None, 0, 1), ("e", "3", 0.5, 1, 0),
    ]  # fmt: skip
    assert [(v.assessment, v.confidence) for v in found] == [
        ("far off", None), (None, "sure"), (None, None), (None, None),
    ]  # fmt: skip
    (mood,) = merge.apart(votes, MOOD)
    assert (mood.label, mood.score, mood.assessment) == ("joy", None, "elsewhere")


def test_what_cannot_be_merged() -> None:
    with pytest.raises(TeachingError, match=r"none of 2 replies could be read \(2 unreadable"):
        merge.merge([vote("a", None), vote("b", None)], TASK, seed=0)
    with pytest.raises(TeachingError, match="found no annotations"):
        merge.merge([vote("a", "joy")], TASK, seed=0)
    with pytest.raises(TeachingError, match="found 2 annotations by a"):
        merge.merge([vote("a", 0.0), vote("a", 1.0)], TASK, seed=0)


# Explanations and lessons


def verdict(number: int, label: str | None, **said: str) -> Verdict:
    return Verdict(
        example_id=f"e{number}",
        task=TASK.name,
        label=label,
        score=None,
        shares={},
        votes=1,
        assessment=said.get("assessment"),
        confidence=said.get("confidence"),
    )


def examples(count: int) -> list[Example]:
    turns = (Turn(role="text", text="t"),)
    return [
        Example(id=f"e{i}", source="s", group="g", turns=turns, split=Split.TRAIN)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ({}, None),
        ({"explanation": "assessment"}, "one two three"),
        ({"explanation": "confidence"}, "quite sure"),
        ({"explanation": "both"}, "one two three quite sure"),
        ({"explanation": "both", "words": 4}, "one two three quite"),
        ({"explanation": "assessment", "words": 9}, "one two three"),
    ],
)
def test_the_explanation_of_an_arm(arm: dict[str, Any], expected: str | None) -> None:
    full = verdict(0, "1", assessment="one two three", confidence="quite sure")
    assert explanations.said(full, TASK, Arm(**arm)) == expected


def test_an_explanation_that_lacks_a_part_is_none() -> None:
    half = verdict(0, "1", assessment="one")
    assert explanations.said(half, TASK, Arm(explanation="both")) is None
    assert explanations.said(half, TASK, Arm(explanation="confidence")) is None


ARMS = {
    "label": Arm(layout=Layout.EXPLANATION_LABEL),
    "why": Arm(explanation="assessment"),
    "first": Arm(explanation="both", words=2, layout=Layout.EXPLANATION_LABEL),
}


def test_every_arm_teaches_the_same_examples() -> None:
    verdicts = [
        verdict(4, "5", assessment="a4 x", confidence="c"),
        verdict(0, "1", assessment="a0 x", confidence="c"),
        verdict(1, None, assessment="a1", confidence="c"),
        verdict(2, "2", assessment="a2"),
    ]
    found = explanations.teachable(examples(5), verdicts, TASK, ARMS)
    by_arm = {name: explanations.lessons(found.told, TASK, arm, 0) for name, arm in ARMS.items()}
    for own in by_arm.values():
        assert [x.example.id for x in own] == ["e0", "e4"]
    assert found.dropped == {"no explanation": 1, "no label": 1, "no verdict": 1}
    assert [x.label for x in by_arm["label"]] == ["1", "5"]
    assert {x.layout for x in by_arm["label"]} == {Layout.LABEL}
    assert {x.layout for x in by_arm["first"]} == {Layout.EXPLANATION_LABEL}
    assert [x.explanation for x in by_arm["first"]] == ["a0 x", "a4 x"]
    only_labels = explanations.teachable(examples(5), verdicts, TASK, {"label": Arm()})
    assert len(only_labels.told) == 3


def test_raters_of_one_example_give_a_lesson_each() -> None:
    votes = [
        vote("a", 1.0, "e1", assessment="a says"),
        vote("a", 0.0, "e0", assessment="a scorns"),
        vote("b", 0.3, "e0"),
        vote("c", 0.4, "e0", assessment="c wavers"),
        vote("d", None, "e0"),
    ]
    arms = {"label": Arm(), "why": Arm(explanation="assessment", words=2)}
    found = explanations.teachable(examples(3), merge.apart(votes, TASK), TASK, arms)
    taught = [("e0", "1"), ("e0", "3"), ("e1", "5")]
    why = explanations.lessons(found.told, TASK, arms["why"], 0)
    assert [(lesson.example.id, lesson.label) for lesson in why] == taught
    assert [one.verdict.score for one in found.told] == [0.0, 0.4, 1.0]
    assert [x.explanation for x in why] == ["a scorns", "c wavers", "a says"]
    assert found.dropped == {"no explanation": 1, "no label": 1, "no verdict": 1}
    alone = explanations.teachable(examples(2), merge.apart(votes, TASK), TASK, {"label": Arm()})
    assert len(alone.told) == 4, "without an arm that explains, nobody lacks a reason"
    same = merge.apart([vote(name, 0.5, "e0") for name in "ab"], TASK)
    with pytest.raises(TeachingError, match="all 1 train examples carry the label 3"):
        explanations.teachable(examples(1), same, TASK, {"label": Arm()})


def test_what_cannot_be_taught() -> None:
    same = [verdict(i, "3", assessment="a") for i in range(3)]
    with pytest.raises(TeachingError, match="all 3 train examples carry the label 3"):
        explanations.teachable(examples(3), same, TASK, {"label": Arm()})
    with pytest.raises(TeachingError, match=r"arms\.sure: needs explanation confidence, but none"):
        explanations.teachable(examples(3), same, TASK, {"sure": Arm(explanation="confidence")})
    with pytest.raises(TeachingError, match=r"no example can be taught \(2 with no verdict"):
        explanations.teachable(examples(2), [], TASK, {"label": Arm()})
