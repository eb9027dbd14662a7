"""What `whytune merge` leaves, against other implementations, brute force and hand-worked cases."""

import contextlib
import csv
import io
import itertools
import json
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest

from whytune import cli, corpora, recipe_file
from whytune.corpora import Corpus
from whytune.errors import TeachingError
from whytune.material import Material
from whytune.recipe_data import Columns, CorpusSpec
from whytune.records import (
    Annotation,
    Example,
    Kind,
    Label,
    Outcome,
    Reference,
    Reply,
    Split,
    Task,
    Turn,
)
from whytune.study import merging, merging_tables
from whytune.tasks import BUILT_IN
from whytune.teaching import golden, merge, methods, reliability, replies, review
from whytune.teaching.agreement import Difference, Units
from whytune.teaching.methods import Method
from whytune.teaching.ratings import tabulate

TOPIC = BUILT_IN["on_topic"]
MOOD = Task(
    name="mood", kind=Kind.NOMINAL, question="?",
    labels=(Label(name="joy"), Label(name="fear"), Label(name="calm")),
)  # fmt: skip
RECIPE = """
name: small
model: nowhere
corpora: {starter: {train: 60, test: 30}}
tasks: [naturalness, on_topic]
arms: {label: {explanation: none}}
evidence: {bootstrap: 100}
"""


def vote(
    teacher: str, value: float | str | None, example: str = "e", task: Task = TOPIC,
    prompt: str = "p", why: str | None = None, sure: str | None = None, reply: str = "raw",
) -> Annotation:  # fmt: skip
    """A number is a score, a text a label, None an unreadable reply."""
    return Annotation(
        example_id=example, task=task.name, teacher=teacher, prompt=prompt, reply=reply,
        outcome=Outcome.UNREADABLE if value is None else Outcome.READ,
        score=value if isinstance(value, float) else None,
        label=task.nearest(value) if isinstance(value, float) else value,
        assessment=why, confidence=sure,
    )  # fmt: skip


def example(name: str, *turns: tuple[str, str], **more: Any) -> Example:
    said = turns or (("user", f"{name}?"), ("assistant", f"{name}!"))
    made = tuple(Turn(role=role, text=text) for role, text in said)
    return Example(id=name, source="s", group=name, turns=made, **more)


