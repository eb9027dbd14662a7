"""The records that flow between the stages.

Data only: frozen, keyword-only, and impossible to make wrong. Knows nothing of files, models
or prompts. A record that breaks its own rule raises ValueError; the stage that reads foreign
data turns it into an error that names the place.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Split(StrEnum):
    """What an example is for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Outcome(StrEnum):
    """How a reply ended. Only READ carries a label; the others are counted, never imputed."""

    READ = "read"
    UNREADABLE = "unreadable"
    REFUSED = "refused"
    FAILED = "failed"


class Kind(StrEnum):
    """What the labels of a task mean to each other."""

    ORDINAL = "ordinal"
    NOMINAL = "nominal"


class Layout(StrEnum):
    """What a target says, in its order."""

    LABEL = "label"
    LABEL_EXPLANATION = "label, explanation"
    EXPLANATION_LABEL = "explanation, label"
    BOTH_SIDES = "explanation, label, explanation"
    """The first half of the explanation's words, the label, and the other half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One answer of a task."""

    name: str
    """As the student writes it: one line, not empty, no space at its ends."""
    definition: str = ""
    """When to give it; empty where the name says it all."""

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip() or len(self.name.splitlines()) != 1:
            raise ValueError(
                f"label {self.name!r}: expected one line of text without space at its ends"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question with its labels."""

    name: str
    kind: Kind
    question: str
    """What is asked about the text, definition included."""
    labels: tuple[Label, ...]
    """At least two; of an ordinal task from the lowest to the highest."""

    def __post_init__(self) -> None:
        names = self.label_names
        if len(names) < 2:
            raise ValueError(f"task {self.name}: {len(names)} labels, expected two or more")
        if len(set(names)) < len(names):
            raise ValueError(f"task {self.name}: a label stands twice in {', '.join(names)}")
        if not self.question.strip():
            raise ValueError(f"task {self.name}: an empty question")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, in their order."""
        return tuple(label.name for label in self.labels)

    @property
    def values(self) -> tuple[float, ...]:
        """The labels of an ordinal task on [0, 1], evenly spaced from lowest to highest."""
        return tuple(index / (len(self.labels) - 1) for index in range(len(self.labels)))

    def value(self, label: str) -> float | None:
        """Where a label stands on [0, 1]; None for a nominal task."""
        if self.kind is Kind.NOMINAL:
            return None
        return self.values[self.label_names.index(label)]

    def nearest(self, score: float) -> str:
        """The label of an ordinal task nearest to a score on [0, 1].

        A score halfway between two labels goes to the one nearer the middle of the scale,
        so that rounding never makes a verdict more extreme than the votes were.
        """
        values = self.values
        index = min(
            range(len(values)),
            key=lambda i: (round(abs(values[i] - score), 9), abs(values[i] - 0.5)),
        )
        return self.labels[index].name


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """`user`, `assistant`, or any other speaker; `text` for a single text."""
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError(f"an empty turn ({self.role})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What an answer is measured against."""

    label: str
    score: float | None = None
    """On [0, 1]: the mean of the raters where they are known, else the label's own value; None
    for a nominal task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One text or conversation; the last turn is the one to be judged."""

    id: str
    source: str
    """Where it comes from inside its corpus (a domain, a style); figures can be cut by it."""
    group: str
    """What must not stand on both sides of a split (a question, a conversation)."""
    turns: tuple[Turn, ...]
    split: Split | None = None
    """None: the corpus has no split of its own."""
    gold: Mapping[str, Reference] = field(default_factory=dict)
    """Task name -> what people said; never shown to a teacher or a student."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"example {self.id}: no turns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a teacher (a model or a person) said about one example and task, unedited."""

    example_id: str
    task: str
    teacher: str
    prompt: str
    """Name of the prompt, or how people were asked."""
    text: str
    """JSON with `score` (a number on `scale`) or `label` (one of the task's), and optionally
    `assessment` and `confidence`, as the teacher gave it."""
    scale: tuple[float, float] | None = None
    """Lowest and highest score of the prompt; None where labels are asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What could be read from one reply."""

    example_id: str
    task: str
    teacher: str
    prompt: str
    reply: str
    """Unedited; everything below is read from it, and can be read again."""
    outcome: Outcome
    score: float | None = None
    """On [0, 1]; of a nominal task None."""
    label: str | None = None
    """The task's label: chosen by the teacher, or nearest to the score."""
    assessment: str | None = None
    """Why this score."""
    confidence: str | None = None
    """How sure, and why."""

    def __post_init__(self) -> None:
        if (self.outcome is Outcome.READ) != (self.label is not None):
            raise ValueError(
                f"annotation of {self.example_id} by {self.teacher}: outcome {self.outcome} "
                f"with label {self.label!r}; a label stands exactly where the reply was read"
            )
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(
                f"annotation of {self.example_id} by {self.teacher}: score {self.score}, "
                "expected 0 to 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the ensemble of teachers says about one example and task."""

    example_id: str
    task: str
    label: str | None
    """None where nothing could be read, or where the votes of a nominal task tie."""
    score: float | None
    """Mean score on [0, 1]; None for a nominal task or without a readable reply."""
    shares: Mapping[str, float]
    """Label -> share of the readable votes; sums to 1, empty without votes."""
    votes: int
    """Readable replies."""
    unread: int = 0
    """Replies that could not be read, were refused or failed."""
    agreement: float | None = None
    """Over all pairs of votes: mean of 1 - |difference of scores| (ordinal) or share of equal
    labels (nominal); 0 to 1; None with fewer than two votes."""
    assessment: str | None = None
    confidence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a student is taught: an example, a task, the label, and the arm's explanation."""

    example: Example
    task: Task
    label: str
    layout: Layout
    explanation: str | None = None
    """None exactly where the layout is `label`."""

    def __post_init__(self) -> None:
        if self.label not in self.task.label_names:
            raise ValueError(
                f"lesson {self.example.id}: label {self.label!r} is none of {self.task.name}'s "
                f"({', '.join(self.task.label_names)})"
            )
        if (self.layout is Layout.LABEL) != (self.explanation is None):
            raise ValueError(
                f"lesson {self.example.id}: layout {self.layout!r} with "
                f"{'no' if self.explanation is None else 'an'} explanation"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A student's (or a baseline's) answer about one example and task."""

    example_id: str
    task: str
    outcome: Outcome
    label: str | None
    """The most probable label; ties go to the first in the task's order."""
    log_probs: Mapping[str, float]
    """Label -> log-probability (nats) of its whole token sequence among all texts, not among
    labels; empty where the answerer gives no probabilities."""
    expected: float | None = None
    """Sum of probability x value over the labels, on [0, 1]; None for a nominal task."""
    explanation: str | None = None
    """What the student generated; None where it was not asked."""

    def __post_init__(self) -> None:
        if (self.outcome is Outcome.READ) != (self.label is not None):
            raise ValueError(
                f"prediction {self.example_id}: outcome {self.outcome} with label {self.label!r}"
            )

    @property
    def label_mass(self) -> float | None:
        """Probability that the answer is any label at all, 0 to 1; None without probabilities."""
        if not self.log_probs:
            return None
        return math.fsum(math.exp(value) for value in self.log_probs.values())

    @property
    def probs(self) -> dict[str, float]:
        """Label -> probability among the labels; sums to 1, empty without probabilities."""
        if not self.log_probs:
            return {}
        top = max(self.log_probs.values())
        odds = {name: math.exp(value - top) for name, value in self.log_probs.items()}
        total = math.fsum(odds.values())
        return {name: value / total for name, value in odds.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its interval. Not-a-number where it is not defined on these predictions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """How predictions compare with their references."""

    n: int
    """Examples, unreadable ones included."""
    unreadable: int
    """Predictions without a label; wrong for the accuracy, absent from the other figures."""
    reference: str
    """`gold` (people) or `verdict` (the teachers)."""
    labels: tuple[str, ...]
    metrics: Mapping[str, Estimate]
    confusion: tuple[tuple[int, ...], ...]
    """[reference label][predicted label], in the order of `labels`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two arms on the same examples: what changing from `base` to `arm` does to a figure."""

    base: str
    arm: str
    metric: str
    difference: Estimate
    """arm - base, with its interval."""
    p: float
    """Two-sided: of one seed from a permutation test over groups, of several that of the interval."""
    n: int
    groups: int
    seeds: int = 1
    """How many seeds the interval generalises from; with 1 it speaks about no other seed."""
    detectable: float | None = None
    """The true difference that four of five such studies would find at 5 %; None where unknown."""
    p_holm: float | None = None
    """p corrected for all settings of a study; None where it was not, or nothing was tested."""
