"""Ratings of DailyDialog responses (Pang et al., ACL 2020) by ten people: a golden set.

Reads `context_data_release.csv` (id, previous turn, response, ten ratings from 1 to 5) and
`fluency_data_release.csv` (id, response, ten ratings), both without a header. on_topic is the
context coherence, naturalness the fluency of the same response. The ids of the two files do not
belong together and spaces and quotation marks differ, so that responses are joined by their
letters and digits.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Task, Turn

ABOUT = About(
    title="rated DailyDialog responses",
    format="two CSV files without a header",
    size="200 responses, ten ratings each of coherence and of fluency",
    licence="none stated for the data",
    get="https://github.com/alexzhou907/dialogue_evaluation",
    citation=(
        "Pang, Nijkamp, Han, Zhou, Liu, Tu: Towards Holistic and Automatic Evaluation of "
        "Open-Domain Dialogue Generation, ACL 2020, https://aclanthology.org/2020.acl-main.333"
    ),
    tasks=("naturalness", "on_topic"),
)
_SCALE = (1.0, 5.0)
_RATERS = 10
_COHERENCE, _FLUENCY = "context_data_release.csv", "fluency_data_release.csv"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every response as a test example, ten replies for each task.

    Raises:
        CorpusError: a file is not there, or something is asked that they do not hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_ordinal(name, tasks)
    coherence, fluency = release.together(path, (_COHERENCE, _FLUENCY), ABOUT.title)
    # By the letters of the responses.
    fluent = dict(
        row.value
        for row in reading.parsed(reading.csv_rows(fluency, ledger, ","), _fluency, ledger)
    )

    def item(cells: list[str]) -> Iterator[Item]:
        _check_length(cells, 3)
        _, context, response, *coherent = cells
        if _letters(response) not in fluent:
            raise ValueError(f"found no fluency of this response, expected it in {_FLUENCY}")
        ratings = {"on_topic": _ratings(coherent), "naturalness": fluent[_letters(response)]}
        yield labelled.golden(
            "golden_dailydialog",
            (Turn(role="user", text=context), Turn(role="assistant", text=response)),
            ratings, tasks, source="dailydialog", group=normal(context),
        )  # fmt: skip

    yield from reading.items(reading.csv_rows(coherence, ledger, ","), item, ledger)


def _fluency(cells: Sequence[str]) -> tuple[str, labelled.Ratings]:
    """The letters of a response and its ratings."""
    _check_length(cells, 2)
    return _letters(cells[1]), _ratings(cells[2:])


def _check_length(cells: Sequence[str], texts: int) -> None:
    if len(cells) != texts + _RATERS:
        raise ValueError(f"found {len(cells)} cells, expected {texts} and {_RATERS} ratings")


def _ratings(cells: Sequence[str]) -> labelled.Ratings:
    return labelled.Ratings(
        scores=[fields.number(cell, _SCALE) for cell in cells],
        teachers=labelled.raters(_RATERS),
        scale=_SCALE,
    )


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())
