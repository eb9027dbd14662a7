"""GoEmotions (Demszky et al., ACL 2020): Reddit comments with emotions out of 28.

Reads `train.tsv`, `dev.tsv` and `test.tsv` without a header, one `text TAB label ids TAB comment
id` a line, and the names of the ids in `labels.txt` (upstream calls it `emotions.txt`). Lines end
at `\\n` and cells at TAB only; quotation marks are part of the text. A student answers one label,
so rows with several are left out and counted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, labelled, reading, release
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Split, Task, Turn

ABOUT = About(
    title="GoEmotions",
    format="TSV without a header, split into train.tsv, dev.tsv and test.tsv; labels in labels.txt",
    size="43,410 + 5,426 + 5,427 comments",
    licence="CC BY 4.0 (google-research README; the Hub's card says Apache-2.0)",
    get="https://github.com/google-research/google-research/tree/master/goemotions/data",
    citation=(
        "Demszky, Movshovitz-Attias, Ko, Cowen, Nemade, Ravi: GoEmotions: A Dataset of "
        "Fine-Grained Emotions, ACL 2020, https://aclanthology.org/2020.acl-main.372"
    ),
    tasks=("goemotions",),
    parts=("single",),
)
_SPLITS = {"train.tsv": Split.TRAIN, "dev.tsv": Split.VALIDATION, "test.tsv": Split.TEST}
_NAMES = ("labels.txt", "emotions.txt")
SEVERAL = "comments with several labels were left out, as a student answers one"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every comment with one label as an example of its native split.

    Raises:
        CorpusError: files that are not there, names that are not the task's labels, or several
            labels asked for.
    """
    if spec.part is not None and spec.part.startswith("multi"):
        raise CorpusError(
            f"corpora.{name}.part: found {spec.part!r}, but a student answers one label an "
            "example, so comments with several cannot be taught or measured; expected single"
        )
    asked.check(name, ABOUT, tasks, spec)
    asked.check_labels(name, tasks)
    there = release.found(path, _SPLITS, ABOUT.title)
    names = _names(path if path.is_dir() else path.parent, tasks[0], ledger)
    for file in release.native_splits(there, _SPLITS, ledger):
        yield from _items(file, tasks, names, ledger)


def _names(folder: Path, task: Task, ledger: Ledger) -> list[str]:
    """The labels in the order of their ids."""
    place = next((folder / file for file in _NAMES if (folder / file).exists()), None)
    if place is None:
        raise CorpusError(
            f"{folder}: found neither of {', '.join(_NAMES)}; expected the names of the label ids, "
            "one a line; put upstream's emotions.txt there"
        )
    whole = files.read(place)
    ledger.inputs[place.name] = whole.sha256
    names = files.text(whole).split()
    if sorted(names) != sorted(task.label_names):
        raise CorpusError(
            f"{place}: found {len(names)} names that are not the labels of {task.name}; expected "
            f"{', '.join(task.label_names)}; fetch it again"
        )
    return names


def _items(
    file: release.File, tasks: Sequence[Task], names: Sequence[str], ledger: Ledger
) -> Iterator[Item]:
    def item(line: str) -> Iterator[Item]:
        cells = line.split("\t")
        if len(cells) != 3:
            raise ValueError(f"found {len(cells)} cells, expected text, label ids and comment id")
        text, ids, _ = cells
        labels = [_label(number, names) for number in ids.split(",")]
        if len(labels) > 1:
            ledger.counts[SEVERAL] += 1
            return
        yield labelled.labelled(
            "goemotions", (Turn(role="text", text=text),), labels[0], tasks,
            source="goemotions", group=normal(text), split=file.split,
        )  # fmt: skip

    yield from reading.items(reading.text_rows(file, ledger), item, ledger)


def _label(number: str, names: Sequence[str]) -> str:
    if not (number.isascii() and number.isdigit() and int(number) < len(names)):
        raise ValueError(f"found label id {number!r:.60}, expected 0 to {len(names) - 1}")
    return names[int(number)]
