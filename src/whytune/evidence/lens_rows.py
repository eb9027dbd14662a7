"""Readings as flat columns, for a Parquet file: a row for each block, or for each token in it."""

from collections.abc import Iterator, Sequence
from typing import Any

from whytune.evidence.lens import Reading
from whytune.evidence.trace import Trace

Row = dict[str, Any]


def by_block(readings: Sequence[Reading]) -> Iterator[Row]:
    """A row for each reading and block, at the row that predicts the label.

    Entropies and `kl` in nats, probabilities 0 to 1, `log_prob`s of whole labels in nats among all
    texts; `rank` and `ties` are those of a label's first token. `predicted` is the label that the
    student says in the end, so that a block can be far from it. None where no gold label is known.
    `log_probs` and `ranks` hold the same of every label, in the order of the task.
    """
    for reading in readings:
        found, entropies = reading.labels, reading.label_entropy
        chosen = {"predicted": reading.prediction.label, "gold": reading.gold}
        for block in range(len(entropies)):
            row: Row = {
                **_names(reading), "block": block, "entropy": float(found.entropy[block, 0]),
                "label_entropy": float(entropies[block]), "kl": float(found.kl[block, 0]),
                "top": int(found.top[block, 0]), "top_prob": float(found.top_probs[block, 0]),
                "final_top": int(found.tokens[0, 0]), "final_top_rank": int(found.ranks[block, 0, 0]),
                "final_top_prob": float(found.probs[block, 0, 0]),
            }  # fmt: skip
            for role, label in chosen.items():
                row |= {role: label, **_of_label(reading, block, label, role)}
            firsts = [reading.firsts[label] for label in reading.task.label_names]
            yield row | {"log_probs": reading.log_probs[block].tolist(),
                         "ranks": found.ranks[block, 0, firsts].tolist()}  # fmt: skip


def by_token(readings: Sequence[Reading]) -> Iterator[Row]:
    """A row for each reading, block, place and followed token.

    `part` is `label` or `explanation`, `place` the row's number in it from 0, `token` an id.
    """
    for reading in readings:
        parts = {"label": reading.labels, "explanation": reading.explanation}
        for part, found in parts.items():
            if found is not None:
                for row in _tokens(found):
                    yield {**_names(reading), "part": part, **row}


def _names(reading: Reading) -> Row:
    asked = reading.prediction
    return {"example_id": asked.example_id, "task": asked.task, "base": reading.base}


def _of_label(reading: Reading, block: int, label: str | None, role: str) -> Row:
    if label is None:
        return {f"{role}_{name}": None for name in ("log_prob", "rank", "ties")}
    token = reading.firsts[label]
    at = reading.task.label_names.index(label)
    return {
        f"{role}_log_prob": float(reading.log_probs[block, at]),
        f"{role}_rank": int(reading.labels.ranks[block, 0, token]),
        f"{role}_ties": int(reading.labels.ties[block, 0, token]),
    }


def _tokens(found: Trace) -> Iterator[Row]:
    blocks, rows, tokens = found.ranks.shape
    for block in range(blocks):
        for place in range(rows):
            for at in range(tokens):
                if found.tokens[place, at] >= 0:
                    yield {
                        "block": block, "place": place, "token": int(found.tokens[place, at]),
                        "final_top": at == 0, "log_prob": float(found.log_probs[block, place, at]),
                        "rank": int(found.ranks[block, place, at]),
                        "ties": int(found.ties[block, place, at]),
                        "entropy": float(found.entropy[block, place]),
                        "kl": float(found.kl[block, place]),
                    }  # fmt: skip
