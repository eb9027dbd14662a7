"""What a student is to lower: the weighted negative log-likelihood of its lessons.

The loss of an update is the sum of weight x negative log-likelihood over the sum of the weights of
all its bundles: it does not depend on how they are divided into forward passes and processes.
Bundles without weights count every supervised token alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from whytune.recipe_arms import Arm
from whytune.records import Lesson
from whytune.student.bundle import Model, Node, chosen_among, logits
from whytune.student.encode import Branch, Bundle, Encoder, Ids
from whytune.student.models import Student
from whytune.student.targets import Part


def weigh(bundle: Bundle, lessons: Sequence[Lesson], arm: Arm, encoder: Encoder) -> Bundle:
    """Give the tokens of a bundle the weights that an arm wants.

    Label tokens weigh `label_weight`, those of an explanation and the frame beside it
    `explanation_weight`, the frame of a lesson without explanation 1 (0 where the label is matched
    to another arm's gradient). With `loss: example` the weights of each lesson are divided by their
    sum. `label_smoothing` e makes the label's target 1 - e + e/K for the taught one of K labels and e/K for each other (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567, section 7), token by token along the taught label's path: where
    labels part, each next token's target is its labels' share of what all labels that begin so
    have together.

    Args:
        bundle: the encoded lessons.
        lessons: one a branch.
        arm: says the weights; by its defaults the bundle is returned as it is.
        encoder: knows the tokens of the labels.
    """
    plain = arm.label_weight == arm.explanation_weight == 1 and arm.loss == "token"
    if plain and arm.label_smoothing == 0 and arm.gradient_of is None:
        return bundle
    branches = tuple(
        _weighed(branch, lesson, arm, encoder.labels(lesson.task))
        for branch, lesson in zip(bundle.branches, lessons, strict=True)
    )
    return replace(bundle, branches=branches)


def _weighed(branch: Branch, lesson: Lesson, arm: Arm, labels: Mapping[str, Ids]) -> Branch:
    alone = float(arm.gradient_of is None)  # a matched label is to have the gradient for itself
    frame = alone if lesson.explanation is None else arm.explanation_weight
    of_part = {
        Part.PROMPT: 0.0, Part.LABEL: arm.label_weight,
        Part.EXPLANATION: arm.explanation_weight, Part.FRAME: frame,
    }  # fmt: skip
    weights = [of_part[part] for part in branch.parts]
    # The sum of the targets at a place is 1, so smoothing leaves it alone.
    total = sum(weights)
    scale = 1 / total if arm.loss == "example" and total > 0 else 1.0
    weights = [weight * scale for weight in weights]
    spread = []
    places = [at for at, part in enumerate(branch.parts) if part is Part.LABEL]
    if arm.label_smoothing > 0:
        for at, shares in zip(
            places, _smoothed(lesson.label, labels, arm.label_smoothing), strict=True
        ):
            whole = weights[at]
            weights[at] = whole * shares.pop(branch.ids[at])
            spread += [(at, token, whole * share) for token, share in shares.items()]
    return replace(branch, weights=tuple(weights), spread=tuple(spread))


def _smoothed(gold: str, labels: Mapping[str, Ids], share: float) -> Iterator[dict[int, float]]:
    """Of each token of the gold label: possible token -> its target; they sum to 1."""
    masses = {name: share / len(labels) + (1 - share) * (name == gold) for name in labels}
    for at in range(len(labels[gold])):
        begun = labels[gold][:at]
        found: dict[int, float] = {}
        for name, ids in labels.items():
            if ids[:at] == begun:
                found[ids[at]] = found.get(ids[at], 0.0) + masses[name]
        total = sum(found.values())
        yield {token: mass / total for token, mass in found.items()}


def tree(bundle: Bundle, *, spread: bool = False) -> tuple[list[Node], list[tuple[int, int]]]:
    """A bundle as a tree, and its supervised ids as (row of the tree's logits, id).

    The id at a place of a branch is predicted one place before it, which for the first id is
    the end of the prefix. With `spread`, the ids that smoothing moved something to follow those of
    their branch.
    """
    at_once = any(branch.parts[0] is not Part.PROMPT for branch in bundle.branches)
    nodes = [Node(ids=bundle.prefix, wanted=(len(bundle.prefix) - 1,) if at_once else ())]
    rows, targets = int(at_once), []
    for branch in bundle.branches:
        supervised = [at for at, part in enumerate(branch.parts) if part is not Part.PROMPT]
        wanted = tuple(at - 1 for at in supervised if at > 0)
        nodes.append(Node(ids=branch.ids, parent=0, wanted=wanted))
        row = {at: rows + index for index, at in enumerate(wanted)} | {-1: 0}
        targets += [(row[at - 1], branch.ids[at]) for at in supervised]
        if spread:
            targets += [(row[at - 1], token) for at, token, _ in branch.spread]
        rows += len(wanted)
    return nodes, targets


def terms(bundles: Sequence[Bundle]) -> list[tuple[Part, float]]:
    """What part and weight each term of `weighted_nll` has, in its order."""
    found: list[tuple[Part, float]] = []
    for branch in (branch for bundle in bundles for branch in bundle.branches):
        weights = branch.weights or (1.0,) * len(branch.ids)
        own = zip(branch.parts, weights, strict=True)
        found += [(part, weight) for part, weight in own if part is not Part.PROMPT]
        found += [(branch.parts[at], weight) for at, _, weight in branch.spread]
    return found


def token_nll(student: Student, bundles: Sequence[Bundle], through: Model | None = None) -> Tensor:
    """Negative log-likelihood of every supervised token, whatever it weighs.

    Args:
        student: who is asked.
        bundles: run in one forward pass.
        through: the student's model as wrapped for several devices; without it, the model itself.

    Returns:
        Nats, float32, (supervised tokens of all bundles in their order,).
    """
    return _nll(student, bundles, through)


def weighted_nll(
    student: Student, bundles: Sequence[Bundle], through: Model | None = None
) -> Tensor:
    """Weight x negative log-likelihood of every supervised token and of what smoothing moved.

    Args:
        student: as in `token_nll`.
        bundles: as in `token_nll`.
        through: as in `token_nll`.

    Returns:
        Nats, float32, (terms,): of each branch its supervised tokens, then its `spread`.
    """
    if all(branch.weights is None for bundle in bundles for branch in bundle.branches):
        return token_nll(student, bundles, through)
    found = _nll(student, bundles, through, spread=True)
    return found * torch.tensor([weight for _, weight in terms(bundles)], device=found.device)


def _nll(
    student: Student, bundles: Sequence[Bundle], through: Model | None, *, spread: bool = False
) -> Tensor:
    trees = [tree(bundle, spread=spread) for bundle in bundles]
    found = logits(student, [nodes for nodes, _ in trees], through)
    rows, targets, first = [], [], 0
    for nodes, of_tree in trees:
        rows += [first + row for row, _ in of_tree]
        targets += [token for _, token in of_tree]
        first += sum(len(node.wanted) for node in nodes)
    chosen = found[torch.tensor(rows, device=found.device)]
    chosen = chosen_among(chosen, [
        branch.among for bundle in bundles for branch in bundle.branches
        for _ in range(_targets(branch, spread=spread))
    ])  # fmt: skip
    return torch.nn.functional.cross_entropy(
        chosen, torch.tensor(targets, device=found.device), reduction="none"
    )


def _targets(branch: Branch, *, spread: bool) -> int:
    own = sum(part is not Part.PROMPT for part in branch.parts)
    return own + len(branch.spread) * spread


def label_nlls(student: Student, bundle: Bundle) -> list[float]:
    """Negative log-probability of the taught label of each branch, in nats, without dropout."""
    student.model.eval()
    with torch.no_grad():
        losses = iter(token_nll(student, [bundle]).tolist())
    return [
        sum(next(losses) * (part is Part.LABEL) for part in branch.parts if part is not Part.PROMPT)
        for branch in bundle.branches
    ]
