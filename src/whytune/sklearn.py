"""A student as a scikit-learn classifier of texts: `JudgeClassifier().fit(texts, labels).predict(texts)`."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from whytune import judge as judges
from whytune import judge_items, recipe_file, store
from whytune.corpora.identity import hash_order
from whytune.errors import ClassifierInputError, InputError
from whytune.progress import Progress
from whytune.recipe import digest
from whytune.records import Example, Prediction
from whytune.study import grid

TASK = "label"
"""Name of the one task."""


class JudgeClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # it ships no types
    """Fine-tunes a small language model on labelled texts, with explanations if there are some.

    It is taught as `whytune train` teaches: a recipe with one corpus, one arm and one seed. A share
    of the texts is held out and measured on, so that the run in `run_` says how good it is.

    Args:
        model: base model: alias, local folder or Hub id.
        question: what is asked about a text.
        kind: `ordinal` (labels from lowest to highest) or `nominal`.
        order: of an ordinal task, the classes from lowest to highest; without it, as they sort.
        learning_rate: peak of AdamW's; the default suits small models.
        num_train_epochs: passes over the texts.
        held_out: share of each class's texts that is measured on and not taught, above 0 and below
            1; at least one of every class that has two texts or more.
        random_state: seed of the adapter and of what is held out.
        folder: where runs are kept, each fit in a folder of its own that is found again when the
            same is fitted; without it, in a temporary one that goes with this object.
        overrides: other knobs of the recipe, as `--set` takes them: `train.lora_r=8`.
        batch_size: texts in one forward pass when asked.
        verbose: show how long it takes.

    Attributes:
        classes_: (classes,) sorted.
        run_: folder of the run, for `whytune.load`, `whytune predict` and `whytune analyze`.
        scorecard_: figures with intervals on what was held out.
    """

    def __init__(
        self, model: str = "smollm2-135m", *, question: str = "Which label fits the text?",
        kind: Literal["ordinal", "nominal"] = "nominal", order: Sequence[Any] | None = None,
        learning_rate: float = 1e-3, num_train_epochs: float = 1.0, held_out: float = 0.1,
        random_state: int | None = None, folder: str | Path | None = None,
        overrides: Sequence[str] = (), batch_size: int = judges.BATCH_SIZE, verbose: bool = False,
    ):  # fmt: skip
        self.model = model
        self.question = question
        self.kind = kind
        self.order = order
        self.learning_rate = learning_rate
        self.num_train_epochs = num_train_epochs
        self.held_out = held_out
        self.random_state = random_state
        self.folder = folder
        self.overrides = overrides
        self.batch_size = batch_size
        self.verbose = verbose

    def fit(
        self, X: Iterable[Any], y: Iterable[Any], explanations: Iterable[str | None] | None = None
    ) -> Self:
        """Teach it.

        Args:
            X: texts or conversations, as `Judge.predict` takes them.
            y: a class for each.
            explanations: why each has its class. Texts without one (None) are then left out, for
                a student is taught either with reasons or without.

        Raises:
            ClassifierInputError: texts that cannot be read (by their numbers from 0), fewer than
                two classes with two texts each, or lengths that differ.
            WhytuneError: as `study.grid.single`.
        """
        examples = self._read(X, any_role=True)
        targets = self._targets(examples, y)
        reasons = self._reasons(examples, explanations)
        classes = np.unique(targets)
        if len(classes) < 2:
            raise ClassifierInputError(
                f"y: found {len(classes)} class, expected two or more to tell apart; add texts of "
                "another class"
            )
        names = _names(classes)
        labels = [names[at] for at in np.searchsorted(classes, targets)]
        held = _held_out(examples, labels, self.held_out, self.random_state or 0)
        rows: list[dict[str, Any]] = [
            {"id": str(at), "turns": store.plain(example.turns), "label": label, "explanation": why,
             "group": example.id, "split": "test" if example.id in held else "train"}
            for at, (example, label, why) in enumerate(zip(examples, labels, reasons, strict=True))
        ]  # fmt: skip
        place = self._place(rows, names, classes)
        store.write_jsonl(place / "texts.jsonl", rows)
        recipe = recipe_file.parse(
            yaml.safe_dump(self._recipe(names, classes, explained=explanations is not None)),
            place="JudgeClassifier", folder=place, overrides=self.overrides,
        )  # fmt: skip
        found = grid.single(recipe, None, place / "study", Progress(quiet=not self.verbose))
        self.classes_ = classes
        self.run_ = found["run"]
        self.scorecard_ = found["scorecard"]
        self._labels = names
        self._taught = _Taught(self.run_)
        return self

    def predict(self, X: Iterable[Any]) -> Any:
        """The most probable class of each text, (texts,)."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]

    def predict_proba(self, X: Iterable[Any]) -> Any:
        """Probabilities of the classes among themselves, (texts, classes), as `classes_` has them.

        Raises:
            ClassifierInputError: texts that cannot be read, by their numbers from 0.
        """
        answers = self._ask(X)
        rows = [[told.probs.get(label, np.nan) for label in self._labels] for told in answers]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self._labels))

    def explain(self, X: Iterable[Any]) -> list[str]:
        """Why each text has the class that is predicted.

        Raises:
            InputError: it was taught without explanations.
        """
        return [told.explanation or "" for told in self._ask(X, explain=True)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.classifier_tags.poor_score = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_temporary", None)  # goes with the object that made it
        return state

    def _ask(self, X: Iterable[Any], *, explain: bool = False) -> list[Prediction]:
        check_is_fitted(self, "classes_")
        examples = self._read(X, any_role=False)
        return self._taught.judge.predict(examples, explain=explain, batch_size=self.batch_size)

    def _read(self, X: Iterable[Any], *, any_role: bool) -> list[Example]:
        try:
            return judge_items.read(X, None if any_role else self._taught.judge.facts.roles)
        except InputError as fault:
            raise ClassifierInputError(f"X: {fault}") from None

    def _targets(self, examples: Sequence[Example], y: Any) -> Any:
        if y is None:
            raise ClassifierInputError("requires y to be passed, but the target y is None")
        targets = column_or_1d(np.asarray(y), warn=True)
        check_classification_targets(targets)
        if len(targets) != len(examples):
            raise ClassifierInputError(
                f"y: found {len(targets)} classes for {len(examples)} texts, expected one for each"
            )
        if any(value is None or value != value for value in targets.tolist()):
            raise ClassifierInputError("y: found a missing class, expected one for each text")
        return targets

    def _reasons(
        self, examples: Sequence[Example], explanations: Iterable[str | None] | None
    ) -> list[str | None]:
        if explanations is None:
            return [None] * len(examples)
        reasons = list(explanations)
        if len(reasons) != len(examples):
            raise ClassifierInputError(
                f"explanations: found {len(reasons)} for {len(examples)} texts, expected one for "
                "each, or None where there is none"
            )
        for at, why in enumerate(reasons):
            if why is not None and not isinstance(why, str):
                raise ClassifierInputError(
                    f"explanations[{at}]: found {judge_items.shown(why)}, expected text or None"
                )
        return reasons

    def _recipe(self, names: Sequence[str], classes: Any, *, explained: bool) -> dict[str, Any]:
        columns = {"turns": "turns", "label": "label", "id": "id", "group": "group",
                   "split": "split"}  # fmt: skip
        arm = {"explanation": "assessment" if explained else "none"}
        ordered = list(names)
        if self.order is not None:
            known = classes.tolist()
            if sorted(map(str, self.order)) != sorted(map(str, known)):
                raise ClassifierInputError(
                    f"order: found {list(self.order)}, expected the classes {known}, each once"
                )
            ordered = [names[known.index(one)] for one in self.order]
        return {
            "name": "judge-classifier",
            "model": str(self.model),
            "corpora": {"texts": {
                "loader": "table", "path": "texts.jsonl",
                "columns": {**columns, **({"explanation": "explanation"} if explained else {})},
            }},
            "tasks": [{"name": TASK, "kind": self.kind, "question": self.question,
                       "labels": ordered}],
            "arms": {"why" if explained else "label": arm},
            "seeds": [self.random_state or 0],
            "train": {"learning_rate": self.learning_rate,
                      "num_train_epochs": self.num_train_epochs},
            "predict": {"explanations": 0},
        }  # fmt: skip

    def _place(self, rows: Any, names: Sequence[str], classes: Any) -> Path:
        if self.folder is None:
            place = Path(tempfile.mkdtemp(prefix="whytune-"))
            self._temporary = weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
            return place
        knobs = {k: str(v) for k, v in self.get_params().items() if k not in ("folder", "verbose")}
        return Path(self.folder).absolute() / f"fit-{digest([rows, list(names), knobs])[:12]}"


class _Taught:
    """The student of a run, loaded when it is first asked; pickled as the run's folder alone."""

    def __init__(self, run: str):
        self._run = run

    def __reduce__(self) -> tuple[type["_Taught"], tuple[str]]:
        return _Taught, (self._run,)

    @cached_property
    def judge(self) -> judges.Judge:
        return judges.load(self._run)


def _names(classes: Any) -> list[str]:
    """Classes as labels; whole numbers with equally many digits, so that none begins another."""
    names = [str(one) for one in classes.tolist()]
    if classes.dtype.kind in "iu" and classes.min() >= 0:
        names = [name.zfill(max(map(len, names))) for name in names]
    if len(set(names)) < len(names):
        raise ClassifierInputError(f"y: found classes that read alike ({', '.join(names)})")
    return names


def _held_out(
    examples: Sequence[Example], labels: Sequence[str], share: float, seed: int
) -> set[str]:
    """Ids of the texts that are measured on."""
    if not 0 < share < 1:
        raise ClassifierInputError(f"held_out: found {share}, expected a share above 0, below 1")
    by_label: dict[str, list[str]] = {}
    for id_, label in dict(zip([e.id for e in examples], labels, strict=True)).items():
        by_label.setdefault(label, []).append(id_)
    parts = {label: ids for label, ids in by_label.items() if len(ids) > 1}
    if len(parts) < 2:
        raise ClassifierInputError(
            f"X: found {len(parts)} class(es) with two texts or more, expected two, so that one of "
            "each can be held out; add texts"
        )
    return {
        id_
        for ids in parts.values()
        for id_ in hash_order(ids, str, seed)[: min(max(round(share * len(ids)), 1), len(ids) - 1)]
    }
