"""A study's baselines: which of them answer about a corpus and task, and what they answer.

Those that learn from the lessons alone are fitted anew each time. Those that read with a model keep
their answers, and are asked again only when something that these depend on has changed
(`digest.json`); each model is loaded once. All of them answer about the test part, and none is
calibrated.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from whytune import pipeline, run_folder, store
from whytune.evidence import baselines
from whytune.evidence.table import Floats
from whytune.material import Material, together
from whytune.progress import Progress
from whytune.recipe import Recipe, digest
from whytune.records import Example, Kind, Layout, Lesson, Prediction, Split
from whytune.student.prompting import conversation_text

if TYPE_CHECKING:
    from whytune.student.embedding import TextEncoder
    from whytune.student.models import Student

FITTED = ("prior", "majority", "tfidf", "ordinal")
"""Those that `without_model` gives."""

Answers = Mapping[str, Sequence[Prediction]]
"""Task -> predictions."""


def baseline_folder(folder: Path, material: Material, name: str) -> Path:
    """Where a baseline's answers stand in a study."""
    return folder / "baselines" / f"{material.corpus.name}--{material.task.name}--{name}"


def names(recipe: Recipe, material: Material) -> list[str]:
    """The baselines that answer about a corpus and task, in the recipe's order: of a corpus that
    teaches nothing only `zero-shot`, and `ordinal` only where the labels have an order.
    """
    return [
        name
        for name in recipe.evidence.baselines
        if (name == "zero-shot" or material.told)
        and (name != "ordinal" or material.task.kind is Kind.ORDINAL)
    ]


def write(
    recipe: Recipe, materials: Mapping[tuple[str, str], Material], folder: Path, show: Progress
) -> None:
    """Write what every baseline answers, and its scorecard, under `baselines/` of a study.

    Args:
        recipe: of the study.
        materials: (corpus, task) -> material.
        folder: of the study.
        show: how long it takes.

    Raises:
        EvidenceError: a baseline cannot learn from the lessons.
        ModelError: a model cannot be had.
        EncodingError: the shots and a prompt pass the model's limit.
    """
    rows: dict[str, list[Material]] = defaultdict(list)
    for material in materials.values():
        for name in names(recipe, material):
            rows[name].append(material)
    for name in FITTED:
        for material in rows[name]:
            answers = {material.task.name: without_model(recipe, material, name)}
            run_folder.record(baseline_folder(folder, material, name), answers, [material], recipe)
    models = _Models(recipe, show)
    for asked in _asked(recipe, rows):
        _keep(recipe, asked, folder, models, show)


def without_model(recipe: Recipe, material: Material, name: str) -> list[Prediction]:
    """The answers of a baseline that is fitted on the lessons, one of `FITTED`.

    Raises:
        EvidenceError: it cannot learn from them.
    """
    task, labels = material.task, [one.label for one in material.told]
    ids = [example.id for example in material.part(Split.TEST)]
    if name == "prior":
        return baselines.prior(labels, task, ids, material.scores)
    if name == "majority":
        return baselines.majority(labels, task, ids)
    told, test = _told_texts(recipe, material), _test_texts(recipe, material)
    if name == "ordinal":
        return baselines.ordinal(told, labels, test, ids, task)
    return baselines.tfidf(told, labels, material.scores, test, ids, task)


def zero_shot(
    recipe: Recipe, student: "Student", own: Sequence[Material], show: Progress
) -> dict[str, list[Prediction]]:
    """What the base model answers about a corpus.

    Args:
        recipe: says how it is asked.
        student: the base model.
        own: of the corpus, one for each task: a conversation is read once, however many questions
            there are.
        show: how long it takes.

    Returns:
        Task -> predictions about the test examples that have a reference.
    """
    found = pipeline.ask(
        recipe, student, together(own, Split.TEST), [material.task for material in own],
        Layout.LABEL, show, f"{own[0].corpus.name}: asking the base model",
    )  # fmt: skip
    return pipeline.referenced(found, own)


def few_shot(
    recipe: Recipe, student: "Student", material: Material, show: Progress
) -> dict[str, list[Prediction]]:
    """What the base model answers after `evidence.shots` lessons of the same corpus and task.

    Returns:
        Task -> predictions about the test part.
    """
    from whytune.student import few_shot

    shots, test = _shots(recipe, material), material.part(Split.TEST)
    title = (f"{material.corpus.name}, {material.task.name}: asking the base model after "
             f"{len(shots)} examples")  # fmt: skip
    with show.work(title, len(test)) as advance:
        found = few_shot.predict(
            student, shots, test, material.task,
            batch_size=recipe.predict.per_device_eval_batch_size, advance=advance,
        )  # fmt: skip
    return {material.task.name: found}


