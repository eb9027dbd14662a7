"""Who can be compared: students and baselines, from what the folders of runs and studies hold.

Nothing but those folders is read: no corpus, no model. A folder that is foreign, unfinished or not
whole is named with its file.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pydantic import ValidationError

from whytune import store
from whytune.errors import EvidenceError, FolderError
from whytune.evidence.table import table_of
from whytune.recipe import digest
from whytune.records import Kind, Label, Prediction, Reference, Task
from whytune.study.folder import read_summary
from whytune.study.stored import Row, Stored

Key = tuple[str, str]
"""Corpus and task."""


class Truth(NamedTuple):
    """What an answer is measured against, and what its example must not be parted from."""

    reference: Reference
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one student, or one baseline, answered to one task of one corpus."""

    task: Task
    """Its question is not in these folders, and its name stands there; no figure reads it."""
    reference: str
    """`gold` or `verdict`."""
    predictions: Mapping[str, Prediction]
    """By example."""
    truths: Mapping[str, Truth]
    """By example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """An arm (plain or calibrated) with all its seeds, or a baseline."""

    name: str
    role: Literal["arm", "calibrated", "baseline"]
    place: Path
    """Of a study, or of the (first) run."""
    lineage: str
    """Equal where only corpus, task or seed differ."""
    answers: Mapping[Key, Mapping[int, Answers]]
    """By seed; a baseline has one entry, which holds for any seed."""


def read(paths: Sequence[Path]) -> list[Contestant]:
    """The contestants in the folders of finished studies and runs, with names that tell them apart.

    A study brings its arms and baselines. Runs that are the same but for corpus, task or seed
    (by their recipe.yaml) are one contestant. A name that stands in several folders stays one
    contestant where none of its settings meet (then it is one arm on several corpora); else the
    end of the path is added that tells the folders apart.

    Raises:
        FolderError: a folder that is not there, not finished, or holds something else.
    """
    entered = [one for path in {p.resolve(): p for p in paths}.values() for one in _within(path)]
    by_name: dict[str, list[Contestant]] = {}
    for contestant in _joined(entered):
        by_name.setdefault(contestant.name, []).append(contestant)
    return [one for same in by_name.values() for one in _told_apart(same)]


def _within(path: Path) -> Iterator[Contestant]:
    if not path.is_dir():
        raise FolderError(
            f"{path}: no such folder; expected that of a finished study or run; correct the path"
        )
    if (path / "run.json").exists():
        yield _of_run(path)
    elif (path / "summary.json").exists():
        yield from _of_study(path)
    else:
        raise FolderError(
            f"{path}: found neither summary.json nor run.json, expected a finished study or run; "
            f"finish it with `whytune study`, or give finished runs (such as {path / 'runs'}/…)"
        )


class _Of(Stored):
    """What `run.json` says about one task."""

    kind: Kind
    labels: list[str]
    reference: str


class _Facts(Stored):
    """Of `run.json`, what tells whose answers these are."""

    state: str
    corpus: str
    arm: str
    seed: int
    tasks: dict[str, _Of]


def _of_run(path: Path) -> Contestant:
    facts = _facts(path)
    return Contestant(
        name=facts.arm, role="arm", place=path, lineage=_lineage(path, facts),
        answers={
            (facts.corpus, name): {
                facts.seed: _answers(path, _task(path, name, told.kind, told.labels), told.reference)
            }
            for name, told in facts.tasks.items()
        },
    )  # fmt: skip


def _of_study(path: Path) -> Iterator[Contestant]:
    """One entry for every row of its summary and seed."""
    for row in read_summary(path).rows:
        kind = Kind.ORDINAL if "mse" in row.scorecard.metrics else Kind.NOMINAL
        task = _task(path, row.task, kind, row.scorecard.labels)
        if row.role == "baseline":
            places = {0: path / "baselines" / f"{row.corpus}--{row.task}--{row.name}"}
        else:
            # Calibrated answers stand in a folder within their run's.
            within = row.role == "calibrated"
            runs = [path / run for run in row.runs]
            places = {_facts(run.parent if within else run).seed: run for run in runs}
        for seed, place in places.items():
            answers = {seed: _answers(place, task, row.scorecard.reference)}
            yield _of_row(path, row, answers)


def _of_row(path: Path, row: Row, answers: Mapping[int, Answers]) -> Contestant:
    # An arm may have the name of a baseline.
    place = path / "baselines" if row.role == "baseline" else path
    return Contestant(
        name=row.name, role=row.role, place=place, lineage=str(place.resolve()),
        answers={(row.corpus, row.task): answers},
    )  # fmt: skip


def _facts(run: Path) -> _Facts:
    path = run / "run.json"
    with _reading(path):
        told = store.read_json(path)
        # 0.1.0 taught one task a run, and said everything about it beside its name.
        found = _Facts.model_validate({"tasks": {told.get("task"): told}, **told})
    if found.state != "finished":
        raise FolderError(
            f"{path}: state is {found.state!r}, expected finished; run its study again to finish "
            "it, or leave it out"
        )
    return found


def _task(place: Path, name: str, kind: Kind, labels: Sequence[str]) -> Task:
    with _reading(place):
        named = tuple(Label(name=label) for label in labels)
        return Task(name=name, kind=kind, question=name, labels=named)


def _answers(place: Path, task: Task, reference: str) -> Answers:
    path = place / "predictions.parquet"
    with _reading(path):
        predictions, extra = store.read_predictions(path)
        columns = (extra[name] for name in ("reference_label", "reference_score", "group"))
        rows = [
            (prediction, Truth(Reference(label=label, score=_finite(score)), group))
            for prediction, label, score, group in zip(predictions, *columns, strict=True)
            if prediction.task == task.name and label is not None
        ]
        own = [prediction for prediction, _ in rows]
        truths = {prediction.example_id: truth for prediction, truth in rows}
        if len(truths) < len(own):
            raise ValueError(f"{len(own)} answers about {len(truths)} examples")
        table_of(own, {name: truth.reference for name, truth in truths.items()},
                 {name: truth.group for name, truth in truths.items()}, task)  # fmt: skip
    return Answers(
        task=task, reference=reference, truths=truths,
        predictions={prediction.example_id: prediction for prediction in own},
    )  # fmt: skip


def _finite(score: float | None) -> float | None:
    return None if score is None or math.isnan(score) else score


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever shows that a file is not as whytune wrote it becomes an error that names it."""
    way_out = "expected what whytune wrote there; run its study again, or leave it out"
    try:
        yield
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in fault["loc"]) or "the file"
        raise FolderError(f"{path}: {where}: {fault['msg']}; {way_out}") from None
    except EvidenceError as error:
        raise FolderError(f"{path}: {error}") from None
    except (AttributeError, KeyError, OSError, TypeError, ValueError, yaml.YAMLError) as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise FolderError(f"{path}: cannot be read ({found[:200]}); {way_out}") from None


