"""What is found in texts, against brute force; and the page that shows it."""

import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whytune import recipe_file
from whytune.corpora import Corpus
from whytune.corpora.ledger import Ledger
from whytune.lint import duplicates, health, languages, texts, words
from whytune.progress import Progress
from whytune.records import Example, Kind, Split, Turn
from whytune.study import check, check_tables
from whytune.study.findings import Sheet
from whytune.teaching import vocabulary

WORDS = st.sampled_from("alpha beta gamma delta".split(" "))  # noqa: SIM905
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)


def triples(text: str) -> set[str]:
    own = re.findall(r"\w+", text.casefold())
    return {" ".join(own[n : n + 3]) for n in range(max(len(own) - 2, 1))} if own else set()


def overlap(one: str, other: str) -> float:
    first, second = triples(one), triples(other)
    return len(first & second) / len(first | second) if first | second else 0.0


def brute_near(found: Sequence[str]) -> list[tuple[int, int]]:
    normal = [" ".join(text.casefold().split()) for text in found]
    distinct = [n for n, text in enumerate(normal) if text not in normal[:n]]
    pairs = []
    for place, index in enumerate(distinct):
        like = [o for o in distinct[:place] if overlap(found[index], found[o]) >= 0.8]
        pairs += [(index, like[0])] if like else []
    return pairs


@given(st.lists(TEXTS, max_size=12))
def test_near_duplicates_are_those_of_brute_force(found: list[str]) -> None:
    twins = duplicates.near(found)
    assert [(twin.text, twin.twin) for twin in twins] == brute_near(found)
    for twin in twins:
        assert twin.similarity == pytest.approx(overlap(found[twin.text], found[twin.twin]))


def test_near_duplicates_among_long_texts_are_those_of_brute_force() -> None:
    random = np.random.default_rng(0)
    vocabulary = [f"word{n}" for n in range(400)]
    found = [" ".join(random.choice(vocabulary, 60)) for _ in range(150)]
    for original in range(0, 150, 3):  # from hardly changed to much changed
        own = found[original].split()
        for place in random.choice(60, original // 15, replace=False):
            own[place] = "changed"
        found.append(" ".join(own))
    twins = duplicates.near(found)
    expected = brute_near(found)
    assert 10 < len(expected) < 50
    assert [(twin.text, twin.twin) for twin in twins] == expected


def test_shingles_of_scripts_without_spaces_are_of_characters() -> None:
    assert duplicates.shingles("今天天气") == {("今", "天", "天"), ("天", "天", "气")}
    assert duplicates.shingles("Two words!") == {("two", "words")}
    assert duplicates.shingles("…!") == frozenset()


@given(st.lists(st.sampled_from(["a b", "A  b", "a\nB", "c", "d "]), max_size=10))
def test_repeats_point_to_the_first_equal_text(found: list[str]) -> None:
    normal = [" ".join(text.casefold().split()) for text in found]
    assert duplicates.repeats(found) == {
        n: normal.index(text) for n, text in enumerate(normal) if normal.index(text) < n
    }


def example(number: int, text: str, split: Split) -> Example:
    return Example(id=f"e{number}", source="s", group=f"g{number}", split=split,
                   turns=(Turn(role="text", text=text),))  # fmt: skip


SPLIT_TEXTS = st.lists(st.tuples(TEXTS, st.sampled_from(list(Split))), min_size=1, max_size=12)


@given(SPLIT_TEXTS)
def test_leaks_are_those_of_brute_force(drawn: list[tuple[str, Split]]) -> None:
    examples = [example(n, text, split) for n, (text, split) in enumerate(drawn)]
    train = {text for text, split in drawn if split is Split.TRAIN}
    held_out = {text for text, split in drawn if split is not Split.TRAIN}
    found = health.examine(Corpus(name="c", examples=tuple(examples), replies=()))
    assert found.leaks == len(train & held_out)
    nearly = {t for t in held_out - train if any(overlap(t, other) >= 0.8 for other in train)}
    assert found.near_leaks == len(nearly)
    across = [pair for pair in found.pairs if health.leaks_into(pair)]
    assert {examples[int(pair.example_id[1:])].turns[0].text for pair in across} == nearly
    assert list(found.pairs[: len(across)]) == across
    assert found.repeats == len(drawn) - len(train | held_out)


def test_a_sample_depends_on_ids_alone() -> None:
    examples = [example(n, f"text {n}", Split.TRAIN) for n in range(50)]
    kept = health.sample(examples, 20)
    assert len(kept) == 20
    assert [e.id for e in kept] == sorted((e.id for e in kept), key=lambda i: int(i[1:]))
    assert {e.id for e in health.sample(examples[::-1], 20)} == {e.id for e in kept}
    assert health.sample(examples, 60) == examples


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Plain text, 1 < 2 and 3 > 2 & so on; a <name> too.", set()),
        ("AT&T; nothing &such; here", set()),
        ("a<br/>b", {texts.TAGS}),
        ('<a href="x">y</a>', {texts.TAGS}),
        ("if a <b and c> d", {texts.TAGS}),  # told apart from a tag by nobody
        ("R&amp;D", {texts.ENTITIES}),
        ("&#39;quoted&#x27;", {texts.ENTITIES}),
        ("Hello {{name}}", {texts.TEMPLATE}),
        ("<|im_start|>user", {texts.TEMPLATE}),
        ("[INST] hi [/INST]</s>", {texts.TEMPLATE}),
        ("Fine.\nHuman: and then?", {texts.TEMPLATE}),
        ("He said: Human: all too.", set()),
        ("?!…", {texts.WORDLESS}),
        ("\u200b", {texts.WORDLESS}),
        ("好", set()),
    ],
)  # fmt: skip
def test_markup(text: str, kinds: set[str]) -> None:
    assert set(texts.marks(text)) == kinds


