"""What a check finds: what is supervised, what it costs, and what state the data is in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from whytune.lint.health import Health
from whytune.lint.texts import Lengths
from whytune.records import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a conversation and its lessons as the student sees them."""

    part: str
    """`prompt`, `label`, `explanation` or `frame`; all but the prompt are supervised."""
    text: str
    branch: int
    """Whose lesson: the index of its branch. The conversation, which all see, begins the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """One real conversation with all its lessons, in pieces."""

    arm: str
    example_id: str
    tasks: tuple[str, ...]
    """What each branch asks. A branch sees the conversation and itself, never another branch."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one arm costs to teach, per student."""

    corpus: str
    arm: str
    task: str
    """What the student learns: a task, or those taught jointly with a plus between."""
    lessons: int
    conversations: int
    """What the lessons are about; each is read once, whatever the number of its lessons."""
    tokens_per_epoch: int
    longest: int
    """Tokens of the longest conversation with all its lessons."""
    cut: int
    """Conversations that lost their middle."""
    supervised: Mapping[str, int]
    """Tokens an epoch by span: `label`, `explanation`, `frame`."""
    passes: float
    """Epochs, as the arm makes them."""
    updates: int
    flops: int
    """Floating point operations of all passes forward and back."""
    seconds: float
    """All epochs, from one timed update."""
    memory: int
    """Bytes that an update holds at most (`effort.memory`)."""
    measuring: float
    """Seconds of answering: the curve's measurements and the test part, from a few examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How long things are to the student, in tokens of its tokenizer."""

    texts: Lengths
    """Conversations without template and question; at most a sample of the examples."""
    cut: int
    """Of these, how many lose their middle to `prompt.max_length`."""
    max_length: int
    """`prompt.max_length`."""
    context: int
    """What the model can read."""
    explanations: Mapping[str, Lengths]
    """Arm -> its explanations; arms without are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a check found about one corpus and task.

    Masks and loads are of whole students; with joint teaching they stand with the last task.
    """

    corpus: str
    task: str
    parts: Mapping[str, int]
    """Split -> examples."""
    labels: Mapping[str, int]
    """Label -> lessons."""
    held_out: Mapping[str, int]
    """Label -> validation and test examples that are measured against it."""
    conflicts: int
    """Texts that stand in the corpus more than once, with different labels."""
    voted: int
    """Examples with two readable labels or more, of raters or of repeated rows."""
    disputed: int
    """Of these, examples whose labels differ."""
    reference: str
    health: Health
    """Of the corpus, the same for all its tasks."""
    tokens: Tokens | None
    """None where no prompt can be made."""
    remarks: tuple[str, ...]
    label_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Label -> its tokens; empty where it cannot be told apart from another."""
    faults: tuple[str, ...] = ()
    masks: tuple[Masked, ...] = ()
    loads: tuple[Load, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The findings about one corpus and task, with what their pictures are drawn from."""

    findings: Findings
    kind: Kind
    labels: tuple[str, ...]
    """Of the task, in its order."""
    answers: Mapping[str, tuple[tuple[str, float | None], ...]]
    """`taught` or `measured` -> (label, score on [0, 1]) of each lesson or reference; no score in
    a nominal task."""
    text_tokens: tuple[int, ...]
    explanation_tokens: Mapping[str, tuple[int, ...]]
    """Arm -> tokens of each explanation."""
    explanations: Mapping[str, tuple[str, ...]]
    """Arm -> explanations; arms without are left out."""
