"""A finished student, ready to be asked: `whytune.load("runs/x").predict(["a text"])`.

Importing this does without torch; `load` needs it.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from whytune import adapter_folder, judge_columns, judge_items, pipeline
from whytune.adapter_folder import Facts
from whytune.errors import InputError, ModelError
from whytune.evidence.calibrate import apply
from whytune.records import Example, Layout, Prediction, Task
from whytune.settings import hint
from whytune.student.targets import EXPLAINS_FIRST

if TYPE_CHECKING:
    from whytune.student.models import Student

BATCH_SIZE = 16
"""Conversations in one forward pass, unless told otherwise."""
CHUNK = 8
"""Batches that are sorted by length at a time; what a stream holds in memory."""


def load(place: str | Path, *, base: str | Path | None = None) -> "Judge":
    """A student as it was taught, ready to be asked.

    Args:
        place: a finished run's folder, an adapter's folder, or the Hub id of one
            (`owner/name[@revision]`).
        base: where its base model lies (folder, alias or Hub id), if not where it did when the
            student was taught.

    Raises:
        FolderError: no finished run and no adapter of whytune's there.
        ModelError: the base cannot be had, has other weights than the one that the student was
            taught on, or reads prompts otherwise; or a Hub id that cannot be had.
        MissingExtraError: torch, transformers or peft is not installed.
    """
    facts = adapter_folder.read(adapter_folder.found(place))
    pipeline.require_torch()
    return Judge(_student(facts, None if base is None else str(base)), facts)


def _student(facts: Facts, base: str | None) -> "Student":
    from whytune.student import models

    try:
        student = models.load(models.find(base or facts.base), facts.prompting, facts.train)
    except ModelError as error:
        if base is not None:
            raise
        raise ModelError(
            f"{facts.folder}: its base model cannot be loaded: {error}; if it lies elsewhere, say "
            "where with `base`"
        ) from None
    if student.base.digest != facts.base_digest:
        raise ModelError(
            f"{facts.folder}: was taught on other weights of {facts.base} (found "
            f"{_short(student.base.digest)} in {student.base.name}, expected "
            f"{_short(facts.base_digest)}); give those as `base`"
        )
    if student.encoder.digest != facts.prompt_digest:
        raise ModelError(
            f"{facts.folder}: the tokenizer or chat template of {student.base.name} renders prompts "
            "otherwise than when the student was taught; give the base with its own tokenizer"
        )
    return models.attach(student, facts.folder)


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


class Judge:
    """A student and how it is asked. Threads may share it: it answers one chunk at a time."""

    def __init__(self, student: "Student", facts: Facts):
        """`load` makes one."""
        self.student = student
        self.facts = facts
        self._lock = Lock()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it was taught, in the order of its answers."""
        return self.facts.tasks

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Task -> its labels; of an ordinal task from the lowest to the highest."""
        return {task.name: task.label_names for task in self.tasks}

    def predict(
        self, items: Iterable[Any], tasks: str | Sequence[str] | None = None, *,
        explain: bool = False, calibrated: bool = True, batch_size: int = BATCH_SIZE,
    ) -> list[Prediction]:  # fmt: skip
        """Answer about all items; the batch size does not change the answers.

        Args:
            items: texts, conversations (each a list of chat messages `{role, content}` or of
                `Turn`s), `Example`s, or a column of pandas or Arrow with such cells.
            tasks: which ones, by name; without it, all that were taught.
            explain: write an explanation after the label, which takes much longer. A student that
                explains before it labels always does.
            calibrated: apply the map that stands with the adapter, if there is one.
            batch_size: conversations in one forward pass.

        Returns:
            One prediction for each item and task: of one task as many as there are items, in their
            order; of several, all about the first item first. It is the same flat list as of
            `iterate`, which as a stream can be no other, and each prediction names its `task`.

        Raises:
            InputError: a task that it was not taught, an explanation though it was taught none, or
                items that cannot be read (by their numbers from 0), before anything is asked.
        """
        asked = self.asked(tasks, explain=explain)
        _check_batch(batch_size)
        examples = judge_items.read(items, self.facts.roles)
        return list(self._answers(iter(examples), asked, explain, calibrated, batch_size))

    def iterate(
        self, items: Iterable[Any], tasks: str | Sequence[str] | None = None, *,
        explain: bool = False, calibrated: bool = True, batch_size: int = BATCH_SIZE,
    ) -> Iterator[Prediction]:  # fmt: skip
        """Like `predict`, of a stream of any length in flat memory: `CHUNK` batches at a time.

        Raises:
            InputError: as `predict`; of an item that cannot be read, when its turn comes.
        """
        asked = self.asked(tasks, explain=explain)
        _check_batch(batch_size)
        judge_items.check(items)
        examples = judge_items.stream(items, self.facts.roles)
        return self._answers(examples, asked, explain, calibrated, batch_size)

    async def apredict(
        self, items: Iterable[Any], tasks: str | Sequence[str] | None = None, *,
        explain: bool = False, calibrated: bool = True, batch_size: int = BATCH_SIZE,
    ) -> list[Prediction]:  # fmt: skip
        """`predict` in a worker thread, so that an event loop goes on meanwhile."""
        return await asyncio.to_thread(
            self.predict, items, tasks, explain=explain, calibrated=calibrated,
            batch_size=batch_size,
        )  # fmt: skip

    def frame(
        self, table: Any, text: str | None = None, *, messages: str | None = None,
        tasks: str | Sequence[str] | None = None, explain: bool = False, calibrated: bool = True,
        batch_size: int = BATCH_SIZE, prefix: str | None = None,
    ) -> Any:  # fmt: skip
        """Answer about every row of a table, and return the table with the answers as columns.

        Rows that cannot be read (no text, NaN, a wrong type) stay where they are, without a label:
        `outcome` says `unreadable`, and `reason` why.

        Args:
            table: a pandas DataFrame or an Arrow table; it is not changed.
            text: the column with texts; without it and `messages`, `text` or else `messages`.
            messages: the column with conversations instead, lists of messages or JSON of such.
            tasks: as in `predict`.
            explain: as in `predict`.
            calibrated: as in `predict`.
            batch_size: as in `predict`.
            prefix: of the new columns' names; without it, none of one task, `<task>_` of several.

        Returns:
            The table with `label`, `outcome`, `expected` (ordinal tasks), `confidence` (probability
            of the label), `label_mass`, `p_<label>`, `explanation` (where asked) and `reason`.

        Raises:
            InputError: no such column, or one of the new ones is there already; or as `predict`.
        """
        asked = self.asked(tasks, explain=explain)
        _check_batch(batch_size)
        rows = judge_columns.cells(table, text, messages)
        names = judge_columns.of(asked, self.explains(explain), prefix)
        judge_columns.refuse_taken([name for name, _ in names], judge_columns.named(table))
        found: list[list[Any]] = []
        for chunk in chunks(iter(rows), CHUNK * batch_size):
            found += (judge_columns.flat(own, asked, self.explains(explain))
                      for own in self.rows(chunk, rows.conversations, asked, explain=explain,
                                           calibrated=calibrated, batch_size=batch_size))  # fmt: skip
        return judge_columns.added(table, names, found)

    def rows(
        self, cells: Sequence[Any], conversations: bool, asked: Sequence[Task], *,
        explain: bool, calibrated: bool = True, batch_size: int = BATCH_SIZE,
    ) -> list[list[judge_columns.Answer]]:  # fmt: skip
        """Answers to the asked tasks about each cell of a column; what cannot be read has none.

        Args:
            cells: the column, or a stretch of it; an exception stands for a cell that could not
                even be had, and says why.
            conversations: whether they hold conversations rather than texts.
            asked: as `asked` gives them.
            explain: as in `predict`.
            calibrated: as in `predict`.
            batch_size: as in `predict`.
        """
        read = [judge_columns.read(cell, conversations, self.facts.roles) for cell in cells]
        examples = [one for one in read if isinstance(one, Example)]
        answers = self._answers(iter(examples), asked, explain, calibrated, batch_size)
        return [
            [judge_columns.Answer.of(next(answers), task) for task in asked]
            if isinstance(one, Example)
            else [judge_columns.Answer(reason=one)] * len(asked)
            for one in read
        ]

    def asked(
        self, tasks: str | Sequence[str] | None = None, *, explain: bool = False
    ) -> tuple[Task, ...]:
        """The tasks of these names; without any, all.

        Raises:
            InputError: one that it was not taught, or an explanation though it was taught none.
        """
        return asked(self.facts, tasks, explain=explain)

    def explains(self, explain: bool) -> bool:
        """Whether answers have explanations."""
        return explains(self.facts, explain)

    def _answers(
        self, examples: Iterator[Example], asked: Sequence[Task], explain: bool, calibrated: bool,
        batch_size: int,
    ) -> Iterator[Prediction]:  # fmt: skip
        from whytune.student.predict import predict

        facts = self.facts
        for chunk in chunks(examples, CHUNK * batch_size):
            with self._lock:
                found = predict(
                    self.student, chunk, asked, facts.layout, known=facts.tasks, explain=explain,
                    batch_size=batch_size, max_new_tokens=facts.max_new_tokens,
                    samples=facts.samples, temperature=facts.temperature,
                )  # fmt: skip
            for at in range(len(chunk)):
                for task in asked:
                    told, fitted = found[task.name][at], facts.calibration.get(task.name)
                    yield apply(fitted, told, task) if calibrated and fitted else told


def asked(
    facts: Facts, tasks: str | Sequence[str] | None = None, *, explain: bool = False
) -> tuple[Task, ...]:
    """`Judge.asked`, before there is a judge."""
    if explain and facts.layout is Layout.LABEL:
        raise InputError(
            f"{facts.folder}: was taught labels alone, so it cannot say why; ask without an "
            "explanation, or teach an arm that has some"
        )
    known = {task.name: task for task in facts.tasks}
    names = list(known) if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)
    for name in names:
        if name not in known:
            raise InputError(
                f"task {name!r}: the student was not taught it; it answers {', '.join(known)}; "
                f"{hint(str(name), known)}"
            )
        if names.count(name) > 1:
            raise InputError(f"task {name!r}: asked twice; name it once")
    if not names:
        raise InputError(f"tasks: found none, expected some of {', '.join(known)}")
    return tuple(known[name] for name in names)


def explains(facts: Facts, explain: bool) -> bool:
    """`Judge.explains`, before there is a judge."""
    return explain or facts.layout in EXPLAINS_FIRST


def _check_batch(size: int) -> None:
    if size < 1:
        raise InputError(f"batch_size: found {size}, expected 1 or more")


def chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """So many at a time, as they come."""
    while chunk := list(islice(items, size)):
        yield chunk
