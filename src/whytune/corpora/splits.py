"""Who teaches, who is measured: splits by group, and samples that do not depend on file order.

Every order is that of SHA-256 of `seed:key`. A smaller training sample is therefore a part of
a larger one, and the same recipe draws the same examples on every machine.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from whytune.corpora.identity import hash_order
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Split

Stratum = tuple[str, str]
"""(source, label)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The sampled examples, split, in the order training, validation, test."""

    examples: tuple[Example, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Candidates of each part, in hash order."""

    pool: list[Example]
    validation: list[Example] | None
    """None: to be taken out of the pool."""
    test: list[Example]


def divide(
    name: str, examples: Sequence[Example], spec: CorpusSpec, unsettled: frozenset[str],
    labels: Mapping[str, str] | None = None,
) -> Division:  # fmt: skip
    """Settle the split of every example and draw the sample.

    Where the examples have splits of their own, these are kept. Otherwise whole groups go to
    the test part until `spec.test` examples (or `spec.test_share` of the groups) are there; with
    `spec.stratify`, so many of each source and label as their share of all examples.
    Validation is the corpus's own, or whole groups out of the training pool; then `spec.train`
    examples are drawn from what is left of the pool.

    Args:
        name: the corpus, for messages.
        examples: all of them; with a split each, or none with one.
        spec: the numbers asked for.
        unsettled: ids that must not be measured on; left out of the test part and counted.
        labels: id -> label, to stratify by.

    Raises:
        CorpusError: a group on both sides of a split, splits on some examples only, or fewer
            examples than asked for.
    """
    unsplit = sum(example.split is None for example in examples)
    if 0 < unsplit < len(examples):
        raise CorpusError(
            f"corpora.{name}: found {unsplit} of {len(examples)} examples without a split, "
            "expected all or none; fill in the split column, or leave it out"
        )
    strata = {e.id: (e.source, (labels or {}).get(e.id, "")) for e in examples}
    parts = (
        _drawn(name, examples, spec, unsettled, strata)
        if unsplit
        else _native(name, examples, spec)
    )
    left_out = sum(example.id in unsettled for example in parts.test)
    test = [example for example in parts.test if example.id not in unsettled]
    test = _first(name, "test", test, spec.test)
    pool, validation = _validation(name, parts, spec)
    train = _first(name, "train", hash_order(pool, lambda e: e.id, spec.seed), spec.train)
    chosen = (
        *(replace(example, split=Split.TRAIN) for example in train),
        *(replace(example, split=Split.VALIDATION) for example in validation),
        *(replace(example, split=Split.TEST) for example in test),
    )
    check_groups(name, chosen)
    return Division(examples=chosen, notes=_notes(left_out, spec))


def check_groups(name: str, examples: Sequence[Example]) -> None:
    """Make sure that no group stands on both sides of a split.

    Raises:
        CorpusError: a group has examples in two parts; names up to three such groups.
    """
    sides: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        sides[example.group].add(str(example.split))
    torn = sorted(group for group, parts in sides.items() if len(parts) > 1)
    if torn:
        shown = ", ".join(repr(group[:60]) for group in torn[:3])
        raise CorpusError(
            f"corpora.{name}: found {len(torn)} groups on both sides of a split ({shown}"
            f"{', …' if len(torn) > 3 else ''}), expected none; correct the corpus's own "
            "split or its groups, or leave its split out"
        )


def _native(name: str, examples: Sequence[Example], spec: CorpusSpec) -> _Parts:
    check_groups(name, examples)

    def part(split: Split) -> list[Example]:
        chosen = [example for example in examples if example.split is split]
        return hash_order(chosen, lambda e: e.id, spec.seed)

    return _Parts(
        pool=part(Split.TRAIN),
        validation=part(Split.VALIDATION) or None,
        test=part(Split.TEST),
    )


def _drawn(
    name: str, examples: Sequence[Example], spec: CorpusSpec, unsettled: frozenset[str],
    strata: Mapping[str, Stratum],
) -> _Parts:  # fmt: skip
    groups = _groups(examples, spec.seed)
    if len(groups) < 2:
        raise CorpusError(
            f"corpora.{name}: found {len(groups)} groups in {len(examples)} examples, expected two "
            "or more to hold one out; add data, or set columns.group"
        )
    if spec.stratify:
        groups, taken = _stratified(groups, spec, unsettled, strata)
    elif spec.test is not None:
        taken = _reach(groups, spec.test, unsettled)
    else:
        taken = min(max(round(spec.test_share * len(groups)), 1), len(groups) - 1)
    return _Parts(
        pool=[example for group in groups[taken:] for example in group],
        validation=None,
        test=[example for group in groups[:taken] for example in group],
    )


