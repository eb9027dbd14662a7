"""Open-domain dialogues rated by who held them (Ji et al., ACL 2022): a golden set.

Reads `pass_*.json`: a JSON list of tasks for a worker, each with six dialogues in `data`, rated
from 0 to 100. on_topic is `topic`; it is about the whole dialogue, not the last reply alone. The
dialogues with the deliberately bad `QualityControl` model are left out, and so is all of `fail/`,
whose raters failed that control. Workers are not named: one dialogue has one rater.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Task, Turn

ABOUT = About(
    title="Dialogue-Eval",
    format="JSON lists of workers' tasks, six rated dialogues each",
    size="3,510 dialogues, 585 of them quality control",
    licence="MIT",
    get="https://github.com/TianboJi/Dialogue-Eval",
    citation=(
        "Ji, Graham, Jones, Lyu, Liu: Achieving Reliable Human Assessment of Open-Domain Dialogue "
        "Systems, ACL 2022, https://aclanthology.org/2022.acl-long.445"
    ),
    tasks=("on_topic",),
)
_SCALE = (0.0, 100.0)
CONTROL = "dialogues are quality control and were left out"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every dialogue as a test example with one reply.

    Raises:
        CorpusError: no file is there, one is no JSON list, or something is asked that they do not
            hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_ordinal(name, tasks)
    for file in release.found(path, ["pass_*.json"], ABOUT.title):
        rows = _dialogues(file, ledger)
        yield from reading.items(rows, lambda row: _items(row, tasks, ledger), ledger)


def _dialogues(
    file: release.File, ledger: Ledger
) -> Iterator[reading.Row[tuple[str, dict[str, Any]]]]:
    """Every dialogue with the name of its worker's task, made of file and number."""
    for number, work in enumerate(reading.json_rows(file, ledger), start=1):
        dialogues = work.value.get("data")
        if not isinstance(dialogues, list):
            # Not shown, as the worker is named in it.
            reason = f"{work.place}found no `data`, expected a list of dialogues"
            ledger.quarantine(file.name, None, reason)
            continue
        ledger.rows -= 1  # dialogues are counted, not tasks
        for row in reading.object_rows(dialogues, file, ledger, f"{work.place}dialogue"):
            yield row.of((f"{file.name} {number}", row.value))


def _items(
    row: tuple[str, dict[str, Any]], tasks: Sequence[Task], ledger: Ledger
) -> Iterator[Item]:
    work, dialogue = row
    model = fields.text(dialogue, "model")
    if model == "QualityControl":
        ledger.counts[CONTROL] += 1
        return
    scores = dialogue.get("raw scores")
    score = scores.get("topic") if isinstance(scores, dict) else None
    ratings = labelled.Ratings(
        scores=[fields.number(score, _SCALE)], teachers=labelled.raters(1), scale=_SCALE
    )
    yield labelled.golden(
        "golden_tianboji", _turns(dialogue), {"on_topic": ratings}, tasks,
        # The six dialogues of one worker share a rater's habits.
        source=model, group=work,
    )  # fmt: skip


def _turns(dialogue: dict[str, Any]) -> tuple[Turn, ...]:
    return tuple(
        Turn(role=role, text=fields.text(each, key))
        for each in fields.objects(dialogue, "dialogue")
        for role, key in (("user", "user"), ("assistant", "bot"))
    )
