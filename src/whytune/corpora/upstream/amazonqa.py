"""Amazon questions and answers: what customers ask about a product, and what others answer.

Two releases hold them. McAuley's `qa_CATEGORY.json.gz` has one Python dict literal a line, with
one answer (or, in `QA_CATEGORY_multiple.json.gz`, all questions of a product with all answers).
AmazonQA's `{train,val,test}-qar.jsonl` has one JSON object a line: a question with its answers.
"""

import ast
import html
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whytune.corpora import files
from whytune.corpora.corpus import About, Item
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import cuts
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
_EXPECTED = (
    "McAuley's qa_CATEGORY.json.gz (a Python dict literal a line) or AmazonQA's "
    "{train,val,test}-qar.jsonl"
)
_PATTERNS = tuple(
    stem + end
    for stem in ("[qQ][aA]_*.json", "train-qar.jsonl", "val-qar.jsonl", "test-qar.jsonl")
    for end in ("", ".gz")
)
_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}
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
    cuts.part(name, spec, ABOUT)
    cuts.refuse_languages(name, spec, ABOUT)
    for file, known_as, split in cuts.parted(cuts.found(path, _PATTERNS, _EXPECTED), _split):
        with cuts.readable(file, ledger, _EXPECTED):
            for number, line in files.lines(file, ledger, name=known_as):
                if not line.strip():
                    continue
                ledger.rows += 1
                try:
                    row = _row(line)
                    pairs = list(_pairs(row))
                    asin = cuts.text(row, "asin")
                except ValueError as error:
                    ledger.quarantine(known_as, number, str(error), line)
                    continue
                if not pairs:
                    ledger.counts[_NO_ANSWER] += 1
                for pair in pairs:
                    question, answer = (_plain(text, ledger) for text in pair)
                    conversation = cuts.Conversation(
                        source=_category(file, row),
                        group=asin,
                        said=[("user", question), ("assistant", answer)],
                        split=split,
                        line=number,
                    )
                    yield from cuts.examples(NAME, conversation, spec, ledger)


def _row(line: str) -> dict[str, Any]:
    row = _value(line)
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}, expected a JSON object or a dict literal")
    return row


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            # A stray backslash is a backslash; Python would warn of it as of a program's.
            warnings.simplefilter("ignore")
            return ast.literal_eval(line.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("neither JSON nor a Python dict literal; expected one a line") from None


def _pairs(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(question, answer) of a row in any of the three forms."""
    if "answer" in row:
        yield cuts.text(row, "question"), cuts.text(row, "answer")
        return
    for asked in _objects(row, "questions") if "questions" in row else [row]:
        question = cuts.text(asked, "questionText")
        for answer in _objects(asked, "answers"):
            yield question, cuts.text(answer, "answerText")


def _objects(row: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = row.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"found no `{key}`, expected a list of objects")
    return found


def _plain(text: str, ledger: Ledger) -> str:
    plain = html.unescape(text)
    if plain != text:
        ledger.counts[_ENTITIES] += 1
    return plain.strip()


def _category(path: Path, row: Mapping[str, Any]) -> str:
    category = row.get("category")
    if isinstance(category, str) and category.strip():
        return category.strip()
    named = re.fullmatch(r"(?i:qa)_(.+?)(?:_multiple)?\.json(?:\.gz)?", path.name)
    return named[1] if named else NAME


def _split(path: Path) -> Split | None:
    return _SPLITS.get(path.name.split("-qar.")[0])