def material(
    votes: list[Annotation],
    examples: list[Example],
    task: Task = TOPIC,
    came: tuple[Reply, ...] = (),
) -> Material:
    """As `gather` makes it, without lessons."""
    verdicts = {v.example_id: v for v in merge.merge(votes, task, 0)}
    return Material(
        corpus=Corpus(name="mine", examples=tuple(examples), replies=came), task=task,
        annotations=tuple(votes), verdicts=verdicts, arms={}, told=(), dropped={},
        references={}, reference="none",
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


# The recipe's words


def test_what_the_recipes_word_means_for_each_kind() -> None:
    found = {
        word: (methods.of_recipe(word, TOPIC), methods.of_recipe(word, MOOD))
        for word in ("average", "median", "most-frequent", "reliability", "merger")
    }
    assert found == {
        "average": (Method.AVERAGE, Method.MOST_FREQUENT),
        "median": (Method.MEDIAN, Method.MOST_FREQUENT),
        "most-frequent": (Method.MOST_FREQUENT, Method.MOST_FREQUENT),
        "reliability": (Method.SEVERITY, Method.DAWID_SKENE),
        "merger": (Method.AVERAGE, Method.MOST_FREQUENT),
    }
    for task in (TOPIC, MOOD):
        assert {of[task is MOOD] for of in found.values()} <= set(methods.fitting(task))


# Who explains


def test_a_speaker_explains_in_place_of_the_chosen_vote() -> None:
    votes = [vote("a", 0.5, "e1", why="chosen"), vote("a", 0.5, "e2", why="own"),
             vote("a", 0.5, "e3", why="mine")]  # fmt: skip
    speakers = {
        "e1": vote("m", 0.5, "e1", why=" all\ntogether "),
        "e2": vote("m", None, "e2"),
        "e3": vote("m", 0.5, "e3"),
        "elsewhere": vote("m", 0.0, "elsewhere", why="nobody asked"),
    }
    found = merge.merge(votes, TOPIC, 0, speakers=speakers)
    assert [v.assessment for v in found] == ["all together", "own", "mine"]
    plain = merge.merge(votes, TOPIC, 0)
    assert [(v.label, v.score, v.votes) for v in found] == [
        (v.label, v.score, v.votes) for v in plain
    ]


def test_the_reason_for_another_label_is_refused() -> None:
    speakers = {"e": vote("m", 1.0, why="perfect")}
    with pytest.raises(TeachingError, match="found m's explanation of label 5 of task on_topic, "
                                            "but the verdict is 3; ask for the reason"):  # fmt: skip
        merge.merge([vote("a", 0.5)], TOPIC, 0, speakers=speakers)
    tie = [vote("a", "joy", task=MOOD), vote("b", "fear", task=MOOD)]
    with pytest.raises(TeachingError, match="label joy of task mood, but the verdict is None"):
        merge.merge(tie, MOOD, 0, speakers={"e": vote("m", "joy", task=MOOD, why="y")})


# Agreement


@pytest.mark.parametrize("difference", Difference)
def test_alpha_of_copies_is_alpha_of_units_that_repeat(difference: Difference) -> None:
    draw = np.random.default_rng(3)
    ratings = draw.choice([0.0, 0.25, 1 / 3, 0.5, 1.0], size=(25, 4))
    ratings[draw.random(ratings.shape) < 0.2] = np.nan
    copies = draw.integers(0, 4, size=25)
    level: Any = str(difference)
    expected = krippendorff.alpha(
        reliability_data=np.repeat(ratings, copies, axis=0).T, level_of_measurement=level
    )
    found = Units(ratings, difference).alpha(copies.astype(float))
    assert found == pytest.approx(expected, abs=1e-12)
    assert np.isnan(Units(ratings, difference).alpha(np.zeros(25)))


def test_every_alpha_of_scores_and_labels() -> None:
    draw = np.random.default_rng(0)
    scores = draw.choice([0.0, 1 / 3, 2 / 3, 1.0], size=(40, 3))
    votes = [vote(f"t{r}", float(x), f"e{e}") for (e, r), x in np.ndenumerate(scores)]
    found = reliability.alphas(tabulate(votes, TOPIC), draws=100)
    codes = np.round(scores * 4)  # thirds are nearest to the second and the fourth label
    for difference, values in [("interval", scores), ("ordinal", scores), ("nominal", codes)]:
        level: Any = difference
        expected = krippendorff.alpha(reliability_data=values.T, level_of_measurement=level)
        estimate = found[Difference(difference)]
        assert estimate.value == pytest.approx(expected)
        assert estimate.low < estimate.value < estimate.high
    moods = [vote("a", "joy", "x", MOOD), vote("b", "fear", "x", MOOD)]
    assert list(reliability.alphas(tabulate(moods, MOOD), draws=100)) == [Difference.NOMINAL]


# What is measured against what


def known(label: str) -> dict[str, Reference]:
    return {TOPIC.name: Reference(label=label)}


def test_peoples_word_is_not_measured_against_itself() -> None:
    examples = [example("e1", gold=known("5"), split=Split.TEST),
                example("e2", gold=known("1"), split=Split.TEST),
                example("e3", split=Split.TRAIN)]  # fmt: skip
    said = {
        (who, e): label for who in ("ann", "bob", "cy") for e, label in (("e1", "5"), ("e2", "1"))
    }
    came = tuple(
        Reply(example_id=e, task=TOPIC.name, teacher=t, prompt="people",
              text=json.dumps({"label": label})) for (t, e), label in said.items()
    )  # fmt: skip
    people = replies.read_all(came, [TOPIC])
    models = [
        vote("m", 0.75, "e1"), vote("n", 1.0, "e1"), vote("m", 0.5, "e2"), vote("n", None, "e2"),
        vote("m", 0.0, "e3"), vote("n", 0.0, "e3"),
    ]  # fmt: skip
    # People alone: each against the other.
    against, found = merging_tables.table_two(material(people, examples, came=came), merger=False)
    assert (against, {row["judge"] for row in found if row["kind"] == "prompt"}) == (
        "others", {"people"},
    )  # fmt: skip
    # Models against people: errors 0.25, 0 and 0.5; the means 0.125 and 0.5.
    for votes in (models, [*people, *models]):
        own = material(votes, examples, came=came)
        against, found = merging_tables.table_two(own, merger=True)
        assert against == "gold"
        by_judge = {row["judge"]: row for row in found}
        assert by_judge["p"]["mae"] == pytest.approx(0.25)
        assert (by_judge["p"]["n"], by_judge["p"]["missing"]) == (3, 1)
        assert by_judge["average"]["mse"] == pytest.approx((0.125**2 + 0.5**2) / 2)
        # A model that read what people said is not measured against it.
        assert ("merger" in by_judge) == (votes is models)
    independent = merging_tables.independent(material(models, examples, came=came))
    assert independent["effective_of"] == "errors"
    assert merging_tables.independent(material(people, examples))["effective_of"] == "errors"
    assert merging_tables.independent(material(models, examples[2:]))["effective_of"] == "scores"
    assert merging_tables.table_two(material([vote("m", 0.0, "e3")], examples), merger=False) == (
        None, [],
    )  # fmt: skip


def test_a_teacher_who_never_could_be_read_is_missing_not_fatal() -> None:
    votes = [vote("a", 0.5, "e1"), vote("b", 0.5, "e1"), vote("broken", None, "e1", prompt="q")]
    found = {row["judge"]: row for row in golden.held_out(votes, [TOPIC])}
    assert (found["q"]["on_topic_n"], found["q"]["on_topic_missing"]) == (0, 1)
    assert methods.decide({"e1": votes[2:]}, TOPIC, Method.SEVERITY) == {}
    broken = merging_tables.raters(material(votes, []), tabulate(votes, TOPIC))[2]
    assert (broken["rater"], broken["votes"], broken["unread"]) == ("broken / q", 0, 1)
    assert (broken["severity"], broken["weight"]) == (None, None)


def test_what_every_method_gives_and_drops() -> None:
    votes = [
        vote("a", "joy", "tie", MOOD), vote("b", "fear", "tie", MOOD), vote("c", None, "tie", MOOD),
        vote("a", "joy", "one", MOOD), vote("b", "joy", "one", MOOD), vote("c", "joy", "one", MOOD),
        vote("c", None, "none", MOOD),
    ]  # fmt: skip
    found = merging_tables.every_method(material(votes, [], MOOD), "most-frequent")
    assert list(found) == ["most-frequent", "dawid-skene"]
    assert found["most-frequent"] == {
        "labels": {"joy": 1, "fear": 0, "calm": 0},
        "dropped": {"no vote": 1, "tie": 1, "unread replies": 2},
    }
    assert found["dawid-skene"]["labels"]["joy"] >= 1
    decided = merging_tables.every_method(material(votes, [], MOOD), "merger")
    assert decided["merger"]["dropped"] == {
        "no merged reply": 1, "no vote": 1, "unread replies": 2,
    }  # fmt: skip
    accuracy = {r["rater"]: r["accuracy"]
                for r in merging_tables.raters(material(votes, [], MOOD), tabulate(votes, MOOD))}  # fmt: skip
    assert accuracy["a / p"] > 0.9


def test_pairs_are_of_those_with_the_most_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging_tables, "MOST_PAIRED", 2)
    votes = [vote(t, 0.5, f"e{i}") for t, n in (("a", 1), ("b", 2), ("c", 3)) for i in range(n)]
    found = merging_tables.pairs(tabulate(votes, TOPIC))
    assert [(row["rater"], row["other"], row["n"]) for row in found] == [
        ("b / p", "b / p", 2), ("b / p", "c / p", 2), ("c / p", "b / p", 2), ("c / p", "c / p", 3),
    ]  # fmt: skip


