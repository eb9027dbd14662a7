"""Labelled corpora: small files in upstream's formats, and the real ones where they are."""

import csv
import gzip
import importlib
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whytune.corpora.corpus import Item
from whytune.corpora.identity import normal
from whytune.corpora.ledger import Ledger
from whytune.corpora.raters import as_one
from whytune.corpora.upstream import (
    emotion,
    esnli,
    flan_cot,
    goemotions,
    golden_dailydialog,
    golden_fed,
    golden_haluquestqa,
    golden_tianboji,
    golden_topical_usr,
    just_eval,
    liar_plus,
    ray_llm,
)
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Annotation, Kind, Outcome, Split, Task
from whytune.tasks import BUILT_IN
from whytune.teaching import replies

LOADERS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        emotion, esnli, flan_cot, goemotions, golden_dailydialog, golden_fed, golden_haluquestqa,
        golden_tianboji, golden_topical_usr, just_eval, liar_plus, ray_llm,
    )
}  # fmt: skip


def read(
    loader: str, path: Path, *names: str, tasks: list[Task] | None = None, **spec: Any
) -> tuple[list[Item], Ledger]:
    ledger = Ledger()
    asked = tasks or [BUILT_IN[name] for name in names or LOADERS[loader].ABOUT.tasks]
    module = importlib.import_module(f"whytune.corpora.upstream.{loader}")
    items = list(module.read("mine", path, asked, CorpusSpec(**spec), ledger))
    assert all(item.example.id.startswith(f"{loader}-") for item in items)
    return items, ledger


def said(item: Item) -> list[Annotation]:
    found = [replies.read(reply, BUILT_IN[reply.task]) for reply in item.replies]
    assert all(annotation.outcome is Outcome.READ for annotation in found)
    assert {annotation.example_id for annotation in found} <= {item.example.id}
    return found


def labels(items: list[Item]) -> list[str | None]:
    return [annotation.label for item in items for annotation in said(item)]


def texts(item: Item) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in item.example.turns]


def reasons(ledger: Ledger) -> list[str]:
    return [row.reason for row in ledger.quarantined]


def write(path: Path, content: str | bytes | Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


# What all of them refuse


@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_answers_built_in_tasks_and_says_what_it_reads(loader: str) -> None:
    about = LOADERS[loader].ABOUT
    assert set(about.tasks) <= set(BUILT_IN)
    assert about.tasks
    assert all((about.title, about.format, about.size, about.licence, about.get, about.citation))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"judged": "each"}, r"corpora.mine.judged: found 'each'"),
        ({"languages": ("English",)}, r"corpora.mine.languages: found English"),
        ({"part": "sideways"}, r"part: found 'sideways', (expected one of|but .* has no parts)"),
        ({}, "no such folder|no such file or folder|found neither"),
    ],
)
def test_what_a_labelled_corpus_cannot_give_is_refused(
    tmp_path: Path, loader: str, spec: dict[str, Any], expected: str
) -> None:
    task = "yes_no" if loader == "flan_cot" else LOADERS[loader].ABOUT.tasks[0]
    with pytest.raises(CorpusError, match=expected):
        read(loader, tmp_path / "gone", task, **spec)


@pytest.mark.parametrize("loader", LOADERS)
def test_foreign_files_and_tasks_are_refused(tmp_path: Path, loader: str) -> None:
    with pytest.raises(CorpusError, match="found task 'usefulness', but"):
        read(loader, tmp_path, "usefulness")
    write(tmp_path / "notes.md", "# notes")
    task = "yes_no" if loader == "flan_cot" else LOADERS[loader].ABOUT.tasks[0]
    with pytest.raises(CorpusError, match=r"found no file of .*; expected "):
        read(loader, tmp_path, task)
    with pytest.raises(CorpusError, match="found a file"):
        read(loader, tmp_path / "notes.md", task)


def test_a_folder_is_no_file_and_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(CorpusError, match=r"found no file of emotion; expected train\.txt, val"):
        read("emotion", tmp_path)
    (tmp_path / "a.json").symlink_to(tmp_path / "gone")
    with pytest.raises(CorpusError, match=r"a\.json: not there"):
        read("just_eval", tmp_path)


def own_task(name: str, *names: str, kind: Kind = Kind.NOMINAL) -> Task:
    label = type(BUILT_IN["emotion"].labels[0])
    return Task(name=name, kind=kind, question="?", labels=tuple(label(name=n) for n in names))


@pytest.mark.parametrize("loader", ["emotion", "esnli", "goemotions", "liar_plus"])
def test_a_task_of_ones_own_must_have_upstreams_labels(tmp_path: Path, loader: str) -> None:
    (name,) = LOADERS[loader].ABOUT.tasks
    with pytest.raises(CorpusError, match=rf"task '{name}' with the labels good, bad, expected "):
        read(loader, tmp_path, tasks=[own_task(name, "good", "bad")])


@pytest.mark.parametrize("loader", ["just_eval", "ray_llm", "golden_fed", "golden_topical_usr"])
def test_scores_need_labels_with_an_order(tmp_path: Path, loader: str) -> None:
    name = LOADERS[loader].ABOUT.tasks[0]
    with pytest.raises(CorpusError, match="labels without an order"):
        read(loader, tmp_path, tasks=[own_task(name, "good", "bad")])


# emotion


