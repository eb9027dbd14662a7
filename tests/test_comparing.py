"""Finished runs and studies beside one another: against the study's own figures, by hand, and
whatever may be wrong with a folder."""

import contextlib
import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from whytune import cli, run_folder, store
from whytune.errors import FolderError, InputError
from whytune.evidence.baselines import prior
from whytune.material import Material, gather
from whytune.recipe import Recipe, dump
from whytune.records import Kind, Label, Outcome, Prediction, Split, Task
from whytune.run_folder import Cell
from whytune.study import comparing, contestants
from whytune.study.comparing import compare
from whytune.study.contrasts import DEPENDENT
from whytune.study.summary import summarise

POINTS = tuple("12345")
MOODS = ("joy", "anger", "fear")
RECIPE: dict[str, Any] = {
    "name": "own", "model": "m", "train": {"learning_rate": 1e-3},
}  # fmt: skip


def answer(example_id: str, task: Task, probs: Sequence[float]) -> Prediction:
    values = task.values if task.kind is Kind.ORDINAL else None
    return Prediction(
        example_id=example_id, task=task.name, outcome=Outcome.READ,
        label=task.label_names[int(np.argmax(probs))],
        log_probs={n: math.log(p) for n, p in zip(task.label_names, probs, strict=True)},
        expected=None if values is None else float(np.dot(probs, values)),
    )  # fmt: skip


def task_of(name: str) -> Task:
    kind, labels = (Kind.NOMINAL, MOODS) if name == "mood" else (Kind.ORDINAL, POINTS)
    return Task(name=name, kind=kind, question="?", labels=tuple(Label(name=n) for n in labels))


def predictions(
    folder: Path, task: Task, ids: Sequence[str], skill: float, seed: int,
    truth: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Random answers, better with more skill; the references follow from the examples' names."""
    rng = np.random.default_rng([seed, round(skill * 10)])
    known = {name: task.label_names[int(name[1:]) % len(task.labels)] for name in ids}
    known |= {name: label for name, label in (truth or {}).items() if name in known}
    answers = []
    for name in ids:
        logits = rng.normal(size=len(task.labels))
        logits[task.label_names.index(known[name])] += skill
        answers.append(answer(name, task, np.exp(logits) / np.exp(logits).sum()))
    scores = [None if task.kind is Kind.NOMINAL else task.value(known[name]) for name in ids]
    store.write_predictions(folder / "predictions.parquet", answers, {
        "reference_label": [known[name] for name in ids], "reference_score": scores,
        "group": [f"g{int(name[1:]) // 2}" for name in ids],
    })  # fmt: skip


def names(*numbers: int) -> list[str]:
    return [f"e{number}" for number in range(*numbers)]


def run(
    place: Path, arm: str = "why", seed: int = 0, *, corpus: str = "c", task: str = "use",
    ids: Sequence[str] = (), skill: float | None = None, truth: Mapping[str, str] | None = None,
    state: str = "finished", **recipe: Any,
) -> Path:  # fmt: skip
    """A run folder as `whytune study` leaves it, without its adapter."""
    folder = place / "runs" / f"{corpus}--{task}--{arm}--s{seed}"
    what = task_of(task)
    told = {"kind": what.kind, "labels": what.label_names, "reference": "gold"}
    store.write_json(folder / "run.json", {
        "state": state, "corpus": corpus, "task": task, "arm": arm, "seed": seed,
        "tasks": {task: told}, **told,
    })  # fmt: skip
    own = {**RECIPE, "arms": {arm: {"words": len(arm)}, "other": {}}, "seeds": [seed], **recipe}
    store.write_text(folder / "recipe.yaml", yaml.safe_dump(own))
    skill = len(arm) / 3 if skill is None else skill
    predictions(folder, what, ids or names(40), skill, seed, truth)
    return folder


def by(found: comparing.Compared, at: int = 0) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(c["base"], c["arm"], c["metric"]): c for c in found.settings[at].comparisons}


