"""The reason generator of a recipe: what it learns, and its folder.

`run.json` says what it was taught from which inputs, how well it knows held-out reasons, and a
digest of all that it depends on; a finished one is not taught again.
"""

import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whytune import store
from whytune.corpora import explained
from whytune.corpora.explained import Explained
from whytune.corpora.identity import hash_order, normal
from whytune.errors import CorpusError, FolderError, ModelError, RecipeError, TeachingError
from whytune.material import Merged, merged
from whytune.progress import Progress
from whytune.recipe import Generator, Recipe, digest
from whytune.records import Example, Split

if TYPE_CHECKING:
    from whytune.student.models import Student

_HELD_OUT = "texts that the recipe holds out were left out of the lessons"
_UNEXPLAINED = "examples without an explanation were left out of the lessons"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What the generator learns from."""

    training: list[Explained]
    held_out: list[Explained]
    """The validation part, or without one the test part; in an order that mixes the corpora."""
    inputs: dict[str, Mapping[str, str]]
    """Corpus -> file name -> SHA-256."""
    notes: dict[str, Sequence[str]]
    """Corpus -> what was left out and why."""


def checked(recipe: Recipe) -> tuple[Generator, Path]:
    """The recipe's generator and its folder of reasons.

    Raises:
        RecipeError: it has no generator, or one that cannot be taught as written.
    """
    settings = recipe.generator
    if settings is None:
        raise RecipeError(
            f"{recipe.name}: found no generator, expected who writes the reasons; add `generator: "
            "{corpora: {…}}` with explained answers to learn from"
        )
    labelled = [name for name, spec in settings.corpora.items()
                if not explained.is_open(name, spec, bool(settings.tasks))]  # fmt: skip
    if labelled and not settings.tasks:
        raise RecipeError(
            f"generator.tasks: missing; the answers of generator.corpora.{labelled[0]} are labels, "
            "so say of which tasks"
        )
    train = settings.train
    if train.report_to:
        raise RecipeError(
            f"generator.train.report_to: found {', '.join(train.report_to)}, expected none; trackers "
            "are told of students alone: drop it here, train.report_to has them"
        )
    if train.load_best_model_at_end or train.early_stopping_patience is not None:
        for name, spec in settings.corpora.items():
            if not spec.validation:
                raise RecipeError(
                    "generator.train: choosing a checkpoint needs a validation part; set "
                    f"generator.corpora.{name}.validation, or drop load_best_model_at_end and "
                    "early_stopping_patience"
                )
    return settings, Path(recipe.reasons or f"{recipe.name}.reasons")


def lessons(recipe: Recipe, settings: Generator, said: Mapping[tuple[str, str], Merged]) -> Lessons:
    """Read and merge what the generator learns from.

    What the recipe itself holds out is not learned from, whatever part it is in here: no text of it
    (case and white space apart), and of the same files no group of it.

    Args:
        recipe: whose generator.
        settings: the generator.
        said: what the recipe's own corpora say, of `material.merged`.

    Raises:
        CorpusError, TeachingError: it cannot be read, or holds nothing to learn or to measure on.
    """
    held, groups = _held_out(said)
    found: dict[str, explained.Reading] = {}
    labelled = dict(settings.corpora)
    try:
        for name, spec in settings.corpora.items():
            if explained.is_open(name, spec, bool(settings.tasks)):
                found[name] = explained.open_answers(name, labelled.pop(name))
        found |= _of_labels(recipe, settings, labelled)
    except (CorpusError, TeachingError) as error:
        raise type(error)(f"generator: {error}") from None
    parts: dict[Split, list[Explained]] = defaultdict(list)
    notes: dict[str, Sequence[str]] = {}
    for name, reading in found.items():
        same = {group for file in reading.inputs.values() for group in groups.get(file, ())}
        kept = [one for one in reading.lessons if one.example.split is Split.TEST
                or (_text(one.example) not in held and one.example.group not in same)]  # fmt: skip
        missing = len(reading.lessons) - len(kept)
        notes[name] = [*reading.notes, *([f"{missing} {_HELD_OUT}."] if missing else [])]
        for lesson in kept:
            assert lesson.example.split is not None
            parts[lesson.example.split].append(lesson)
    held_out = parts[Split.VALIDATION] or parts[Split.TEST]
    for what, own in (("training", parts[Split.TRAIN]), ("held-out", held_out)):
        if not own:
            left = "; ".join(note for own in notes.values() for note in own)
            raise TeachingError(
                f"generator.corpora: no {what} example of {', '.join(found)} is left that has an "
                f"answer with a reason ({left or 'nothing was left out'}); expected some; take more "
                "examples, or corpora with explanations"
            )
    return Lessons(
        training=parts[Split.TRAIN],
        held_out=hash_order(held_out, lambda one: one.example.id, settings.seed),
        inputs={name: reading.inputs for name, reading in found.items()}, notes=notes,
    )  # fmt: skip


def _held_out(said: Mapping[tuple[str, str], Merged]) -> tuple[set[str], dict[str, set[str]]]:
    """Texts that the recipe holds out, and by the SHA-256 of a file their groups."""
    texts: set[str] = set()
    groups: dict[str, set[str]] = defaultdict(set)
    for one in said.values():
        own = [example for example in one.corpus.examples if example.split is not Split.TRAIN]
        texts |= {_text(example) for example in own}
        for file in one.corpus.inputs.values():
            groups[file] |= {example.group for example in own}
    return texts, groups


def _text(example: Example) -> str:
    return normal("\n".join(turn.text for turn in example.turns))


def _of_labels(
    recipe: Recipe, settings: Generator, corpora: Mapping[str, Any]
) -> dict[str, explained.Reading]:
    """The verdicts that come with corpora whose answers are labels, with their assessments."""
    plain = {"corpora": corpora, "tasks": settings.tasks, "teachers": {}, "merge": "average",
             "merger": None, "journal": None}  # fmt: skip
    found: dict[str, explained.Reading] = {}
    for (name, _), one in merged(recipe.model_copy(update=plain)).items():
        lessons = []
        for example in one.corpus.examples:
            verdict = one.verdicts.get(example.id)
            if verdict and verdict.label and verdict.assessment:
                lessons.append(Explained(
                    example=example, question=one.task.question, answer=verdict.label,
                    reason=explained.one_line(verdict.assessment),
                ))  # fmt: skip
        missing = len(one.corpus.examples) - len(lessons)
        before = found.get(name) or explained.Reading(
            lessons=(), inputs=dict(one.corpus.inputs), notes=one.corpus.notes
        )
        note = (f"{one.task.name}: {missing} {_UNEXPLAINED}.",) if missing else ()
        found[name] = replace(
            before, lessons=(*before.lessons, *lessons), notes=(*before.notes, *note)
        )
    return found


def fingerprint(recipe: Recipe, settings: Generator, lessons: Lessons) -> str:
    """Changes with anything that the generator depends on."""
    return digest({
        "model": settings.model or recipe.model,
        **{part: [[store.plain(one.example.turns), one.question, one.answer, one.reason]
                  for one in getattr(lessons, part)] for part in ("training", "held_out")},
        "seed": settings.seed,
        "prompt": recipe.prompt.model_dump(mode="json"),
        "train": settings.train.effective(),
    })  # fmt: skip


def taught_before(place: Path, mark: str) -> dict[str, Any] | None:
    """What a finished generator says about itself; None where there is none, or half of one.

    Raises:
        FolderError: there is one of another fingerprint.
    """
    if not (place / "run.json").exists():
        return None
    facts: dict[str, Any] = store.read_json(place / "run.json")
    if facts.get("digest") != mark:
        raise FolderError(
            f"{place}: taught by another recipe or from other data; delete it, or name another "
            "folder in `reasons:`"
        )
    return facts if facts.get("state") == "finished" else None


def ready(
    recipe: Recipe, settings: Generator, lessons: Lessons, mark: str, place: Path, show: Progress
) -> "tuple[Student, dict[str, Any]]":
    """The generator, loaded or taught, and its `run.json`.

    Args:
        recipe: whose prompt it reads.
        settings: the generator.
        lessons: what it learns.
        mark: its `fingerprint`.
        place: its folder.
        show: how long it takes.

    Raises:
        FolderError: another generator lies there.
        ModelError: the base cannot be had, or is not the one that the adapter was taught on.
        EncodingError, TrainingError: as `generator.teach`.
    """
    from whytune.student import models

    name = settings.model or recipe.model
    base = models.load(models.find(name, log=show.say), recipe.prompt, settings.train)
    facts = taught_before(place, mark)
    if facts is not None:
        told = store.read_json(place / "adapter" / "whytune.json")
        if told["base_digest"] != base.base.digest:
            raise ModelError(
                f"{place}: its adapter was taught on other weights of {name}; get those, or delete "
                "the folder"
            )
        show.say(f"generator: taught before ({place})")
        return models.attach(base, place / "adapter"), facts
    return _teach(models.adapt(base, settings.train, settings.seed), settings, lessons, mark, place,
                  show)  # fmt: skip


def _teach(
    student: "Student", settings: Generator, lessons: Lessons, mark: str, place: Path,
    show: Progress,
) -> "tuple[Student, dict[str, Any]]":  # fmt: skip
    from whytune.student import generator, models, train

    started = time.perf_counter()
    facts: dict[str, Any] = {
        "state": "started", "digest": mark, **store.provenance(),
        "model": {"name": student.base.name, "digest": student.base.digest},
        "lessons": len(lessons.training), "held_out": len(lessons.held_out),
        "inputs": lessons.inputs, "notes": lessons.notes, "seed": settings.seed,
        "adapter_init": models.fingerprint(student),
    }  # fmt: skip
    store.write_json(place / "run.json", facts)
    updates = train.schedule(len(lessons.training), settings.train)
    with show.work("generator: teaching", updates) as advance:
        done = 0

        def advance_to(step: int, loss: float) -> None:
            nonlocal done
            advance(step - done, f"loss {loss:.3f}")
            done = step

        taught = generator.teach(
            student, lessons.training, lessons.held_out, settings.train, seed=settings.seed,
            folder=place / "checkpoints", advance=advance_to,
        )  # fmt: skip
    models.save_adapter(student, place / "adapter", {
        "base": student.base.name, "base_digest": student.base.digest,
        "prompt": student.encoder.prompting.model_dump(mode="json"),
        "prompt_digest": student.encoder.digest, "max_new_tokens": settings.max_new_tokens,
        "load_in_4bit": settings.train.load_in_4bit, "dtype": settings.train.dtype,
    })  # fmt: skip
    store.write_jsonl(place / "history.jsonl", taught.history)
    facts |= {
        "state": "finished", "reason_nll": {"before": taught.before, "after": taught.after},
        "updates": taught.updates, "tokens": taught.tokens,
        "seconds": time.perf_counter() - started, "peak_rss_mb": store.peak_rss_mb(),
    }  # fmt: skip
    store.write_json(place / "run.json", facts)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return student, facts
