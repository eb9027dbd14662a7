"""Lessons and prompts as token ids, each token knowing what part it is.

Pieces are tokenised separately and their ids joined, by one function for training, scoring
and generating; so a span is exact by construction and never searched for. The order is fixed:
[template header, system] [conversation] [question, answer cue] -> target. The conversation
comes first so that all tasks about it share one prefix, token for token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from whytune.errors import EncodingError
from whytune.recipe import digest
from whytune.recipe_student import Prompting
from whytune.records import Example, Lesson, Task
from whytune.student.prompting import conversation_text, question_text
from whytune.student.targets import SEPARATOR, Part, render

CUT_MARK = " […] "
"""Stands where the middle of a conversation was cut out."""

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the student reads before it answers one or several questions about one example."""

    prefix: Ids
    """Header and conversation: the same for every task."""
    questions: tuple[Ids, ...]
    """Question and answer cue of each task."""
    cut: int = 0
    """Tokens taken out of the middle of the conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One continuation of a prefix."""

    ids: Ids
    parts: tuple[Part, ...]
    """One per id; everything but PROMPT is supervised."""
    weights: tuple[float, ...] | None = None
    """One per id, in the loss; without them, every supervised id weighs 1."""
    spread: tuple[tuple[int, int, float], ...] = ()
    """(place, token id, weight): what label smoothing moved from the id at a place to others."""
    among: range | None = None
    """The ids that supervised ones are chosen from; without it, all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A conversation with its branches, each a question with its target."""

    prefix: Ids
    branches: tuple[Branch, ...]
    cut: int = 0

    def __len__(self) -> int:
        """Tokens, the prefix counted once."""
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)


class Encoder:
    """Turns examples and lessons into ids for one tokenizer and one way to prompt.

    Raises:
        EncodingError: the chat template cannot carry the prompt.
    """

    head: Mapping[str, Sequence[str]] | None = None
    """Task -> labels of a label head; None where the labels are written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompting: Prompting, context: int):
        """`context` is the model's limit in tokens."""
        self.tokenizer = tokenizer
        self.prompting = prompting
        self.context = context
        header, footer = _frame(tokenizer, prompting.system)
        self._header = self._special_ids(header)
        self._footer = self._special_ids(footer)
        self._cut_mark = self.text_ids(CUT_MARK)
        self.separator = self.text_ids(SEPARATOR)
        if tokenizer.eos_token_id is None:
            raise EncodingError(
                "the tokenizer has no end token; a student could never stop: choose another model"
            )
        self.end: int = tokenizer.eos_token_id

    def text_ids(self, text: str) -> Ids:
        """Ids of plain text; special tokens spelled out inside it stay text."""
        return tuple(
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )

    def _special_ids(self, text: str) -> Ids:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of ids; special tokens are left out unless asked for."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=not special)
        assert isinstance(text, str)
        return text

    def said(self, part: Part, ids: Sequence[int], *, special: bool = False) -> str:
        """What ids of a part of a branch say."""
        return self.decode(ids, special=special)

    def prompted(self, prompting: Prompting) -> "Encoder":
        """The same with another way to prompt."""
        return Encoder(self.tokenizer, prompting, self.context)

    @property
    def digest(self) -> str:
        """Changes whenever the same example would be encoded differently."""
        return digest([self._header, self._footer, self.prompting.model_dump(mode="json"),
                       self.text_ids("a 1\n[…]")])  # fmt: skip

    def prompt(self, example: Example, tasks: Sequence[Task]) -> Prompt:
        """Encode an example and its questions; the longest one decides what has to be cut.

        Raises:
            EncodingError: a question alone fills `max_length`, or the prompt the model's limit.
        """
        return self.asking(example, {f"task {t.name}": question_text(t) for t in tasks})

    def asking(self, example: Example, words: Mapping[str, str]) -> Prompt:
        """`prompt` for questions in any words: what to call each in messages -> its words.

        Raises:
            EncodingError: as `prompt`.
        """
        questions = tuple(self.text_ids("\n\n" + text) + self._footer for text in words.values())
        longest = max(map(len, questions))
        body = self.text_ids(conversation_text(example.turns, self.prompting.context_turns))
        room = self.prompting.max_length - len(self._header) - longest
        if room < len(self._cut_mark) + 2:
            name = list(words)[[len(question) for question in questions].index(longest)]
            raise EncodingError(
                f"{name}: its question takes {longest} of prompt.max_length "
                f"{self.prompting.max_length} tokens and leaves no room for the text; raise "
                "prompt.max_length or shorten the question"
            )
        body, cut = self._cut(body, room)
        prompt = Prompt(prefix=self._header + body, questions=questions, cut=cut)
        total = len(prompt.prefix) + longest
        if total >= self.context:
            raise EncodingError(
                f"example {example.id}: its prompt takes {total} tokens, but the model "
                f"reads {self.context}; lower prompt.max_length so that an answer fits"
            )
        return prompt

    def _cut(self, body: Ids, room: int) -> tuple[Ids, int]:
        if len(body) <= room:
            return body, 0
        kept = room - len(self._cut_mark)
        head = kept // 2
        tail = len(body) - (kept - head)
        return body[:head] + self._cut_mark + body[tail:], tail - head

    def labels(self, task: Task) -> dict[str, Ids]:
        """Token ids of every label, written where the answer begins.

        Raises:
            EncodingError: a label has no tokens or cannot be written with this vocabulary, or
                one label's tokens begin another's (the two could not be told apart).
        """
        return _label_ids(self, task)

    def among(self, task: Task) -> range | None:
        """The ids that those of a task's labels are chosen from; None for all."""
        return None

    def bundle(self, lessons: Sequence[Lesson], tasks: Sequence[Task]) -> Bundle:
        """Encode the lessons about one example, a branch each; targets are never cut.

        Args:
            lessons: of one example.
            tasks: all that the student is to answer, so that it is taught the very prefix on
                which it will be asked.

        Raises:
            EncodingError: the prompt with a target passes the model's limit.
        """
        example = lessons[0].example
        prompt = self.prompt(example, tasks)
        branches = tuple(
            self._branch(prompt.questions[tasks.index(lesson.task)], lesson) for lesson in lessons
        )
        bundle = Bundle(prefix=prompt.prefix, branches=branches, cut=prompt.cut)
        longest = len(bundle.prefix) + max(len(branch.ids) for branch in branches)
        if longest > self.context:
            raise EncodingError(
                f"example {example.id}: {longest} tokens with its target, but the model "
                f"reads {self.context}; lower prompt.max_length so that the target fits"
            )
        return bundle

    def _branch(self, question: Ids, lesson: Lesson) -> Branch:
        pieces = [(Part.PROMPT, question), *self._target(lesson)]
        ids = tuple(token for _, piece in pieces for token in piece)
        parts = tuple(part for part, piece in pieces for _ in piece)
        return Branch(ids=ids, parts=parts, among=self.among(lesson.task))

    def _target(self, lesson: Lesson) -> list[tuple[Part, Ids]]:
        pieces = render(lesson.label, lesson.explanation, lesson.layout).pieces
        return [*((part, self.text_ids(text)) for part, text in pieces), (Part.FRAME, (self.end,))]


