"""What the student of an arm is taught: its prompt, its encoded lessons, its training settings.

Where an arm is matched to another one, its learning rate or its length of training follow from what
that one is taught.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whytune import cell_state, store
from whytune.errors import RecipeError
from whytune.material import Material, conversations, together
from whytune.recipe import Recipe
from whytune.recipe_student import Prompting, Train
from whytune.records import Split, Task
from whytune.run_folder import Cell

if TYPE_CHECKING:
    from whytune.student.encode import Bundle, Encoder
    from whytune.student.models import Student


def prompting(recipe: Recipe, arm: str, *, asked: bool = False) -> Prompting:
    """How the student of an arm is prompted while it is taught, or once it is asked."""
    spec = recipe.arms[arm]
    system = spec.paraphrase if asked and spec.paraphrase is not None else spec.system
    return recipe.prompt if system is None else recipe.prompt.model_copy(update={"system": system})


def prompted(student: "Student", recipe: Recipe, arm: str, *, asked: bool = False) -> "Student":
    """A student with the system instruction of its arm.

    Args:
        student: base, perhaps with an adapter.
        recipe: has the arm.
        arm: its name.
        asked: as it is asked after it was taught, rather than as it is taught.

    Raises:
        EncodingError: the chat template cannot carry the instruction.
    """
    wanted = prompting(recipe, arm, asked=asked)
    if wanted == student.encoder.prompting:
        return student
    return replace(student, encoder=student.encoder.prompted(wanted))


def head(recipe: Recipe, arm: str, tasks: Sequence[Task]) -> dict[str, tuple[str, ...]] | None:
    """The rows of the head that the students of an arm answer by, task -> labels; None where they
    write their labels.
    """
    return {task.name: task.label_names for task in tasks} if recipe.arms[arm].head else None


def encoder(recipe: Recipe, arm: str, tasks: Sequence[Task], student: "Student") -> "Encoder":
    """Who encodes the lessons of an arm.

    Raises:
        EncodingError: the chat template cannot carry the arm's instruction.
    """
    from whytune.student.label_head import HeadEncoder

    own = prompted(student, recipe, arm).encoder
    labels = head(recipe, arm, tasks)
    return own if labels is None else HeadEncoder(own, labels)


def lessons(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], student: "Student"
) -> "list[Bundle]":
    """A cell's lessons as its student reads them: one bundle for each conversation, each with a
    proof of its mask and with the arm's weights.

    Raises:
        EncodingError: a label or explanation that would not be supervised exactly.
    """
    from whytune.student.encode import audit
    from whytune.student.objective import weigh

    tasks = [material.task for material in materials]
    own = encoder(recipe, cell.arm, tasks, student)
    return [
        weigh(audit(own, about, tasks), about, recipe.arms[cell.arm], own)
        for about in conversations(materials, cell.arm, cell.seed)
    ]


def check_asked(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], student: "Student"
) -> None:
    """Make sure, before anything is taught, that a paraphrase leaves room for every text.

    Raises:
        EncodingError: it does not, or the chat template cannot carry it.
    """
    if recipe.arms[cell.arm].paraphrase is None:
        return
    asked = prompted(student, recipe, cell.arm, asked=True).encoder
    for example in together(materials, Split.TEST):
        asked.prompt(example, [material.task for material in materials])


def settings(
    recipe: Recipe, cell: Cell, materials: Sequence[Material], student: "Student", folder: Path
) -> tuple[Train, dict[str, Any]]:
    """How the student of a cell is trained.

    Args:
        recipe: has the settings that are the same for all arms.
        cell: which student.
        materials: one for each of its tasks.
        student: who encodes the lessons.
        folder: of its run; the runs that it may be matched to stand beside it.

    Returns:
        The settings, and those of them that are the arm's own: `learning_rate` and
        `num_train_epochs`, where it is matched to another one.

    Raises:
        RecipeError: the arm whose gradient is to be matched is not taught yet.
    """
    from whytune.student import effort

    def supervised(name: str) -> int:
        own = lessons(recipe, replace(cell, arm=name), materials, student)
        return sum(effort.supervised(own).values())

    arm = recipe.arms[cell.arm]
    changed: dict[str, Any] = {}
    if arm.gradient_of is not None:
        share = _label_share(recipe, cell, arm.gradient_of, materials, folder)
        changed["learning_rate"] = recipe.train.learning_rate * share
    if arm.tokens_of or arm.updates_of:
        changed["num_train_epochs"] = passes(recipe, cell.arm, supervised)
    return recipe.train.model_copy(update=changed), changed


def passes(recipe: Recipe, name: str, supervised: Callable[[str], int]) -> float:
    """How often the student of an arm goes through its lessons.

    Arms have the same conversations, so as many updates are as many passes.

    Args:
        recipe: has the arms.
        name: of the arm.
        supervised: arm -> supervised tokens of all its lessons.
    """
    arm = recipe.arms[name]
    if arm.updates_of is not None:
        name, arm = arm.updates_of, recipe.arms[arm.updates_of]
    if arm.tokens_of is None:
        return recipe.train.num_train_epochs
    return recipe.train.num_train_epochs * supervised(arm.tokens_of) / supervised(name)


def _label_share(
    recipe: Recipe, cell: Cell, other: str, materials: Sequence[Material], folder: Path
) -> float:
    """The share of label tokens in the gradient's norm of the arm that is matched."""
    theirs = replace(cell, arm=other)
    place = folder.parent / theirs.id
    if not cell_state.finished(recipe, theirs, materials, place):
        raise RecipeError(
            f"arms.{cell.arm}.gradient_of: {other} is not taught yet ({place}), and its gradient is "
            f"measured while it is; teach it first: `whytune train RECIPE --arm {other}`"
        )
    share = store.read_json(place / "run.json").get("label_share")
    if not share:
        raise RecipeError(
            f"arms.{cell.arm}.gradient_of: {place} says no share of label tokens in its gradient "
            f"(found {share}), as runs of earlier versions do not; delete it and teach it again"
        )
    return float(share)
