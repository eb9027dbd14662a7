"""Texts that nobody has labelled, or not for what is asked: teachers are asked about them."""

import contextlib
import csv
import gzip
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from whytune import asking, cli, corpora, material, recipe_file
from whytune.corpora import Corpus, ranges, raters
from whytune.corpora.identity import one_text_id
from whytune.errors import CorpusError, RecipeError
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.recipe_data import RELEASES, Columns, CorpusSpec
from whytune.records import Kind, Label, Split, Task
from whytune.study import check, grid
from whytune.tasks import BUILT_IN
from whytune.teaching.requests import Request
from whytune.teaching.teachers import Function

QUIET = Progress(quiet=True)
TOPIC, EMOTION = BUILT_IN["on_topic"], BUILT_IN["emotion"]
SAME = Task(
    name="same", kind=Kind.NOMINAL, question="Same?", labels=(Label(name="x"), Label(name="y"))
)
Row = Mapping[str, Any]
FORMATS = ["t.csv", "t.jsonl", "t.csv.gz", "t.jsonl.gz", "t.parquet"]


def write(path: Path, rows: Sequence[Row]) -> Path:
    plain = path.with_name(path.name.removesuffix(".gz"))
    if plain.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    elif plain.suffix == ".csv":
        with plain.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def texts(count: int) -> list[Row]:
    return [{"text": f"It is day {n} of the journey."} for n in range(count)]


def load(path: Path, columns: Mapping[str, Any], *tasks: Task, **spec: Any) -> Corpus:
    """A table without labels; several tasks unless told otherwise."""
    given = CorpusSpec(
        loader="table", path=str(path), columns=Columns(label=None, **columns), **spec
    )
    return corpora.load("mine", given, tasks or (TOPIC, EMOTION), asked=True)


def bare(corpus: Corpus) -> Corpus:
    """Makes sure that nobody says anything about any of its examples."""
    assert not corpus.replies
    assert not any(example.gold for example in corpus.examples)
    return corpus


def places(corpus: Corpus) -> list[tuple[str, str, str, Split | None]]:
    return [(e.id, e.group, e.source, e.split) for e in corpus.examples]


def answer(request: Request) -> str:
    """The label, or the score, whose place is the day that the text names."""
    found = re.search(r"day (\d+)", json.dumps([dict(message) for message in request.messages]))
    day = int(found[1]) if found else len(str(request.messages))
    assert request.schema is not None
    forms = request.schema["properties"]
    return json.dumps({
        name: form["enum"][day % len(form["enum"])] if "enum" in form else f"{name} of day {day}"
        for name, form in forms.items()
    })  # fmt: skip


def functions(recipe: Recipe) -> dict[str, Function]:
    return {name: Function(answer) for name in recipe.teachers}


