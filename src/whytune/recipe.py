"""Every knob of whytune, typed, with its one default and its meaning.

`whytune recipe` lists them, so the docs cannot drift from them; `recipe_file` reads them from
YAML. Knows nothing of data, models or torch.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from whytune.recipe_arms import Arm, match_faults
from whytune.recipe_data import CorpusSpec, TaskSpec
from whytune.recipe_student import Predict, Prompting, Train
from whytune.recipe_teachers import TeacherSpec
from whytune.records import Task
from whytune.settings import (
    Count,
    Either,
    FolderName,
    Positive,
    Settings,
    hint,
    listed,
    refuse,
)
from whytune.tasks import BUILT_IN, SAMPLES


def _built_in(name: str) -> str:
    if name not in BUILT_IN:
        raise ValueError(f"{name!r} is no built-in task; {hint(name, BUILT_IN)}")
    return name


def _once(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"found {seeds}; a seed stands twice")
    return seeds


BuiltInTask = Annotated[str, AfterValidator(_built_in)]


Baseline = Literal["prior", "majority", "tfidf", "ordinal", "encoder", "zero-shot", "few-shot"]


class Evidence(Settings):
    """How answers are measured."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Draws for intervals (95 %, over groups) and for permutation tests."""
    baselines: list[Baseline] = ["prior", "tfidf", "zero-shot"]
    """Rows that stand beside the arms: `prior` (the labels' shares; its label is the most frequent
    one, its expected score the training mean), `majority` (always the most frequent label),
    `tfidf` (TF-IDF with ridge or logistic regression), `ordinal` (TF-IDF with ordinal regression;
    ordinal tasks only), `encoder` (the sentence encoder's vectors with ordinal or logistic
    regression), `zero-shot` (the same base model without an adapter), `few-shot` (the same, after a
    few answered examples)."""
    shots: Positive = 4
    """Answered examples before each question of `few-shot`."""
    encoder: Annotated[str | None, Field(validate_default=True)] = None
    """Model of the `encoder` baseline: alias, local folder or Hub id, as `model`; its last states
    are averaged over a text's tokens."""
    calibration: Literal["temperature", "vector", "isotonic"] | None = None
    """A map of each student's probabilities, fitted on the validation part and kept with its
    adapter: one temperature, a scale and a shift for each label, or a rising curve for each. Its
    figures stand beside those without."""

    @field_validator("encoder")
    @classmethod
    def _check_encoder(cls, encoder: str | None, info: ValidationInfo) -> str | None:
        if encoder is None and "encoder" in info.data.get("baselines", ()):
            refuse(["missing, but evidence.baselines has `encoder`; name its model, or drop it"])
        return encoder


class Inside(Settings):
    """How much of students' inside is read (`whytune analyze`)."""

    examples: Positive = 200
    """Test examples that each student is read on, block by block; of fewer, all."""
    explanation: bool = False
    """Read every token of the explanations that students write, too; they must be written for it,
    which takes longer than all the rest."""
    along: Count = 0
    """Test examples that are read at every adapter that was kept while a student was taught
    (`train.keep_adapters`); 0: none."""
    norm: Literal["final", "none"] = "final"
    """`final`: blocks are read through the model's final norm, as its own output is. `none`: without
    it, as Ecco reads them; a historical contrast, not what the model would say."""