# A study's own figures


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, dict[str, Any]]:
    """Two arms, two seeds and a prior, with made-up answers and the study's own summary."""
    folder = tmp_path_factory.mktemp("study")
    recipe = Recipe.model_validate({
        "name": "tiny", "model": "m", "corpora": {"starter": {"train": 20, "test": 30}},
        "tasks": ["naturalness"], "seeds": [0, 1], "evidence": {"bootstrap": 300, "baselines": ["prior"]},
        "arms": {"label": {"explanation": "none"}, "why": {"explanation": "assessment"}},
    })  # fmt: skip
    (material,) = gather(recipe).values()
    cells = [Cell(corpus="starter", tasks=("naturalness",), arm=arm, seed=seed)
             for seed in (0, 1) for arm in ("label", "why")]  # fmt: skip
    for number, cell in enumerate(cells):
        place = folder / "runs" / cell.id
        guesses = _guesses(material, number, skill=1.0 if cell.arm == "why" else 0.3)
        run_folder.record(place, {"naturalness": guesses}, [material], recipe)
        store.write_text(place / "recipe.yaml", dump(recipe))
        store.write_json(place / "examples.json", [])
        store.write_json(place / "run.json", {
            "state": "finished", **run_folder.identity(cell, [material]), "updates": 1, "cut": 0,
            "conversations": 20, "eval_split": "test",
        })  # fmt: skip
    constant = prior([one.label for one in material.told], material.task,
                     [e.id for e in material.part(Split.TEST)], material.scores)  # fmt: skip
    run_folder.record(folder / "baselines" / "starter--naturalness--prior",
                      {"naturalness": constant}, [material], recipe)  # fmt: skip
    summary = summarise(recipe, {("starter", "naturalness"): material}, cells, folder)
    store.write_json(folder / "summary.json", {**summary, "seconds": 1.0, "peak_rss_mb": 1.0})
    store.write_text(folder / "recipe.yaml", dump(recipe))
    return folder, recipe, store.read_json(folder / "summary.json")


def _guesses(material: Material, seed: int, skill: float) -> list[Prediction]:
    rng, task = np.random.default_rng(seed), material.task
    made = []
    for example in material.part(Split.TEST):
        logits = rng.normal(size=len(task.labels))
        logits[task.label_names.index(material.references[example.id].label)] += skill
        made.append(answer(example.id, task, np.exp(logits) / np.exp(logits).sum()))
    return made


def test_a_study_is_compared_as_it_compares_itself(
    study: tuple[Path, Recipe, dict[str, Any]],
) -> None:
    folder, recipe, summary = study
    found = compare([folder], draws=recipe.evidence.bootstrap)
    (setting,) = found.settings
    assert (setting.corpus, setting.task, setting.n, setting.left_out) == (
        "starter", "naturalness", 30, 0,
    )  # fmt: skip
    mine = by(found)
    own = [c for c in summary["comparisons"] if (c["base"], c["arm"]) == ("label", "why")]
    assert len(own) == 6
    for theirs in own:
        ours = mine["label", "why", theirs["metric"]]
        assert set(ours) == set(theirs)
        # The base of the study is compared with one arm, here with the prior, too.
        for key in set(theirs) - {"p_holm", "sentence", "family"}:
            assert ours[key] == pytest.approx(theirs[key], abs=1e-12), key
    rows = {row["name"]: row for row in summary["rows"]}
    for row in setting.rows:
        assert row.seeds == rows[row.name]["seeds"]
        figures = {name: figure.model_dump() for name, figure in row.scorecard.metrics.items()}
        assert figures == {n: pytest.approx(f, abs=1e-12)
                           for n, f in rows[row.name]["scorecard"]["metrics"].items()}  # fmt: skip
    # The study sets its arms beside the prior; here the prior is the base.
    mine = by(compare([folder], base="prior", draws=recipe.evidence.bootstrap))
    judged = [c for c in summary["comparisons"] if c["base"] == "prior"]
    assert {c["arm"] for c in judged} == {"label", "why"}
    for theirs in judged:
        ours = mine["prior", theirs["arm"], theirs["metric"]]
        assert ours["seeds"] == 2
        assert ours["difference"] == pytest.approx(theirs["difference"], abs=1e-12)
        assert ours["p"] == pytest.approx(theirs["p"], abs=1e-12)
        assert ours["p_holm"] == pytest.approx(theirs["p_holm"], abs=1e-12)
        assert theirs["sentence"].startswith(ours["sentence"])


