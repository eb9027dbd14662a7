"""What a finished study folder holds, read once and typed.

The page is built long after the study ran, perhaps on another machine: everything that is read
here is checked, and what is foreign is named with its file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from whytune import store
from whytune.errors import FolderError
from whytune.records import Kind, Prediction

T = TypeVar("T")


def _finite(value: Any) -> Any:
    """JSON says null where a figure is not defined; some writers say NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class Stored(BaseModel):
    """Something a study wrote; keys that the page does not need are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(Stored):
    """A figure with its 95 % interval; None where it is not defined."""

    value: Number = None
    low: Number = None
    high: Number = None


class Card(Stored):
    """A scorecard as JSON."""

    n: int
    unreadable: int
    reference: str
    labels: list[str]
    metrics: dict[str, Interval]


class Row(Stored):
    """One arm or baseline on one corpus and task, over all its seeds."""

    corpus: str
    task: str
    name: str
    role: Literal["arm", "baseline"]
    seeds: list[int] = []
    runs: list[str] = []
    scorecard: Card
    layout: str | None = None
    explanation: str | None = None


class Contrast(Stored):
    """A comparison of two rows, with the sentence that says it."""

    corpus: str
    task: str
    base: str
    arm: str
    metric: str
    difference: Interval
    p: Number = None
    p_holm: Number = None
    """Corrected for the number of comparisons of the figure."""
    detectable: Number = None
    """Difference that 4 of 5 such studies would have found."""
    n: int
    groups: int
    sentence: str


class Agreement(Stored):
    """How far the teachers agreed."""

    corpus: str
    task: str
    examples: int
    teachers: int | list[str]
    votes: int
    unread: int | dict[str, int]
    """Of each outcome, or all together."""
    alpha: Number = None
    pair_agreement: Number = None


class Summary(Stored):
    """`summary.json`: everything but the runs themselves."""

    name: str
    model: str
    command: str
    started: datetime
    seconds: Number = None
    peak_rss_mb: Number = None
    finding: str
    notes: list[str] = []
    versions: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    agreement: list[Agreement] = []
    rows: list[Row]
    comparisons: list[Contrast] = []


class Taught(Stored):
    """What `run.json` says about one task."""

    kind: Kind


class Run(Stored):
    """`run.json`: what one student saw."""

    corpus: str
    task: str
    arm: str
    seed: int
    kind: Kind | None = None
    """Of its one task; a student of several says it in `tasks`."""
    tasks: dict[str, Taught] = {}
    """Every task that it answers; empty in runs of version 0.1.0, which have one."""
    lessons: int
    conversations: int | None = None
    """What the lessons are about; None in runs of version 0.1.0."""
    updates: int
    tokens: dict[str, int | None] = {}
    cut: int = 0
    seconds: dict[str, Number] = {}
    eval_split: str = "test"
    """Where the curve of the label loss is measured."""

    def kind_of(self, task: str) -> Kind | None:
        """What the labels of one of its tasks mean to each other, where it says so."""
        return self.tasks[task].kind if task in self.tasks else self.kind


class Moment(Stored):
    """One measurement during training (`history.jsonl`)."""

    step: int
    epoch: float
    label_nll: Number = None
    """Mean over the student's tasks."""
    label_nlls: dict[str, Number] = {}
    """By task."""


class Said(Stored):
    """A turn as shown."""

    role: str
    text: str


class Marked(Stored):
    """The reference of a shown example."""

    label: str | None = None
    score: Number = None


