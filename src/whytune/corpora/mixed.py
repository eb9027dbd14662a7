"""A corpus made of others: equal shares of each, of examples with explanations long enough."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from whytune.corpora.corpus import Corpus
from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Reply, Split

_HELD_OUT = "examples share a group with what another corpus holds out and were left out"
_GIVEN = "examples stand in another corpus, too, and were taken once"


def mix(name: str, spec: CorpusSpec, parts: Sequence[Corpus]) -> Corpus:
    """Equal shares of each part of each corpus, the first ones in their order.

    Examples keep the part in which they stand in their own corpus, so that what one taught on the
    mixture is never measured on what it was taught; training examples whose group is held out by
    another corpus are left out. Where a number cannot be divided, the first corpora give one
    more; without a number for train or test, each gives as many as the one with the fewest.

    Args:
        name: for messages.
        spec: the numbers asked for, and `min_words`.
        parts: the corpora, as the recipe's other entries ask for them.

    Raises:
        CorpusError: a corpus with fewer examples than its share, or an id that stands for
            different texts in two corpora.
    """
    replies = {part.name: _by_example(part.replies) for part in parts}
    fit = {
        part.name: [
            replace(example, source=part.name)
            for example in part.examples
            if _long_enough(replies[part.name].get(example.id, ()), spec.min_words)
        ]
        for part in parts
    }
    ledger = _ledger(parts)
    _check_ids(name, fit)
    _leave_out(fit, ledger)
    asked = {Split.TRAIN: spec.train, Split.VALIDATION: spec.validation, Split.TEST: spec.test}
    chosen = [
        (own, example)
        for split, wanted in asked.items()
        for own, examples in _shares(name, split, wanted, fit, spec).items()
        for example in examples
    ]
    return Corpus(
        name=name,
        examples=tuple(example for _, example in chosen),
        replies=tuple(reply for own, e in chosen for reply in replies[own].get(e.id, ())),
        inputs={f"{part.name}/{file}": h for part in parts for file, h in part.inputs.items()},
        notes=(
            *(f"{part.name}: {note}" for part in parts for note in part.notes),
            *(f"{count} {what}." for what, count in ledger.counts.items()),
        ),
        ledger=ledger,
    )


def _by_example(replies: Sequence[Reply]) -> Mapping[str, Sequence[Reply]]:
    found: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        found[reply.example_id].append(reply)
    return found


def _long_enough(replies: Sequence[Reply], least: int) -> bool:
    """Whether every explanation has so many words, so that the one that is taught has, too."""
    if not least:
        return True
    words = [len(text.split()) for reply in replies if (text := _explanation(reply))]
    return bool(words) and min(words) >= least


def _explanation(reply: Reply) -> str:
    try:
        content = json.loads(reply.text)
    except ValueError:
        return ""
    found = content.get("assessment") if isinstance(content, dict) else None
    return found if isinstance(found, str) else ""


def _ledger(parts: Sequence[Corpus]) -> Ledger:
    """What was looked at in all of them; counts stay with each corpus's notes."""
    whole = Ledger()
    for part in parts:
        whole.rows += part.ledger.rows
        whole.unreadable += part.ledger.unreadable
        whole.quarantined += [
            replace(row, file=f"{part.name}/{row.file}") for row in part.ledger.quarantined
        ]
    return whole


def _leave_out(fit: dict[str, list[Example]], ledger: Ledger) -> None:
    """Drop examples that another corpus holds out (by group), or that one before gives already."""
    examples = [example for own in fit.values() for example in own]
    test = {e.group for e in examples if e.split is Split.TEST}
    validation = {e.group for e in examples if e.split is Split.VALIDATION}
    held_out = {Split.TRAIN: test | validation, Split.VALIDATION: test, Split.TEST: set[str]()}
    given: set[str] = set()
    for name, own in fit.items():
        apart = [e for e in own if e.group not in held_out[e.split or Split.TRAIN]]
        fit[name] = [e for e in apart if e.id not in given]
        given |= {e.id for e in apart}
        ledger.counts[_HELD_OUT] += len(own) - len(apart)
        ledger.counts[_GIVEN] += len(apart) - len(fit[name])
    ledger.counts = +ledger.counts  # without zeros


def _check_ids(name: str, fit: Mapping[str, Sequence[Example]]) -> None:
    first: dict[str, tuple[str, Example]] = {}
    for own, examples in fit.items():
        for example in examples:
            other, before = first.setdefault(example.id, (own, example))
            if before.turns != example.turns:
                raise CorpusError(
                    f"corpora.{name}: id {example.id} stands for one text in {other} and for "
                    f"another in {own}; expected ids that differ; rename one, or leave columns.id "
                    "out"
                )


def _shares(
    name: str, split: Split, wanted: int | None, fit: Mapping[str, Sequence[Example]],
    spec: CorpusSpec,
) -> dict[str, Sequence[Example]]:  # fmt: skip
    there = {own: [e for e in examples if e.split is split] for own, examples in fit.items()}
    if wanted is None:
        wanted = min(map(len, there.values())) * len(there)
        if not wanted:
            poor = next(own for own, examples in there.items() if not examples)
            raise CorpusError(_too_few(name, split, poor, 0, 1, spec))
    shares: dict[str, Sequence[Example]] = {}
    for index, (own, examples) in enumerate(there.items()):
        share = wanted // len(there) + (index < wanted % len(there))
        if share > len(examples):
            raise CorpusError(_too_few(name, split, own, len(examples), share, spec))
        shares[own] = examples[:share]
    return shares


def _too_few(name: str, split: Split, own: str, found: int, share: int, spec: CorpusSpec) -> str:
    long = f" with explanations of {spec.min_words} words" if spec.min_words else ""
    return (
        f"corpora.{name}.{split}: found {found} {split} examples{long} in {own}, expected {share}, "
        f"its share; ask for fewer, lower min_words, or raise corpora.{own}.{split}"
    )
