"""Everything that one teacher is to be asked, and how its replies are read.

A question is asked with one request; after a reply that cannot be read it is asked again with
another, which shows the reply. Requests are made of examples, tasks and prompts alone, so that the
same questions find the same replies in a journal, today and next year.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from whytune.errors import TeachingError
from whytune.recipe_teachers import TeacherSpec
from whytune.records import Annotation, Example, Kind, Reply, Task
from whytune.teaching import prompts, replies
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.prompts import Prompt, Rendered
from whytune.teaching.requests import Request

AGAIN = (
    "That could not be read. Answer again: one JSON object and nothing else, with the keys and "
    "values that were asked for, in their order."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a teacher is asked about one example and task with one prompt."""

    request: Request
    task: Task
    label: str | None = None
    """The label, where it is known and only its reason is asked."""

    def read(self, answer: Answer) -> Annotation:
        """What one answer to it, at first or when asked again, says."""
        request = self.request
        reply = Reply(
            example_id=request.example_id, task=request.task, teacher=request.teacher,
            prompt=request.prompt, scale=request.scale,
            text=answer.text or answer.error,
        )  # fmt: skip
        if answer.ended not in (Ended.REPLIED, Ended.REFUSED):
            return replies.failed(reply)
        refused = answer.ended is Ended.REFUSED
        if self.label is not None:
            return replies.read_reason(reply, self.task, self.label, ordered=True, refused=refused)
        return replies.read(reply, self.task, ordered=True, refused=refused)

    def again(self, asked: Request, answer: Answer) -> Request:
        """The request after one whose reply could not be read."""
        said = ({"role": "assistant", "content": answer.text or "…"},
                {"role": "user", "content": AGAIN})  # fmt: skip
        return replace(
            asked, prompt=f"{asked.prompt}, asked again", messages=(*asked.messages, *said)
        )


class Questions(Protocol):
    """All that one teacher is asked; can be walked again and again."""

    def __len__(self) -> int:
        """How many."""

    def __iter__(self) -> Iterator[Question]:
        """One after another."""


class Divisible(Questions, Protocol):
    """Those that can be shared out."""

    def split(self, part: Callable[[Example], int]) -> "Mapping[int, Divisible]":
        """Part -> the questions about its examples; together all of them."""


class Chained:
    """Several of them, one after another."""

    def __init__(self, parts: Sequence[Divisible]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __iter__(self) -> Iterator[Question]:
        for part in self._parts:
            yield from part

    def split(self, part: Callable[[Example], int]) -> "dict[int, Chained]":
        """Part -> the questions about its examples."""
        found: dict[int, list[Divisible]] = defaultdict(list)
        for own in self._parts:
            for number, questions in own.split(part).items():
                found[number].append(questions)
        return {number: Chained(parts) for number, parts in found.items()}


class Votes:
    """What a teacher is asked on its own account; can be walked again and again.

    Args:
        teacher: its name.
        spec: how it is asked.
        examples: about what.
        tasks: all of them about every example.
        samples: task -> label -> a short text that deserves it.

    Raises:
        TeachingError: none of the prompts that were chosen fits a task.
    """

    def __init__(
        self, teacher: str, spec: TeacherSpec, examples: Collection[Example],
        tasks: Sequence[Task], samples: Mapping[str, Mapping[str, str]],
    ) -> None:  # fmt: skip
        self._teacher, self._spec, self._examples = teacher, spec, examples
        self._tasks, self._samples = tasks, samples
        self._prompts = [(task, _fitting(teacher, spec, task, samples)) for task in tasks]

    def __len__(self) -> int:
        return len(self._examples) * sum(len(fitting) for _, fitting in self._prompts)

    def of(self, task: Task) -> int:
        """How many about each example."""
        return sum(len(fitting) for own, fitting in self._prompts if own == task)

    def split(self, part: Callable[[Example], int]) -> "dict[int, Votes]":
        """Part -> the questions about its examples."""
        found: dict[int, list[Example]] = defaultdict(list)
        for example in self._examples:
            found[part(example)].append(example)
        return {
            number: Votes(self._teacher, self._spec, own, self._tasks, self._samples)
            for number, own in found.items()
        }

    def __iter__(self) -> Iterator[Question]:
        """All questions about one conversation one after another: they share their beginning."""
        for example in self._examples:
            for task, fitting in self._prompts:
                for prompt in fitting:
                    rendered = prompts.render(
                        prompt, example, task, order=self._spec.order,
                        samples=self._samples.get(task.name, {}) if prompt.samples else {},
                    )  # fmt: skip
                    yield question(self._teacher, self._spec, example, task, rendered)


def question(
    teacher: str, spec: TeacherSpec, example: Example, task: Task, rendered: Rendered,
    label: str | None = None,
) -> Question:  # fmt: skip
    """A rendered prompt as a question to a teacher."""
    request = Request(
        example_id=example.id, task=task.name, teacher=teacher, prompt=rendered.prompt,
        model=spec.model or teacher, messages=rendered.messages, parameters=spec.parameters,
        schema=rendered.schema if spec.structured else None, scale=rendered.scale,
    )  # fmt: skip
    return Question(request=request, task=task, label=label)


def _fitting(
    teacher: str, spec: TeacherSpec, task: Task, samples: Mapping[str, Mapping[str, str]]
) -> list[Prompt]:
    known = {**prompts.PAPER, **prompts.LABELS}
    if spec.prompts is None:
        own = prompts.LABELS if task.kind is Kind.NOMINAL else prompts.PAPER
        return [p for p in own.values() if not p.samples or samples.get(task.name)]
    chosen = [known[name] for name in spec.prompts if name in known]
    fitting = [p for p in chosen if p.scale is None or task.kind is Kind.ORDINAL]
    if chosen and not fitting:
        raise TeachingError(
            f"teachers.{teacher}.prompts: found {', '.join(spec.prompts)}, none of which fits the "
            f"{task.kind} task {task.name}; add {' or '.join(prompts.LABELS)}"
        )
    for prompt in fitting:
        prompts.check(prompt, task, samples.get(task.name, {}))
    return fitting
