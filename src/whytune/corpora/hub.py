"""Releases on the Hugging Face Hub: fetched into its cache, then read like any folder."""

import re
from pathlib import Path

from whytune.errors import CorpusError, MissingExtraError

PREFIX = "hf://datasets/"
"""How fsspec and pandas address a dataset: `hf://datasets/OWNER/NAME[@REVISION][/FILE]`."""
_ADDRESS = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")


def fetched(place: str, address: str) -> Path:
    """Where a dataset's files lie, after they have been fetched if they were not there yet.

    Only files are fetched, no code is run.

    Args:
        place: the knob, for messages.
        address: begins with `PREFIX`.

    Raises:
        CorpusError: not such an address, or the dataset cannot be had (offline, gated, misspelt).
        MissingExtraError: huggingface_hub is not installed.
    """
    parts = _ADDRESS.fullmatch(address.removeprefix(PREFIX))
    if parts is None:
        raise CorpusError(
            f"{place}: found {address!r}, expected {PREFIX}OWNER/NAME[@REVISION][/FILE]; correct it"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"{place}: huggingface_hub is not installed; pip install 'whytune[train]', or fetch "
            "the files yourself and give their folder"
        ) from None
    name, revision, inside = parts.groups()
    try:
        folder = snapshot_download(
            name, repo_type="dataset", revision=revision,
            allow_patterns=[inside, f"{inside}/*"] if inside else None,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"{place}: {address} cannot be had ({' '.join(str(error).split())[:200]}); go online, "
            "accept its terms and set HF_TOKEN where it is gated, or give a folder"
        ) from None
    return Path(folder, inside) if inside else Path(folder)