RECIPE = """
name: ask
model: {model}
corpora:
  mine: {{loader: table, path: {path}, columns: {{text: text, label: null}}}}
tasks: [on_topic, {{name: mood, question: 'Which mood?', labels: [sad, calm, glad]}}]
arms: {{label: {{}}, why: {{explanation: assessment}}}}
prompt: {{max_length: 512}}
teachers:
  mind: {{api: python, prompts: [labels]}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    def parsed(text: str = RECIPE, path: str = "", model: Path | str = "smollm2-135m") -> Recipe:
        return recipe_file.parse(text.format(path=path, model=model), place="r", folder=tmp_path)

    return parsed


# Tables


@pytest.mark.parametrize("name", FORMATS)
def test_a_table_without_labels_is_taught_by_its_teachers(
    name: str, tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    write(tmp_path / name, texts(30))
    plan = recipe(path=name)
    (one,) = asking.ask(plan, QUIET, teachers=functions(plan))
    assert one.outcomes == {"read": 60}
    found = material.gather(plan)
    days = {one_text_id("text", row["text"]): day for day, row in enumerate(texts(30))}
    assert list(found) == [("mine", "on_topic"), ("mine", "mood")]
    for got in found.values():
        bare(got.corpus)
        parts = Counter(example.split for example in got.corpus.examples)
        assert parts == {Split.TRAIN: 21, Split.TEST: 9}
        names = got.task.label_names
        assert {key: v.label for key, v in got.verdicts.items()} == {
            key: names[day % len(names)] for key, day in days.items()
        }
        assert got.reference == "verdict"
        assert len(got.references) == 9
        assert all(lesson.explanation for lesson in got.lessons("why", 0))
        assert len(got.lessons("why", 0)) == 21


SPECS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"text": "text"}, {}),
    ({"text": "text"}, {"train": 5, "test": 4, "validation": 2, "seed": 3}),
    ({"text": "text"}, {"test_share": 0.5, "raters": "all"}),
    ({"text": "text", "group": "group"}, {"test": 6}),
    ({"text": "text", "id": "id", "group": "group", "source": "source"}, {"train": 9, "test": 3}),
    ({"text": "text", "id": "id", "split": "part"}, {"train": 5}),
    ({"turns": "talk"}, {}),
    ({"turns": "talk", "id": "id", "group": "group"}, {"stratify": True}),
    ({"text": "text", "source": "source"}, {"stratify": True, "test": 10}),
]


def rows(count: int) -> list[Row]:
    return [
        {
            "text": f"Day {n}, früh", "id": f"k{n}", "group": f"g{n // 3}",
            "source": "ab"[n % 3 == 0], "part": "test" if n > 20 else "train", "label": "x",
            "talk": json.dumps([{"role": "user", "text": "Well?"},
                                {"role": "assistant", "content": f"Day {n}"}]),
        }
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(("columns", "spec"), SPECS)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_split_is_that_of_the_same_texts_with_labels_that_say_nothing(
    name: str, columns: dict[str, str], spec: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / name, rows(30))
    given = CorpusSpec(loader="table", path=str(path), columns=Columns(**columns), **spec)
    labelled = corpora.load("mine", given, [SAME])
    found = bare(load(path, columns, **spec))
    assert places(found) == places(labelled)
    assert [e.turns for e in found.examples] == [e.turns for e in labelled.examples]
    assert (found.inputs, found.ledger.rows) == (labelled.inputs, 30)
    assert not found.notes


def test_a_column_of_labels_that_is_not_named_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{**row, "label": "no label of any task"} for row in texts(9)])
    assert len(bare(load(path, {"text": "text"})).examples) == 9


def test_processes_read_what_one_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [*texts(400), {"text": " "}, *texts(3), {"text": 4.0}])
    spec = {"train": 30, "test": 20, "max_unreadable": 1}
    one = load(path, {"text": "text"}, **spec)
    with (
        mock.patch.object(ranges, "_LEAST", path.stat().st_size // 2),
        mock.patch.object(ranges, "_processors", return_value=2),
    ):
        two = load(path, {"text": "text"}, **spec)
    assert bare(two) == one
    assert two.ledger == one.ledger
    assert two.ledger.counts == {raters.SAME_TEXT: 3}
    assert [row.line for row in two.ledger.quarantined] == [401]


@pytest.mark.parametrize("columns", [{"text": "text"}, {"text": "text", "split": "part"}])
def test_a_text_that_stands_there_twice_is_one(columns: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [*rows(30), *rows(2)])
    found = bare(load(path, columns))
    assert len({e.id for e in found.examples}) == len(found.examples) == 30
    assert found.notes == ("2 rows that repeat another's text were left out.",)
    assert not found.ledger.unreadable


def test_an_id_stands_for_one_text(tmp_path: Path) -> None:
    own = rows(30)
    path = write(tmp_path / "t.csv", [*own, own[4], {**own[5], "text": "Another day"}])
    found = load(path, {"text": "text", "id": "id"}, max_unreadable=0.5)
    assert [(row.line, row.reason) for row in found.ledger.quarantined] == [
        (32, "id k4 stands already in line 6; expected unique ids; drop one"),
        (33, "id k5 has another text than in line 7; expected the same; correct one of them"),
    ]
    assert found.ledger.unreadable == 3  # both of those that contradict each other
    assert {"k4", "k5"} & {e.id for e in found.examples} == {"k4"}
    assert not any("repeat" in note for note in found.notes)


def test_rows_of_one_text_that_contradict_each_other_are_no_repeats(tmp_path: Path) -> None:
    own = rows(30)
    path = write(tmp_path / "t.csv", [*own, own[4], {**own[5], "group": "another"}])
    found = load(path, {"text": "text", "group": "group"}, max_unreadable=0.5)
    (row,) = found.ledger.quarantined
    assert row.line == 33
    assert "has another group than in line 7; expected the same; correct one" in row.reason
    assert found.ledger.unreadable == 2
    assert found.ledger.counts == {raters.SAME_TEXT: 1}
    assert len(found.examples) == 29


def test_what_is_no_text_is_quarantined(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [*texts(9), {"text": ""}, {"text": ["a"]}, {"text": None}])
    found = bare(load(path, {"text": "text"}, max_unreadable=0.5))
    assert [row.line for row in found.ledger.quarantined] == [10, 11, 12]
    with pytest.raises(CorpusError, match="found no rows"):
        load(write(tmp_path / "u.jsonl", []), {"text": "text"})


def test_labels_of_a_table_are_gold_and_replies_where_teachers_are_asked_too(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    moods = ("sad", "calm", "glad")
    write(tmp_path / "t.csv", [{**row, "label": moods[n // 10]} for n, row in enumerate(texts(30))])
    plan = recipe(
        RECIPE.replace("label: null}}", "label: label}}, task: mood")
        + "  people: {{api: recorded}}\n",
        path="t.csv",
    )
    (one,) = asking.ask(plan, QUIET, teachers=functions(plan))
    assert one.outcomes == {"read": 30}
    ((place, got),) = material.gather(plan).items()
    assert place == ("mine", "mood")
    assert all(verdict.votes == 2 for verdict in got.verdicts.values())
    assert got.reference == "gold"
    given = {one_text_id("text", row["text"]): moods[n // 10] for n, row in enumerate(texts(30))}
    assert {key: found.label for key, found in got.references.items()} == {
        e.id: given[e.id] for e in got.part(Split.TEST)
    }
    assert len(got.corpus.replies) == 30


# Corpora with answers of their own


STARTER = """
name: ask
model: {model}
corpora: {{starter: {{train: 12, test: 8}}}}
tasks: [on_topic, emotion]
arms: {{label: {{}}}}
prompt: {{max_length: 512}}
teachers:
  mind: {{api: python, prompts: [labels]}}
  own: {{api: recorded}}
