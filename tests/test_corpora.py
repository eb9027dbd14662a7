"""Files, splits, samples, and the starter set."""

import gzip
import importlib
import json
import os
import pkgutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from whytune import corpora
from whytune.corpora import files, gold, manifest, splits, upstream
from whytune.errors import CorpusError, FolderError
from whytune.recipe_data import RELEASES, Columns, CorpusSpec
from whytune.records import Example, Kind, Label, Reference, Split, Task, Turn
from whytune.tasks import BUILT_IN

STARTER_TASKS = [BUILT_IN[name] for name in ("naturalness", "comprehensiveness", "on_topic")]
USEFULNESS = BUILT_IN["usefulness"]


def example(number: int, group: str, split: Split | None = None) -> Example:
    turns = (Turn(role="text", text=f"text {number}"),)
    return Example(id=f"e{number}", source="s", group=group, turns=turns, split=split)


def ids(division: splits.Division, split: Split) -> list[str]:
    return [e.id for e in division.examples if e.split is split]


# Files


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        ("a.json.gz", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.json.gz", b"[1, 2]", "not gzip data"),
        ("a.json.gz", gzip.compress(b"[" + b"1, " * 99 + b"1]", mtime=0)[:-9], "ends too early"),
        ("a.json.gz", gzip.compress(b"[1]", mtime=0)[:-8] + b"\0" * 8, "damaged gzip data"),
        ("a.json", b"[1,\n\xff]", "line 2: byte 0xff is not UTF-8"),
        ("a.json", b"[1,\n2,\n", "line 3: not JSON"),
        ("a.json", b"[" * 100_000, "not readable as JSON"),
    ],
)
def test_a_damaged_file_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError) as raised:
        files.json_value(files.read(path))
    message = str(raised.value)
    assert message.startswith(str(path))
    assert expected in message
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone\.json: not there"):
        files.read(tmp_path / "gone.json")
    with pytest.raises(CorpusError, match="found a folder"):
        files.read(tmp_path)


