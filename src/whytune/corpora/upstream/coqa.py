"""CoQA (Reddy et al. 2019): a passage, and a conversation of questions and answers about it.

Reads `coqa-train-v1.0.json` and `coqa-dev-v1.0.json` (an object with `data`), the same
conversations as a bare list, and the list of conversations without passages that COQAR's rewritten
examples come as when they are written as JSON. Each file is one JSON value and read whole (the
largest has 49 MB).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import cuts
from whytune.errors import CorpusError
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
_EXPECTED = "coqa-train-v1.0.json and coqa-dev-v1.0.json, or a JSON list of such conversations"
_RELEASE = {"coqa-train-v1.0.json": Split.TRAIN, "coqa-dev-v1.0.json": Split.TEST}
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
    cuts.part(name, spec, ABOUT)
    cuts.refuse_languages(name, spec, ABOUT)
    for file, known_as, split in cuts.parted(_files(path), _split):
        with cuts.readable(file, ledger, _EXPECTED):
            for number, row in enumerate(_rows(file, known_as, ledger), start=1):
                ledger.rows += 1
                try:
                    story = _story(row)
                except ValueError as error:
                    reason = f"conversation {number}: {error}"
                    ledger.quarantine(known_as, None, reason, cuts.shown(row))
                    continue
                _count(story, ledger)
                conversation = cuts.Conversation(
                    source=story.source, group=story.id, said=story.said, split=split
                )
                yield from cuts.examples(NAME, conversation, spec, ledger)


def _files(path: Path) -> list[tuple[Path, str]]:
    found = cuts.found(path, ("*.json", "*.json.gz"), _EXPECTED)
    release = [entry for entry in found if entry[1].removesuffix(".gz") in _RELEASE]
    return release or found


def _split(path: Path) -> Split | None:
    return _RELEASE.get(path.name.removesuffix(".gz"))


def _rows(path: Path, known_as: str, ledger: Ledger) -> list[Any]:
    whole = files.read(path)
    ledger.inputs[known_as] = whole.sha256
    value = files.json_value(whole)
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise CorpusError(
            f"{whole.place}: found {type(value).__name__} without a list of conversations; "
            f"expected {_EXPECTED}; name another file"
        )
    return rows


def _count(story: _Story, ledger: Ledger) -> None:
    counted = {
        _BAD: story.bad,
        _UNKNOWN: story.unknown,
        _NO_PASSAGE: int(all(role != "passage" for role, _ in story.said)),
    }
    ledger.counts.update({what: count for what, count in counted.items() if count})


def _story(row: Any) -> _Story:
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}, expected an object")
    return _without_passage(row) if "dialogue_id" in row else _native(row)


def _native(row: dict[str, Any]) -> _Story:
    questions, answers = (
        _numbered(row, "questions", "turn_id"),
        _numbered(row, "answers", "turn_id"),
    )
    if alone := questions.keys() ^ answers.keys():
        raise ValueError(f"turn {min(alone)}: found a question or an answer, expected both")
    # Lists need not be in order, nor in the same one.
    pairs = [(questions[turn], answers[turn]) for turn in sorted(questions)]
    good = [pair for pair in pairs if not any(map(_is_bad, pair))]
    said = [("passage", cuts.text(row, "story"))]
    for question, answer in good:
        said.append(("user", cuts.text(question, "input_text")))
        said.append(("assistant", cuts.text(answer, "input_text")))
    return _Story(
        id=cuts.text(row, "id"),
        source=cuts.text(row, "source"),
        said=said,
        bad=len(pairs) - len(good),
        unknown=sum(answer.get("span_start") == -1 for _, answer in good),
    )


def _is_bad(entry: dict[str, Any]) -> bool:
    # Upstream writes the string; copies of the release make it a truth value.
    return entry.get("bad_turn") in ("true", True)


def _without_passage(row: dict[str, Any]) -> _Story:
    turns = [turn for _, turn in sorted(_numbered(row, "turns", "id").items())]
    said = [(cuts.text(turn, "speaker"), cuts.text(turn, "text")) for turn in turns]
    if strangers := {who for who, _ in said} - _ROLES.keys():
        raise ValueError(f"found speaker {min(strangers)!r}, expected user or system")
    return _Story(
        id=cuts.text(row, "dialogue_id"),
        source=cuts.text(row, "source"),
        said=[(_ROLES[who], text) for who, text in said],
        unknown=sum(turn.get("span_start") == -1 for turn in turns),
    )


def _numbered(row: dict[str, Any], key: str, number: str) -> dict[int, dict[str, Any]]:
    """The entries of a list by their number."""
    entries = row.get(key)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"found no `{key}`, expected a list of objects")
    by_number: dict[int, dict[str, Any]] = {}
    for entry in entries:
        index = entry.get(number) if isinstance(entry, dict) else None
        if not isinstance(index, int) or index in by_number:
            raise ValueError(
                f"found `{number}` {index!r} in `{key}`, expected its own whole number"
            )
        by_number[index] = entry
    return by_number
