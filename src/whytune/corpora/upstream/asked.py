"""What a recipe asks of a release, compared with what the release can give."""

from collections.abc import Sequence

from whytune.corpora.corpus import About
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Kind, Task
from whytune.tasks import BUILT_IN


def check(name: str, about: About, tasks: Sequence[Task], spec: CorpusSpec) -> str:
    """The part that is asked of a release that names no languages, as `part`.

    Raises:
        CorpusError: languages, or a part that the release does not have; of a labelled one a task
            that it does not answer, or `judged: each`, as its labels are about the last turn.
    """
    if about.tasks:
        check_tasks(name, about.title, tasks, about.tasks)
        if spec.judged != "last":
            raise CorpusError(
                f"corpora.{name}.judged: found {spec.judged!r}, but the labels of {about.title} "
                "are about the last turn; leave it out"
            )
    if spec.languages:
        raise CorpusError(
            f"corpora.{name}.languages: found {', '.join(spec.languages)}, but {about.title} names "
            "no languages; leave it out"
        )
    return part(name, about, spec)


def part(name: str, about: About, spec: CorpusSpec) -> str:
    """The part that is asked for: the first one without a word, "" where there are no parts.

    Raises:
        CorpusError: a part that the release does not have.
    """
    if spec.part is None:
        return next(iter(about.parts), "")
    if spec.part not in about.parts:
        parts = ", ".join(about.parts)
        known = f"expected one of {parts}" if parts else f"but {about.title} has no parts"
        raise CorpusError(
            f"corpora.{name}.part: found {spec.part!r}, {known}; correct it, or leave it out"
        )
    return spec.part


def check_tasks(name: str, title: str, tasks: Sequence[Task], known: Sequence[str]) -> None:
    """Make sure that a corpus answers every task, by name.

    Raises:
        CorpusError: it does not answer one.
    """
    for task in tasks:
        if task.name not in known:
            raise CorpusError(
                f"corpora.{name}: found task {task.name!r}, but {title} answers "
                f"{', '.join(known)}; drop it from `tasks`, or set corpora.{name}.task to one it "
                "answers"
            )


def check_labels(name: str, tasks: Sequence[Task]) -> None:
    """Make sure that tasks have the labels of the built-in ones of their names.

    Raises:
        CorpusError: one has others, so that upstream's labels would not be read.
    """
    for task in tasks:
        expected = BUILT_IN[task.name].label_names
        if set(task.label_names) != set(expected):
            raise CorpusError(
                f"corpora.{name}: found task {task.name!r} with the labels "
                f"{', '.join(task.label_names)}, expected {', '.join(expected)}; use the built-in "
                "task, or give yours another name"
            )


def check_ordinal(name: str, tasks: Sequence[Task]) -> None:
    """Make sure that scores can become labels.

    Raises:
        CorpusError: a task whose labels have no order.
    """
    for task in tasks:
        if task.kind is Kind.NOMINAL:
            raise CorpusError(
                f"corpora.{name}: found task {task.name!r} with labels without an order, but the "
                "corpus gives scores; make it ordinal, or use the built-in task"
            )
