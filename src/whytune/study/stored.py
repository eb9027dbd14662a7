"""What the files of a study and its runs say, typed: keys that the page does not need are passed
over.
"""

import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from whytune.records import Kind


def finite(value: Any) -> Any:
    """JSON says null where a figure is not defined; some writers say NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(finite)]
Record = dict[str, Any]
"""A flat row, as it stands in a CSV file."""


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
    """One arm, plain or calibrated, or baseline on one corpus and task, over all its seeds."""

    corpus: str
    task: str
    name: str
    role: Literal["arm", "calibrated", "baseline"]
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
    # What versions before 0.2 did not measure is empty.
    sentences: list[str] = []
    labels: list[Record] = []
    slices: list[Record] = []
    ceilings: list[Record] = []
    calibration: list[Record] = []
    explanations: list[Record] = []
    means: list[Record] = []
    errors: list[Record] = []
    matrix: dict[str, Any] | None = None
    """What `matrix.build` found."""


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