def _stratified(
    groups: Sequence[list[Example]], spec: CorpusSpec, unsettled: frozenset[str],
    strata: Mapping[str, Stratum],
) -> tuple[list[list[Example]], int]:  # fmt: skip
    """The groups, those of the test part first, and how many these are.

    In hash order, a group is taken where it brings the test part nearer to its quotas. Where that
    does not fill it (groups larger than a quota), it goes on in hash order.
    """
    usable = [[strata[e.id] for e in group if e.id not in unsettled] for group in groups]
    pool = Counter(stratum for own in usable for stratum in own)
    wanted = spec.test if spec.test is not None else max(round(spec.test_share * pool.total()), 1)
    open_ = _quotas(pool, wanted)
    taken = []
    for index, own in enumerate(usable):
        gain = sum(
            abs(open_[stratum]) - abs(open_[stratum] - size) for stratum, size in
            Counter(own).items()
        )  # fmt: skip
        if gain > 0:
            open_.subtract(own)
            taken.append(index)
    rest = [index for index in range(len(groups)) if index not in set(taken)]
    ordered = [groups[index] for index in [*taken, *rest]]
    least = 0 if spec.test is None else _reach(ordered, spec.test, unsettled)
    return ordered, min(max(len(taken), least, 1), len(groups) - 1)


def _quotas(pool: Counter[Stratum], wanted: int) -> Counter[Stratum]:
    """How many of each stratum, `wanted` in all: its exact share rounded up or down, up where the
    fraction that rounding down cuts off is largest.
    """
    exact = {stratum: wanted * count / pool.total() for stratum, count in pool.items()}
    quotas = Counter({stratum: int(share) for stratum, share in exact.items()})
    by_fraction = sorted(exact, key=lambda stratum: (quotas[stratum] - exact[stratum], stratum))
    for stratum in by_fraction[: wanted - quotas.total()]:
        quotas[stratum] += 1
    return quotas


def _groups(examples: Sequence[Example], seed: int) -> list[list[Example]]:
    members: dict[str, list[Example]] = defaultdict(list)
    for example in hash_order(examples, lambda e: e.id, seed):
        members[example.group].append(example)
    return [members[group] for group in hash_order(members, lambda g: g, seed)]


def _reach(groups: Sequence[Sequence[Example]], wanted: int, unsettled: frozenset[str]) -> int:
    """How many groups, from the first, hold so many usable examples; all where none do."""
    reached = 0
    for index, group in enumerate(groups):
        if reached >= wanted:
            return index
        reached += sum(example.id not in unsettled for example in group)
    return len(groups)


def _validation(name: str, parts: _Parts, spec: CorpusSpec) -> tuple[list[Example], list[Example]]:
    """The pool without the validation part, and the validation part."""
    if parts.validation is not None:
        wanted = spec.validation or None
        return parts.pool, _first(name, "validation", parts.validation, wanted)
    if not spec.validation:
        return parts.pool, []
    groups = _groups(parts.pool, spec.seed)
    taken = _reach(groups, spec.validation, frozenset())
    validation = [example for group in groups[:taken] for example in group]
    pool = [example for group in groups[taken:] for example in group]
    return pool, _first(name, "validation", validation, spec.validation)


def _first(name: str, part: str, candidates: list[Example], wanted: int | None) -> list[Example]:
    if not candidates and wanted != 0:
        way_out = ", or set train: 0 to measure only" if part == "train" else ""
        raise CorpusError(
            f"corpora.{name}: no examples left for {part}; expected at least one; lower the other "
            f"parts (train, validation, test), add data{way_out}"
        )
    if wanted is not None and wanted > len(candidates):
        raise CorpusError(
            f"corpora.{name}.{part}: asked for {wanted} examples, found {len(candidates)}; set it "
            f"to {len(candidates)} or less, or lower the other parts"
        )
    return candidates[:wanted]


def _notes(unsettled: int, spec: CorpusSpec) -> tuple[str, ...]:
    if not unsettled:
        return ()
    if spec.raters == "all":
        return (f"{unsettled} test examples on which not all raters agree were left out.",)
    return (f"{unsettled} test examples without a strict majority of their raters were left out.",)
