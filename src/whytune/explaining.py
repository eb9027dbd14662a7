"""Stage one of the two-stage road (arXiv 2507.00214): a generator is taught to say why an answer is
right, then says why the labels of a recipe's training examples are.

The folder of reasons holds the generator and, line by line, every reason that it wrote. A generator
that is there is not taught again, and nothing is asked twice: a reason is found by all that it
depends on.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whytune import generator_folder
from whytune.corpora import explained
from whytune.errors import WorkError
from whytune.material import Merged, merged
from whytune.pipeline import require_torch
from whytune.progress import Progress
from whytune.recipe import Generator, Recipe, digest
from whytune.records import Example, Split, Task
from whytune.teaching import journal_file, leaks, merge, reasons
from whytune.teaching.reasons import Reason

if TYPE_CHECKING:
    from whytune.student.encode import Ids
    from whytune.student.models import Student

SHOWN = 3
"""Sample reasons in the summary."""
_Said = Mapping[tuple[str, str], Merged]


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The reasons for one corpus and task."""

    corpus: str
    task: str
    reasons: int
    """All that are wanted, one for each training example and label."""
    written: int
    """Of these, now."""
    found: int
    """Of these, before."""
    cut: int
    """Ran into `max_new_tokens`."""
    empty: int
    """Say nothing; they are not taught."""
    leaks: int
    """Name a label of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of explaining."""

    generator: str
    """Its folder."""
    reasons: str
    """The file."""
    reason_nll_before: float
    """Mean negative log-likelihood (nats) of a token of the held-out reasons, before teaching."""
    reason_nll: float
    """The same of the generator that wrote."""
    counts: tuple[Count, ...]
    tokens: int
    """Written now, end marks included."""
    seconds: Mapping[str, float]
    """`teach` (0 where it was taught before), `write`."""
    samples: tuple[Reason, ...]
    lessons: int
    """What the generator learned from."""
    notes: tuple[str, ...]
    """What was left out of its lessons and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A reason that is to be there."""

    corpus: str
    task: Task
    example: Example
    label: str
    ids: "Ids"
    about: str
    key: str

    @property
    def place(self) -> reasons.Place:
        return self.corpus, self.task.name, self.example.id, self.label

    def reason(self, text: str, cut: bool) -> Reason:
        """What was written, as its line."""
        return Reason(
            corpus=self.corpus, task=self.task.name, example_id=self.example.id, label=self.label,
            reason=text, cut=cut, leaks=leaks.leaks(text, self.task.label_names), about=self.about, key=self.key,
        )  # fmt: skip


def explain(recipe: Recipe, show: Progress, limit: int | None = None) -> Summary:
    """Teach the recipe's generator, unless it is there, and let it write what is missing.

    Args:
        recipe: names the generator, the folder of reasons, and what is to be explained.
        show: how far it is.
        limit: training examples of each corpus, from its beginning; None: all.

    Raises:
        RecipeError: it has no generator, or one that cannot be taught as written.
        CorpusError, TeachingError: what is to be learned or explained cannot be read, or another
            process is writing there.
        FolderError: the folder has a generator of another recipe, or a damaged file of reasons.
        WhytuneError: whatever stops it; what was written is kept, and calling again goes on.
    """
    settings, folder = generator_folder.checked(recipe)
    require_torch()
    said = merged(recipe)
    lessons = generator_folder.lessons(recipe, settings, said)
    mark = generator_folder.fingerprint(recipe, settings, lessons)
    generator_folder.taught_before(folder / "generator", mark)
    started = time.perf_counter()
    with _held(folder / reasons.NAME):
        student, facts = generator_folder.ready(
            recipe, settings, lessons, mark, folder / "generator", show
        )
        taught = time.perf_counter()
        wanted = _wanted(recipe, settings, student, said, mark, limit)
        standing, now, tokens = _write(student, wanted, settings, folder / reasons.NAME, show)
    return Summary(
        generator=str(folder / "generator"), reasons=str(folder / reasons.NAME),
        reason_nll_before=facts["reason_nll"]["before"], reason_nll=facts["reason_nll"]["after"],
        counts=tuple(_count(key, wanted, standing, now) for key in said), tokens=tokens,
        seconds={"teach": taught - started, "write": time.perf_counter() - taught},
        samples=tuple([one for one in standing.values() if one.reason][:SHOWN]),
        lessons=len(lessons.training),
        notes=tuple(f"{name}: {note}" for name, own in lessons.notes.items() for note in own),
    )  # fmt: skip


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """One process at a time teaches and writes."""
    handle = journal_file.lock(path)
    try:
        yield
    except OSError as error:
        raise WorkError(
            f"{path.parent}: cannot be written ({error}); expected room on the disk; what was "
            "written is kept: put it right and run again"
        ) from None
    finally:
        os.close(handle)


