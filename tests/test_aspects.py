"""What a study says beside its scores: comparisons in families, slices, raters, calibration."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from whytune import recipe_file, store
from whytune.errors import RecipeError
from whytune.evidence.calibrate import Calibration, apply, fit
from whytune.material import gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Split
from whytune.student.targets import EXPLAINS_FIRST
from whytune.study import calibrating, grid
from whytune.study.contrasts import Family, calibrated_name

STARTER = Path(__file__).resolve().parent.parent / "recipes" / "starter-three-tasks.yaml"


def starter(tiny_folder: Path, *overrides: str) -> Recipe:
    return recipe_file.load(STARTER, [
        f"model={tiny_folder}", "corpora.starter.train=24", "corpora.starter.test=24",
        "train.num_train_epochs=1", "seeds=[0]", "prompt.max_length=200", "predict.explanations=20",
        "predict.max_new_tokens=4", "evidence.bootstrap=100", *overrides,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def made(
    tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Path, dict[str, Any]]:
    """A study with calibration: recipe, folder, summary."""
    recipe = starter(
        tiny_folder, "corpora.starter.validation=12", "evidence.calibration=temperature"
    )
    folder = tmp_path_factory.mktemp("study")
    return recipe, folder, grid.study(recipe, folder, Progress(quiet=True))


Made = tuple[Recipe, Path, dict[str, Any]]


def test_comparisons_stand_in_families_of_their_own(made: Made) -> None:
    _, _, summary = made
    families = {c["family"] for c in summary["comparisons"]}
    assert families == set(Family)
    for family in families:
        for metric in {c["metric"] for c in summary["comparisons"]}:
            own = [c for c in summary["comparisons"]
                   if (c["family"], c["metric"]) == (family, metric) and c["p"] is not None]  # fmt: skip
            if own:  # Holm's least p is the least p times their number
                least = min(c["p"] for c in own)
                assert min(c["p_holm"] for c in own) == pytest.approx(min(1, least * len(own)))


def test_calibrated_rows_stand_beside_plain_ones(made: Made) -> None:
    recipe, folder, summary = made
    rows = {(r["task"], r["name"]): r for r in summary["rows"]}
    for task in recipe.resolved_tasks():
        for arm in recipe.arms:
            plain, mapped = rows[task.name, arm], rows[task.name, calibrated_name(arm)]
            assert (plain["role"], mapped["role"]) == ("arm", "calibrated")
            # A temperature leaves the most probable label alone.
            for figure in ("accuracy", "label_mass"):
                one, other = (r["scorecard"]["metrics"][figure]["value"] for r in (plain, mapped))
                assert one == pytest.approx(other, abs=1e-9)
    assert (folder / "report.html").read_text().count("calibrated") > 3


def test_the_map_stands_with_the_adapter_and_is_fitted_on_the_validation_part(made: Made) -> None:
    recipe, folder, _ = made
    cell = next(path for path in (folder / "runs").iterdir() if "--why--" in path.name)
    kept = store.read_json(cell / "adapter" / "whytune.json")["calibration"]
    held_out = store.read_predictions(
        cell / "elsewhere" / "starter--validation" / "predictions.parquet"
    )[0]
    plain = store.read_predictions(cell / "predictions.parquet")[0]
    mapped = store.read_predictions(cell / calibrating.FOLDER / "predictions.parquet")[0]
    for (_, name), material in gather(recipe).items():
        own = [p for p in held_out if p.task == name]
        assert {p.example_id for p in own} == {e.id for e in material.part(Split.VALIDATION)}
        again = fit(own, material.references, material.task, "temperature")
        assert Calibration.from_json(kept[name]) == again
        asked = [p for p in plain if p.task == name]
        assert [apply(again, p, material.task) for p in asked] == [
            p for p in mapped if p.task == name
        ]


def test_a_study_that_is_there_is_not_asked_again(made: Made) -> None:
    recipe, folder, before = made
    files = sorted((folder / "runs").rglob("*.parquet")) + sorted(
        (folder / "runs").rglob("whytune.json")
    )
    times = {path: path.stat().st_mtime_ns for path in files
             if calibrating.FOLDER not in path.parts}  # fmt: skip
    after = grid.study(recipe, folder, Progress(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    changing = {"seconds", "peak_rss_mb", "started", "command"}
    assert json.dumps(store.plain({k: v for k, v in after.items() if k not in changing})) == (
        json.dumps(store.plain({k: v for k, v in before.items() if k not in changing}))
    )


def test_without_a_validation_part_nothing_is_taught(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = starter(tiny_folder, "evidence.calibration=isotonic")
    with pytest.raises(RecipeError, match=r"corpora\.starter has no validation part") as caught:
        grid.study(recipe, tmp_path / "study", Progress(quiet=True))
    assert "corpora.starter.validation" in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_tables_say_what_the_summary_says(made: Made) -> None:
    recipe, folder, summary = made
    tasks, arms = recipe.resolved_tasks(), list(recipe.arms)
    assert len(summary["labels"]) == sum(len(task.labels) for task in tasks) * len(arms)
    for row in summary["labels"]:
        card = next(r["scorecard"] for r in summary["rows"]
                    if (r["task"], r["name"]) == (row["task"], row["name"]))  # fmt: skip
        at = card["labels"].index(row["label"])
        assert row["support"] == sum(card["confusion"][at])
    sources = [s for s in summary["slices"] if s["cut"] == "source" and s["name"] == arms[0]
               and s["task"] == tasks[0].name]  # fmt: skip
    assert sum(s["n"] for s in sources) == summary["rows"][0]["scorecard"]["n"]
    pairs = len(tasks) * (len(tasks) - 1) // 2
    assert len(summary["errors"]) == pairs * len(arms)
    mean = next(m for m in summary["means"] if (m["name"], m["metric"]) == (arms[0], "accuracy"))
    own = [r["scorecard"]["metrics"]["accuracy"]["value"] for r in summary["rows"]
           if r["name"] == arms[0]]  # fmt: skip
    assert mean["mean"] == pytest.approx(sum(own) / len(own))
    for name in ("labels", "slices", "ceiling", "calibration"):
        assert (folder / "tables" / f"starter--{tasks[0].name}--{name}.csv").is_file()


def test_settings_are_counted_where_arms_meet_often_enough(made: Made) -> None:
    _, _, summary = made
    assert any("of 3 settings (sign test" in line for line in summary["sentences"])
    assert any("a rater held against the other raters" in line for line in summary["sentences"])


def test_explanations_are_measured_where_an_arm_explains(made: Made) -> None:
    recipe, _, summary = made
    told = [name for name, arm in recipe.arms.items() if arm.explanation != "none"]
    tasks = [task.name for task in recipe.resolved_tasks()]
    assert [(r["task"], r["name"]) for r in summary["explanations"]] == [
        (task, arm) for task in tasks for arm in told
    ]
    for row in summary["explanations"]:
        assert row["n"] == (24 if recipe.arms[row["name"]].layout in EXPLAINS_FIRST else 20)
        assert 0 <= row["empty"] <= 1
        assert row["sentence"].startswith(f"{row['name']}: {row['n']} explanations")


def test_pictures_show_every_row_and_the_raters(made: Made) -> None:
    recipe, folder, summary = made
    task = recipe.resolved_tasks()[0].name
    drawing = (folder / "figures" / f"starter--{task}--standing.svg").read_text()
    own = [row for row in summary["rows"] if row["task"] == task]
    assert all(f">{row['name']}<" in drawing for row in own)
    with (folder / "tables" / f"starter--{task}--standing.csv").open() as file:
        lines = list(csv.DictReader(file))
    raters = [line for line in lines if line["role"] == "ceiling"]
    ceiling = next(row for row in summary["ceilings"] if row["task"] == task)
    assert [float(line["value"]) for line in raters] == [ceiling["mse"]]
    assert len(lines) == 1 + sum(
        row["scorecard"]["metrics"][figure]["value"] is not None
        for row in own for figure in ("mse", "label_nll")
    )  # fmt: skip
