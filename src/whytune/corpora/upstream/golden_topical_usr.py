"""USR's Topical-Chat ratings (Mehri and Eskenazi, ACL 2020), in UniEval's file: a golden set.

Reads `topical_chat.json`, a JSON list: `source` (the dialogue, one turn a line), `system_output`
(the response) and `scores`, each the mean of three people. It answers naturalness, by its rating
of that name (1 to 3). The other ratings answer none of the built-in tasks. `context`, the fact
that the response should use, is no turn and left out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Task, Turn

ABOUT = About(
    title="USR Topical-Chat",
    format="one JSON list of rated responses",
    size="360 responses to 60 dialogues",
    licence="MIT (UniEval's repository)",
    get="https://github.com/maszhongming/UniEval (reproduce/data/eval/dialogue/topical_chat.json)",
    citation=(
        "Mehri, Eskenazi: USR: An Unsupervised and Reference Free Evaluation Metric for Dialog "
        "Generation, ACL 2020, https://aclanthology.org/2020.acl-main.64"
    ),
    tasks=("naturalness",),
)
_SCALE = (1.0, 3.0)


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every response as a test example; one reply with the raters' mean, as they are not told apart.

    Raises:
        CorpusError: the file is not there or no JSON list, or something is asked that it does not
            hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_ordinal(name, tasks)
    for file in release.found(path, ["topical_chat.json"], ABOUT.title):
        rows = reading.json_rows(file, ledger)
        yield from reading.items(rows, lambda row: [_item(row, tasks)], ledger)


def _item(row: dict[str, Any], tasks: Sequence[Task]) -> Item:
    scores = row.get("scores")
    score = scores.get("naturalness") if isinstance(scores, dict) else None
    ratings = labelled.Ratings(
        scores=[fields.number(score, _SCALE)], teachers=["raters-mean"], scale=_SCALE
    )
    source = fields.text(row, "source")
    return labelled.golden(
        "golden_topical_usr", _turns(source, fields.text(row, "system_output")),
        {"naturalness": ratings}, tasks,
        source=fields.text(row, "system_id"), group=normal(source),
    )  # fmt: skip


def _turns(source: str, response: str) -> tuple[Turn, ...]:
    """Two people take turns; the response is the assistant's, the line before it the user's."""
    said = [line.strip() for line in source.split("\n") if line.strip()]
    last = len(said) - 1
    context = tuple(
        Turn(role="assistant" if (last - index) % 2 else "user", text=text)
        for index, text in enumerate(said)
    )
    return (*context, Turn(role="assistant", text=response))