def test_the_runs_of_a_study_alone_are_its_arms(
    study: tuple[Path, Recipe, dict[str, Any]],
) -> None:
    folder, recipe, summary = study
    runs = sorted((folder / "runs").iterdir())
    found = compare(runs, draws=recipe.evidence.bootstrap)
    assert [(row.name, row.seeds) for row in found.settings[0].rows] == [
        ("label", [0, 1]), ("why", [0, 1]),
    ]  # fmt: skip
    own = [c for c in summary["comparisons"] if (c["base"], c["arm"]) == ("label", "why")]
    assert found.sentences == [c["sentence"] for c in own]
    assert [c["p_holm"] for c in found.settings[0].comparisons] == pytest.approx(
        [c["p_holm"] for c in own]
    )


# Who is compared, on what


def test_only_what_all_answered_counts(tmp_path: Path) -> None:
    runs = [run(tmp_path, "label", ids=names(30)), run(tmp_path, "why", ids=names(10, 44)),
            run(tmp_path, "why", 1, ids=names(9, 28))]  # fmt: skip
    found = compare(runs, metrics=["accuracy"], draws=100)
    (setting,) = found.settings
    assert (setting.n, setting.left_out) == (18, 26)  # e10 to e27 of e0 to e43
    kept = set(names(10, 28))
    for row, of_row in zip(setting.rows, (runs[:1], runs[1:]), strict=True):
        hits = [
            label == reference
            for path in of_row
            for name, label, reference in _columns(path)
            if name in kept
        ]
        assert row.scorecard.n == len(hits) == 18 * len(of_row)
        assert row.scorecard.metrics["accuracy"].value == pytest.approx(np.mean(hits))


def _columns(path: Path) -> list[tuple[str, str, str]]:
    table = pq.read_table(path / "predictions.parquet")
    columns = (table[name].to_pylist() for name in ("example_id", "label", "reference_label"))
    return list(zip(*columns, strict=True))


def test_names_of_two_folders_are_told_apart_by_the_folder(tmp_path: Path) -> None:
    for place in ("x/one", "x/two", "y/one"):
        for arm in ("label", "why"):
            run(tmp_path / place, arm, skill=len(place), train=place)
    runs = sorted(tmp_path.rglob("runs/*"))
    assert [one.name for one in contestants.read(runs)] == [
        "label (x/one)", "label (two)", "label (y/one)",
        "why (x/one)", "why (two)", "why (y/one)",
    ]  # fmt: skip
    two = [path for path in runs if "one" not in path.parts or path.parts[-4] == "x"]
    assert [one.name for one in contestants.read([*two, two[0]])] == [
        "label (one)", "label (two)", "why (one)", "why (two)",
    ]  # fmt: skip


def test_runs_of_one_recipe_are_pooled_over_seeds_and_others_are_not(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", seed=0), run(tmp_path / "b", seed=1, name="other"),
            run(tmp_path / "c", seed=2, train={"learning_rate": 1e-4}),
            run(tmp_path / "d", seed=1)]  # fmt: skip
    assert [(one.name, list(one.answers["c", "use"])) for one in contestants.read(runs)] == [
        ("why (a)", [0, 1]), ("why (c)", [2]), ("why (d)", [1]),
    ]  # fmt: skip


