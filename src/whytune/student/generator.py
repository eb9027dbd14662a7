"""A student that says why: its lessons are a text with an answer, and the reason for that answer
(arXiv 2507.00214, stage one).

What it is taught on and what it is asked on is written by one function, `prompt`: the text, the
question where there is one, the answer, and the words that ask for the reason.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whytune.corpora.explained import Explained
from whytune.errors import EncodingError, WorkError
from whytune.recipe import Generator
from whytune.recipe_student import Train
from whytune.records import Example
from whytune.student import train
from whytune.student.continuations import Start, Writer
from whytune.student.encode import Branch, Bundle, Encoder, Ids, Prompt
from whytune.student.models import Student
from whytune.student.objective import token_nll
from whytune.student.targets import Part

WATCHED = 100
"""Held-out lessons that are measured where `train.eval_limit` does not say how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What came of teaching a generator."""

    before: float
    """`reason_nll` on held-out lessons before the first update."""
    after: float
    """The same of the adapter that is kept."""
    history: tuple[dict[str, Any], ...]
    """One row per measurement: step, epoch, train_loss, reason_nll, learning_rate."""
    updates: int
    tokens: int
    """Tokens that went through it, prompts included."""


def prompt(encoder: Encoder, example: Example, question: str | None, answer: str) -> Prompt:
    """What it reads before it says why; a text that is too long loses its middle.

    Raises:
        EncodingError: question and answer leave no room for the text, or the model's limit none for
            a reason.
    """
    asked = [] if question is None else [question]
    words = "\n".join([*asked, f"The answer is: {answer}", "Say why."])
    return encoder.asking(example, {f"example {example.id}": words})


def lesson(encoder: Encoder, explained: Explained) -> Bundle:
    """One lesson, with a proof of its mask: supervised are the reason and the end mark.

    Raises:
        EncodingError: as `prompt`, or this tokenizer cannot write the reason.
    """
    read = prompt(encoder, explained.example, explained.question, explained.answer)
    (question,), reason = read.questions, encoder.text_ids(explained.reason)
    if (found := encoder.decode(reason).strip()) != explained.reason:
        raise EncodingError(
            f"example {explained.example.id}: the supervised reason reads {found[:60]!r}, expected "
            f"{explained.reason[:60]!r}; this tokenizer cannot write it: change the text or the "
            "model"
        )
    parts = (Part.PROMPT,) * len(question) + (Part.EXPLANATION,) * len(reason) + (Part.FRAME,)
    branch = Branch(ids=(*question, *reason, encoder.end), parts=parts)
    bundle = Bundle(prefix=read.prefix, branches=(branch,), cut=read.cut)
    if len(bundle) > encoder.context:
        raise EncodingError(
            f"example {explained.example.id}: {len(bundle)} tokens with its reason, but the model "
            f"reads {encoder.context}; lower prompt.max_length so that the reason fits"
        )
    return bundle


def reason_nll(student: Student, bundles: Sequence[Bundle], size: int) -> float:
    """Mean negative log-likelihood (nats) of a token of the reasons, their end marks included.

    Args:
        student: in any mode; it is left in evaluation.
        bundles: of `lesson`.
        size: bundles in one forward pass.
    """
    student.model.eval()
    with torch.no_grad():
        found = [
            loss for at in range(0, len(bundles), size)
            for loss in token_nll(student, bundles[at : at + size]).tolist()
        ]  # fmt: skip
    return statistics.fmean(found)


def teach(
    student: Student, lessons: Sequence[Explained], held_out: Sequence[Explained],
    settings: Train, *, seed: int, folder: Path,
    advance: Callable[[int, float], None] = lambda step, loss: None,
) -> Taught:  # fmt: skip
    """Teach a generator, in place; goes on from its last checkpoint where there is one.

    Args:
        student: base with a fresh adapter.
        lessons: all that it learns.
        held_out: what it is measured on, as far as `eval_limit` says.
        settings: as for any student.
        seed: draws the order of the lessons and the dropout.
        folder: where checkpoints go.
        advance: as in `train.train`.

    Raises:
        EncodingError: a lesson that cannot be supervised exactly.
        TrainingError: a loss that is not a finite number.
    """
    bundles = [lesson(student.encoder, own) for own in lessons]
    watched = [lesson(student.encoder, own) for own in held_out[: settings.eval_limit or WATCHED]]

    def measured() -> float:
        return reason_nll(student, watched, settings.per_device_train_batch_size)

    before = measured()
    done = train.train(
        student, bundles, settings, seed=seed, folder=folder, advance=advance,
        measure=lambda: {"reason": measured()},
    )  # fmt: skip
    return Taught(
        before=before, after=measured(), updates=done.updates, tokens=done.tokens,
        history=tuple(_renamed(row) for row in done.history),
    )  # fmt: skip


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the training loop, which speaks of labels; there are none here."""
    kept = {name: row[name] for name in ("step", "epoch", "train_loss", "learning_rate")}
    return {**kept, "reason_nll": row["label_nll"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One reason."""

    text: str
    cut: bool
    """It ran into the longest that it may be."""
    tokens: int
    """End mark included."""


def write(
    student: Student, prompts: Sequence[tuple[Ids, int]], settings: Generator
) -> Iterator[list[tuple[int, Written]]]:
    """Say why, batch by batch; shorter prompts first, so that little is padded.

    Args:
        student: the generator, in evaluation.
        prompts: token ids, and the seed of what is drawn behind them.
        settings: the longest reason, the temperature, and how many are written at a time, which
            does not change them.

    Yields:
        (index of the prompt, its reason) of each batch.

    Raises:
        WorkError: the model or its memory failed.
    """
    if not prompts:
        return
    encoder = student.encoder
    writer = Writer(student, [encoder.end])
    size = settings.batch_size if writer.batches else 1
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i][0]), prompts[i]))
    for at in range(0, len(order), size):
        chosen = order[at : at + size]
        starts = [
            Start(ids=ids, temperature=settings.temperature, seed=seed,
                  longest=min(settings.max_new_tokens, encoder.context - len(ids)))
            for ids, seed in (prompts[i] for i in chosen)
        ]  # fmt: skip
        try:
            found = writer.write(starts)
        except RuntimeError as error:
            raise WorkError(
                f"generator: writing failed ({' '.join(str(error).split())[:200]}); what was "
                "written is kept; lower generator.batch_size, or go on with the same command"
            ) from None
        yield [
            (i, Written(text=encoder.decode(one.ids), cut=one.cut, tokens=one.tokens))
            for i, one in zip(chosen, found, strict=True)
        ]  # fmt: skip
