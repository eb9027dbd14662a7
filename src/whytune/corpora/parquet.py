"""The rows of a Parquet file, a batch at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whytune.corpora import files, mapping
from whytune.corpora.ledger import Ledger
from whytune.errors import CorpusError
from whytune.recipe_data import Columns

_BATCH = 4096  # rows in memory at a time


def rows(path: Path, columns: Columns, ledger: Ledger) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row from 1, and column -> cell, of the columns that the mapping names.

    Raises:
        CorpusError: not there, not whole, or without a column that the mapping names.
    """
    ledger.inputs[path.name] = files.sha256(path)
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            mapped = mapping.mapped(columns).values()
            mapping.refuse_missing(path, set(mapped) - set(names), names, columns)
            start = 1
            for batch in file.iter_batches(_BATCH, columns=[n for n in names if n in mapped]):
                yield from _batch(path, batch, start, ledger)
                start += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path}: not readable as Parquet ({str(error).splitlines()[0]}); expected a "
            "whole Parquet file; fetch it again"
        ) from None


def _batch(
    path: Path, batch: Any, start: int, ledger: Ledger
) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from enumerate(batch.to_pylist(), start=start)
    except UnicodeDecodeError as error:
        if len(batch) > 1:
            for index in range(len(batch)):
                yield from _batch(path, batch.slice(index, 1), start + index, ledger)
            return
        ledger.rows += 1
        ledger.quarantine(
            path.name, start, f"byte 0x{error.object[error.start]:02x} is not UTF-8; expected UTF-8"
        )