class Shown(Stored):
    """One example with one student's answer (`examples.json`)."""

    task: str | None = None
    """None in runs of version 0.1.0, which have one."""
    example_id: str
    source: str
    turns: list[Said]
    reference: Marked
    probs: dict[str, float] = {}
    label: str | None = None
    expected: Number = None
    label_mass: Number = None
    explanation: str | None = None
    taught: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A prediction beside its reference."""

    label: str
    """Of the reference."""
    score: float | None
    """Of the reference; None for a nominal task."""
    prediction: Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """One run as seen from one task: what it saw, how its loss fell, what it answered."""

    run: Run
    history: list[Moment]
    examples: list[Shown]
    answers: list[Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One corpus and task: the rows that can be compared, and the students behind the arms."""

    corpus: str
    task: str
    kind: Kind
    rows: list[Row]
    comparisons: list[Contrast]
    students: dict[str, list[Student]]
    """Arm -> one student per seed, in the order of the rows."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks that these students answer; with joint teaching there are others beside this."""
        runs = [student.run for cohort in self.students.values() for student in cohort]
        return tuple(runs[0].tasks) if runs and runs[0].tasks else (self.task,)


def read_summary(folder: Path) -> Summary:
    """The study's own account of itself.

    Raises:
        FolderError: no study was finished here, or something else wrote the file.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise FolderError(
            f"{folder}: no summary.json in it, so no finished study; give the folder that "
            "`whytune study RECIPE` wrote, or run that command to finish it"
        )
    return _checked(TypeAdapter(Summary), store.read_json(path), path)


def parts(folder: Path, summary: Summary) -> Iterator[Part]:
    """The study's corpora and tasks, in the order in which their rows stand.

    Raises:
        FolderError: a run that the summary names is missing or not whole.
    """
    for corpus, task in dict.fromkeys((row.corpus, row.task) for row in summary.rows):
        rows = [row for row in summary.rows if (row.corpus, row.task) == (corpus, task)]
        students = {
            row.name: [_student(folder / run, task) for run in row.runs]
            for row in rows
            if row.role == "arm"
        }
        yield Part(
            corpus=corpus,
            task=task,
            kind=_kind(task, rows, students),
            rows=rows,
            comparisons=[c for c in summary.comparisons if (c.corpus, c.task) == (corpus, task)],
            students=students,
        )


def _kind(task: str, rows: list[Row], students: dict[str, list[Student]]) -> Kind:
    for cohort in students.values():
        for student in cohort:
            if (kind := student.run.kind_of(task)) is not None:
                return kind
    # Only baselines: a squared error exists exactly where labels stand on a scale.
    ordered = any("mse" in row.scorecard.metrics for row in rows)
    return Kind.ORDINAL if ordered else Kind.NOMINAL


def _student(folder: Path, task: str) -> Student:
    record, history, shown = (folder / n for n in ("run.json", "history.jsonl", "examples.json"))
    examples = store.read_json(shown) if shown.exists() else []
    moments = _checked(TypeAdapter(list[Moment]), store.read_jsonl(history), history)
    return Student(
        run=_checked(TypeAdapter(Run), store.read_json(record), record),
        history=[_of_task(moment, task) for moment in moments],
        examples=[
            example
            for example in _checked(TypeAdapter(list[Shown]), examples, shown)
            if example.task in (None, task)
        ],
        answers=_answers(folder / "predictions.parquet", task),
    )


def _of_task(moment: Moment, task: str) -> Moment:
    """The loss on one task alone, where the moment tells it apart."""
    if not moment.label_nlls:
        return moment
    return moment.model_copy(update={"label_nll": moment.label_nlls.get(task)})


def _answers(path: Path, task: str) -> list[Answer]:
    predictions, extra = store.read_predictions(path)
    missing = {"reference_label", "reference_score"} - extra.keys()
    if missing:
        raise FolderError(
            f"{path}: no column {', '.join(sorted(missing))}; expected predictions of a study; "
            "delete the run and start `whytune study` again"
        )
    columns = zip(predictions, extra["reference_label"], extra["reference_score"], strict=True)
    return [
        Answer(label=label, score=_finite(score), prediction=prediction)
        for prediction, label, score in columns
        if prediction.task == task and label is not None
    ]


def _checked(adapter: TypeAdapter[T], content: Any, path: Path) -> T:
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in fault["loc"]) or "the file"
        raise FolderError(
            f"{path}: {place}: {fault['msg']}; not what this version of whytune writes; "
            "run `whytune study` again"
        ) from None