# A sheet for people

MAPPED = Columns(
    id="example_id",
    turns="turns",
    label="label",
    explanation="comment",
    group="group",
    split="split",
)
HOSTILE = ('=HYPERLINK("http://x.example","open")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1",
           "＝1+1")  # fmt: skip


@pytest.fixture
def reviewed(tmp_path: Path) -> Callable[[str], Path]:
    """A sheet that a person has filled in with a spreadsheet: every second row, as plain UTF-8."""

    def fill(sheet: str) -> Path:
        read = list(csv.DictReader(io.StringIO(sheet, newline="")))
        for number, row in enumerate(read):
            if number % 2 == 0:
                row |= {"label": str(1 + number // 2 % 5), "comment": f"I read it, {number}"}
        path = tmp_path / "reviewed.csv"
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(read[0]))
            writer.writeheader()
            writer.writerows(read)
        return path

    return fill


def load(path: Path, columns: Columns, train: int | None = 0) -> Corpus:
    spec = CorpusSpec(loader="table", path=str(path), columns=columns, train=train)
    return corpora.load("people", spec, [TOPIC])


def test_a_sheet_that_was_filled_in_is_a_corpus(reviewed: Callable[[str], Path]) -> None:
    talks = [
        (("user", f"Which bus, {i}?"), ("assistant", f"The 12,\r\nor “{i}”; ask\t\u2028{text}"))
        for i, text in enumerate(HOSTILE)
    ]
    examples = [example(f"e{i}", *turns, split=Split.TEST) for i, turns in enumerate(talks)]
    examples += [
        example(f"x{i}", ("text", text), split=Split.TEST) for i, text in enumerate(HOSTILE)
    ]
    votes = [vote(t, x, e.id) for e in examples for t, x in (("a", 0.0), ("b", 0.5))]
    path = reviewed(review.sheet(votes, examples, TOPIC))
    found = load(path, MAPPED)
    assert len(found.examples) == len(examples) / 2
    assert any("without a label" in note and "7" in note for note in found.notes)
    originals = {e.id: e.turns for e in examples}
    labels = {row["example_id"]: row["label"] for row in rows(path)}
    for one in found.examples:
        assert one.turns == originals[one.id]
        assert one.gold[TOPIC.name].label == labels[one.id]
    (said,) = {a.assessment for a in replies.read_all(found.replies[:1], [TOPIC])}
    assert said is not None
    assert said.startswith("I read it, ")
    # By its text: what stands in the cell is what is read, apostrophes included.
    texts = {row["example_id"]: row["text"] for row in rows(path)}
    plain = load(path, MAPPED.model_copy(update={"turns": None, "text": "text"}))
    for one in plain.examples:
        assert [turn.text for turn in one.turns] == [texts[one.id]]
        whole = "\n".join(f"{turn.role}: {turn.text}" for turn in originals[one.id])
        single = originals[one.id][0].text
        assert texts[one.id] == (f"'{single}" if one.id.startswith("x") else whole)


def test_several_reviewers_are_raters_of_a_table(tmp_path: Path) -> None:
    examples = [example(f"e{i}", split=Split.TEST) for i in range(4)]
    votes = [vote(t, x, e.id) for e in examples for t, x in (("a", 0.0), ("b", 0.5))]
    sheet = list(csv.DictReader(io.StringIO(review.sheet(votes, examples, TOPIC), newline="")))
    path = tmp_path / "both.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*sheet[0], "who"])
        writer.writeheader()
        for who, label in (("ann", "4"), ("bob", "4")):
            writer.writerows({**row, "label": label, "who": who} for row in sheet)
    found = load(path, MAPPED.model_copy(update={"rater": "who"}))
    assert {reply.teacher for reply in found.replies} == {"ann", "bob"}
    assert len(found.replies) == 2 * len(found.examples) == 8


def test_no_cell_is_run_by_a_spreadsheet() -> None:
    examples = [example(f"{text}{i}", ("text", text)) for i, text in enumerate(HOSTILE)]
    votes = [
        vote(teacher, value, e.id, why=text) for e, text in zip(examples, HOSTILE, strict=True)
        for teacher, value in (("=cmd", 0.0), ("b", 1.0))
    ]  # fmt: skip
    sheet = review.sheet(votes, examples, TOPIC)
    cells = list(itertools.chain.from_iterable(csv.reader(io.StringIO(sheet, newline=""))))
    assert len(cells) == 8 * 13
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))]
    for text in HOSTILE:
        # A carriage return in what a rater said is no longer one.
        times = 1 if text.startswith("\r") else 3
        assert cells.count(f"'{text}") == times, "the text, and what two raters said of it"
    assert "'=cmd / p score" in cells[:13]


