"""CoQA (Reddy et al. 2019): a passage, and a conversation of questions and answers about it.

Reads `coqa-train-v1.0.json` and `coqa-dev-v1.0.json` (an object with `data`), the same
conversations as a bare list, and the list of conversations without passages that COQAR's rewritten
examples come as when they are written as JSON. Each file is one JSON value and read whole (the
largest has 49 MB).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, cuts, fields, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Split, Task

NAME = "coqa"
ABOUT = About(
    title="CoQA",
    format="JSON: `data`, a list of stories with `questions` and `answers`",
    size="7,199 + 500 conversations with 127,000 questions (the test part is not public)",
    licence=(
        "by passage (see `source`): literature and Wikipedia CC BY-SA 4.0, MCTest MSR-LA, RACE its "
        "own, CNN Apache-2.0"
    ),
    get="https://stanfordnlp.github.io/coqa/, or stanfordnlp/coqa on the Hub",
    citation=(
        "Siva Reddy, Danqi Chen, Christopher D. Manning: CoQA: A Conversational Question Answering "
        "Challenge, TACL 7, 2019, https://arxiv.org/abs/1808.07042"
    ),
)
_SPLITS = {"coqa-train-v1.0.json": Split.TRAIN, "coqa-dev-v1.0.json": Split.TEST}
_ROLES = {"user": "user", "system": "assistant"}
_BAD = "question and answer pairs are marked as bad turns and were left out"
_UNKNOWN = "answers say that the passage does not tell (`unknown`) and were kept"
_NO_PASSAGE = "conversations came without their passage"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Story:
    """One conversation as it was read."""

    id: str
    source: str
    said: list[tuple[str, str]]
    bad: int = 0
    """Pairs that are marked as bad."""
    unknown: int = 0
    """Answers that the passage does not hold."""


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Passage (role `passage`), then questions and answers in order of their turns; no replies.

    Sources are where the passages come from (`cnn`, `mctest`, ...), groups the passages. A folder
    is read for the files of the release, else for all JSON files. The dev file is what is measured
    on, as the test part is not public; it is so only beside the train file, otherwise splits are
    to be drawn.

    Raises:
        CorpusError: no such files, a file that is not whole JSON or holds no conversations; a
            part, languages.
    """
    asked.check(name, ABOUT, tasks, spec)
    there = release.found(path, ["**/*.json"], ABOUT.title, any_name=True)
    own = [file for file in there if file.name.removesuffix(".gz") in _SPLITS]
    for file in release.whole_splits(own or there, _SPLITS):
        items = partial(_items, split=file.split, spec=spec, ledger=ledger)
        with reading.readable(file, ledger, ABOUT):
            rows = reading.json_rows(file, ledger, "conversation", "data")
            yield from reading.items(rows, items, ledger)


def _items(
    row: dict[str, Any], split: Split | None, spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    story = _without_passage(row) if "dialogue_id" in row else _native(row)
    counted = {
        _BAD: story.bad,
        _UNKNOWN: story.unknown,
        _NO_PASSAGE: int(all(role != "passage" for role, _ in story.said)),
    }
    ledger.counts.update({what: count for what, count in counted.items() if count})
    conversation = cuts.Conversation(
        source=story.source, group=story.id, said=story.said, split=split
    )
    return cuts.examples(NAME, conversation, spec, ledger)


def _native(row: dict[str, Any]) -> _Story:
    questions, answers = (_numbered(row, key, "turn_id") for key in ("questions", "answers"))
    if alone := questions.keys() ^ answers.keys():
        raise ValueError(f"turn {min(alone)}: found a question or an answer, expected both")
    # Lists need not be in order, nor in the same one.
    pairs = [(questions[turn], answers[turn]) for turn in sorted(questions)]
    good = [pair for pair in pairs if not any(map(_is_bad, pair))]
    said = [("passage", fields.text(row, "story", blank=True))]
    for question, answer in good:
        said.append(("user", fields.text(question, "input_text", blank=True)))
        said.append(("assistant", fields.text(answer, "input_text", blank=True)))
    return _Story(
        id=fields.text(row, "id"),
        source=fields.text(row, "source"),
        said=said,
        bad=len(pairs) - len(good),
        unknown=sum(answer.get("span_start") == -1 for _, answer in good),
    )


def _is_bad(entry: dict[str, Any]) -> bool:
    # Upstream writes the string; copies of the release make it a truth value.
    return entry.get("bad_turn") in ("true", True)


def _without_passage(row: dict[str, Any]) -> _Story:
    turns = [turn for _, turn in sorted(_numbered(row, "turns", "id").items())]
    said = [(fields.text(turn, "speaker"), fields.text(turn, "text", blank=True)) for turn in turns]
    if strangers := {who for who, _ in said} - _ROLES.keys():
        raise ValueError(f"found speaker {min(strangers)!r}, expected user or system")
    return _Story(
        id=fields.text(row, "dialogue_id"),
        source=fields.text(row, "source"),
        said=[(_ROLES[who], text) for who, text in said],
        unknown=sum(turn.get("span_start") == -1 for turn in turns),
    )


def _numbered(row: dict[str, Any], key: str, number: str) -> dict[int, dict[str, Any]]:
    """The entries of a list by their number."""
    by_number: dict[int, dict[str, Any]] = {}
    for entry in fields.objects(row, key):
        index = entry.get(number)
        if not isinstance(index, int) or index in by_number:
            raise ValueError(
                f"found `{number}` {index!r} in `{key}`, expected its own whole number"
            )
        by_number[index] = entry
    return by_number