def _wanted(
    recipe: Recipe, settings: Generator, student: "Student", said: _Said, mark: str,
    limit: int | None,
) -> list[_Wanted]:  # fmt: skip
    from whytune.student import generator

    wanted = []
    for (corpus, _), one in said.items():
        for example, label in _labelled(recipe, one, limit):
            prompt = generator.prompt(student.encoder, example, one.task.question, label)
            ids = prompt.prefix + prompt.questions[0]
            key = digest([mark, ids, settings.max_new_tokens, settings.temperature, settings.seed])
            wanted.append(_Wanted(corpus=corpus, task=one.task, example=example, label=label,
                                  ids=ids, key=key,
                                  about=reasons.about(recipe, example, one.task, label)))  # fmt: skip
    return wanted


def _labelled(recipe: Recipe, one: Merged, limit: int | None) -> Iterator[tuple[Example, str]]:
    """Every training example with each label that is taught about it."""
    verdicts = (
        one.verdicts.values()
        if recipe.lessons == "verdict"
        else merge.apart(one.annotations, one.task)
    )
    labels: dict[str, dict[str, None]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.label is not None:
            labels[verdict.example_id][verdict.label] = None
    training = [example for example in one.corpus.examples if example.split is Split.TRAIN]
    for example in training[:limit]:
        for label in labels.get(example.id, ()):
            yield example, label


def _write(
    student: "Student", wanted: Sequence[_Wanted], settings: Generator, path: Path, show: Progress
) -> tuple[dict[reasons.Place, Reason], set[reasons.Place], int]:
    """Write what is missing.

    Returns:
        Place -> its reason, of all that is wanted; the places written now; their tokens.
    """
    from whytune.student import generator

    before = reasons.load(path)
    known = {one.key: one for one in before}
    newest = {one.about: one.key for one in before}
    missing: dict[str, list[_Wanted]] = defaultdict(list)
    standing: dict[reasons.Place, Reason] = {}
    for one in wanted:
        if (same := known.get(one.key)) is None:
            missing[one.key].append(one)
        else:
            standing[one.place] = one.reason(same.reason, same.cut)
    # What is read is the last line about something; a generator of other lessons may have written it.
    again = [one for one in standing.values() if newest.get(one.about) != one.key]
    if again:
        reasons.append(path, again)
    asked = list(missing.values())
    prompts = [(own[0].ids, int(own[0].key[:15], 16)) for own in asked]
    now: set[reasons.Place] = set()
    tokens = 0
    with show.work("generator: writing reasons", len(asked)) as advance:
        for batch in generator.write(student, prompts, settings):
            found = [one.reason(explained.one_line(written.text), written.cut)
                     for i, written in batch for one in asked[i]]  # fmt: skip
            reasons.append(path, found)
            standing |= {one.place: one for one in found}
            now |= {one.place for one in found}
            tokens += sum(written.tokens for _, written in batch)
            advance(len(batch))
    return {one.place: standing[one.place] for one in wanted}, now, tokens


def _count(
    about: tuple[str, str], wanted: Sequence[_Wanted],
    standing: Mapping[reasons.Place, Reason], now: set[reasons.Place],
) -> Count:  # fmt: skip
    own = [standing[one.place] for one in wanted if (one.corpus, one.task.name) == about]
    written = sum(one.place in now for one in own)
    return Count(
        corpus=about[0], task=about[1], reasons=len(own), written=written,
        found=len(own) - written, cut=sum(one.cut for one in own),
        empty=sum(not one.reason for one in own), leaks=sum(one.leaks for one in own),
    )  # fmt: skip
