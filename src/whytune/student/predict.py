"""Ask a student: exact label probabilities, and explanations on request.

One forward pass per prompt gives the probability of every label, of any number of tokens: the
proper prefixes of the labels hang on the prompt as a small tree, and a label's probability is
the product along its path. A student that explains first is asked for its explanation, then
for the label that follows it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from whytune.records import Example, Kind, Layout, Outcome, Prediction, Task
from whytune.student.encode import Ids
from whytune.student.models import Student
from whytune.student.rows import Row, can_share, logits


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

    def row(self, prompt: Ids) -> Row:
        """The prompt with the tree hanging on it, all in one row."""
        tail = tuple(node[-1] for node in self.nodes)
        parents = tuple(self.nodes.index(n[:-1]) if len(n) > 1 else -1 for n in self.nodes)
        wanted = tuple(range(len(prompt) - 1, len(prompt) + len(tail)))
        return Row(trunk=prompt, tail=tail, parents=parents, wanted=wanted)

    def chains(self, prompt: Ids) -> list[Row]:
        """The same nodes as separate sequences, for models that cannot share."""
        return [Row(trunk=prompt + node, wanted=(len(prompt + node) - 1,))
                for node in ((), *self.nodes)]  # fmt: skip

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
    task: Task,
    layout: Layout,
    *,
    batch_size: int,
    max_new_tokens: int = 80,
    explain: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Prediction]:
    """Answer about every example, in their order; the batch size does not change the answers.

    Args:
        student: base with or without adapter.
        examples: what to judge.
        task: the question.
        layout: how the student was taught; decides whether it explains before it labels.
        batch_size: prompts in one forward pass.
        max_new_tokens: longest explanation, in tokens.
        explain: generate an explanation after a label too (before it there always is one).
        advance: called with the number of examples done since the last call.
    """
    tree = LabelTree.of(student.encoder.labels(task))
    answers: dict[int, Prediction] = {}
    prompts = [student.encoder.prompt(example, task).ids for example in examples]
    # Sorted by length, so that little is padded; answers go back to their places.
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i]))
    student.model.eval()
    with torch.no_grad():
        for chosen in _chunks(order, batch_size):
            found = _answer_batch(
                student, tree, [prompts[i] for i in chosen], layout, max_new_tokens, explain
            )
            for i, (log_probs, why) in zip(chosen, found, strict=True):
                answers[i] = prediction(examples[i].id, task, log_probs, why)
            advance(len(chosen))
    return [answers[i] for i in range(len(examples))]


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


def _answer_batch(
    student: Student, tree: LabelTree, prompts: list[Ids], layout: Layout, longest: int,
    explain: bool,
) -> list[tuple[dict[str, float], str | None]]:  # fmt: skip
    encoder = student.encoder
    if layout is Layout.EXPLANATION_LABEL:
        written = generate(student, prompts, longest, stop=encoder.separator[:1])
        prompts = [p + w + encoder.separator for p, w in zip(prompts, written, strict=True)]
        scored = _label_log_probs(student, tree, prompts)
        return [(s, encoder.decode(w)) for s, w in zip(scored, written, strict=True)]
    scored = _label_log_probs(student, tree, prompts)
    if layout is Layout.LABEL or not explain:
        return [(s, None) for s in scored]
    ids = {name: tuple(token for _, token in path) for name, path in tree.paths.items()}
    begun = [p + ids[max(s, key=lambda name: s[name])] + encoder.separator
             for p, s in zip(prompts, scored, strict=True)]  # fmt: skip
    written = generate(student, begun, longest)
    return [(s, encoder.decode(w)) for s, w in zip(scored, written, strict=True)]


def _label_log_probs(
    student: Student, tree: LabelTree, prompts: list[Ids]
) -> list[dict[str, float]]:
    base = student.model
    nodes = len(tree.nodes) + 1
    if not tree.nodes or can_share(base):
        found = logits(base, [tree.row(prompt) for prompt in prompts], student.pad)
    else:
        found = torch.cat([logits(base, tree.chains(p), student.pad) for p in prompts])
    return [tree.log_probs(found[i * nodes : (i + 1) * nodes]) for i in range(len(prompts))]


def generate(student: Student, prompts: Sequence[Ids], longest: int, stop: Ids = ()) -> list[Ids]:
    """Continue each prompt greedily until the end token, a stop token, or `longest` tokens."""
    width = max(map(len, prompts))
    ends = {student.encoder.end, *stop}
    ids = torch.tensor([(student.pad,) * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    device = student.model.device
    config = GenerationConfig(
        max_new_tokens=longest, do_sample=False, eos_token_id=sorted(ends), pad_token_id=student.pad
    )
    model: Any = student.model  # a PeftModel forwards `generate` in a way no checker sees
    with torch.no_grad():
        output = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
        )
    rows = output[:, width:].tolist()
    return [_until(row, ends) for row in rows]


def _until(ids: list[int], ends: set[int]) -> Ids:
    end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:end])


def _chunks(order: list[int], size: int) -> Iterator[list[int]]:
    edges = [*range(0, len(order), size), len(order)]
    for start, end in pairwise(edges):
        yield order[start:end]