def audit(encoder: Encoder, lessons: Sequence[Lesson], tasks: Sequence[Task]) -> Bundle:
    """Encode the lessons about one example and prove their masks: the supervised tokens of a
    branch, decoded, are its label, its explanation and nothing else.

    Raises:
        EncodingError: they are not.
    """
    bundle = encoder.bundle(lessons, tasks)
    for lesson, branch in zip(lessons, bundle.branches, strict=True):
        encoder.labels(lesson.task)
        _prove(encoder, lesson, branch)
    return bundle


def _prove(encoder: Encoder, lesson: Lesson, branch: Branch) -> None:
    pieces = render(lesson.label, lesson.explanation, lesson.layout).pieces
    for part in (Part.LABEL, Part.EXPLANATION):
        expected = [said for p, text in pieces if p is part and (said := text.strip())]
        runs = groupby(zip(branch.parts, branch.ids, strict=True), key=lambda pair: pair[0])
        found = [said for p, run in runs
                 if p is part and (said := encoder.said(p, [i for _, i in run]).strip())]  # fmt: skip
        if found != expected:
            raise EncodingError(
                f"example {lesson.example.id}: the supervised {part} tokens read "
                f"{SEPARATOR.join(found)[:60]!r}, expected {SEPARATOR.join(expected)[:60]!r}; this "
                "tokenizer cannot write it: change the text or the model"
            )


@lru_cache(maxsize=64)
def _label_ids(encoder: Encoder, task: Task) -> dict[str, Ids]:
    labels = {name: encoder.text_ids(name) for name in task.label_names}
    for name, ids in labels.items():
        if not ids or encoder.decode(ids).strip() != name:
            raise EncodingError(
                f"task {task.name}: label {name!r} becomes {encoder.decode(ids)!r} in this "
                "tokenizer; rename the label"
            )
    for name, ids in labels.items():
        for other, other_ids in labels.items():
            if name != other and other_ids[: len(ids)] == ids:
                raise EncodingError(
                    f"task {task.name}: the tokens of label {name!r} begin those of {other!r}, so "
                    "the two cannot be told apart; rename one (01 and 10, not 1 and 10)"
                )
    return labels


def _frame(tokenizer: PreTrainedTokenizerBase, system: str | None) -> tuple[str, str]:
    """What the model's chat template puts before and after a user's words.

    Two renderings that differ in the words alone agree exactly in what stands around them; no
    marker of any template family has to be known or found.
    """
    if not tokenizer.chat_template:
        start = tokenizer.decode(tokenizer("").input_ids)
        return f"{start}{system}\n\n" if system else str(start), f"{SEPARATOR}Answer:{SEPARATOR}"
    messages = [] if system is None else [{"role": "system", "content": system}]

    def rendered(words: str) -> str:
        # Fixed so that a prompt does not change with the calendar; templates that know
        # neither name ignore it.
        fixed: dict[str, Any] = {"date_string": "01 Jan 2026", "enable_thinking": False}
        text = tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": words}],
            tokenize=False, add_generation_prompt=True, **fixed,
        )  # fmt: skip
        assert isinstance(text, str)
        return text

    try:
        one, two = rendered("A"), rendered("B")
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise EncodingError(
            f"the model's chat template refuses the prompt ({error}); drop prompt.system or "
            "choose another model"
        ) from None
    at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
    if at is None or one[:at] + "B" + one[at + 1 :] != two:
        raise EncodingError(
            "the model's chat template changes or repeats the user's words; choose another model"
        )
    return one[:at], one[at + 1 :]
