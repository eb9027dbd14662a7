"""A label head: the student answers by a linear layer over its labels, as sequence classifiers do,
instead of by the labels' words.

The layer stands where the base's output layer stood, so that whatever reads logits reads those of
labels; the labels of all tasks stand one behind the other, and those of one task compete among
themselves alone. It is what transformers' `AutoModelForSequenceClassification` calls `score`: no
bias, drawn from N(0, `initializer_range`), applied to the last state of the prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from whytune import store
from whytune.errors import EncodingError
from whytune.recipe_student import Prompting
from whytune.records import Lesson, Task
from whytune.student.encode import Encoder, Ids
from whytune.student.targets import Part

if TYPE_CHECKING:
    from whytune.student.models import Student

Labels = Mapping[str, Sequence[str]]
"""Task name -> labels: the rows of a head, in their order."""


class LabelHead(torch.nn.Linear):
    """Float32 logits from states of any type, under autocast too."""

    def forward(self, states: Tensor) -> Tensor:  # noqa: D102
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.float(), self.weight)


class HeadEncoder(Encoder):
    """An encoder whose targets are rows of a label head, one a lesson, without an end mark."""

    head: dict[str, tuple[str, ...]]

    def __init__(self, own: Encoder, labels: Labels):
        """`own` is what it reads by; `labels` are the head's rows."""
        super().__init__(own.tokenizer, own.prompting, own.context)
        self.head = {task: tuple(names) for task, names in labels.items()}
        self._rows = [name for names in self.head.values() for name in names]

    def prompted(self, prompting: Prompting) -> "HeadEncoder":
        """As `Encoder.prompted`, with the same head."""
        return HeadEncoder(super().prompted(prompting), self.head)

    def among(self, task: Task) -> range:
        """The rows of a task.

        Raises:
            EncodingError: the head has none for it, or those of other labels.
        """
        first = 0
        for name, labels in self.head.items():
            if name == task.name and labels == task.label_names:
                return range(first, first + len(labels))
            first += len(labels)
        known = "; ".join(f"{name} ({', '.join(labels)})" for name, labels in self.head.items())
        raise EncodingError(
            f"task {task.name} ({', '.join(task.label_names)}): the student's head answers {known}; "
            "ask it what it was taught"
        )

    def labels(self, task: Task) -> dict[str, Ids]:
        """The row of every label of a task, in place of token ids."""
        return {name: (row,) for name, row in zip(task.label_names, self.among(task), strict=True)}

    def said(self, part: Part, ids: Sequence[int], *, special: bool = False) -> str:
        """As `Encoder.said`; rows of the head are named."""
        if part is not Part.LABEL:
            return super().said(part, ids, special=special)
        return " ".join(self._rows[row] for row in ids)

    def _target(self, lesson: Lesson) -> list[tuple[Part, Ids]]:
        # Read as a token, a row says something else; but it stands last, where nobody looks back.
        return [(Part.LABEL, self.labels(lesson.task)[lesson.label])]


def install(student: "Student", labels: Labels, seed: int) -> tuple["Student", str]:
    """Put a fresh head in the place of a base's output layer, untied from its embeddings.

    The seed draws the head alone, so that an adapter starts as it does without one. A cap on the
    base's logits is lifted, as sequence classifiers have none; a factor (Cohere, Granite) stays.

    Args:
        student: base without an adapter; its model is changed in place.
        labels: the rows.
        seed: of their weights.

    Returns:
        The student that answers by the head, and the name of the output layer in its model.
    """
    model: Any = student.model
    own = model.get_output_embeddings()
    name: str = next(name for name, module in model.named_modules() if module is own)
    head = LabelHead(own.weight.shape[1], sum(map(len, labels.values())), bias=False)
    generator = torch.Generator().manual_seed(seed)
    spread = getattr(model.config, "initializer_range", 0.02)
    torch.nn.init.normal_(head.weight, std=spread, generator=generator)
    model.set_output_embeddings(head.to(model.device))
    model.config.tie_word_embeddings = False
    if getattr(model.config, "final_logit_softcapping", None) is not None:
        model.config.final_logit_softcapping = None
    return replace(student, encoder=HeadEncoder(student.encoder, labels)), name


def saved(folder: Path) -> Labels | None:
    """The rows of the head that an adapter folder holds; None without one.

    Raises:
        FolderError: `whytune.json` cannot be read.
    """
    place = folder / "whytune.json"
    found: Labels | None = store.read_json(place).get("head") if place.exists() else None
    return found
