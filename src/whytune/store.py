"""Files that are whole or not there, and what a run says about where it came from.

Everything written goes through a temporary file in the same folder, is flushed to the disk,
and renamed into place: a crash leaves the old file or the new one, never half of one.
"""

import datetime
import hashlib
import json
import math
import os
import platform
import resource
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whytune.errors import FolderError
from whytune.records import Outcome, Prediction

PACKAGES = ("whytune", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy",
            "scipy", "scikit-learn", "english-words", "pyarrow")  # fmt: skip


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there; makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for text, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Records, mappings and lists as JSON; what is not a number becomes null."""
    write_text(path, json.dumps(plain(content), ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        FolderError: the file is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FolderError(f"{path}: not there; expected a file that whytune wrote") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FolderError(f"{path}: cannot be read ({error}); delete it and run again") from None


def read_jsonl(path: Path) -> list[Any]:
    """What `write_jsonl` wrote; empty where there is no file.

    Raises:
        FolderError: a line is not JSON.
    """
    if not path.exists():
        return []
    rows = []
    # Not splitlines: it also splits at line separators inside a text, such as U+2028.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            if line:
                rows.append(json.loads(line))
        except ValueError as error:
            raise FolderError(
                f"{path} line {number}: cannot be read ({error}); delete it and run again"
            ) from None
    return rows


def plain(content: Any) -> Any:
    """Dataclasses, mappings and tuples as JSON's own types; NaN and infinity as None."""
    if is_dataclass(content) and not isinstance(content, type):
        return plain(asdict(content))
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance() -> dict[str, Any]:
    """Versions, hardware and the exact command: what every `run.json` begins with."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "versions": versions,
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count(), **_processor()},
    }


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "whytune" if name == "__main__.py" else name  # python -m whytune


def peak_rss_mb() -> float:
    """Most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _processor() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"processor": platform.processor()} if platform.processor() else {}
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"processor": next(names, "")}


def write_predictions(
    path: Path, predictions: Sequence[Prediction], extra: Mapping[str, Sequence[Any]]
) -> None:
    """Predictions as Parquet: one row each, a list of log-probabilities in its task's order.

    `extra` adds columns (the reference, the group), one value per prediction. Predictions
    without probabilities may stand among the others. The labels' names stand in the metadata:
    as a list where there is one task, by task where there are several.

    Raises:
        ValueError: predictions about one task over different labels.
    """
    labels: dict[str, list[str]] = {p.task: [] for p in predictions}
    for p in predictions:
        known = labels[p.task] = labels[p.task] or list(p.log_probs)
        if p.log_probs and set(p.log_probs) != set(known):
            raise ValueError(
                f"labels of prediction {p.example_id}: {', '.join(p.log_probs)}; "
                f"expected {', '.join(known)}"
            )
    columns: dict[str, Any] = {
        "example_id": [p.example_id for p in predictions],
        "task": [p.task for p in predictions],
        "outcome": [str(p.outcome) for p in predictions],
        "label": [p.label for p in predictions],
        "expected": [p.expected for p in predictions],
        "label_mass": [p.label_mass for p in predictions],
        "log_probs": [
            [p.log_probs[name] for name in labels[p.task] if p.log_probs] for p in predictions
        ],
        "explanation": pa.array([p.explanation for p in predictions], pa.string()),
        **extra,
    }
    named = labels if len(labels) > 1 else next(iter(labels.values()), [])
    table = pa.table(columns).replace_schema_metadata({"labels": json.dumps(named)})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_bytes(path, buffer.getvalue().to_pybytes())


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], mark: str) -> None:
    """Flat rows as Parquet, with a mark that tells what they were computed from."""
    table = pa.Table.from_pylist(list(rows)).replace_schema_metadata({"mark": mark})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_bytes(path, buffer.getvalue().to_pybytes())


def read_mark(path: Path) -> str | None:
    """The mark of what `write_table` wrote; None where there is no such file, or no whole one."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    return metadata.get(b"mark", b"").decode() or None


def read_table(path: Path) -> pa.Table:
    """What `write_table` wrote.

    Raises:
        FolderError: the file is not there or not whole.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise FolderError(f"{path}: cannot be read ({error}); delete it and run again") from None


def _labels_of(task: str, labels: list[str] | dict[str, list[str]]) -> list[str]:
    return labels[task] if isinstance(labels, dict) else labels


def read_predictions(path: Path) -> tuple[list[Prediction], dict[str, list[Any]]]:
    """What `write_predictions` wrote: the predictions and the extra columns.

    Raises:
        FolderError: the file is not there, not whole, or of something else.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise FolderError(
            f"{path}: cannot be read ({error}); delete the run, start again"
        ) from None
    metadata = table.schema.metadata or {}
    if b"labels" not in metadata:
        raise FolderError(f"{path}: not predictions that whytune wrote; give a run's own file")
    labels = json.loads(metadata[b"labels"])
    own = ("example_id", "task", "outcome", "label", "expected", "label_mass", "log_probs",
           "explanation")  # fmt: skip
    predictions = [
        Prediction(
            example_id=row["example_id"],
            task=row["task"],
            outcome=Outcome(row["outcome"]),
            label=row["label"],
            expected=row["expected"],
            log_probs=dict(zip(_labels_of(row["task"], labels), row["log_probs"], strict=False)),
            explanation=row["explanation"],
        )
        for row in table.select(own).to_pylist()
    ]
    extra = {name: table[name].to_pylist() for name in table.column_names if name not in own}
    return predictions, extra
