"""What a recipe asks of a labelled corpus, compared with what the corpus can give."""

from collections.abc import Sequence

from whytune.corpora.corpus import About
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Kind, Task
from whytune.tasks import BUILT_IN


def check(name: str, about: About, tasks: Sequence[Task], spec: CorpusSpec) -> str | None:
    """The part that is asked for: the first one without a word, None where there are no parts.

    Raises:
        CorpusError: a task that the corpus does not answer, a part that it does not have, or a
            knob of raw conversations.
    """
    check_tasks(name, about.title, tasks, about.tasks)
    check_knobs(name, about.title, spec)
    if spec.part is None:
        return about.parts[0] if about.parts else None
    if spec.part not in about.parts:
        known = f"one of {', '.join(about.parts)}" if about.parts else "none"
        raise CorpusError(
            f"corpora.{name}.part: found {spec.part!r}, expected {known}; correct it, or leave it "
            "out"
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


def check_knobs(name: str, title: str, spec: CorpusSpec) -> None:
    """Make sure that nothing is asked that labels of one turn cannot give.

    Raises:
        CorpusError: `judged: each`, or `languages`.
    """
    if spec.judged != "last":
        raise CorpusError(
            f"corpora.{name}.judged: found {spec.judged!r}, but the labels of {title} are about the "
            "last turn; leave it out"
        )
    if spec.languages:
        raise CorpusError(
            f"corpora.{name}.languages: found {', '.join(spec.languages)}, but {title} names no "
            "languages; leave it out"
        )