@given(st.text(alphabet="ab <>&;/", max_size=30))
def test_escaping_leaves_no_tag_and_is_seen_itself(text: str) -> None:
    escaped = html.escape(text, quote=False)
    found = set(texts.marks(escaped))
    assert texts.TAGS not in found
    assert (texts.ENTITIES in found) == (escaped != text)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("AB")), max_size=12))
def test_conflicts_are_those_of_brute_force(labelled: list[tuple[str, str]]) -> None:
    expected = {
        text: dict(Counter(label for own, label in labelled if own == text))
        for text in "xyz"
        if len({label for own, label in labelled if own == text}) > 1
    }
    assert texts.conflicts(labelled) == expected


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_percentiles_are_numpys(counts: list[int]) -> None:
    found = texts.lengths(counts)
    expected = np.percentile(counts, texts.PERCENTS, method="inverted_cdf")
    assert list(found.percentiles.values()) == list(expected)
    assert (found.n, found.longest) == (len(counts), max(counts))
    assert found.mean == pytest.approx(np.mean(counts))


def test_no_texts_have_no_lengths() -> None:
    with pytest.raises(ValueError, match="no texts"):
        texts.lengths([])


def test_languages_are_told_and_short_texts_left_alone() -> None:
    found = languages.languages([
        "Nobody in the office can log in since this morning.",
        "Where can I find the invoice for the month of March?",
        "Seit heute Morgen kann sich niemand im Büro anmelden.",
        "ok",
    ])  # fmt: skip
    assert found == {"en": 2, "de": 1, languages.UNSURE: 1}
    assert list(found) == ["en", "de", languages.UNSURE]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [("answer", True), ("The", False), ("it's", False), ("isn’t", False), ("can't", False),
     ("“passage’s”", True), ("—", False), ("COVID-19,", True)],
)  # fmt: skip
def test_stopwords(word: str, meaning: bool) -> None:
    assert vocabulary.means_something(vocabulary.bare(word)) is meaning


EXPLANATIONS = st.lists(
    st.lists(st.sampled_from(["the", "answer", "is", "Good.", "-"]), max_size=6).map(" ".join),
    max_size=30,
)


@given(EXPLANATIONS)
def test_shares_by_position_are_those_of_brute_force(explanations: list[str]) -> None:
    found = words.by_position(explanations)
    for row in found:
        own = [text.split()[row.position - 1] for text in explanations
               if len(text.split()) >= row.position]  # fmt: skip
        assert row.n == len(own)
        assert row.share == sum(word in ("answer", "Good.") for word in own) / len(own)
    reached = [sum(len(text.split()) >= place for text in explanations) for place in range(1, 7)]
    fewest = min(10, max(len(explanations) / 2, 1))
    assert [row.n for row in found] == [n for n in reached if n >= fewest]


@given(EXPLANATIONS)
def test_beginnings_count_explanations_not_words(explanations: list[str]) -> None:
    expected = [(word, sum(shown in text.split() for text in explanations))
                for word, shown in (("answer", "answer"), ("good", "Good."))]  # fmt: skip
    expected = sorted(((w, n) for w, n in expected if n), key=lambda item: (-item[1], item[0]))
    assert words.beginnings(explanations, 20) == expected