def test_no_rater_steers_the_terminal_that_shows_a_sheet() -> None:
    controls = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) == "Cc"]
    odd = f"|{'|'.join(controls)}|\r\n|é"
    shown = "|" + "|".join(c if c in "\t\n" else "\ufffd" for c in controls) + "|\n|é"
    (spoken,) = examples = [example("e", ("text", odd))]
    votes = [vote("a", 0.0, why=odd, prompt="p\x1b"), vote("b", 1.0, why="well")]
    (row,) = csv.DictReader(io.StringIO(review.sheet(votes, examples, TOPIC), newline=""))
    assert row["a / p\ufffd assessment"] == shown
    assert row["b / p assessment"] == "well"
    assert json.loads(row["turns"]) == [{"role": "text", "text": spoken.turns[0].text}]


def test_a_sheet_shows_the_worst_first_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "REVIEWED", 2)
    examples = [example(f"e{i}") for i in range(3)]
    votes = [vote(t, i / 4 * (t == "b"), f"e{i}") for i in range(3) for t in ("a", "b")]
    found = list(csv.DictReader(io.StringIO(review.sheet(votes, examples, TOPIC), newline="")))
    assert [row["example_id"] for row in found] == ["e2", "e1"]
    assert list(found[0])[:6] == ["example_id", "task", "disagreement", "text", "label", "comment"]
    assert review.sheet(votes[:1], examples, TOPIC) == ""


