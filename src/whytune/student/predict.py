"""Ask a student: exact label probabilities, and explanations on request.

One forward pass per conversation answers all its questions: each question hangs on the shared
prefix, the proper prefixes of its labels hang on the question, and a label's probability is the
product along its path, for labels of any number of tokens. A student that explains first is
asked for its explanations, then for the labels that follow them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from whytune.records import Example, Kind, Layout, Outcome, Prediction, Task
from whytune.student.bundle import Node, logits, looks_through_window
from whytune.student.encode import Ids, Prompt
from whytune.student.models import Student


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTree:
    """The labels of a task as paths of tokens; a node is a proper prefix of a label."""

    nodes: tuple[Ids, ...]
    """Non-empty proper prefixes, parents before children."""
    paths: dict[str, tuple[tuple[int, int], ...]]
    """Label -> its steps (node, token); node 0 is the prompt, node i + 1 is `nodes[i]`."""

    @classmethod
    def of(cls, labels: dict[str, Ids]) -> "LabelTree":
        """Build it from the token ids of each label."""
        prefixes = {ids[:end] for ids in labels.values() for end in range(1, len(ids))}
        nodes = tuple(sorted(prefixes, key=lambda ids: (len(ids), ids)))
        number = {(): 0, **{ids: index + 1 for index, ids in enumerate(nodes)}}
        paths = {
            name: tuple((number[ids[:at]], ids[at]) for at in range(len(ids)))
            for name, ids in labels.items()
        }
        return cls(nodes=nodes, paths=paths)

    def hang(self, on: Ids, at: int) -> list[Node]:
        """A branch of a trunk with the labels hanging on it; it will have index `at`."""
        number = {(): at, **{prefix: at + 1 + i for i, prefix in enumerate(self.nodes)}}
        branch = Node(ids=on, parent=0, wanted=(len(on) - 1,))
        return [branch, *(
            Node(ids=prefix[-1:], parent=number[prefix[:-1]], wanted=(0,))
            for prefix in self.nodes
        )]  # fmt: skip

    def ids(self, label: str) -> Ids:
        """Token ids of a label."""
        return tuple(token for _, token in self.paths[label])

    def log_probs(self, rows: Tensor) -> dict[str, float]:
        """Label -> log-probability, from the next-token logits (nodes, vocabulary) of one prompt."""
        log_probs = torch.log_softmax(rows, dim=-1)
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
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Prediction]]:
    """Answer all tasks about every example; the batch size does not change the answers.

    Args:
        student: base with or without adapter.
        examples: what to judge.
        tasks: the questions.
        layout: how the student was taught; decides whether it explains before it labels.
        batch_size: conversations in one forward pass.
        max_new_tokens: longest explanation, in tokens.
        explain: generate an explanation after a label too (before it there always is one).
        advance: called with the number of examples done since the last call.

    Returns:
        Task name -> predictions, in the examples' order.
    """
    trees = [LabelTree.of(student.encoder.labels(task)) for task in tasks]
    prompts = [student.encoder.prompt(example, tasks) for example in examples]
    # Sorted by length, so that little is padded where explanations are generated; answers go
    # back to their places.
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i].prefix))
    answers: dict[tuple[str, int], Prediction] = {}
    student.model.eval()
    with torch.no_grad():
        for chosen in _chunks(order, batch_size):
            found = _answer_batch(
                student, trees, [prompts[i] for i in chosen], layout, max_new_tokens, explain
            )
            for i, of_example in zip(chosen, found, strict=True):
                for task, (log_probs, why) in zip(tasks, of_example, strict=True):
                    answers[task.name, i] = prediction(examples[i].id, task, log_probs, why)
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
    forest = []
    for prefix, questions in asked:
        nodes = [Node(ids=prefix)]
        for question, labels in questions:
            nodes += labels.hang(question, len(nodes))
        forest.append(nodes)
    with torch.no_grad():
        rows = logits(student, forest)
    sizes = [len(labels.nodes) + 1 for _, questions in asked for _, labels in questions]
    chunks = iter(rows.split(sizes))
    return [[labels.log_probs(next(chunks)) for _, labels in qs] for _, qs in asked]


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


Answer = tuple[dict[str, float], str | None]


def _answer_batch(
    student: Student, trees: Sequence[LabelTree], prompts: Sequence[Prompt], layout: Layout,
    longest: int, explain: bool,
) -> list[list[Answer]]:  # fmt: skip
    encoder = student.encoder
    prefixes = [prompt.prefix for prompt in prompts]
    asked = [list(prompt.questions) for prompt in prompts]
    why: list[list[str | None]] = [[None] * len(trees) for _ in prompts]
    if layout is Layout.EXPLANATION_LABEL:
        written = generate(student, prefixes, asked, longest, stop=encoder.separator[:1])
        why = [[encoder.decode(w) for w in of_prompt] for of_prompt in written]
        asked = [[q + w + encoder.separator for q, w in zip(*pair, strict=True)]
                 for pair in zip(asked, written, strict=True)]  # fmt: skip
    scored = score(student, [(prefix, list(zip(questions, trees, strict=True)))
                             for prefix, questions in zip(prefixes, asked, strict=True)])  # fmt: skip
    if layout is Layout.LABEL_EXPLANATION and explain:
        begun = [
            [q + tree.ids(max(s, key=lambda name: s[name])) + encoder.separator
             for q, s, tree in zip(questions, found, trees, strict=True)]
            for questions, found in zip(asked, scored, strict=True)
        ]  # fmt: skip
        written = generate(student, prefixes, begun, longest)
        why = [[encoder.decode(w) for w in of_prompt] for of_prompt in written]
    return [list(zip(*pair, strict=True)) for pair in zip(scored, why, strict=True)]


def generate(
    student: Student, prefixes: Sequence[Ids], branches: Sequence[Sequence[Ids]], longest: int,
    stop: Ids = (),
) -> list[list[Ids]]:  # fmt: skip
    """Continue every branch of every prefix greedily; each prefix is read once.

    Args:
        student: who writes, in evaluation.
        prefixes: conversations.
        branches: of each prefix equally many; they begin behind it.
        longest: in tokens.
        stop: tokens that end a text, beside the end token.
    """
    count = len(branches[0])
    ends = {student.encoder.end, *stop}
    config = GenerationConfig(
        max_new_tokens=longest, do_sample=False, eos_token_id=sorted(ends), pad_token_id=student.pad
    )
    with torch.no_grad():
        if count > 1 and student.shares and not looks_through_window(student.model):
            ids, mask, extra = _read_once(student, prefixes, branches)
        else:
            whole = [p + b for p, own in zip(prefixes, branches, strict=True) for b in own]
            (ids, mask), extra = _left_padded(whole, student.pad), {}
        model: Any = student.model  # a PeftModel forwards `generate` in a way no checker sees
        device = model.device
        output = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config,
            **extra,
        )  # fmt: skip
    rows = [_until(row, ends) for row in output[:, ids.shape[1] :].tolist()]
    return [rows[i * count : (i + 1) * count] for i in range(len(prefixes))]


def _read_once(
    student: Student, prefixes: Sequence[Ids], branches: Sequence[Sequence[Ids]]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids and mask of all branches, and the keys and values of their prefixes.

    The padding of the branches stands between prefix and branch, where positions pass over it;
    only a window, which counts places, would be misled.
    """
    model, count = student.model, len(branches[0])
    head, seen = _left_padded(prefixes, student.pad)
    tail, begun = _left_padded([b for own in branches for b in own], student.pad)
    cache = DynamicCache(config=model.config)
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    model(
        input_ids=head.to(model.device), attention_mask=seen.to(model.device), use_cache=True,
        position_ids=positions.to(model.device), past_key_values=cache, logits_to_keep=1,
    )  # fmt: skip
    cache.batch_repeat_interleave(count)
    ids = torch.cat([head.repeat_interleave(count, dim=0), tail], dim=1)
    mask = torch.cat([seen.repeat_interleave(count, dim=0), begun], dim=1)
    return ids, mask, {"past_key_values": cache}


def _left_padded(rows: Sequence[Ids], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, each (rows, longest)."""
    width = max(map(len, rows))
    ids = torch.tensor([(pad,) * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _until(ids: list[int], ends: set[int]) -> Ids:
    end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:end])


def _chunks(order: list[int], size: int) -> Iterator[list[int]]:
    edges = [*range(0, len(order), size), len(order)]
    for start, end in pairwise(edges):
        yield order[start:end]
