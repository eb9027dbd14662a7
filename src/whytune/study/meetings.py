"""Where contestants meet: the examples that all of them answered, and the seeds that are paired."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whytune.errors import FolderError
from whytune.records import Prediction, Reference
from whytune.study.contestants import Answers, Contestant, Key, Truth

Pairs = list[tuple[Answers, Answers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Contestants on one corpus and task, on the examples that all of them answered."""

    key: Key
    own: Sequence[Contestant]
    """Two or more."""
    ids: list[str]
    """Examples that every seed of every contestant answered."""
    left_out: int
    """Examples that some answered, but not all."""
    references: Mapping[str, Reference]
    groups: Mapping[str, str]

    @property
    def first(self) -> Answers:
        """For what is the same for all of them."""
        return next(iter(self.seeds(self.own[0]).values()))

    def seeds(self, one: Contestant) -> Mapping[int, Answers]:
        """The answers of one of them, by seed."""
        return one.answers[self.key]

    def predictions(self, seeds: Sequence[Answers]) -> list[Prediction]:
        """Seed after seed, so that the k-th answer about an example is the k-th seed's."""
        return [answers.predictions[name] for answers in seeds for name in self.ids]


def meet(key: Key, own: Sequence[Contestant]) -> Meeting:
    """Bring together those who answered one task of one corpus.

    Raises:
        FolderError: they do not answer the same question, were measured against other references,
            or have no example in common.
    """
    where = ", ".join(key)
    tasks = {answers.task: one for one in own for answers in one.answers[key].values()}
    if len(tasks) > 1:
        (task, one), (unlike, other) = list(tasks.items())[:2]
        raise FolderError(
            f"{where}: found {task.kind} labels {', '.join(task.label_names)} of {one.name} in "
            f"{one.place}, {unlike.kind} labels {', '.join(unlike.label_names)} of {other.name} in "
            f"{other.place}; expected the same; leave one of them out"
        )
    truths = _truths(where, key, own)
    sets = [answers.truths.keys() for one in own for answers in one.answers[key].values()]
    ids = [name for name in truths if all(name in answered for answered in sets)]
    if not ids:
        raise FolderError(
            f"{where}: found no example that all of {', '.join(one.name for one in own)} answered, "
            "expected some; leave out those with another test part"
        )
    return Meeting(
        key=key, own=own, ids=ids, left_out=len(truths) - len(ids),
        references={name: truths[name].reference for name in ids},
        groups={name: truths[name].group for name in ids},
    )  # fmt: skip


def _truths(where: str, key: Key, own: Sequence[Contestant]) -> dict[str, Truth]:
    found: dict[str, tuple[Truth, Contestant]] = {}
    for one in own:
        for answers in one.answers[key].values():
            for name, truth in answers.truths.items():
                known, other = found.setdefault(name, (truth, one))
                if known != truth:
                    raise FolderError(
                        f"{where}: example {name}: found {_said(known)} for {other.name} in "
                        f"{other.place}, {_said(truth)} for {one.name} in {one.place}; expected the "
                        "same; compare those that were measured against the same references"
                    )
    return {name: truth for name, (truth, _) in found.items()}


def _said(truth: Truth) -> str:
    reference = truth.reference
    score = "" if reference.score is None else f" ({reference.score:.6g})"
    return f"reference {reference.label!r}{score} in group {truth.group!r}"


def paired(meeting: Meeting, base: Contestant, arm: Contestant) -> tuple[Pairs, str]:
    """The two, seed by seed, and what there is to say about seeds without a partner.

    Two students of one seed began from the same weights and saw the lessons in the same order, so
    seeds are paired by number, and what only one of them has is left out. Where they share none,
    they are paired in their order, as many as the fewer has. A baseline answers alike for every
    seed of the other.
    """
    ours, theirs = meeting.seeds(base), meeting.seeds(arm)
    if "baseline" in (base.role, arm.role):
        return [(one, other) for one in ours.values() for other in theirs.values()], ""
    shared = [(answers, theirs[seed]) for seed, answers in ours.items() if seed in theirs]
    if len(shared) == len(ours) == len(theirs):
        return shared, ""
    pairs = shared or list(zip(ours.values(), theirs.values(), strict=False))
    how = "those that both have" if shared else "in their order, as they share none"
    return pairs, (
        f"{', '.join(meeting.key)}: {base.name} has seeds {_listed(ours)}, {arm.name} "
        f"{_listed(theirs)}; compared on {len(pairs)}: {how}."
    )


def _listed(seeds: Mapping[int, Answers]) -> str:
    return ", ".join(map(str, seeds))
