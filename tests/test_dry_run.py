import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from whytune import cli, pipeline, recipe_file, shown, store
from whytune.cell_state import State
from whytune.errors import RecipeError
from whytune.material import gather
from whytune.progress import Advance, Progress
from whytune.recipe import Recipe
from whytune.run_folder import Cell
from whytune.study import dry_run, grid

RECIPE = """
name: tiny
model: {model}
corpora: {{starter: {{train: 6, validation: 2, test: 6}}}}
tasks: [naturalness]
arms:
  label: {{explanation: none}}
  why: {{explanation: assessment, words: 10}}
seeds: [0, 1]
prompt: {{max_length: 400}}
train: {{learning_rate: 1.0e-2, num_train_epochs: 2, per_device_train_batch_size: 3, eval_steps: 2}}
predict: {{explanations: 0, max_new_tokens: 4}}
evidence: {{bootstrap: 100, baselines: []}}
"""
QUIET = Progress(quiet=True)


def cell(arm: str, seed: int) -> Cell:
    return Cell(corpus="starter", tasks=("naturalness",), arm=arm, seed=seed)


class Stopping(Progress):
    """Interrupts teaching after the third update."""

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done
            done += count
            if "teaching" in title and done >= 3:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path) -> Recipe:
    return recipe_file.parse(RECIPE.format(model=tiny_folder), place="tiny.yaml")


@pytest.fixture(scope="module")
def folder(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one cell finished, one interrupted, one of another recipe, and one not begun."""
    made = tmp_path_factory.mktemp("study")
    material = gather(recipe)["starter", "naturalness"]

    def run(recipe: Recipe, arm: str, seed: int, show: Progress) -> None:
        place = made / "runs" / cell(arm, seed).id
        pipeline.run(recipe, cell(arm, seed), [material], place, show)

    run(recipe, "label", 0, QUIET)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, "why", 0, Stopping(quiet=True))
    train = recipe.train.model_copy(update={"learning_rate": 0.5})
    run(recipe.model_copy(update={"train": train}), "label", 1, QUIET)
    return made


@pytest.fixture(scope="module")
def found(recipe: Recipe, folder: Path) -> dry_run.DryRun:
    return dry_run.plan(recipe, folder, QUIET)


def test_every_cell_is_told_with_its_state(found: dry_run.DryRun) -> None:
    rows = {(row.arm, row.seed): row for row in found.rows}
    assert [row.id for row in found.rows] == [
        cell(arm, seed).id for seed in (0, 1) for arm in ("label", "why")
    ]
    assert {key: row.state for key, row in rows.items()} == {
        ("label", 0): State.FINISHED, ("why", 0): State.STARTED,
        ("label", 1): State.CHANGED, ("why", 1): State.TO_DO,
    }  # fmt: skip
    assert {key: row.step for key, row in rows.items() if row.step} == {("why", 0): 2}
    assert rows["label", 1].changes == ("train.learning_rate: 0.5 there, 0.01 here",)
    assert not any(row.changes for key, row in rows.items() if key != ("label", 1))
    assert found.states == {"finished": 1, "goes on": 1, "to do": 1, "changed": 1}


def test_what_is_forecast_is_what_a_run_took(found: dry_run.DryRun, folder: Path) -> None:
    facts = store.read_json(folder / "runs" / cell("label", 0).id / "run.json")
    row = found.rows[0]
    assert (row.lessons, row.updates) == (facts["lessons"], facts["updates"]) == (6, 4)
    assert row.tokens == facts["tokens"]["total"]
    assert all(row.seconds > 0 and row.memory > 0 for row in found.rows)
    assert found.rows[1].tokens > row.tokens


def test_totals_are_those_of_the_cells_and_of_what_is_left(found: dry_run.DryRun) -> None:
    label, why, _, again = found.rows
    assert [row.left for row in found.rows] == [0, 0.5, 0, 1]
    assert found.totals == {
        "lessons": 24,
        "tokens": 2 * label.tokens + 2 * why.tokens,
        "tokens_left": round(0.5 * why.tokens + again.tokens),
        "seconds": pytest.approx(sum(row.seconds for row in found.rows)),
        "seconds_left": pytest.approx(0.5 * why.seconds + again.seconds),
        "memory": why.memory,
    }


def test_nothing_is_run_and_nothing_is_written(
    recipe: Recipe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state(place: Path) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in place.rglob("*")}

    before = state(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "run", lambda *_: pytest.fail("a cell was run"))
    dry_run.plan(recipe, folder, QUIET)
    assert state(folder) == before
    elsewhere = dry_run.plan(recipe, tmp_path / "new", QUIET)
    assert elsewhere.states["to do"] == 4
    assert list(tmp_path.iterdir()) == []


def test_the_study_does_what_was_told(
    recipe: Recipe, folder: Path, tmp_path: Path, found: dry_run.DryRun
) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "study"))
    shutil.rmtree(place / "runs" / cell("label", 1).id)
    store.write_text(place / "recipe.yaml", "name: tiny\n")
    grid.study(recipe, place, QUIET)
    after = dry_run.plan(recipe, place, QUIET)
    assert after.states == {"finished": 4, "goes on": 0, "to do": 0, "changed": 0}
    assert after.totals["tokens_left"] == after.totals["seconds_left"] == 0
    took = [store.read_json(place / "runs" / row.id / "run.json") for row in found.rows]
    assert [facts["tokens"]["total"] for facts in took] == [row.tokens for row in found.rows]


def test_what_a_study_refuses_is_refused_before(recipe: Recipe, tmp_path: Path) -> None:
    long = recipe.model_copy(update={"arms": {"a" * 255: recipe.arms["label"]}})
    with pytest.raises(RecipeError, match="expected 255 at most"):
        dry_run.plan(long, tmp_path, QUIET)


def test_it_is_printed(found: dry_run.DryRun, capsys: pytest.CaptureFixture[str]) -> None:
    shown.dry_run(found, as_json=True)
    *lines, last = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("starter--")]
    states = ("finished;", "goes on from update 2;", "changed;", "to do;")
    for row, line, state in zip(found.rows, rows, states, strict=True):
        assert line.startswith(f"{row.id}: {state} 6 lessons, {row.tokens:,} tokens, 4 updates")
    assert "  train.learning_rate: 0.5 there, 0.01 here" in lines
    assert "4 cells: 1 finished, 1 goes on, 1 to do, 1 changed; nothing was run" in lines
    assert any("choose another --out, or delete their folders" in line for line in lines)
    assert store.plain(found.totals) == json.loads(last)["totals"]


def test_the_command_tells_it(
    recipe: Recipe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=recipe.model), encoding="utf-8")
    words = ["whytune", "study", str(path), "--out", str(folder), "--dry-run", "--json"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith('{"cells": [{"id": "starter--naturalness--label--s0"')
