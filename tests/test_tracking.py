"""What trackers hold in the end, read back with their own readers."""

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate import tracking as accelerate_tracking
from accelerate.tracking import GeneralTracker

from whytune import pipeline, recipe_file, store
from whytune.errors import MissingExtraError, RecipeError
from whytune.generator_folder import checked
from whytune.material import Material, gather
from whytune.progress import Advance, Progress
from whytune.recipe import Generator, Recipe
from whytune.run_folder import Cell
from whytune.student.tracking import Tracked, options, telling
from whytune.study import dry_run, grid

RECIPE = """
name: tiny
model: {model}
corpora: {{starter: {{train: 6, validation: 2, test: 6}}}}
tasks: [naturalness]
arms: {{label: {{explanation: none}}}}
prompt: {{max_length: 400}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 2, per_device_train_batch_size: 2, eval_steps: 2,
        report_to: [{tracker}]}}
predict: {{explanations: 0, max_new_tokens: 4}}
evidence: {{bootstrap: 100, baselines: []}}
"""
QUIET = Progress(quiet=True)
CELL = Cell(corpus="starter", tasks=("naturalness",), arm="label", seed=0)
Series = dict[str, list[tuple[int, float]]]


class Stopping(Progress):
    """Interrupts teaching after the third update; the last checkpoint is of the second."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    @contextlib.contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done
            done += count
            if "teaching" in title and done >= 4:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="module")
def material(tiny_folder: Path) -> Material:
    return gather(recipe(tiny_folder))["starter", "naturalness"]


def recipe(model: Path, tracker: str = "") -> Recipe:
    return recipe_file.parse(RECIPE.format(model=model, tracker=tracker), place="tiny.yaml")


def expected(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """What `history.jsonl` says, whose rows trackers are told as well."""
    rows = store.read_jsonl(folder / "history.jsonl")
    names = {"eval/label_nll": "label_nll", "eval/label_share": "label_share",
             "eval/naturalness/label_nll": "label_nll"}  # fmt: skip
    return {
        told: [(row["step"], pytest.approx(row[name], rel=1e-5)) for row in rows]
        for told, name in names.items()
    }


def check_series(found: Series, folder: Path) -> None:
    rows = store.read_jsonl(folder / "history.jsonl")
    assert {name: found[name] for name in expected(folder)} == expected(folder)
    for name in ("train/loss", "train/learning_rate"):
        assert [step for step, _ in found[name]] == [1, 2, 3, 4, 5, 6], name
    losses = dict(found["train/loss"])
    rates = dict(found["train/learning_rate"])
    for row in rows:
        both = [losses[row["step"] - 1], losses[row["step"]]]
        assert sum(both) / 2 == pytest.approx(row["train_loss"], rel=1e-5)
        assert rates[row["step"]] == pytest.approx(row["learning_rate"], rel=1e-5, abs=1e-9)
    assert set(found) == {*expected(folder), "train/loss", "train/learning_rate"}


def interrupted(recipe: Recipe, material: Material, folder: Path) -> None:
    """A run that stops after its fourth update, and goes on from its second or fourth."""
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe, CELL, [material], folder, Stopping())
    pipeline.run(recipe, CELL, [material], folder, QUIET)


def tensorboard(folder: Path) -> Series:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(
        str(folder / "trackers" / "tiny"), purge_orphaned_data=False
    )
    found.Reload()
    return {name: [(row.step, row.value) for row in found.Scalars(name)]
            for name in found.Tags()["scalars"]}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_tensorboard_holds_every_step_once(
    tiny_folder: Path, material: Material, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    own = recipe(tiny_folder, "tensorboard")
    interrupted(own, material, tmp_path / "run")
    check_series(tensorboard(tmp_path / "run"), tmp_path / "run")
    (told,) = (tmp_path / "run" / "trackers").rglob("hparams.yml")
    settings = told.read_text(encoding="utf-8")
    assert "train.learning_rate: 0.01" in settings
    assert f"model: {own.model}" in settings
    assert "seed: 0" in settings


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trackio_holds_every_step_once(
    tiny_folder: Path, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    interrupted(recipe(tiny_folder, "trackio"), material, tmp_path / "run")
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "tiny.db")) as kept:
        rows = kept.execute("select run_name, step, metrics from metrics order by id").fetchall()
        ((config,),) = kept.execute("select config from configs").fetchall()
    found: Series = {}
    for name, step, metrics in rows:
        assert name == CELL.id
        for metric, value in json.loads(metrics).items():
            found.setdefault(metric, []).append((step, value))
    check_series(found, tmp_path / "run")
    settings = json.loads(config)
    assert (settings["train.learning_rate"], settings["seed"]) == (0.01, 0)
    assert settings["train.target_modules"].startswith('["q_proj"')
    assert capsys.readouterr().out == "", "what they say is no result"


def test_a_tracker_that_is_missing_is_told_before_anything_is_taught(
    tiny_folder: Path, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate_tracking, "_available_trackers", [])
    own = recipe(tiny_folder, "tensorboard, wandb")
    message = (
        r"^train\.report_to: tensorboard, wandb is not installed; pip install tensorboard wandb, "
    )
    folder = tmp_path / "study"
    for refuse in (
        lambda: grid.study(own, folder, QUIET),
        lambda: grid.single(own, None, folder, QUIET),
        lambda: dry_run.plan(own, folder, QUIET),
        lambda: pipeline.run(own, CELL, [material], folder, QUIET),
    ):
        with pytest.raises(MissingExtraError, match=message):
            refuse()
    assert not folder.exists()


class Ledger(GeneralTracker):  # type: ignore[misc]
    """A tracker of our own, as accelerate wants one: it writes lines."""

    name = "ledger"
    requires_logging_directory = False
    path = Path()
    broken = False

    def __init__(self, run_name: str):
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        if self.broken:
            raise OSError("no such server")
        self.write("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.write(f"settings {len(values)}")

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.write(f"{step} {sorted(values)}")

    def finish(self) -> None:
        self.write("finish")

    def write(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, "ledger", Ledger)
    monkeypatch.setattr(Ledger, "path", tmp_path / "ledger")
    return tmp_path / "ledger"


def session(folder: Path, *steps: int, ends: type[BaseException] | None = None) -> None:
    tracked = Tracked(project="p", run="r", folder=folder, settings={"a": 1, "b": [2]})
    accelerator = Accelerator(**options(tracked, ["ledger"]))  # type: ignore[list-item]
    with contextlib.suppress(KeyboardInterrupt), telling(accelerator, tracked) as tell:
        for step in steps:
            tell(step, 1.0, 0.1, None)
        if ends:
            raise ends


def steps_told(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "steps").read_text().split()]


def test_steps_are_told_once_over_all_starts(ledger: Path, tmp_path: Path) -> None:
    session(tmp_path / "own", 1, 2, 3, ends=KeyboardInterrupt)
    with (tmp_path / "own" / "steps").open("a") as file:
        file.write("4")  # torn: the step was not told
    session(tmp_path / "own", 1, 2, 3, 4, 5)
    own = "['train/learning_rate', 'train/loss']"
    assert steps_told(tmp_path / "own") == [1, 2, 3, 4, 4, 5]
    assert ledger.read_text().splitlines() == [
        "start", "settings 2", *(f"{n} {own}" for n in (1, 2, 3)), "finish",
        "start", *(f"{n} {own}" for n in (4, 5)), "finish",
    ]  # fmt: skip


def test_what_is_no_finite_number_is_left_out(ledger: Path, tmp_path: Path) -> None:
    tracked = Tracked(project="p", run="r", folder=tmp_path / "own", settings={})
    accelerator = Accelerator(**options(tracked, ["ledger"]))  # type: ignore[list-item]
    row = {"label_nll": 1.5, "label_share": math.nan, "label_nlls": {"t": 2.0, "u": math.inf}}
    with telling(accelerator, tracked) as tell:
        tell(1, 1.0, 0.1, row)
    told = "1 ['eval/label_nll', 'eval/t/label_nll', 'train/learning_rate', 'train/loss']"
    assert told in ledger.read_text().splitlines()


def test_a_tracker_that_does_not_start_is_told(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "broken", True)
    with pytest.raises(
        RecipeError, match=r"train.report_to: ledger: found OSError \(no such server"
    ):
        session(tmp_path / "own", 1)
    assert not (tmp_path / "own" / "runs.json").exists()


def test_without_trackers_nothing_is_told_or_written(tmp_path: Path) -> None:
    tracked = Tracked(project="p", run="r", folder=tmp_path / "own", settings={})
    assert options(tracked, []) == options(None, ["wandb"]) == {}
    with telling(Accelerator(), tracked) as tell:
        tell(1, 1.0, 0.1, None)
    assert not (tmp_path / "own").exists()


def test_trackers_are_not_told_of_a_generator(tiny_folder: Path) -> None:
    own = recipe(tiny_folder)
    train = {"report_to": ["tensorboard"]}
    settings = {"corpora": {"starter": {"train": 2}}, "tasks": ["naturalness"], "train": train}
    told = own.model_copy(update={"generator": Generator.model_validate(settings)})
    with pytest.raises(RecipeError, match=r"generator\.train\.report_to: found tensorboard"):
        checked(told)
