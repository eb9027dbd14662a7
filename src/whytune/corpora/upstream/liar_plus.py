"""LIAR-PLUS (Alhindi et al., FEVER 2018): political statements, PolitiFact's verdict and why.

Reads `train2.jsonl`, `val2.jsonl` and `test2.jsonl` (the second version): `claim`, `label` on six
steps from pants-fire to true, and the journalists' `justification`, from which the authors took
the words of the verdict. Some justifications are empty; the label stays.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Split, Task, Turn

ABOUT = About(
    title="LIAR-PLUS",
    format="JSON Lines, split into train2.jsonl, val2.jsonl and test2.jsonl",
    size="about 10,000 + 1,284 + 1,283 statements",
    licence="CC0 (LICENSE); the README says research purposes only",
    get="https://github.com/Tariq60/LIAR-PLUS/tree/master/dataset/jsonl",
    citation=(
        "Alhindi, Petridis, Muresan: Where is Your Evidence: Improving Fact-checking by "
        "Justification Modeling, FEVER 2018, https://aclanthology.org/W18-5513"
    ),
    tasks=("truthfulness",),
)
_SPLITS = {
    "train2.jsonl": Split.TRAIN,
    "val2.jsonl": Split.VALIDATION,
    "test2.jsonl": Split.TEST,
}
NO_WHY = "statements have no justification; their label stays, without an explanation"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every statement as an example of its native split, verdict and justification as a reply.

    Raises:
        CorpusError: none of the files is there, or something is asked that they do not hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_labels(name, tasks)
    there = release.found(path, _SPLITS, ABOUT.title)
    for file in release.native_splits(there, _SPLITS, ledger):
        yield from _items(file, tasks, ledger)


def _items(file: release.File, tasks: Sequence[Task], ledger: Ledger) -> Iterator[Item]:
    def item(row: dict[str, Any]) -> Iterator[Item]:
        claim = fields.text(row, "claim")
        label = fields.one_of(fields.text(row, "label"), tasks[0].label_names)
        why = fields.optional_text(row, "justification")
        if why is None:
            ledger.counts[NO_WHY] += 1
        yield labelled.labelled(
            "liar_plus", (Turn(role="text", text=claim),), label, tasks,
            source=_topic(row), group=normal(claim), split=file.split, whys=[why],
            teachers=["politifact"],
        )  # fmt: skip

    yield from reading.items(reading.jsonl_rows(file, ledger), item, ledger)


def _topic(row: dict[str, Any]) -> str:
    """The first topic. (`party` is no use: it holds the state.)"""
    topics = row.get("topics")
    first = topics[0] if isinstance(topics, list) and topics else None
    return first if isinstance(first, str) and first else "no topic"
