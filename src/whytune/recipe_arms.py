"""The knobs of how something is taught: arms, and who writes the explanations of some."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from whytune.records import Layout
from whytune.settings import FolderName, Positive, Settings, hint, refuse

Spoken = Literal["assessment", "confidence", "both", "generated"]
"""Explanations that somebody gave."""
PSEUDO = (
    "random-fully", "random-shuffle", "random-associated", "random-w-shuffle",
    "random-w-associated", "own-shuffled", "bag-of-words", "other-same", "other-different",
    "filler",
)  # fmt: skip
"""Explanations that are made from those of a corpus."""
# What an arm must not be matched by itself where another is matched to it: no chains, no circles.
_BARRED = {
    "gradient_of": {"gradient_of"},
    "tokens_of": {"tokens_of", "updates_of"},
    "updates_of": {"updates_of"},
}
_OF_TOKENS = ("gradient_of", "tokens_of")
"""Knobs that match tokens to tokens."""
Weight = Annotated[float, Field(ge=0)]


class Arm(Settings):
    """One way to teach."""

    explanation: Literal[
        "none", "assessment", "confidence", "both", "generated", "random-fully", "random-shuffle",
        "random-associated", "random-w-shuffle", "random-w-associated", "own-shuffled",
        "bag-of-words", "other-same", "other-different", "filler",
    ] = "none"  # fmt: skip
    """What the student learns to write beside the label. `assessment`, `confidence` or `both`: what
    the verdict says; `generated`: the reason that `generator` wrote. All others have as many words
    as that one would have. `random-fully`: drawn from a dictionary; `random-shuffle`: from all words
    but stopwords of all explanations taught; `random-associated`: from those of explanations with
    the same label; `random-w-shuffle`, `random-w-associated`: the same, each word as often as it
    is used; `own-shuffled`: its own words in another order; `other-same`, `other-different`:
    another example's, with the same label or with another, which keeps its own length; `filler`:
    one word again and again. `bag-of-words`: its own words sorted, each once."""
    of: Spoken | None = None
    """Which explanation such a replacement is made from and stands for; without it, the
    assessment."""
    words: Positive | None = None
    """Keep only so many words of it; a replacement is made from what is kept."""
    mask_labels: bool = False
    """Write `[label]` wherever an explanation names a label of the task, as words of its own."""
    layout: Layout = Layout.LABEL_EXPLANATION
    """Label first (the default: one forward pass gives the label), explanation first, or half of
    the explanation's words before the label and half after it; an arm without explanation is
    always `label`."""
    system: str | None = None
    """A system instruction in place of `prompt.system`, for this arm alone."""
    paraphrase: str | None = None
    """The system instruction with which the student is asked, where it is not the one that it was
    taught with: whether what it learned survives other words."""
    label_weight: Weight = 1.0
    """Weight of each label token in the loss, which is the sum of weight x negative log-likelihood
    over the sum of the weights of an update."""
    explanation_weight: Weight = 1.0
    """Weight of each token of the explanation, and of the line break and end mark beside it."""
    loss: Literal["token", "example"] = "token"
    """`token`: every token counts alike, so long explanations weigh more; `example`: each lesson's
    weights are first divided by their sum, so every lesson counts alike."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the label's target that is spread evenly over all labels of the task."""
    gradient_of: FolderName | None = None
    """An arm: learn the label, without its end mark, as gently as it is learned there. The learning
    rate is multiplied by the share that label tokens had in the norm of that arm's gradient while
    it was taught (`label_share` in `run.json`), so that arm must be taught first; `eval_steps` says
    how often it is measured. A smaller weight of everything would do nothing: AdamW divides it out
    again."""
    head: bool = False
    """The student answers by a linear layer over the labels on the last state of its prompt, as a
    sequence classifier does, instead of by the label's words; the layer is trained beside the
    adapter, from random weights. For arms without explanation."""
    tokens_of: FolderName | None = None
    """An arm: train until as many tokens were supervised as in that arm (`num_train_epochs` is
    multiplied)."""
    updates_of: FolderName | None = None
    """An arm: train for as many updates as that arm. Arms take the same number by themselves, as
    they have the same conversations, unless one of the two is matched by tokens."""

    @property
    def spoken(self) -> Spoken | None:
        """What somebody must have said for this arm to be taught; None where nothing."""
        if self.explanation == "none":
            return None
        if self.explanation in PSEUDO:
            return self.of or "assessment"
        return self.explanation  # type: ignore[return-value]

    @property
    def answers_in(self) -> Layout:
        """The layout of its students' answers."""
        return Layout.LABEL if self.explanation == "none" else self.layout

    @property
    def matched(self) -> dict[str, str]:
        """Knob -> the arm that it is matched to."""
        return {knob: name for knob in _BARRED if (name := getattr(self, knob)) is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = []
        if self.explanation == "none":
            faults += [f"found {knob} {getattr(self, knob)}, but the arm has no explanation; add "
                       f"`explanation:` or drop `{knob}`" for knob in ("words", "of", "mask_labels")
                       if getattr(self, knob)]  # fmt: skip
        elif self.layout is Layout.LABEL:
            faults.append(f"found layout label with explanation {self.explanation}, which it has "
                          "no place for; drop `layout`, or set `explanation: none`")  # fmt: skip
        if self.of is not None and self.explanation not in (*PSEUDO, "none"):
            faults.append(f"found of {self.of} with explanation {self.explanation}, which somebody "
                          "gave; `of` is for what is made from one: drop it")  # fmt: skip
        if self.label_weight == 0 and (self.explanation == "none" or self.explanation_weight == 0):
            faults.append("found label_weight 0 and nothing else that weighs; then nothing is "
                          "learned: raise one")  # fmt: skip
        if self.tokens_of is not None and self.updates_of is not None:
            faults.append("found both tokens_of and updates_of; each sets the length of training: "
                          "drop one")  # fmt: skip
        refuse([*faults, *self._head_faults()])
        return self

    def _head_faults(self) -> list[str]:
        if not self.head:
            return []
        faults = []
        if self.explanation != "none":
            faults.append(f"found head with explanation {self.explanation}, but a head writes "
                          "nothing; drop `head`, or set `explanation: none`")  # fmt: skip
        return faults + [
            f"found head with {knob}, but a head supervises no tokens to be matched; drop one"
            for knob in _OF_TOKENS if getattr(self, knob) is not None
        ]  # fmt: skip


def match_faults(arms: Mapping[str, Arm]) -> list[str]:
    """What is wrong with the arms that others are matched to, one sentence each."""
    faults = []
    for name, arm in arms.items():
        for knob, other in arm.matched.items():
            if other not in arms:
                faults.append(f"{name}.{knob}: {other!r} is no arm; {hint(other, arms)}")
            elif other == name:
                faults.append(f"{name}.{knob}: names the arm itself; name the one to be matched")
            elif _BARRED[knob] & arms[other].matched.keys():
                faults.append(f"{name}.{knob}: {other} is itself matched to another arm; name that")
            elif knob in _OF_TOKENS and arms[other].head:
                faults.append(f"{name}.{knob}: {other} has a head, which supervises no tokens; name "
                              "an arm without")  # fmt: skip
            elif knob == "gradient_of" and arms[other].label_weight == 0:
                faults.append(f"{name}.{knob}: labels weigh nothing in {other}; name another arm")
    return faults