def test_beginnings_end_after_25_words() -> None:
    text = " ".join(["the"] * 24 + ["twentyfifth", "twentysixth"])
    assert words.beginnings([text], 20) == [("twentyfifth", 1)]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=50))
def test_histograms_hold_every_count_once(counts: list[int]) -> None:
    width = check_tables.bin_width(max(counts))
    rows = check_tables.histogram(counts, width)
    assert len(rows) <= check_tables.MOST_BINS
    assert [row["n"] for row in rows] == [
        sum(row["start"] <= count < row["end"] for count in counts) for row in rows
    ]
    assert sum(row["n"] for row in rows) == len(counts)
    assert all(one["end"] == other["start"] for one, other in pairwise(rows))


def test_bins_are_one_two_or_five() -> None:
    assert [check_tables.bin_width(n) for n in (29, 30, 100, 149, 290, 599, 3000, 10_000)] == [
        1, 2, 5, 5, 10, 20, 200, 500,
    ]  # fmt: skip


RECIPE = """
name: linted
model: {model}
corpora:
  mine:
    loader: table
    path: data.jsonl
    max_unreadable: {share}
    columns: {{text: text, label: mood, explanation: why, id: key, group: key, split: part}}
tasks: [{{name: mood, kind: {kind}, question: 'Which mood?', labels: [sad, calm, glad]}}]
arms: {{label: {{explanation: none}}, why: {{explanation: assessment}}, first: {{explanation: assessment}}}}
prompt: {{max_length: 250}}
"""
LONG = "The train was late again and the platform was full of people who waited for hours"
MOODS = ("sad", "calm", "glad")


def rows() -> list[dict[str, str]]:
    made = [
        {"text": f"It is day {n} of the journey.", "mood": MOODS[n % 3],
         "part": "test" if n > 8 else "train"}
        for n in range(12)
    ]  # fmt: skip
    made += [
        {"text": f"{LONG} today.", "mood": "sad", "part": "train"},
        {"text": f"{LONG} today!", "mood": "calm", "part": "test"},
        {"text": "Nice<br>day &amp; night {{name}}", "mood": "glad", "part": "train"},
        {"text": "nice<br>DAY &amp; night {{name}}", "mood": "sad", "part": "train"},
        {"text": "word " * 300, "mood": "calm", "part": "train"},
    ]
    return [{**row, "key": f"k{n}", "why": f"The traveller number {n} says so."}
            for n, row in enumerate(made)]  # fmt: skip


