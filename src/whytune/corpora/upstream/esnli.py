"""e-SNLI (Camburu et al., NeurIPS 2018): premise, hypothesis, label, and people's explanations.

Reads one of two layouts of the same data:

* line-aligned files `s1`, `s2`, `labels` and `preproc1_expl_1` (dev and test: to
  `preproc1_expl_3`) with the endings `.train`, `.dev`, `.test`: tokenised, explanations in lower
  case;
* `esnli_{train_1,train_2,dev,test}.csv`, with the columns `gold_label`, `Sentence1`, `Sentence2`
  and `Explanation_1` (dev and test: to `Explanation_3`).

The label is SNLI's; who explained it knew it. Each explanation is therefore one reply with that
label, and agreement between them says nothing.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat, zip_longest
from pathlib import Path

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Split, Task, Turn

ABOUT = About(
    title="e-SNLI",
    format="line-aligned text files (s1, s2, labels, preproc1_expl_1…3), or CSV",
    size="549,367 + 9,842 + 9,824 pairs of sentences",
    licence="MIT-style (LICENSE of the repository)",
    get="https://github.com/OanaMariaCamburu/e-SNLI/tree/master/dataset",
    citation=(
        "Camburu, Rocktäschel, Lukasiewicz, Blunsom: e-SNLI: Natural Language Inference with "
        "Natural Language Explanations, NeurIPS 2018, https://arxiv.org/abs/1812.01193"
    ),
    tasks=("entailment",),
)
_ENDINGS = {"train": Split.TRAIN, "dev": Split.VALIDATION, "test": Split.TEST}
_SPLITS = {f"labels.{ending}": split for ending, split in _ENDINGS.items()}
_STEMS = ("s1", "s2", "labels", "preproc1_expl_1", "preproc1_expl_2", "preproc1_expl_3")
_CSV = {
    "esnli_train_1.csv": Split.TRAIN,
    "esnli_train_2.csv": Split.TRAIN,
    "esnli_dev.csv": Split.VALIDATION,
    "esnli_test.csv": Split.TEST,
}
_COLUMNS = ("Sentence1", "Sentence2", "gold_label", "Explanation_1")
_EXPLANATIONS = ("Explanation_1", "Explanation_2", "Explanation_3")
NO_WHY = "explanations are empty and were left out"
_ENDED = "\n"  # where a file has no more lines; no line holds it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """One row of either layout."""

    premise: str
    hypothesis: str
    label: str
    whys: Sequence[str]


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every pair as an example of its native split, every explanation as a reply.

    Raises:
        CorpusError: files that are not there or not aligned, or something is asked that they do
            not hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_labels(name, tasks)
    there = release.found(path, [*_SPLITS, *_CSV], ABOUT.title)
    # The layouts hold the same pairs, so one of them is read.
    aligned = [file for file in there if file.plain in _SPLITS]
    rows = _aligned_rows if aligned else _csv_rows
    for file in release.native_splits(aligned or there, _SPLITS | _CSV, ledger):
        items = partial(_items, split=file.split, tasks=tasks, ledger=ledger)
        yield from reading.items(rows(file, ledger), items, ledger)


def _items(
    pair: _Pair, split: Split | None, tasks: Sequence[Task], ledger: Ledger
) -> Iterator[Item]:
    premise, hypothesis = (text.strip() for text in (pair.premise, pair.hypothesis))
    label = fields.one_of(pair.label.strip(), tasks[0].label_names)
    given = [why.strip() for why in pair.whys]
    whys = zip(labelled.raters(len(given)), given, strict=True)
    told: dict[str, str | None] = {rater: why for rater, why in whys if why}
    if len(told) < len(given):
        ledger.counts[NO_WHY] += len(given) - len(told)
    told = told or {"dataset": None}
    yield labelled.labelled(
        "esnli",
        (Turn(role="premise", text=premise), Turn(role="hypothesis", text=hypothesis)),
        label, tasks,
        # Each premise comes with a hypothesis of every label: together they give it away.
        source="esnli", group=normal(premise), split=split,
        whys=list(told.values()), teachers=list(told),
    )  # fmt: skip


def _csv_rows(file: release.File, ledger: Ledger) -> Iterator[reading.Row[_Pair]]:
    for row in reading.table_rows(file, ledger, ",", _COLUMNS):
        cells = row.value
        pair = _Pair(
            premise=cells["Sentence1"],
            hypothesis=cells["Sentence2"],
            label=cells["gold_label"],
            whys=[cells[c] for c in _EXPLANATIONS if c in cells],
        )
        yield row.of(pair)


def _aligned_rows(labels: release.File, ledger: Ledger) -> Iterator[reading.Row[_Pair]]:
    names = [stem + labels.plain.removeprefix("labels") for stem in _STEMS]
    columns = release.together(labels.path.parent, names[:4], ABOUT.title, names[4:])
    streams = [_in_place(column, ledger) for column in columns[:3]]
    streams += [_explanations(column, ledger) for column in columns[3:]]
    for number, cells in enumerate(zip_longest(*streams, fillvalue=_ENDED), start=1):
        if set(cells) <= {"", _ENDED}:
            continue
        if _ENDED in cells:
            raise CorpusError(
                f"{columns[cells.index(_ENDED)].path}: ends before line {number}, which the files "
                "beside it have; expected as many lines in each; fetch them again"
            )
        texts = [cell for cell in cells if cell is not None]
        # A line that is not UTF-8 is missing here and stands in the ledger already.
        if len(texts) == len(cells):
            ledger.rows += 1
            premise, hypothesis, label, *given = texts
            pair = _Pair(premise=premise, hypothesis=hypothesis, label=label, whys=given)
            yield reading.Row(file=labels.name, line=number, value=pair)


def _in_place(file: release.File, ledger: Ledger) -> Iterator[str | None]:
    """Every line of a file, None for one that could not be read."""
    lines = files.lines(file.path, ledger, name=file.name)
    while True:
        before = ledger.unreadable
        _, line = next(lines, (0, None))
        yield from repeat(None, ledger.unreadable - before)
        if line is None:
            return
        yield line


def _explanations(file: release.File, ledger: Ledger) -> Iterator[str | None]:
    """As `_in_place`. Upstream writes no last newline: behind one stands an empty explanation."""
    yield from _in_place(file, ledger)
    if all(last.endswith(b"\n") for last in deque(files.raw_lines(file.path, Ledger()), maxlen=1)):
        yield ""
