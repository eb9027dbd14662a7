"""The explanations that an arm's students generate, as such.

Explanations without a word count in `empty` alone; every other figure is a mean over the rest, or
over those of them for which it is defined. Of the labels read back see `reader`, of the words
`wording`.

Figure              Mean over explanations of                                        Range
gives_away          the label read back = the reference's                            0 to 1
gives_away_floor    the most frequent reference label here = the reference's         0 to 1
gives_away_gain     gives_away - gives_away_floor                                    -1 to 1
gives_away_ceiling  the label read back from the reference explanation = the         0 to 1
                    reference's; where there is one
agrees              the label read back = the predicted one                          0 to 1
agrees_floor        the most frequent predicted label = the predicted one            0 to 1
agrees_gain         agrees - agrees_floor                                            -1 to 1
names_label         a label's name stands in it (`leaks.leaks`)                      0 to 1
names_predicted     of those, the predicted label's name does                        0 to 1
words               its words                                                        1 and more
copied              `wording.copied`; of four words or more                          0 to 1
repeats             `wording.repeats`; of four words or more                         0 to 1
same                the same seed says the same words about another example          0 to 1
distinct            1 / how often the seed says these words: different ones of all   0 to 1
commonest           they are the words that the seed says most often                 0 to 1
likeness            `wording.likeness` to the reference explanation, where one is    0 to 100
likeness_floor      the same to that of another example with the same reference      0 to 100
                    label, drawn once by seed and alike for every arm
likeness_gain       likeness - likeness_floor                                        -100 to 100
empty               it has no word (of all)                                          0 to 1

`agrees` is the share of explanations that leak the output in the sense of Hase et al. 2020 (arXiv
2010.04119). It is neither their simulatability nor LAS, for which the observer reads the example
as well: a high share can be a good explanation or a label said in other words. The ceiling is what
explanations by people or teachers give away; a student that recites those of training, which the
reader has learnt, can go beyond it.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whytune.errors import EvidenceError
from whytune.evidence.intervals import estimate, expanded, resample
from whytune.evidence.pairing import by_seed
from whytune.evidence.reader import Columns, named, read_back
from whytune.evidence.slices import LEAST
from whytune.evidence.sums import ratio
from whytune.evidence.table import Ints, group_codes
from whytune.evidence.wording import Words, copied, likeness, repeats, words
from whytune.records import Estimate, Example, Lesson, Prediction, Reference, Task, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What an arm's students said when they were asked why."""

    examples: int
    n: int
    """Explanations: more than examples where several seeds are pooled; empty ones included."""
    empty: int
    """Explanations without a word."""
    figures: Mapping[str, Estimate]
    """Empty where there are too few examples."""


def measure(
    predictions: Sequence[Prediction],
    references: Mapping[str, Reference],
    examples: Sequence[Example],
    task: Task,
    verdicts: Mapping[str, Verdict],
    lessons: Sequence[Lesson],
    *,
    least: int = LEAST,
    draws: int,
    seed: int,
) -> Explained:
    """The figures of one arm's explanations, with 95 % bootstrap intervals over groups.

    Several explanations of one example (several seeds) may be pooled; intervals then speak about
    other examples and these seeds. What is not defined is not-a-number: of no explanations, of
    labels read back without a training explanation, of likeness without reference explanations.

    Args:
        predictions: answers about one task; those without an explanation were not asked for one.
        references: example id -> what the answer is measured against.
        examples: those explained, others may stand among them.
        task: the task of all predictions and lessons.
        verdicts: example id -> what people or teachers said; its assessment is the reference
            explanation, and may be missing.
        lessons: what the arm taught.
        least: explained examples below which they are counted and not measured.
        draws: bootstrap draws; 0 gives figures without intervals.
        seed: of the draws, and of which other explanation `likeness_floor` looks at.

    Raises:
        EvidenceError: an explanation of, or a lesson about, another task; an explanation about an
            example that is not there.
    """
    asked = [p for p in predictions if p.explanation is not None]
    known = {example.id: example for example in examples}
    _check(asked, references, known, task, lessons)
    empty = [not words(p.explanation or "") for p in asked]
    about = {p.example_id for p in asked}
    figures: dict[str, Estimate] = {}
    if len(about) >= least:
        said = [p for p, nothing in zip(asked, empty, strict=True) if not nothing]
        students = [k for k, nothing in zip(_students(asked), empty, strict=True) if not nothing]
        given = {i: verdicts[i].assessment or "" for i in references if i in verdicts}
        given = {i: why for i, why in given.items() if words(why)}
        columns = {
            **read_back(said, references, task, given, lessons),
            **named(said, task),
            **_worded(said, known),
            **_same(said, students),
            **_alike(said, references, given, seed),
        }
        groups = {example.id: example.group for example in examples}
        figures = _estimates(columns, group_codes(said, groups), draws, seed)
        whole = {"empty": np.array(empty, dtype=np.float64)}
        figures |= _estimates(whole, group_codes(asked, groups), draws, seed)
    return Explained(examples=len(about), n=len(asked), empty=sum(empty), figures=figures)


