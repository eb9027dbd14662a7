"""HaluQuestQA (Sachdeva et al., 2024): answers of people and GPT-4 marked by experts: a golden set.

Reads `HaluQuestQA.csv`, which is separated by TAB: a question a row, with two answers. An
expert marked the sentences of each that are incomplete, and why. comprehensiveness is the
completeness (0 to 1, the share of sentences that are not marked); the experts' reasons are the
explanation. A few scores are below 0, where more was marked than the answer has; they are off the
scale, so those answers are left out. The other files of the release repeat this one.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Task, Turn

ABOUT = About(
    title="HaluQuestQA",
    format="one file of TAB-separated values with quoted cells",
    size="698 questions, 1,396 answers",
    licence="CC BY-SA 4.0",
    get="https://github.com/UKPLab/arxiv2024-lfqa-hallucination",
    citation=(
        "Sachdeva, Song, Iyyer, Gurevych: Localizing and Mitigating Errors in Long-form Question "
        "Answering, 2024, https://arxiv.org/abs/2407.11930"
    ),
    tasks=("comprehensiveness",),
)
_SCALE = (0.0, 1.0)
_WRITERS = {"human_answer": "human", "model_answer": "model"}
_SCORES = {writer: f"completeness_{writer}_score" for writer in _WRITERS.values()}
_COLUMNS = (
    *("question_text", "category", "ans1_text", "ans2_text", "ans1_label", "ans2_label"),
    *("incomplete_ans_reason", "incomplete_ans_label", *_SCORES.values()),
)
BELOW = "answers have a completeness below 0, off the scale, and were left out"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every answer as a test example, the expert's score and reasons as a reply.

    Raises:
        CorpusError: the file is not there or has other columns, or something is asked that it
            does not hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_ordinal(name, tasks)
    for file in release.found(path, ["HaluQuestQA.csv"], ABOUT.title):
        rows = reading.table_rows(file, ledger, "\t", _COLUMNS)
        yield from reading.items(rows, lambda row: _items(row, tasks, ledger), ledger)


def _items(row: Mapping[str, str], tasks: Sequence[Task], ledger: Ledger) -> Iterator[Item]:
    question = fields.text(row, "question_text")
    reasons, about = (
        fields.texts(row[key], f"texts as `{key}`")
        for key in ("incomplete_ans_reason", "incomplete_ans_label")
    )
    if len(reasons) != len(about):
        raise ValueError(f"found {len(reasons)} reasons about {len(about)} answers")
    for number in (1, 2):
        writer = _WRITERS[fields.one_of(row[f"ans{number}_label"], list(_WRITERS))]
        score = fields.number(row[_SCORES[writer]], (-1.0, 1.0))
        if score < 0:
            ledger.counts[BELOW] += 1
            continue
        own = [why.strip() for why, which in zip(reasons, about, strict=True)
               if which == f"answer{number}"]  # fmt: skip
        answer = fields.text(row, f"ans{number}_text")
        yield labelled.golden(
            "golden_haluquestqa",
            (Turn(role="user", text=question), Turn(role="assistant", text=answer)),
            {
                "comprehensiveness": labelled.Ratings(
                    scores=[score], teachers=["expert"], scale=_SCALE, why="\n".join(own) or None
                )
            },
            tasks, source=row["category"], group=normal(question),
        )  # fmt: skip
