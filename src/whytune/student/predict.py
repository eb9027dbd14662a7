"""Ask a student: exact label probabilities, and explanations on request.

One forward pass per conversation answers all its questions: each question hangs on the shared
prefix, the proper prefixes of its labels hang on the question, and a label's probability is the
product along its path, for labels of any number of tokens. A student that explains first is
asked for its explanations, then for the labels that follow them; of several explanations of one
answer, the label probabilities are averaged.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from whytune.records import Example, Kind, Layout, Outcome, Prediction, Task
from whytune.student.bundle import Node, chosen_among, logits
from whytune.student.draws import Draws, mixture, seed_of
from whytune.student.encode import Ids
from whytune.student.generating import generate
from whytune.student.models import Student
from whytune.student.targets import EXPLAINS_FIRST, EXPLAINS_LAST, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTree:
    """The labels of a task as paths of tokens; a node is a proper prefix of a label."""

    nodes: tuple[Ids, ...]
    """Non-empty proper prefixes, parents before children."""
    paths: dict[str, tuple[tuple[int, int], ...]]
    """Label -> its steps (node, token); node 0 is the prompt, node i + 1 is `nodes[i]`."""
    among: range | None = None
    """The ids that tokens are chosen from; without it, all."""

    @classmethod
    def of(cls, labels: dict[str, Ids], among: range | None = None) -> "LabelTree":
        """Build it from the token ids of each label."""
        prefixes = {ids[:end] for ids in labels.values() for end in range(1, len(ids))}
        nodes = tuple(sorted(prefixes, key=lambda ids: (len(ids), ids)))
        number = {(): 0, **{ids: index + 1 for index, ids in enumerate(nodes)}}
        paths = {
            name: tuple((number[ids[:at]], ids[at]) for at in range(len(ids)))
            for name, ids in labels.items()
        }
        return cls(nodes=nodes, paths=paths, among=among)

    def hang(self, on: Ids, at: int, parent: int = 0) -> list[Node]:
        """A branch of a node with the labels hanging on it; it will have index `at`."""
        number = {(): at, **{prefix: at + 1 + i for i, prefix in enumerate(self.nodes)}}
        branch = Node(ids=on, parent=parent, wanted=(len(on) - 1,))
        return [branch, *(
            Node(ids=prefix[-1:], parent=number[prefix[:-1]], wanted=(0,))
            for prefix in self.nodes
        )]  # fmt: skip

    def ids(self, label: str) -> Ids:
        """Token ids of a label."""
        return tuple(token for _, token in self.paths[label])

    def log_probs(self, rows: Tensor) -> dict[str, float]:
        """Label -> log-probability, from the next-token logits (nodes, vocabulary) of one prompt."""
        log_probs = torch.log_softmax(chosen_among(rows, [self.among] * len(rows)), dim=-1)
        return {
            name: sum(float(log_probs[node, token]) for node, token in path)
            for name, path in self.paths.items()
        }


def predict(
    student: Student,
    examples: Sequence[Example],
    tasks: Sequence[Task],
    layout: Layout,
    *,
    batch_size: int,
    max_new_tokens: int = 80,
    explain: bool = False,
    samples: int = 1,
    temperature: float = 0.7,
    seed: int = 0,
    known: Sequence[Task] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Prediction]]:
    """Answer all tasks about every example; the batch size does not change the answers.

    With `samples` above 1, a student that explains first draws so many explanations (or first
    halves) of each answer. Label probabilities are averaged over them (`draws.mixture`), and the
    explanation told is the one after which the predicted label is most probable. A forward pass
    then takes so many times fewer conversations, at least one, and no more than `batch_size`
    explanations of a task are written at a time. A student that labels first has one answer, and
    nothing is drawn.

    Args:
        student: base with or without adapter.
        examples: what to judge.
        tasks: the questions.
        layout: how the student was taught; decides whether it explains before it labels.
        batch_size: conversations in one forward pass.
        max_new_tokens: longest explanation, or half of one, in tokens.
        explain: generate an explanation after a label too, or its second half (before a label
            there always is one).
        samples: explanations drawn for each answer; 1: the most probable words, not drawn.
        temperature: of the draws, above 0.
        seed: of the draws, with the example's id, the task's name and the sample's number.
        known: all that the student was taught, where `tasks` are some of it: what is cut out of a
            long conversation makes room for the longest of their questions, asked or not.
        advance: called with the number of examples done since the last call.

    Returns:
        Task name -> predictions, in the examples' order.
    """
    encoder = student.encoder
    trees = [LabelTree.of(encoder.labels(task), encoder.among(task)) for task in tasks]
    known = known or tasks
    prompts = [encoder.prompt(example, known) for example in examples]
    places = [known.index(task) for task in tasks]
    # Sorted by length, so that little is padded where explanations are generated; answers go
    # back to their places.
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i].prefix))
    first = layout in EXPLAINS_FIRST
    how = _How(layout=layout, longest=max_new_tokens, explain=explain,
               samples=samples if first else 1, temperature=temperature, rows=batch_size)  # fmt: skip
    answers: dict[tuple[str, int], Prediction] = {}
    student.model.eval()
    with torch.no_grad():
        for chosen in _chunks(order, max(1, batch_size // how.samples)):
            asked = [
                [_Question(ids=prompts[i].questions[place], labels=tree, ways=[] if first else [()],
                           seeds=[seed_of(seed, examples[i].id, task.name, number)
                                  for number in range(how.samples)])
                 for place, tree, task in zip(places, trees, tasks, strict=True)]
                for i in chosen
            ]  # fmt: skip
            _answer(student, [prompts[i].prefix for i in chosen], asked, how)
            for i, own in zip(chosen, asked, strict=True):
                for task, q in zip(tasks, own, strict=True):
                    answers[task.name, i] = prediction(
                        examples[i].id, task, q.log_probs, q.explanation
                    )
            advance(len(chosen))
    return {task.name: [answers[task.name, i] for i in range(len(examples))] for task in tasks}


Asked = tuple[Ids, Sequence[tuple[Ids, LabelTree]]]
"""A conversation and its questions, each with its labels."""


def score(student: Student, asked: Sequence[Asked]) -> list[list[dict[str, float]]]:
    """Label log-probabilities (nats, among all texts), of every question about every conversation.

    Args:
        student: who is asked, in evaluation.
        asked: run in one forward pass.
    """
    once = [[((),)] * len(questions) for _, questions in asked]
    return [[found for (found,) in own] for own in score_after(student, asked, once)]


def score_after(
    student: Student, asked: Sequence[Asked], words: Sequence[Sequence[Sequence[Ids]]]
) -> list[list[list[dict[str, float]]]]:
    """Like `score`, after words that the student said in answer to each question.

    Args:
        student: who is asked, in evaluation.
        asked: run in one forward pass; conversations and questions are read once.
        words: [conversation][question][way]; empty ones only where there is a single way.

    Returns:
        [conversation][question][way]
    """
    forest: list[list[Node]] = []
    trees: list[LabelTree] = []
    for (prefix, questions), own in zip(asked, words, strict=True):
        nodes = [Node(ids=prefix)]
        for (question, labels), ways in zip(questions, own, strict=True):
            trees += [labels] * len(ways)
            if len(ways) == 1:
                nodes += labels.hang(question + ways[0], len(nodes))
                continue
            parent = len(nodes)
            nodes.append(Node(ids=question, parent=0))
            for way in ways:
                nodes += labels.hang(way, len(nodes), parent)
        forest.append(nodes)
    with torch.no_grad():
        rows = logits(student, forest).split([len(labels.nodes) + 1 for labels in trees])
    found = (labels.log_probs(own) for labels, own in zip(trees, rows, strict=True))
    return [[[next(found) for _ in ways] for ways in own] for own in words]


def prediction(
    example_id: str, task: Task, log_probs: dict[str, float], explanation: str | None = None
) -> Prediction:
    """A prediction from label log-probabilities; unreadable where they are not numbers."""
    # The first is false for NaN too; the second where no label is possible at all.
    if not all(p <= 1e-6 for p in log_probs.values()) or max(log_probs.values()) == -math.inf:
        return Prediction(
            example_id=example_id, task=task.name, outcome=Outcome.UNREADABLE, label=None,
            log_probs={}, explanation=explanation,
        )  # fmt: skip
    read = Prediction(
        example_id=example_id, task=task.name, outcome=Outcome.READ,
        label=max(log_probs, key=lambda name: log_probs[name]), log_probs=log_probs,
        explanation=explanation,
    )  # fmt: skip
    if task.kind is Kind.NOMINAL:
        return read
    probs = read.probs
    expected = sum(p * value for p, value in zip(probs.values(), task.values, strict=True))
    return Prediction(
        example_id=example_id, task=task.name, outcome=read.outcome, label=read.label,
        log_probs=log_probs, expected=expected, explanation=explanation,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """How a student is asked."""

    layout: Layout
    longest: int
    explain: bool
    samples: int
    temperature: float
    rows: int
    """Explanations of one task that are written at a time."""


@dataclass(slots=True, kw_only=True)
class _Question:
    """A question about a conversation, while it is answered."""

    ids: Ids
    labels: LabelTree
    seeds: list[int]
    """Of the explanations to be drawn."""
    ways: list[Ids]
    """What was written before the label, up to it."""
    log_probs: dict[str, float] = field(default_factory=dict)
    answer: Ids = ()
    """The most probable label, and the way that leads to it best."""
    explanation: str | None = None


def _answer(
    student: Student, prefixes: Sequence[Ids], asked: Sequence[Sequence[_Question]], how: _How
) -> None:
    encoder = student.encoder
    if how.layout in EXPLAINS_FIRST:
        _write_ways(student, prefixes, asked, how)
    scored = score_after(
        student,
        [(prefix, [(q.ids, q.labels) for q in own])
         for prefix, own in zip(prefixes, asked, strict=True)],
        [[q.ways for q in own] for own in asked],
    )  # fmt: skip
    for own, of_own in zip(asked, scored, strict=True):
        for q, found in zip(own, of_own, strict=True):
            q.log_probs = mixture(found)
            label = max(q.log_probs, key=lambda name: q.log_probs[name])
            best = max(range(len(found)), key=lambda way: found[way][label])
            q.answer = q.ways[best] + q.labels.ids(label)
            if how.layout in EXPLAINS_FIRST:
                q.explanation = encoder.decode(q.ways[best][: -len(encoder.separator)])
    if how.explain and how.layout in EXPLAINS_LAST:
        begun = [[q.ids + q.answer + encoder.separator for q in own] for own in asked]
        written = generate(student, prefixes, begun, how.longest)
        for own, of_prefix in zip(asked, written, strict=True):
            for q, words in zip(own, of_prefix, strict=True):
                q.explanation = whole(q.explanation or "", encoder.decode(words))


def _write_ways(
    student: Student, prefixes: Sequence[Ids], asked: Sequence[Sequence[_Question]], how: _How
) -> None:
    separator = student.encoder.separator
    for chosen in _chunks(range(how.samples), how.rows):
        draws = None
        if how.samples > 1:
            seeds = [q.seeds[number] for own in asked for q in own for number in chosen]
            draws = Draws(seeds, how.temperature, how.longest)
        branches = [[q.ids for q in own for _ in chosen] for own in asked]
        found = generate(student, prefixes, branches, how.longest, separator[:1], draws)
        for own, of_prefix in zip(asked, found, strict=True):
            rows = iter(of_prefix)
            for q in own:
                q.ways += [next(rows) + separator for _ in chosen]


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    edges = [*range(0, len(order), size), len(order)]
    for start, end in pairwise(edges):
        yield order[start:end]