def test_an_arm_on_several_corpora_is_one_and_its_settings_are_counted(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / corpus, arm, corpus=corpus, skill=skill, model=corpus)
        for corpus, better in (("a", 3.0), ("b", 3.0), ("d", 3.0), ("e", 0.0))
        for arm, skill in (("label", 1.0), ("why", better))
    ]
    found = compare(runs, metrics=["accuracy", "bias"], draws=100)
    assert [row.name for setting in found.settings for row in setting.rows] == ["label", "why"] * 4
    assert found.sentences[0] == (
        "why has better accuracy than label in 3 of 4 settings (sign test, p = 0.62)."
    )  # 2 (4 + 1) / 16
    assert [told[:2] for told in found.sentences[1:]] == [f"{c}:" for c in "aabbddee"]
    assert found.notes == [DEPENDENT]
    # Holm by its definition: the k-th smallest of m times (m - k + 1), never falling.
    rows = [one for at in range(4) for one in by(found, at).values() if one["metric"] == "accuracy"]
    rows.sort(key=lambda one: one["p"])
    expected = np.maximum.accumulate([min(1, (4 - k) * one["p"]) for k, one in enumerate(rows)])
    assert [one["p_holm"] for one in rows] == pytest.approx(list(expected))


@pytest.mark.parametrize(
    ("own", "others", "pairs", "said"),
    [
        ((0, 1), (1, 0), 2, ""),
        ((0, 1, 2), (2, 1), 2, "label has seeds 0, 1, 2, why 2, 1; compared on 2: those that both"),
        ((0, 1, 2), (5, 6), 2, "compared on 2: in their order, as they share none."),
        ((0,), (0, 1), 1, "compared on 1: those that both have."),
    ],
)
def test_seeds_are_paired_by_number(
    own: Sequence[int], others: Sequence[int], pairs: int, said: str, tmp_path: Path
) -> None:
    label = [run(tmp_path, "label", seed) for seed in own]
    why = [run(tmp_path, "why", seed, skill=2.0) for seed in others]
    found = compare([*label, *why], metrics=["accuracy"], draws=100)
    (one,) = found.settings[0].comparisons
    assert one["seeds"] == pairs
    assert said in "".join(found.notes)
    assert bool(said) == bool(found.notes)
    shared = [s for s in own if s in others]
    hits = [np.mean([a == b for _, a, b in _columns(path)]) for path in (*label, *why)]
    ours = [hits[own.index(s)] for s in shared] or hits[:pairs]
    theirs = [hits[len(own) + others.index(s)] for s in shared] or hits[len(own) :][:pairs]
    assert one["difference"]["value"] == pytest.approx(np.mean(theirs) - np.mean(ours))


def fake_study(place: Path, arms: Sequence[str], *, corpus: str = "c", calibrated: bool = False,
               task: str = "use", seeds: Sequence[int] = (0, 1)) -> Path:  # fmt: skip
    """The folder of a finished study, with a prior beside its arms."""
    what = task_of(task)
    card = {"n": 1, "unreadable": 0, "reference": "gold", "labels": what.label_names,
            "metrics": {"mse": {}} if what.kind is Kind.ORDINAL else {}}  # fmt: skip
    rows = []
    for skill, arm in enumerate(arms):
        runs = [run(place, arm, seed, corpus=corpus, task=task, skill=skill) for seed in seeds]
        paths = [f"runs/{path.name}" for path in runs]
        row = {"corpus": corpus, "task": task, "seeds": seeds, "scorecard": card}
        rows.append({**row, "name": arm, "role": "arm", "runs": paths})
        if calibrated:
            for path, seed in zip(runs, seeds, strict=True):
                predictions(path / "calibrated", what, names(40), skill + 0.5, seed)
            rows.append({**row, "name": f"{arm} (calibrated)", "role": "calibrated",
                         "runs": [f"{path}/calibrated" for path in paths]})  # fmt: skip
    predictions(place / "baselines" / f"{corpus}--{task}--prior", what, names(40), 0.0, 9)
    rows.append({"corpus": corpus, "task": task, "name": "prior", "role": "baseline",
                 "scorecard": card})  # fmt: skip
    store.write_json(place / "summary.json", {
        "name": "s", "model": "m", "command": "whytune study", "started": "2026-01-05T10:00:00",
        "finding": "", "rows": rows, "comparisons": [],
    })  # fmt: skip
    return place