class Generator(Settings):
    """A student that is taught to say why a given label is right, and then explains others' labels
    (arXiv 2507.00214, stage one)."""

    model: str | None = None
    """Its base model; without it, the recipe's."""
    corpora: Annotated[dict[FolderName, CorpusSpec], Field(min_length=1)]
    """Name -> what it learns from, with the knobs of `corpora`: any corpus or table with
    explanations, also one whose answers are not the same few (FLAN's `ecqa`, `gsm8k`, `qasc`,
    `aqua`)."""
    tasks: list[Either[BuiltInTask, TaskSpec]] = []
    """What those corpora answer, as in `tasks`; not needed for open answers."""
    seed: Count = 0
    """Draws its adapter and the order of its lessons."""
    train: Train = Train()
    """Its training, with the knobs of `train`."""
    max_new_tokens: Positive = 80
    """Longest reason that it writes, in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """With which reasons are drawn; 0: the most probable words."""
    batch_size: Positive = 16
    """Reasons that are written at a time; what is written does not depend on it."""

    def resolved_tasks(self) -> tuple[Task, ...]:
        """The records behind `tasks`, in their order."""
        return _resolved(self.tasks)

    @field_validator("corpora", mode="before")
    @classmethod
    def _name_loaders(cls, corpora: Any) -> Any:
        return _with_loaders(corpora)


class Recipe(Settings):
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the study's folder."""
    model: str
    """Base model: alias (`smollm2-135m`), local folder, or Hub id (`owner/name@revision`)."""
    corpora: Annotated[dict[FolderName, CorpusSpec], Field(min_length=1)]
    """Name -> where examples come from."""
    tasks: Annotated[list[Either[BuiltInTask, TaskSpec]], Field(min_length=1)]
    """Names of built-in tasks, or tasks of your own."""
    arms: Annotated[dict[FolderName, Arm], Field(min_length=1)]
    """Name -> one way to teach."""
    seeds: Annotated[list[Count], Field(min_length=1), AfterValidator(_once)] = [0]
    """One student per seed."""
    matrix: bool = False
    """Measure every student on the test part of every corpus that has answers to its task, also of
    corpora that teach nothing (golden sets), which are then allowed."""
    inside: Inside | None = None
    """Look inside every student at the end: entropy and token rank by block, weight changes, in the
    tables and figures of the page; `{}` with the usual settings."""
    teachers: dict[FolderName, TeacherSpec] = {}
    """Name -> who is asked about every example. Without any, what came with the corpora is
    merged; with some, their replies alone, and a `recorded` one brings those of the corpus."""
    merge: Literal["average", "median", "most-frequent", "reliability", "merger"] = "average"
    """How the teachers' scores become one verdict. `average`: the mean; of nominal labels, the most
    frequent. `median`: likewise. `most-frequent`: the label with the most votes. `reliability`:
    raters are weighted by how well they agree with the others (ordinal: severity and spread taken
    out; nominal: Dawid-Skene). `merger`: a model that reads all of them decides."""
    merger: Annotated[str | None, Field(validate_default=True)] = None
    """The teacher that makes one explanation of all the teachers'; with `merge: merger` it decides
    the label too. It votes like the others, unless it has `prompts: []`. Without a merger, the
    explanation closest to the verdict stands."""
    journal: str | None = None
    """File with every request and reply, relative to the recipe. Without it, beside the recipe
    and named as its file is: mine.yaml has mine.journal."""
    lessons: Literal["verdict", "raters"] = "verdict"
    """What is taught: `verdict`, one lesson per example and task; `raters`, one lesson for every
    readable reply, with its own label and explanation, all of them branches of the one
    conversation. What answers are measured against stays the same."""
    prompt: Prompting = Prompting()
    train: Train = Train()
    predict: Predict = Predict()
    evidence: Evidence = Evidence()
    generator: Annotated[Generator | None, Field(validate_default=True)] = None
    """Who writes the reasons that arms with `explanation: generated` teach."""
    reasons: str | None = None
    """Folder with the generator and every reason that it wrote, relative to the recipe. Without it,
    beside the recipe and named as its file is: mine.yaml has mine.reasons."""

    def resolved_tasks(self) -> tuple[Task, ...]:
        """The records behind `tasks`, in their order."""
        return _resolved(self.tasks)

    def samples(self) -> dict[str, dict[str, str]]:
        """Task -> label -> a short text that deserves it; labels without one are left out."""
        return {
            t if isinstance(t, str) else t.name: SAMPLES.get(t, {})
            if isinstance(t, str)
            else t.samples()
            for t in self.tasks
        }

    @property
    def asks(self) -> bool:
        """Whether anybody is asked, so that there is a journal."""
        return any(spec.asked for spec in self.teachers.values())

    @field_validator("corpora", mode="before")
    @classmethod
    def _name_loaders(cls, corpora: Any) -> Any:
        return _with_loaders(corpora)

    # Pydantic hands a field's validator only the sound fields before it, so that a fault in
    # one group never hides those of another. That is why these two stand where they stand.

    @field_validator("tasks")
    @classmethod
    def _check_tasks(
        cls, tasks: list[str | TaskSpec], info: ValidationInfo
    ) -> list[str | TaskSpec]:
        names = [task if isinstance(task, str) else task.name for task in tasks]
        faults = [f"{name} stands twice" for name in sorted(set(names)) if names.count(name) > 1]
        for corpus, spec in info.data.get("corpora", {}).items():
            if spec.task is not None and spec.task not in names:
                faults.append(f"corpora.{corpus}.task is {spec.task!r}; {hint(spec.task, names)}")
            labelled = spec.loader == "table" and spec.columns.labelled
            if spec.task is None and labelled and len(names) > 1:
                faults.append(f"found {len(names)} tasks; say in corpora.{corpus}.task which one "
                              "its label column answers, or have teachers answer all of them: "
                              f"set corpora.{corpus}.columns.label to null")  # fmt: skip
        refuse(faults)
        return tasks

    @field_validator("arms")
    @classmethod
    def _check_arms(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        refuse(match_faults(arms))
        return arms

    @field_validator("generator")
    @classmethod
    def _check_generator(
        cls, generator: Generator | None, info: ValidationInfo
    ) -> Generator | None:
        told = [name for name, arm in info.data.get("arms", {}).items()
                if arm.spoken == "generated"]  # fmt: skip
        if told and generator is None:
            refuse([f"missing, but arms.{told[0]} teaches generated explanations; say who writes "
                    "them, or drop the arm"])  # fmt: skip
        return generator

    @field_validator("merger")
    @classmethod
    def _check_merger(cls, merger: str | None, info: ValidationInfo) -> str | None:
        teachers = info.data.get("teachers", {})
        faults = []
        if merger is None and info.data.get("merge") == "merger":
            faults.append("merge is merger, but there is none; name the teacher that is to do it")
        if merger is not None and merger not in teachers:
            faults.append(f"{merger!r} is none of the teachers; {hint(merger, teachers)}")
        elif merger is not None and not teachers[merger].asked:
            faults.append(f"{merger} is recorded; expected a teacher that can be asked")
        refuse(faults)
        return merger

    @field_validator("train")
    @classmethod
    def _check_train(cls, train: Train, info: ValidationInfo) -> Train:
        choosing = train.load_best_model_at_end or train.early_stopping_patience is not None
        corpora = info.data.get("corpora", {}).items()
        if choosing:
            refuse([
                "choosing a checkpoint needs a validation part (never the test part); set "
                f"corpora.{name}.validation, or drop load_best_model_at_end and "
                "early_stopping_patience" for name, spec in corpora if not spec.validation
            ])  # fmt: skip
        for name, arm in info.data.get("arms", {}).items():
            if train.early_stopping_patience is not None and (arm.tokens_of or arm.updates_of):
                refuse([f"early_stopping_patience would end arms.{name} before it is as long as the "
                        "arm that it is matched to; drop one of the two"])  # fmt: skip
        return train


def _with_loaders(corpora: Any) -> Any:
    """A corpus that names no loader is read by that of its own name."""
    if not isinstance(corpora, dict):
        return corpora
    return {
        name: {"loader": name, **spec} if isinstance(spec, dict) else spec
        for name, spec in corpora.items()
    }


def _resolved(tasks: Sequence[str | TaskSpec]) -> tuple[Task, ...]:
    return tuple(BUILT_IN[t] if isinstance(t, str) else t.task() for t in tasks)


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `parse(dump(r)) == r`."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of anything JSON can say, as 64 hex digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def knobs() -> Iterator[tuple[str, str, str]]:
    """Every knob as (dotted name, default as YAML, meaning), in the order of the recipe."""
    return listed(Recipe)
