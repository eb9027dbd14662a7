"""Chain-of-thought tables of the FLAN collection (Longpre et al., 2023): why an answer is right.

Reads `TABLE_train.tsv`, one `question TAB answer TAB reasoning` a line, newlines inside written as
`\\n`. Tables whose answers are the same few for every question are classification tasks; those
with open answers are refused, but can teach a reason generator (`open_rows`). There is no test
part, so the split is drawn.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Task, Turn

_TASKS = {"creak": "yes_no", "sensemaking": "against_common_sense", "strategyqa": "yes_no"}
_OPEN = ("aqua", "ecqa", "gsm8k", "qasc")
ABOUT = About(
    title="FLAN's chain-of-thought data",
    format="TSV without a header, one file a table: question, answer, reasoning",
    size="creak 6,915; sensemaking (ComVE) 6,070; strategyqa 2,061 questions",
    licence="Apache-2.0 (code); each table has its source's own terms",
    get="https://github.com/google-research/FLAN/tree/main/flan/v2/cot_data",
    citation=(
        "Longpre, Hou, Vu, Webson, Chung, Tay, Zhou, Le, Zoph, Wei, Roberts: The Flan Collection: "
        "Designing Data and Methods for Effective Instruction Tuning, ICML 2023, "
        "https://arxiv.org/abs/2301.13688"
    ),
    tasks=("yes_no", "against_common_sense"),
    parts=("creak", "sensemaking", "strategyqa"),
)


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every question of one table as an example, its answer and reasoning as a reply.

    Raises:
        CorpusError: the table's file is not there, its answers are open, or the task is another
            table's.
    """
    spec = _with_table(name, path, spec)
    table = asked.check(name, ABOUT, tasks, spec)
    asked.check_tasks(name, f"{ABOUT.title} ({table})", tasks, [_TASKS[table]])
    asked.check_labels(name, tasks)
    for file in release.found(path, [f"{table}_train.tsv"], f"{ABOUT.title} ({table})"):
        yield from _items(file, table, tasks, ledger)


def answers(name: str, path: Path, spec: CorpusSpec) -> tuple[str, ...]:
    """The task that the table answers which is asked for.

    Raises:
        CorpusError: no such table, or one with open answers.
    """
    return (_TASKS[asked.part(name, ABOUT, _with_table(name, path, spec))],)


def open_table(path: str, spec: CorpusSpec) -> str | None:
    """The table that is asked for, where its answers are open."""
    part = spec.part or _named_by(Path(path))
    return part if part in _OPEN else None


def open_rows(path: Path, table: str, ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """Question, answer and reasoning of every row of a table with open answers; some may be empty.

    Raises:
        CorpusError: the table's file is not there.
    """
    for file in release.found(path, [f"{table}_train.tsv"], f"{ABOUT.title} ({table})"):
        for row in reading.parsed(reading.text_rows(file, ledger), _cells, ledger):
            yield row.value


def _named_by(path: Path) -> str | None:
    """A file that is named alone says by itself which table is meant."""
    stem, _, rest = path.name.removesuffix(".gz").rpartition("_")
    return stem if rest == "train.tsv" and stem in (*ABOUT.parts, *_OPEN) else None


def _with_table(name: str, path: Path, spec: CorpusSpec) -> CorpusSpec:
    spec = spec.model_copy(update={"part": spec.part or _named_by(path)})
    if spec.part in _OPEN:
        raise CorpusError(
            f"corpora.{name}.part: found {spec.part!r}, whose answers differ from question to "
            f"question, so that there are no labels to classify into; expected one of "
            f"{', '.join(ABOUT.parts)}"
        )
    return spec


def _cells(line: str) -> tuple[str, str, str]:
    cells = line.split("\t")
    if len(cells) != 3:
        raise ValueError(f"found {len(cells)} cells, expected question, answer and reasoning")
    question, answer, reasoning = (cell.replace("\\n", "\n").strip() for cell in cells)
    return question, answer, reasoning


def _items(file: release.File, table: str, tasks: Sequence[Task], ledger: Ledger) -> Iterator[Item]:
    def item(line: str) -> Iterator[Item]:
        question, answer, reasoning = _cells(line)
        fields.one_of(answer, tasks[0].label_names)
        yield labelled.labelled(
            "flan_cot", (Turn(role="text", text=question),), answer, tasks,
            source=table, group=_group(question, table), split=None, whys=[reasoning or None],
        )  # fmt: skip

    yield from reading.items(reading.text_rows(file, ledger), item, ledger)


def _group(question: str, table: str) -> str:
    """What is asked about: the same claim comes in several wordings of the question."""
    quoted = re.search('"(.*)"', question, re.DOTALL) if table != "strategyqa" else None
    return normal(quoted[1] if quoted else question)