"""


def test_the_starter_set_can_be_asked_anything(recipe: Callable[..., Recipe]) -> None:
    spec = CorpusSpec(train=12, test=8)
    with pytest.raises(CorpusError, match="found task 'emotion', but the starter set answers"):
        corpora.load("starter", spec, [TOPIC, EMOTION])
    alone = corpora.load("starter", spec, [TOPIC])
    assert corpora.load("starter", spec, [EMOTION, TOPIC], asked=True) == alone
    assert bare(corpora.load("starter", spec, [EMOTION], asked=True)).examples == alone.examples

    plan = recipe(STARTER)
    asking.ask(plan, QUIET, teachers=functions(plan))
    found = material.gather(plan)
    own = len(alone.replies) // 20
    assert {v.votes + v.unread for v in found["starter", "on_topic"].verdicts.values()} == {own + 1}
    assert {v.votes for v in found["starter", "emotion"].verdicts.values()} == {1}
    assert len(found["starter", "emotion"].verdicts) == 20


@pytest.mark.parametrize("loader", sorted({*RELEASES} - {"hh_rlhf", "chatbot_arena"}))
def test_no_release_refuses_a_task_where_teachers_are_asked(loader: str, tmp_path: Path) -> None:
    # It comes as far as looking for the files.
    with pytest.raises(CorpusError, match=r"no such (file or )?folder|found neither"):
        corpora.load(loader, CorpusSpec(path=str(tmp_path / "gone")), [SAME, TOPIC], asked=True)


def tweets(folder: Path) -> CorpusSpec:
    (folder / "train.txt").write_text("i feel low;sadness\ni fear;fear\ni sing;joy\ni sing;love\n")
    (folder / "test.txt").write_text("i am so;love\ni see;joy\ni see;anger\ni hope;joy\n")
    return CorpusSpec(path=str(folder))


def test_a_release_can_be_asked_anything(tmp_path: Path) -> None:
    spec = tweets(tmp_path)
    with pytest.raises(CorpusError, match="found task 'on_topic', but emotion answers emotion"):
        corpora.load("emotion", spec, [TOPIC])
    own = corpora.load("emotion", spec, [EMOTION])
    assert corpora.load("emotion", spec, [TOPIC, EMOTION, SAME], asked=True) == own
    found = bare(corpora.load("emotion", spec, [TOPIC, SAME], asked=True))
    # "i see" has two labels of its own: no reason not to measure on it by other labels.
    said = Counter((e.turns[0].text, e.split) for e in found.examples)
    assert said == Counter((e.turns[0].text, e.split) for e in own.examples) + Counter(
        {("i see", Split.TEST): 1}
    )
    assert found.notes == ("2 examples repeat another's content and were read as one.",)


def test_a_release_whose_parts_answer_different_tasks(tmp_path: Path) -> None:
    lines = [
        f'Is it true?\\n"Day {n} is hot."\t{"no" if n % 3 else "yes"}\tIt is.\n' for n in range(30)
    ]
    (tmp_path / "creak_train.tsv").write_text("".join(lines))
    yes_no, sense = BUILT_IN["yes_no"], BUILT_IN["against_common_sense"]
    for place in (tmp_path, tmp_path / "creak_train.tsv"):
        spec = CorpusSpec(path=str(place))
        own = corpora.load("flan_cot", spec, [yes_no])
        with pytest.raises(CorpusError, match=r"\(creak\) answers yes_no; drop it"):
            corpora.load("flan_cot", spec, [yes_no, sense])
        assert corpora.load("flan_cot", spec, [sense, yes_no], asked=True) == own
        found = bare(corpora.load("flan_cot", spec, [sense], asked=True))
        assert places(found) == places(own)
        # Where labels are drawn by, those of the task that has some.
        by_label = spec.model_copy(update={"stratify": True})
        own = corpora.load("flan_cot", by_label, [yes_no])
        assert corpora.load("flan_cot", by_label, [sense, yes_no], asked=True) == own


def test_scores_that_do_not_apply_keep_nothing_from_being_asked(tmp_path: Path) -> None:
    aspects = ("helpfulness", "clarity", "factuality", "depth", "engagement")
    judged = [
        {
            "input": f"Why {n}?", "output_cand": f"So {n}", "generator_cand": "x/model.json",
            "eval_config": {"gpt": "gpt-4"},
            "parsed_result": {
                a: {"reason": "r", "score": "N/A" if a == "helpfulness" else "3"} for a in aspects
            },
        }
        for n in range(6)
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(judged))
    spec = CorpusSpec(path=str(tmp_path))
    assert len(bare(corpora.load("just_eval", spec, [TOPIC], asked=True)).examples) == 6


def test_feedbackqa_can_be_asked_anything(tmp_path: Path) -> None:
    def item(question: str, *ratings: str) -> dict[str, Any]:
        reference = {"page_title": "T", "section_headers": [], "section_content": "Text."}
        return {"question": question, "passage": {"reference": reference},
                "rating": list(ratings), "feedback": ["why"] * len(ratings)}  # fmt: skip

    (tmp_path / "WHO").mkdir()
    for part, items in {"train": [item("How?", "Bad")],
                        "test": [item("Who?", "Bad"), item("Whose?", "Bad", "Excellent")]}.items():  # fmt: skip
        (tmp_path / "WHO" / f"feedback_{part}.json").write_text(json.dumps(items))
    spec = CorpusSpec(path=str(tmp_path))
    own = corpora.load("feedbackqa", spec, [BUILT_IN["usefulness"]])
    both = corpora.load("feedbackqa", spec, [TOPIC, BUILT_IN["usefulness"]], asked=True)
    assert both == own
    assert len(own.examples) == 2
    found = bare(corpora.load("feedbackqa", spec, [TOPIC], asked=True))
    assert len(found.examples) == 3
    with pytest.raises(CorpusError, match="but FeedbackQA answers usefulness"):
        corpora.load("feedbackqa", spec, [TOPIC])


def test_a_mixed_corpus_is_made_of_unlabelled_ones_too(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", texts(30))
    columns = Columns(text="text", label=None)
    specs = {
        "mine": CorpusSpec(loader="table", path=str(path), columns=columns, train=20, test=10),
        "starter": CorpusSpec(train=20, test=10),
        "both": CorpusSpec(loader="mixed", of=("mine", "starter"), train=8, test=6),
    }
    found = corpora.load("both", specs["both"], [EMOTION, TOPIC], specs, asked=True)
    assert Counter((e.source, e.split) for e in found.examples) == {
        ("mine", Split.TRAIN): 4, ("starter", Split.TRAIN): 4,
        ("mine", Split.TEST): 3, ("starter", Split.TEST): 3,
    }  # fmt: skip
    ids = {e.id for e in found.examples if e.source == "starter"}
    assert {reply.example_id for reply in found.replies} == ids
    with pytest.raises(CorpusError, match=r"corpora.mine.columns.label: found null"):
        corpora.load("both", specs["both"], [TOPIC], specs)


# What cannot be


def test_a_table_without_labels_needs_somebody_to_ask(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    write(tmp_path / "t.csv", texts(9))
    told = (
        "corpora.mine.columns.label: found null, but nobody is asked for labels; name the table's "
        "label column, or whom to ask under `teachers:`"
    )
    bare_recipe = RECIPE[: RECIPE.index("teachers:")]
    with pytest.raises(CorpusError) as raised:
        material.gather(recipe(bare_recipe, path="t.csv"))
    assert str(raised.value) == told
    # Whoever is recorded has said it elsewhere.
    plan = recipe(bare_recipe + "teachers: {{own: {{api: recorded}}}}\n", path="t.csv")
    assert len(bare(material.read(plan, "mine")[0]).examples) == 9


def test_labels_of_several_tasks_are_refused_with_both_ways_out(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe(RECIPE.replace(", label: null", ""), path="t.csv")
    assert str(raised.value) == (
        "r: tasks: found 2 tasks; say in corpora.mine.task which one its label column answers, or "
        "have teachers answer all of them: set corpora.mine.columns.label to null"
    )
    path = write(tmp_path / "t.csv", rows(9))
    spec = CorpusSpec(loader="table", path=str(path), columns=Columns(text="text"))
    for asked, others in ((True, ", or set corpora.mine.columns.label to null"), (False, "")):
        with pytest.raises(CorpusError) as refused:
            corpora.load("mine", spec, [SAME, TOPIC], asked=asked)
        assert str(refused.value) == (
            "corpora.mine.task: missing; the recipe has the tasks same, on_topic, and a table "
            f"answers one; name it{others}"
        )


@pytest.mark.parametrize("use", ["explanation", "rater"])
def test_without_labels_nobody_explains_or_rates(use: str, recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe(RECIPE.replace("label: null", f"label: null, {use}: who"), path="t.csv")
    assert str(raised.value) == (
        f"r: corpora.mine.columns: found {use}, but no labels (label: null); name the `label` "
        f"column, or drop {use}"
    )


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    for name in FORMATS:
        path = write(tmp_path / name, texts(9))
        with pytest.raises(CorpusError, match=r"column txt: not there \(for text\); found text"):
            load(path, {"text": "txt"})


def test_scores_need_no_label_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{**row, "points": n % 5} for n, row in enumerate(texts(9))])
    found = load(path, {"text": "text", "score": "points", "scale": (0, 4)}, TOPIC)
    assert len(found.replies) == 9


# Votes that are missing


TWO = (
    RECIPE.replace(", why: {{explanation: assessment}}", "")
    + """\
  soul: {{api: python, prompts: [labels, scale-1-4], parameters: {{temperature: 0}}}}
