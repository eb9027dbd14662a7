"""Chatbot Arena conversations (Zheng et al. 2023): one person's prompts to two models at a time.

Reads the battles of the first release and those of the later ones by the same people, whose rows
have the same `conversation_a`, `conversation_b`, `model_a`, `model_b` and `language`: Parquet
(batch by batch), JSON Lines, or one JSON list; also a JSON object with `instances`, each with its
row in `instance`. The votes are no label of any task here and are not read.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import cuts
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Task

NAME = "chatbot_arena"
ABOUT = About(
    title="Chatbot Arena Conversations",
    format="Parquet, JSON Lines or JSON: `conversation_a` and `conversation_b` as {role, content}",
    size="33,000 battles",
    licence=(
        "Creative Commons (prompts BY 4.0, replies BY-NC 4.0; check its page), access behind terms"
    ),
    get="lmsys/chatbot_arena_conversations on the Hub (gated)",
    citation=(
        "Lianmin Zheng et al.: Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, NeurIPS "
        "2023, https://arxiv.org/abs/2306.05685"
    ),
    parts=("a", "b", "both"),
)
_EXPECTED = (
    "Chatbot Arena's Parquet, .jsonl or .json files with `conversation_a` and `conversation_b`"
)
_PATTERNS = ("*.parquet", "*.jsonl", "*.jsonl.gz", "*.json", "*.json.gz")
_COLUMNS = ("conversation_a", "conversation_b", "model_a", "model_b", "language")
_BATCH = 256  # rows; a reply has a few KiB
_OTHER = "battles in other languages were left out"
_PICTURES = "battles hold more than text and were left out"

_Row = tuple[int | None, str, dict[str, Any]]
"""(line or None, how messages name it, cells)."""


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """One side of every battle, or both; no replies. Sources are the answering models.

    The group is the first prompt, white space and case aside: both sides of a battle and every
    other battle over the same prompt stay on one side of a split. `spec.languages` is compared
    with `language`, case aside.

    Raises:
        CorpusError: no such file, a file none of whose rows is a battle, an unknown part, or no
            battle in the languages asked for.
    """
    part = cuts.part(name, spec, ABOUT)
    sides = ("a", "b") if part == "both" else (str(part),)
    wanted = {language.casefold() for language in spec.languages}
    seen: Counter[str] = Counter()
    for file, known_as in _files(path):
        with cuts.readable(file, ledger, _EXPECTED):
            for line, place, row in _rows(file, known_as, ledger):
                try:
                    battle = _battle(row, line)
                except ValueError as error:
                    ledger.quarantine(known_as, line, f"{place}{error}", cuts.shown(row))
                    continue
                language = str(row.get("language"))
                seen[language] += 1
                if wanted and language.casefold() not in wanted:
                    ledger.counts[_OTHER] += 1
                elif battle is None:
                    ledger.counts[_PICTURES] += 1
                else:
                    for side in sides:
                        yield from cuts.examples(NAME, battle[side], spec, ledger)
    if wanted and not wanted & {language.casefold() for language in seen}:
        raise _no_battle(name, spec, seen)


def _no_battle(name: str, spec: CorpusSpec, seen: Counter[str]) -> CorpusError:
    named = ", ".join(f"{language} ({count})" for language, count in seen.most_common(10))
    return CorpusError(
        f"corpora.{name}.languages: found no battle in {', '.join(spec.languages)}; expected some "
        f"of {named}; correct it, or leave it out"
    )


def _battle(row: dict[str, Any], line: int | None) -> dict[str, cuts.Conversation] | None:
    """Side -> its conversation; None where a turn holds more than text."""
    said = {side: _said(row, f"conversation_{side}") for side in ("a", "b")}
    if any(text is None for turns in said.values() for _, text in turns):
        return None
    turns = {side: [(role, text or "") for role, text in said[side]] for side in said}
    prompt = next((text for role, text in turns["a"] if role == "user"), turns["a"][0][1])
    return {
        side: cuts.Conversation(
            source=str(row.get(f"model_{side}") or NAME),
            group=normal(prompt),
            said=turns[side],
            line=line,
        )
        for side in turns
    }


def _said(row: dict[str, Any], key: str) -> list[tuple[str, str | None]]:
    turns = row.get(key)
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"found no turns as `{key}`, expected a list of {{role, content}}")
    return [_turn(turn, key) for turn in turns]


def _turn(turn: Any, key: str) -> tuple[str, str | None]:
    """(role, text); the text is None where a turn holds more than text."""
    if not isinstance(turn, dict):
        raise ValueError(f"found {type(turn).__name__} in `{key}`, expected {{role, content}}")
    parts = turn.get("content")
    role = cuts.text(turn, "role")
    if not isinstance(parts, list):
        return role, cuts.text(turn, "content")
    # Later releases write a turn as a list of parts, some of which are pictures.
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return role, None
    return role, "\n\n".join(cuts.text(part, "text") for part in parts)


def _files(path: Path) -> list[tuple[Path, str]]:
    """A release in Parquet comes with other JSON files, which describe it."""
    found = cuts.found(path, _PATTERNS, _EXPECTED)
    return [entry for entry in found if entry[0].suffix == ".parquet"] or found


def _rows(path: Path, known_as: str, ledger: Ledger) -> Iterator[_Row]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        for number, row in cuts.json_rows(path, known_as, ledger):
            yield number, "", row
        return
    if name.endswith(".json"):
        whole = files.read(path)
        ledger.inputs[known_as] = whole.sha256
        rows: Iterator[Any] = iter(_listed(whole))
    elif name.endswith(".parquet"):
        ledger.inputs[known_as] = files.sha256(path)
        rows = _parquet(path)
    else:
        raise CorpusError(f"{path}: found a file of another kind; expected {_EXPECTED}; convert it")
    for number, row in enumerate(rows, start=1):
        ledger.rows += 1
        row = row.get("instance", row) if isinstance(row, dict) else row
        if isinstance(row, dict):
            yield None, f"row {number}: ", row
        else:
            reason = f"row {number}: found {type(row).__name__}, expected an object"
            ledger.quarantine(known_as, None, reason, cuts.shown(row))


def _listed(whole: files.Whole) -> list[Any]:
    value = files.json_value(whole)
    rows = value.get("instances") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise CorpusError(
            f"{whole.place}: found {type(value).__name__} without a list of battles; expected a "
            "list, or an object with `instances`; name another file"
        )
    return rows


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Row by row, a batch of a row group in memory at a time."""
    try:
        with pq.ParquetFile(path) as table:
            columns = [column for column in _COLUMNS if column in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=_BATCH, columns=columns):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise CorpusError(
            f"{path}: not readable as Parquet ({reason}); expected a whole "
            "Parquet file; fetch it again"
        ) from None
