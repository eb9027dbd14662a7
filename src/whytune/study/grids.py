"""Tables of a page that need no template of their own: columns, rows, a note, and the CSV file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whytune import store
from whytune.study import latex, tables
from whytune.study.folder import Part
from whytune.study.pictures import write_table
from whytune.study.stored import Record, Row, Summary
from whytune.study.titles import METRICS

EXPLAINED = {
    "words": "Words", "agrees": "Label read back = predicted", "agrees_floor": "floor",
    "gives_away": "Label read back = reference", "gives_away_floor": "floor",
    "gives_away_ceiling": "by reference explanations", "names_label": "Names a label",
    "names_predicted": "and the predicted one", "copied": "Copied", "repeats": "Repeated",
    "same": "Alike", "likeness": "Likeness", "likeness_floor": "floor",
}  # fmt: skip
"""Figure of explanations -> how a column calls it; the CSV has all."""
TITLES = {metric.name: metric.title for metric in METRICS} | {
    "label_agreement": "Agreement of pairs", "precision": "Precision", "recall": "Recall",
    "f1": "F1", "pearson": "Pearson", "spearman": "Spearman",
}  # fmt: skip
"""Figure -> how a column calls it."""
LABELS_SHOWN = 40
"""Rows of a table on the page; a longer one is shown by its CSV file alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column."""

    key: str
    title: str
    kind: Literal["word", "figure", "number"] = "figure"
    """A `figure` has its interval in the columns `key_low` and `key_high`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table with its heading."""

    title: str
    columns: list[Column]
    rows: list[Record]
    note: str
    data: str
    """The CSV file, relative to the study folder."""

    @property
    def short(self) -> bool:
        """Whether it fits on the page."""
        return len(self.rows) <= LABELS_SHOWN


def of_section(folder: Path, key: str, part: Part, summary: Summary) -> Iterator[Grid]:
    """What is known about one corpus and task beside its scores."""

    def own(rows: Sequence[Record]) -> list[Record]:
        return [row for row in rows if (row["corpus"], row["task"]) == (part.corpus, part.task)]

    if labels := own(summary.labels):
        yield grid(folder, f"{key}--labels", "Label by label", labels,
                    [*_words(name="Arm", label="Label"), *_counts(support="References",
                     predicted="Predictions"), *_figures("precision", "recall", "f1")],
                    "Readable answers only.")  # fmt: skip
    if slices := own(summary.slices):
        known = [name for name in ("accuracy", "label_nll", "mae", "mse") if name in slices[0]]
        yield grid(folder, f"{key}--slices", "Slice by slice", slices,
                    [*_words(name="Arm", cut="By", slice="Slice"), *_counts(n="n"),
                     *_figures(*known)],
                    "Slices are cut after the fact and there are many: an interval that stands "
                    "apart is a place to look, not a finding. Of slices below 20 examples only the "
                    "number is told.")  # fmt: skip
    if ceilings := own(summary.ceilings):
        scored = ("accuracy", "mae", "mse", "label_agreement")
        yield grid(folder, f"{key}--ceiling", "What raters score", ceilings,
                    [*_counts(raters="Raters", examples="Examples", n="Answers", ties="Ties"),
                     *_figures(*(name for name in scored if name in ceilings[0]))],
                    "Each rater held against the others: accuracy against their most frequent "
                    "label (ties left out), errors against their mean, agreement over pairs."
                    )  # fmt: skip
    if maps := own(summary.calibration):
        yield grid(folder, f"{key}--calibration", "Calibration", maps,
                    [*_words(name="Arm", method="Method"),
                     *_counts(seed="Seed", n="Fitted on", unreadable="Unreadable"),
                     Column(key="temperature", title="Temperature")],
                    "Fitted on the validation part. A temperature above 1 makes less sure, below 1 "
                    "more.")  # fmt: skip

    said = [row for row in own(summary.explanations) if "words" in row]
    if said:
        yield grid(folder, f"{key}--explanations", "Explanations as such", said,
                    [*_words(name="Arm"), *_counts(n="n"), *_figures(*EXPLAINED)],
                    "A label is read back by a linear model that learned from the explanations "
                    "taught alone; its floor is always saying the most frequent label. Copied, "
                    "repeated: runs of four words that stand in the text, or stood in the "
                    "explanation before. Alike: word for word that of another example. Likeness: "
                    "chrF to the reference explanation, 0 to 100; its floor is that of another "
                    "example with the same label.")  # fmt: skip


def of_study(folder: Path, summary: Summary) -> Iterator[Grid]:
    """What is known over several tasks."""
    if summary.means:
        shown = {metric.name for metric in METRICS if metric.main}
        rows = [row for row in summary.means if row["metric"] in shown]
        rows = [{**row, "metric": TITLES.get(row["metric"], row["metric"])} for row in rows]
        yield grid(folder, "means", "Means over tasks", rows,
                    [*_words(corpus="Corpus", name="Arm", metric="Figure", tasks="Tasks"),
                     Column(key="mean", title="Mean")],
                    "Each task with equal weight; of figures that not all tasks define, over those "
                    "that do.")  # fmt: skip
    if summary.errors:
        yield grid(folder, "errors", "Do errors go together?", summary.errors,
                    [*_words(corpus="Corpus", name="Arm", one="Task", other="and"),
                     *_counts(n="n"), *_figures("pearson", "spearman")],
                    "Correlation of the errors on two tasks over the same examples: 0 where they "
                    "know nothing of each other. Hard texts and raters' moods make errors go "
                    "together too.")  # fmt: skip


def grid(
    folder: Path, key: str, title: str, rows: list[Record], columns: list[Column], note: str
) -> Grid:
    """Write rows as CSV and LaTeX, to be shown with these columns."""
    data = write_table(folder, key, rows).data
    typeset(folder, key, f"{title}. {note}", rows, columns)
    return Grid(title=title, columns=columns, rows=rows, note=note, data=data)


def typeset(
    folder: Path, key: str, caption: str, rows: Sequence[Record], columns: Sequence[Column]
) -> None:
    """Write rows as LaTeX, beside their CSV."""
    body = [[_cell(row, column) for column in columns] for row in rows]
    heading = [column.title for column in columns]
    words = sum(column.kind == "word" for column in columns)
    store.write_text(
        folder / f"tables/{key}.tex", latex.table(caption, key, heading, body, words=words)
    )


def _cell(row: Record, column: Column) -> str:
    value = row.get(column.key)
    if column.kind == "word":
        return "--" if value is None else latex.escaped(str(value))
    if column.kind == "number":
        return "--" if value is None else str(value)
    ends = (row.get(f"{column.key}{end}") for end in ("_low", "_high"))
    return latex.figure(value, *ends, digits=3)


def typeset_scores(folder: Path, key: str, caption: str, rows: Sequence[Row]) -> None:
    """Write the page's table of scores as LaTeX."""
    columns = [*_words(name="Arm"), *_figures(*(metric.name for metric in tables.metrics_of(rows))),
               *_counts(n="n")]  # fmt: skip
    typeset(folder, key, caption, tables.scores(rows), columns)


def typeset_comparisons(folder: Path, key: str, caption: str, rows: Sequence[Record]) -> None:
    """Write the page's table of comparisons as LaTeX."""
    columns = [*_words(arm="Arm", base="against", metric="Figure"),
               Column(key="difference", title="Difference"), Column(key="p", title="p"),
               Column(key="p_holm", title="p (Holm)"), *_counts(n="n", groups="Groups")]  # fmt: skip
    told = [{**row, "metric": TITLES.get(row["metric"], row["metric"]),
             "difference_low": row["low"], "difference_high": row["high"]} for row in rows]  # fmt: skip
    typeset(folder, key, caption, told, columns)


def _words(**titles: str) -> list[Column]:
    return [Column(key=key, title=title, kind="word") for key, title in titles.items()]


def _counts(**titles: str) -> list[Column]:
    return [Column(key=key, title=title, kind="number") for key, title in titles.items()]


def _figures(*names: str) -> list[Column]:
    titles = TITLES | EXPLAINED
    return [Column(key=name, title=titles.get(name, name)) for name in names]
