"""What state the texts of one corpus are in: repeats, leaks, markup, languages, rows left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whytune.corpora import Corpus
from whytune.corpora.identity import hash_order, normal
from whytune.corpora.ledger import Quarantined
from whytune.lint import duplicates, languages, texts
from whytune.records import Example, Split
from whytune.student.prompting import conversation_text

MOST = 10_000
"""Examples that are compared for near duplicates; of more, a sample."""
MOST_LANGUAGES = 2_000
"""Examples whose language is looked at; of more, a sample."""
SHOWN = 20
"""Pairs, and examples of a kind of markup, that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two examples that nearly repeat each other."""

    example_id: str
    split: Split | None
    twin_id: str
    """The first example like it."""
    twin_split: Split | None
    similarity: float
    """Jaccard index of their word triples, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What was found in the texts of a corpus, all tasks alike."""

    examples: int
    repeats: int
    """Examples whose text equals that of an earlier one; case and white space aside."""
    leaks: int
    """Texts that stand in the training part and word for word in a held-out part."""
    compared: int
    """Examples compared for near duplicates: all, or a sample that depends on their ids only."""
    near: int
    """Distinct texts that nearly repeat an earlier one, among those compared."""
    near_leaks: int
    """Distinct held-out texts that nearly repeat a training text, among those compared."""
    pairs: tuple[Pair, ...]
    """The first of them; leaks before others."""
    markup: Mapping[str, int]
    """Kind of markup -> examples that hold it."""
    marked: Mapping[str, tuple[str, ...]]
    """Kind of markup -> ids of the first examples."""
    languages: Mapping[str, int]
    """ISO 639 code, or `unsure` -> examples."""
    rows: int
    """Rows that were looked at, readable or not; 0 where the corpus has no rows."""
    unreadable: int
    """Of these, rows that could not be read and were left out."""
    quarantined: tuple[Quarantined, ...]
    """The first of them, with file, line and reason."""
    read_for_language: int
    """Examples whose language was looked at: all, or a sample."""


def examine(corpus: Corpus) -> Health:
    """Look at every text of a corpus; at a sample for what would take long."""
    whole = [conversation_text(example.turns, None) for example in corpus.examples]
    compared = sample(corpus.examples, MOST)
    pairs = near_pairs(compared)
    across = [pair for pair in pairs if leaks_into(pair)]
    found = texts.marked(["\n\n".join(t.text for t in e.turns) for e in corpus.examples])
    read = sample(corpus.examples, MOST_LANGUAGES)
    return Health(
        examples=len(whole), repeats=len(duplicates.repeats(whole)),
        leaks=leaks(corpus.examples), compared=len(compared), near=len(pairs),
        near_leaks=len(across),
        pairs=tuple([*across, *(p for p in pairs if not leaks_into(p))][:SHOWN]),
        markup={kind: len(indices) for kind, indices in found.items()},
        marked={kind: tuple(corpus.examples[i].id for i in indices[:SHOWN])
                for kind, indices in found.items()},
        languages=languages.languages([" ".join(t.text for t in e.turns) for e in read]),
        rows=corpus.ledger.rows, unreadable=corpus.ledger.unreadable,
        quarantined=tuple(corpus.ledger.quarantined[:SHOWN]),
        read_for_language=len(read),
    )  # fmt: skip


def sample(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many examples, in their order; which ones depends on their ids alone."""
    kept = {example.id for example in hash_order(examples, lambda e: e.id, 0)[:most]}
    return [example for example in examples if example.id in kept]


def leaks(examples: Sequence[Example]) -> int:
    """Texts that stand in the training part and in a held-out part, case and space aside."""
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for example in examples:
        sides[example.split is Split.TRAIN].add(normal(conversation_text(example.turns, None)))
    return len(sides[True] & sides[False])


def near_pairs(examples: Sequence[Example]) -> list[Pair]:
    """Each distinct text with the first that it nearly repeats, training examples first.

    A held-out text is therefore paired with a training text wherever there is one like it.
    """
    ordered = sorted(examples, key=lambda example: example.split is not Split.TRAIN)
    twins = duplicates.near([conversation_text(e.turns, None) for e in ordered])
    return [
        Pair(
            example_id=ordered[t.text].id, split=ordered[t.text].split,
            twin_id=ordered[t.twin].id, twin_split=ordered[t.twin].split,
            similarity=t.similarity,
        )
        for t in twins
    ]  # fmt: skip


def leaks_into(pair: Pair) -> bool:
    """Whether a held-out text nearly repeats a training text."""
    return pair.split is not Split.TRAIN and pair.twin_split is Split.TRAIN
