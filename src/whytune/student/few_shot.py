"""The base model after a few answered examples.

In-context learning as in Brown et al. 2020 (https://arxiv.org/abs/2005.14165, section 2): no
weight changes. What stands before a question is token for token what a student of an arm that
teaches labels alone is taught, lesson after lesson, so that the row differs from that arm only in
how the lessons are used. The lessons are read once in a forward pass, and shared by all that is
asked in it.
"""

import random
from collections.abc import Callable, Sequence
from itertools import chain

import torch

from whytune.errors import EncodingError
from whytune.records import Example, Layout, Lesson, Prediction, Task
from whytune.student.bundle import Node, logits
from whytune.student.encode import Encoder, Ids
from whytune.student.models import Student
from whytune.student.predict import LabelTree, prediction


def choose(lessons: Sequence[Lesson], count: int, seed: int) -> list[Lesson]:
    """Draw the lessons to show: one of each label in turn, the labels in a drawn order and a
    label's lessons at random; the order in which they are shown is drawn, too.

    No example is shown twice, also where several raters answered about it. Recency and label
    balance sway such answers (Zhao et al. 2021, https://arxiv.org/abs/2102.09690, section 4), so
    both are left to chance, never to the corpus's order.

    Args:
        lessons: of one task, in a fixed order.
        count: how many; all examples where there are fewer.
        seed: of the draws.

    Returns:
        Lessons of layout `label`, without explanations.
    """
    draws = random.Random(seed)
    shuffled = draws.sample(list(lessons), len(lessons))
    by_label: dict[str, list[Lesson]] = {}
    for lesson in shuffled:
        by_label.setdefault(lesson.label, []).append(lesson)
    # By label, so that a frequent one is not more likely to come first.
    labels = draws.sample(sorted(by_label), len(by_label))
    chosen: dict[str, Lesson] = {}
    while len(chosen) < count and any(by_label.values()):
        for label in labels:
            left = [one for one in by_label[label] if one.example.id not in chosen]
            if left and len(chosen) < count:
                chosen[left[0].example.id] = left[0]
            by_label[label] = left[1:]
    return [
        Lesson(example=one.example, task=one.task, label=one.label, layout=Layout.LABEL)
        for one in draws.sample(list(chosen.values()), len(chosen))
    ]


def predict(
    student: Student,
    shots: Sequence[Lesson],
    examples: Sequence[Example],
    task: Task,
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Prediction]:
    """Answer a task about every example after the shots; the batch size does not change the answers.

    Args:
        student: the base model.
        shots: of the task, in the order in which they are shown, 1 or more; each is encoded as a
            student is taught it.
        examples: what to judge.
        task: the question.
        batch_size: conversations in one forward pass.
        advance: called with the number of examples done since the last call.

    Returns:
        Predictions, in the examples' order.

    Raises:
        EncodingError: shots and prompt together pass the model's limit.
    """
    encoder = student.encoder
    labels = LabelTree.of(encoder.labels(task))
    bundles = [encoder.bundle([shot], [task]) for shot in shots]
    lessons = [bundle.prefix + bundle.branches[0].ids for bundle in bundles]
    start = _start(encoder, lessons[0])
    trunk = lessons[0] + tuple(chain.from_iterable(ids[start:] for ids in lessons[1:]))
    prompts = [encoder.prompt(example, [task]) for example in examples]
    asked = [(prompt.prefix[start:], prompt.questions[0]) for prompt in prompts]
    longest = max(len(labels.ids(name)) for name in task.label_names)
    for example, (prefix, question) in zip(examples, asked, strict=True):
        total = len(trunk) + len(prefix) + len(question) + longest
        if total > encoder.context:
            raise EncodingError(
                f"example {example.id}: takes {total} tokens with its answer after {len(shots)} "
                f"shots, but the model reads {encoder.context}; lower evidence.shots or "
                "prompt.max_length"
            )
    # Sorted by length, so that passes are alike in size only where texts are.
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][0]))
    answers: dict[int, Prediction] = {}
    student.model.eval()
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        found = _score(student, trunk, [asked[i] for i in chosen], labels)
        for i, log_probs in zip(chosen, found, strict=True):
            answers[i] = prediction(examples[i].id, task, log_probs)
        advance(len(chosen))
    return [answers[i] for i in range(len(examples))]


def _start(encoder: Encoder, lesson: Ids) -> int:
    """Tokens of a lesson that may stand at the beginning of a row only: 1 or 0.

    A template that opens every turn with what the tokenizer calls its start token (SmolLM2's
    `<|im_start|>`) has no such token: it stands before the answer, too.
    """
    token = encoder.tokenizer.bos_token_id
    # Without the end token, which some tokenizers start with as well.
    return int(lesson[0] == token and token not in lesson[1:-1])


def _score(
    student: Student, trunk: Ids, asked: Sequence[tuple[Ids, Ids]], labels: LabelTree
) -> list[dict[str, float]]:
    """Label log-probabilities (nats, among all texts) for each conversation and question, in one
    tree: the trunk, conversations on it, questions on them, labels on those.
    """
    nodes = [Node(ids=trunk)]
    for prefix, question in asked:
        parent = len(nodes)
        nodes.append(Node(ids=prefix, parent=0))
        nodes += labels.hang(question, len(nodes), parent)
    with torch.no_grad():
        rows = logits(student, [nodes]).split(len(labels.nodes) + 1)
    return [labels.log_probs(own) for own in rows]
