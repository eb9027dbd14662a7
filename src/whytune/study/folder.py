"""What a finished study folder holds, read once and typed.

The page is built long after the study ran, perhaps on another machine: everything that is read
here is checked, and what is foreign is named with its file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from whytune import store
from whytune.errors import FolderError
from whytune.records import Kind, Prediction
from whytune.study.stored import Contrast, Moment, Record, Row, Run, Shown, Summary, finite

T = TypeVar("T")


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
    calibrated: dict[str, list[Answer]]
    """Name of a calibrated arm -> the answers of all its seeds."""
    ceiling: Record | None
    """What people score who are held against each other; None where that is not known."""

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
            calibrated={
                row.name: [a for run in row.runs
                           for a in _answers(folder / run / "predictions.parquet", task)]
                for row in rows if row.role == "calibrated"
            },
            ceiling=next((r for r in summary.ceilings
                          if (r["corpus"], r["task"]) == (corpus, task)), None),
        )  # fmt: skip


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
        Answer(label=label, score=finite(score), prediction=prediction)
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
