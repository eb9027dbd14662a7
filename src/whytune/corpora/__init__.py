"""Examples with their splits, and the replies that came with them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from whytune.corpora import feedbackqa, splits, starter, tables
from whytune.corpora.corpus import Corpus, Reading
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Reply, Split, Task

__all__ = ["Corpus", "load"]


def load(name: str, spec: CorpusSpec, tasks: Sequence[Task]) -> Corpus:
    """Read a corpus, settle its splits, and draw the sample that the recipe asks for.

    The same files, spec and tasks give the same corpus, example by example, on every machine
    and in whatever order the files hold their rows.

    Args:
        name: the corpus's name in the recipe; also its loader where `spec.loader` is None.
        spec: what the recipe says about it; `path` already resolved.
        tasks: the recipe's tasks; `spec.task` narrows them to one.

    Raises:
        CorpusError: files that are not there, not whole or not readable, a task that the corpus
            does not answer, a group on both sides of a split, or fewer examples than asked for.
    """
    asked = _asked(name, spec, tasks)
    reading = _read(name, spec, asked)
    division = splits.divide(name, reading.examples, spec, reading.unsettled)
    examples = tuple(_without_gold(example) for example in division.examples)
    return Corpus(
        name=name,
        examples=examples,
        replies=_replies_about(examples, reading.replies),
        inputs=reading.inputs,
        notes=(*reading.notes, *division.notes),
    )


def _asked(name: str, spec: CorpusSpec, tasks: Sequence[Task]) -> tuple[Task, ...]:
    if spec.task is None:
        return tuple(tasks)
    chosen = tuple(task for task in tasks if task.name == spec.task)
    if not chosen:
        known = ", ".join(task.name for task in tasks)
        raise CorpusError(
            f"corpora.{name}.task: found {spec.task!r}, expected one of the recipe's tasks "
            f"({known}); correct it, or add the task to `tasks`"
        )
    return chosen


def _read(name: str, spec: CorpusSpec, tasks: Sequence[Task]) -> Reading:
    loader = spec.loader or name
    if loader == "starter":
        return starter.read(name, tasks)
    if loader not in ("feedbackqa", "table"):
        raise CorpusError(
            f"corpora.{name}.loader: missing, and {name!r} is none; add "
            "`loader: starter | feedbackqa | table`"
        )
    if spec.path is None:
        raise CorpusError(f"corpora.{name}.path: missing; {loader} reads files; set it")
    if loader == "feedbackqa":
        return feedbackqa.read(name, Path(spec.path), tasks)
    return tables.read(name, Path(spec.path), spec.columns, tasks)


def _without_gold(example: Example) -> Example:
    # Gold is what answers are measured against; where nothing is measured it must not be seen.
    return example if example.split is Split.TEST else replace(example, gold={})


def _replies_about(examples: Sequence[Example], replies: Sequence[Reply]) -> tuple[Reply, ...]:
    order = {example.id: index for index, example in enumerate(examples)}
    kept = [reply for reply in replies if reply.example_id in order]
    kept.sort(key=lambda r: (order[r.example_id], r.task, r.teacher, r.prompt))
    return tuple(kept)
