"""Mixed corpora: equal shares, long explanations, and nothing measured that was taught."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from whytune import corpora
from whytune.corpora import mixed
from whytune.corpora.corpus import Corpus
from whytune.errors import CorpusError
from whytune.recipe_data import Columns, CorpusSpec
from whytune.records import Example, Kind, Label, Reply, Split, Task, Turn

MOOD = Task(
    name="mood",
    kind=Kind.NOMINAL,
    question="Which mood?",
    labels=(Label(name="joy"), Label(name="fear")),
)


def table(path: Path, rows: int, first: int = 0, words: int = 5, **spec: Any) -> CorpusSpec:
    """Every third row has an explanation one word longer."""
    content = [
        {"text": f"text {i}", "label": "joy", "why": " ".join(["so"] * (words + (i % 3 == 0)))}
        for i in range(first, first + rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    columns = Columns(text="text", explanation="why")
    return CorpusSpec(loader="table", path=str(path), columns=columns, **spec)


def mix(others: dict[str, CorpusSpec], **spec: Any) -> Corpus:
    given = CorpusSpec(loader="mixed", of=tuple(others), **spec)
    return corpora.load("all", given, [MOOD], {**others, "all": given})


def parts(corpus: Corpus) -> Counter[tuple[str, str]]:
    return Counter((str(e.split), e.source) for e in corpus.examples)


def test_equal_shares_of_each(tmp_path: Path) -> None:
    others = {
        "a": table(tmp_path / "a.jsonl", 60),
        "b": table(tmp_path / "b.jsonl", 90, first=100, validation=9),
        "c": table(tmp_path / "c.jsonl", 300, first=200, validation=9),
    }
    corpus = mix(others, train=31, test=20)
    assert parts(corpus) == {
        ("train", "a"): 11, ("train", "b"): 10, ("train", "c"): 10,
        ("test", "a"): 7, ("test", "b"): 7, ("test", "c"): 6,
    }  # fmt: skip
    assert corpus == mix(others, train=31, test=20)
    assert {r.example_id for r in corpus.replies} == {e.id for e in corpus.examples}
    assert list(corpus.inputs) == ["a/a.jsonl", "b/b.jsonl", "c/c.jsonl"]
    assert corpus.ledger.rows == 450
    assert all(bool(e.gold) == (e.split is Split.TEST) for e in corpus.examples)
    with pytest.raises(CorpusError, match=r"all.validation: found 0 validation examples in a, exp"):
        mix(others, validation=3)


def test_without_numbers_the_smallest_sets_the_share(tmp_path: Path) -> None:
    others = {
        "a": table(tmp_path / "a.jsonl", 20), "b": table(tmp_path / "b.jsonl", 90, first=100)
    }  # fmt: skip
    assert parts(mix(others)) == {
        ("train", "a"): 14, ("train", "b"): 14, ("test", "a"): 6, ("test", "b"): 6,
    }  # fmt: skip


def test_only_long_explanations(tmp_path: Path) -> None:
    others = {
        "a": table(tmp_path / "a.jsonl", 90, words=5),
        "b": table(tmp_path / "b.jsonl", 90, first=100, words=6),
    }
    corpus = mix(others, min_words=6, train=20, test=8)
    lengths = Counter(len(json.loads(r.text)["assessment"].split()) for r in corpus.replies)
    assert set(lengths) == {6, 7}
    assert len(corpus.examples) == 28
    with pytest.raises(CorpusError, match="with explanations of 7 words in a, expected 10, its"):
        mix(others, min_words=7, train=20, test=8)


def test_what_another_corpus_holds_out_is_not_taught(tmp_path: Path) -> None:
    # Sixty rows in both, split by different seeds.
    others = {
        "a": table(tmp_path / "a.jsonl", 100), "b": table(tmp_path / "b.jsonl", 100, first=40, seed=1)
    }  # fmt: skip
    corpus = mix(others)
    sides: dict[str, set[object]] = {}
    for example in corpus.examples:
        sides.setdefault(example.group, set()).add(example.split)
    assert all(len(side) == 1 for side in sides.values())
    assert len({e.id for e in corpus.examples}) == len(corpus.examples)
    held_out = {e.group for e in corpora.load("b", others["b"], [MOOD]).examples
                if e.split is Split.TEST}  # fmt: skip
    assert not held_out & {e.group for e in corpus.examples if e.split is Split.TRAIN}
    assert any("what another corpus holds out" in note for note in corpus.notes)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=2, max_size=4),
    shared=st.integers(0, 5),
    train=st.none() | st.integers(0, 12),
    test=st.none() | st.integers(1, 8),
)
def test_a_mixture_never_tears_a_group(
    sizes: list[tuple[int, int]], shared: int, train: int | None, test: int | None
) -> None:
    given_parts = [
        Corpus(
            name=f"c{number}",
            examples=tuple(
                example(
                    f"{number if i >= shared else 'x'}-{i}", Split.TRAIN if i < n else Split.TEST
                )
                for i in range(n + m)
            ),
            replies=(),
        )
        for number, (n, m) in enumerate(sizes)
    ]
    spec = CorpusSpec(loader="mixed", of=tuple(c.name for c in given_parts), train=train, test=test)
    try:
        corpus = mixed.mix("all", spec, given_parts)
    except CorpusError as error:
        assert "its share" in str(error)  # noqa: PT017
        return
    counts = parts(corpus)
    for split, wanted in ((Split.TRAIN, train), (Split.TEST, test)):
        shares = [counts[str(split), c.name] for c in given_parts]
        assert max(shares) - min(shares) <= 1
        assert wanted is None or sum(shares) == wanted
    ids = [e.id for e in corpus.examples]
    assert len(set(ids)) == len(ids)


def example(name: str, split: Split) -> Example:
    return Example(
        id=name, source="s", group=name, turns=(Turn(role="text", text=name),), split=split
    )


def test_an_id_for_two_texts_is_an_error() -> None:
    first = example("1", Split.TRAIN)
    other = Example(id="1", source="s", group="1", turns=(Turn(role="text", text="other"),),
                    split=Split.TRAIN)  # fmt: skip
    corpus = [Corpus(name=name, examples=(e, example(f"{name}-t", Split.TEST)), replies=())
              for name, e in (("a", first), ("b", other))]  # fmt: skip
    with pytest.raises(CorpusError, match="id 1 stands for one text in a and for another in b"):
        mixed.mix("all", CorpusSpec(loader="mixed", of=("a", "b")), corpus)


def test_every_explanation_counts_not_the_longest() -> None:
    def reply(text: str) -> Reply:
        return Reply(example_id="1", task="mood", teacher="t", prompt="p", text=text)

    long, short = reply('{"label": "joy", "assessment": "a b c"}'), reply('{"assessment": "a"}')
    assert mixed._long_enough([long], 3)
    assert not mixed._long_enough([long, short], 3)
    assert mixed._long_enough([long, reply('{"label": "joy"}'), reply("no JSON"), reply("[]")], 3)
    assert not mixed._long_enough([reply('{"label": "joy"}')], 1)
    assert not mixed._long_enough([], 1)
    assert mixed._long_enough([], 0)


def test_what_cannot_be_mixed(tmp_path: Path) -> None:
    others = {
        "apples": table(tmp_path / "a.jsonl", 20), "pears": table(tmp_path / "b.jsonl", 20, first=50)
    }  # fmt: skip
    spec = CorpusSpec(loader="mixed", of=("apples", "pear"))
    with pytest.raises(CorpusError, match=r"all.of: found 'pear', .*; did you mean pears\?"):
        corpora.load("all", spec, [MOOD], others)
    nested = CorpusSpec(loader="mixed", of=("apples", "pears"))
    with pytest.raises(CorpusError, match="found 'both', which is mixed itself"):
        corpora.load("all", CorpusSpec(loader="mixed", of=("apples", "both")), [MOOD],
                     {**others, "both": nested})  # fmt: skip
    for of in ((), ("a",), ("a", "a")):
        with pytest.raises(ValidationError, match="needs two or more others"):
            CorpusSpec(loader="mixed", of=of)
    with pytest.raises(ValidationError, match="found min_words, which is for `loader: mixed`"):
        CorpusSpec(loader="starter", min_words=3)
