"""The starter set that comes with whytune: 180 conversations, three tasks, twelve replies each."""

import re
from collections.abc import Sequence
from importlib import resources

from whytune.corpora import files
from whytune.corpora.corpus import Reading
from whytune.errors import CorpusError
from whytune.records import Example, Reply, Task, Turn

TASKS = ("naturalness", "comprehensiveness", "on_topic")


def read(name: str, tasks: Sequence[Task]) -> Reading:
    """The bundled conversations, and the recorded replies about the given tasks.

    Raises:
        CorpusError: a task that the starter set does not answer.
    """
    for task in tasks:
        if task.name not in TASKS:
            raise CorpusError(
                f"corpora.{name}: found task {task.name!r}, but the starter set answers "
                f"{', '.join(TASKS)}; drop it from `tasks`, or set corpora.{name}.task to one of "
                "them"
            )
    folder = resources.files("whytune") / "data" / "starter"
    conversations = files.read(folder / "conversations.jsonl.gz")
    replies = files.read(folder / "replies.jsonl.gz")
    asked = {task.name for task in tasks}
    return Reading(
        examples=tuple(_example(row) for _, row in files.json_lines(conversations)),
        replies=tuple(_reply(row) for _, row in files.json_lines(replies) if row["task"] in asked),
        inputs={
            "conversations.jsonl.gz": conversations.sha256,
            "replies.jsonl.gz": replies.sha256,
        },
    )


def _example(row: dict[str, object]) -> Example:
    turns = row["turns"]
    assert isinstance(turns, list)
    return Example(
        id=str(row["id"]),
        source=str(row["source"]),
        group=str(row["id"]),
        turns=tuple(Turn(role=turn["role"], text=turn["text"]) for turn in turns),
    )


def _reply(row: dict[str, object]) -> Reply:
    prompt = str(row["prompt"])
    # The prompts are named after their scales: scale-1-4, scale-1-5-examples …
    ends = re.match(r"scale-(\d+)-(\d+)", prompt)
    assert ends is not None, prompt
    return Reply(
        example_id=str(row["id"]),
        task=str(row["task"]),
        teacher=str(row["teacher"]),
        prompt=prompt,
        text=str(row["reply"]),
        scale=(float(ends[1]), float(ends[2])),
    )