def test_two_studies_bring_all_their_arms_and_baselines(tmp_path: Path) -> None:
    first = fake_study(tmp_path / "first", ("label", "why"), calibrated=True)
    second = fake_study(tmp_path / "second", ("why", "prior"))
    found = compare([first, second], draws=100, metrics=["accuracy"])
    roles = {row.name: (row.role, len(row.seeds)) for row in found.settings[0].rows}
    assert roles == {
        "label": ("arm", 2), "label (calibrated)": ("calibrated", 2), "why (first)": ("arm", 2),
        "why (calibrated)": ("calibrated", 2), "prior (first/baselines)": ("baseline", 0),
        "why (second)": ("arm", 2), "prior (second)": ("arm", 2),
        "prior (second/baselines)": ("baseline", 0),
    }  # fmt: skip
    comparisons = by(found)
    assert {base for base, *_ in comparisons} == {"label"}
    assert {one["seeds"] for one in comparisons.values()} == {2}
    mine = by(compare([first, second], base="prior (first/baselines)", metrics=["mse"], draws=100))
    assert mine["prior (first/baselines)", "prior (second/baselines)", "mse"]["seeds"] == 1


def test_a_run_of_version_0_1_0_says_everything_bare(tmp_path: Path) -> None:
    runs = [run(tmp_path, arm) for arm in ("label", "why")]
    for path in runs:
        told = store.read_json(path / "run.json")
        del told["tasks"]
        store.write_json(path / "run.json", told)
    assert len(compare(runs, draws=100).settings[0].comparisons) == 6


def test_tasks_that_lack_a_figure_are_compared_on_the_others(tmp_path: Path) -> None:
    runs = [run(tmp_path, arm, task=task) for task in ("use", "mood") for arm in ("label", "why")]
    found = compare([*runs, run(tmp_path, "lone", corpus="d")], metrics=["mse"], draws=100)
    assert [[c["metric"] for c in s.comparisons] for s in found.settings] == [["mse"], []]
    assert found.notes == [
        "d, use: lone alone answered it; nothing is compared.",
        "c, mood: has no mse; nothing is compared.",
    ]
    mine = [run(tmp_path / "z", "label", corpus="d")]
    found = compare([*runs, run(tmp_path, "lone", corpus="d"), *mine], base="why", draws=100)
    assert found.notes == ["d, use: why did not answer it; nothing is compared."]


# What is refused


def refused(paths: Sequence[Path], says: str, **options: Any) -> None:
    with pytest.raises(InputError, match=says) as error:
        compare(paths, draws=100, **options)
    assert error.value.exit_code == 2


def test_other_references_are_refused_by_their_first_example(tmp_path: Path) -> None:
    runs = [run(tmp_path, "label"), run(tmp_path, "why", truth={"e7": "1", "e9": "2"})]
    refused(runs, r"c, use: example e7: found reference '3' \(0\.5\) in group 'g3' for label in \S+"
                  r"label--s0, reference '1' \(0\) in group 'g3' for why in \S+why--s0; expected "
                  r"the same; compare those that were measured against the same")  # fmt: skip


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    runs = [run(tmp_path, "label", ids=names(9)), run(tmp_path, "why", ids=names(9, 20))]
    refused(runs, "c, use: found no example that all of label, why answered, expected some; leave")
    other = run(tmp_path, "why", corpus="d")
    refused([runs[0], other], "found label, why, expected two that answered the same task")
    refused(runs[:1], "found label, expected two that answered the same task of the same corpus")


def test_one_name_for_two_questions_is_refused(tmp_path: Path) -> None:
    runs = [run(tmp_path, arm) for arm in ("label", "why")]
    told = store.read_json(runs[1] / "run.json")
    told["tasks"]["use"]["labels"] = [*POINTS, "6"]
    store.write_json(runs[1] / "run.json", told)
    _edited(runs[1], lambda table: table.replace_schema_metadata(
        {"labels": json.dumps([*POINTS, "6"])}
    ).set_column(6, "log_probs", pa.array([[-2.0] * 6] * 40)))  # fmt: skip
    refused(runs, "c, use: found ordinal labels 1, 2, 3, 4, 5 of label in .*, ordinal labels 1, 2, "
                  "3, 4, 5, 6 of why in .*; expected the same; leave one of them out")  # fmt: skip