def test_emotion_has_a_native_split_and_gold_on_test_only(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "i feel low;sadness\nso it goes; fine;joy\n")
    write(tmp_path / "val.txt.gz", "i feel hot;anger")
    write(tmp_path / "test.txt", "i feel so;love\n")
    items, ledger = read("emotion", tmp_path)
    assert [str(i.example.split) for i in items] == ["train", "train", "validation", "test"]
    assert labels(items) == ["sadness", "joy", "anger", "love"]
    assert texts(items[1]) == [("text", "so it goes; fine")]
    assert [i.example.group for i in items][1] == "so it goes; fine"
    assert [bool(i.example.gold) for i in items] == [False, False, False, True]
    assert items[3].example.gold["emotion"].label == "love"
    assert [i.line for i in items] == [1, 2, 1, 1]
    assert ledger.rows == 4
    assert set(ledger.inputs) == {"train.txt", "val.txt.gz", "test.txt"}
    assert not ledger.notes


def test_a_text_with_two_labels_stays_but_cannot_be_measured_on(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "i feel;joy\ni feel;love\n")
    write(tmp_path / "test.txt", "i see;joy\ni see;anger\ni see;joy\n")
    items, _ = read("emotion", tmp_path)
    assert labels(items) == ["joy", "love", "joy", "anger", "joy"]
    assert len({i.example.id for i in items}) == 2
    merged = as_one(items[2:], [BUILT_IN["emotion"]])
    assert not merged.settled
    assert not merged.example.gold
    assert as_one([items[2], items[4]], [BUILT_IN["emotion"]]).settled


def test_emotion_rows_that_cannot_be_read_are_quarantined(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", b"text;label_name\nno label\n;joy\n\xff;joy\nfine;joy\n\n")
    items, ledger = read("emotion", tmp_path / "train.txt")
    assert len(items) == 1
    assert ledger.rows == 5
    assert [(row.file, row.line) for row in ledger.quarantined] == [
        ("train.txt", 1), ("train.txt", 2), ("train.txt", 3), ("train.txt", 4),
    ]  # fmt: skip
    expected = ("found label 'label_name', expected one of sadness", "no semicolon", "empty turn")
    for reason, part in zip(reasons(ledger), expected, strict=False):
        assert part in reason


one_line = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1)


