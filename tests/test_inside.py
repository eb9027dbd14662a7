"""Inside students: blocks held against each other, whose inside is looked at, what is written."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import ttest_1samp
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from whytune import recipe_file, run_folder, store
from whytune.cli import app
from whytune.errors import FolderError, InputError
from whytune.evidence import blocks
from whytune.progress import Progress
from whytune.records import Estimate
from whytune.study import grid, inside, inside_who, inside_words
from whytune.study.inside_figures import UNTAUGHT
from whytune.study.stored import Record

QUIET = Progress(quiet=True)
RECIPE = """
name: within
model: {model}
inside: {{examples: 6, along: 2, explanation: true}}
corpora:
  starter: {{loader: starter, train: 8, test: 8}}
tasks: [naturalness]
arms:
  label: {{explanation: none}}
  why: {{explanation: assessment, words: 5}}
  head: {{explanation: none, head: true}}
seeds: [0, 1]
prompt: {{context_turns: 0, max_length: 256}}
train: {{learning_rate: 1.0e-2, per_device_train_batch_size: 4, eval_steps: 1, keep_adapters: true}}
predict: {{per_device_eval_batch_size: 4, explanations: 1, max_new_tokens: 4}}
evidence: {{bootstrap: 200, baselines: [prior]}}
"""


@pytest.fixture(scope="module")
def study(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms, two seeds, looked into at the end."""
    folder = tmp_path_factory.mktemp("inside") / "study"
    grid.study(recipe_file.parse(RECIPE.format(model=tiny_folder), place="w.yaml"), folder, QUIET)
    return folder


@pytest.fixture(scope="module")
def found(study: Path) -> dict[str, Any]:
    told: dict[str, Any] = store.read_json(study / "inside.json")
    return told


def run_of(study: Path, arm: str, seed: int = 0) -> Path:
    return study / "runs" / f"starter--naturalness--{arm}--s{seed}"


# Statistics by block.


def test_blocks_are_told_apart_as_by_a_paired_t_test_and_corrected_for_their_number() -> None:
    source = np.random.default_rng(0)
    base = source.normal(size=(1, 400, 4))
    arm = base + source.normal(0, 1, size=base.shape)
    arm[:, :, 0] = base[:, :, 0]  # below the first adapter nothing differs
    arm[:, :, 2] += 0.25
    told = blocks.contrasts(base, arm, np.arange(400), draws=4000, seed=0)
    assert (told[0].contrast.difference, math.isnan(told[0].p_holm)) == (
        Estimate(value=0, low=0, high=0),
        True,
    )
    tested = [ttest_1samp((arm - base)[0, :, at], 0) for at in (1, 2, 3)]
    for one, known in zip(told[1:], tested, strict=True):
        ends = known.confidence_interval()
        assert one.contrast.difference.value == pytest.approx(
            known.statistic * known._standard_error
        )
        assert one.contrast.difference.low == pytest.approx(ends.low, abs=0.02)
        assert one.contrast.difference.high == pytest.approx(ends.high, abs=0.02)
        assert one.contrast.p == pytest.approx(known.pvalue, abs=0.03)
    assert told[2].p_holm == pytest.approx(3 * told[2].contrast.p)  # of three that were tested
    assert told[2].p_holm < 0.05 < min(told[1].p_holm, told[3].p_holm)


def test_examples_of_one_group_are_not_independent() -> None:
    source = np.random.default_rng(1)
    of_group = source.normal(size=(1, 30, 1)).repeat(
        10, axis=1
    )  # 30 conversations, ten answers each
    (alone,) = blocks.levels(of_group, np.arange(300), draws=2000, seed=0)
    (grouped,) = blocks.levels(of_group, np.arange(30).repeat(10), draws=2000, seed=0)
    wide = [one.high - one.low for one in (alone, grouped)]
    assert wide[1] / wide[0] == pytest.approx(math.sqrt(10), rel=0.15)


