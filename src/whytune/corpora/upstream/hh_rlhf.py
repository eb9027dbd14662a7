"""HH-RLHF (Bai et al. 2022): people's conversations with an assistant, two transcripts a row.

Reads `{harmless-base,helpful-base,helpful-online,helpful-rejection-sampled}/{train,test}.jsonl.gz`
(or .jsonl): the whole folder, one sub-folder, or one file. Each line holds two transcripts, the
`chosen` and the `rejected` one; `part` says which becomes the example.

Two turns of the same speaker in a row stay two turns: they were sent one after the other ("I will
get back to you." - "Sorry about that. ..."), and a joined one would be a reply that nobody gave.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, cuts, fields, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Split, Task

NAME = "hh_rlhf"
ABOUT = About(
    title="HH-RLHF",
    format="JSON Lines, gzipped: `chosen` and `rejected`, one transcript each",
    size="about 169,000 pairs",
    licence="MIT",
    get="https://github.com/anthropics/hh-rlhf (Git LFS), or Anthropic/hh-rlhf on the Hub",
    citation=(
        "Yuntao Bai et al.: Training a Helpful and Harmless Assistant with Reinforcement Learning "
        "from Human Feedback, 2022, https://arxiv.org/abs/2204.05862"
    ),
    parts=("chosen", "rejected"),
)
_SPLITS = {"train.jsonl": Split.TRAIN, "test.jsonl": Split.TEST}
# "Human:" also occurs inside replies; only behind an empty line does it begin a turn.
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """The chosen or the rejected transcripts; no replies.

    Groups are first prompts: they hold together the two sides of a pair, pairs cut out of one
    conversation, and the same opening by different people. Where train and test files are both
    there, examples carry that split; with one of them, splits are to be drawn.

    Raises:
        CorpusError: no such files, or none of a file's rows is a pair; an unknown part, languages.
    """
    side = asked.check(name, ABOUT, tasks, spec)
    there = release.found(path, [f"**/{file}" for file in _SPLITS], ABOUT.title, any_name=True)
    for file in release.whole_splits(there, _SPLITS):
        items = partial(_items, file=file, side=side, spec=spec, ledger=ledger)
        with reading.readable(file, ledger, ABOUT):
            yield from reading.items(reading.jsonl_rows(file, ledger), items, ledger)


def _items(
    row: dict[str, Any], file: release.File, side: str, spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    pair = {part: _said(row, part) for part in ABOUT.parts}
    conversation = cuts.Conversation(
        source=file.path.absolute().parent.name,
        group=normal(pair["chosen"][0][1]),
        said=pair[side],
        split=file.split,
    )
    return cuts.examples(NAME, conversation, spec, ledger)


def _said(row: dict[str, Any], part: str) -> list[tuple[str, str]]:
    """The turns of a transcript: (role, text)."""
    # The field begins with the empty line that `text` takes away.
    before, *pieces = _TURN.split("\n\n" + fields.text(row, part))
    if before.strip() or not pieces:
        raise ValueError(f"`{part}` begins with no turn, expected \\n\\nHuman: or \\n\\nAssistant:")
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return [(_ROLES[who], text.strip()) for who, text in turns]
