"""FeedbackQA (Li et al., ACL 2022): passages rated for a question, with people's reasons.

Reads the upstream files `{WHO,CDC,UK,Australia}/feedback_{train,valid,test}.json`, or the
merged `feedback_{train,valid,test}.json` (there or in `data/`) with a `domain` per item; each
may be gzipped. Merged files repeat those of the domains, so only one layout is read.
"""

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whytune.corpora import files, gold
from whytune.corpora.corpus import About, Reading
from whytune.corpora.identity import content_id, normal
from whytune.errors import CorpusError
from whytune.records import Example, Reply, Split, Task, Turn

TASK = "usefulness"
ABOUT = About(
    title="FeedbackQA",
    format="JSON lists: `question`, `passage`, and one `rating` and `feedback` for each rater",
    size="3,924 pairs of question and passage in the experiment data, two or three raters each",
    licence="Apache-2.0 (its page on the Hub; the repository states none)",
    get="https://github.com/McGill-NLP/feedbackqa, or McGill-NLP/feedbackQA on the Hub",
    citation=(
        "Zichao Li, Prakhar Sharma, Xing Han Lu, Jackie Cheung, Siva Reddy: Using Interactive "
        "Feedback to Improve the Accuracy and Explainability of Question Answering Systems "
        "Post-Deployment, Findings of ACL 2022"
    ),
    tasks=(TASK,),
)
DOMAINS = ("WHO", "CDC", "UK", "Australia")
# The native valid part shares questions with the native train part. It joins the training
# pool, out of which validation is drawn anew by question.
_PARTS = {"train": Split.TRAIN, "valid": Split.TRAIN, "test": Split.TEST}
_WIDTH = 78  # of upstream's hard-wrapped lines, in characters
_REFERENCE_KEYS = {"page_title": str, "section_headers": list, "section_content": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One question and passage with its raters."""

    turns: tuple[Turn, ...]
    domain: str
    split: Split
    votes: tuple[tuple[str, str], ...]
    """(rating, feedback) of each rater, in their order."""


def read(name: str, folder: Path, tasks: Sequence[Task]) -> Reading:
    """Every item as an example, and every rater's rating and feedback as a reply.

    Raises:
        CorpusError: no file there, a file not whole, an item that is not what upstream's are, an
            unknown rating, or another task than usefulness.
    """
    task = _task(name, tasks)
    items: list[_Item] = []
    inputs: dict[str, str] = {}
    for path, domain, split in _files(folder):
        whole = files.read(path)
        inputs[path.relative_to(folder).as_posix()] = whole.sha256
        items.extend(_items(whole, domain, split, task))
    merged, notes = _merged(items)
    examples = tuple(_example(item, task) for item in merged)
    return Reading(
        examples=examples,
        replies=tuple(reply for item in merged for reply in _replies(item, task)),
        inputs=inputs,
        unsettled=frozenset(e.id for e in examples if e.split is Split.TEST and not e.gold),
        notes=notes,
    )


def _task(name: str, tasks: Sequence[Task]) -> Task:
    for task in tasks:
        if task.name != TASK:
            raise CorpusError(
                f"corpora.{name}: found task {task.name!r}, but FeedbackQA answers {TASK}; drop "
                f"it from `tasks`, or set corpora.{name}.task to {TASK}"
            )
    return tasks[0]


def _files(folder: Path) -> list[tuple[Path, str | None, Split]]:
    """The files that are there: (path, domain or None where items name it, split)."""
    layouts = (
        [(folder / domain, domain) for domain in DOMAINS],
        [(folder, None)],
        [(folder / "data", None)],
    )
    for layout in layouts:
        found = [
            (path, domain, split)
            for place, domain in layout
            for part, split in _PARTS.items()
            if (path := _either(place / f"feedback_{part}.json")) is not None
        ]
        if found:
            return found
    found_instead = "found none of FeedbackQA's files" if folder.is_dir() else "no such folder"
    raise CorpusError(
        f"{folder}: {found_instead}; expected "
        f"{{{','.join(DOMAINS)}}}/feedback_{{train,valid,test}}.json (or .json.gz), or the merged "
        "feedback_{train,valid,test}.json there or in data/; set `path` to that folder"
    )


def _either(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return next((candidate for candidate in (path, packed) if candidate.exists()), None)


def _items(whole: files.Whole, domain: str | None, split: Split, task: Task) -> Iterator[_Item]:
    rows = files.json_value(whole)
    if not isinstance(rows, list):
        raise CorpusError(
            f"{whole.place}: found {type(rows).__name__}, expected a list of items; fetch it again"
        )
    for index, row in enumerate(rows):
        fault = _fault(row, domain, task)
        if fault:
            raise CorpusError(
                f"{whole.place}, item {index}: {fault}; correct it, or fetch it again"
            )
        reference = row["passage"]["reference"]
        yield _Item(
            turns=(
                Turn(role="user", text=row["question"].strip()),
                Turn(role="assistant", text=_passage(reference)),
            ),
            domain=domain or row["domain"],
            split=split,
            votes=tuple(zip(row["rating"], row["feedback"], strict=True)),
        )


def _fault(row: Any, domain: str | None, task: Task) -> str | None:
    """What is wrong with an item, as found and expected; None where nothing is."""
    if not isinstance(row, dict):
        return f"found {type(row).__name__}, expected an object"
    if not isinstance(row.get("question"), str) or not row["question"].strip():
        return "found no `question`, expected text"
    if domain is None and not isinstance(row.get("domain"), str):
        return f"found no `domain`, expected one of {', '.join(DOMAINS)}"
    return _passage_fault(row.get("passage")) or _votes_fault(row, task)


def _passage_fault(passage: Any) -> str | None:
    reference = passage.get("reference") if isinstance(passage, dict) else None
    if not isinstance(reference, dict):
        return "found no `passage.reference`, expected an object"
    for key, kind in _REFERENCE_KEYS.items():
        if not isinstance(reference.get(key), kind):
            return f"found no `passage.reference.{key}`, expected a {kind.__name__}"
    return None if _passage(reference) else "found an empty passage, expected text"


def _votes_fault(row: dict[str, Any], task: Task) -> str | None:
    ratings, feedback = row.get("rating"), row.get("feedback")
    if not isinstance(ratings, list) or not isinstance(feedback, list) or not ratings:
        return "found no lists `rating` and `feedback`, expected one entry a rater in each"
    if len(ratings) != len(feedback):
        return f"found {len(ratings)} ratings and {len(feedback)} feedbacks, expected as many"
    for rating in ratings:
        if rating not in task.label_names:
            return f"found rating {rating!r}, expected one of {', '.join(task.label_names)}"
    return None


def _passage(reference: dict[str, Any]) -> str:
    """Title, section headers and text, a blank line between them; the html repeats the text."""
    headers = [" ".join(str(header).split()) for header in reference["section_headers"]]
    pieces = [" ".join(reference["page_title"].split()), *headers]
    pieces.append(_unwrapped(reference["section_content"]))
    return "\n\n".join(piece for piece in pieces if piece)


def _unwrapped(text: str) -> str:
    """Joins hard-wrapped lines; list items and paragraphs keep their own lines.

    A newline is a wrap exactly where the next word would not have fitted into the line: the
    rule by which the wrapping was made.
    """
    lines = [line.strip() for line in text.strip().split("\n")]
    joined = lines[:1]
    for before, line in itertools.pairwise(lines):
        if _is_wrap(before, line):
            # Upstream also wraps after a hyphen inside a word.
            joined[-1] += line if re.search(r"\w-$", before) else f" {line}"
        else:
            joined.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(joined))


def _is_wrap(before: str, line: str) -> bool:
    if not before or not line or re.match(r"([*+#-]|\d+[.)]) ", line):
        return False
    word = line.split()[0]
    piece = re.match(r"\w+-(?=\w)", word)
    space = 0 if re.search(r"\w-$", before) else 1
    return len(before) <= _WIDTH < len(before) + space + len(piece[0] if piece else word)


def _merged(items: Sequence[_Item]) -> tuple[list[_Item], tuple[str, ...]]:
    """Items with the same question and passage in one split become one with all its raters."""
    same: dict[tuple[Split, tuple[Turn, ...]], list[_Item]] = defaultdict(list)
    for item in items:
        same[item.split, item.turns].append(item)
    merged = [
        _Item(
            turns=group[0].turns,
            domain=group[0].domain,
            split=group[0].split,
            votes=tuple(vote for item in group for vote in item.votes),
        )
        for group in same.values()
    ]
    repeats = len(items) - len(merged)
    if not repeats:
        return merged, ()
    return merged, (f"{repeats} items repeat another's question and passage; raters were merged.",)


def _example(item: _Item, task: Task) -> Example:
    reference = None
    if item.split is Split.TEST:
        reference = gold.of_labels([rating for rating, _ in item.votes], task)
    return Example(
        id=_id(item),
        source=item.domain,
        group=normal(item.turns[0].text),
        turns=item.turns,
        split=item.split,
        gold={} if reference is None else {task.name: reference},
    )


def _replies(item: _Item, task: Task) -> Iterator[Reply]:
    for number, (rating, feedback) in enumerate(item.votes, start=1):
        yield Reply(
            example_id=_id(item),
            task=task.name,
            teacher=f"rater-{number}",
            prompt="feedbackqa",
            text=json.dumps({"label": rating, "assessment": feedback}, ensure_ascii=False),
        )


def _id(item: _Item) -> str:
    return content_id("feedbackqa", item.turns)