def test_unknown_names_are_refused_with_a_hint(tmp_path: Path) -> None:
    runs = [run(tmp_path, arm) for arm in ("label", "why")]
    refused(runs, "--base lable: no such contestant; did you mean label?", base="lable")
    refused(runs, "--metric acuracy: no task here has it; did you mean acc", metrics=["acuracy"])


def _edited(path: Path, change: Callable[[Any], Any]) -> None:
    place = path / "predictions.parquet"
    table = pq.read_table(place)
    labels = table.schema.metadata
    changed = change(table)
    kept = changed.schema.metadata or labels
    pq.write_table(changed.replace_schema_metadata(kept), place)


def _column(name: str, value: Any) -> Callable[[Path], None]:
    """A run's predictions with something else in a column."""
    return lambda path: _edited(path, lambda table: table.set_column(
        table.column_names.index(name), name, pa.array([value] * table.num_rows)
    ))  # fmt: skip


def _text(name: str, text: str) -> Callable[[Path], None]:
    return lambda path: store.write_text(path / name, text)


def _facts(**other: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        told = store.read_json(path / "run.json")
        store.write_json(path / "run.json", {**told, **other})

    return change


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("unfinished", _facts(state="started"), r"run\.json: state is 'started', expected finished; run"),
    ("no labels", _facts(tasks={"use": {"kind": "ordinal"}}),
     r"run\.json: tasks\.use\.labels: Field required; expected what whytune wrote"),
    ("one label", _facts(tasks={"use": {"kind": "ordinal", "labels": ["1"], "reference": "gold"}}),
     r"task use: 1 labels, expected two or more"),
    ("no object", _text("run.json", "[]"), r"run\.json: cannot be read \(AttributeError: \'list\' object has no"),
    ("no JSON", _text("run.json", "{"), r"run\.json: cannot be read"),
    ("no recipe", lambda path: (path / "recipe.yaml").unlink(), r"recipe\.yaml: cannot be read"),
    ("no arm", _text("recipe.yaml", "arms: {}"), r"recipe\.yaml: cannot be read \(KeyError: 'why'\); expected what whytune wrote there;"),
    ("no YAML", _text("recipe.yaml", "a: ["), r"recipe\.yaml: cannot be read"),
    ("no predictions", lambda path: (path / "predictions.parquet").unlink(),
     r"predictions\.parquet: cannot be read"),
    ("no Parquet", _text("predictions.parquet", "PAR1"), r"predictions\.parquet: cannot be read"),
    ("foreign Parquet",
     lambda path: pq.write_table(pa.table({"text": ["a"]}), path / "predictions.parquet"),
     r"predictions\.parquet: not predictions that whytune wrote"),
    ("no outcome", lambda path: _edited(path, lambda table: table.drop_columns(["outcome"])),
     r"predictions\.parquet: cannot be read \(KeyError: .*outcome.*\); expected what whytune"),
    ("no group", lambda path: _edited(path, lambda table: table.drop_columns(["group"])),
     r"predictions\.parquet: cannot be read \(KeyError: 'group'\); expected what whytune wrote"),
    ("other outcome", _column("outcome", "fine"), r"cannot be read \(ValueError: 'fine' is not a valid Outcome\); expected"),
    ("other label", _column("label", "9"), r"has label '9', expected one of 1, 2, 3, 4, 5"),
    ("other type", _column("reference_score", "high"), r"predictions\.parquet: cannot be read \(TypeError: .*\); expected"),
    ("no score", _column("reference_score", None), r"the reference has no score; an ordinal task"),
    ("one id", _column("example_id", "e1"), r"cannot be read \(ValueError: 40 answers about 1 examples\); expected what"),
    ("few probabilities", _column("log_probs", [-1.0]), r"found log-probabilities of 1, expected"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN]
)
def test_a_folder_that_is_not_whole_is_named(
    change: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    runs = [run(tmp_path, arm) for arm in ("label", "why")]
    change(runs[1])
    refused(runs, rf"{re.escape(str(runs[1]))}.*{says}")


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    refused([tmp_path / "gone"], "gone: no such folder; expected that of a finished study or run")
    half = run(tmp_path / "half").parent.parent
    store.write_text(half / "recipe.yaml", "name: half")
    refused([half], r"half: found neither summary\.json nor run\.json, expected a finished study or "
                    r"run; finish it with `whytune study`, or give finished runs \(such as .*half/runs")  # fmt: skip
    study = fake_study(tmp_path / "study", ("label",))
    shutil.rmtree(study / "baselines")
    refused([study], r"study/baselines/c--use--prior/predictions\.parquet: cannot be read")
    shutil.rmtree(study / "runs")
    refused([study], r"study/runs/c--use--label--s0/run\.json: not there; expected a file")
    store.write_text(study / "summary.json", "{}")
    refused([study], r"summary\.json: name: Field required")


# What is written and printed


def test_the_page_and_the_tables_hold_the_same_numbers(tmp_path: Path) -> None:
    runs = [run(tmp_path, arm, corpus="c|d") for arm in ("la|bel", "why")]
    found = compare(runs, draws=100)
    page = comparing.write(found, tmp_path / "out").read_text()
    assert page.index(found.sentences[0].split(",")[0]) < page.index("## use on c\\|d")
    (setting,) = found.settings
    with (tmp_path / "out/tables/c_d--use--compared.csv").open() as file:
        for line, row in zip(csv.DictReader(file), setting.rows, strict=True):
            assert line["name"] == row.name
            assert float(line["mse"]) == row.scorecard.metrics["mse"].value
            assert re.search(rf" (\*\*)?{row.scorecard.metrics['mse'].value:.3f}(\*\*)? \[", page)
    with (tmp_path / "out/tables/c_d--use--differences.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["p_holm"]) for line in lines] == [c["p_holm"] for c in setting.comparisons]
    assert "| la\\|bel | why | Label NLL |" in page
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (tmp_path / "out" / target).exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"file: cannot be written .*; choose another --out"):
        comparing.write(found, tmp_path / "file")


def whytune(*words: object) -> tuple[int | str | None, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["whytune", *map(str, words)])
        to_strings = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with to_strings[0], to_strings[1], pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code, out.getvalue(), err.getvalue()


def test_the_command_says_sentences_first_and_json_last(tmp_path: Path) -> None:
    runs = [run(tmp_path, arm, ids=ids) for arm, ids in (("label", names(40)), ("why", names(38)))]
    words = ["compare", *runs, "--metric", "accuracy", "--base", "why", "--draws", 100]
    code, out, err = whytune(*words, "--out", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    told = json.loads(lines[-1])
    assert set(told) == {"settings", "sentences", "notes"}
    assert lines[0] == told["sentences"][0]
    assert lines[1] == "c, use: 38 examples that all answered, 2 left out"
    (setting,) = told["settings"]
    assert set(setting) == {"corpus", "task", "n", "left_out", "rows", "comparisons"}
    for line, row in zip(lines[2:4], setting["rows"], strict=True):
        assert set(row) == {"name", "role", "seeds", "n", "metrics"}
        assert line == f"  {row['name']}: accuracy {row['metrics']['accuracy']['value']:.3f}"
    assert lines[4] == f"page: {tmp_path / 'out' / 'compare.md'}"
    assert (tmp_path / "out/compare.md").exists()
    assert [(c["base"], c["arm"]) for c in setting["comparisons"]] == [("why", "label")]


def test_a_wrong_folder_ends_the_command_with_2_and_no_traceback(tmp_path: Path) -> None:
    code, out, err = whytune("compare", tmp_path / "gone", "--json")
    assert (code, out) == (2, "")
    assert err == (
        f"{tmp_path / 'gone'}: no such folder; expected that of a finished study or run; correct "
        "the path\n"
    )
    assert whytune("compare")[0] == 2


def test_torch_is_not_needed(tmp_path: Path) -> None:
    runs = [str(run(tmp_path, arm)) for arm in ("label", "why")]
    code = (
        "import sys\nfrom whytune.cli import main\n"
        "try:\n main()\nfinally:\n assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, "compare", *runs, "--draws", "100"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
