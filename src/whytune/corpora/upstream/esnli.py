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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, labelled, reading
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
_CSV = {
    "esnli_train_1.csv": Split.TRAIN,
    "esnli_train_2.csv": Split.TRAIN,
    "esnli_dev.csv": Split.VALIDATION,
    "esnli_test.csv": Split.TEST,
}
_COLUMNS = ("Sentence1", "Sentence2", "gold_label", "Explanation_1")
_EXPLANATIONS = ("Explanation_1", "Explanation_2", "Explanation_3")
NO_WHY = "explanations are empty and were left out"


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
    # The layouts hold the same pairs, so one of them is read.
    found = reading.found(path, [*_SPLITS, *_CSV], ABOUT.title)
    aligned = {file: place for file, place in found.items() if not _is_csv(file)}
    layout, known = (aligned, _SPLITS) if aligned else (found, _CSV)
    splits = reading.native_splits(layout, known, ledger)
    for file, split in splits.items():
        rows = (_csv_rows if layout is found else _aligned_rows)(layout[file], file, ledger)
        yield from reading.items(
            rows, partial(_items, split=split, tasks=tasks, ledger=ledger), ledger
        )


def _is_csv(file: str) -> bool:
    return file.removesuffix(".gz").endswith(".csv")


def _items(pair: _Pair, split: Split, tasks: Sequence[Task], ledger: Ledger) -> Iterator[Item]:
    premise, hypothesis = (text.strip() for text in (pair.premise, pair.hypothesis))
    label = reading.one_of(pair.label.strip(), tasks[0].label_names)
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


def _csv_rows(path: Path, file: str, ledger: Ledger) -> Iterator[reading.Row[_Pair]]:
    for row in reading.table_rows(path, file, ledger, ",", _COLUMNS):
        cells = row.value
        pair = _Pair(
            premise=cells["Sentence1"],
            hypothesis=cells["Sentence2"],
            label=cells["gold_label"],
            whys=[cells[c] for c in _EXPLANATIONS if c in cells],
        )
        yield reading.Row(file=row.file, line=row.line, value=pair, text=row.text)


def _aligned_rows(path: Path, file: str, ledger: Ledger) -> Iterator[reading.Row[_Pair]]:
    columns = _columns(path)
    streams = [files.lines(column, ledger) for column in columns]
    for number, cells in _by_number(streams, columns):
        # A line that is not UTF-8 is missing here and stands in the ledger already.
        texts = [cell for cell in cells if cell is not None]
        if len(texts) < len(columns):
            continue
        ledger.rows += 1
        premise, hypothesis, label, *whys = texts
        pair = _Pair(premise=premise, hypothesis=hypothesis, label=label, whys=whys)
        yield reading.Row(file=file, line=number, value=pair, text=" | ".join(texts))


def _columns(labels: Path) -> list[Path]:
    """The files aligned with a file of labels: premises, hypotheses, labels, explanations."""
    ending = labels.name.removeprefix("labels")

    def column(stem: str) -> Path | None:
        plain = labels.with_name(stem + ending)
        packed = plain.with_name(plain.name.removesuffix(".gz") + ".gz")
        return next((place for place in (plain, packed) if place.exists()), None)

    sentences = {stem: column(stem) for stem in ("s1", "s2")}
    whys = [column(stem) for stem in ("preproc1_expl_1", "preproc1_expl_2", "preproc1_expl_3")]
    missing = [stem + ending for stem, place in sentences.items() if place is None]
    if missing or not any(whys):
        missing += [] if any(whys) else [f"preproc1_expl_1{ending}"]
        raise CorpusError(
            f"{labels.parent}: found {labels.name}, but not {', '.join(missing)}; expected files "
            "of as many lines beside it; fetch them too"
        )
    return [place for place in (*sentences.values(), labels, *whys) if place is not None]


def _by_number(
    streams: Sequence[Iterator[tuple[int, str]]], columns: Sequence[Path]
) -> Iterator[tuple[int, list[str | None]]]:
    """Line number and what every file has there, None where it has nothing readable."""
    heads = [next(stream, None) for stream in streams]
    while there := [head[0] for head in heads if head is not None]:
        if len(there) < len(heads):
            ended = columns[heads.index(None)]
            raise CorpusError(
                f"{ended}: ends before line {min(there)}, which the files beside it have; expected "
                "as many lines in each; fetch them again"
            )
        number = min(there)
        here = [head is not None and head[0] == number for head in heads]
        yield (
            number,
            [head[1] if head and now else None for head, now in zip(heads, here, strict=True)],
        )
        heads = [
            next(stream, None) if now else head
            for stream, now, head in zip(streams, here, heads, strict=True)
        ]