_THE_CELLS = {"name", "seeds", "evidence"}
"""Of a recipe, what does not change what a student is taught."""


def _lineage(run: Path, facts: _Facts) -> str:
    """Changes with whatever sets two students apart beside their corpora, tasks and seeds."""
    path = run / "recipe.yaml"
    with _reading(path):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        taught = {key: value for key, value in recipe.items() if key not in _THE_CELLS}
        return digest({**taught, "arms": recipe["arms"][facts.arm]})


def _joined(entered: Sequence[Contestant]) -> list[Contestant]:
    """With the settings and seeds of one lineage together; a seed that is there stays apart."""
    found: list[Contestant] = []
    for one in entered:
        same = (one.name, one.role, one.lineage)
        for at, other in enumerate(found):
            if (other.name, other.role, other.lineage) == same and not _cells(other) & _cells(one):
                found[at] = _together([other, one])
                break
        else:
            found.append(one)
    return found


def _cells(contestant: Contestant) -> set[tuple[Key, int]]:
    return {(key, seed) for key, seeds in contestant.answers.items() for seed in seeds}


def _together(some: Sequence[Contestant]) -> Contestant:
    answers: dict[Key, dict[int, Answers]] = {}
    for one in some:
        for key, seeds in one.answers.items():
            answers.setdefault(key, {}).update(seeds)
    return replace(some[0], answers=answers)


def _told_apart(same: Sequence[Contestant]) -> list[Contestant]:
    """Contestants of one name: one, if they never meet; else each with its folder."""
    keys = [key for one in same for key in one.answers]
    if len(set(keys)) == len(keys) and len({one.role for one in same}) == 1:
        return [_together(same)]
    places = [one.place.resolve() for one in same]
    # The study of a run tells more than the run's own name, which ends with one of its seeds.
    homes = [place.parents[1] if place.parent.name == "runs" else place for place in places]
    tails = _tails(homes if len(set(homes)) == len(homes) else places)
    return [
        replace(one, name=f"{one.name} ({tail})") for one, tail in zip(same, tails, strict=True)
    ]


def _tails(places: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other has, without what all end with."""
    parts = [place.parts for place in places]
    while len({own[-1] for own in parts}) == 1 and all(len(own) > 1 for own in parts):
        parts = [own[:-1] for own in parts]
    tails = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = 1
        while any(other[-count:] == own[-count:] for other in others):
            count += 1
        tails.append("/".join(own[-count:]))
    return tails
