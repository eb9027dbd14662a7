"""The weighted objective, against torch on separate sequences and sums worked out by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor
from torch.nn.functional import cross_entropy

from whytune.errors import TrainingError
from whytune.recipe_arms import Arm
from whytune.recipe_student import Train
from whytune.records import Example, Kind, Label, Layout, Lesson, Task
from whytune.student.encode import Branch, Bundle, audit
from whytune.student.models import Student
from whytune.student.objective import label_nlls, terms, token_nll, weigh, weighted_nll
from whytune.student.targets import Part
from whytune.student.train import train

Students = Callable[..., Student]

HEAVY = Arm(explanation="assessment", label_weight=3.0, explanation_weight=0.25)
SMOOTH = Arm(explanation="assessment", label_smoothing=0.2)


def encoded(student: Student, lessons: list[Lesson], arm: Arm) -> list[Bundle]:
    return [
        weigh(audit(student.encoder, [x], [x.task]), [x], arm, student.encoder) for x in lessons
    ]


def update_loss(student: Student, bundles: list[Bundle]) -> float:
    with torch.no_grad():
        found = weighted_nll(student, bundles)
    return float(found.sum()) / sum(weight for _, weight in terms(bundles))


def distributions(student: Student, bundle: Bundle, branch: int) -> Tensor:
    """Next-token logits in float64, (ids, vocabulary): those that predict each id of a branch, read
    as a sequence of its own by the model's own attention."""
    ids = bundle.prefix + bundle.branches[branch].ids
    with torch.no_grad():
        found: Tensor = student.model(input_ids=torch.tensor([ids])).logits[0]
    return found[len(bundle.prefix) - 1 : -1].double()


def means(student: Student, bundle: Bundle) -> list[dict[str, tuple[float, int]]]:
    """Of each branch: part -> (sum of its NLLs in nats, tokens)."""
    found = []
    for index, branch in enumerate(bundle.branches):
        nll = cross_entropy(
            distributions(student, bundle, index), torch.tensor(branch.ids), reduction="none"
        )
        parts = {}
        for part in Part:
            own = [float(x) for x, p in zip(nll, branch.parts, strict=True) if p is part]
            parts[part.value] = (math.fsum(own), len(own))
        found.append(parts)
    return found


@pytest.fixture
def pairs(examples: list[Example], task: Task, single_task: Task) -> list[list[Lesson]]:
    """Conversations with two lessons each, one of them without an explanation."""
    return [
        [
            Lesson(example=example, task=task, label=task.label_names[n % 4],
                   layout=Layout.LABEL_EXPLANATION,
                   explanation=" ".join(["because it says so"] * (1 + n % 3))),
            Lesson(example=example, task=single_task, label="ABC"[n % 3], layout=Layout.LABEL),
        ]
        for n, example in enumerate(examples[:6])
    ]  # fmt: skip


def test_by_default_a_bundle_is_left_alone(student: Students, lessons: list[Lesson]) -> None:
    made = student()
    for lesson in lessons[:3]:
        bundle = audit(made.encoder, [lesson], [lesson.task])
        assert weigh(bundle, [lesson], Arm(), made.encoder) is bundle
        assert weigh(bundle, [lesson], Arm(explanation="both", words=3), made.encoder) is bundle
        with torch.no_grad():
            assert torch.equal(weighted_nll(made, [bundle]), token_nll(made, [bundle]))


def test_weights_of_one_and_no_smoothing_change_nothing(
    student: Students, lessons: list[Lesson]
) -> None:
    made = student()
    plain = encoded(made, lessons[:4], Arm())
    ones = [
        replace(b, branches=tuple(replace(x, weights=(1.0,) * len(x.ids)) for x in b.branches))
        for b in plain
    ]
    assert update_loss(made, ones) == update_loss(made, plain)
    with torch.no_grad():
        assert torch.equal(weighted_nll(made, ones), token_nll(made, plain))


