"""Examples with their splits, and the replies that came with them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

from whytune.corpora import (
    answered,
    feedbackqa,
    gold,
    hub,
    mixed,
    ranges,
    raters,
    sampling,
    splits,
    starter,
    tables,
)
from whytune.corpora.corpus import Corpus, Item, Reading
from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError
from whytune.recipe_data import LOADERS as _NAMES
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Reply, Split, Task
from whytune.settings import hint

__all__ = ["LOADERS", "Corpus", "check_readable", "load", "path_of"]

_OWN = ("starter", "feedbackqa", "mixed")
LOADERS: Mapping[str, str] = {
    name: f"whytune.corpora.{'' if name in _OWN else 'upstream.'}{name}" for name in _NAMES
} | {"table": "whytune.corpora.tables"}
"""Loader -> its module."""

_TAUGHT = ("starter", "feedbackqa", "table")
_REPEATS = "examples repeat another's content and were read as one"
_SHOWN = 3  # quarantined rows in an error


def load(
    name: str, spec: CorpusSpec, tasks: Sequence[Task],
    others: Mapping[str, CorpusSpec] | None = None, *, asked: bool = False,
) -> Corpus:  # fmt: skip
    """Read a corpus, settle its splits, and draw the sample that the recipe asks for.

    The same files, spec and tasks give the same corpus, example by example, on every machine
    and in whatever order the files hold their rows. With a number for train and for test, a
    corpus of any size is read in flat memory.

    Args:
        name: the corpus's name in the recipe; also its loader where `spec.loader` is None.
        spec: what the recipe says about it; `path` already resolved.
        tasks: the recipe's tasks; `spec.task` narrows them to one.
        others: the recipe's corpora, which a mixed one is taken from.
        asked: whether teachers are asked. Then a corpus need not answer every task, and a table
            need not have labels: what is not answered has no gold and no replies.

    Raises:
        CorpusError: files that are not there, not whole or not readable, more unreadable rows than
            `spec.max_unreadable`, a task that the corpus does not answer though nobody is asked, a
            group on both sides of a split, or fewer examples than asked for.
    """
    wanted = _wanted(name, spec, tasks)
    loader = _loader(name, spec)
    if loader == "mixed":
        return mixed.mix(name, spec, _parts_of(name, spec, tasks, others or {}, asked))
    # Where nobody is asked, the loader refuses what it does not answer.
    own = answered.of(wanted, _known(name, spec, loader) if asked else ())
    if loader == "starter":
        found = _whole(name, spec, starter.read(name, own.tasks), own)
    elif loader == "feedbackqa":
        found = _whole(name, spec, feedbackqa.read(name, path_of(name, spec), own.tasks), own)
    elif loader == "table":
        found = _table(name, spec, wanted, asked)
    else:
        found = _release(name, spec, loader, own)
    check_readable(name, spec, found.ledger)
    if loader not in _TAUGHT and all(item.example.split is Split.TEST for item in found.items):
        # A golden set is there to be measured on.
        spec = spec.model_copy(update={"train": spec.train or 0})
    return _corpus(name, spec, found, own.tasks)


def _wanted(name: str, spec: CorpusSpec, tasks: Sequence[Task]) -> tuple[Task, ...]:
    if spec.task is None:
        return tuple(tasks)
    chosen = tuple(task for task in tasks if task.name == spec.task)
    if not chosen:
        known = ", ".join(task.name for task in tasks)
        raise CorpusError(
            f"corpora.{name}.task: found {spec.task!r}, expected one of the recipe's tasks "
            f"({known}); correct it, or add the task to `tasks`"
        )
    return chosen


def _loader(name: str, spec: CorpusSpec) -> str:
    loader = spec.loader or name
    if loader not in LOADERS:
        raise CorpusError(
            f"corpora.{name}.loader: missing, and {name!r} is none; add `loader:` "
            f"({hint(name, list(LOADERS))})"
        )
    return loader


def path_of(name: str, spec: CorpusSpec) -> Path:
    """Where a corpus's files lie; those of the Hub are fetched.

    Raises:
        CorpusError: the recipe does not say, or they cannot be fetched.
    """
    if spec.path is None:
        loader = spec.loader or name
        raise CorpusError(f"corpora.{name}.path: missing; {loader} reads files; set it")
    if spec.path.startswith(hub.PREFIX):
        return hub.fetched(f"corpora.{name}.path", spec.path)
    return Path(spec.path)


def _known(name: str, spec: CorpusSpec, loader: str) -> Sequence[str]:
    """The tasks that a corpus's own labels answer; none of a table, as any may be one's."""
    if loader == "table":
        return ()
    if loader == "starter":
        return starter.TASKS
    module = import_module(LOADERS[loader])
    by_part = getattr(module, "answers", None)
    known: Sequence[str] = (
        by_part(name, path_of(name, spec), spec) if by_part else module.ABOUT.tasks
    )
    return known


def _parts_of(
    name: str, spec: CorpusSpec, tasks: Sequence[Task], others: Mapping[str, CorpusSpec],
    asked: bool,
) -> list[Corpus]:  # fmt: skip
    """The corpora that a mixed one is taken from, each as its own spec says."""
    for other in spec.of:
        if other not in others:
            known = hint(other, [key for key in others if key != name])
            raise CorpusError(
                f"corpora.{name}.of: found {other!r}, which is no corpus of the recipe; {known}"
            )
        if (others[other].loader or other) == "mixed":
            raise CorpusError(
                f"corpora.{name}.of: found {other!r}, which is mixed itself; name the corpora that "
                "it is made of"
            )
    return [load(other, others[other], tasks, asked=asked) for other in spec.of]


def _whole(
    name: str, spec: CorpusSpec, reading: Reading, own: answered.Answered
) -> sampling.Candidates:
    """Everything of a corpus that is in memory already."""
    replies: dict[str, list[Reply]] = defaultdict(list)
    for reply in reading.replies:
        replies[reply.example_id].append(reply)

    def read(sieve: sampling.Sieve) -> Iterator[Item]:
        sieve.ledger.inputs.update(reading.inputs)
        for example in reading.examples:
            sieve.ledger.rows += 1
            if not sieve.wants(example.source):
                continue
            sieve.passes(example.id, example.group, example.split)
            settled = example.id not in reading.unsettled
            yield own.kept(
                Item(example=example, replies=tuple(replies[example.id]), settled=settled)
            )

    found = sampling.candidates(
        name, spec.model_copy(update={"train": None, "test": None}), read,
        lambda _: _merging(partial(raters.as_one, tasks=own.tasks), spec, own.tasks),
        repeats=_REPEATS, drop_torn=False,
    )  # fmt: skip
    return replace(found, notes=(*reading.notes, *found.notes))


def _table(name: str, spec: CorpusSpec, tasks: Sequence[Task], asked: bool) -> sampling.Candidates:
    table = tables.checked(name, path_of(name, spec), tasks, spec.columns, asked=asked)

    def merge(ledger: Ledger) -> sampling.Merge:
        one = partial(raters.of_table, ledger=ledger, file=table.path.name, columns=spec.columns,
                      task=table.task)  # fmt: skip
        whole = _merging(one, spec, tasks)
        return lambda found: whole([tables.item(row, table) for row in found])

    repeats = raters.SAME_TEXT if table.task is None else raters.REPEATS
    return sampling.candidates(
        name, spec, partial(ranges.read, table), merge, repeats=repeats, drop_torn=False
    )


def _release(
    name: str, spec: CorpusSpec, loader: str, own: answered.Answered
) -> sampling.Candidates:
    path = path_of(name, spec)
    module = import_module(LOADERS[loader])

    def read(sieve: sampling.Sieve) -> Iterator[Item]:
        for item in module.read(name, path, own.tasks, spec, sieve.ledger):
            example = item.example
            if sieve.wants(example.source) and sieve.passes(
                example.id, example.group, example.split
            ):
                yield own.kept(item)

    return sampling.candidates(
        name, spec, read,
        lambda _: _merging(partial(raters.as_one, tasks=own.tasks), spec, own.tasks),
        repeats=_REPEATS, drop_torn=True,
    )  # fmt: skip


def _merging(
    one: Callable[[Sequence[Item]], Item | None], spec: CorpusSpec, tasks: Sequence[Task]
) -> raters.Merge:
    """One item of several, settled as strictly as the recipe says."""

    def merge(items: Sequence[Item]) -> Item | None:
        item = one(items)
        if item is None or spec.raters != "all" or not item.example.gold:
            return item
        agreed = all(gold.unanimous(item.replies, task) for task in tasks)
        return item if agreed else replace(item, settled=False)

    return merge


def check_readable(name: str, spec: CorpusSpec, ledger: Ledger) -> None:
    """Whether no more rows were left out than `spec.max_unreadable` allows.

    Raises:
        CorpusError: more were; shows the first.
    """
    if ledger.share <= spec.max_unreadable:
        return
    place = Path(spec.path or "")
    lines = []
    for row in ledger.quarantined[:_SHOWN]:
        root = place.parent if place.name == row.file else place
        lines.append(f"{root / row.place}: {row.reason}")
    raise CorpusError(
        "\n".join(lines) + f"; in all {ledger.unreadable} of {ledger.rows} rows could not be read, "
        f"expected at most {spec.max_unreadable:.2%}; correct them, or raise "
        f"corpora.{name}.max_unreadable to leave them out"
    )


def _corpus(
    name: str, spec: CorpusSpec, found: sampling.Candidates, tasks: Sequence[Task]
) -> Corpus:
    unsettled = frozenset(item.example.id for item in found.items if not item.settled)
    labels = {item.example.id: _label(item, tasks[0]) for item in found.items}
    division = splits.divide(name, [item.example for item in found.items], spec, unsettled, labels)
    examples = tuple(_without_gold(example) for example in division.examples)
    replies = [reply for item in found.items for reply in item.replies]
    return Corpus(
        name=name,
        examples=examples,
        replies=_replies_about(examples, replies),
        inputs=found.ledger.inputs,
        notes=(*found.notes, *found.ledger.notes, *division.notes),
        ledger=found.ledger,
    )


def _label(item: Item, task: Task) -> str:
    """What to stratify by: the label of the first task, where people gave one."""
    reference = item.example.gold.get(task.name) or gold.of_replies(item.replies, task)
    return "" if reference is None else reference.label


def _without_gold(example: Example) -> Example:
    # Gold is what answers are measured against; where nothing is measured it must not be seen.
    return example if example.split is Split.TEST else replace(example, gold={})


def _replies_about(examples: Sequence[Example], replies: Sequence[Reply]) -> tuple[Reply, ...]:
    order = {example.id: index for index, example in enumerate(examples)}
    kept = [reply for reply in replies if reply.example_id in order]
    kept.sort(key=lambda r: (order[r.example_id], r.task, r.teacher, r.prompt))
    return tuple(kept)