def test_several_seeds_speak_of_others() -> None:
    """A difference that every example shows, but each seed in its own way, is no finding."""
    source = np.random.default_rng(2)
    base = np.zeros((3, 200, 1))
    arm = source.normal(0, 0.01, size=base.shape) + np.array([1.0, -0.8, 0.4])[:, None, None]
    (one,) = blocks.contrasts(base, arm, np.arange(200), draws=1000, seed=0)
    assert one.contrast.difference.low < 0 < one.contrast.difference.high
    known = ttest_1samp(arm.mean(axis=(1, 2)), 0).pvalue  # examples add next to nothing
    assert one.contrast.p == pytest.approx(known, abs=0.02)


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (32, ["1-20", "21-25", "26", "27", "28", "29", "30", "31", "32"]),  # the paper's own
        (30, ["1-18", "19-23", "24", "25", "26", "27", "28", "29", "30"]),
        (9, ["1-2", "3", "4", "5", "6", "7", "8", "9"]),
        (2, ["1", "2"]),
    ],
)
def test_the_columns_of_table_6(depth: int, names: list[str]) -> None:
    columns = blocks.pools(depth)
    assert [one.name for one in columns] == names
    values = np.arange(depth + 1.0)[None, None]  # every block's value is its number
    means = blocks.pooled(values, columns)[0, 0]
    assert means[0] == (columns[0].first + columns[0].last) / 2
    assert means[-1] == depth


def test_the_first_sure_block() -> None:
    probs = np.array([[[0.99, 0.1, 0.96, 0.2], [0.0, 0.1, 0.2, 0.951], [0.99, 0.5, 0.5, 0.95]]])
    # What enters the first block is no block; 0.95 is not above it; never: one more than there are.
    assert blocks.sure(probs)[0, :, 0].tolist() == [2, 3, 4]


def test_what_is_said_in_the_end_stays_on_top() -> None:
    ranks = np.array([[[9, 0, 5, 0, 0], [0, 0, 0, 0, 0], [7, 3, 2, 1, 0], [0, 1, 0, 0, 0]]])
    assert blocks.decided(ranks)[0, :, 0].tolist() == [3, 1, 4, 2]


# A study.


def test_a_study_looks_inside_and_says_so_on_its_page(study: Path, found: dict[str, Any]) -> None:
    arms = {row["arm"] for row in found["levels"]}
    assert arms == {"label", "why", UNTAUGHT}
    assert any("answers by a head" in note for note in found["notes"])
    page = (study / "report.html").read_text(encoding="utf-8")
    assert "inside the students" in page
    assert "<title>block 0: label " in page  # where the pointer rests
    assert "aria-roledescription" not in re.sub(r"<g [^>]*>", "", page)
    text = (study / "report.md").read_text(encoding="utf-8")
    assert "Weight differences by projection (Table 5)" in text
    for name in (
        "table5",
        "table6",
        "decisions",
        "differences",
        "weights",
        "entropy",
        "ranks",
        "birth",
    ):
        assert (study / f"tables/inside--starter--naturalness--{name}.csv").exists()
    latex = (study / "tables/inside--starter--naturalness--table6.tex").read_text(encoding="utf-8")
    assert latex.count("\\\\") == 2 + len({row["arm"] for row in found["table6"]})
    assert "the paper & without & $1.000_{1.00}^{1.00}$" in latex  # block 31 of 32


def test_levels_are_means_of_what_was_read(study: Path, found: dict[str, Any]) -> None:
    tables = [store.read_table(run_of(study, "why", seed) / "lens.parquet") for seed in (0, 1)]
    rows = [row for table in tables for row in table.to_pylist() if not row["base"]]
    assert len(rows) == 2 * 6 * 3  # seeds, examples, blocks 0 to 2
    for block in range(3):
        own = [row["entropy"] for row in rows if row["block"] == block]
        (told,) = [row for row in found["levels"]
                   if (row["arm"], row["figure"], row["block"]) == ("why", "entropy", block)]  # fmt: skip
        assert told["value"] == pytest.approx(np.mean(own))
        ranks = [row["ranks"] for row in rows if row["block"] == block]
        medians = np.median(np.array(ranks), axis=0)
        said = [
            row["value"] for row in found["ranks"] if (row["arm"], row["block"]) == ("why", block)
        ]
        assert said == pytest.approx(medians.tolist())


def test_predictions_of_the_lens_are_those_of_the_study(study: Path) -> None:
    answers = {p.example_id: p for p in store.read_predictions(
        run_of(study, "label") / "predictions.parquet")[0]}  # fmt: skip
    last = [row for row in store.read_table(run_of(study, "label") / "lens.parquet").to_pylist()
            if row["block"] == 2 and not row["base"]]  # fmt: skip
    for row in last:
        known = list(answers[row["example_id"]].log_probs.values())
        assert row["log_probs"] == pytest.approx(known, abs=1e-4)
        assert row["predicted"] == answers[row["example_id"]].label