def test_json_lines_end_at_newlines_only_and_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "x\xe2\x80\xa8y"}\r\n\n{"a": 2}\n')
    assert files.json_lines(files.read(path)) == [(1, {"a": "x\u2028y"}), (3, {"a": 2})]
    path.write_text('{"a": 1}\n[2]\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="line 2: found list"):
        files.json_lines(files.read(path))
    path.write_text('{"a": 1}\n{"a": ', encoding="utf-8")
    with pytest.raises(CorpusError, match="line 2: not JSON"):
        files.json_lines(files.read(path))


# Gold


def test_gold_takes_a_strict_majority_and_the_raters_mean() -> None:
    found = gold.of_labels(["Bad", "Bad", "Excellent"], USEFULNESS)
    assert found is not None
    assert (found.label, found.score) == ("Bad", 1 / 3)
    assert gold.of_labels(["Bad", "Excellent"], USEFULNESS) is None
    assert gold.of_labels(["Bad", "Excellent", "Acceptable"], USEFULNESS) is None
    assert gold.of_scores([0.5, 1.0], USEFULNESS) == Reference(label="Acceptable", score=0.75)


# Splits


@settings(max_examples=80, deadline=None)
@given(
    groups=st.lists(st.integers(0, 12), min_size=1, max_size=50),
    train=st.none() | st.integers(1, 30),
    validation=st.integers(0, 10),
    test=st.none() | st.integers(1, 30),
    unsettled=st.sets(st.integers(0, 49)),
    seed=st.integers(0, 3),
)
def test_no_group_stands_on_two_sides_and_counts_are_exact(
    groups: list[int],
    train: int | None,
    validation: int,
    test: int | None,
    unsettled: set[int],
    seed: int,
) -> None:
    examples = [example(i, f"g{group}") for i, group in enumerate(groups)]
    spec = CorpusSpec(train=train, validation=validation, test=test, seed=seed)
    shut = frozenset(f"e{i}" for i in unsettled)
    try:
        division = splits.divide("c", examples, spec, shut)
    except CorpusError:
        return
    sides: dict[str, set[object]] = {}
    for chosen in division.examples:
        sides.setdefault(chosen.group, set()).add(chosen.split)
    assert all(len(parts) == 1 for parts in sides.values())
    assert len(ids(division, Split.VALIDATION)) == validation
    assert train is None or len(ids(division, Split.TRAIN)) == train
    assert test is None or len(ids(division, Split.TEST)) == test
    assert not shut & set(ids(division, Split.TEST))
    assert ids(division, Split.TRAIN)
    assert ids(division, Split.TEST)
    backwards = splits.divide("c", examples[::-1], spec, shut)
    assert backwards == division


def test_the_draw_is_the_same_on_every_machine() -> None:
    examples = [example(i, f"g{i}") for i in range(10)]
    division = splits.divide("c", examples, CorpusSpec(test=3, validation=2), frozenset())
    # Computed apart: for i in {0..9}; do printf 0:g$i | sha256sum; done, and sorted.
    assert ids(division, Split.TEST) == ["e1", "e0", "e8"]
    other = splits.divide("c", examples, CorpusSpec(test=3, seed=1), frozenset())
    assert ids(other, Split.TEST) != ids(division, Split.TEST)


def test_a_smaller_training_sample_is_part_of_a_larger_one() -> None:
    examples = [example(i, f"g{i % 9}") for i in range(60)]
    small = splits.divide("c", examples, CorpusSpec(train=5, test=10), frozenset())
    large = splits.divide("c", examples, CorpusSpec(train=20, test=10), frozenset())
    assert ids(large, Split.TRAIN)[:5] == ids(small, Split.TRAIN)
    assert ids(large, Split.TEST) == ids(small, Split.TEST)


def test_a_share_of_the_groups_is_held_out() -> None:
    examples = [example(i, f"g{i // 2}") for i in range(40)]
    division = splits.divide("c", examples, CorpusSpec(test_share=0.25), frozenset())
    assert len(ids(division, Split.TEST)) == 10
    assert len(ids(division, Split.TRAIN)) == 30


def native() -> list[Example]:
    sides = [Split.TRAIN] * 6 + [Split.VALIDATION] * 3 + [Split.TEST] * 4
    return [example(i, f"g{i}", side) for i, side in enumerate(sides)]


def test_a_corpus_keeps_its_own_split() -> None:
    division = splits.divide("c", native(), CorpusSpec(), frozenset({"e9"}))
    assert sorted(ids(division, Split.TRAIN)) == [f"e{i}" for i in range(6)]
    assert sorted(ids(division, Split.VALIDATION)) == ["e6", "e7", "e8"]
    assert sorted(ids(division, Split.TEST)) == ["e10", "e11", "e12"]
    assert division.notes == (
        "1 test examples without a strict majority of their raters were left out.",
    )
    fewer = splits.divide("c", native(), CorpusSpec(validation=2), frozenset())
    assert len(ids(fewer, Split.VALIDATION)) == 2
    assert len(ids(fewer, Split.TRAIN)) == 6


def test_a_leak_is_found_though_the_sample_would_hide_it() -> None:
    torn = [*native(), example(13, "g0", Split.TEST)]
    with pytest.raises(CorpusError, match="1 groups on both sides"):
        splits.divide("c", torn, CorpusSpec(), frozenset({"e13"}))


def test_unsettled_examples_do_not_count_towards_the_test_part() -> None:
    examples = [example(i, f"g{i}") for i in range(10)]
    # g1 and g0 come first in hash order (see above); neither can be measured on.
    division = splits.divide("c", examples, CorpusSpec(test=3), frozenset({"e1", "e0"}))
    assert len(ids(division, Split.TEST)) == 3
    assert len(ids(division, Split.TRAIN)) == 5
    assert division.notes[0].startswith("2 test examples")


@pytest.mark.parametrize(
    ("examples", "spec", "expected"),
    [
        (native(), CorpusSpec(train=7), "c.train: asked for 7 examples, found 6"),
        (native(), CorpusSpec(test=5), "c.test: asked for 5 examples, found 4"),
        (native(), CorpusSpec(validation=4), "c.validation: asked for 4 examples, found 3"),
        (native()[:9], CorpusSpec(), "no examples left for test"),
        (native()[9:], CorpusSpec(), "no examples left for train"),
        ([*native(), example(13, "new")], CorpusSpec(), "1 of 14 examples without a split"),
        ([*native(), example(13, "g0", Split.TEST)], CorpusSpec(), "1 groups on both sides"),
        ([example(0, "g"), example(1, "g")], CorpusSpec(), "found 1 groups"),
        ([example(0, "g"), example(1, "h")], CorpusSpec(test=2), "no examples left for train"),
        ([], CorpusSpec(), "no examples left"),
    ],
)
def test_what_cannot_be_split_is_an_error(
    examples: list[Example], spec: CorpusSpec, expected: str
) -> None:
    with pytest.raises(CorpusError, match=expected):
        splits.divide("c", examples, spec, frozenset())


# Starter


def test_the_starter_set_is_whole() -> None:
    corpus = corpora.load("starter", CorpusSpec(), STARTER_TASKS)
    assert len(corpus.examples) == 180
    assert len(corpus.replies) == 180 * 3 * 12
    assert len({e.source for e in corpus.examples}) == 6
    assert {r.scale for r in corpus.replies} == {(1.0, 4.0), (1.0, 5.0)}
    assert all(r.scale == (1.0, float(r.prompt.split("-")[2])) for r in corpus.replies)
    assert all(e.turns[-1].role == "assistant" for e in corpus.examples)
    assert all(e.group == e.id and not e.gold for e in corpus.examples)
    assert len(ids_of(corpus, Split.TEST)) == 54
    assert set(corpus.inputs) == {"conversations.jsonl.gz", "replies.jsonl.gz"}


def ids_of(corpus: corpora.Corpus, split: Split) -> list[str]:
    return [e.id for e in corpus.examples if e.split is split]


def test_a_sample_brings_only_its_own_replies() -> None:
    spec = CorpusSpec(train=20, validation=5, test=10)
    corpus = corpora.load("starter", spec, STARTER_TASKS[:1])
    assert len(corpus.replies) == 35 * 12
    assert {r.example_id for r in corpus.replies} == {e.id for e in corpus.examples}
    assert {r.task for r in corpus.replies} == {"naturalness"}


def test_the_starter_answers_no_other_task() -> None:
    with pytest.raises(CorpusError, match="found task 'usefulness'"):
        corpora.load("starter", CorpusSpec(), [USEFULNESS])
    chosen = CorpusSpec(loader="starter", task="on_topic")
    corpus = corpora.load("mine", chosen, [USEFULNESS, *STARTER_TASKS])
    assert {r.task for r in corpus.replies} == {"on_topic"}
    with pytest.raises(CorpusError, match=r"corpora.mine.task: found 'other'"):
        corpora.load("mine", CorpusSpec(loader="starter", task="other"), STARTER_TASKS)


def test_a_name_that_is_no_loader_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"corpora.mine.loader: missing"):
        corpora.load("mine", CorpusSpec(path="x"), STARTER_TASKS)


