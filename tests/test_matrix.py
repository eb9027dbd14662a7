"""Every student on every corpus: what is asked, what is computed, what is written."""

import csv
import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from whytune import corpora, recipe_file, run_folder, store
from whytune.corpora import sampling
from whytune.errors import CorpusError, TeachingError
from whytune.evidence.compare import compare
from whytune.evidence.family import holm
from whytune.material import Material, gather
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Kind, Label, Outcome, Prediction, Split, Task
from whytune.run_folder import Cell
from whytune.study import elsewhere, figures, grid, matrix, matrix_figure, matrix_tables
from whytune.study.baseline_rows import baseline_folder
from whytune.study.contrasts import DEPENDENT
from whytune.tasks import BUILT_IN

QUIET = Progress(quiet=True)
Materials = dict[tuple[str, str], Material]
RECIPE = """
name: crossed
model: {model}
matrix: true
corpora:
  golden: {{loader: golden_topical_usr, path: {golden}}}
  arena: {{loader: starter, sources: [arena], train: 8, test: 8}}
  reading: {{loader: starter, sources: [reading], train: 8, test: 8}}
  both: {{loader: mixed, of: [arena, reading], train: 8, test: 8}}
tasks: [naturalness, on_topic]
arms:
  label: {{explanation: none}}
  why: {{explanation: assessment, words: 5}}
prompt: {{context_turns: 0, max_length: 256}}
train: {{tasks: joint, learning_rate: 1.0e-2, num_train_epochs: 1, per_device_train_batch_size: 4}}
predict: {{per_device_eval_batch_size: 8, explanations: 1, max_new_tokens: 4}}
evidence: {{bootstrap: 200, baselines: [prior, zero-shot]}}
"""


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden set in its upstream form; people's means on a scale from 1 to 3."""
    path = tmp_path_factory.mktemp("golden") / "topical_chat.json"
    rows = [
        {"source": f"What about number {n}?\n", "system_output": f"Number {n} is fine.",
         "system_id": "s", "scores": {"naturalness": (1, 1.5, 2, 7 / 3, 3)[n % 5]}}
        for n in range(10)
    ]  # fmt: skip
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path.parent


@pytest.fixture(scope="module")
def recipe(golden: Path, tiny_folder: Path) -> Recipe:
    return recipe_file.parse(RECIPE.format(model=tiny_folder, golden=golden), place="m.yaml")


@pytest.fixture(scope="module")
def materials(recipe: Recipe) -> Materials:
    return gather(recipe)


def without(recipe: Recipe, **update: Any) -> Recipe:
    return recipe.model_copy(update=update)


# What is gathered.


def test_what_teaches_nothing_is_a_column_and_what_answers_nothing_is_not_there(
    recipe: Recipe, materials: Materials
) -> None:
    assert list(materials) == [
        ("golden", "naturalness"),
        *((corpus, task) for corpus in ("arena", "reading", "both")
          for task in ("naturalness", "on_topic")),
    ]  # fmt: skip
    own = materials["golden", "naturalness"]
    assert (own.told, own.reference, len(own.part(Split.TEST))) == ((), "gold", 10)
    cells = grid.cells(recipe, grid.teaching(materials))
    assert {(cell.corpus, cell.tasks) for cell in cells} == {
        (corpus, ("naturalness", "on_topic")) for corpus in ("arena", "reading", "both")
    }
    asked = matrix.wanted(recipe, materials, cells[:2])
    assert [(cell.corpus, cell.arm, corpus) for cell, corpus, _ in asked] == [
        ("arena", arm, corpus) for arm in ("label", "why") for corpus in ("golden", "reading")
    ]


def test_without_a_matrix_errors_are_what_they_were(recipe: Recipe) -> None:
    with pytest.raises(CorpusError, match=r"corpora.golden: found task 'on_topic', but USR"):
        gather(without(recipe, matrix=False))
    narrow = without(recipe, matrix=False, tasks=["naturalness"])
    with pytest.raises(TeachingError, match="no example can be taught"):
        gather(narrow)


def test_a_matrix_needs_lessons_about_every_task_and_answers_of_every_corpus(
    recipe: Recipe,
) -> None:
    alone = without(recipe, corpora={"golden": recipe.corpora["golden"]}, tasks=["naturalness"])
    with pytest.raises(
        TeachingError, match="task naturalness: no corpus of the matrix has lessons"
    ):
        gather(alone)
    with pytest.raises(
        TeachingError, match=r"corpora.golden: has no answers to any .*\(on_topic\)"
    ):
        gather(without(recipe, tasks=["on_topic"]))