def test_what_people_wrote_is_not_written_over(
    reviewed: Callable[[str], Path], tmp_path: Path
) -> None:
    examples = [example("e1", ("user", "long " * 50_000)), example("e2")]
    votes = [vote(t, 0.5, e.id) for e in examples for t in ("a", "b")]
    plan = recipe_file.parse(RECIPE, place="r.yaml")
    materials = {("mine", TOPIC.name): material(votes, examples)}
    (first,) = merging.write(tmp_path, plan, materials)
    sheet = Path(first["tables"]["review"])
    before = sheet.read_bytes()
    (second,) = merging.write(tmp_path, plan, materials)
    assert (second["review_kept"], sheet.read_bytes()) == (False, before)
    filled = reviewed(before.decode("utf-8-sig")).read_bytes()
    for touched in (filled, before.replace(b",", b";"), "é".encode("latin-1")):
        sheet.write_bytes(touched)
        (third,) = merging.write(tmp_path, plan, materials)
        assert (third["review_kept"], sheet.read_bytes()) == (True, touched)


# The command


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """The study folder, what was printed, and the JSON."""
    folder = tmp_path_factory.mktemp("merged")
    (folder / "r.yaml").write_text(RECIPE, encoding="utf-8")
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["whytune", "merge", "r.yaml", "--json"])
        patch.chdir(folder)
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 0
    return folder, out.getvalue(), json.loads(out.getvalue().splitlines()[-1])


