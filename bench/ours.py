"""All contact of the benchmarks with whytune."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cases import SUFFIX, SUPERVISED, Conversation, Ids

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

CONVERSATIONS_PER_PASS = 1
"""Conversations in one forward (and backward) pass, in training and in scoring."""


def student(model: PeftModel) -> Any:
    """A student around a model that is there already; no tokenizer is needed for ids."""
    from whytune.student.models import Base, Student

    if importlib.util.find_spec("whytune.student.fused"):
        from whytune.student import fused

        fused.install(model)
    encoder: Any = SimpleNamespace(end=0)
    return Student(model=model, encoder=encoder, base=Base(name="bench", location="bench"))


def bundles(chosen: list[Conversation]) -> list[Any]:
    """Conversations as whytune's bundles: one prefix, a branch per question."""
    from whytune.student.encode import Branch, Bundle
    from whytune.student.targets import Part

    parts = (Part.PROMPT,) * (SUFFIX - SUPERVISED) + (Part.LABEL,) * SUPERVISED
    return [
        Bundle(prefix=c.prefix, branches=tuple(Branch(ids=q, parts=parts) for q in c.questions))
        for c in chosen
    ]


def token_nll(who: Any, some: list[Any]) -> Tensor:
    """Negative log-likelihoods (nats) of all supervised tokens, in one forward pass."""
    from whytune.student.objective import token_nll

    return token_nll(who, some)


def passes(some: list[Any]) -> list[list[Any]]:
    """Conversations divided into passes."""
    size = CONVERSATIONS_PER_PASS
    return [some[at : at + size] for at in range(0, len(some), size)]


def score(
    who: Any, chosen: list[Conversation], labels: dict[str, Ids]
) -> list[list[dict[str, float]]]:
    """Conversation -> question -> label -> log-probability (nats)."""
    from whytune.student import predict

    tree = predict.LabelTree.of(labels)
    asked = [(c.prefix, [(question, tree) for question in c.questions]) for c in chosen]
    return [found for some in passes(asked) for found in predict.score(who, some)]
