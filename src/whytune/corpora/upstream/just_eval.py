"""just-eval (Lin et al., ICLR 2024): GPT-4's five scores of an answer, each with its reason.

Reads the files of `leaderboard/eval_results`: a JSON list each, an item with `input`,
`output_cand` and `parsed_result.ASPECT.{reason,score}`. Scores are texts from "1" to "5", or
"N/A", which is no label. The separate judgements of safety are left out. There is no split; it is
drawn by instruction. A model judged, so there is no gold.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from whytune.corpora.corpus import About, Item
from whytune.corpora.identity import content_id, normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import asked, fields, labelled, reading, release
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Reply, Task, Turn

ABOUT = About(
    title="just-eval",
    format="JSON lists of judged answers",
    size="800 answers of each judged model, five scores each, and 200 judged for safety",
    licence="MIT",
    get="https://github.com/Re-Align/just-eval/tree/main/leaderboard/eval_results",
    citation=(
        "Lin, Ravichander, Lu, Dziri, Sclar, Chandu, Bhagavatula, Choi: The Unlocking Spell on "
        "Base LLMs: Rethinking Alignment via In-Context Learning, ICLR 2024, "
        "https://arxiv.org/abs/2312.01552"
    ),
    tasks=("helpfulness", "clarity", "factuality", "depth", "engagement"),
)
_SCALE = (1.0, 5.0)
SAFETY = "judgements are about safety and were left out"
NOT_APPLICABLE = "scores are N/A and became no label"
UNSCORED = "answers have no score for what is asked and were left out"


def read(
    name: str, path: Path, tasks: Sequence[Task], spec: CorpusSpec, ledger: Ledger
) -> Iterator[Item]:
    """Every judged answer as an example, every score and reason as a reply.

    Raises:
        CorpusError: no file is there, one is no JSON list, or something is asked that they do not
            hold.
    """
    asked.check(name, ABOUT, tasks, spec)
    asked.check_ordinal(name, tasks)

    def items(row: dict[str, Any]) -> Iterator[Item]:
        result = row.get("parsed_result")
        if not isinstance(result, dict):
            raise ValueError("found no `parsed_result`, expected an object")
        if "safety" in result:
            ledger.counts[SAFETY] += 1
        elif item := _item(row, result, tasks, ledger):
            yield item
        else:
            ledger.counts[UNSCORED] += 1

    for file in release.found(path, ["*.json"], ABOUT.title):
        yield from reading.items(reading.json_rows(file, ledger), items, ledger)


def _item(
    row: dict[str, Any], result: dict[str, Any], tasks: Sequence[Task], ledger: Ledger
) -> Item | None:
    turns = (
        Turn(role="user", text=fields.text(row, "input", strip=False)),
        Turn(role="assistant", text=fields.text(row, "output_cand", strip=False)),
    )
    identity = content_id("just_eval", turns)
    judge = _judge(row)
    given = [_reply(identity, result, task, judge) for task in tasks]
    replies = tuple(reply for reply in given if reply is not None)
    if len(replies) < len(given):
        ledger.counts[NOT_APPLICABLE] += len(given) - len(replies)
    if not replies:
        return None
    return Item(
        example=Example(
            id=identity, source=_model(row), group=normal(turns[0].text), turns=turns
        ),
        replies=replies,
    )  # fmt: skip


def _reply(identity: str, result: dict[str, Any], task: Task, judge: str) -> Reply | None:
    """None where the aspect does not apply."""
    aspect = result.get(task.name)
    if not isinstance(aspect, dict):
        raise ValueError(f"found no `parsed_result.{task.name}`, expected score and reason")
    if aspect.get("score") == "N/A":
        return None
    return labelled.reply(
        identity, task, fields.number(aspect.get("score"), _SCALE),
        teacher=judge, prompt="just_eval", why=fields.optional_text(aspect, "reason"),
        scale=_SCALE,
    )  # fmt: skip


def _judge(row: dict[str, Any]) -> str:
    config = row.get("eval_config")
    return fields.text(config if isinstance(config, dict) else {}, "gpt")


def _model(row: dict[str, Any]) -> str:
    """Who answered; upstream writes the path of its answers' file."""
    return fields.text(row, "generator_cand").rpartition("/")[2].removesuffix(".json")