def test_scales_of_golden_sets_are_mapped_to_the_unit_interval(materials: Materials) -> None:
    own = materials["golden", "naturalness"]
    scores = sorted({round(r.score, 9) for r in own.references.values() if r.score is not None})
    assert scores == pytest.approx([0, 0.25, 0.5, 2 / 3, 1])  # (rating - 1) / (3 - 1)
    labels = {round(r.score or 0, 9): r.label for r in own.references.values()}
    names = own.task.label_names
    assert [names.index(labels[score]) for score in scores] == [0, 1, 2, 3, 4]


# One or some sources of a corpus.


def load(tasks: Sequence[str] = ("naturalness",), **spec: Any) -> corpora.Corpus:
    return corpora.load("c", CorpusSpec(**spec), [BUILT_IN[task] for task in tasks])


def test_only_the_sources_that_are_asked_for() -> None:
    one = load(loader="starter", sources=("reading",), train=20, test=10)
    assert {e.source for e in one.examples} == {"reading"}
    assert len(one.examples) == 30
    assert "150 examples of other sources were left out." in one.notes
    two = load(loader="starter", sources=("reading", "arena"))
    assert {e.source for e in two.examples} == {"reading", "arena"}
    assert {e.source for e in load(loader="starter").examples} > {"reading", "arena"}
    with pytest.raises(CorpusError, match=r"c.sources: found no examples of 'raeding'; did you mean "
                       "reading"):  # fmt: skip
        load(loader="starter", sources=("arena", "raeding"))
    with pytest.raises(CorpusError, match=r"found no examples of 'x'; known: arena, dialogue, "):
        load(loader="starter", sources=("x",))


MOOD = Task(name="mood", kind=Kind.NOMINAL, question="Which mood?",
            labels=(Label(name="sad"), Label(name="glad")))  # fmt: skip


@pytest.mark.parametrize("numbers", [{}, {"train": 5, "test": 4}])
def test_a_table_of_two_sources_gives_what_a_table_of_one_would(
    tmp_path: Path, numbers: dict[str, int]
) -> None:
    def rows(sources: Sequence[str]) -> str:
        return "text,label,where\n" + "".join(
            f"{source} says {n},{('sad', 'glad')[n % 2]},{source}\n"
            for n in range(20) for source in sources
        )  # fmt: skip

    (tmp_path / "both.csv").write_text(rows(["press", "web"]), encoding="utf-8")
    (tmp_path / "web.csv").write_text(rows(["web"]), encoding="utf-8")
    spec: dict[str, Any] = {"loader": "table", "columns": {"text": "text", "source": "where"}}

    def examples(name: str, **more: Any) -> tuple[Example, ...]:
        given = CorpusSpec(path=str(tmp_path / name), **spec, **numbers, **more)
        return corpora.load("c", given, [MOOD]).examples

    assert examples("both.csv", sources=("web",)) == examples("web.csv")
    with pytest.raises(CorpusError, match=r"found no examples of 'wbe'; did you mean web\?"):
        examples("both.csv", sources=("wbe",))


def test_sieves_that_read_a_stretch_each_know_together_which_sources_there_are() -> None:
    first, second = (sampling.Sieve(CorpusSpec(sources=("a", "b")), 1) for _ in range(2))
    assert [first.wants("a"), first.wants("c"), second.wants("b")] == [True, False, True]
    with pytest.raises(CorpusError, match="found no examples of 'b'"):
        first.check("c")
    first.merge(second, 2, lambda found: found)
    first.check("c")
    assert first.ledger.counts.total() == 1


def test_a_mixed_corpus_takes_the_sources_of_its_parts() -> None:
    with pytest.raises(ValueError, match="found sources, which a mixed corpus has not"):
        CorpusSpec(loader="mixed", of=("a", "b"), sources=("x",))


# What is computed, on answers made up.


def made_up(material: Material, spread: float, seed: int) -> list[Prediction]:
    """Answers around the references, unreadable ones among them."""
    source, task = np.random.default_rng(seed), material.task
    found = []
    for number, example in enumerate(material.part(Split.TEST)):
        score = material.references[example.id].score or 0.0
        expected = float(np.clip(score + source.normal(0, spread), 0, 1))
        read = number != 3
        odds = np.exp(-8 * np.abs(np.array(task.values) - expected))
        found.append(Prediction(
            example_id=example.id, task=task.name,
            outcome=Outcome.READ if read else Outcome.UNREADABLE,
            label=task.nearest(expected) if read else None,
            log_probs=dict(zip(task.label_names, map(float, np.log(odds / odds.sum())), strict=True)),
            expected=expected if read else None,
        ))  # fmt: skip
    return found