def test_table_6_is_divided_by_the_largest(found: dict[str, Any]) -> None:
    rows = [row for row in found["table6"] if row["arm"] == "why"]
    largest = max(abs(row["value"]) for row in rows)
    assert [row["share"] for row in rows] == pytest.approx([r["value"] / largest for r in rows])
    assert max(abs(row["share"]) for row in rows) == pytest.approx(1)


def test_weights_are_those_of_the_adapters(study: Path, found: dict[str, Any]) -> None:
    from whytune.evidence import adapters, deltas

    pairs = deltas.paired(
        *([adapters.read(run_of(study, arm, seed) / "adapter") for seed in (0, 1)]
          for arm in ("label", "why"))
    )  # fmt: skip
    totals: dict[str, float] = {}
    for one in [one for of_seed in pairs for one in of_seed]:
        totals[one.projection] = totals.get(one.projection, 0) + one.frobenius / 2
    told = {row["projection"]: row["value"] for row in found["table5"]
            if (row["base"], row["arm"]) == ("label", "why")}  # fmt: skip
    assert told == pytest.approx(totals)
    assert {(r["base"], r["arm"]) for r in found["table5"]} >= {("label", "label"), ("why", "why")}


def test_the_curves_birth_ends_where_the_student_ends(study: Path, found: dict[str, Any]) -> None:
    steps = sorted(run_folder.moments(run_of(study, "why")))
    assert steps == [1, 2]
    assert {row["step"] for row in found["along_weights"]} == {1, 2}
    last = {row["projection"]: row["value"] for row in found["along_weights"]
            if row["step"] == 2 and row["arm"] == "why"}  # fmt: skip
    end = {row["projection"]: row["value"] for row in found["table5"]
           if (row["base"], row["arm"]) == ("label", "why")}  # fmt: skip
    assert last == pytest.approx(end)
    assert {row["step"] for row in found["along_levels"]} == {1, 2}


def test_explanations_are_read_word_by_word(found: dict[str, Any]) -> None:
    spoken = [row for row in found["spoken"] if row["arm"] == "why"]
    assert spoken
    assert {row["block"] for row in spoken} == {0, 1, 2}
    # The most probable words were said: each is the first at the last block.
    assert {row["rank"] for row in spoken if row["block"] == 2} == {0}
    assert not [row for row in found["spoken"] if row["arm"] == "label"]


def test_nothing_is_read_twice(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whytune.student import models

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load", fail)
    again = inside.analyze([study], {}, study, QUIET)
    assert again["page"] == str(study / "report.html")


# Runs and foreign adapters.


def test_two_runs_bring_the_other_seeds_of_theirs(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, [
        "analyze", str(run_of(study, "label")), str(run_of(study, "why", 1)), "--out", str(out),
        "--json",
    ])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout.splitlines()[-1])
    assert [arm["seeds"] for arm in told["settings"][0]["arms"]] == [[0, 1], [0, 1]]
    whole = store.read_json(study / "inside.json")
    own = [row for row in whole["differences"] if (row["base"], row["arm"]) == ("label", "why")]
    assert told["differences"] == own
    assert (out / "inside.html").exists()
    assert "<h2>naturalness on starter" in (out / "inside.html").read_text(encoding="utf-8")


def test_two_seeds_of_one_arm(study: Path, tmp_path: Path) -> None:
    paths = [run_of(study, "why", seed) for seed in (0, 1)]
    told = inside.analyze(paths, {}, tmp_path / "out", QUIET, answers=False)
    assert told["levels"] == []
    assert {(row["base"], row["arm"]) for row in told["table5"]} == set()
    assert any("common one" in note for note in told["notes"])


