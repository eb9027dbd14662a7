"""A student's own prompts under the logit lens: how sure it is of a label, block by block.

The row that predicts the label is the last one of the prompt, or of the explanation where that
comes first. A label of several tokens has a row for each of them: its probability at a block is
the product along its path, each token read at its own row and that block, just as `predict`
multiplies the last block's. So the labels compete at every block, also those that begin alike
and differ later, and at the last block the reading is the prediction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from whytune.evidence.readout import Norm
from whytune.evidence.table import Floats
from whytune.evidence.trace import Trace, entropy_among, trace
from whytune.records import Example, Layout, Prediction, Task
from whytune.student.bundle import Node
from whytune.student.encode import Encoder, Ids
from whytune.student.generating import generate
from whytune.student.models import Student
from whytune.student.predict import LabelTree, prediction
from whytune.student.targets import EXPLAINS_FIRST, EXPLAINS_LAST, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What every block says about one example and task; block 0 is the embedding."""

    task: Task
    prediction: Prediction
    """What was scored in the same pass; its explanation is the student's, where one was read."""
    base: bool
    """Read with the adapter switched off, after the words that the student said with it."""
    gold: str | None
    """The reference's label; None where it is not known."""
    log_probs: Floats
    """[block, label] of whole labels among all texts, in nats, in the order of the task."""
    labels: Trace
    """Rows: the one that predicts the label, then those inside labels of several tokens, parents
    before children. Followed at each: the tokens by which labels go on there, in the task's
    order."""
    explanation: Trace | None
    """Rows: those that predict the explanation's tokens, in their order; followed at each: that
    token. None where none was asked for, or nothing was said."""
    firsts: Mapping[str, int]
    """Label -> index of its first token in `labels.tokens[0]`. Labels that begin alike share it."""

    @property
    def label_entropy(self) -> Floats:
        """[block] over the labels, their probabilities scaled to sum to 1; in nats, 0 to
        ln(labels).
        """
        return entropy_among(self.log_probs)


@dataclass(slots=True, kw_only=True)
class _Question:
    """A question about a conversation, while it is read."""

    ids: Ids
    labels: LabelTree
    answer: Ids
    """The question and all that is said to it so far."""
    before: Ids = ()
    """Words that the student said before the label."""
    after: Ids = ()
    """And those after it."""
    read: dict[bool, Trace] = field(default_factory=dict)
    """Whether the adapter was off -> rows of the labels."""
    told: dict[bool, Trace] = field(default_factory=dict)
    """The same -> rows of the explanation."""

    def steps(self) -> list[Ids]:
        """Of each node the tokens by which labels go on, each once."""
        found: list[dict[int, None]] = [{} for _ in range(len(self.labels.nodes) + 1)]
        for path in self.labels.paths.values():
            for node, token in path:
                found[node][token] = None
        return [tuple(own) for own in found]

    def log_probs(self, off: bool) -> Floats:
        """[block, label]"""
        steps, found = self.steps(), self.read[off].log_probs
        return np.stack([
            np.sum([found[:, node, 1 + steps[node].index(token)] for node, token in path], axis=0)
            for path in self.labels.paths.values()
        ], axis=1)  # fmt: skip

    def tell(self, off: bool, rows: Trace) -> None:
        """More rows of the explanation."""
        self.told[off] = self.told[off].joined(rows) if off in self.told else rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """How a student is read."""

    layout: Layout
    norm: Norm
    bases: tuple[bool, ...]
    explanation: bool
    longest: int


def lens(
    student: Student,
    examples: Sequence[Example],
    tasks: Sequence[Task],
    layout: Layout,
    gold: Mapping[str, Mapping[str, str]] | None = None,
    *,
    batch_size: int,
    norm: Norm = "final",
    base: bool = False,
    explanation: bool = False,
    max_new_tokens: int = 80,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Reading]:
    """Read a student's answers block by block; the batch size does not change what is read.

    A student that explains first says its most probable words first. Scoring and lens are one
    pass; `base` takes a second one, `explanation` after a label another.

    Args:
        student: base with or without adapter.
        examples: what to judge.
        tasks: the questions.
        layout: how the student was taught; decides whether it explains before it labels.
        gold: task name -> example id -> the reference's label.
        batch_size: conversations in one forward pass.
        norm: as in `trace`.
        base: read the same prompts with the adapter switched off, too.
        explanation: read every row of the explanation, which the student says as it was taught
            to; a student of labels alone says none.
        max_new_tokens: longest explanation, or half of one, in tokens.
        advance: called with the number of examples done since the last call.

    Returns:
        For each example each task, with the adapter and then without.

    Raises:
        EncodingError: a prompt or label cannot be encoded, as in `predict`.
        EvidenceError: the student's logits are not numbers.
        ModelError: the student cannot be read so, as in `trace`.
    """
    encoder = student.encoder
    how = _How(layout=layout, norm=norm, bases=(False, True) if base else (False,),
               explanation=explanation, longest=max_new_tokens)  # fmt: skip
    labels = [LabelTree.of(encoder.labels(task), encoder.among(task)) for task in tasks]
    prompts = [encoder.prompt(example, tasks) for example in examples]
    asked = [
        [_Question(ids=ids, labels=own, answer=ids)
         for ids, own in zip(prompt.questions, labels, strict=True)]
        for prompt in prompts
    ]  # fmt: skip
    # By length, as in `predict`: little is padded where explanations are generated.
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i].prefix))
    student.model.eval()
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        _read(student, [prompts[i].prefix for i in chosen], [asked[i] for i in chosen], how)
        advance(len(chosen))
    known = gold or {}
    return [
        _reading(encoder, example.id, task, q, off, known.get(task.name, {}).get(example.id))
        for example, own in zip(examples, asked, strict=True)
        for task, q in zip(tasks, own, strict=True)
        for off in how.bases
    ]


