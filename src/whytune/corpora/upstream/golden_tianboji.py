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
from whytune.corpora.upstream import asked, labelled, reading
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
    for file, place in reading.found(path, ["pass_*.json"], ABOUT.title).items():
        rows = _dialogues(reading.json_file(place, file, ledger), file, ledger)
        yield from reading.items(rows, lambda row: _items(row, tasks, ledger), ledger)


def _dialogues(
    values: Any, file: str, ledger: Ledger
) -> Iterator[reading.Row[tuple[str, dict[str, Any]]]]:
    """Every dialogue with the name of its worker's task, made of file and number."""
    for number, work in enumerate(reading.object_rows(values, file, ledger), start=1):
        ledger.rows -= 1  # dialogues are counted, not tasks
        dialogues = work.value.get("data")
        if not isinstance(dialogues, list):
            ledger.rows += 1
            reason = f"{work.place}found no `data`, expected a list of dialogues"
            ledger.quarantine(file, None, reason)
            continue
        inside = f"{work.place}dialogue"
        for row in reading.object_rows(dialogues, file, ledger, inside):
            yield reading.Row(
                file=file,
                line=None,
                value=(f"{file} {number}", row.value),
                text=row.text,
                place=row.place,
            )


def _items(
    row: tuple[str, dict[str, Any]], tasks: Sequence[Task], ledger: Ledger
) -> Iterator[Item]:
    work, dialogue = row
    model = reading.text_of(dialogue, "model")
    if model == "QualityControl":
        ledger.counts[CONTROL] += 1
        return
    scores = dialogue.get("raw scores")
    score = scores.get("topic") if isinstance(scores, dict) else None
    ratings = labelled.Ratings(
        scores=[reading.number_of(score, _SCALE)], teachers=labelled.raters(1), scale=_SCALE
    )
    yield labelled.golden(
        "golden_tianboji", _turns(dialogue.get("dialogue")), {"on_topic": ratings}, tasks,
        # The six dialogues of one worker share a rater's habits.
        source=model, group=work,
    )  # fmt: skip


def _turns(rounds: Any) -> tuple[Turn, ...]:
    if not isinstance(rounds, list) or not all(isinstance(r, dict) for r in rounds):
        raise ValueError("found no `dialogue`, expected a list of rounds")
    return tuple(
        Turn(role=role, text=reading.text_of(each, key).strip())
        for each in rounds
        for role, key in (("user", "user"), ("assistant", "bot"))
    )