class _Models:
    """What reads for the baselines: loaded when it is first needed, and once."""

    def __init__(self, recipe: Recipe, show: Progress) -> None:
        self._recipe, self._show = recipe, show
        self._vectors: dict[str, Floats] = {}

    @cached_property
    def base(self) -> "Student":
        """The recipe's model, without an adapter."""
        from whytune.student import models

        found = models.find(self._recipe.model, log=self._show.say)
        return models.load(found, self._recipe.prompt, self._recipe.train)

    @cached_property
    def encoder(self) -> "TextEncoder":
        """The model of `evidence.encoder`."""
        from whytune.student import embedding, models

        assert self._recipe.evidence.encoder is not None
        return embedding.load(models.find(self._recipe.evidence.encoder, log=self._show.say))

    def vectors(self, texts: Sequence[str], title: str) -> Floats:
        """(texts, width); each text is read once, whatever task it stands in."""
        from whytune.student import embedding

        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        encoder = self.encoder
        with self._show.work(title, len(new)) as advance:
            found = embedding.embed(
                encoder, new, batch_size=self._recipe.predict.per_device_eval_batch_size,
                advance=advance,
            )  # fmt: skip
        if found.cut:
            self._show.say(f"{title}: {found.cut} of {len(new)} texts were longer than "
                           f"{encoder.longest} tokens and lost their end")  # fmt: skip
        self._vectors |= zip(new, found.vectors.astype(np.float64), strict=True)
        return np.array([self._vectors[text] for text in texts])


class _Asked(NamedTuple):
    """A baseline that reads with a model, and what it is asked at once."""

    name: str
    own: Sequence[Material]
    mark: str
    """Changes with anything that the answers depend on."""


def _asked(recipe: Recipe, rows: Mapping[str, Sequence[Material]]) -> Iterator[_Asked]:
    for material in rows["encoder"]:
        yield _Asked("encoder", [material], _encoder_digest(recipe, material))
    by_corpus: dict[str, list[Material]] = {}
    for material in rows["zero-shot"]:
        by_corpus.setdefault(material.corpus.name, []).append(material)
    for own in by_corpus.values():
        yield _Asked("zero-shot", own, _zero_shot_digest(recipe, own))
    for material in rows["few-shot"]:
        yield _Asked("few-shot", [material], _few_shot_digest(recipe, material))


def _ask(recipe: Recipe, asked: _Asked, models: _Models, show: Progress) -> Answers:
    if asked.name == "encoder":
        return _probe(recipe, models, asked.own[0])
    if asked.name == "zero-shot":
        return zero_shot(recipe, models.base, asked.own, show)
    return few_shot(recipe, models.base, asked.own[0], show)


def _keep(recipe: Recipe, asked: _Asked, folder: Path, models: _Models, show: Progress) -> None:
    """Ask where the answers are not there yet, and measure them by what is right now."""
    places = [baseline_folder(folder, material, asked.name) for material in asked.own]
    marks = [place / "digest.json" for place in places]
    if all(mark.exists() and store.read_json(mark) == asked.mark for mark in marks):
        answers: Answers = {
            material.task.name: store.read_predictions(place / "predictions.parquet")[0]
            for material, place in zip(asked.own, places, strict=True)
        }
    else:
        answers = _ask(recipe, asked, models, show)
        for mark in marks:  # should this end halfway, none may stand beside other answers
            mark.unlink(missing_ok=True)
    for material, place in zip(asked.own, places, strict=True):
        run_folder.record(place, answers, [material], recipe)
        store.write_json(place / "digest.json", asked.mark)


def _probe(recipe: Recipe, models: _Models, material: Material) -> Answers:
    """What a linear model on the encoder's vectors answers."""
    task, told, test = material.task, _told_texts(recipe, material), _test_texts(recipe, material)
    vectors = models.vectors([*told, *test], f"{material.corpus.name}, {task.name}: encoding texts")
    return {task.name: baselines.probe(
        vectors[: len(told)], [one.label for one in material.told],
        vectors[len(told) :], [example.id for example in material.part(Split.TEST)], task,
    )}  # fmt: skip


def _shots(recipe: Recipe, material: Material) -> list[Lesson]:
    from whytune.student.few_shot import choose

    lessons = [
        Lesson(example=one.example, task=material.task, label=one.label, layout=Layout.LABEL)
        for one in material.told
    ]
    return choose(lessons, recipe.evidence.shots, recipe.seeds[0])


def _told_texts(recipe: Recipe, material: Material) -> list[str]:
    return _texts(recipe, [one.example for one in material.told])


def _test_texts(recipe: Recipe, material: Material) -> list[str]:
    return _texts(recipe, material.part(Split.TEST))


def _texts(recipe: Recipe, examples: Sequence[Example]) -> list[str]:
    return [conversation_text(one.turns, recipe.prompt.context_turns) for one in examples]


def _zero_shot_digest(recipe: Recipe, own: Sequence[Material]) -> str:
    return digest([
        recipe.model, recipe.prompt.model_dump(mode="json"), recipe.train.dtype,
        recipe.train.load_in_4bit, dict(own[0].corpus.inputs),
        [[store.plain(m.task), [e.id for e in m.part(Split.TEST)]] for m in own],
    ])  # fmt: skip


def _few_shot_digest(recipe: Recipe, material: Material) -> str:
    shots = [[store.plain(one.example.turns), one.label] for one in _shots(recipe, material)]
    return digest([_zero_shot_digest(recipe, [material]), recipe.evidence.shots, shots])


def _encoder_digest(recipe: Recipe, material: Material) -> str:
    return digest([
        recipe.evidence.encoder, store.plain(material.task),
        _told_texts(recipe, material), [one.label for one in material.told],
        _test_texts(recipe, material), [e.id for e in material.part(Split.TEST)],
    ])  # fmt: skip
