"""The splits of a study, frozen: which example stands where, drawn from which files by which spec.

A study keeps them as `splits.json`. What is drawn later is compared with it, so that neither a
file that changed on the way nor another version of whytune can quietly measure on what was taught.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune import store
from whytune.corpora.corpus import Corpus
from whytune.errors import FolderError
from whytune.recipe_data import CorpusSpec
from whytune.records import Split

NAME = "splits.json"
"""The manifest's file in a study folder."""
_SHOWN = 3  # differing ids in a message


def write(folder: Path, corpora: Mapping[str, tuple[Corpus, CorpusSpec]]) -> Path:
    """Freeze the splits of all corpora of a study, by name; replaces what was there.

    Returns:
        The manifest's path.
    """
    path = folder / NAME
    store.write_json(path, {name: facts(corpus, spec) for name, (corpus, spec) in corpora.items()})
    return path


def facts(corpus: Corpus, spec: CorpusSpec) -> dict[str, Any]:
    """What is frozen of one corpus.

    Returns:
        `spec` (without `path`: the files may lie elsewhere), `inputs` (file -> SHA-256), `splits`
        (split -> example ids in their order).
    """
    return {
        "spec": spec.model_dump(mode="json", exclude={"path"}),
        "inputs": dict(sorted(corpus.inputs.items())),
        "splits": {
            str(split): [e.id for e in corpus.examples if e.split is split] for split in Split
        },
    }


def check(folder: Path, corpora: Mapping[str, tuple[Corpus, CorpusSpec]]) -> None:
    """Compare what was drawn now with what was frozen.

    Raises:
        FolderError: no manifest there, or any difference: all of them, one a line.
    """
    path = folder / NAME
    frozen = store.read_json(path)
    faults = []
    for name, (corpus, spec) in corpora.items():
        if not _is_entry(frozen, name):
            faults.append(f"corpus {name}: found no frozen splits of it")
            continue
        now = facts(corpus, spec)
        faults += [f"corpus {name}: {fault}" for fault in _differences(frozen[name], now)]
    faults += [f"corpus {name}: not read any more" for name in frozen if name not in corpora]
    if faults:
        lines = [f"{path}, {fault}" for fault in faults]
        raise FolderError(
            "\n".join(lines) + "; expected the frozen splits; restore the files and the recipe, or "
            "start a new folder"
        )


def _is_entry(frozen: Any, name: str) -> bool:
    entry = frozen.get(name) if isinstance(frozen, dict) else None
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), dict) for key in ("spec", "inputs", "splits")
    )


def _differences(frozen: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The causes first: where the spec or a file changed, other examples are no news."""
    causes = [
        f"{knob} was {frozen['spec'].get(knob)!r}, now {value!r}"
        for knob, value in now["spec"].items()
        # A knob that is younger than the manifest stands at its default.
        if frozen["spec"].get(knob, _default(knob)) != value
    ]
    for file in sorted(frozen["inputs"].keys() | now["inputs"].keys()):
        before, after = frozen["inputs"].get(file), now["inputs"].get(file)
        if before != after:
            causes.append(f"file {file} {_change(before, after)}")
    if causes:
        return causes
    return [
        difference
        for split in Split
        if (difference := _other_ids(split, frozen["splits"].get(split, []), now["splits"][split]))
    ]


def _default(knob: str) -> Any:
    return CorpusSpec().model_dump(mode="json")[knob]


def _change(before: str | None, after: str | None) -> str:
    if before is None:
        return "is new"
    if after is None:
        return "is gone"
    return f"changed (SHA-256 {before[:12]}… before, {after[:12]}… now)"


def _other_ids(split: Split, before: Sequence[str], after: Sequence[str]) -> str | None:
    if before == after:
        return None
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    if not gone and not new:
        return f"{split}: the same examples in another order"
    found = [
        f"{len(ids)} {what} ({', '.join(ids[:_SHOWN])}{', …' if len(ids) > _SHOWN else ''})"
        for ids, what in ((gone, "gone"), (new, "new"))
        if ids
    ]
    return f"{split}: examples {' and '.join(found)}"
