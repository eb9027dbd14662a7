"""A first recipe for a table of one's own, from a look at its first rows.

What is written is a proposal: it says what it saw, what it was unsure about, and is read by the
same reader as every recipe before it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whytune import recipe_file, store
from whytune.errors import InputError, RecipeError
from whytune.material import gather
from whytune.propose import columns, labels, words
from whytune.propose.head import Head, look
from whytune.propose.recipe import Draft, render
from whytune.recipe import Recipe

__all__ = ["Proposal", "propose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What was written, and why."""

    recipe: Path
    columns: dict[str, str]
    """Use (`text`, `label`, `explanation` …) -> column."""
    scale: tuple[float, float] | None
    kind: str
    labels: tuple[str, ...]
    saw: tuple[str, ...]
    unsure: tuple[str, ...]


def propose(
    table: Path, output: Path | None = None, *, model: str = "smollm2-135m", force: bool = False
) -> Proposal:
    """Look at a table and write a recipe for it.

    Args:
        table: CSV, JSON Lines or Parquet; the first two perhaps gzipped.
        output: the recipe; without it, beside the table, named after it.
        model: base model of the recipe.
        force: write over a file that is there.

    Raises:
        CorpusError: the file is not there or not readable, or no column could be the text or
            the label.
        RecipeError: the output is there already.
    """
    output = output or table.with_name(f"{words.stem(table)}.yaml")
    if output.exists() and not force:
        raise RecipeError(
            f"{output}: is there already; nothing was written; choose another --output, or give "
            "--force to write over it"
        )
    head = look(table)
    uses, doubts = columns.assign(head)
    answer = labels.task(head, uses)
    draft = Draft(table=table, output=output, model=model, head=head, uses=uses, answer=answer)
    text = render(draft)
    recipe = recipe_file.parse(text, place=str(output), folder=output.parent)
    unsure = (*doubts, *answer.doubts, *_trial(recipe, head))
    store.write_text(output, text)
    return Proposal(
        recipe=output, columns=dict(uses), scale=answer.scale, kind=str(answer.kind),
        labels=answer.labels, saw=tuple(_saw(head, uses, answer)), unsure=unsure,
    )  # fmt: skip


def _trial(recipe: Recipe, head: Head) -> Sequence[str]:
    """What the loader says about the table; only where the look saw all of it."""
    if not head.whole:
        return (
            f"only the first {len(head.rows)} rows were looked at; others may hold more labels: "
            "`whytune check` reads them all",
        )
    try:
        gather(recipe)
    except InputError as error:
        return tuple(f"the table cannot be used as it is: {line}"
                     for line in str(error).splitlines())  # fmt: skip
    return ()


def _saw(head: Head, uses: columns.Uses, answer: labels.Answer) -> Sequence[str]:
    rows = f"{len(head.rows)} rows" if head.whole else f"the first {len(head.rows)} rows"
    seen = [f"{rows} with {len(head.columns)} columns: {', '.join(head.columns)}"]
    seen += [f"{use}: column {column!r}" for use, column in uses.items()]
    order = "from lowest to highest" if answer.scored_order else "without an order"
    seen.append(f"labels, {order}: {', '.join(answer.labels)}")
    if answer.scale is not None:
        seen.append(f"scores from {answer.scale[0]:g} to {answer.scale[1]:g}")
    unused = [column for column in head.columns if column not in uses.values()]
    if unused:
        seen.append(f"not used: {', '.join(unused)}")
    return seen