def test_the_command_leaves_what_it_names(merged: tuple[Path, str, dict[str, Any]]) -> None:
    folder, printed, told = merged
    assert [(m["corpus"], m["task"]) for m in told["merged"]] == [
        ("starter", "naturalness"), ("starter", "on_topic"),
    ]  # fmt: skip
    for one in told["merged"]:
        assert one["method"] == one["merge"] == "average"
        assert (one["examples"], one["votes"], one["raters"], one["dropped"]) == (90, 1080, 12, {})
        assert one["teachers"] == ["teacher-a", "teacher-b", "teacher-c"]
        assert one["alpha"] == one["alphas"]["interval"]["value"]
        assert set(one["tables"]) == {*merging.TABLES, "review"}
        for path in (one["verdicts"], *one["tables"].values()):
            assert (folder / path).stat().st_size > 0
        assert f"starter, {one['task']}: merged by average" in printed
        verdicts = (folder / one["verdicts"]).read_text(encoding="utf-8").splitlines()
        assert len(verdicts) == 90 == sum(one["methods"]["average"]["labels"].values())
    for who in ("12 raters (a teacher with a prompt)", "3 teachers"):
        assert printed.count(f"  shared errors: {who} count for at least 1.0") == 2


def test_the_tables_say_what_the_functions_say(merged: tuple[Path, str, dict[str, Any]]) -> None:
    folder = merged[0]
    tables = {name: rows(folder / "studies" / "small" / "tables" / f"{name}.csv")
              for name in merging.TABLES}  # fmt: skip
    tasks = [BUILT_IN["naturalness"], TOPIC]
    plan = recipe_file.load(folder / "r.yaml", ())
    corpus = corpora.load("starter", plan.corpora["starter"], tasks)
    annotations = replies.read_all(corpus.replies, tasks)

    # Against "all others within one step", by brute force: one prompt, one task.
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for a in annotations:
        if a.task == TOPIC.name and a.score is not None:
            scores.setdefault((a.example_id, a.teacher), {})[a.prompt] = a.score
    errors = []
    for (name, teacher), own in scores.items():
        rest = [x for (e, t), said in scores.items() if e == name and t != teacher
                for x in said.values()]  # fmt: skip
        labels = [int(TOPIC.nearest(x)) for x in rest]
        if max(labels) - min(labels) <= 1:
            errors.append(abs(own["scale-1-4"] - sum(rest) / len(rest)))
    first = tables["golden"][0]
    assert (first["judge"], first["against"], first["kind"]) == ("scale-1-4", "others", "prompt")
    assert float(first["on_topic_mae"]) == pytest.approx(sum(errors) / len(errors))
    assert int(first["on_topic_n"]) == len(errors)
    whole = golden.held_out(annotations, tasks)
    assert [r["judge"] for r in tables["golden"]] == [r["judge"] for r in whole]
    for row, expected in zip(tables["golden"], whole, strict=True):
        for key in set(expected) - {"judge", "kind"}:
            assert float(row[key]) == pytest.approx(expected[key])

    row = tables["agreement"][1]
    ratings = tabulate(annotations, TOPIC)
    level: Any
    for level, values in (("interval", ratings.scores), ("ordinal", ratings.scores),
                          ("nominal", ratings.codes)):  # fmt: skip
        alpha = krippendorff.alpha(reliability_data=values.T, level_of_measurement=level)
        assert float(row[f"alpha_{level}"]) == pytest.approx(alpha)
        assert float(row[f"alpha_{level}_low"]) < alpha < float(row[f"alpha_{level}_high"])
    assert (row["teachers"], row["raters"], row["unreadable"]) == ("3", "12", "0")

    raters = [row for row in tables["raters"] if row["task"] == "on_topic"]
    assert len(raters) == 12
    assert sum(float(row["weight"]) for row in raters) == pytest.approx(1)
    assert sum(int(row["votes"]) for row in raters) == 1080
    pairs = [row for row in tables["pairs"] if row["task"] == "on_topic"]
    assert len(pairs) == 144
    assert {row["n"] for row in pairs} == {"90"}
    for judge in ("verdict", raters[0]["rater"]):
        own_scores = [row for row in tables["scores"]
                      if (row["task"], row["rater"]) == ("on_topic", judge)]  # fmt: skip
        assert sum(int(row["n"]) for row in own_scores) == 90
        assert sum(float(row["share"]) for row in own_scores) == pytest.approx(1)
    counted = [row for row in tables["methods"] if row["kind"] == "label"]
    assert sum(int(row["n"]) for row in counted) == 2 * 4 * 90


