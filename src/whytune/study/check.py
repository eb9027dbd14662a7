"""What would go wrong silently, found before anything is taught.

Reads the data, tokenises every lesson, proves its mask, and times one update. Faults would make
the figures wrong; remarks are for the reader to judge.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whytune import pipeline
from whytune.errors import EncodingError
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Lesson, Split
from whytune.student.prompting import conversation_text

if TYPE_CHECKING:
    from whytune.student.encode import Bundle, Encoder
    from whytune.student.models import Student

SHOWN = 2
"""Lessons per arm whose mask is shown."""
RARE = 0.02
"""Share of the lessons below which a label is called rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a lesson as the student sees it."""

    part: str
    """`prompt`, `label`, `explanation` or `frame`; all but the prompt are supervised."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """One real lesson, in pieces."""

    arm: str
    example_id: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one arm costs to teach, per student."""

    arm: str
    lessons: int
    tokens_per_epoch: int
    longest: int
    """Tokens of the longest lesson."""
    cut: int
    """Lessons whose conversation lost its middle."""
    updates: int
    seconds: float
    """All epochs, from one timed update; without the measurements in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a check found about one corpus and task."""

    corpus: str
    task: str
    parts: Mapping[str, int]
    """Split -> examples."""
    labels: Mapping[str, int]
    """Label -> lessons."""
    label_ids: Mapping[str, tuple[int, ...]]
    reference: str
    faults: tuple[str, ...]
    remarks: tuple[str, ...]
    masks: tuple[Masked, ...] = ()
    loads: tuple[Load, ...] = ()


def check(recipe: Recipe, show: Progress) -> list[Findings]:
    """Look at every corpus and task of a recipe.

    Raises:
        WhytuneError: the data or the model cannot be had at all.
    """
    materials = gather(recipe)
    pipeline.require_torch()
    from whytune.student import models

    base = models.find(recipe.model, log=show.say)
    student = models.load(base, recipe.prompt, dtype=recipe.train.dtype,
                          load_in_4bit=recipe.train.load_in_4bit)  # fmt: skip
    student = models.adapt(student, recipe.train, recipe.seeds[0])
    return [_findings(recipe, material, student) for material in materials.values()]


def _findings(recipe: Recipe, material: Material, student: "Student") -> Findings:
    faults = list(leaks(material))
    masks: list[Masked] = []
    loads: list[Load] = []
    label_ids: dict[str, tuple[int, ...]] = {}
    try:
        label_ids = student.encoder.labels(material.task)
        for arm, lessons in material.lessons.items():
            bundles = pipeline.encode(student, lessons)
            masks += [
                _masked(arm, lesson, bundle, student.encoder)
                for lesson, bundle in list(zip(lessons, bundles, strict=True))[:SHOWN]
            ]
            loads.append(_load(recipe, arm, bundles, student))
    except EncodingError as error:
        faults.append(str(error))
    taught = next(iter(material.lessons.values()))
    parts = Counter(str(e.split) for e in material.corpus.examples)
    return Findings(
        corpus=material.corpus.name, task=material.task.name,
        parts={split: parts[split] for split in Split if parts[split]},
        labels={n: sum(x.label == n for x in taught) for n in material.task.label_names},
        label_ids=label_ids, reference=material.reference, faults=tuple(faults),
        remarks=tuple(_remarks(material, taught)), masks=tuple(masks), loads=tuple(loads),
    )  # fmt: skip


def leaks(material: Material) -> Iterator[str]:
    """Texts that stand both where is taught and where is measured."""
    splits: dict[str, set[str]] = defaultdict(set)
    for example in material.corpus.examples:
        text = conversation_text(example.turns, None).casefold()
        splits[" ".join(text.split())].add("train" if example.split is Split.TRAIN else "held out")
    both = sum(len(found) == 2 for found in splits.values())
    if both:
        yield (
            f"corpora.{material.corpus.name}: {both} text(s) stand both in the training part and "
            "in a held-out part, so figures would be too good; give the duplicates one group "
            "(columns.group) or remove them"
        )


def _remarks(material: Material, taught: Sequence[Lesson]) -> Iterator[str]:
    yield from material.corpus.notes
    for reason, count in material.dropped.items():
        yield f"{count} training examples are taught in no arm: {reason}"
    texts = Counter(conversation_text(lesson.example.turns, None) for lesson in taught)
    if repeated := sum(count - 1 for count in texts.values()):
        yield f"{repeated} training examples repeat the text of another"
    counts = Counter(lesson.label for lesson in taught)
    for name in material.task.label_names:
        if counts[name] < RARE * len(taught):
            yield f"label {name!r} is rare: {counts[name]} of {len(taught)} lessons"
    top, most = counts.most_common(1)[0]
    yield f"always answering {top!r} would be right for {most / len(taught):.0%} of the lessons"


def _masked(arm: str, lesson: Lesson, bundle: "Bundle", encoder: "Encoder") -> Masked:
    """Neighbouring tokens of one part, decoded together."""
    branch = bundle.branches[0]
    runs: list[tuple[str, list[int]]] = [("prompt", list(bundle.prefix))]
    for token, part in zip(branch.ids, branch.parts, strict=True):
        if runs[-1][0] != part:
            runs.append((str(part), []))
        runs[-1][1].append(token)
    pieces = tuple(Piece(part=part, text=encoder.decode(ids, special=True)) for part, ids in runs)
    return Masked(arm=arm, example_id=lesson.example.id, pieces=pieces)


def _load(recipe: Recipe, arm: str, bundles: "Sequence[Bundle]", student: "Student") -> Load:
    from whytune.student import train

    per_epoch = sum(map(len, bundles))
    size = recipe.train.per_device_train_batch_size
    sample = sorted(bundles, key=len)[len(bundles) // 2 :][:size]
    student.model.train()
    train.token_nll(student, [min(bundles, key=len)]).mean().backward()  # the first pass is slow
    started = time.perf_counter()
    train.token_nll(student, sample).mean().backward()
    seconds = time.perf_counter() - started
    student.model.zero_grad()
    speed = sum(map(len, sample)) / seconds
    return Load(
        arm=arm, lessons=len(bundles), tokens_per_epoch=per_epoch,
        longest=max(map(len, bundles)), cut=sum(bundle.cut > 0 for bundle in bundles),
        updates=train.schedule(len(bundles), recipe.train),
        seconds=per_epoch * recipe.train.num_train_epochs / speed,
    )  # fmt: skip
