"""Prompts continued together: what they share is read once, and each is held to its grammar.

The keys and values of the longest beginning that all prompts of a batch share are computed once
and kept for the next batch. Grammars are llguidance's (https://github.com/guidance-ai/llguidance):
before each token they say which tokens may come.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import llguidance.hf
import llguidance.numpy
import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from whytune.errors import ModelError
from whytune.student.bundle import looks_through_window, why_not_shared
from whytune.student.encode import Ids
from whytune.student.models import Student

_SPARE = 256
"""Places by which a row's room grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A prompt, and how to go on from it."""

    ids: Ids
    longest: int
    """New tokens at most, 1 or more."""
    temperature: float = 0.0
    """0: the most probable token each time."""
    top_p: float = 1.0
    """Draw from the fewest most probable tokens that together have this probability (Holtzman et
    al. 2020, https://arxiv.org/abs/1904.09751, section 3.1); above 0, at most 1."""
    seed: int | None = None
    """Of the draws; None: other draws each time."""
    grammar: str | None = None
    """As `Writer.grammar` gives it; None: anything may be written."""
    wanted: Callable[[], bool] = lambda: True
    """Asked after each token; where it says no, the row is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What was written."""

    ids: Ids
    """Without the end token."""
    tokens: int
    """With it."""
    cut: bool
    """It ran into its longest, or was given up."""
    cached: int
    """Tokens of the prompt that had been read before, for an earlier batch or an earlier row."""


class Writer:
    """Continues prompts in batches; not for several threads at a time.

    Args:
        student: whose model writes.
        ends: tokens that end a text.

    Raises:
        ModelError: llguidance cannot read the tokenizer.
    """

    def __init__(self, student: Student, ends: Sequence[int]) -> None:
        self._model: Any = student.model
        self._ends = frozenset(ends)
        self._pad = student.pad
        self.batches = why_not_shared(student.model) is None
        """Whether rows of several lengths can be told apart by a mask."""
        # A window counts places, and what is padded between prefix and rest would narrow it.
        self._shares = self.batches and not looks_through_window(student.model)
        self.forget()
        self._width = int(self._model.get_output_embeddings().weight.shape[0])
        tokenizer: Any = student.encoder.tokenizer
        # Most models have rows to spare, some tokenizers have marks that their model does not know.
        self._known = max(self._width, len(tokenizer))
        try:
            self._vocabulary = llguidance.hf.from_tokenizer(
                tokenizer, n_vocab=self._known, eos_token=sorted(ends)
            )
        except ValueError as error:
            raise ModelError(
                f"model {student.base.name}: its tokenizer cannot be held to a schema "
                f"({' '.join(str(error).split())[:200]}); give a model with a tokenizer.json"
            ) from None

    def grammar(self, schema: str) -> str:
        """A JSON schema as a grammar: one line, the fields in the order of `properties`.

        Raises:
            ValueError: it is no schema, or one that llguidance cannot enforce.
        """
        # Free to write white space, small models write nothing else.
        form: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        grammar = LLMatcher.grammar_from_json_schema(schema, form)
        if fault := LLMatcher.validate_grammar(grammar, self._vocabulary):
            raise ValueError(" ".join(fault.split()))
        return grammar

    def forget(self) -> None:
        """Let go of what was read."""
        self._read: tuple[Ids, Cache] = ((), DynamicCache())

    def write(self, starts: Sequence[Start]) -> list[Continuation]:
        """Continue all of them; who else is in the batch does not change what is written.

        Raises:
            RuntimeError: the model or its memory failed, as torch says it, or its logits are no
                numbers.
        """
        common = 0
        if self._shares:
            # The last token is read with the rest: the answer begins with its logits.
            common = shared([start.ids[:-1] for start in starts])
        rows = [_Row(start, self._matcher(start.grammar)) for start in starts]
        with torch.inference_mode():
            before = self._read_up_to(starts[0].ids[:common])
            self._continue(rows, common)
        return [
            Continuation(
                ids=tuple(row.ids), tokens=row.tokens, cut=not row.ended,
                cached=common if number else before,
            )
            for number, row in enumerate(rows)
        ]  # fmt: skip

    def _matcher(self, grammar: str | None) -> LLMatcher | None:
        return None if grammar is None else LLMatcher(self._vocabulary, grammar)

    def _read_up_to(self, prefix: Ids) -> int:
        """Read a prefix and keep it; says how much of it had been read before."""
        ids, cache = self._read
        before = shared([ids, prefix])
        self.forget()  # should reading fail, nothing half read is kept
        cache.crop(before - len(ids))
        if before < len(prefix):
            self._model(
                input_ids=self._placed([prefix[before:]]), past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
        self._read = (prefix, cache)
        return before

    def _continue(self, rows: Sequence["_Row"], common: int) -> None:
        rest = [row.start.ids[common:] for row in rows]
        width, room = max(map(len, rest)), max(row.start.longest for row in rows)
        ids = self._placed([(self._pad,) * (width - len(own)) + own for own in rest])
        # All that will be seen: the prefix, the rests padded on their left, what is written.
        mask = self._placed(
            [[1] * common + [0] * (width - len(own)) + [1] * (len(own) + room) for own in rest]
        )
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = self._cache(len(rows))
        seen = common
        while True:
            upto = seen + ids.shape[1]
            output = self._model(
                input_ids=ids, attention_mask=mask[:, :upto], position_ids=positions[:, seen:upto],
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            self._choose(rows, output.logits[:, -1].float().cpu())
            seen = upto
            left = [number for number, row in enumerate(rows) if not row.done]
            if not left:
                return
            if len(left) < len(rows):  # those that are done hold nobody up
                rows = [rows[number] for number in left]
                mask, positions = mask[left], positions[left]
                cache.batch_select_indices(self._placed(left))
            ids = self._placed([row.ids[-1:] for row in rows])

    def _cache(self, rows: int) -> Cache:
        """What was read, once for each row."""
        if not self._shares:
            return DynamicCache(config=self._model.config)
        if read := self._read[1].layers:
            return Cache(layers=[_Roomy(layer, rows) for layer in read])
        return Cache(layer_class_to_replicate=_Roomy)

    def _choose(self, rows: Sequence["_Row"], logits: Tensor) -> None:
        """Give each row its next token, by its logits: (rows, vocabulary), float32, on the CPU."""
        may = llguidance.numpy.allocate_token_bitmask(len(rows), self._known)
        for number, row in enumerate(rows):
            if row.matcher is not None:
                llguidance.numpy.fill_next_token_bitmask(row.matcher, may, number)
        bits = np.unpackbits(may.view(np.uint8), axis=1, count=self._width, bitorder="little")
        logits = logits.masked_fill(torch.from_numpy(bits) == 0, -torch.inf)
        if not logits.amax(-1).isfinite().all():
            raise RuntimeError("the model's logits are no numbers")
        for row, own in zip(rows, logits, strict=True):
            row.take(row.choose(own), self._ends)

    def _placed(self, numbers: Sequence[Any]) -> Tensor:
        return torch.tensor(numbers, device=self._model.device)


def shared(rows: Sequence[Ids]) -> int:
    """How many tokens all rows begin with."""
    places = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda place: len(set(place)) == 1, places))