@pytest.mark.parametrize("name", ["feedbackqa", "table"])
def test_a_corpus_of_files_needs_a_path(name: str) -> None:
    with pytest.raises(CorpusError, match=rf"corpora.{name}.path: missing"):
        corpora.load(name, CorpusSpec(), [USEFULNESS])


def test_the_packed_starter_is_the_given_one() -> None:
    shared = os.environ.get("WHYTUNE_SHARED")
    root = Path(shared) if shared else Path(__file__).parents[2] / "shared"
    source = root / "data" / "starter"
    if not source.exists():
        pytest.skip(f"{source} is not here: set WHYTUNE_SHARED to compare the starter set")
    packed = Path(corpora.__file__).parents[1] / "data" / "starter"
    for name in ("conversations.jsonl", "replies.jsonl"):
        content = gzip.decompress((packed / f"{name}.gz").read_bytes())
        assert content == (source / name).read_bytes()
        assert all(json.loads(line) for line in content.decode().split("\n") if line)


# Loaders


def test_every_loader_is_a_module_that_reads() -> None:
    for name, module in corpora.LOADERS.items():
        found = importlib.import_module(module)
        assert callable(found.mix if name == "mixed" else found.read)
    there = {
        found.name
        for found in pkgutil.iter_modules(upstream.__path__)
        if hasattr(importlib.import_module(f"{upstream.__name__}.{found.name}"), "ABOUT")
    }
    assert there | {"feedbackqa"} == set(RELEASES)
    assert set(corpora.LOADERS) == {"starter", "table", "mixed", *RELEASES}