def foreign(model: Path, folder: Path, seed: int) -> Path:
    """A PEFT adapter that whytune knows nothing of."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"],
                                              init_lora_weights=False, task_type="CAUSAL_LM"))  # fmt: skip
    adapted.save_pretrained(str(folder))
    return folder


def test_adapters_that_were_trained_elsewhere(tiny_folder: Path, tmp_path: Path) -> None:
    one = foreign(tiny_folder, tmp_path / "one", 1)
    for step in (100, 200):
        shutil.copytree(one, tmp_path / "trainer" / f"checkpoint-{step}")
    for seed in (3, 4):
        foreign(tiny_folder, tmp_path / "seeds" / f"s{seed}", seed)
    alone = inside.analyze([one], {}, tmp_path / "a", QUIET)
    assert {row["projection"] for row in alone["changes"]} == {"q", "up"}
    assert any("--recipe" in note for note in alone["notes"])
    # A trainer's folder is its last checkpoint, and all of them are moments.
    (setting,) = inside_who.of_paths([tmp_path / "trainer"], None, tmp_path)
    (member,) = setting.cohorts["trainer"].members
    assert (member.adapter.name, list(member.moments)) == ("checkpoint-200", [100, 200])
    seeds = inside.analyze([tmp_path / "seeds"], {}, tmp_path / "b", QUIET)
    assert {row["seeds"] for row in seeds["changes"]} == {2}
    assert [row["seeds"] for row in seeds["table5"]] == [1, 1]  # two seeds make one pair


def test_a_foreign_adapter_is_asked_what_a_recipe_says(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_file.parse(RECIPE.format(model=tiny_folder), place="w.yaml")
    one, two = (foreign(tiny_folder, tmp_path / name, seed) for seed, name in enumerate("ab"))
    told = inside.analyze([one, two], {"examples": 3, "along": 0, "explanation": False},
                          tmp_path / "out", QUIET, recipe=recipe)  # fmt: skip
    assert {row["arm"] for row in told["levels"]} == {"a", "b", "no fine-tuning"}
    assert {row["n"] for row in told["differences"]} == {3}
    assert {row["corpus"] for row in told["table5"]} == {""}
    assert not list(one.glob("*.parquet"))  # nothing is written into a foreign folder


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s, t: [t / "nowhere"], FolderError, "no such folder"),
        (lambda s, t: [t], FolderError, r"neither run.json nor adapter_config.json"),
        (lambda s, t: [run_of(s, "why"), t], InputError, "a run and an adapter trained elsewhere"),
        (lambda s, t: [t, t, t], InputError, "found 3 folders"),
    ],
)
def test_what_cannot_be_looked_at(
    study: Path, tmp_path: Path, make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        inside.analyze(make(study, tmp_path), {}, tmp_path / "out", QUIET)


def test_an_unfinished_run_is_named(study: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / run_of(study, "why").name
    shutil.copytree(run_of(study, "why"), run)
    facts = store.read_json(run / "run.json")
    store.write_json(run / "run.json", {**facts, "state": "started"})
    with pytest.raises(FolderError, match="training is not finished"):
        inside.analyze([run], {}, tmp_path / "out", QUIET)


# Words.


def test_sentences_say_what_the_rows_say() -> None:
    place = {"corpus": "c", "task": "t", "base": "label", "arm": "why"}
    table5: list[Record] = [
        {**place, "projection": name, "share": share, "value": 2 * share}
        for name, share in (("q", 1.0), ("gate", 0.8), ("v", 0.5))
    ]
    table5 += [{**row, "arm": "label", "value": row["value"] / 2} for row in table5]
    differences: list[Record] = [
        {**place, "figure": "entropy", "block": block, "value": value, "low": value - 0.1,
         "high": value + 0.1, "p_holm": p, "n": 50, "seeds": 3}
        for block, value, p in ((0, 0.0, None), (1, 0.3, 0.01), (2, 0.5, 0.001), (3, -0.2, 0.04))
    ]  # fmt: skip
    rows: dict[str, list[Record]] = {
        "table5": table5,
        "differences": differences,
        "decisions_apart": [],
        "decisions": [],
    }
    weights, entropy = inside_words.sentences(rows)
    assert weights == (
        "c, t: the weights of why and label differ most in the query projection, then the gate "
        "projection (0.80 of it), least in the value projection (0.50); two seeds of label differ "
        "0.50 times as much, all matrices together."
    )
    assert entropy == (
        "c, t: the entropy of why is higher after 2 and lower after 1 of 3 blocks than that of label "
        "(p at most 0.05 after Holm's correction; 50 examples, 3 seeds), most of all after block 2: "
        "+0.50 (+0.40 to +0.60) nats; after the last one -0.20 (-0.30 to -0.10) nats."
    )
