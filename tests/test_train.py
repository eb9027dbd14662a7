import json
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor

from whytune.errors import TrainingError
from whytune.recipe_student import Train
from whytune.records import Layout, Lesson
from whytune.student import checkpoint, models
from whytune.student.bundle import Node
from whytune.student.effort import label_share
from whytune.student.encode import Bundle, audit
from whytune.student.models import Student
from whytune.student.objective import token_nll, tree
from whytune.student.predict import predict
from whytune.student.targets import Part
from whytune.student.train import Trained, lesson_order, schedule, train

Students = Callable[..., Student]

# Steps large enough that a difference in any gradient shows in the weights.
SETTINGS = Train(
    learning_rate=1e-2, num_train_epochs=2, per_device_train_batch_size=2,
    gradient_accumulation_steps=2, lora_dropout=0.05, warmup_ratio=0.2, eval_steps=2,
)  # fmt: skip


def adapter(student: Student) -> dict[str, Tensor]:
    state = get_peft_model_state_dict(student.adapted)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def encoded(student: Student, lessons: list[Lesson]) -> list[Bundle]:
    return [audit(student.encoder, [lesson], [lesson.task]) for lesson in lessons]


@pytest.fixture
def taught(
    student: Students, lessons: list[Lesson], tmp_path: Path
) -> Callable[..., tuple[Student, Trained]]:
    """Train a fresh student; by default its label loss is what is measured."""
    count = iter(range(1000))

    def teach(
        *, seed: int = 3, settings: Train = SETTINGS, folder: Path | None = None,
        measure: Callable[[], dict[str, float]] | None = None, **more: Any,
    ) -> tuple[Student, Trained]:  # fmt: skip
        made = student(seed=seed, settings=settings)
        bundles = encoded(made, lessons)

        def label_nll() -> dict[str, float]:
            examples = [lesson.example for lesson in lessons[:4]]
            task = lessons[0].task
            found = predict(made, examples, [task], Layout.LABEL, batch_size=4)[task.name]
            return {task.name: -sum(p.log_probs["good"] for p in found) / len(found)}

        done = train(
            made, bundles, settings, seed=seed, measure=measure or label_nll,
            folder=folder or tmp_path / f"run-{next(count)}", **more,
        )  # fmt: skip
        return made, done

    return teach


def test_every_target_is_predicted_one_position_earlier() -> None:
    from whytune.student.encode import Branch

    parts = (Part.PROMPT, Part.LABEL, Part.FRAME)
    bundle = Bundle(prefix=(7, 8), branches=(Branch(ids=(9, 10, 11), parts=parts),))
    branch = Node(ids=(9, 10, 11), parent=0, wanted=(0, 1))
    assert tree(bundle) == ([Node(ids=(7, 8)), branch], [(0, 10), (1, 11)])
    # A branch that begins with its target is predicted by the end of the prefix.
    bundle = Bundle(prefix=(7, 8), branches=(Branch(ids=(9,), parts=(Part.LABEL,)),))
    nodes = [Node(ids=(7, 8), wanted=(1,)), Node(ids=(9,), parent=0)]
    assert tree(bundle) == (nodes, [(0, 9)])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("layout", Layout)
def test_the_loss_of_a_lesson_is_that_of_plain_transformers(
    family: str, layout: Layout, student: Students, lessons: list[Lesson]
) -> None:
    made = student(family)
    lesson = lessons[2]
    lesson = Lesson(
        example=lesson.example, task=lesson.task, label=lesson.label, layout=layout,
        explanation=None if layout is Layout.LABEL else lesson.explanation,
    )  # fmt: skip
    (bundle,) = encoded(made, [lesson])
    (branch,) = bundle.branches
    ids = torch.tensor([bundle.prefix + branch.ids])
    # The last token of a target stands at the end, and everything before the target is masked.
    n = sum(part is not Part.PROMPT for part in branch.parts)
    labels = ids.clone()
    labels[0, :-n] = -100
    with torch.no_grad():
        expected = made.model(input_ids=ids, labels=labels).loss
        found = token_nll(made, [bundle])
    assert found.shape == (n,)
    torch.testing.assert_close(found.mean(), expected, atol=1e-5, rtol=0)


