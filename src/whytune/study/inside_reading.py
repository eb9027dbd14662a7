"""What is read from students about their inside, once: the lens over their test answers, and how far
their adapters move each matrix of the base.

It stands beside each run, as `lens.parquet` and `deltas.parquet`; each file says what it was read
from, and is read anew where that has changed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whytune import pipeline, store, taught
from whytune.errors import ModelError
from whytune.progress import Progress
from whytune.recipe import Inside, Recipe, digest
from whytune.records import Example
from whytune.study import elsewhere
from whytune.study.inside_who import Cohort, Setting

if TYPE_CHECKING:
    from whytune.student.models import Student

LENS, TOKENS, DELTAS = "lens.parquet", "lens-tokens.parquet", "deltas.parquet"
_VERSION = 1
"""Of what is read; files of other versions are read anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An adapter that is not read yet."""

    cohort: Cohort
    recipe: Recipe
    adapter: Path
    place: Path
    examples: Sequence[Example]
    base: bool
    """Read the same prompts without the adapter, too."""
    explanation: bool
    mark: str


def weigh(setting: Setting) -> None:
    """Write `deltas.parquet` of every student: a row for each matrix that its adapter moves.

    Raises:
        ModelError: an adapter that cannot be read (`evidence.adapters.read`).
    """
    from whytune.evidence import adapters
    from whytune.evidence.deltas import changes

    for cohort in setting.cohorts.values():
        for member in cohort.members:
            mark = digest([_VERSION, _weights(member.adapter)])
            if store.read_mark(member.place / DELTAS) != mark:
                rows = [store.plain(one) for one in changes(adapters.read(member.adapter))]
                store.write_table(member.place / DELTAS, rows, mark)


def read(setting: Setting, how: Inside, show: Progress) -> list[str]:
    """Write `lens.parquet` of every student, and of what was kept of it on the way.

    Args:
        setting: with materials.
        how: how much is read.
        show: how long it takes.

    Returns:
        What could not be read, a sentence each.

    Raises:
        ModelError: another base than an adapter was taught on.
        EncodingError: a prompt cannot be encoded.
    """
    readable = [one for one in setting.cohorts.values() if not one.head]
    told = [f"{one.arm}: answers by a head, so no block has words to read."
            for one in setting.cohorts.values() if one.head]  # fmt: skip
    by_model: dict[str, list[_Wanted]] = {}
    for wanted in _wanted(setting, readable, how):
        if store.read_mark(wanted.place / LENS) != wanted.mark:
            model = wanted.recipe.model_dump_json(include={"model", "prompt", "train"})
            by_model.setdefault(model, []).append(wanted)
    if not by_model:
        return told
    pipeline.require_torch()
    from whytune.student import models

    for missing in by_model.values():
        recipe = missing[0].recipe
        base = models.load(models.find(recipe.model, log=show.say), recipe.prompt, recipe.train)
        with show.work(f"{setting.name}: reading block by block",
                       sum(len(one.examples) for one in missing)) as advance:  # fmt: skip
            for one in missing:
                with elsewhere.attached(one.recipe, _arm(one), base, one.adapter) as student:
                    _read(setting, one, how, student, advance)
    return told


def _wanted(setting: Setting, cohorts: Sequence[Cohort], how: Inside) -> Iterator[_Wanted]:
    based = set()
    for cohort in cohorts:
        assert cohort.recipe is not None
        for member in cohort.members:
            # The base says the same to all who are asked alike.
            asked = taught.prompting(cohort.recipe, _arm_of(cohort)).model_dump_json()
            base = (cohort.layout, asked) not in based
            based.add((cohort.layout, asked))
            places = [(member.adapter, member.place, how.examples, how.explanation, base)]
            places += [(adapter, adapter, how.along, False, False)
                       for adapter in member.moments.values() if how.along]  # fmt: skip
            for adapter, place, count, explanation, with_base in places:
                examples = setting.examples[:count]
                yield _Wanted(
                    cohort=cohort, recipe=cohort.recipe, adapter=adapter, place=place,
                    examples=examples, base=with_base, explanation=explanation,
                    mark=_mark(setting, cohort, adapter, examples, how, explanation, with_base),
                )  # fmt: skip


def _arm_of(cohort: Cohort) -> str:
    """The arm whose instruction its students were taught with; adapters from elsewhere have none."""
    assert cohort.recipe is not None
    return cohort.arm if cohort.arm in cohort.recipe.arms else next(iter(cohort.recipe.arms))


def _arm(wanted: _Wanted) -> str:
    return _arm_of(wanted.cohort)


def _mark(
    setting: Setting, cohort: Cohort, adapter: Path, examples: Sequence[Example], how: Inside,
    explanation: bool, base: bool,
) -> str:  # fmt: skip
    """Changes with anything that the readings depend on."""
    recipe = cohort.recipe
    assert recipe is not None
    return digest([
        _VERSION, _weights(adapter), recipe.model, cohort.layout, how.norm, explanation, base,
        taught.prompting(recipe, _arm_of(cohort), asked=True).model_dump(mode="json"),
        recipe.predict.max_new_tokens, [store.plain(task) for task in setting.tasks],
        [[e.id, e.group, store.plain(e.turns)] for e in examples],
        [{e.id: store.plain(m.references[e.id]) for e in examples if e.id in m.references}
         for m in setting.materials],
    ])  # fmt: skip


def _weights(adapter: Path) -> list[str]:
    """SHA-256 of an adapter's files."""
    from whytune.evidence.adapters import CONFIG, WEIGHTS

    try:
        return [store.sha256(adapter / name) for name in (CONFIG, WEIGHTS)]
    except OSError:
        raise ModelError(
            f"{adapter}: found no {CONFIG} with {WEIGHTS}, expected a PEFT folder with safetensors; "
            "save the adapter with save_pretrained"
        ) from None


def _read(
    setting: Setting, one: _Wanted, how: Inside, student: "Student", advance: Callable[[int], None]
) -> None:
    from whytune.evidence.lens import lens
    from whytune.evidence.lens_rows import by_block, by_token

    gold = {
        m.task.name: {e.id: m.references[e.id].label for e in one.examples if e.id in m.references}
        for m in setting.materials
    }
    readings = lens(
        student, one.examples, list(setting.tasks), one.cohort.layout, gold,
        batch_size=one.recipe.predict.per_device_eval_batch_size, norm=how.norm, base=one.base,
        explanation=one.explanation, max_new_tokens=one.recipe.predict.max_new_tokens,
        advance=advance,
    )  # fmt: skip
    groups = {example.id: example.group for example in one.examples}
    if one.explanation:
        words = [
            {**row, "text": student.encoder.decode((row["token"],))}
            for row in by_token(readings) if row["part"] == "explanation" and not row["final_top"]
        ]  # fmt: skip
        store.write_table(one.place / TOKENS, words, one.mark)
    # The last file to be written says that all of them are there.
    rows = [{**row, "group": groups[row["example_id"]]} for row in by_block(readings)]
    store.write_table(one.place / LENS, rows, one.mark)