Made = tuple[Recipe, Materials, list[Cell], Path]


@pytest.fixture(scope="module")
def made(recipe: Recipe, materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A study whose students' answers are made up: `why` errs less everywhere but once."""
    folder = tmp_path_factory.mktemp("made")
    cells = grid.cells(recipe, grid.teaching(materials))
    asked = [(cell, cell.corpus) for cell in cells]
    asked += [(cell, corpus) for cell, corpus, _ in matrix.wanted(recipe, materials, cells)]
    for number, (cell, corpus) in enumerate(asked):
        worse = cell.corpus == corpus == "reading"
        spread = 0.02 if (cell.arm == "why") != worse else 0.4
        own = [materials[corpus, task] for task in cell.tasks if (corpus, task) in materials]
        answers = {m.task.name: made_up(m, spread, number) for m in own}
        place = (folder / "runs" / cell.id if corpus == cell.corpus
                 else elsewhere.part_folder(folder, cell, corpus, Split.TEST))  # fmt: skip
        run_folder.record(place, answers, own, recipe)
    for material in materials.values():
        answers = {material.task.name: made_up(material, 0.6, 99)}
        run_folder.record(
            baseline_folder(folder, material, "zero-shot"), answers, [material], recipe
        )
    return recipe, materials, cells, folder


@pytest.fixture(scope="module")
def found(made: Made) -> dict[str, Any]:
    return matrix.build(*made)


def cell_of(one: dict[str, Any], *place: str | None) -> dict[str, Any]:
    (cell,) = [c for c in one["cells"] if (c["trained"], c["tested"], c["arm"]) == place]
    assert isinstance(cell, dict)
    return cell


def test_rows_and_columns_are_the_papers(found: dict[str, Any]) -> None:
    first, second = found["tasks"]
    assert [column["corpus"] for column in first["tested"]] == ["golden", "arena", "reading"]
    assert [column["corpus"] for column in second["tested"]] == ["arena", "reading"]
    assert first["tested"][0] == {
        "corpus": "golden", "n": 10, "reference": "gold", "teaches": False}  # fmt: skip
    names = [line.name for line in matrix_tables.lines(found, first, "mse")]
    assert names == [
        "no fine-tuning (zero-shot)", "arena", "arena (E)", "reading", "reading (E)", "both",
        "both (E)",
    ]  # fmt: skip


def test_every_figure_is_that_of_its_answers(made: Made, found: dict[str, Any]) -> None:
    recipe, materials, cells, folder = made
    for one in found["tasks"]:
        for cell in one["cells"]:
            column = materials[cell["tested"], one["task"]]
            if cell["arm"] == "zero-shot":
                place = baseline_folder(folder, column, "zero-shot")
            elif cell["arm"] == "prior":
                continue
            else:
                (student,) = [c for c in cells
                              if (c.corpus, c.arm) == (cell["trained"], cell["arm"])]  # fmt: skip
                place = (folder / "runs" / student.id if student.corpus == cell["tested"]
                         else elsewhere.part_folder(folder, student, cell["tested"], Split.TEST))  # fmt: skip
            answers = [p for p in store.read_predictions(place / "predictions.parquet")[0]
                       if p.task == one["task"]]  # fmt: skip
            off = np.array([(p.expected or 0) - (column.references[p.example_id].score or 0)
                            for p in answers if p.label is not None])  # fmt: skip
            assert cell["mse"]["value"] == pytest.approx(float((off**2).mean()))
            assert cell["mae"]["value"] == pytest.approx(float(np.abs(off).mean()))
            card = store.plain(run_folder.scorecard(answers, column, recipe))
            assert [cell[name] for name in ("mse", "mae")] == [
                card["metrics"][name] for name in ("mse", "mae")
            ]
            assert cell["n"] == len(answers) == len(column.part(Split.TEST))


def test_the_prior_is_that_of_the_corpus_that_taught(made: Made, found: dict[str, Any]) -> None:
    _, materials, _, _ = made
    one = found["tasks"][0]
    scores = materials["arena", "naturalness"].scores
    assert scores is not None
    truth = [r.score or 0 for r in materials["golden", "naturalness"].references.values()]
    expected = np.mean((np.mean(scores) - np.array(truth)) ** 2)
    assert cell_of(one, "arena", "golden", "prior")["mse"]["value"] == pytest.approx(
        float(expected)
    )


def test_comparisons_are_paired_and_corrected_over_the_whole_matrix(
    made: Made, found: dict[str, Any]
) -> None:
    _, materials, cells, folder = made
    told = [c for one in found["tasks"] for c in one["comparisons"] if c["metric"] == "mse"]
    assert len(told) == 3 * 3 + 3 * 2
    assert [c["p_holm"] for c in told] == holm([c["p"] for c in told])
    column = materials["golden", "naturalness"]
    label, why = (elsewhere.read(folder, cell, "golden", Split.TEST) for cell in cells[:2])
    (expected, *_) = compare(
        label, why, column.references, column.groups, column.task, names=("label", "why"),
        metrics=("mse",), draws=600, seed=0,
    )  # fmt: skip
    one = next(c for c in told if (c["trained"], c["tested"]) == ("arena", "golden"))
    assert one["difference"] == store.plain(expected.difference)
    assert (one["p"], one["n"]) == (expected.p, 9)  # one answer of ten is unreadable
    assert one["sentence"].startswith("Taught on arena, tested on golden: On naturalness, why has ")


def test_settings_are_counted(found: dict[str, Any]) -> None:
    won = [8, 5]  # all but reading on reading
    for one, wins in zip(found["tasks"], won, strict=True):
        n = len(one["tested"]) * 3
        assert wins == n - 1
        p = binomtest(wins, n).pvalue
        assert one["sentences"][0] == (
            f"why has better mean squared error than label in {wins} of {n} settings (sign test, "
            f"p = {p:.2g})."
        )
        assert one["sentences"][-1] == DEPENDENT
    assert "in 13 of 15 settings" in found["sentences"][0]


def test_what_was_taught_is_not_measured(made: Made, tmp_path: Path) -> None:
    recipe, materials, cells, own = made
    folder = shutil.copytree(own, tmp_path / "study")
    column = materials["reading", "naturalness"]
    first, second, *_ = column.part(Split.TEST)
    row = materials["arena", "naturalness"]
    # The same text under another name, and another example of a group in the same files.
    met = (replace(first, id="other", group="another", split=Split.TRAIN),
           replace(row.corpus.examples[0], group=second.group, split=Split.TRAIN))  # fmt: skip
    known = replace(row, corpus=replace(row.corpus, examples=(*row.corpus.examples, *met)))
    found = matrix.build(recipe, {**materials, ("arena", "naturalness"): known}, cells, folder)
    one = found["tasks"][0]
    assert cell_of(one, "arena", "reading", "label")["n"] == 6
    assert cell_of(one, "both", "reading", "label")["n"] == 8
    assert (
        "naturalness: 2 test examples of reading are left out of the row of arena, which teaches "
        "them or others of their group."
    ) in found["notes"]
    # Names of groups mean something else in other files.
    foreign = replace(known, corpus=replace(known.corpus, inputs={"x": "0" * 64}))
    found = matrix.build(recipe, {**materials, ("arena", "naturalness"): foreign}, cells, folder)
    assert cell_of(found["tasks"][0], "arena", "reading", "label")["n"] == 7


def test_one_arm_alone_is_a_matrix_too(made: Made, tmp_path: Path) -> None:
    recipe, materials, cells, own = made
    folder = shutil.copytree(own, tmp_path / "study")
    alone = without(recipe, arms={"label": recipe.arms["label"]},
                    evidence=recipe.evidence.model_copy(update={"baselines": []}))  # fmt: skip
    found = matrix.build(alone, materials, [c for c in cells if c.arm == "label"], folder)
    assert (found["marks"], found["baseline"], found["sentences"]) == ({}, None, [])
    lines = list(matrix_tables.lines(found, found["tasks"][0], "mse"))
    assert [line.name for line in lines] == ["arena", "reading", "both"]
    assert not any(entry.best or entry.told for line in lines for entry in line.entries)


# What is written.


def test_the_csv_has_all(made: Made, found: dict[str, Any]) -> None:
    one = found["tasks"][0]
    with (made[-1] / one["files"]["csv"]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(one["cells"]) == 3 + 9 * 3
    for row, cell in zip(rows, one["cells"], strict=True):
        assert (row["trained"], row["tested"], row["arm"]) == (
            cell["trained"] or "", cell["tested"], cell["arm"])  # fmt: skip
        assert float(row["mse"]) == cell["mse"]["value"]
        assert bool(row["mse_difference"]) == (cell["arm"] == "why")


def test_of_each_pair_the_better_one_is_bold(made: Made, found: dict[str, Any]) -> None:
    page = (made[-1] / "tables" / "matrix--naturalness.md").read_text(encoding="utf-8")
    table = page.split("| MSE ↓ |")[1].split("\n\n")[0]
    rows = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ")[1:]
            for row in table.splitlines()[2:]}  # fmt: skip
    assert ["**" in cell for cell in rows["reading"]] == [False, False, True]
    assert ["**" in cell for cell in rows["reading (E)"]] == [True, True, False]
    assert ["**" in cell for cell in rows["no fine-tuning (zero-shot)"]] == [False] * 3


def test_what_holds_after_the_correction_is_marked(found: dict[str, Any]) -> None:
    one = json.loads(json.dumps(found["tasks"][0]))
    for comparison in one["comparisons"]:
        sure = (comparison["trained"], comparison["tested"]) == ("both", "arena")
        comparison["p_holm"] = 0.05 if sure else 0.051
    for figure in one["figures"]:
        told = {(line.name, number) for line in matrix_tables.lines(found, one, figure)
                for number, entry in enumerate(line.entries) if entry.told}  # fmt: skip
        assert told == {("both (E)", 1)}
    page = matrix_tables.as_markdown(found, one).split("\n\n", 2)[2]
    assert page.count("✱") == 2
    assert matrix_tables.as_latex(found, one).count(",\\,\\ast}$") == 2


def test_latex_holds_together(found: dict[str, Any]) -> None:
    one = {**found["tasks"][0], "task": "on_topic & 100 % {odd}\\~^"}
    one = json.loads(json.dumps(one).replace('"arena"', '"a_rena#1"'))
    page = matrix_tables.as_latex(found, one)
    assert page.count(r"\begin{table}") == page.count(r"\end{table}") == 2
    assert r"on\_topic \& 100 \% \{odd\}\textbackslash{}\textasciitilde{}\textasciicircum{}" in page
    bare = re.sub(r"\\[\\&%$#_{}]", "", page)
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    outside = re.sub(r"\$[^$]*\$", "", bare)
    assert not set("#%$^~_✱↓–") & set(outside)
    rows = [line for line in page.splitlines() if line.endswith(r" \\")]
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {4}
    assert len(rows) == 2 * 8
    assert r"a\_rena\#1 (E) & $\mathbf{" in page


def test_heat_map_has_a_panel_for_each_arm_and_for_the_difference(
    made: Made, found: dict[str, Any]
) -> None:
    drawing = ET.parse(made[-1] / found["tasks"][0]["files"]["svg"]).getroot()
    texts = ["".join(node.itertext()) for node in drawing.iter("{http://www.w3.org/2000/svg}text")]
    value = cell_of(found["tasks"][0], "arena", "golden", "label")["mse"]["value"]
    assert f"{value:.3f}".replace("0.", ".") in texts
    assert "why − label (blue: why is better; bold: p ≤ 0.05)" in texts
    spec = matrix_figure.heat_map(found, found["tasks"][0]).to_dict()
    panels = spec["vconcat"]
    assert [panel["title"] for panel in panels[:2]] == ["label: MSE ↓", "why: MSE ↓"]
    assert [len(spec["datasets"][panel["data"]["name"]]) for panel in panels] == [12, 12, 9]


def test_where_nothing_is_defined_nothing_is_written(found: dict[str, Any]) -> None:
    one = json.loads(json.dumps(found["tasks"][0]))
    for cell in one["cells"]:
        if cell["trained"] == "arena" and cell["tested"] == "golden":
            cell["mse"] = {"value": None, "low": None, "high": None}
    one["comparisons"] = [c for c in one["comparisons"] if c["trained"] != "arena"]
    page = matrix_tables.as_markdown(found, one)
    assert "| arena | – |" in page
    assert "$" not in matrix_tables.as_latex(found, one).split("arena (E) & ")[1].split("&")[0]
    assert figures.svg(matrix_figure.heat_map(found, one)).startswith("<svg")


# The whole way.


def test_a_study_with_a_matrix(recipe: Recipe, materials: Materials, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    summary = grid.study(recipe, folder, QUIET)
    told = store.read_json(folder / "summary.json")["matrix"]
    assert told == summary["matrix"]
    assert {row["corpus"] for row in summary["rows"]} == {"arena", "reading", "both"}
    one = told["tasks"][0]
    for corpus in ("arena", "reading"):
        (row,) = [r for r in summary["rows"]
                  if (r["corpus"], r["task"], r["name"]) == (corpus, "naturalness", "why")]  # fmt: skip
        assert cell_of(one, corpus, corpus, "why")["mse"] == row["scorecard"]["metrics"]["mse"]
    assert all(math.isfinite(cell["mse"]["value"]) for cell in one["cells"])
    assert all((folder / path).is_file() for path in one["files"].values())
    again = grid.study(recipe, folder, QUIET)
    assert again["matrix"] == told
