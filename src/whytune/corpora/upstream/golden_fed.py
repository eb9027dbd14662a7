"""FED (Mehri and Eskenazi, SIGDIAL 2020): replies of two chatbots and people, rated by five.

Reads `fed_data.json`, a JSON list. An item with a `response` rates that turn, one without rates
the whole dialogue. on_topic is the turn's `Relevant` (0 to 2); the ratings of whole dialogues
have nothing of the kind and are left out. A rating may be a text, "N/A (reason)", which is no vote.
The five ratings of a turn stand in no order that would name a person.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Task, Turn

ABOUT = About(
    title="FED",
    format="one JSON list of rated turns and dialogues",
    size="375 turns and 125 dialogues, five ratings each",
    licence="none stated",
    get="http://shikib.com/fed_data.json, or https://github.com/DSincerity/FED_Replication",
    citation=(
        "Mehri, Eskenazi: Unsupervised Evaluation of Interactive Dialog with DialoGPT, SIGDIAL "
        "2020, https://aclanthology.org/2020.sigdial-1.28"
    ),
    tasks=("on_topic",),
)
_SCALE = (0.0, 2.0)
_ROLES = {"User": "user", "System": "assistant"}
WHOLE = "dialogues are rated as a whole, which answers no task, and were left out"
NOT_APPLICABLE = "ratings are N/A and became no vote"
UNRATED = "turns without a rating of what is asked were left out"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every rated turn as a test example, a reply for each of its raters.

    Raises:
        CorpusError: the file is not there or no JSON list, or something is asked that it does not
            hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_ordinal(name, tasks)
    for file in release.found(path, ["fed_data.json"], ABOUT.title):
        rows = list(reading.json_rows(file, ledger))
        wholes = [text for row in rows if (text := _whole(row.value)) is not None]
        reader = partial(_items, wholes=wholes, tasks=tasks, ledger=ledger)
        yield from reading.items(rows, reader, ledger)


def _whole(row: Mapping[str, Any]) -> str | None:
    """The text of a whole dialogue; None for a turn."""
    context = row.get("context")
    return context if "response" not in row and isinstance(context, str) else None


def _items(
    row: dict[str, Any], wholes: Sequence[str], tasks: Sequence[Task], ledger: Ledger
) -> Iterator[Item]:
    if _whole(row) is not None:
        ledger.counts[WHOLE] += 1
        return
    # As they lie there: the whole dialogue begins with the same letters.
    context, response = (fields.text(row, key, strip=False) for key in ("context", "response"))
    said = f"{context}\n{response}"
    ratings = _relevance(row, ledger)
    if not ratings.scores:
        ledger.counts[UNRATED] += 1
        return
    yield labelled.golden(
        "golden_fed", _turns(said), {"on_topic": ratings}, tasks,
        source=fields.text(row, "system"),
        # Turns of one dialogue belong together; each turn's context is how its dialogue begins.
        group=normal(next((whole for whole in wholes if whole.startswith(said)), context)),
    )  # fmt: skip


def _relevance(row: Mapping[str, Any], ledger: Ledger) -> labelled.Ratings:
    annotations = row.get("annotations")
    given = annotations.get("Relevant") if isinstance(annotations, dict) else None
    if not isinstance(given, list):
        raise ValueError("found no `annotations.Relevant`, expected a list of ratings")
    applies = [not (isinstance(rating, str) and rating.startswith("N/A")) for rating in given]
    scores = {
        rater: fields.number(rating, _SCALE)
        for rater, rating, fits in zip(labelled.raters(len(given)), given, applies, strict=True)
        if fits
    }
    if not all(applies):
        ledger.counts[NOT_APPLICABLE] += applies.count(False)
    return labelled.Ratings(scores=list(scores.values()), teachers=list(scores), scale=_SCALE)


def _turns(text: str) -> tuple[Turn, ...]:
    """The turns of `User: …` and `System: …`; a line without a speaker goes on with the last one."""
    if not re.match("(User|System):", text):
        raise ValueError(f"found {text[:40]!r}, expected a turn of `User:` or `System:`")
    said = re.split(r"^(User|System):", text, flags=re.MULTILINE)[1:]
    return tuple(
        Turn(role=_ROLES[speaker], text=words.strip())
        for speaker, words in zip(said[::2], said[1::2], strict=True)
    )
