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
from whytune.corpora.upstream import asked, cuts, fields, reading, release
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
_PATTERNS = ("**/*.parquet", "**/*.jsonl", "**/*.json")
_COLUMNS = ("conversation_a", "conversation_b", "model_a", "model_b", "language")
_BATCH = 256  # rows; a reply has a few KiB
_OTHER = "battles in other languages were left out"
_PICTURES = "battles hold more than text and were left out"


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
    part = asked.part(name, ABOUT, spec)
    sides = ("a", "b") if part == "both" else (part,)
    wanted = {language.casefold() for language in spec.languages}
    seen: Counter[str] = Counter()

    def items(row: dict[str, Any]) -> Iterator[Item]:
        battle = _battle(row)
        language = str(row.get("language"))
        seen[language] += 1
        if wanted and language.casefold() not in wanted:
            ledger.counts[_OTHER] += 1
        elif battle is None:
            ledger.counts[_PICTURES] += 1
        else:
            for side in sides:
                yield from cuts.examples(NAME, battle[side], spec, ledger)

    there = release.found(path, _PATTERNS, ABOUT.title)
    # A release in Parquet comes with other JSON files, which describe it.
    for file in [file for file in there if file.plain.endswith(".parquet")] or there:
        with reading.readable(file, ledger, ABOUT):
            yield from reading.items(_rows(file, ledger), items, ledger)
    if wanted and not wanted & {language.casefold() for language in seen}:
        raise _no_battle(name, spec, seen)


def _no_battle(name: str, spec: CorpusSpec, seen: Counter[str]) -> CorpusError:
    named = ", ".join(f"{language} ({count})" for language, count in seen.most_common(10))
    return CorpusError(
        f"corpora.{name}.languages: found no battle in {', '.join(spec.languages)}; expected some "
        f"of {named}; correct it, or leave it out"
    )


def _battle(row: dict[str, Any]) -> dict[str, cuts.Conversation] | None:
    """Side -> its conversation; None where a turn holds more than text."""
    said = {
        side: [_turn(turn) for turn in fields.objects(row, f"conversation_{side}")]
        for side in ("a", "b")
    }
    if any(text is None for turns in said.values() for _, text in turns):
        return None
    turns = {side: [(role, text or "") for role, text in said[side]] for side in said}
    prompt = next((text for role, text in turns["a"] if role == "user"), turns["a"][0][1])
    return {
        side: cuts.Conversation(
            source=str(row.get(f"model_{side}") or NAME), group=normal(prompt), said=turns[side]
        )
        for side in turns
    }


def _turn(turn: dict[str, Any]) -> tuple[str, str | None]:
    """(role, text); the text is None where a turn holds more than text."""
    role, parts = fields.text(turn, "role"), turn.get("content")
    if not isinstance(parts, list):
        return role, fields.text(turn, "content", blank=True)
    # Later releases write a turn as a list of parts, some of which are pictures.
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return role, None
    return role, "\n\n".join(fields.text(part, "text", blank=True) for part in parts)


def _rows(file: release.File, ledger: Ledger) -> Iterator[reading.Row[dict[str, Any]]]:
    if file.plain.endswith(".jsonl"):
        return reading.jsonl_rows(file, ledger)
    if file.plain.endswith(".parquet"):
        ledger.inputs[file.name] = files.sha256(file.path)
        return reading.object_rows(_parquet(file.path), file, ledger, "row")
    rows = reading.json_rows(file, ledger, "row", "instances")
    return reading.parsed(rows, lambda row: reading.as_object(row.get("instance", row)), ledger)


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
