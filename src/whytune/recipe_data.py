"""The knobs of what is taught from: corpora, their columns, and tasks of one's own."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from whytune.records import Kind, Label, Task
from whytune.settings import Count, Either, FolderName, Fraction, Positive, Settings, hint, refuse

RELEASES = (
    "amazonqa", "chatbot_arena", "coqa", "cornell", "emotion", "esnli", "feedbackqa", "flan_cot",
    "goemotions", "golden_dailydialog", "golden_fed", "golden_haluquestqa", "golden_tianboji",
    "golden_topical_usr", "hh_rlhf", "just_eval", "liar_plus", "ray_llm",
)  # fmt: skip
"""Loaders of releases in their own formats; all of them read files."""
LOADERS = ("starter", "table", "mixed", *RELEASES)


def _loader(name: str) -> str:
    if name not in LOADERS:
        raise ValueError(f"{name!r} is no loader; {hint(name, LOADERS)}")
    return name


class Columns(Settings):
    """Which columns of a table hold what (`loader: table`)."""

    text: str | None = None
    """The single text to be judged; this or `turns`."""
    turns: str | None = None
    """A conversation: a list of `{role, text}` or `{role, content}` (as JSON text in a CSV)."""
    label: str | None = "label"
    """The label, as one of the task's label names; null where the table has none and teachers are
    asked."""
    score: str | None = None
    """A number instead of the label (ordinal tasks); set `scale` with it."""
    scale: tuple[float, float] | None = None
    """Lowest and highest number of the `score` column, as [1, 100]."""
    explanation: str | None = None
    """Why this label; becomes the assessment."""
    id: str | None = None
    """A unique id; without it, the id is a hash of the row's content."""
    group: str | None = None
    """What must not stand on both sides of a split; without it, the text itself."""
    source: str | None = None
    """Where a row comes from; without it, the corpus name."""
    rater: str | None = None
    """Who gave the label: several rows of one text by different raters become one example."""
    split: str | None = None
    """`train`, `validation` or `test`; without it, splits are drawn by group."""

    @property
    def labelled(self) -> bool:
        """Whether rows say anything about their texts."""
        return self.label is not None or self.score is not None

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = []
        if not self.labelled:
            faults += [f"found {use}, but no labels (label: null); name the `label` column, or drop "
                       f"{use}" for use in ("explanation", "rater") if getattr(self, use)]  # fmt: skip
        if (self.score is None) != (self.scale is None):
            faults.append("`score` and `scale` belong together; give both or neither")
        if self.scale is not None and self.scale[0] >= self.scale[1]:
            faults.append(f"found scale {list(self.scale)}; write the lowest number first")
        refuse(faults)
        return self


class CorpusSpec(Settings):
    """Where examples come from and how many are used."""

    loader: Annotated[str, AfterValidator(_loader)] | None = None
    """Which reader (`starter`, `table`, `mixed`, or a release such as `feedbackqa`); without it,
    the corpus's own name."""
    path: str | None = None
    """File or folder, relative to the recipe, or a dataset of the Hub in its own files
    (`hf://datasets/OWNER/NAME@REVISION/FILE`); not needed for `starter` and `mixed`."""
    of: tuple[str, ...] = ()
    """Which corpora of the recipe a `mixed` one takes equal shares from."""
    min_words: Count = 0
    """Of a `mixed` corpus: take only examples each of whose explanations has so many words."""
    task: str | None = None
    """The task that a table's label column answers; not needed where the recipe has one task, or
    the table no labels."""
    columns: Columns = Columns()
    """Column mapping of a table."""
    part: str | None = None
    """Which part of a release with several (`hh_rlhf`: chosen or rejected); without it, the
    loader's own default, which its page in the docs names."""
    judged: Literal["last", "each"] = "last"
    """Which reply of a conversation is judged: the last one, or each in an example of its own, with
    the turns before it."""
    languages: tuple[str, ...] = ()
    """Keep conversations in these languages only, as the release names them; without any, all."""
    sources: tuple[str, ...] = ()
    """Keep examples of these sources only (a style, a domain: what figures can be cut by), before
    anything is drawn or counted; without any, all."""
    train: Count | None = None
    """Examples to teach from; without it, all that are there. 0: it is only measured on."""
    validation: Count = 0
    """Examples taken out of the training part to choose checkpoints by."""
    test: Positive | None = None
    """Examples to measure on; without it, all that are there."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the groups held out, where the corpus has no split of its own."""
    stratify: bool = False
    """Draw the test part so that every pair of source and label has its share in it, within one
    example where groups are small; for corpora without a split of their own. Reads the whole corpus
    into memory."""
    raters: Literal["majority", "all"] = "majority"
    """Which test examples count as settled among people: those with a `majority` (more than half),
    or only those on which `all` raters say the same, for every task."""
    max_unreadable: Fraction = 0.01
    """Largest share of rows that may be unreadable and left out; more is an error."""
    seed: Count = 0
    """Draws the sample and the split; the same for every arm and student seed."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = []
        if self.loader in ("table", *RELEASES) and self.path is None:
            faults.append(f"found no path; {self.loader} needs `path:`")
        faults += self._mixed_faults()
        if self.loader == "table" and (self.columns.text is None) == (self.columns.turns is None):
            faults.append("expected exactly one of `columns.text` and `columns.turns`")
        refuse(faults)
        return self

    def _mixed_faults(self) -> list[str]:
        if self.loader == "mixed":
            if self.sources:
                return ["found sources, which a mixed corpus has not; give them to those it is of"]
            if len(set(self.of)) < max(len(self.of), 2):
                return [f"found of: {list(self.of)}; a mixed corpus needs two or more others"]
            return []
        alone = [knob for knob in ("of", "min_words") if getattr(self, knob)]
        return [f"found {knob}, which is for `loader: mixed`; drop it" for knob in alone]


class LabelSpec(Settings):
    """One label of a task of your own."""

    name: str
    """As the student writes it."""
    definition: str = ""
    """When to give it."""
    example: str = ""
    """A short text that deserves it, for the teachers' prompts with examples; students never see
    it."""


class TaskSpec(Settings):
    """A task of your own."""

    name: FolderName
    """Its name in tables and folders."""
    kind: Kind = Kind.NOMINAL
    """`ordinal` (labels from lowest to highest) or `nominal`."""
    question: str
    """What is asked about the text."""
    labels: Annotated[list[Either[str, LabelSpec]], Field(min_length=2)]
    """The answers, names or `{name, definition, example}`."""

    def task(self) -> Task:
        """The record."""
        labels = tuple(
            Label(name=spec)
            if isinstance(spec, str)
            else Label(name=spec.name, definition=spec.definition)
            for spec in self.labels
        )
        return Task(name=self.name, kind=self.kind, question=self.question, labels=labels)

    def samples(self) -> dict[str, str]:
        """Label -> its example; labels without one are left out."""
        specs = [spec for spec in self.labels if not isinstance(spec, str)]
        return {spec.name: spec.example for spec in specs if spec.example.strip()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.task()
        return self
