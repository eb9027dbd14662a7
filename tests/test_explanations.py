"""Generated explanations: hand-worked figures, scikit-learn's reader, and corpora made up."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu import corpus_chrf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from whytune import recipe_file
from whytune.errors import EvidenceError
from whytune.evidence import wording
from whytune.evidence.explanations import Explained, measure, sentence
from whytune.evidence.intervals import expanded, resample
from whytune.material import gather
from whytune.records import (
    Example,
    Kind,
    Label,
    Layout,
    Lesson,
    Outcome,
    Prediction,
    Reference,
    Split,
    Task,
    Turn,
    Verdict,
)

MOODS = Task(
    name="mood", kind=Kind.NOMINAL, question="Which mood?",
    labels=tuple(Label(name=name) for name in ("joy", "anger", "not joy")),
)  # fmt: skip
CUES = {"joy": "sunny", "anger": "stormy", "not joy": "cloudy"}


def example(example_id: str, text: str = "a text", group: str = "") -> Example:
    return Example(id=example_id, source="s", group=group or example_id,
                   turns=(Turn(role="text", text=text),))  # fmt: skip


def says(example_id: str, label: str | None, why: str | None) -> Prediction:
    read = Outcome.UNREADABLE if label is None else Outcome.READ
    return Prediction(example_id=example_id, task="mood", outcome=read, label=label, log_probs={},
                      explanation=why)  # fmt: skip


def verdict(example_id: str, why: str | None) -> Verdict:
    return Verdict(example_id=example_id, task="mood", label="joy", score=None, shares={}, votes=0,
                   assessment=why)  # fmt: skip


def lesson(label: str, why: str | None) -> Lesson:
    layout = Layout.LABEL if why is None else Layout.LABEL_EXPLANATION
    return Lesson(example=example("taught"), task=MOODS, label=label, layout=layout,
                  explanation=why)  # fmt: skip


CUE_LESSONS = [lesson(label, f"it is {cue} today") for label, cue in CUES.items()]


def found(
    answers: Sequence[tuple[str, str | None, str | None]], truth: Mapping[str, str] | None = None,
    theirs: Mapping[str, str | None] | None = None, texts: Mapping[str, str] | None = None,
    lessons: Sequence[Lesson] = CUE_LESSONS, task: Task = MOODS, **settings: Any,
) -> Explained:  # fmt: skip
    ids = list(dict.fromkeys(i for i, *_ in answers))
    labels = truth or dict.fromkeys(ids, "joy")
    return measure(
        [says(*one) for one in answers],
        {i: Reference(label=label) for i, label in labels.items()},
        [example(i, (texts or {}).get(i, "a text")) for i in labels],
        task,
        {i: verdict(i, why) for i, why in (theirs or {}).items()},
        lessons,
        **{"least": 1, "draws": 50, "seed": 0, **settings},
    )


def values(explained: Explained) -> dict[str, float]:
    return {name: figure.value for name, figure in explained.figures.items()}


# Words


def test_copied_and_repeated_runs_by_hand() -> None:
    own = wording.words("The cat sat down. The cat sat down there!")
    # Runs: the cat sat down | cat sat down the | sat down the cat | down the cat sat |
    # the cat sat down (again) | cat sat down there
    assert len(wording.runs(own)) == 6
    assert wording.repeats(own) == pytest.approx(1 / 6)
    assert wording.copied(own, ["then THE cat, sat down"]) == pytest.approx(2 / 6)
    # No run goes over the end of a turn.
    assert wording.copied(own, ["the cat sat", "down there"]) == 0


def test_fewer_than_four_words_have_no_runs() -> None:
    short = wording.words("no - runs ... here")
    assert short == ("no", "runs", "here")
    assert math.isnan(wording.repeats(short))
    assert math.isnan(wording.copied(short, ["no runs here"]))


@given(st.lists(st.sampled_from("ab"), min_size=4, max_size=12))
def test_repeats_are_runs_seen_before(letters: list[str]) -> None:
    runs = [letters[i : i + 4] for i in range(len(letters) - 3)]
    again = sum(run in runs[:i] for i, run in enumerate(runs))
    assert wording.repeats(tuple(letters)) == pytest.approx(again / len(runs))
    assert wording.copied(tuple(letters), [" ".join(letters)]) == 1


def test_likeness_is_chrf() -> None:
    # Of two letters each one is shared, of the pairs none: mean precision and recall 1/4.
    assert wording.likeness("ab", "ac") == pytest.approx(25)
    one, other = "It names the page and says what to do.", "It says what the page is named for."
    assert wording.likeness(one, one) == pytest.approx(100)
    assert wording.likeness("", one) == 0
    assert wording.likeness(one, other) == pytest.approx(corpus_chrf([one], [[other]]).score)


# Labels read back


def test_the_reader_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    vocabulary = ["calm", "wild", "red", "blue", "loud", "soft", "old", "new"]
    names = MOODS.label_names

    def draw(n: int) -> tuple[list[str], list[str]]:
        labels = [str(rng.choice(names)) for _ in range(n)]
        weights = [1 + 3 * (np.arange(8) % 3 == names.index(label)) for label in labels]
        return labels, [" ".join(rng.choice(vocabulary, 5, p=w / w.sum())) for w in weights]

    labels, whys = draw(60)
    truth, said = draw(50)
    _, others = draw(50)
    predicted = [str(rng.choice(names)) for _ in range(50)]
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(max_iter=1000)
    ).fit(whys, labels)
    ids = [f"e{i}" for i in range(50)]
    answers = list(zip(ids, predicted, said, strict=True))
    taught = [lesson(*one) for one in zip(labels, whys, strict=True)]
    own = values(
        found(answers, dict(zip(ids, truth, strict=True)), dict(zip(ids, others, strict=True)),
              lessons=taught)
    )  # fmt: skip
    read, above = model.predict(said), model.predict(others)
    assert own["gives_away"] == pytest.approx(np.mean(read == truth))
    assert own["agrees"] == pytest.approx(np.mean(read == predicted))
    assert own["gives_away_ceiling"] == pytest.approx(np.mean(above == truth))
    assert own["agrees_floor"] == max(predicted.count(name) for name in names) / 50
    assert own["gives_away_floor"] == max(truth.count(name) for name in names) / 50


@pytest.mark.parametrize("q", [0.0, 0.5, 0.9])
def test_a_cue_with_probability_q_is_read_back_as_often(q: float) -> None:
    rng = np.random.default_rng(0)
    names, n, right = MOODS.label_names, 1500, 0.8
    truth = [names[i] for i in rng.integers(3, size=n)]
    predicted = [
        t if rng.random() < right else str(rng.choice([name for name in names if name != t]))
        for t in truth
    ]
    noise = [f"w{i} w{j}" for i, j in rng.integers(20, size=(n, 2))]
    said = [
        f"{CUES[label]} {rest}" if rng.random() < q else rest
        for label, rest in zip(predicted, noise, strict=True)
    ]
    ids = [f"e{i}" for i in range(n)]
    taught = [lesson(name, f"{CUES[name]} w{i} w{j}")
              for name in names for i, j in rng.integers(20, size=(100, 2))]  # fmt: skip
    own = found(list(zip(ids, predicted, said, strict=True)), dict(zip(ids, truth, strict=True)),
                lessons=taught).figures  # fmt: skip
    # With the cue the predicted label is read, without it any: 1/3 is right.
    agrees, gives_away = q + (1 - q) / 3, q * right + (1 - q) / 3
    for name, expected in (("agrees", agrees), ("gives_away", gives_away)):
        assert own[name].value == pytest.approx(expected, abs=4 * math.sqrt(0.25 / n))
        assert (own[f"{name}_gain"].low > 0) == (q > 0)


def test_an_ordinal_task_is_read_label_by_label() -> None:
    # On a scale, the mean of low and high would be the middle that nobody taught.
    steps = replace(MOODS, kind=Kind.ORDINAL)
    taught = [replace(lesson(label, f"it is {CUES[label]}"), task=steps)
              for label in ("joy", "not joy")]  # fmt: skip
    answers = [("a", "joy", "it is dull"), ("b", "joy", "it is sunny"), ("c", "joy", "cloudy")]
    truth = {"a": "anger", "b": "joy", "c": "not joy"}
    own = values(found(answers, truth, lessons=taught, task=steps))
    assert own["gives_away"] == pytest.approx(2 / 3)
    assert own["gives_away_floor"] == pytest.approx(1 / 3)


def test_names_of_labels_longest_first() -> None:
    answers = [
        ("a", "joy", "So much JOY here"),
        ("b", "joy", "this is not joy"),  # names another label, of which joy is a part
        ("c", "not joy", "this is not joy"),
        ("d", None, "joy of nobody"),  # no label that it could name
        ("e", "anger", "nothing named"),
        ("f", "joy", "joy, not anger"),
    ]
    own = values(found(answers))
    assert own["names_label"] == pytest.approx(5 / 6)
    assert own["names_predicted"] == pytest.approx(3 / 4)


# One for all


def test_the_same_words_for_others_by_hand() -> None:
    answers = [
        ("a", "joy", "It is nice."), ("b", "joy", "it is  nice"), ("c", "joy", "it is nice!"),
        ("d", "joy", "something else"), ("e", "joy", "..."),
    ]  # fmt: skip
    explained = found(answers)
    own = values(explained)
    assert (explained.n, explained.examples, explained.empty) == (5, 5, 1)
    assert own["empty"] == pytest.approx(1 / 5)
    assert own["same"] == own["commonest"] == pytest.approx(3 / 4)
    assert own["distinct"] == pytest.approx(2 / 4)
    assert own["words"] == pytest.approx((3 + 3 + 3 + 2) / 4)


def test_seeds_are_looked_at_one_by_one() -> None:
    first = [("a", "joy", "one"), ("b", "joy", "two")]
    second = [("a", "joy", "two"), ("b", "joy", "one")]
    own = values(found([*first, *second]))
    assert (own["same"], own["distinct"], own["commonest"]) == (0, 1, 0.5)
    collapsed = [("a", "joy", "two"), ("b", "joy", "two")]
    own = values(found([*first, *collapsed]))
    assert (own["same"], own["distinct"]) == (0.5, (1 + 1 + 0.5 + 0.5) / 4)


# Likeness


def test_likeness_and_its_floor_by_hand() -> None:
    ids = ["a", "b", "c", "d", "e"]
    truth = dict.fromkeys(ids, "joy") | {"d": "anger"}
    theirs = {"a": "sun", "b": "moon", "c": None, "d": "rain", "e": " . "}
    said = {"a": "sun", "b": "sun", "c": "sun", "d": "rain", "e": "sun"}
    own = values(found([(i, "joy", said[i]) for i in ids], truth, theirs))
    chrf = {one: wording.likeness("sun", one) for one in ("sun", "moon")}
    # c and e have no reference explanation; d is the only one of its label, so it has no floor.
    assert own["likeness"] == pytest.approx((100 + chrf["moon"] + 100) / 3)
    assert own["likeness_floor"] == pytest.approx((chrf["moon"] + chrf["sun"]) / 2)
    assert own["likeness_gain"] == pytest.approx(0)


def test_the_other_explanation_is_anothers_with_the_same_label() -> None:
    # Explanations of one label equal each other and share no letter with those of another.
    ids = [f"e{i}" for i in range(12)]
    truth = {i: MOODS.label_names[k % 3] for k, i in enumerate(ids)}
    letters = {"joy": "xxxx", "anger": "yyyy", "not joy": "zzzz"}
    theirs = {i: letters[truth[i]] for i in ids}
    for seed in range(3):
        own = values(found([(i, "joy", theirs[i]) for i in ids], truth, theirs, seed=seed))
        assert own["likeness"] == own["likeness_floor"] == pytest.approx(100)
    # And never its own: with all different, no floor reaches 100.
    theirs = {i: letter * 8 for i, letter in zip(ids, "abcdefghijkl", strict=True)}
    own = values(found([(i, "joy", theirs[i]) for i in ids], truth, theirs))
    assert own["likeness"] == pytest.approx(100)
    assert own["likeness_floor"] == 0


def test_on_the_starter_set_the_verdicts_own_explanations_are_their_own_ceiling() -> None:
    recipe = recipe_file.parse(
        "{name: x, model: m, corpora: {starter: {train: 120, test: 60}}, tasks: [naturalness], "
        "arms: {why: {explanation: assessment}}}", place="x.yaml",
    )  # fmt: skip
    material = gather(recipe)["starter", "naturalness"]
    verdicts, references = material.verdicts, material.references
    answers = [
        Prediction(example_id=e.id, task="naturalness", outcome=Outcome.READ, log_probs={},
                   label=references[e.id].label, explanation=verdicts[e.id].assessment)
        for e in material.part(Split.TEST)
    ]  # fmt: skip
    own = values(
        measure(answers, references, material.corpus.examples, material.task, verdicts,
                material.lessons("why", 0), draws=10, seed=0)
    )  # fmt: skip
    assert own["gives_away"] == own["agrees"] == own["gives_away_ceiling"]
    assert own["gives_away_floor"] < own["gives_away"] < 1
    assert own["likeness"] == pytest.approx(100)
    assert 0 < own["likeness_floor"] < 50
    assert own["empty"] == 0


# Intervals, and what is not defined


def test_intervals_resample_groups() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 9, size=40)  # some without a word, so in no mean
    answers = [says(f"e{i}", "joy", " ".join(["w"] * n)) for i, n in enumerate(lengths)]
    groups = [f"g{i // 2:02}" for i in range(40)]
    explained = measure(
        answers, {p.example_id: Reference(label="joy") for p in answers},
        [example(p.example_id, group=g) for p, g in zip(answers, groups, strict=True)],
        MOODS, {}, [], draws=200, seed=5,
    )  # fmt: skip
    used = sorted({g for g, n in zip(groups, lengths, strict=True) if n})
    means = []
    for counts in resample(len(used), 200, 5):
        taken = [n for g, times in zip(used, counts, strict=True) for _ in range(int(times))
                 for own, n in zip(groups, lengths, strict=True) if own == g and n]  # fmt: skip
        means.append(np.mean(taken))
    low = expanded(len(used))
    figure = explained.figures["words"]
    assert figure.value == pytest.approx(lengths[lengths > 0].mean())
    assert (figure.low, figure.high) == pytest.approx(tuple(np.percentile(means, (low, 100 - low))))
    assert explained.empty == int((lengths == 0).sum()) > 0


def test_figures_do_not_depend_on_the_order_of_examples() -> None:
    ids = [f"e{i}" for i in range(30)]
    answers = [(i, "joy", f"it is {'sunny' if k % 3 else 'stormy'} w{k % 7}")
               for k, i in enumerate(ids)]  # fmt: skip
    theirs = {i: f"because of {i}" for i in ids}
    truth = dict.fromkeys(ids, "joy")
    forth, back = (found(order, truth, theirs).figures for order in (answers, answers[::-1]))
    for name, one in forth.items():
        other = back[name]
        assert (one.value, one.low, one.high) == pytest.approx(
            (other.value, other.low, other.high), abs=1e-9, nan_ok=True
        )


def test_no_explanations_have_defined_figures() -> None:
    none = found([("a", "joy", None)], least=0)
    assert (none.n, none.examples, none.empty) == (0, 0, 0)
    assert none.figures
    for figure in none.figures.values():
        assert all(math.isnan(x) for x in (figure.value, figure.low, figure.high))
    assert sentence("label", none) == "label: no explanations were generated."


def test_few_are_counted_and_not_measured() -> None:
    answers = [(f"e{i}", "joy", "" if i else "why") for i in range(19)]
    few = found([*answers, *answers], least=20)  # two seeds do not make more examples
    assert (few.n, few.examples, few.empty, few.figures) == (38, 19, 36, {})
    assert sentence("why", few) == "why: 38 explanations of 19 examples, too few to be measured."


@pytest.mark.parametrize("lessons", [[], [lesson("joy", None)], [lesson("joy", ". !")]])
def test_without_a_reader_no_label_is_read(lessons: list[Lesson]) -> None:
    own = values(found([("a", "joy", "sunny")], theirs={"a": "sunny"}, lessons=lessons))
    assert [math.isnan(own[name]) for name in ("agrees", "gives_away", "gives_away_ceiling")] == [
        True, True, True
    ]  # fmt: skip
    assert own["words"] == 1


# Sentences


def test_a_sentence_for_explanations_that_tell_the_label() -> None:
    names = list(MOODS.label_names)
    ids = [f"e{i}" for i in range(60)]
    truth = {i: names[k % 3] for k, i in enumerate(ids)}
    theirs = {i: f"it was {CUES[truth[i]]} at {i} {k * k}" for k, i in enumerate(ids)}
    explained = found([(i, truth[i], theirs[i]) for i in ids], truth, theirs, draws=200)
    assert sentence("why", explained) == (
        "why: 60 explanations of 60 examples, 6 words on average. The label it predicted can be "
        "read back from 100% of them (95 % interval 100% to 100%), more often than the 33% of "
        "always saying the most frequent one; the reference label from 100%, and from 100% of the "
        "reference explanations. 0% are word for word that of another example. Of their runs of "
        "four words, 0% stood in the same explanation before, and 0% stand in the example. They "
        "are closer to the reference explanation of their example than to that of another with "
        f"the same label (chrF 100.0 against {values(explained)['likeness_floor']:.1f})."
    )


def test_a_sentence_for_one_explanation_for_all() -> None:
    ids = [f"e{i}" for i in range(30)]
    truth = {i: MOODS.label_names[k % 3] for k, i in enumerate(ids)}
    same = "it is sunny it is sunny it is sunny"
    texts = {"e0": "they say it is sunny it is"}
    answers = [(i, truth[i], same if i != "e1" else "") for i in ids]
    explained = found(answers, truth, texts=texts, draws=200)
    agrees = explained.figures["agrees"]
    assert sentence("why", explained) == (
        "why: 30 explanations of 30 examples, 9 words on average, 1 without a word. The label it "
        "predicted can be read back from 34% of them (95 % interval "
        f"{agrees.low:.0%} to {agrees.high:.0%}), not told apart from the 34% of "
        "always saying the most frequent one. A student says the same words about every example. "
        "Of their runs of four words, 50% stood in the same explanation before, and 2% stand in "
        "the example."
    )


def test_a_sentence_claims_nothing_inside_the_interval() -> None:
    answers = [("a", "joy", "sunny"), ("b", "joy", "sunny"), ("c", "anger", "stormy"),
               ("d", "anger", "stormy")]  # fmt: skip
    explained = found(answers, draws=200)
    gain = explained.figures["agrees_gain"]
    assert gain.low <= 0 < gain.value
    told = "read back from 100% of them (95 % interval 100% to 100%), not told apart from the 50%"
    assert told in sentence("why", explained)


def test_a_sentence_for_nothing_but_silence() -> None:
    told = sentence("why", found([("a", "joy", ""), ("b", "joy", "?")]))
    assert told == "why: 2 explanations of 2 examples, all without a word."


# Faults


def test_another_task_is_refused() -> None:
    other = replace(MOODS, name="weather")
    with pytest.raises(EvidenceError, match=r"explanation of a: found task mood, expected weather"):
        found([("a", "joy", "why")], task=other)
    with pytest.raises(EvidenceError, match=r"lesson taught: found task mood, expected weather"):
        found([("a", "joy", None)], task=other)


@pytest.mark.parametrize("missing", ["example", "reference"])
def test_an_explanation_of_nothing_known_is_refused(missing: str) -> None:
    references = {"a": Reference(label="joy")} if missing == "example" else {}
    examples = [] if missing == "example" else [example("a")]
    with pytest.raises(EvidenceError, match=f"explanation of a: found no {missing} of this id"):
        measure([says("a", "joy", "why")], references, examples, MOODS, {}, [], draws=0, seed=0)
