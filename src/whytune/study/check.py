"""What would go wrong silently, found before anything is taught.

Reads the data and looks at every text, tokenises every lesson, proves its mask, and times one
update. Faults would make the figures wrong; remarks are for the reader to judge.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whytune import pipeline, taught
from whytune.corpora.identity import normal
from whytune.errors import CorpusError, EncodingError
from whytune.lint import health, texts
from whytune.lint.health import Health
from whytune.material import Material, conversations, gather, left_out, not_asked
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Example, Lesson, Split
from whytune.run_folder import Cell
from whytune.student.prompting import conversation_text
from whytune.student.targets import Part
from whytune.study import check_page, grid, quarantine, remarks
from whytune.study.findings import Findings, Load, Masked, Piece, Sheet, Tokens
from whytune.study.loads import load

if TYPE_CHECKING:
    from whytune.student.encode import Bundle, Encoder
    from whytune.student.models import Student

SHOWN = 2
"""Conversations per arm whose lessons' mask is shown."""


def check(recipe: Recipe, show: Progress, page: Path | None = None) -> list[Findings]:
    """Look at every corpus and task of a recipe.

    Args:
        recipe: what is to be taught.
        show: says what goes on.
        page: folder for the page, its tables and the rows that could not be read.

    Raises:
        WhytuneError: the data or the model cannot be had at all.
    """
    materials = _gather(recipe, page)
    pipeline.require_torch()
    from whytune.student import models

    base = models.find(recipe.model, log=show.say)
    student = models.load(base, recipe.prompt, recipe.train)
    student = models.adapt(student, recipe.train, recipe.seeds[0])
    corpora = {material.corpus.name: material.corpus for material in materials.values()}
    healths = {name: health.examine(corpus) for name, corpus in corpora.items()}
    sheets: list[Sheet] = []
    asked = [cell for cell in grid.cells(recipe, materials) if cell.seed == recipe.seeds[0]]
    for corpus, tasks in dict.fromkeys((cell.corpus, cell.tasks) for cell in asked):
        own = [materials[corpus, task] for task in tasks]
        cells = [cell for cell in asked if (cell.corpus, cell.tasks) == (corpus, tasks)]
        made = [_of_task(recipe, material, healths[corpus], student) for material in own]
        if all(material.told for material in own):
            made[-1] = _of_students(recipe, cells, own, student, made[-1])
        sheets += made
    if page is not None:
        quarantine.write(page, {name: corpus.ledger for name, corpus in corpora.items()})
        show.say(f"page: {check_page.build(page, recipe, sheets)}")
    return [sheet.findings for sheet in sheets]


def _gather(recipe: Recipe, page: Path | None) -> dict[tuple[str, str], Material]:
    """The material; where it is refused, the rows that could not be read are written first."""
    try:
        return gather(recipe, untaught=True, stand_in=True)
    except CorpusError:
        if page is not None:
            quarantine.write(page, quarantine.refused(recipe))
        raise


def _of_students(
    recipe: Recipe, cells: Sequence[Cell], materials: Sequence[Material], student: "Student",
    sheet: Sheet,
) -> Sheet:  # fmt: skip
    """The sheet with the masks and loads of those who learn these tasks, one student an arm."""
    masks: list[Masked] = []
    loads: list[Load] = []
    faults = list(sheet.findings.faults)
    try:
        for cell in cells:
            about = conversations(materials, cell.arm, cell.seed)
            bundles = taught.lessons(recipe, cell, materials, student)
            encoder = taught.encoder(recipe, cell.arm, [m.task for m in materials], student)
            masks += [
                _masked(cell.arm, lessons, bundle, encoder)
                for lessons, bundle in list(zip(about, bundles, strict=True))[:SHOWN]
            ]
        loads = load(recipe, materials, student)
    except EncodingError as error:
        faults.append(str(error))
    findings = replace(sheet.findings, faults=tuple(dict.fromkeys(faults)), masks=tuple(masks),
                       loads=tuple(loads))  # fmt: skip
    return replace(sheet, findings=findings)