@pytest.mark.parametrize("layout", [x for x in Layout if x is not Layout.LABEL])
def test_the_weighted_loss_is_that_of_separate_sequences(
    layout: Layout, student: Students, pairs: list[list[Lesson]]
) -> None:
    made = student()
    bundles, above, below = [], 0.0, 0.0
    for lessons in pairs:
        lessons = [replace(lessons[0], layout=layout), lessons[1]]
        tasks = [lesson.task for lesson in lessons]
        bundle = audit(made.encoder, lessons, tasks)
        bundles.append(weigh(bundle, lessons, HEAVY, made.encoder))
        explained, bare = means(made, bundle)
        # label 3, explanation 1/4 with its frame; the end mark of a bare label 1.
        for own, frame in ((explained, 0.25), (bare, 1.0)):
            for part, weight in (("label", 3.0), ("explanation", 0.25), ("frame", frame)):
                nll, count = own[part]
                above, below = above + weight * nll, below + weight * count
    assert update_loss(made, bundles) == pytest.approx(above / below, abs=1e-5)
    assert sum(weight for _, weight in terms(bundles)) == pytest.approx(below)
    assert abs(above / below - update_loss(made, [replace(b, branches=tuple(
        replace(x, weights=None) for x in b.branches)) for b in bundles])) > 0.01  # fmt: skip


def test_every_lesson_counts_alike(student: Students, pairs: list[list[Lesson]]) -> None:
    made = student()
    arm = Arm(explanation="assessment", loss="example")
    bundles, expected = [], []
    for lessons in pairs:
        bundle = audit(made.encoder, lessons, [lesson.task for lesson in lessons])
        bundles.append(weigh(bundle, lessons, arm, made.encoder))
        for own in means(made, bundle):
            del own["prompt"]
            expected.append(sum(x for x, _ in own.values()) / sum(n for _, n in own.values()))
    assert len(expected) == 12
    for branch in (branch for bundle in bundles for branch in bundle.branches):
        assert sum(branch.weights or ()) == pytest.approx(1)
    assert update_loss(made, bundles) == pytest.approx(math.fsum(expected) / 12, abs=1e-5)


def test_a_lesson_in_which_nothing_weighs_stays_so(
    student: Students, lessons: list[Lesson]
) -> None:
    made = student()
    # An arm cannot be made so; what nothing weighs is a lesson of such an arm.
    arm = Arm().model_copy(update={"label_weight": 0.0, "explanation_weight": 0.0, "loss": "example",
                                   "label_smoothing": 0.1})  # fmt: skip
    (bundle,) = encoded(made, lessons[:1], arm)
    assert {weight for _, weight in terms([bundle])} == {0.0}


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_smoothing_of_labels_of_one_token_is_torchs_soft_target(
    weight: float, student: Students, examples: list[Example], single_task: Task
) -> None:
    made = student()
    lesson = Lesson(example=examples[0], task=single_task, label="B", layout=Layout.LABEL)
    arm = Arm(label_smoothing=0.3, label_weight=weight)
    (bundle,) = encoded(made, [lesson], arm)
    (branch,) = bundle.branches
    at = branch.parts.index(Part.LABEL)
    logits = distributions(made, bundle, 0)
    soft = torch.zeros_like(logits[at])
    for name, ids in made.encoder.labels(single_task).items():
        soft[ids[0]] = 0.1 + 0.7 * (name == "B")
    assert float(soft.sum()) == pytest.approx(1)
    of_label = float(cross_entropy(logits[at][None], soft[None]))
    of_end = float(cross_entropy(logits[at + 1][None], torch.tensor([branch.ids[at + 1]])))
    expected = (weight * of_label + of_end) / (weight + 1)
    assert update_loss(made, [bundle]) == pytest.approx(expected, abs=1e-5)


class Spelled:
    """Labels as paths of ids made up."""

    def __init__(self, **labels: tuple[int, ...]):
        self.own = labels

    def labels(self, _: Task) -> dict[str, tuple[int, ...]]:
        return self.own


def test_smoothing_follows_the_path_of_the_label(examples: list[Example]) -> None:
    # By hand, with e = 0.4 and K = 4: the gold label ab is worth 0.7, each other 0.1. At the first
    # place a stands for ab, ac and ad, 0.9, and b for itself, 0.1. Behind a are b (0.7), c (0.1) and
    # d (0.1) of 0.9. Behind ab nothing parts any more.
    names = ("abe", "ac", "ad", "b")
    task = Task(name="t", kind=Kind.NOMINAL, question="Which?",
                labels=tuple(Label(name=name) for name in names))  # fmt: skip
    encoder: Any = Spelled(abe=(11, 12, 15), ac=(11, 13), ad=(11, 14), b=(12,))
    lesson = Lesson(example=examples[0], task=task, label="abe", layout=Layout.LABEL)
    branch = Branch(
        ids=(5, 6, 11, 12, 15, 0), parts=(*[Part.PROMPT] * 2, *[Part.LABEL] * 3, Part.FRAME)
    )
    bundle = Bundle(prefix=(1, 2), branches=(branch,))
    found = weigh(bundle, [lesson], Arm(label_smoothing=0.4, label_weight=2), encoder).branches[0]
    assert found.weights == pytest.approx((0, 0, 2 * 0.9, 2 * 0.7 / 0.9, 2, 1))
    expected = {(2, 12): 2 * 0.1, (3, 13): 2 * 0.1 / 0.9, (3, 14): 2 * 0.1 / 0.9}
    spread = {(at, token): weight for at, token, weight in found.spread}
    assert spread == pytest.approx(expected)
    assert len(found.spread) == 3


