"""The rows that could not be read, as a file beside a check's page."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from whytune import corpora, store
from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError
from whytune.recipe import Recipe

NAME = "quarantine.jsonl"


def write(folder: Path, ledgers: Mapping[str, Ledger]) -> None:
    """One line a row: corpus, file, line, reason, and how it begins; empty where there is none.

    Of very many, the first thousand of each corpus stand there.
    """
    rows = [{"corpus": corpus, **asdict(row)}
            for corpus, ledger in ledgers.items() for row in ledger.quarantined]  # fmt: skip
    store.write_jsonl(folder / NAME, rows)


def refused(recipe: Recipe) -> dict[str, Ledger]:
    """Corpus -> what could not be read in it, however much that is.

    For a recipe that is refused: what of it can be read at all is read again, leniently.
    """
    specs = {name: spec.model_copy(update={"max_unreadable": 1.0})
             for name, spec in recipe.corpora.items()}  # fmt: skip
    found = {}
    for name, spec in specs.items():
        try:
            found[name] = corpora.load(
                name, spec, recipe.resolved_tasks(), specs, asked=bool(recipe.teachers)
            ).ledger
        except CorpusError:
            continue
    return found
