"""Ray's documentation assistant (Mohandas and Moritz, 2023): GPT-4's score of an answer, and why.

Reads `experiments/evaluations/*_gpt-4.json`, each an object with `config` and `results`, a result
with `question`, `generated_answer`, `reference_answer`, `score` (1 to 5, also halves) and
`reasoning`. Parts:

* `with_reference`: question, reference answer, generated answer. The judge saw the reference, and
  its reasons often name it, so a student who is to give such reasons should see it too (an
  empty reference is no turn);
* `without_reference`: question and generated answer, for judges that have no reference;
* `two_judges`: an older release, in which two models judged the same answers, two files a system
  (`SYSTEM_JUDGE.json`); question, reference answer, generated answer.

Groups are questions: systems differ in little but retrieval, so their answers are near-duplicates.
There is no split; it is drawn. Models judged, so there is no gold.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import content_id, normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Task, Turn

ABOUT = About(
    title="Ray's LLM applications",
    format="JSON files, one a judged system; plain or gzipped",
    size="8,502 judged answers to 179 questions; two_judges: 756 answers",
    licence="CC BY 4.0 (Anyscale)",
    get="https://github.com/ray-project/llm-applications/tree/main/experiments/evaluations",
    citation=(
        "Mohandas, Moritz: Building RAG-based LLM Applications for Production, Anyscale 2023, "
        "https://github.com/ray-project/llm-applications"
    ),
    tasks=("answer_quality",),
    parts=("with_reference", "without_reference", "two_judges"),
)
_SCALE = (1.0, 5.0)
_FOLDERS = ("", "evaluations/", "evaluations_more/", "experiments/evaluations/")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judgement:
    turns: tuple[Turn, ...]
    judge: str
    score: float
    why: str | None


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every judged answer as an example, every judge's score and reasoning as a reply.

    Raises:
        CorpusError: no file is there, one is no JSON object of results, or something is asked that
            they do not hold.
    """
    part = asked.check(name, ABOUT, tasks, spec)
    asked.check_ordinal(name, tasks)
    if part == "two_judges":
        patterns = ["*_*.json", "two_judges_history/*_*.json"]
    else:
        patterns = [f"{folder}*_gpt-4.json" for folder in _FOLDERS]
    systems: dict[str, list[release.File]] = defaultdict(list)
    for file in release.found(path, patterns, ABOUT.title):
        systems[file.plain.rpartition("_")[0]].append(file)  # one file a judge
    judged = partial(_judgements, with_reference=part != "without_reference", ledger=ledger)
    for system, own in systems.items():
        yield from _items(system, [said for file in own for said in judged(file)], tasks)


def _judgements(file: release.File, with_reference: bool, ledger: Ledger) -> Iterator[_Judgement]:
    value = reading.json_file(file, ledger)
    config = value.get("config") if isinstance(value, dict) else None
    judge = config.get("evaluator") if isinstance(config, dict) else None
    if not isinstance(judge, str):
        raise CorpusError(
            f"{file.path}: found no `config.evaluator`, expected an object with `config` and "
            "`results`; fetch upstream's file"
        )
    results = reading.listed(value, file, "results")
    rows = reading.object_rows(results, file, ledger, "result")
    one = partial(_judgement, judge=judge.rpartition("/")[2], with_reference=with_reference)
    return (row.value for row in reading.parsed(rows, one, ledger))


def _judgement(row: dict[str, Any], judge: str, with_reference: bool) -> _Judgement:
    said = {
        "user": fields.text(row, "question"),
        "reference": fields.optional_text(row, "reference_answer") if with_reference else None,
        "assistant": fields.text(row, "generated_answer"),
    }
    return _Judgement(
        turns=tuple(Turn(role=role, text=text) for role, text in said.items() if text),
        judge=judge,
        score=fields.number(row.get("score"), _SCALE),
        why=fields.optional_text(row, "reasoning"),
    )


def _items(system: str, judgements: Sequence[_Judgement], tasks: Sequence[Task]) -> Iterator[Item]:
    """One example for each answer, with every judge's reply."""
    times: Counter[tuple[tuple[Turn, ...], str]] = Counter()
    # What one judge said twice about the same answer are two examples, for the caller to find.
    same: dict[tuple[tuple[Turn, ...], int], list[_Judgement]] = defaultdict(list)
    for judgement in judgements:
        key = judgement.turns, judgement.judge
        same[judgement.turns, times[key]].append(judgement)
        times[key] += 1
    for (turns, _), own in same.items():
        identity = content_id("ray_llm", turns)
        yield Item(
            example=Example(
                id=identity, source=system, group=normal(turns[0].text), turns=turns
            ),
            replies=tuple(
                labelled.reply(
                    identity, task, judgement.score,
                    teacher=judgement.judge, prompt="ray_llm", why=judgement.why, scale=_SCALE,
                )
                for task in tasks
                for judgement in own
            ),
        )  # fmt: skip
