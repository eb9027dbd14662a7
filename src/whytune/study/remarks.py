"""What a check says about the data: faults, which would make figures wrong, and remarks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from whytune.lint import duplicates
from whytune.lint.health import Health
from whytune.lint.texts import Lengths
from whytune.material import Material
from whytune.student.prompting import conversation_text
from whytune.study.findings import Findings, Tokens

RARE = 0.02
"""Share of the lessons below which a label is called rare."""
_SHOWN = 60  # characters of a text that a remark quotes


def faults(corpus: str, health: Health) -> Iterator[str]:
    """What would make figures too good."""
    if health.leaks:
        yield (
            f"corpora.{corpus}: {health.leaks} text(s) stand both in the training part and "
            "in a held-out part, so figures would be too good; give the duplicates one group "
            "(columns.group) or remove them"
        )


def of_lessons(
    material: Material, left_out: Sequence[tuple[str, str]]
) -> Iterator[str]:  # fmt: skip
    """About what is taught: what is left out, what repeats, and how the labels are spread."""
    yield from material.corpus.notes
    if not material.told:
        yield (
            "nothing to teach from: " + ("only to measure on" if material.annotations else
            f"nobody has answered {material.task.name} about it yet")
        )  # fmt: skip
        return
    if material.unwritten:
        yield (f"{material.unwritten} reasons are not written yet; others stand in for them here "
               "(`whytune explain` writes them)")  # fmt: skip
    for what, why in left_out:
        yield f"{what} are taught in no arm: {why}"
    examples = {one.example.id: one.example for one in material.told}
    texts = Counter(conversation_text(example.turns, None) for example in examples.values())
    if repeated := sum(count - 1 for count in texts.values()):
        yield f"{repeated} training examples repeat the text of another"
    counts = Counter(one.label for one in material.told)
    for name in material.task.label_names:
        if counts[name] < RARE * len(material.told):
            yield f"label {name!r} is rare: {counts[name]} of {len(material.told)} lessons"
    top, most = counts.most_common(1)[0]
    yield f"always answering {top!r} would be right for {most / len(material.told):.0%} of the lessons"


def of_texts(
    health: Health, conflicts: Mapping[str, Mapping[str, int]], tokens: Tokens | None
) -> Iterator[str]:
    """About the texts: near duplicates, contradictions, markup, and what is cut."""
    if health.near_leaks:
        yield (
            f"{health.near_leaks} held-out texts nearly repeat a training text (Jaccard index of "
            f"their word triples {duplicates.THRESHOLD} or more), so figures may be too good; "
            "where that is no accident, give them one group (columns.group)"
        )
    if others := health.near - health.near_leaks:
        yield f"{others} texts nearly repeat another of the same side of the split"
    if health.compared < health.examples:
        yield (
            f"near duplicates were looked for among {health.compared} of {health.examples} "
            "examples, so there may be more"
        )
    yield from _contradictions(conflicts)
    for kind, count in health.markup.items():
        yield f"{count} examples hold {kind}, as {', '.join(health.marked[kind][:3])}"
    if tokens is not None and tokens.cut:
        yield (
            f"{tokens.cut} of {tokens.texts.n} texts are longer than prompt.max_length "
            f"{tokens.max_length} allows and lose their middle"
        )


def of_votes(voted: int, disputed: int) -> Iterator[str]:
    """About examples that were labelled more than once."""
    if disputed:
        yield f"{disputed} of the {voted} examples with several labels carry different ones"


def _contradictions(conflicts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for text, labels in sorted(conflicts.items())[:1]:
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        said = ", ".join(f"{label}: {count}" for label, count in sorted(labels.items()))
        yield f"{len(conflicts)} texts carry different labels in several examples, as {shown!r} ({said})"


def lines(found: Findings) -> Iterator[str]:
    """What state the texts are in, for a terminal."""
    health = found.health
    yield (
        f"texts: {health.examples}; {health.repeats} repeat another, {health.near} nearly; "
        f"{health.leaks} leak across the split, {health.near_leaks} nearly"
    )
    yield f"rows: {health.rows}; {health.unreadable} could not be read"
    yield f"languages: {', '.join(f'{name} {n}' for name, n in health.languages.items())}"
    yield f"held out: {', '.join(f'{label}: {n}' for label, n in found.held_out.items())}"
    if found.tokens is not None:
        yield (
            f"tokens of the texts: {_lengths(found.tokens.texts)}; {found.tokens.cut} cut to "
            f"prompt.max_length {found.tokens.max_length}"
        )
        for arm, own in found.tokens.explanations.items():
            yield f"tokens of the explanations, arm {arm}: {_lengths(own)}"


def _lengths(lengths: Lengths) -> str:
    inner = ", ".join(f"{percent} %: {n}" for percent, n in lengths.percentiles.items())
    return f"{inner}, longest {lengths.longest}"
