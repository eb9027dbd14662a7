"""What would go wrong silently, found before anything is taught.

Reads the data, tokenises every lesson, proves its mask, and times one update. Faults would make
the figures wrong; remarks are for the reader to judge.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from whytune import pipeline
from whytune.errors import EncodingError
from whytune.material import Material, conversations, gather, left_out
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Lesson, Split
from whytune.student.prompting import conversation_text
from whytune.study import grid

if TYPE_CHECKING:
    from whytune.student.encode import Bundle, Encoder
    from whytune.student.models import Student

SHOWN = 2
"""Conversations per arm whose lessons' mask is shown."""
RARE = 0.02
"""Share of the lessons below which a label is called rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a conversation and its lessons as the student sees them."""

    part: str
    """`prompt`, `label`, `explanation` or `frame`; all but the prompt are supervised."""
    text: str
    branch: int
    """Whose lesson: the index of its branch. The conversation, which all see, begins the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """One real conversation with all its lessons, in pieces."""

    arm: str
    example_id: str
    tasks: tuple[str, ...]
    """What each branch asks. A branch sees the conversation and itself, never another branch."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one arm costs to teach, per student."""

    arm: str
    task: str
    """What the student learns: a task, or those taught jointly with a plus between."""
    lessons: int
    conversations: int
    """What the lessons are about; each is read once, whatever the number of its lessons."""
    tokens_per_epoch: int
    longest: int
    """Tokens of the longest conversation with all its lessons."""
    cut: int
    """Conversations that lost their middle."""
    updates: int
    seconds: float
    """All epochs, from one timed update; without the measurements in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a check found about one corpus and task.

    Masks and loads are of whole students; with joint teaching they stand with the last task.
    """

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
    student = models.load(base, recipe.prompt, recipe.train)
    student = models.adapt(student, recipe.train, recipe.seeds[0])
    found: list[Findings] = []
    asked = grid.cells(recipe, materials)
    for corpus, tasks in dict.fromkeys((cell.corpus, cell.tasks) for cell in asked):
        own = [materials[corpus, task] for task in tasks]
        *others, last = (_of_task(recipe, material, student) for material in own)
        found += [*others, _of_students(recipe, own, student, last)]
    return found


def _of_students(
    recipe: Recipe, materials: Sequence[Material], student: "Student", findings: Findings
) -> Findings:
    """The findings with the masks and loads of those who learn these tasks, one student an arm."""
    masks: list[Masked] = []
    loads: list[Load] = []
    faults = list(findings.faults)
    try:
        for arm in recipe.arms:
            bundles = pipeline.encode(student, materials, arm)
            about = conversations(materials, arm)
            masks += [
                _masked(arm, lessons, bundle, student.encoder)
                for lessons, bundle in list(zip(about, bundles, strict=True))[:SHOWN]
            ]
            loads.append(_load(recipe, arm, about, bundles, student))
    except EncodingError as error:
        faults.append(str(error))
    return replace(findings, faults=tuple(dict.fromkeys(faults)), masks=tuple(masks),
                   loads=tuple(loads))  # fmt: skip


def _of_task(recipe: Recipe, material: Material, student: "Student") -> Findings:
    """What can be said about a task before anyone is taught it."""
    faults = list(leaks(material))
    label_ids: dict[str, tuple[int, ...]] = {}
    try:
        label_ids = student.encoder.labels(material.task)
    except EncodingError as error:
        faults.append(str(error))
    taught = next(iter(material.lessons.values()))
    parts = Counter(str(e.split) for e in material.corpus.examples)
    return Findings(
        corpus=material.corpus.name, task=material.task.name,
        parts={split: parts[split] for split in Split if parts[split]},
        labels={n: sum(x.label == n for x in taught) for n in material.task.label_names},
        label_ids=label_ids, reference=material.reference, faults=tuple(faults),
        remarks=tuple(_remarks(recipe, material, taught)),
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


def _remarks(recipe: Recipe, material: Material, taught: Sequence[Lesson]) -> Iterator[str]:
    yield from material.corpus.notes
    for what, why in left_out(recipe, material):
        yield f"{what} are taught in no arm: {why}"
    examples = {lesson.example.id: lesson.example for lesson in taught}
    texts = Counter(conversation_text(example.turns, None) for example in examples.values())
    if repeated := sum(count - 1 for count in texts.values()):
        yield f"{repeated} training examples repeat the text of another"
    counts = Counter(lesson.label for lesson in taught)
    for name in material.task.label_names:
        if counts[name] < RARE * len(taught):
            yield f"label {name!r} is rare: {counts[name]} of {len(taught)} lessons"
    top, most = counts.most_common(1)[0]
    yield f"always answering {top!r} would be right for {most / len(taught):.0%} of the lessons"


def _masked(arm: str, lessons: Sequence[Lesson], bundle: "Bundle", encoder: "Encoder") -> Masked:
    """Neighbouring tokens of one part, decoded together, branch after branch."""
    runs: list[tuple[int, str, list[int]]] = [(0, "prompt", list(bundle.prefix))]
    for index, branch in enumerate(bundle.branches):
        for token, part in zip(branch.ids, branch.parts, strict=True):
            if runs[-1][:2] != (index, part):
                runs.append((index, str(part), []))
            runs[-1][2].append(token)
    return Masked(
        arm=arm, example_id=lessons[0].example.id,
        tasks=tuple(lesson.task.name for lesson in lessons),
        pieces=tuple(Piece(part=part, text=encoder.decode(ids, special=True), branch=index)
                     for index, part, ids in runs),
    )  # fmt: skip


def _load(
    recipe: Recipe, arm: str, about: Sequence[Sequence[Lesson]], bundles: "Sequence[Bundle]",
    student: "Student",
) -> Load:  # fmt: skip
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
        arm=arm, task="+".join(dict.fromkeys(x.task.name for lessons in about for x in lessons)),
        lessons=sum(map(len, about)), conversations=len(bundles), tokens_per_epoch=per_epoch,
        longest=max(map(len, bundles)), cut=sum(bundle.cut > 0 for bundle in bundles),
        updates=train.schedule(len(bundles), recipe.train),
        seconds=per_epoch * recipe.train.num_train_epochs / speed,
    )  # fmt: skip