def sentence(arm: str, found: Explained) -> str:
    """What was found in an arm's explanations, in plain sentences.

    A difference from a floor is claimed only where its interval leaves out 0.
    """
    if not found.n:
        return f"{arm}: no explanations were generated."
    size = f"{arm}: {found.n} explanations of {found.examples} examples"
    if not found.figures:
        return f"{size}, too few to be measured."
    if found.empty == found.n:
        return f"{size}, all without a word."
    figures = found.figures
    size += f", {figures['words'].value:.0f} words on average"
    size += f", {found.empty} without a word" if found.empty else ""
    told = [size, *_tells_label(figures), *_tells_words(figures), *_tells_likeness(figures)]
    return ". ".join(told) + "."


def _students(asked: Sequence[Prediction]) -> list[int]:
    """Whose each explanation is: one number a seed."""
    whose = {at: k for k, positions in enumerate(by_seed(asked)) for at in positions}
    return [whose[at] for at in range(len(asked))]


def _worded(said: Sequence[Prediction], known: Mapping[str, Example]) -> Columns:
    spoken = [words(p.explanation or "") for p in said]
    texts = [[turn.text for turn in known[p.example_id].turns] for p in said]
    return {
        "words": np.array([len(own) for own in spoken], dtype=np.float64),
        "copied": np.array([copied(own, about) for own, about in zip(spoken, texts, strict=True)]),
        "repeats": np.array([repeats(own) for own in spoken]),
    }


def _same(said: Sequence[Prediction], students: Sequence[int]) -> Columns:
    """Which explanations a student gave more than once."""
    places: dict[int, dict[Words, list[int]]] = defaultdict(lambda: defaultdict(list))
    for at, (student, prediction) in enumerate(zip(students, said, strict=True)):
        places[student][words(prediction.explanation or "")].append(at)
    columns = {name: np.zeros(len(said)) for name in ("same", "distinct", "commonest")}
    for by_text in places.values():
        for own in by_text.values():
            columns["same"][own] = len({said[at].example_id for at in own}) > 1
            columns["distinct"][own] = 1 / len(own)
        most = max(by_text, key=lambda text: (len(by_text[text]), text))
        columns["commonest"][by_text[most]] = 1
    return columns


def _alike(
    said: Sequence[Prediction], references: Mapping[str, Reference], given: Mapping[str, str],
    seed: int,
) -> Columns:  # fmt: skip
    others = _partners({i: references[i].label for i in given}, seed)

    def to(reference: str | None, p: Prediction) -> float:
        return math.nan if reference is None else likeness(p.explanation or "", reference)

    own = np.array([to(given.get(p.example_id), p) for p in said])
    floor = np.array([to(given.get(others.get(p.example_id, "")), p) for p in said])
    return {"likeness": own, "likeness_floor": floor, "likeness_gain": own - floor}