def test_the_sheet_of_the_command_is_a_corpus(
    merged: tuple[Path, str, dict[str, Any]], reviewed: Callable[[str], Path]
) -> None:
    path = merged[0] / merged[2]["merged"][1]["tables"]["review"]
    assert path.read_bytes().startswith(b"\xef\xbb\xbfexample_id,")
    assert len(rows(path)) == 90
    filled = reviewed(path.read_bytes().decode("utf-8-sig"))
    found = load(filled, MAPPED, train=None)
    assert len(found.examples) == 45
    plan = recipe_file.load(merged[0] / "r.yaml", ())
    starter = corpora.load("starter", plan.corpora["starter"], [TOPIC])
    originals = {one.id: (one.turns, one.group, one.split) for one in starter.examples}
    assert all((x.turns, x.group, x.split) == originals[x.id] for x in found.examples)


TABLE = """
name: texts
model: nowhere
corpora:
  mine: {{loader: table, path: data.csv, columns: {{text: text, label: mood, rater: who}}, {parts}}}
tasks: [{{name: mood, question: 'Which mood?', labels: [sad, glad]}}]
arms: {{label: {{explanation: none}}}}
evidence: {{bootstrap: 100}}
"""


def ended(folder: Path, recipe: str) -> tuple[int, str, str]:
    (folder / "r.yaml").write_text(recipe, encoding="utf-8")
    moods = ("sad", "sad", "glad"), ("glad", "glad", "glad"), ("sad", "sad", "sad")
    lines = [f"It is {i}.,{mood},{who}" for i, own in enumerate(moods)
             for who, mood in zip("abc", own, strict=True)]  # fmt: skip
    (folder / "data.csv").write_text("\n".join(["text,mood,who", *lines, ""]), encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["whytune", "merge", "r.yaml", "--set", "merge=reliability"])
        patch.chdir(folder)
        with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code, out.getvalue(), err.getvalue()


def test_what_is_only_measured_on_is_merged_too(tmp_path: Path) -> None:
    code, out, err = ended(tmp_path, TABLE.format(parts="train: 0, test: 2"))
    assert (code, err) == (0, "")
    assert "mine, mood: merged by reliability (dawid-skene)" in out
    (sheet,) = (tmp_path / "studies" / "texts" / "review").iterdir()
    assert len(rows(sheet)) == 2


def test_without_any_reply_there_is_nothing_to_merge() -> None:
    silent = material([vote("a", 0.5)], [])
    asked = {("mine", TOPIC.name): silent, ("other", TOPIC.name): replace(silent, annotations=())}
    assert list(merging.answered(asked)) == [("mine", TOPIC.name)]
    with pytest.raises(
        TeachingError, match="corpora other: found no replies to any task, expected"
    ):
        merging.answered({key: asked[key] for key in asked if key[0] == "other"})
