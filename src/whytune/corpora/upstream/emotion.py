"""dair-ai/emotion (Saravia et al., EMNLP 2018): English tweets with one of six emotions.

Reads `train.txt`, `val.txt` and `test.txt`, one `text;label` a line, without a header. Texts are
lower-cased and without punctuation upstream. Thirty training texts stand there with two
different labels; they stay, each row an example with the same id. What the rows of one id come
to is settled where all are known: two votes without a majority are no gold.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Split, Task, Turn

ABOUT = About(
    title="emotion",
    format="text files, one `text;label` a line, split into train.txt, val.txt and test.txt",
    size="16,000 + 2,000 + 2,000 texts",
    licence="educational and research purposes only (README of dair-ai/emotion_dataset)",
    get="https://huggingface.co/datasets/dair-ai/emotion",
    citation=(
        "Saravia, Liu, Huang, Wu, Chen: CARER: Contextualized Affect Representations for Emotion "
        "Recognition, EMNLP 2018, https://aclanthology.org/D18-1404"
    ),
    tasks=("emotion",),
)
_SPLITS = {"train.txt": Split.TRAIN, "val.txt": Split.VALIDATION, "test.txt": Split.TEST}


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every text as an example of its native split, with its label as a reply.

    Raises:
        CorpusError: none of the files is there, or something is asked that they do not hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_labels(name, tasks)
    there = release.found(path, _SPLITS, ABOUT.title)
    for file in release.native_splits(there, _SPLITS, ledger):
        yield from _items(file, tasks, ledger)


def _items(file: release.File, tasks: Sequence[Task], ledger: Ledger) -> Iterator[Item]:
    def item(line: str) -> Iterator[Item]:
        # From the right: nothing forbids a semicolon inside a text.
        text, semicolon, label = line.rpartition(";")
        if not semicolon:
            raise ValueError("found no semicolon, expected `text;label`")
        fields.one_of(label, tasks[0].label_names)
        # The text alone, so that no text stands on both sides of a split.
        yield labelled.labelled(
            "emotion", (Turn(role="text", text=text),), label, tasks,
            source="emotion", group=normal(text), split=file.split,
        )  # fmt: skip

    yield from reading.items(reading.text_rows(file, ledger), item, ledger)
