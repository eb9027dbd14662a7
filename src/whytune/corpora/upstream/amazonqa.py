"""Amazon questions and answers: what customers ask about a product, and what others answer.

Two releases hold them. McAuley's `qa_CATEGORY.json.gz` has one Python dict literal a line, with
one answer (or, in `QA_CATEGORY_multiple.json.gz`, all questions of a product with all answers).
AmazonQA's `{train,val,test}-qar.jsonl` has one JSON object a line: a question with its answers.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, cuts, fields, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Split, Task

NAME = "amazonqa"
ABOUT = About(
    title="Amazon question/answer data and AmazonQA",
    format="Python dict literals, one a line, gzipped (McAuley); JSON Lines (AmazonQA)",
    size="1.4 million answered questions (McAuley); 923,000 questions, 3.6 million answers (AmazonQA)",
    licence="none stated; the authors ask for citation",
    get=(
        "http://jmcauley.ucsd.edu/data/amazon/qa/ (McAuley), "
        "https://github.com/amazonqa/amazonqa (AmazonQA)"
    ),
    citation=(
        "Mengting Wan, Julian McAuley: Modeling Ambiguity, Subjectivity, and Diverging Viewpoints "
        "in Opinion Question Answering Systems, ICDM 2016, https://arxiv.org/abs/1610.08095; Julian McAuley, Alex Yang: Addressing "
        "Complex and Subjective Product-Related Queries with Customer Reviews, WWW 2016; Mansi "
        "Gupta et al.: AmazonQA: A Review-Based Question Answering Task, IJCAI 2019, "
        "https://arxiv.org/abs/1908.04364"
    ),
)
_SPLITS = {
    "train-qar.jsonl": Split.TRAIN,
    "val-qar.jsonl": Split.VALIDATION,
    "test-qar.jsonl": Split.TEST,
}
_PATTERNS = [f"**/{file}" for file in ("[qQ][aA]_*.json", *_SPLITS)]
_ENTITIES = "questions and answers had HTML entities (&gt;), which became characters"
_NO_ANSWER = "questions have no answer and were left out"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Each question with each of its answers; no replies. Sources are the product categories.

    The group is the product (`asin`): its questions are about the same thing, and often the same.
    The same words asked about another product are answered otherwise and stay apart; joining them
    would chain most of a category into one group. AmazonQA's split (by product, in each category)
    is kept where train and test files are both there; otherwise splits are to be drawn.

    Raises:
        CorpusError: no such files, or none of a file's rows holds a question; a part, languages.
    """
    asked.check(name, ABOUT, tasks, spec)
    there = release.found(path, _PATTERNS, ABOUT.title, any_name=True)
    for file in release.whole_splits(there, _SPLITS):
        items = partial(_items, file=file, spec=spec, ledger=ledger)
        with reading.readable(file, ledger, ABOUT):
            yield from reading.items(reading.text_rows(file, ledger), items, ledger)


def _items(line: str, file: release.File, spec: CorpusSpec, ledger: Ledger) -> Iterator[Item]:
    row = _row(line)
    pairs, asin = list(_pairs(row)), fields.text(row, "asin")
    if not pairs:
        ledger.counts[_NO_ANSWER] += 1
    for pair in pairs:
        question, answer = (_plain(text, ledger) for text in pair)
        conversation = cuts.Conversation(
            source=_category(file, row),
            group=asin,
            said=[("user", question), ("assistant", answer)],
            split=file.split,
        )
        yield from cuts.examples(NAME, conversation, spec, ledger)


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = fields.literal(line)
    if not isinstance(row, dict):
        raise ValueError(
            "found neither a JSON object nor a Python dict literal, expected one a line"
        )
    return row


def _pairs(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(question, answer) of a row in any of the three forms."""
    if "answer" in row:
        yield fields.text(row, "question", blank=True), fields.text(row, "answer", blank=True)
        return
    for one in fields.objects(row, "questions", blank=True) if "questions" in row else [row]:
        question = fields.text(one, "questionText", blank=True)
        for answer in fields.objects(one, "answers", blank=True):
            yield question, fields.text(answer, "answerText", blank=True)


def _plain(text: str, ledger: Ledger) -> str:
    plain = html.unescape(text)
    if plain != text:
        ledger.counts[_ENTITIES] += 1
    return plain.strip()


def _category(file: release.File, row: Mapping[str, Any]) -> str:
    category = row.get("category")
    if isinstance(category, str) and category.strip():
        return category.strip()
    named = re.fullmatch(r"(?i:qa)_(.+?)(?:_multiple)?\.json", file.plain)
    return named[1] if named else NAME