train: {{num_train_epochs: 1}}
predict: {{explanations: 0}}
evidence: {{bootstrap: 100, baselines: [prior]}}
"""
)


def merge(folder: Path, text: str, **names: Any) -> tuple[str, dict[str, Any]]:
    """What the command prints, and its JSON."""
    (folder / "ask.yaml").write_text(text.format(**names), encoding="utf-8")
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["whytune", "merge", "ask.yaml", "--json"])
        patch.chdir(folder)
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 0
    return out.getvalue(), json.loads(out.getvalue().splitlines()[-1])


def test_votes_that_are_missing_are_told(
    tiny_folder: Path, tmp_path: Path, recipe: Callable[..., Recipe],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write(tmp_path / "t.csv", texts(30))
    names = {"path": "t.csv", "model": str(tiny_folder)}
    plan = recipe(TWO, **names)
    untold = [said.unasked for said in material.merged(plan, unasked=True).values()]
    assert untold == [{"mind": 30, "soul": 60}, {"mind": 30, "soul": 30}]
    asking.ask(plan, QUIET, teachers=functions(plan), limit=5)
    printed, found = merge(tmp_path, TWO, **names)
    assert [row["unasked"] for row in found["merged"]] == [
        {"mind": 25, "soul": 50}, {"mind": 25, "soul": 25},
    ]  # fmt: skip
    told = "{}: {} of {} questions were not asked yet; `whytune annotate` asks them"
    assert printed.count(told.format("mind", 25, 30)) == 2
    assert printed.count(told.format("soul", 50, 60)) == 1

    asking.ask(plan, QUIET, teachers=functions(plan))
    printed, found = merge(tmp_path, TWO, **names)
    assert [row["unasked"] for row in found["merged"]] == [{}, {}]
    assert "not asked" not in printed

    # What it said at another temperature is no answer to what it is asked now.
    plan = recipe(TWO.replace("temperature: 0", "temperature: 0.5"), **names)
    topic, mood = check.check(plan, QUIET)
    assert [r for r in topic.remarks if "not asked" in r] == [told.format("soul", 60, 60)]
    assert [r for r in mood.remarks if "not asked" in r] == [told.format("soul", 30, 30)]
    grid.study(plan, tmp_path / "study", Progress())
    lines = [f"mine, on_topic, {told.format('soul', 60, 60)}",
             f"mine, mood, {told.format('soul', 30, 30)}"]  # fmt: skip
    err = " ".join(capsys.readouterr().err.split())
    assert [err.count(line) for line in ("not asked", *lines)] == [2, 1, 1]
    notes = json.loads((tmp_path / "study" / "summary.json").read_text(encoding="utf-8"))["notes"]
    assert [note for note in notes if "not asked" in note] == [f"{line}." for line in lines]
    assert "mine, mood, soul: 30 of 30" in (tmp_path / "study" / "report.html").read_text("utf-8")


# The check


def test_a_check_tells_what_is_there_before_anybody_was_asked(
    tiny_folder: Path, tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    lines = [*texts(30), {"text": "it is DAY 3 of the journey."}, {"text": "It rained."}]
    write(tmp_path / "t.csv", lines)
    plan = recipe(path="t.csv", model=tiny_folder)
    before = check.check(plan, QUIET, tmp_path / "page")
    for found in before:
        assert found.faults == ()
        assert sum(found.parts.values()) == 32
        assert set(found.parts) == {Split.TRAIN, Split.TEST}
        assert (found.health.rows, found.health.repeats) == (32, 1)
        assert sum(found.health.languages.values()) > 0
        assert found.tokens is not None
        assert found.tokens.texts.n == 32
        assert set(found.label_ids) == set(found.labels)
        assert found.remarks[0] == (
            "mind: 32 of 32 questions were not asked yet; `whytune annotate` asks them"
        )
        assert (found.masks, found.loads) == ((), ())
    assert "mind: 32 of 32 questions were not" in (tmp_path / "page" / "check.html").read_text(
        "utf-8"
    )

    asking.ask(plan, QUIET, teachers=functions(plan))
    after = check.check(plan, QUIET, tmp_path / "page")
    for earlier, found in zip(before, after, strict=True):
        assert found.parts == earlier.parts
        assert sum(found.labels.values()) == found.parts[Split.TRAIN]
        assert sum(found.held_out.values()) == found.parts[Split.TEST]
        assert found.masks
        assert not any("not asked" in remark for remark in found.remarks)


def test_a_check_of_recorded_replies_says_who_was_not_asked(
    tiny_folder: Path, recipe: Callable[..., Recipe]
) -> None:
    plan = recipe(STARTER, model=tiny_folder)
    topic, emotion = check.check(plan, QUIET)
    assert sum(topic.labels.values()) == 12
    assert not sum(emotion.labels.values())
    assert all("mind: 20 of 20" in found.remarks[0] for found in (topic, emotion))
    # A merger has no vote, so that its name stands behind none.
    merging = STARTER.replace("prompts: [labels]", "prompts: []") + "merger: mind\n"
    for found in check.check(recipe(merging, model=tiny_folder), QUIET):
        assert not any("not asked" in remark for remark in found.remarks)