def test_packing_a_lesson_does_not_change_its_loss(
    student: Students, lessons: list[Lesson]
) -> None:
    made = student()
    bundles = encoded(made, lessons)
    assert len({len(bundle) for bundle in bundles}) > 3
    with torch.no_grad():
        together = token_nll(made, bundles)
        alone = torch.cat([token_nll(made, [bundle]) for bundle in bundles])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [(1, 8), (4, 2), (2, 4)], ids=["1x8", "4x2", "2x4"])
def test_an_update_does_not_depend_on_how_it_is_divided(
    settings: tuple[int, int], student: Students, lessons: list[Lesson], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def gradients(size: int, accumulated: int) -> tuple[float, dict[str, Tensor]]:
        chosen = Train(
            per_device_train_batch_size=size, gradient_accumulation_steps=accumulated,
            lora_dropout=0, warmup_ratio=0, num_train_epochs=8 / 12, max_grad_norm=1e9,
        )  # fmt: skip
        made = student(seed=0, settings=chosen)
        # B begins at zero, which would hide the gradient of A.
        torch.manual_seed(5)
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        found: dict[str, Tensor] = {}

        def step(optimizer: Any, *_: Any, **__: Any) -> None:
            found.update({
                name: parameter.grad.clone() for name, parameter in made.model.named_parameters()
                if parameter.grad is not None
            })  # fmt: skip

        monkeypatch.setattr("torch.optim.AdamW.step", step)
        done = train(made, encoded(made, lessons), chosen, seed=0, measure=lambda: {"t": 0.0},
                     folder=tmp_path / f"{size}x{accumulated}")  # fmt: skip
        assert done.updates == 1
        return done.history[0]["train_loss"], found

    whole_loss, whole = gradients(8, 1)
    loss, divided = gradients(*settings)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    assert whole.keys() == divided.keys()
    assert len(whole) == 2 * 2 * 7, "A and B of seven projections in two layers"
    for name in whole:
        torch.testing.assert_close(divided[name], whole[name], atol=1e-6, rtol=1e-5)


def test_the_loss_of_an_update_is_per_supervised_token(
    student: Students, lessons: list[Lesson], tmp_path: Path
) -> None:
    settings = Train(lora_dropout=0, per_device_train_batch_size=3, gradient_accumulation_steps=4)
    made = student(seed=0, settings=settings)
    bundles = encoded(made, lessons)
    with torch.no_grad():
        expected = float(token_nll(made, bundles).mean())
    done = train(made, bundles, settings, seed=0, measure=lambda: {"t": 0.0}, folder=tmp_path)
    assert done.history[0]["train_loss"] == pytest.approx(expected, abs=1e-6)


def test_one_seed_one_student(taught: Callable[..., tuple[Student, Trained]]) -> None:
    (one, done), (two, again), (other, _) = taught(), taught(), taught(seed=4)
    assert_equal(adapter(one), adapter(two))
    assert done == again
    assert any(not torch.equal(t, adapter(other)[n]) for n, t in adapter(one).items())


def test_the_seed_covers_the_adapters_first_matrices(student: Students) -> None:
    prints = []
    for seed, drawn in ((3, 0), (3, 1000), (4, 0)):
        made = student()
        torch.rand(drawn)
        prints.append(models.fingerprint(models.adapt(made, Train(), seed)))
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_tells_adapters_apart_by_every_matrix(student: Students) -> None:
    made = student(seed=3)
    before = models.fingerprint(made)
    *_, last = (p for p in made.model.parameters() if p.requires_grad)
    with torch.no_grad():
        last.view(-1)[-1] += 1e-3
    assert models.fingerprint(made) != before


def interrupted(at: int) -> Callable[[int, float], None]:
    def advance(step: int, _: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    return advance


@pytest.mark.parametrize("at", [1, 3, 4, 5, 6])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_an_interrupted_training_ends_where_the_uninterrupted_one_ends(
    at: int, kind: str, taught: Callable[..., tuple[Student, Trained]], tmp_path: Path
) -> None:
    # Six updates of four of twelve lessons; checkpoints at 2, 4 (inside an epoch) and 6.
    settings = SETTINGS.model_copy(
        update={"lr_scheduler_type": kind, "load_best_model_at_end": True}
    )
    whole, done = taught(settings=settings)
    with pytest.raises(KeyboardInterrupt):
        taught(settings=settings, folder=tmp_path / "cut", advance=interrupted(at))
    steps = [path.name for path in (tmp_path / "cut").glob("step-*")]
    assert steps == ([f"step-{(at - 1) // 2 * 2:08d}"] if at > 2 else [])
    # A fresh process has drawn other random numbers.
    torch.rand(17)
    seen: list[int] = []
    resumed, again = taught(
        settings=settings, folder=tmp_path / "cut", advance=lambda step, _: seen.append(step)
    )
    assert seen == list(range((at - 1) // 2 * 2 + 1, 7))
    assert_equal(adapter(resumed), adapter(whole))
    assert again == done
    assert [row["step"] for row in done.history] == [2, 4, 6]


def test_a_training_that_was_done_is_not_done_again(
    taught: Callable[..., tuple[Student, Trained]], tmp_path: Path
) -> None:
    first, done = taught(folder=tmp_path)
    second, again = taught(folder=tmp_path, advance=lambda *_: pytest.fail("trained again"))
    assert_equal(adapter(first), adapter(second))
    assert done == again


def test_resuming_with_no_measurement_so_far_is_exact_about_the_train_loss(
    taught: Callable[..., tuple[Student, Trained]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        taught(folder=tmp_path, measure=lambda: {"t": math.nan}, advance=interrupted(3))
    facts = json.loads((tmp_path / "step-00000002" / "facts.json").read_text())
    assert facts["progress"]["best"] is None
    _, done = taught(folder=tmp_path, measure=lambda: {"t": math.nan})
    assert done.updates == 6
    assert all(row["label_nll"] is None or math.isnan(row["label_nll"]) for row in done.history)


def scripted(*values: float) -> Callable[[], dict[str, float]]:
    stream: Iterator[float] = iter(values)
    return lambda: {"t": next(stream)}


def test_the_adapter_with_the_lowest_label_loss_is_kept(
    taught: Callable[..., tuple[Student, Trained]],
) -> None:
    after_four, _ = taught(settings=SETTINGS.model_copy(update={"num_train_epochs": 2.0}),
                           measure=scripted(3, 1, 2))  # fmt: skip
    kept = SETTINGS.model_copy(update={"load_best_model_at_end": True})
    best, done = taught(settings=kept, measure=scripted(3, 1, 2))
    states: dict[int, dict[str, Tensor]] = {}

    # The adapter as it stood after each update, from a run that stops right there.
    def stop(at: int) -> Callable[[], dict[str, float]]:
        seen = {"n": 0}

        def measure() -> dict[str, float]:
            seen["n"] += 2
            return {"t": 0.0 if seen["n"] == at else 9.0}

        return measure

    for at in (2, 4, 6):
        states[at] = adapter(taught(settings=kept, measure=stop(at))[0])
    assert_equal(adapter(best), states[4])
    assert any(not torch.equal(states[4][n], t) for n, t in states[6].items())
    assert_equal(adapter(after_four), states[6])
    assert done.updates == 6
    assert not done.stopped_early
    assert [row["label_nll"] for row in done.history] == [3, 1, 2]


def test_training_stops_after_so_many_measurements_without_a_better_one(
    taught: Callable[..., tuple[Student, Trained]], tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(
        update={
            "num_train_epochs": 4.0,
            "early_stopping_patience": 2,
            "load_best_model_at_end": True,
        }
    )
    best, done = taught(settings=settings, measure=scripted(3, 1, 1, 2), folder=tmp_path)
    assert (done.updates, done.stopped_early) == (8, True)
    # Asked again, it still knows that it was done.
    again, same = taught(settings=settings, measure=scripted(), folder=tmp_path)
    assert same == done
    assert_equal(adapter(again), adapter(best))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_no_finite_number_ends_the_training(
    bad: float, student: Students, lessons: list[Lesson], tmp_path: Path, broken: Callable[..., Any]
) -> None:
    made = student(seed=0, settings=SETTINGS)
    before = adapter(made)
    with (
        broken(made.model, lambda found: found * bad),
        pytest.raises(
            TrainingError, match=r"update 1: the loss is nan; lower train\.learning_rate"
        ),
    ):
        train(
            made,
            encoded(made, lessons),
            SETTINGS,
            seed=0,
            measure=lambda: {"t": 0.0},
            folder=tmp_path,
        )
    assert_equal(adapter(made), before)


def test_training_lowers_the_loss_and_leaves_the_base_alone(
    taught: Callable[..., tuple[Student, Trained]], tiny_folder: Path
) -> None:
    from safetensors.torch import load_file

    made, done = taught(settings=SETTINGS.model_copy(update={"num_train_epochs": 8.0}))
    losses = [row["train_loss"] for row in done.history]
    assert losses[-1] < 0.8 * losses[0]
    base = made.adapted.unload().state_dict()
    for name, tensor in load_file(tiny_folder / "model.safetensors").items():
        assert torch.equal(base[name], tensor), name


def test_gradient_checkpointing_changes_nothing(
    taught: Callable[..., tuple[Student, Trained]],
) -> None:
    settings = SETTINGS.model_copy(update={"num_train_epochs": 1.0})
    plain, _ = taught(settings=settings)
    saving, _ = taught(settings=settings.model_copy(update={"gradient_checkpointing": True}))
    assert saving.adapted.get_base_model().is_activation_checkpointing
    assert_equal(adapter(plain), adapter(saving))


@pytest.mark.parametrize(
    ("n", "epochs", "size", "updates"),
    [(12, 1, 4, 3), (13, 1, 4, 4), (12, 2.5, 4, 8), (3, 1, 4, 1), (1, 0.1, 4, 1), (600, 2, 8, 150)],
)
def test_so_many_lessons_make_so_many_updates(
    n: int, epochs: float, size: int, updates: int
) -> None:
    settings = Train(num_train_epochs=epochs, per_device_train_batch_size=size)
    assert schedule(n, settings) == updates
    halves = Train(num_train_epochs=epochs, per_device_train_batch_size=size // 2,
                   gradient_accumulation_steps=2)  # fmt: skip
    assert schedule(n, halves) == updates


def test_every_epoch_sees_each_lesson_once_in_an_order_of_its_own() -> None:
    order = list(islice(lesson_order(10, 3), 30))
    epochs = [tuple(order[at : at + 10]) for at in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 3
    assert list(islice(lesson_order(10, 3), 30)) == order
    assert list(islice(lesson_order(10, 4), 30)) != order


def test_the_learning_rate_rises_and_falls_as_the_recipe_says(
    taught: Callable[..., tuple[Student, Trained]],
) -> None:
    settings = SETTINGS.model_copy(update={"eval_steps": 1, "warmup_ratio": 1 / 3})
    _, done = taught(settings=settings, measure=lambda: {"t": 0.0})
    rates = [row["learning_rate"] / settings.learning_rate for row in done.history]
    assert rates == pytest.approx([0.5, 1.0, 0.75, 0.5, 0.25, 0.0])
    assert [row["epoch"] for row in done.history] == pytest.approx([n / 3 for n in range(1, 7)])


def test_the_share_of_the_label_is_measured_beside_its_loss(
    taught: Callable[..., tuple[Student, Trained]], student: Students, lessons: list[Lesson]
) -> None:
    settings = SETTINGS.model_copy(update={"num_train_epochs": 1.0, "eval_steps": 1})
    end, done = taught(settings=settings)
    fresh = student(seed=3, settings=settings)
    bundles = encoded(fresh, lessons)
    updates = [bundles[:4], bundles[4:8], bundles[8:]]
    assert done.label_share_at_start == label_share(fresh, updates, 2)
    shares = [row["label_share"] for row in done.history]
    assert shares[-1] == label_share(end, updates, 2)
    assert len(set(shares)) == 3
    # The rate rises for one update of three (warmup_ratio 0.2) and falls to nothing from there.
    before = [done.label_share_at_start, *shares[:2]]
    rates = [0.0, 1.0, 0.5]
    expected = sum(r * share for r, share in zip(rates, before, strict=True)) / sum(rates)
    assert done.label_share == pytest.approx(expected)


def test_a_checkpoint_of_an_earlier_version_is_not_gone_on_from(
    taught: Callable[..., tuple[Student, Trained]], tmp_path: Path
) -> None:
    _, done = taught(folder=tmp_path)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    del found.facts["progress"]["label_share_at_start"]
    checkpoint.save(tmp_path, found)
    seen: list[int] = []
    _, again = taught(folder=tmp_path, advance=lambda step, _: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert again == done


def test_tokens_are_counted_as_they_went_through(
    taught: Callable[..., tuple[Student, Trained]], student: Students, lessons: list[Lesson]
) -> None:
    _, done = taught(measure=lambda: {"t": 0.0})
    assert done.tokens == 2 * sum(map(len, encoded(student(), lessons)))