def _read(
    student: Student, prefixes: Sequence[Ids], asked: Sequence[Sequence[_Question]], how: _How
) -> None:
    """Let the student say and read what it says about some conversations."""
    separator = student.encoder.separator
    questions = [q for own in asked for q in own]
    if how.layout in EXPLAINS_FIRST:
        written = _written(student, prefixes, asked, how.longest, separator[:1])
        for q, words in zip(questions, written, strict=True):
            q.before = words
            q.answer += words + separator
    forest = []
    for prefix, own in zip(prefixes, asked, strict=True):
        nodes = [Node(ids=prefix)]
        for q in own:
            branch, *inside = q.labels.hang(q.answer, len(nodes))
            words = q.before if how.explanation else ()
            nodes += [replace(branch, wanted=_places(q.ids, words) + branch.wanted), *inside]
        forest.append(nodes)
    told = [len(q.before) if how.explanation else 0 for q in questions]
    follow = [
        ids for q, count in zip(questions, told, strict=True)
        for ids in [*((token,) for token in q.before[:count]), *q.steps()]
    ]  # fmt: skip
    for off in how.bases:
        found, at = trace(student, forest, follow, norm=how.norm, base=off), 0
        for q, count in zip(questions, told, strict=True):
            steps = q.steps()
            if count:
                q.tell(off, found.part(at, at + count, 2))
            at += count
            q.read[off] = found.part(at, at + len(steps), 1 + max(map(len, steps)))
            at += len(steps)
    if how.explanation and how.layout in EXPLAINS_LAST:
        _read_after(student, prefixes, asked, how)


def _read_after(
    student: Student, prefixes: Sequence[Ids], asked: Sequence[Sequence[_Question]], how: _How
) -> None:
    """Let the words after the predicted labels be written, and read their rows."""
    questions = [q for own in asked for q in own]
    for q in questions:
        best = int(q.log_probs(False)[-1].argmax())
        q.answer += q.labels.ids(list(q.labels.paths)[best]) + student.encoder.separator
    written = _written(student, prefixes, asked, how.longest)
    for q, words in zip(questions, written, strict=True):
        q.after = words
    if not any(written):
        return
    forest = [
        [Node(ids=prefix),
         *(Node(ids=q.answer + q.after, parent=0, wanted=_places(q.answer, q.after)) for q in own)]
        for prefix, own in zip(prefixes, asked, strict=True)
    ]  # fmt: skip
    follow = [(token,) for q in questions for token in q.after]
    for off in how.bases:
        found, at = trace(student, forest, follow, norm=how.norm, base=off), 0
        for q in questions:
            if q.after:
                q.tell(off, found.part(at, at + len(q.after)))
            at += len(q.after)


def _written(
    student: Student, prefixes: Sequence[Ids], asked: Sequence[Sequence[_Question]],
    longest: int, stop: Ids = (),
) -> list[Ids]:  # fmt: skip
    """How the student goes on after each answer."""
    begun = [[q.answer for q in own] for own in asked]
    return [ids for own in generate(student, prefixes, begun, longest, stop) for ids in own]


def _places(before: Ids, words: Ids) -> tuple[int, ...]:
    """Where words behind others are predicted."""
    return tuple(range(len(before) - 1, len(before) - 1 + len(words)))


def _reading(
    encoder: Encoder, example: str, task: Task, q: _Question, off: bool, gold: str | None
) -> Reading:
    log_probs = q.log_probs(off)
    said = whole(encoder.decode(q.before), encoder.decode(q.after))
    scored = dict(zip(q.labels.paths, log_probs[-1].tolist(), strict=True))
    first = q.steps()[0]
    return Reading(
        task=task, prediction=prediction(example, task, scored, said or None), base=off,
        gold=gold, log_probs=log_probs, labels=q.read[off], explanation=q.told.get(off),
        firsts={name: 1 + first.index(path[0][1]) for name, path in q.labels.paths.items()},
    )  # fmt: skip