@given(text=one_line.filter(lambda text: bool(text.strip()) and not text.startswith("\ufeff")))
def test_any_text_of_one_line_comes_back(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("emotion")
    write(folder / "train.txt", f"{text};fear\n")
    items, ledger = read("emotion", folder)
    assert not ledger.quarantined
    assert texts(items[0]) == [("text", text)]


# GoEmotions

NAMES = "\n".join(BUILT_IN["goemotions"].label_names)


def test_goemotions_ends_lines_and_cells_at_newline_and_tab_only(tmp_path: Path) -> None:
    write(tmp_path / "labels.txt", NAMES)
    write(
        tmp_path / "train.tsv",
        '"unclosed [NAME]\t27\te1\nnot\u2028a line, \x85 nor "this"\t0\te2\nboth\t2,14\te3\n',
    )
    write(tmp_path / "dev.tsv", "ok\t4\te4\n")
    write(tmp_path / "test.tsv", "hm \U0001f600\t6\te5")
    items, ledger = read("goemotions", tmp_path)
    assert labels(items) == ["neutral", "admiration", "approval", "confusion"]
    assert [texts(i)[0][1] for i in items[:2]] == [
        '"unclosed [NAME]', 'not\u2028a line, \x85 nor "this"',
    ]  # fmt: skip
    assert [str(i.example.split) for i in items] == ["train", "train", "validation", "test"]
    assert items[-1].example.gold["goemotions"].label == "confusion"
    assert ledger.counts == {goemotions.SEVERAL: 1}
    assert ledger.rows == 5


def test_goemotions_several_labels_are_refused_with_the_reason(tmp_path: Path) -> None:
    for part in ("multi", "multi_label"):
        with pytest.raises(CorpusError, match="a student answers one label"):
            read("goemotions", tmp_path, part=part)


def test_goemotions_label_names_must_be_there_and_right(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "ok\t4\te4\nno\t28\te1\nno\t\te1\nno\t-1\te\nfour\t1\t2\t3\n")
    with pytest.raises(CorpusError, match=r"found neither of labels\.txt, emotions\.txt"):
        read("goemotions", tmp_path)
    write(tmp_path / "emotions.txt", "joy\nanger\n")
    with pytest.raises(CorpusError, match="found 2 names that are not the labels"):
        read("goemotions", tmp_path)
    write(tmp_path / "emotions.txt", NAMES + "\n")
    items, ledger = read("goemotions", tmp_path / "dev.tsv", part="single")
    assert labels(items) == ["approval"]
    assert "found label id '28', expected 0 to 27" in reasons(ledger)[0]
    assert [row.line for row in ledger.quarantined] == [2, 3, 4, 5]


# e-SNLI


def aligned(folder: Path, ending: str, rows: Sequence[tuple[str, ...]]) -> None:
    stems = ("s1", "s2", "labels", "preproc1_expl_1", "preproc1_expl_2", "preproc1_expl_3")
    for stem, column in zip(stems, zip(*rows, strict=True), strict=False):
        end = "" if stem.startswith("preproc1") else "\n"  # upstream's have no last newline
        write(folder / f"{stem}.{ending}", "\n".join(column) + end)


PAIRS = [
    ("A man . ", "A dog . ", "contradiction", "a man is no dog", "", "not both"),
    ("A man . ", "A person . ", "entailment", "a man is a person", "men are people", "yes"),
]


def test_esnli_has_a_reply_for_every_explanation(tmp_path: Path) -> None:
    aligned(tmp_path, "dev", PAIRS)
    aligned(tmp_path, "test", [("Snow . ", "Cold . ", "neutral", "one", "two", "three")])
    items, ledger = read("esnli", tmp_path)
    assert texts(items[0]) == [("premise", "A man ."), ("hypothesis", "A dog .")]
    assert [a.assessment for a in said(items[0])] == ["a man is no dog", "not both"]
    assert [a.teacher for a in said(items[0])] == ["rater-1", "rater-3"]
    assert [a.teacher for a in said(items[1])] == ["rater-1", "rater-2", "rater-3"]
    assert items[0].example.group == items[1].example.group == "a man ."
    # Without a training file the validation file is taught from.
    assert [str(i.example.split) for i in items] == ["train", "train", "test"]
    assert items[2].example.gold["entailment"].label == "neutral"
    assert ledger.notes == (
        "1 validation files are taught from, as no training file is there.",
        "1 explanations are empty and were left out.",
    )
    assert len(ledger.inputs) == 12


def test_esnli_validation_stays_where_there_is_a_training_file(tmp_path: Path) -> None:
    aligned(tmp_path, "dev", PAIRS)
    aligned(tmp_path, "test", PAIRS)
    aligned(tmp_path, "train", [row[:4] for row in PAIRS])
    items, ledger = read("esnli", tmp_path)
    assert Counter(i.example.split for i in items) == dict.fromkeys(Split, 2)
    assert len(items[0].replies) == 1
    assert not any("validation" in note for note in ledger.notes)
    only, _ = read("esnli", tmp_path / "labels.dev")
    assert [i.example.split for i in only] == [Split.VALIDATION] * 2


def test_esnli_files_must_be_aligned(tmp_path: Path) -> None:
    aligned(tmp_path, "dev", PAIRS)
    write(tmp_path / "s2.dev", "A person . \n")
    with pytest.raises(CorpusError, match=r"s2\.dev: ends before line 2"):
        read("esnli", tmp_path)
    (tmp_path / "s2.dev").unlink()
    with pytest.raises(CorpusError, match=r"found no s2\.dev; expected s1\.dev, s2\.dev"):
        read("esnli", tmp_path)


def test_esnli_a_broken_line_moves_no_other_label(tmp_path: Path) -> None:
    third = ("Rain . ", "Wet . ", "entailment", "rain is wet", "it is", "sure")
    aligned(tmp_path, "dev", [*PAIRS, third])
    write(tmp_path / "s1.dev", b"A man . \nA \xff . \nRain . \n")
    write(tmp_path / "labels.dev", "-\nentailment\nentailment\n")
    items, ledger = read("esnli", tmp_path)
    assert [texts(i)[0][1] for i in items] == ["Rain ."]
    assert labels(items) == ["entailment"] * 3
    assert sorted((row.file, row.line) for row in ledger.quarantined) == [
        ("labels.dev", 1), ("s1.dev", 2),
    ]  # fmt: skip
    assert ledger.rows == 3


def test_esnli_an_empty_last_explanation_without_a_newline_is_one(tmp_path: Path) -> None:
    aligned(tmp_path, "dev", [*PAIRS, ("Rain . ", "Wet . ", "entailment", "rain is wet", "", "")])
    assert (tmp_path / "preproc1_expl_3.dev").read_text() == "not both\nyes\n"
    items, ledger = read("esnli", tmp_path)
    assert [len(item.replies) for item in items] == [2, 3, 1]
    assert ledger.counts == {esnli.NO_WHY: 3}
    assert (ledger.rows, ledger.unreadable, len(ledger.inputs)) == (3, 0, 6)
    # With a last newline, or blank lines at every end, it is the same.
    for file in tmp_path.iterdir():
        file.write_text(file.read_text().rstrip("\n") + "\n" * (3 if "expl_3" in file.name else 2))
    again, ledger = read("esnli", tmp_path)
    assert again == items
    assert (ledger.rows, ledger.unreadable) == (3, 0)
    write(tmp_path / "preproc1_expl_1.dev", "")
    with pytest.raises(CorpusError, match=r"preproc1_expl_1\.dev: ends before line 2"):
        read("esnli", tmp_path)
    aligned(tmp_path, "dev", [("A man . ", "A dog . ", "contradiction", "")])
    for more in ("2", "3"):
        (tmp_path / f"preproc1_expl_{more}.dev").unlink()
    (alone,), _ = read("esnli", tmp_path)
    assert [a.assessment for a in said(alone)] == [None]


def test_esnli_a_lost_explanation_is_no_empty_one(tmp_path: Path) -> None:
    aligned(tmp_path, "dev", PAIRS)
    write(tmp_path / "preproc1_expl_1.dev", "a man is a person")
    with pytest.raises(CorpusError, match=r"preproc1_expl_1\.dev: ends before line 2"):
        read("esnli", tmp_path)
    write(tmp_path / "preproc1_expl_1.dev", "a man is no dog\na man is a person\nmore")
    with pytest.raises(CorpusError, match=r"s1\.dev: ends before line 3"):
        read("esnli", tmp_path)


def test_esnli_a_broken_last_line_is_there(tmp_path: Path) -> None:
    aligned(tmp_path, "dev", PAIRS)
    write(tmp_path / "s2.dev", b"A dog . \nA \xff . \n")
    (item,), ledger = read("esnli", tmp_path)
    assert texts(item)[1] == ("hypothesis", "A dog .")
    assert [(row.file, row.line) for row in ledger.quarantined] == [("s2.dev", 2)]


def test_esnli_files_may_be_packed_each_by_itself(tmp_path: Path) -> None:
    aligned(tmp_path, "dev.gz", PAIRS)
    items, _ = read("esnli", tmp_path)
    for stem in ("s1", "preproc1_expl_2"):
        packed = tmp_path / f"{stem}.dev.gz"
        write(tmp_path / f"{stem}.dev", gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert read("esnli", tmp_path)[0] == items


def test_esnli_reads_upstreams_csv(tmp_path: Path) -> None:
    def table(*rows: list[str]) -> str:
        out = io.StringIO()
        csv.writer(out).writerows(rows)
        return out.getvalue()

    head = ["pairID", "gold_label", "Sentence1", "Sentence2", "Explanation_1"]
    train = ["1", "neutral", 'He said "hi".', "He smiled.", "Two\nlines"]
    write(tmp_path / "esnli_train_1.csv", table(head, train, ["2", "neutral", "short"]))
    dev = [*head, "Explanation_2", "Explanation_3"]
    write(tmp_path / "esnli_dev.csv", table(dev, ["3", "entailment", "a", "b", "x", "y", "z"]))
    items, ledger = read("esnli", tmp_path)
    assert [len(i.replies) for i in items] == [1, 3]
    assert said(items[0])[0].assessment == "Two\nlines"
    assert texts(items[0])[0] == ("premise", 'He said "hi".')
    assert [str(i.example.split) for i in items] == ["train", "validation"]
    assert [(row.line, row.reason) for row in ledger.quarantined] == [
        (4, "found 3 cells, expected 5")
    ]
    assert ledger.rows == 3
    write(tmp_path / "esnli_test.csv", table(["pairID", "Sentence1"], ["1", "a"]))
    with pytest.raises(CorpusError, match="expected also Sentence2, gold_label, Explanation_1"):
        read("esnli", tmp_path)


# FLAN's chain-of-thought tables


def test_flan_cot_newlines_are_written_as_backslash_n(tmp_path: Path) -> None:
    write(
        tmp_path / "creak_train.tsv",
        'Is it true?\\n"Ice is hot."\\nOptions:\\n- yes\\n- no\tno\tIt is\u2028cold.\n'
        '"ICE is  hot."\\nIs the above claim true?\tno\tIt melts.\nbroken\tno\n"?"\tmaybe\twhy\n',
    )
    items, ledger = read("flan_cot", tmp_path, "yes_no")
    assert texts(items[0]) == [("text", 'Is it true?\n"Ice is hot."\nOptions:\n- yes\n- no')]
    assert [a.assessment for i in items for a in said(i)] == ["It is\u2028cold.", "It melts."]
    assert [i.example.group for i in items] == ["ice is hot.", "ice is hot."]
    assert [i.example.split for i in items] == [None, None]
    assert all(i.example.gold["yes_no"].label == "no" for i in items)
    assert items[0].example.source == "creak"
    assert [row.line for row in ledger.quarantined] == [3, 4]


def test_flan_cot_sentences_stand_together_whatever_the_wording(tmp_path: Path) -> None:
    options = '\\nOptions:\\n- Sentence A: "A"\\n- Sentence B: "B"\\n'
    rows = [f"{ask}{options}\tSentence B\twhy\n" for ask in ("Which is odd?", "Pick one.")]
    write(tmp_path / "sensemaking_train.tsv", "".join(rows))
    for path in (tmp_path / "sensemaking_train.tsv", tmp_path):
        part = "sensemaking" if path == tmp_path else None
        items, _ = read("flan_cot", path, "against_common_sense", part=part)
        assert labels(items) == ["Sentence B", "Sentence B"]
        assert len({i.example.group for i in items}) == 1
        assert len({i.example.id for i in items}) == 2
    with pytest.raises(CorpusError, match=r"\(sensemaking\) answers against_common_sense"):
        read("flan_cot", tmp_path, "yes_no", part="sensemaking")


def test_flan_cot_a_quotation_in_a_question_is_not_the_question(tmp_path: Path) -> None:
    write(tmp_path / "strategyqa_train.tsv", 'Is "it" red?\tyes\ta\nIs "it" blue?\tno\tb\n')
    items, _ = read("flan_cot", tmp_path, "yes_no", part="strategyqa")
    assert [i.example.group for i in items] == ['is "it" red?', 'is "it" blue?']


@pytest.mark.parametrize("table", ["gsm8k", "ecqa", "aqua", "qasc"])
def test_flan_cot_open_answers_are_no_labels(tmp_path: Path, table: str) -> None:
    write(tmp_path / f"{table}_train.tsv", "How many?\t7\tbecause\n")
    for path, part in ((tmp_path, table), (tmp_path / f"{table}_train.tsv", None)):
        with pytest.raises(CorpusError, match=f"{table}.*answers differ from question to question"):
            read("flan_cot", path, "yes_no", part=part)


# LIAR-PLUS


def statement(claim: str, label: str, why: str | None, **more: Any) -> str:
    row = {"claim": claim, "label": label, "justification": why, "party": "Texas", **more}
    return json.dumps({key: value for key, value in row.items() if value is not ...}) + "\n"


def test_liar_plus_is_ordinal_and_keeps_labels_without_a_why(tmp_path: Path) -> None:
    rows = [
        statement("A", "pants-fire", "Not so.\n", topics=["jobs", "taxes"]),
        statement("B", "half-true", ""),
        statement("C", "true", None),
    ]
    write(tmp_path / "train2.jsonl", "".join(rows))
    write(tmp_path / "val2.jsonl", statement("D", "false", "No."))
    write(tmp_path / "test2.jsonl", statement("E", "mostly-true", "Nearly."))
    items, ledger = read("liar_plus", tmp_path)
    assert [a.assessment for i in items[:3] for a in said(i)] == ["Not so.", None, None]
    assert [a.score for a in said(items[0])] == [0.0]
    assert [i.example.source for i in items[:2]] == ["jobs", "no topic"]
    assert items[4].example.gold["truthfulness"].score == pytest.approx(0.8)
    assert [str(i.example.split) for i in items[2:]] == ["train", "validation", "test"]
    assert ledger.counts == {liar_plus.NO_WHY: 2}


def test_liar_plus_rows_that_cannot_be_read(tmp_path: Path) -> None:
    rows = [
        statement("A", "maybe", "x"), statement("", "true", "x"), '{"claim": \n', "[1]\n",
        statement("B\ud800", "true", "x"), statement("C", "true", 3),  # type: ignore[arg-type]
    ]  # fmt: skip
    write(tmp_path / "test2.jsonl", "".join(rows))
    items, ledger = read("liar_plus", tmp_path)
    assert not items
    assert ledger.rows == 6
    expected = (
        "found label 'maybe'", "found `claim` ''", "not JSON", "found list",
        "half a surrogate pair", "found `justification` 3",
    )  # fmt: skip
    for reason, part in zip(reasons(ledger), expected, strict=True):
        assert part in reason


# just-eval


def judged(text: str, **scores: Any) -> dict[str, Any]:
    return {
        "input": text,
        "output_cand": f"Answer to {text}",
        "generator_cand": "just_results//gpt-3.5-turbo-0301.json",
        "eval_config": {"mode": "score_multi", "gpt": "gpt-4-1106-preview"},
        "parsed_result": {
            aspect: {"reason": f"for {aspect}", "score": score} for aspect, score in scores.items()
        },
    }


ALL = {"helpfulness": "5", "clarity": "4", "factuality": "N/A", "depth": "1", "engagement": "3"}


def test_just_eval_scores_are_texts_and_not_applicable_is_no_label(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [judged("Why?", **ALL), judged("why?", **{**ALL, "depth": "2"})])
    write(tmp_path / "b.json", [judged("Kill?", safety="5")])
    items, ledger = read("just_eval", tmp_path)
    assert labels(items[:1]) == ["5", "4", "1", "3"]
    assert [a.score for a in said(items[0])] == [1.0, 0.75, 0.0, 0.5]
    assert said(items[0])[2].assessment == "for depth"
    assert {a.teacher for a in said(items[0])} == {"gpt-4-1106-preview"}
    assert items[0].example.group == items[1].example.group
    assert items[0].example.source == "gpt-3.5-turbo-0301"
    assert not items[0].example.gold
    assert ledger.counts == {just_eval.SAFETY: 1, just_eval.NOT_APPLICABLE: 2}
    alone, ledger = read("just_eval", tmp_path, "factuality")
    assert not alone
    assert ledger.counts[just_eval.UNSCORED] == 2


def test_just_eval_items_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    rows = [
        judged("a", **{**ALL, "depth": "6"}), judged("b", **{**ALL, "depth": "good"}),
        judged("c", helpfulness="5"), {**judged("d", **ALL), "parsed_result": None}, 7,
        judged("", **ALL), judged("f", **{**ALL, "depth": True}), judged("g", **ALL),
    ]  # fmt: skip
    write(tmp_path / "a.json", rows)
    items, ledger = read("just_eval", tmp_path)
    assert len(items) == 1
    assert [r.split(":")[0] for r in reasons(ledger)] == [f"item {n}" for n in range(1, 8)]
    assert "found score '6', expected a number from 1 to 5" in reasons(ledger)[0]
    write(tmp_path / "a.json", {"rows": []})
    with pytest.raises(CorpusError, match="found dict, expected a list"):
        read("just_eval", tmp_path)


# Ray's assistant


def result(question: str, answer: str, score: Any, **more: Any) -> dict[str, Any]:
    return {
        "question": question, "generated_answer": answer, "reference_answer": "The truth.",
        "score": score, "reasoning": f"worth {score}", "sources": [], **more,
    }  # fmt: skip


def evaluation(judge: str, *results: dict[str, Any]) -> dict[str, Any]:
    return {"config": {"evaluator": judge}, "results": list(results)}


def test_ray_llm_halves_references_and_groups(tmp_path: Path) -> None:
    first = evaluation("gpt-4", result("How?", "So.", 3.5), result("Who?", "Me.", 4.5))
    write(tmp_path / "evaluations" / "a_gpt-4.json", first)
    more = evaluation("gpt-4", result("HOW? ", "Thus.", 2.0, reference_answer=""))
    write(tmp_path / "evaluations_more" / "b_gpt-4.json.gz", more)
    items, ledger = read("ray_llm", tmp_path)
    assert texts(items[0]) == [("user", "How?"), ("reference", "The truth."), ("assistant", "So.")]
    assert [a.score for i in items for a in said(i)] == [0.625, 0.875, 0.25]
    assert labels(items) == ["3", "4", "2"]
    assert said(items[0])[0].assessment == "worth 3.5"
    assert items[0].example.group == items[2].example.group == "how?"
    assert [i.example.source for i in items] == ["a", "a", "b"]
    assert len(texts(items[2])) == 2  # an empty reference is no turn
    assert set(ledger.inputs) == {"evaluations/a_gpt-4.json", "evaluations_more/b_gpt-4.json.gz"}
    bare, _ = read("ray_llm", tmp_path, part="without_reference")
    assert texts(bare[0]) == [("user", "How?"), ("assistant", "So.")]
    single, _ = read("ray_llm", tmp_path / "evaluations" / "a_gpt-4.json")
    assert len(single) == 2


def test_ray_llm_two_judges_of_one_answer(tmp_path: Path) -> None:
    one = evaluation("gpt-4", result("How?", "So.", 4.2), result("Who?", "Me.", 1.0))
    # In another order, and one answer judged twice.
    two = evaluation(
        "meta-llama/Llama-2-70b-chat-hf",
        result("Who?", "Me.", 4.0), result("How?", "So.", 5.0), result("Who?", "Me.", 3.0),
    )  # fmt: skip
    folder = tmp_path / "two_judges_history"
    write(folder / "x_gpt-4.json.gz", one)
    write(folder / "x_llama-2-70b-chat-hf.json", two)
    items, _ = read("ray_llm", tmp_path, part="two_judges")
    assert [[(a.teacher, a.label) for a in said(i)] for i in items] == [
        [("gpt-4", "4"), ("Llama-2-70b-chat-hf", "5")],
        [("gpt-4", "1"), ("Llama-2-70b-chat-hf", "4")],
        [("Llama-2-70b-chat-hf", "3")],
    ]
    assert items[1].example.id == items[2].example.id


def test_ray_llm_results_that_cannot_be_read(tmp_path: Path) -> None:
    rows = [result("a", "b", 0.5), result("", "b", 1), result("a", "b", None), result("a", "", 1)]
    write(tmp_path / "a_gpt-4.json", evaluation("gpt-4", *rows, result("a", "b", 5)))
    items, ledger = read("ray_llm", tmp_path)
    assert labels(items) == ["5"]
    assert [r.split(":")[0] for r in reasons(ledger)] == [f"result {n}" for n in range(1, 5)]
    foreign: list[Any] = [[], {"config": {}, "results": []}, {"results": []}]
    for broken in foreign:
        write(tmp_path / "a_gpt-4.json", broken)
        with pytest.raises(CorpusError, match=r"found no `config\.evaluator`"):
            read("ray_llm", tmp_path)
    write(tmp_path / "a_gpt-4.json", {"config": {"evaluator": "gpt-4"}})
    with pytest.raises(CorpusError, match=r"found dict, expected a list .* as `results`"):
        read("ray_llm", tmp_path)


# Golden sets


def test_topical_usr_is_the_mean_of_its_raters(tmp_path: Path) -> None:
    row = {
        "source": "hi , there \n hello \n what 's up ? \n\n", "system_id": "Argmax Decoding",
        "system_output": "not much \n", "context": "a fact",
        "scores": {"naturalness": 2.3333333333, "overall": 4.0},
    }  # fmt: skip
    rows = [row, {**row, "scores": {"overall": 4.0}}, {**row, "scores": {"naturalness": 0.5}}]
    write(tmp_path / "topical_chat.json", rows)
    items, ledger = read("golden_topical_usr", tmp_path)
    assert texts(items[0]) == [
        ("user", "hi , there"), ("assistant", "hello"), ("user", "what 's up ?"),
        ("assistant", "not much"),
    ]  # fmt: skip
    gold = items[0].example.gold["naturalness"]
    assert gold.label == "4"
    assert gold.score == pytest.approx(2 / 3)
    assert items[0].example.split is Split.TEST
    assert items[0].example.source == "Argmax Decoding"
    assert len(reasons(ledger)) == 2


def zhou(folder: Path, context: list[list[Any]], fluency: list[list[Any]]) -> None:
    for name, rows in (("context", context), ("fluency", fluency)):
        out = io.StringIO()
        csv.writer(out).writerows(rows)
        write(folder / f"{name}_data_release.csv", out.getvalue())


def test_dailydialog_joins_responses_by_their_letters(tmp_path: Path) -> None:
    zhou(
        tmp_path,
        [[0, "Hey , you ?", "I ’ m fine .", *[1] * 5, *[3] * 5], [1, "So ?", "Gone .", *[1] * 10],
         [2, "And ?", "Yes .", *[1] * 9, "7"], [3, "short"]],
        [[110, "I'm fine .", *[5] * 10], [0, "Yes .", *[2] * 10], [1, "x"]],
    )  # fmt: skip
    items, ledger = read("golden_dailydialog", tmp_path)
    (item,) = items
    assert texts(item) == [("user", "Hey , you ?"), ("assistant", "I ’ m fine .")]
    assert item.example.gold["on_topic"].score == 0.25
    assert item.example.gold["on_topic"].label == "2"
    assert item.example.gold["naturalness"].label == "5"
    assert len(item.replies) == 20
    assert {a.teacher for a in said(item)} == {f"rater-{n}" for n in range(1, 11)}
    assert len(ledger.quarantined) == 4
    assert any("no fluency of this response" in reason for reason in reasons(ledger))
    alone, _ = read("golden_dailydialog", tmp_path, "on_topic")
    assert set(alone[0].example.gold) == {"on_topic"}
    assert len(alone[0].replies) == 10
    (tmp_path / "fluency_data_release.csv").unlink()
    with pytest.raises(CorpusError, match=r"found no fluency_data_release\.csv; expected context"):
        read("golden_dailydialog", tmp_path)


def held(model: str, topic: Any, *rounds: tuple[str, str]) -> dict[str, Any]:
    return {
        "model": model, "raw scores": {"topic": topic, "robotic": 3},
        "dialogue": [
            {"round": n, "user": u, "bot": b} for n, (u, b) in enumerate(rounds, start=1)
        ],
    }  # fmt: skip


def test_tianboji_leaves_out_quality_control_and_names_no_worker(tmp_path: Path) -> None:
    work = {
        "WorkerId": "SECRET", "AssignmentId": "SECRET", "HITId": "SECRET",
        "data": [
            held("A", 80, ("hi", "hello"), ("so ?", "yes")), held("QualityControl", 5, ("a", "b")),
            held("B", 101, ("c", "d")), held("C", 0, ("e", "")), held("D", 0, ("e", "f")),
        ],
    }  # fmt: skip
    write(tmp_path / "pass_free(run1).json", [work, {"WorkerId": "SECRET"}])
    write(tmp_path / "fail" / "fail_free(run1).json", [work])
    items, ledger = read("golden_tianboji", tmp_path)
    assert [(i.example.source, i.example.gold["on_topic"].score) for i in items] == [
        ("A", 0.8), ("D", 0.0),
    ]  # fmt: skip
    assert texts(items[0])[2:] == [("user", "so ?"), ("assistant", "yes")]
    assert items[0].example.group == items[1].example.group
    assert {a.teacher for a in said(items[0])} == {"rater-1"}
    assert ledger.counts == {golden_tianboji.CONTROL: 1}
    assert ledger.rows == 6
    assert [r.split(":")[0] for r in reasons(ledger)] == ["item 1", "item 1", "item 2"]
    assert "dialogue 3: found score 101" in reasons(ledger)[0]
    assert "SECRET" not in repr(items) + repr(ledger)


def turn(context: str, response: str, relevant: Any) -> dict[str, Any]:
    annotations = {"Relevant": relevant, "Fluent": [2, 2]}
    return {
        "context": context, "response": response, "system": "Meena", "annotations": annotations
    }  # fmt: skip


def test_fed_rates_turns_and_not_applicable_is_no_vote(tmp_path: Path) -> None:
    whole = {
        "context": "User: Hi!\nSystem: Yo.\nUser: And?\nSystem: Fine.", "system": "Meena",
        "annotations": {"Coherent": [2]},
    }  # fmt: skip
    rows = [
        turn("User: Hi!", "System: Yo.", [2, 1, "N/A (why: I cannot say)", 0]),
        turn("User: Hi!\nSystem: Yo.\nUser: And?\nmore", "System: Fine.", [2, 2]),
        whole,
        turn("User: a", "System: b", ["N/A (none)"]),
        turn("a", "System: b", [1]), turn("User: a", "System: b", ["two"]),
        turn("User: a", "System: b", [3]), turn("User: a", "System:", [1]),
        turn("User: a", "System: b", None),
    ]  # fmt: skip
    write(tmp_path / "fed_data.json", rows)
    items, ledger = read("golden_fed", tmp_path)
    assert texts(items[0]) == [("user", "Hi!"), ("assistant", "Yo.")]
    assert texts(items[1])[2] == ("user", "And?\nmore")
    assert [a.teacher for a in said(items[0])] == ["rater-1", "rater-2", "rater-4"]
    assert items[0].example.gold["on_topic"].score == 0.5
    assert items[0].example.group == normal(str(whole["context"]))
    assert ledger.counts == {
        golden_fed.WHOLE: 1, golden_fed.NOT_APPLICABLE: 2, golden_fed.UNRATED: 1,
    }  # fmt: skip
    assert len(ledger.quarantined) == 5


@given(ratings=st.lists(st.integers(0, 2), min_size=1, max_size=7))
def test_gold_is_the_raters_mean_and_its_nearest_label(
    tmp_path_factory: pytest.TempPathFactory, ratings: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("fed")
    write(folder / "fed_data.json", [turn("User: a", "System: b", ratings)])
    ((item,), _) = read("golden_fed", folder)
    gold = item.example.gold["on_topic"]
    assert gold.score == pytest.approx(sum(ratings) / 2 / len(ratings))
    assert gold.label == BUILT_IN["on_topic"].nearest(sum(ratings) / 2 / len(ratings))
    assert [a.score for a in said(item)] == [rating / 2 for rating in ratings]


HALU = ["", *golden_haluquestqa._COLUMNS]


def halu(**cells: str) -> list[str]:
    row = {
        "question_text": 'Why "so"?', "category": "physics", "ans1_text": "Since\tit is.",
        "ans2_text": "It\nis.", "ans1_label": "model_answer", "ans2_label": "human_answer",
        "completeness_human_score": "0.5", "completeness_model_score": "1.0",
        "incomplete_ans_reason": "['Lacks the half.', \"Don't stop.\", 'Fine']",
        "incomplete_ans_label": "['answer2', 'answer2', 'answer1']", **cells,
    }  # fmt: skip
    return [row.get(column, "0") for column in HALU]


def test_haluquestqa_is_tab_separated_and_reasons_belong_to_answers(tmp_path: Path) -> None:
    out = io.StringIO()
    below = halu(completeness_human_score="-0.38", incomplete_ans_reason="",
                 incomplete_ans_label="", question_text="Q")  # fmt: skip
    broken = [
        halu(incomplete_ans_reason="['a'"), halu(incomplete_ans_label="[]"),
        halu(ans1_label="answer"), halu(completeness_model_score="2"),
        halu(incomplete_ans_reason="__import__('os')"), ["short"],
    ]  # fmt: skip
    csv.writer(out, delimiter="\t").writerows([HALU, halu(), below, *broken])
    write(tmp_path / "HaluQuestQA.csv", out.getvalue())
    items, ledger = read("golden_haluquestqa", tmp_path)
    assert texts(items[0]) == [("user", 'Why "so"?'), ("assistant", "Since\tit is.")]
    assert texts(items[1])[1] == ("assistant", "It\nis.")
    assert [a.assessment for i in items for a in said(i)] == [
        "Fine", "Lacks the half.\nDon't stop.", None,
    ]  # fmt: skip
    golds = [i.example.gold["comprehensiveness"] for i in items]
    assert [(gold.label, gold.score) for gold in golds] == [("5", 1.0), ("3", 0.5), ("5", 1.0)]
    assert items[0].example.group == items[1].example.group
    assert ledger.counts == {golden_haluquestqa.BELOW: 1}
    assert len(ledger.quarantined) == len(broken)
    write(tmp_path / "HaluQuestQA.csv", "question_text,category\na,b\n")
    with pytest.raises(CorpusError, match="expected also question_text"):
        read("golden_haluquestqa", tmp_path)


# The real data


def real(*parts: str) -> Path:
    shared = os.environ.get("WHYTUNE_SHARED")
    root = Path(shared) if shared else Path(__file__).parents[2] / "shared"
    folder = root.joinpath("data", *parts)
    if not folder.exists():
        pytest.skip(f"{folder} is not here: set WHYTUNE_SHARED to check the real release")
    return folder


def whole(loader: str, path: Path, *tasks: str, **spec: Any) -> tuple[list[Item], Ledger]:
    items, ledger = read(loader, path, *tasks, **spec)
    assert not ledger.quarantined
    assert all(len(said(item)) == len(item.replies) > 0 for item in items)
    return items, ledger


def sides(items: list[Item]) -> dict[str, int]:
    return dict(Counter(str(item.example.split) for item in items))


def test_the_real_emotion() -> None:
    items, ledger = whole("emotion", real("raw", "emotion"))
    assert sides(items) == {"train": 16000, "validation": 2000, "test": 2000}
    assert not ledger.notes
    train = [i for i in items if i.example.split is Split.TRAIN]
    assert Counter(labels(train)) == {
        "joy": 5362, "sadness": 4666, "anger": 2159, "fear": 1937, "love": 1304, "surprise": 572,
    }  # fmt: skip
    by_id: dict[str, set[str]] = {}
    for item in train:
        by_id.setdefault(item.example.id, set()).add(item.replies[0].text)
    assert sum(n > 1 for n in Counter(i.example.id for i in train).values()) == 31
    assert sum(len(own) > 1 for own in by_id.values()) == 30


def test_the_real_goemotions() -> None:
    items, ledger = whole("goemotions", real("raw", "goemotions"))
    assert ledger.rows == 43410 + 5426 + 5427
    assert ledger.counts == {goemotions.SEVERAL: 7102 + 878 + 837}
    assert sides(items) == {
        "train": 43410 - 7102, "validation": 5426 - 878, "test": 5427 - 837,
    }  # fmt: skip
    assert len(set(labels(items))) == 28
    assert sum('"' in texts(item)[0][1] for item in items) > 1000


def test_the_real_esnli() -> None:
    items, ledger = whole("esnli", real("explained", "esnli_devtest"))
    assert sides(items) == {"train": 9842, "test": 9824}
    assert sum(len(item.replies) for item in items) == 3 * (9842 + 9824)
    assert Counter(i.example.gold["entailment"].label for i in items if i.example.gold) == {
        "entailment": 3368, "contradiction": 3237, "neutral": 3219,
    }  # fmt: skip
    assert ledger.notes == ("1 validation files are taught from, as no training file is there.",)


@pytest.mark.parametrize(
    ("table", "task", "counts"),
    [
        ("creak", "yes_no", {"yes": 3469, "no": 3446}),
        ("sensemaking", "against_common_sense", {"Sentence A": 3070, "Sentence B": 3000}),
        ("strategyqa", "yes_no", {"yes": 964, "no": 1097}),
    ],
)
def test_the_real_flan_cot(table: str, task: str, counts: dict[str, int]) -> None:
    items, _ = whole("flan_cot", real("explained", "flan_cot"), task, part=table)
    assert Counter(labels(items)) == counts
    assert all(a.assessment for item in items for a in said(item))
    assert len({item.example.group for item in items}) == len(items) - 1


def test_the_real_liar_plus() -> None:
    items, ledger = whole("liar_plus", real("explained", "liar_plus"))
    assert sides(items) == {"train": 1284, "test": 1283}
    counts = Counter(labels(items))
    assert (counts["pants-fire"], counts["true"], len(counts)) == (208, 380, 6)
    assert ledger.counts[liar_plus.NO_WHY] == 29


def test_the_real_just_eval() -> None:
    items, ledger = whole("just_eval", real("explained", "just_eval"))
    assert len(items) == 800
    assert len({item.example.id for item in items}) == 786
    assert ledger.counts == {just_eval.SAFETY: 1000, just_eval.NOT_APPLICABLE: 43}
    depth = Counter(a.label for item in items for a in said(item) if a.task == "depth")
    assert depth == {"3": 358, "4": 268, "5": 84, "2": 62, "1": 24}


def test_the_real_ray_llm() -> None:
    folder = real("explained", "ray_llm_applications")
    items, _ = whole("ray_llm", folder)
    assert len(items) == 8502
    assert len({item.example.group for item in items}) == 179
    scores = Counter(json.loads(item.replies[0].text)["score"] for item in items)
    assert scores == {
        5.0: 2734, 4.0: 2313, 3.0: 723, 2.0: 1586, 1.0: 530, 2.5: 122, 3.5: 382, 4.5: 112,
    }  # fmt: skip
    both, _ = whole("ray_llm", folder, part="two_judges")
    assert (len(both), {len(item.replies) for item in both}) == (756, {2})
    assert {reply.teacher for item in both for reply in item.replies} == {
        "gpt-4", "Llama-2-70b-chat-hf",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("loader", "folder", "rated", "groups", "votes"),
    [
        ("golden_topical_usr", "unieval_topical_usr", 360, 60, 360),
        ("golden_dailydialog", "alexzhou_dailydialog", 200, 200, 200 * 20),
        ("golden_tianboji", "tianboji_dialogue_eval", 3510 - 585, 585, 3510 - 585),
        ("golden_fed", "fed", 375, 125, 375 * 5 - 1),
        ("golden_haluquestqa", "haluquestqa", 1396 - 14, 698, 1396 - 14),
    ],
)
def test_the_real_golden_sets(
    loader: str, folder: str, rated: int, groups: int, votes: int
) -> None:
    items, ledger = whole(loader, real("golden", folder))
    assert sides(items) == {"test": rated}
    assert len({item.example.group for item in items}) == groups
    assert sum(len(item.replies) for item in items) == votes
    tasks = LOADERS[loader].ABOUT.tasks
    assert all(set(item.example.gold) == set(tasks) for item in items)
    left_out = {"golden_tianboji": 585, "golden_fed": 126, "golden_haluquestqa": 14}
    assert ledger.counts.total() == left_out.get(loader, 0)