class _Row:
    """One answer while it is written."""

    def __init__(self, start: Start, matcher: LLMatcher | None) -> None:
        self.start, self.matcher = start, matcher
        self.ids: list[int] = []
        self.tokens = 0
        self.ended = self.done = False
        self._draws = torch.Generator()
        if start.seed is None:
            self._draws.seed()
        else:
            self._draws.manual_seed(start.seed)

    def choose(self, logits: Tensor) -> int:
        """The next token, by its logits (vocabulary,)."""
        if self.start.temperature == 0:
            return int(logits.argmax())
        # Without the largest, the others would overflow at low temperatures.
        probs = torch.softmax((logits - logits.max()) / self.start.temperature, dim=-1)
        if self.start.top_p < 1:
            probs, order = probs.sort(descending=True, stable=True)
            probs[probs.cumsum(-1) - probs >= self.start.top_p] = 0
            probs = torch.zeros_like(probs).scatter(0, order, probs)
        return int(torch.multinomial(probs, 1, generator=self._draws))

    def take(self, token: int, ends: frozenset[int]) -> None:
        """Write a token."""
        self.tokens += 1
        if token in ends:
            self.ended = True
        else:
            self.ids.append(token)
            if self.matcher is not None:
                if not self.matcher.consume_token(token):
                    raise RuntimeError(f"llguidance: {self.matcher.get_error()}")
                self.ended = self.matcher.is_stopped()
        self.done = self.ended or self.tokens >= self.start.longest or not self.start.wanted()


class _Roomy(DynamicLayer):
    """Keys and values with room for what will come: transformers' own layer copies all that it
    holds at every token.

    Args:
        read: of one row; what every row begins with.
        rows: how many.
    """

    def __init__(self, read: Any = None, rows: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rooms: tuple[Tensor, ...] = ()
        if read is not None:
            self.update(*(held.expand(rows, -1, -1, -1) for held in (read.keys, read.values)))

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add (rows, heads, new, width) to both, and give all that there is."""
        new = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(*new)
            self._rooms = tuple(states[:, :, :0] for states in new)
        seen = self.get_seq_length()
        upto = seen + key_states.shape[2]
        if upto > self._rooms[0].shape[2]:
            self._rooms = tuple(_widened(room[:, :, :seen], upto + _SPARE) for room in self._rooms)
        for room, states in zip(self._rooms, new, strict=True):
            room[:, :, seen:upto] = states
        self.keys, self.values = (room[:, :, :upto] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        upto = self.get_seq_length()
        self._rooms = tuple(room[indices] for room in self._rooms)
        self.keys, self.values = (room[:, :, :upto] for room in self._rooms)


def _widened(held: Tensor, places: int) -> Tensor:
    rows, heads, seen, width = held.shape
    room = held.new_empty(rows, heads, places, width)
    room[:, :, :seen] = held
    return room