@pytest.fixture(scope="module")
def checked(
    tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:  # fmt: skip
    """A page's folder, and the findings about 17 readable rows and one that is not."""
    folder = tmp_path_factory.mktemp("checked")
    lines = [json.dumps(row) for row in rows()]
    (folder / "data.jsonl").write_text("\n".join([*lines[:4], "{", *lines[4:]]) + "\n", "utf-8")
    (folder / "r.yaml").write_text(
        RECIPE.format(model=tiny_folder, share=0.1, kind="ordinal"), "utf-8"
    )
    recipe = recipe_file.load(folder / "r.yaml")
    (found,) = check.check(recipe, Progress(quiet=True), folder / "page")
    return folder / "page", found


def test_a_check_finds_what_was_planted(checked: tuple[Path, Any]) -> None:
    _, found = checked
    state = found.health
    assert (state.examples, state.rows, state.unreadable) == (17, 18, 1)
    assert (state.repeats, state.leaks, state.near, state.near_leaks) == (1, 0, 1, 1)
    assert (state.pairs[0].example_id, state.pairs[0].twin_id) == ("k13", "k12")
    assert state.markup == {texts.TAGS: 2, texts.ENTITIES: 2, texts.TEMPLATE: 2}
    assert state.languages["en"] >= 2
    assert found.conflicts == 1
    assert found.held_out == {"sad": 1, "calm": 2, "glad": 1}
    assert found.tokens.cut == 1
    assert found.tokens.texts.n == 17
    assert set(found.tokens.explanations) == {"why", "first"}
    assert found.faults == ()
    said = "\n".join(found.remarks)
    for remark in ("1 held-out texts nearly repeat a training text", "1 of 18 rows",
                   "1 texts carry different labels in several examples, as 'nice<br>day &amp; night "
                   "{{name}}' (glad: 1, sad: 1)", "2 examples hold HTML tags",
                   "1 of 17 texts are longer than prompt.max_length 250"):  # fmt: skip
        assert remark in said


def test_rows_that_cannot_be_read_are_written(checked: tuple[Path, Any]) -> None:
    folder, _ = checked
    (line,) = (folder / "quarantine.jsonl").read_text("utf-8").splitlines()
    row = json.loads(line)
    assert (row["corpus"], row["file"], row["line"], row["text"]) == ("mine", "data.jsonl", 5, "{")
    assert "not readable as JSON" in row["reason"]


def test_more_unreadable_rows_than_allowed_are_refused_and_written(
    tiny_folder: Path, tmp_path: Path
) -> None:
    from whytune.errors import CorpusError

    lines = [json.dumps(row) for row in rows()]
    (tmp_path / "data.jsonl").write_text("\n".join(["{", "[]", *lines]) + "\n", "utf-8")
    text = RECIPE.format(model=tiny_folder, share=0.1, kind="nominal")
    recipe = recipe_file.parse(text, place="r", folder=tmp_path)
    with pytest.raises(CorpusError, match="in all 2 of 19 rows could not be read"):
        check.check(recipe, Progress(quiet=True), tmp_path / "page")
    written = (tmp_path / "page" / "quarantine.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["line"] for line in written] == [1, 2]


def test_the_page_stands_for_itself(checked: tuple[Path, Any]) -> None:
    folder, found = checked
    page = (folder / "check.html").read_text("utf-8")
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert page.count("<figure") == 5
    assert "ENGLISH_STOP_WORDS" in page
    for remark in found.remarks:
        assert html.escape(remark).replace("&#x27;", "&#39;") in page
    assert "Nice&lt;br&gt;day" not in page.split("What is supervised")[0]
    for path in re.findall(r'href="([^"#:]+)"', page):
        assert (folder / path).is_file(), path
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    # Arms with the same explanations are drawn once.
    assert "n = 13 (why, first)" in page


def test_the_tables_hold_what_the_pictures_show(checked: tuple[Path, Any]) -> None:
    folder, _ = checked
    answers = (folder / "tables" / "mine--mood--answers.csv").read_text("utf-8").splitlines()
    assert answers[0] == "score,taught,measured,taught_n,measured_n"
    assert [line.split(",")[-2:] for line in answers[1:]] == [["5", "1"], ["4", "2"], ["4", "1"]]


def test_raters_who_differ_are_counted(tiny_folder: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"It is day {n} of the journey.", "who": who,
                    "part": "train" if n < 9 else "test",
                    "mood": MOODS[(n + (who == "bob" and n < 4)) % 3]})
        for n in range(12)
        for who in (("ann", "bob") if n < 9 else ("ann",))
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    text = re.sub(r"columns: .*", "columns: {text: text, label: mood, rater: who, split: part}",
                  RECIPE.format(model=tiny_folder, share=0, kind="nominal"))  # fmt: skip
    text = re.sub(r"arms: .*", "arms: {label: {explanation: none}}", text)
    recipe = recipe_file.parse(text, place="r", folder=tmp_path)
    (found,) = check.check(recipe, Progress(quiet=True))
    assert (found.voted, found.disputed, found.conflicts) == (9, 4, 0)
    assert any(r.startswith("4 of the 9 examples with several labels") for r in found.remarks)
    assert not [path for path in tmp_path.iterdir() if path.name != "data.jsonl"]


def test_scores_of_a_nominal_task_are_its_labels() -> None:
    answers: dict[str, tuple[tuple[str, float | None], ...]] = {
        "taught": (("b", None), ("a", None), ("b", None)), "measured": (("a", None),),
    }  # fmt: skip
    sheet = Sheet(findings=None, kind=Kind.NOMINAL, labels=("a", "b", "c"), answers=answers,  # type: ignore[arg-type]
                  text_tokens=(), explanation_tokens={}, explanations={})  # fmt: skip
    assert [(row["label"], row["taught_n"], row["measured_n"])
            for row in check_tables.answers(sheet)] == [("a", 1, 1), ("b", 2, 0), ("c", 0, 0)]  # fmt: skip


def test_a_corpus_without_rows_has_none_unreadable() -> None:
    corpus = Corpus(name="c", examples=(example(0, "a text", Split.TRAIN),), replies=(),
                    ledger=Ledger())  # fmt: skip
    found = health.examine(corpus)
    assert (found.rows, found.unreadable, found.quarantined) == (0, 0, ())