def _of_task(recipe: Recipe, material: Material, found: Health, student: "Student") -> Sheet:
    """What can be said about a task before anyone is taught it."""
    faults = list(remarks.faults(material.corpus.name, found))
    explanations = _explanations(material, recipe.seeds[0])
    written = {arm: _counts(student.encoder, own) for arm, own in explanations.items()}
    label_ids: dict[str, tuple[int, ...]] = {}
    counts: tuple[int, ...] = ()
    tokens: Tokens | None = None
    try:
        label_ids = student.encoder.labels(material.task)
        counts, cut = _texts(recipe, material, student.encoder)
        tokens = Tokens(
            texts=texts.lengths(counts), cut=cut, max_length=recipe.prompt.max_length,
            context=student.encoder.context,
            explanations={arm: texts.lengths(own) for arm, own in written.items()},
        )  # fmt: skip
    except EncodingError as error:
        faults.append(str(error))
    return Sheet(
        findings=replace(
            _of_data(recipe, material, found, tokens), label_ids=label_ids, faults=tuple(faults)
        ),
        kind=material.task.kind, labels=material.task.label_names,
        answers=_answers(material), text_tokens=counts,
        explanation_tokens=written, explanations=explanations,
    )  # fmt: skip


def _of_data(
    recipe: Recipe, material: Material, found: Health, tokens: Tokens | None
) -> Findings:  # fmt: skip
    lessons = Counter(one.label for one in material.told)
    measured = Counter(reference.label for reference in material.references.values())
    parts = Counter(example.split for example in material.corpus.examples)
    against = conflicts(material)
    votes = [(a.example_id, a.label) for a in material.annotations if a.label is not None]
    voted = sum(count > 1 for count in Counter(example_id for example_id, _ in votes).values())
    disputed = len(texts.conflicts(votes))
    names = material.task.label_names
    return Findings(
        corpus=material.corpus.name, task=material.task.name,
        parts={split: parts[split] for split in Split if parts[split]},
        labels={name: lessons[name] for name in names},
        held_out={name: measured[name] for name in names},
        conflicts=len(against), voted=voted, disputed=disputed,
        reference=material.reference, health=found, tokens=tokens,
        remarks=(
            *not_asked(material),
            *remarks.of_lessons(material, list(left_out(recipe, material))),
            *remarks.of_texts(found, against, tokens),
            *remarks.of_votes(voted, disputed),
        ),
    )  # fmt: skip


def _explanations(material: Material, seed: int) -> dict[str, tuple[str, ...]]:
    """Arm -> its explanations; without the arms that teach none."""
    found = {
        arm: tuple(lesson.explanation for lesson in lessons if lesson.explanation is not None)
        for arm in material.arms
        for lessons in [material.lessons(arm, seed)]
    }
    return {arm: own for arm, own in found.items() if own}


def _texts(
    recipe: Recipe, material: Material, encoder: "Encoder"
) -> tuple[tuple[int, ...], int]:  # fmt: skip
    """Tokens of each text, and how many texts lose their middle; a sample of very many."""
    looked_at: list[Example] = health.sample(material.corpus.examples, health.MOST)
    shown = [conversation_text(e.turns, recipe.prompt.context_turns) for e in looked_at]
    cut = sum(encoder.prompt(example, [material.task]).cut > 0 for example in looked_at)
    return _counts(encoder, shown), cut


def _counts(encoder: "Encoder", written: Sequence[str]) -> tuple[int, ...]:
    return tuple(len(encoder.text_ids(text)) for text in written)


def conflicts(material: Material) -> dict[str, dict[str, int]]:
    """Texts that several examples share, though their labels differ: text -> label -> examples."""
    said = {key: verdict.label for key, verdict in material.verdicts.items()}
    said |= {key: reference.label for key, reference in material.references.items()}
    labelled = [
        (normal(conversation_text(example.turns, None)), label)
        for example in material.corpus.examples
        if (label := said.get(example.id)) is not None
    ]
    return texts.conflicts(labelled)


def _answers(material: Material) -> Mapping[str, tuple[tuple[str, float | None], ...]]:
    return {
        "taught": tuple((one.label, one.verdict.score) for one in material.told),
        "measured": tuple((r.label, r.score) for r in material.references.values()),
    }


def _masked(arm: str, lessons: Sequence[Lesson], bundle: "Bundle", encoder: "Encoder") -> Masked:
    """Neighbouring tokens of one part, decoded together, branch after branch."""
    runs: list[tuple[int, Part, list[int]]] = [(0, Part.PROMPT, list(bundle.prefix))]
    for index, branch in enumerate(bundle.branches):
        for token, part in zip(branch.ids, branch.parts, strict=True):
            if runs[-1][:2] != (index, part):
                runs.append((index, part, []))
            runs[-1][2].append(token)
    return Masked(
        arm=arm, example_id=lessons[0].example.id,
        tasks=tuple(lesson.task.name for lesson in lessons),
        pieces=tuple(Piece(part=part, text=encoder.said(part, ids, special=True), branch=index)
                     for index, part, ids in runs),
    )  # fmt: skip