def test_a_loader_spelt_wrongly_is_told() -> None:
    with pytest.raises(ValidationError, match=r"'goemotion' is no loader; did you mean goemotions"):
        CorpusSpec(loader="goemotion", path="x")
    with pytest.raises(ValidationError, match="found no path; emotion needs `path:`"):
        CorpusSpec(loader="emotion")
    with pytest.raises(CorpusError, match=r"corpora.emotions.loader: missing.*mean emotion\?"):
        corpora.load("emotions", CorpusSpec(), [USEFULNESS])


MOOD = Task(
    name="emotion",
    kind=Kind.NOMINAL,
    question="Which?",
    labels=tuple(Label(name=n) for n in ["sadness", "joy", "love", "anger", "fear", "surprise"]),
)


def emotions(folder: Path, train: Sequence[str], test: Sequence[str]) -> CorpusSpec:
    for name, lines in (("train.txt", train), ("val.txt", ["v;joy"]), ("test.txt", test)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return CorpusSpec(loader="emotion", path=str(folder))


def test_a_release_is_streamed_merged_and_freed_of_leaks(tmp_path: Path) -> None:
    train = [*(f"text {i};joy" for i in range(300)), "text 1;joy", "text 2;fear", "Seen;joy"]
    spec = emotions(tmp_path, train, [*(f"new {i};fear" for i in range(300)), "seen;joy"])
    corpus = corpora.load("emotion", spec, [MOOD])
    assert [len(ids_of(corpus, split)) for split in Split] == [300, 1, 301]
    assert corpus.notes == (
        "1 examples share a group with a part that is held out from them and were left out.",
        "2 examples repeat another's content and were read as one.",
    )
    texts = {e.id: e.turns[0].text for e in corpus.examples}
    said = [json.loads(r.text)["label"] for r in corpus.replies if texts[r.example_id] == "text 2"]
    assert sorted(said) == ["fear", "joy"]
    assert len([r for r in corpus.replies if texts[r.example_id] == "text 1"]) == 1
    sample = corpora.load("emotion", spec.model_copy(update={"train": 9, "test": 5}), [MOOD])
    assert ids_of(sample, Split.TRAIN) == ids_of(corpus, Split.TRAIN)[:9]
    assert ids_of(sample, Split.TEST) == ids_of(corpus, Split.TEST)[:5]
    assert sample.notes == corpus.notes


def test_a_corpus_with_test_examples_only_is_measured_on(tmp_path: Path) -> None:
    examples = [example(i, f"g{i}", Split.TEST) for i in range(5)]
    with pytest.raises(CorpusError, match=r"no examples left for train.*or set train: 0"):
        splits.divide("c", examples, CorpusSpec(), frozenset())
    division = splits.divide("c", examples, CorpusSpec(train=0), frozenset())
    assert len(ids(division, Split.TEST)) == 5
    assert len(division.examples) == 5


def test_settled_means_a_majority_or_all(tmp_path: Path) -> None:
    votes = {"a": "3 3 3", "b": "3 3 4", "c": "3 4 5", "d": "2 2", "e": "1"}
    rows = [
        {"text": f"text {key}", "label": label, "who": str(rater), "part": "test"}
        for key, said in votes.items()
        for rater, label in enumerate(said.split())
    ]
    rows.append({"text": "taught", "label": "1", "who": "0", "part": "train"})
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = Columns(text="text", rater="who", split="part")
    spec = CorpusSpec(loader="table", path=str(path), columns=columns)
    for raters, settled in (("majority", "abde"), ("all", "ade")):
        strict = spec.model_copy(update={"raters": raters})
        corpus = corpora.load("mine", strict, [BUILT_IN["on_topic"]])
        test = [e.turns[0].text for e in corpus.examples if e.split is Split.TEST]
        assert sorted(test) == [f"text {key}" for key in settled]
    assert corpus.notes == ("2 test examples on which not all raters agree were left out.",)


# Strata


@settings(max_examples=60, deadline=None)
@given(
    strata=st.lists(st.sampled_from(["a", "b", "c"]), min_size=4, max_size=60),
    test=st.integers(1, 20),
    seed=st.integers(0, 2),
)
def test_strata_have_their_share_within_one_example(
    strata: list[str], test: int, seed: int
) -> None:
    examples = [example(i, f"g{i}") for i in range(len(strata))]
    labels = {f"e{i}": label for i, label in enumerate(strata)}
    spec = CorpusSpec(test=test, stratify=True, seed=seed)
    try:
        division = splits.divide("c", examples, spec, frozenset(), labels)
    except CorpusError:
        assert test >= len(strata)
        return
    chosen = Counter(labels[i] for i in ids(division, Split.TEST))
    assert chosen.total() == test
    for label, count in Counter(strata).items():
        assert abs(chosen[label] - test * count / len(strata)) < 1
    assert splits.divide("c", examples[::-1], spec, frozenset(), labels) == division


def test_strata_keep_groups_whole() -> None:
    examples = [example(i, f"g{i // 3}") for i in range(90)]
    labels = {f"e{i}": "rare" if i < 18 else "often" for i in range(90)}
    division = splits.divide("c", examples, CorpusSpec(test_share=0.3, stratify=True), frozenset(),
                             labels)  # fmt: skip
    test = ids(division, Split.TEST)
    assert Counter(labels[i] for i in test) == {"rare": 6, "often": 21}
    groups = {e.group for e in division.examples if e.split is Split.TEST}
    assert not groups & {e.group for e in division.examples if e.split is Split.TRAIN}


# Frozen splits


def frozen(**spec: int) -> dict[str, tuple[corpora.Corpus, CorpusSpec]]:
    given = CorpusSpec.model_validate({"loader": "starter", **spec})
    return {"starter": (corpora.load("starter", given, STARTER_TASKS), given)}


def test_frozen_splits_are_found_again(tmp_path: Path) -> None:
    path = manifest.write(tmp_path, frozen(train=20, test=10))
    manifest.check(tmp_path, frozen(train=20, test=10))
    told = json.loads(path.read_text())["starter"]
    assert [len(told["splits"][str(split)]) for split in Split] == [20, 0, 10]
    assert set(told["inputs"]) == {"conversations.jsonl.gz", "replies.jsonl.gz"}
    assert (told["spec"]["train"], "path" in told["spec"]) == (20, False)


def test_whatever_differs_from_frozen_splits_is_told(tmp_path: Path) -> None:
    def fault(now: dict[str, tuple[corpora.Corpus, CorpusSpec]]) -> str:
        with pytest.raises(FolderError) as raised:
            manifest.check(tmp_path, now)
        message = str(raised.value)
        assert message.startswith(f"{tmp_path / 'splits.json'}, corpus ")
        return message

    with pytest.raises(FolderError, match=r"splits.json: not there"):
        manifest.check(tmp_path, {})
    manifest.write(tmp_path, frozen(train=20, test=10))
    assert "train was 20, now 21; exp" in fault(frozen(train=21, test=10))
    (corpus, spec) = frozen(train=20, test=10)["starter"]
    other = replace(corpus, inputs={**corpus.inputs, "replies.jsonl.gz": "0" * 64, "new": "1"})
    message = fault({"starter": (other, spec)})
    assert "file replies.jsonl.gz changed (SHA-256 " in message
    assert "file new is new" in message
    fewer = replace(corpus, examples=corpus.examples[1:])
    assert f"train: examples 1 gone ({corpus.examples[0].id})" in fault({"starter": (fewer, spec)})
    moved = replace(corpus, examples=corpus.examples[::-1])
    assert "train: the same examples in another order" in fault({"starter": (moved, spec)})
    assert "corpus starter: not read any more" in fault({})
    assert "corpus b: found no frozen" in fault({"starter": (corpus, spec), "b": (corpus, spec)})
    (tmp_path / "splits.json").write_text('{"starter": []}')
    assert "found no frozen splits" in fault({"starter": (corpus, spec)})