def _partners(labels: Mapping[str, str], seed: int) -> dict[str, str]:
    """Example id -> another with the same label; each is another's once."""
    by_label = defaultdict(list)
    for example_id in sorted(labels):
        by_label[labels[example_id]].append(example_id)
    random = np.random.default_rng(seed)
    rings = [random.permutation(ids).tolist() for _, ids in sorted(by_label.items())]
    return {
        one: other
        for ring in rings
        for one, other in zip(ring, ring[1:] + ring[:1], strict=True)
        if one != other
    }


def _estimates(columns: Columns, codes: Ints, draws: int, seed: int) -> dict[str, Estimate]:
    groups = int(codes.max(initial=-1)) + 1
    counts, once = resample(groups, draws, seed), np.ones((1, groups))
    found = {}
    for name, values in columns.items():
        known = ~np.isnan(values)
        total = np.bincount(codes[known], weights=values[known], minlength=groups)
        n = np.bincount(codes[known], minlength=groups).astype(np.float64)
        value = float(ratio(once @ total, once @ n)[0])
        size = int(np.count_nonzero(n))
        found[name] = estimate(value, ratio(counts @ total, counts @ n), size, expanded(size))
    return found


def _tells_label(figures: Mapping[str, Estimate]) -> list[str]:
    read, floor, gain = (figures[f"agrees{end}"] for end in ("", "_floor", "_gain"))
    if math.isnan(read.value):
        return []
    told = f"The label it predicted can be read back from {read.value:.0%} of them{_within(read)}, "
    told += _against(gain, "more often than", "less often than", "not told apart from")
    told += f" the {floor.value:.0%} of always saying the most frequent one"
    ceiling = figures["gives_away_ceiling"].value
    if not math.isnan(ceiling):
        told += (
            f"; the reference label from {figures['gives_away'].value:.0%}, and from {ceiling:.0%} "
            "of the reference explanations"
        )
    return [told]


def _tells_words(figures: Mapping[str, Estimate]) -> list[str]:
    same = figures["same"].value
    told = [
        "A student says the same words about every example"
        if figures["commonest"].value == 1 and same > 0
        else f"{same:.0%} are word for word that of another example"
    ]
    if not math.isnan(figures["repeats"].value):
        told.append(
            f"Of their runs of four words, {figures['repeats'].value:.0%} stood in the same "
            f"explanation before, and {figures['copied'].value:.0%} stand in the example"
        )
    return told


def _tells_likeness(figures: Mapping[str, Estimate]) -> list[str]:
    own, floor, gain = (figures[f"likeness{end}"] for end in ("", "_floor", "_gain"))
    if math.isnan(gain.value):
        return []
    closer = _against(gain, "closer", "less close", "not found to be closer")
    return [
        f"They are {closer} to the reference explanation of their example than to that of another "
        f"with the same label (chrF {own.value:.1f} against {floor.value:.1f})"
    ]


def _against(gain: Estimate, more: str, less: str, unclear: str) -> str:
    if gain.low > 0:
        return more
    return less if gain.high < 0 else unclear


def _within(figure: Estimate) -> str:
    if math.isnan(figure.low):
        return ""
    return f" (95 % interval {figure.low:.0%} to {figure.high:.0%})"


def _check(
    said: Sequence[Prediction],
    references: Mapping[str, Reference],
    known: Mapping[str, Example],
    task: Task,
    lessons: Sequence[Lesson],
) -> None:
    for prediction in said:
        place = f"explanation of {prediction.example_id}"
        if prediction.task != task.name:
            raise EvidenceError(
                f"{place}: found task {prediction.task}, expected {task.name}; measure one task at "
                "a time"
            )
        if prediction.example_id not in known or prediction.example_id not in references:
            what = "example" if prediction.example_id not in known else "reference"
            raise EvidenceError(
                f"{place}: found no {what} of this id, expected one for every explanation; hand in "
                "those of the same corpus"
            )
    for lesson in lessons:
        if lesson.task.name != task.name:
            raise EvidenceError(
                f"lesson {lesson.example.id}: found task {lesson.task.name}, expected {task.name}; "
                "hand in the lessons of one task"
            )