def test_smoothing_of_labels_of_several_tokens_is_a_sum_of_soft_targets(
    student: Students, lessons: list[Lesson]
) -> None:
    made = student()
    labels = made.encoder.labels(lessons[0].task)
    # "fairly good" and "fairly bad" part behind what they share.
    assert len(labels["fairly good"]) > 1
    bundles = encoded(made, lessons[:4], SMOOTH)
    total, count = 0.0, 0
    for bundle, lesson in zip(bundles, lessons, strict=False):
        (branch,) = bundle.branches
        soft = torch.nn.functional.one_hot(torch.tensor(branch.ids), 400).double()
        start = branch.parts.index(Part.LABEL)
        for at in range(len(labels[lesson.label])):
            begun = {n: ids for n, ids in labels.items() if ids[:at] == labels[lesson.label][:at]}
            q = {n: 0.05 + 0.8 * (n == lesson.label) for n in begun}
            soft[start + at] = 0
            for name, ids in begun.items():
                soft[start + at, ids[at]] += q[name] / sum(q.values())
        for logits, target, part in zip(
            distributions(made, bundle, 0), soft, branch.parts, strict=True
        ):
            if part is not Part.PROMPT:
                total += float(cross_entropy(logits[None], target[None]))
                count += 1
    assert update_loss(made, bundles) == pytest.approx(total / count, abs=1e-5)
    assert any(branch.spread for bundle in bundles for branch in bundle.branches)


def test_what_is_measured_knows_no_weights(student: Students, lessons: list[Lesson]) -> None:
    made = student()
    (plain,), (smooth,) = (encoded(made, lessons[1:2], arm) for arm in (Arm(), SMOOTH))
    assert label_nlls(made, smooth) == label_nlls(made, plain)
    with torch.no_grad():
        assert torch.equal(token_nll(made, [smooth]), token_nll(made, [plain]))


@pytest.mark.parametrize("arm", [HEAVY, SMOOTH, Arm(explanation="assessment", loss="example")],
                         ids=["weights", "smoothing", "example"])  # fmt: skip
def test_an_update_with_weights_does_not_depend_on_how_it_is_divided(
    arm: Arm, student: Students, lessons: list[Lesson], tmp_path: Path
) -> None:
    def taught(size: int, accumulated: int) -> tuple[dict[str, Tensor], float]:
        settings = Train(per_device_train_batch_size=size, gradient_accumulation_steps=accumulated,
                         lora_dropout=0, num_train_epochs=8 / 12, learning_rate=1e-3)  # fmt: skip
        made = student(seed=0, settings=settings)
        done = train(made, encoded(made, lessons, arm), settings, seed=0, measure=lambda: {"t": 0.0},
                     folder=tmp_path / f"{size}")  # fmt: skip
        assert done.updates == 2
        return get_peft_model_state_dict(made.adapted), done.history[0]["train_loss"]

    (whole, loss), (divided, same) = taught(4, 1), taught(2, 2)
    assert same == pytest.approx(loss, abs=1e-6)
    for name, tensor in whole.items():
        torch.testing.assert_close(divided[name], tensor, atol=1e-6, rtol=0)


def test_an_update_in_which_nothing_weighs_ends_the_training(
    student: Students, lessons: list[Lesson], tmp_path: Path
) -> None:
    made = student(seed=0)
    nothing = Arm().model_copy(update={"label_weight": 0.0, "explanation_weight": 0.0})
    with pytest.raises(TrainingError, match=(
        r"update 1: the weights of its 4 conversations sum to 0, expected more; raise the arm's "
        r"label_weight or explanation_weight"
    )):  # fmt: skip
        train(made, encoded(made, lessons, nothing), Train(), seed=0, folder=tmp_path,
              measure=lambda: {"t": 0.0})  # fmt: skip
