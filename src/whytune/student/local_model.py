"""A loaded model and what is asked of it: its chat template, its parameters, its end tokens."""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError
from transformers import GenerationConfig

from whytune.errors import EncodingError, ModelError
from whytune.recipe_student import Prompting
from whytune.settings import Positive, Settings, hint
from whytune.student import models
from whytune.student.continuations import Start, Writer
from whytune.student.encode import Encoder, Ids
from whytune.student.models import Student
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.requests import Message, Request


class Parameters(Settings):
    """What a request may say about how it is answered."""

    max_tokens: Positive = 400
    """New tokens at most."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: the most probable token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the fewest most probable tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of the draws; without it, other draws each time."""


class LocalModel:
    """The model, once it is loaded.

    Raises:
        ModelError: it cannot be had, or cannot be asked.
    """

    def __init__(self, name: str, log: Callable[[str], None]) -> None:
        try:
            student = models.load(models.find(name, log=log), Prompting())
        except EncodingError as error:
            raise ModelError(f"model {name}: {error}") from None
        self._encoder = student.encoder
        if not self._encoder.tokenizer.chat_template:
            raise ModelError(f"model {name}: found no chat template, expected a model that was "
                             "taught to answer; give one that was")  # fmt: skip
        self.writer = Writer(student, _ends(student))

    def start(self, request: Request) -> Start:
        """A request as its prompt.

        Raises:
            ValueError: it cannot be asked so; says why.
        """
        parameters = _parameters(request)
        ids = _encoded(self._encoder, request.messages)
        room = self._encoder.context - len(ids)
        if room < 1:
            raise ValueError(
                f"the prompt takes {len(ids)} tokens, but the model reads {self._encoder.context} "
                "with its answer; shorten the text, or choose another model"
            )
        schema = None if request.schema is None else json.dumps(request.schema)
        return Start(
            ids=ids, longest=min(parameters.max_tokens, room), temperature=parameters.temperature,
            top_p=parameters.top_p, seed=parameters.seed,
            grammar=None if schema is None else self.writer.grammar(schema),
        )  # fmt: skip

    def answers(self, starts: Sequence[Start]) -> list[Answer]:
        """An answer for each prompt, written in one batch."""
        if not starts:
            return []
        return [
            Answer(
                ended=Ended.REPLIED, text=self._encoder.decode(written.ids), cut=written.cut,
                tokens_in=len(start.ids), tokens_out=written.tokens, tokens_cached=written.cached,
            )
            for start, written in zip(starts, self.writer.write(starts), strict=True)
        ]  # fmt: skip


def _parameters(request: Request) -> Parameters:
    """Raises ValueError, one sentence a fault."""
    try:
        return Parameters.model_validate(dict(request.parameters), strict=True)
    except ValidationError as error:
        known = list(Parameters.model_fields)
        raise ValueError(
            "; ".join(
                f"parameter {fault['loc'][0]}: "
                + (f"not known to a local teacher ({hint(str(fault['loc'][0]), known)})"
                   if fault["type"] == "extra_forbidden"
                   else f"found {fault['input']!r}, expected otherwise ({fault['msg']})")
                for fault in error.errors()
            )
        ) from None  # fmt: skip


def _encoded(encoder: Encoder, messages: Sequence[Message]) -> Ids:
    """Messages in the model's chat template; a mark of the template that is spelt out in a
    message stays text.
    """
    # Private use: no template or text has a reason to write these.
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    # As in `encode`: a prompt must not change with the calendar.
    fixed: dict[str, Any] = {"date_string": "01 Jan 2026", "enable_thinking": False}
    rest: Any = encoder.tokenizer.apply_chat_template(
        [{"role": message["role"], "content": mark}
         for message, mark in zip(messages, marks, strict=True)],
        tokenize=False, add_generation_prompt=True, **fixed,
    )  # fmt: skip
    ids: list[int] = []
    for message, mark in zip(messages, marks, strict=True):
        if rest.count(mark) != 1:
            raise ValueError(f"the model's chat template drops or repeats the {message['role']}'s "
                             "words; choose another model")  # fmt: skip
        frame, _, rest = rest.partition(mark)
        ids += (*_special(encoder, frame), *encoder.text_ids(message["content"]))
    return (*ids, *_special(encoder, rest))


def _special(encoder: Encoder, text: str) -> Ids:
    return tuple(encoder.tokenizer(text, add_special_tokens=False).input_ids)


def _ends(student: Student) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and what the model says ends a turn."""
    base, tokenizer = student.base, student.encoder.tokenizer
    try:
        found = GenerationConfig.from_pretrained(base.location, revision=base.revision or "main")
    except OSError:  # it says nothing
        return [student.encoder.end]
    ends = found.eos_token_id
    named = ends if isinstance(ends, list) else [ends]
    # Where a configuration names none, it has its family's, which may be any word here.
    marks = {end for end in named if end in tokenizer.added_tokens_decoder}
    return sorted(marks | {student.encoder.end})
