"""A transformers model in this process as a teacher: many ask at a time, one thread answers them.

The thread takes what waits, batch by batch. Requests that begin alike, as all questions about one
conversation do (`prompts.render` with order `conversation`), go together, so that what they share
is read once.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Self

import torch

from whytune.errors import TeachingError
from whytune.student.continuations import Start, shared
from whytune.student.encode import Ids
from whytune.student.local_model import LocalModel
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.endpoints import ERROR_LENGTH
from whytune.teaching.requests import Request

_LINGER = 0.05
"""Seconds that a batch with free places waits for one more request."""
_ALIKE = 1 / 3
"""Share of the shorter prompt that two requests of one group begin with. What all prompts begin
with (the template's header, the words before a text) is less, a conversation is more."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Asked:
    """A request on its way."""

    request: Request
    answer: "Future[Answer]" = field(default_factory=Future)
    start: Start | None = None
    """Its prompt, once that is encoded."""
    left: bool = False
    """Nobody waits for the answer any more."""

    @property
    def ids(self) -> Ids:
        """Of the prompt; none before it is encoded."""
        return self.start.ids if self.start else ()


class LocalTeacher:
    """A model in this process (a `teaching.teachers.Teacher`); used once, as `async with`.

    Requests may have the parameters of `local_model.Parameters`; another one is a client's error.
    A batch holds requests that begin alike, or else such as begin like no other that waits. What it
    shares counts as `tokens_cached` of all but the one that it was read for. Models that look
    through a window share nothing, and models with a running state answer one request at a time.

    Args:
        model: alias, folder or Hub id, as in a recipe.
        batch_size: requests that are answered at a time, at most.
        log: told what is being done that takes long.

    Raises:
        TeachingError: a batch size below 1.
    """

    def __init__(
        self, model: str, *, batch_size: int = 8, log: Callable[[str], None] = lambda _: None
    ) -> None:
        if batch_size < 1:
            raise TeachingError(f"teacher {model}: found batch_size {batch_size}, expected 1 or "
                                "more; correct it")  # fmt: skip
        self._name, self._size, self._log = model, batch_size, log
        self._arrived = threading.Condition()
        self._waiting: list[_Asked] = []
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "teacher")
        self._model: Future[LocalModel] | None = None

    async def __aenter__(self) -> Self:
        """Load the model.

        Raises:
            ModelError: it cannot be had, or cannot be asked.
        """
        await self._loaded()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what is being written, and let go of the model."""
        self._closed = True
        await asyncio.to_thread(self._thread.shutdown)
        self._model = None

    async def ask(self, request: Request) -> Answer:
        """Ask once; whatever the model does is an answer.

        Raises:
            ModelError: as when it is entered, where it was not.
        """
        await self._loaded()
        asked = _Asked(request=request)
        with self._arrived:
            self._waiting.append(asked)
            self._arrived.notify()
        self._thread.submit(self._serve)
        try:
            return await asyncio.wrap_future(asked.answer)
        finally:
            asked.left = True

    async def _loaded(self) -> None:
        if self._model is None:
            self._model = self._thread.submit(LocalModel, self._name, self._log)
        # Whoever is cancelled while waiting must not take it from the others.
        await asyncio.shield(asyncio.wrap_future(self._model))

    # What follows runs in the thread.

    def _serve(self) -> None:
        """Answer a batch of those that wait, if any; called once for each request."""
        assert self._model is not None
        model = self._model.result()
        batch = self._take(model)
        for asked, answer in zip(batch, self._answers(model, batch), strict=True):
            asked.answer.set_result(answer)

    def _answers(self, model: LocalModel, batch: Sequence[_Asked]) -> list[Answer]:
        answers = []
        try:
            if not self._closed:
                answers = model.answers([asked.start for asked in batch if asked.start])
        except Exception as error:  # noqa: BLE001 (whatever a model does)
            if isinstance(error, torch.OutOfMemoryError | MemoryError):
                self._size = max(1, len(batch) // 2)
                self._log(
                    f"teacher {self._name}: out of memory; from now on {self._size} at a time"
                )
            model.writer.forget()
            answers = [_failed(Ended.SERVER_ERROR, f"{type(error).__name__}: {error}")] * len(batch)
        if self._closed:  # what was written until then is no answer
            answers = [_failed(Ended.CONNECTION, "the teacher was closed")] * len(batch)
        return answers

    def _take(self, model: LocalModel) -> list[_Asked]:
        """The oldest request and those that go with it; the others wait on."""
        size = self._size if model.writer.batches else 1
        with self._arrived:
            while 0 < len(self._waiting) < size and self._arrived.wait(_LINGER):
                pass
            waiting, self._waiting = self._waiting, []
        encoded = [asked for asked in waiting if asked.start or self._encode(model, asked)]
        batch = _together(encoded, size)
        with self._arrived:
            self._waiting = [asked for asked in encoded if asked not in batch] + self._waiting
        return [asked for asked in batch if asked.answer.set_running_or_notify_cancel()]

    def _encode(self, model: LocalModel, asked: _Asked) -> bool:
        try:
            start = model.start(asked.request)
        except Exception as error:  # noqa: BLE001 (whatever a request or a chat template holds)
            if asked.answer.set_running_or_notify_cancel():
                asked.answer.set_result(_failed(Ended.CLIENT_ERROR, str(error)))
            return False
        asked.start = replace(start, wanted=lambda: not (asked.left or self._closed))
        return True


def _failed(ended: Ended, told: str) -> Answer:
    return Answer(ended=ended, error=" ".join(told.split())[:ERROR_LENGTH])


def _together(waiting: Sequence[_Asked], size: int) -> list[_Asked]:
    """A batch of at most `size`: the first one's group, or where it is alone, all that are."""
    groups: list[list[_Asked]] = []
    # Sorted, each request stands beside the one that begins most like it.
    for asked in sorted(waiting, key=lambda asked: asked.ids):
        last = groups[-1][-1].ids if groups else ()
        if groups and shared([last, asked.ids]) >= _ALIKE * min(len(last), len(asked.ids)):
            groups[-1].append(asked)
        else:
            groups.append([asked])
    group_of = {id(asked): group for group in groups for asked in group}
    alone = [asked for asked in waiting if len(group_of[id(asked)]) == 1]
    chosen = [asked for asked in waiting if group_of[id(asked)] is group_of[id(waiting[0])]]
    if len(chosen) < 2:
        return alone[:size]
    # Twelve are answered as six and six rather than as eight and four.
    return chosen[: ceil(len(chosen) / ceil(len(chosen) / size))]
