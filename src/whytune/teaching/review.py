"""What people should look at: the examples on which the teachers disagree most."""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from whytune.records import Annotation, Example, Outcome, Task
from whytune.teaching.agreement import of_votes

REVIEWED = 1000
"""Examples of a sheet, at most."""
_CELL = 32_000
"""Characters of a text in a sheet; a spreadsheet's cell takes 32,767."""
_LONGEST = 2**27
"""Characters of a cell that is read back: the conversation is not cut."""
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""What makes a spreadsheet take a cell for a formula (OWASP, CSV Injection)."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All of Unicode's category Cc but tab and line feed; they would steer a terminal."""


def sheet(annotations: Sequence[Annotation], examples: Sequence[Example], task: Task) -> str:
    """The queue as CSV for a spreadsheet, with empty columns `label` and `comment` to fill in.

    Filled in, it is a table of labelled texts (`loader: table`): `id: example_id`, `turns: turns`
    (or `text: text`), `label: label`, `explanation: comment`, `group: group`, `split: split`; rows
    without a label are left out there. A cell that a spreadsheet would run begins with an
    apostrophe, and control characters of raters show as U+FFFD; the conversation stands unchanged
    as JSON in `turns`, the last column.

    Args:
        annotations: as for `queue`.
        examples: as for `queue`.
        task: whose.
    """
    by_id = {example.id: example for example in examples}
    page = io.StringIO()
    # Lines end as RFC 4180 has it, so that a lone carriage return in a cell is quoted, too.
    writer = csv.writer(page, lineterminator="\r\n")
    for number, row in enumerate(queue(annotations, examples, task, width=_CELL)[:REVIEWED]):
        example = by_id[row["example_id"]]
        turns = [{"role": turn.role, "text": turn.text} for turn in example.turns]
        known = ("example_id", "task", "disagreement", "text")
        cells = {name: row.pop(name) for name in known} | {"label": "", "comment": ""}
        cells |= {name: _visible(said) for name, said in row.items()}
        cells |= {"group": example.group, "split": example.split or ""}
        cells["turns"] = json.dumps(turns, ensure_ascii=False)
        if not number:
            writer.writerow(_inert(_visible(name)) for name in cells)
        writer.writerow(map(_inert, cells.values()))
    return page.getvalue()


def is_untouched(content: bytes) -> bool:
    """Whether a file is a sheet that nobody has written into; anything else is somebody's work."""
    csv.field_size_limit(_LONGEST)
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        return False
    return all(row.get("label") == row.get("comment") == "" for row in rows)


def _visible(said: Any) -> Any:
    return _CONTROL.sub("\ufffd", said.replace("\r\n", "\n")) if isinstance(said, str) else said


def _inert(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def queue(
    annotations: Sequence[Annotation], examples: Sequence[Example], task: Task, *, width: int = 500
) -> list[dict[str, Any]]:
    """The examples with two votes or more, from the most to the least disagreement.

    Args:
        annotations: of any tasks; those of other tasks are passed over.
        examples: their texts; an annotation about another example is passed over.
        task: whose.
        width: characters of a text, 20 or more. A longer one loses its middle: what is judged
            stands at its end, what it answers at its beginning.

    Returns:
        One row an example, all with the same columns: `example_id`, `task`, `disagreement` (1 -
        the agreement of a verdict, 0 to 1; equal ones in order of their ids), `text` (a single text
        as it is, of a conversation `role: text`, a line a turn), and for each rater `RATER score` (on [0, 1]; of a nominal task the label)
        and `RATER assessment`, None without. RATER is `teacher / prompt`.
    """
    votes: dict[str, list[Annotation]] = defaultdict(list)
    for vote in annotations:
        if vote.task == task.name and vote.outcome is Outcome.READ:
            votes[vote.example_id].append(vote)
    raters = sorted({_rater(vote) for own in votes.values() for vote in own})
    rows = []
    for example in examples:
        own = votes.get(example.id, [])
        agreement = of_votes(own, task)
        if agreement is None:
            continue
        said = {_rater(vote): vote for vote in own}
        row: dict[str, Any] = {
            "example_id": example.id,
            "task": task.name,
            "disagreement": round(1 - agreement, 9),
            "text": _short(_text(example), width),
        }
        for rater in raters:
            row |= _cells(rater, said.get(rater))
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["disagreement"], row["example_id"]))


def _rater(vote: Annotation) -> str:
    return f"{vote.teacher} / {vote.prompt}"


def _cells(rater: str, vote: Annotation | None) -> dict[str, Any]:
    said = None if vote is None else vote.label if vote.score is None else vote.score
    return {f"{rater} score": said, f"{rater} assessment": vote.assessment if vote else None}


def _text(example: Example) -> str:
    if len(example.turns) == 1 and example.turns[0].role == "text":
        return example.turns[0].text
    return "\n".join(f"{turn.role}: {turn.text}" for turn in example.turns)


def _short(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    gap = " […] "
    head = (width - len(gap)) // 2
    return text[:head] + gap + text[head + len(gap) - width :]
