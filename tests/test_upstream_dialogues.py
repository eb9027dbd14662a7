"""Raw conversations: small files in upstream's formats, and the real ones where they are."""

import gzip
import hashlib
import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whytune import corpora
from whytune.corpora.corpus import Item
from whytune.corpora.identity import content_id
from whytune.corpora.ledger import Ledger
from whytune.corpora.upstream import amazonqa, chatbot_arena, coqa, cornell, hh_rlhf
from whytune.errors import CorpusError
from whytune.recipe_data import CorpusSpec
from whytune.records import Split
from whytune.tasks import BUILT_IN

TASKS = [BUILT_IN["naturalness"]]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 875191\n"
LOADERS = [amazonqa, chatbot_arena, coqa, cornell, hh_rlhf]


def load(loader: ModuleType, path: Path, **spec: Any) -> tuple[list[Item], Ledger]:
    ledger = Ledger()
    return list(loader.read("mine", path, TASKS, CorpusSpec(**spec), ledger)), ledger


def turns(item: Item) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in item.example.turns]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and data != LFS else data)
    return path


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def reasons(ledger: Ledger) -> list[str]:
    return [row.reason for row in ledger.quarantined]


# What all of them share


def arena_row(a: Sequence[str], b: Sequence[str] = ("Hi?", "Yes."), **more: Any) -> dict[str, Any]:
    """A battle; texts by turns, the user first."""

    def side(texts: Sequence[str]) -> list[dict[str, str]]:
        roles = ["user", "assistant"] * len(texts)
        return [{"content": text, "role": role} for text, role in zip(texts, roles, strict=False)]

    row = {
        "question_id": "0",
        "model_a": "koala-13b",
        "model_b": "vicuna-13b",
        "winner": "tie (bothbad)",
        "judge": "arena_user_1",
        "conversation_a": side(a),
        "conversation_b": side(b),
        "turn": 1,
        "language": "English",
    }
    return {**row, **more}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(roles=st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=9))
def test_last_judges_one_reply_and_each_judges_all(roles: list[str], tmp_path: Path) -> None:
    said = [{"role": role, "content": f"turn {i}"} for i, role in enumerate(roles)]
    row = arena_row(["Hi?", "Yes."], conversation_a=said)
    path = write_lines(tmp_path / "a.jsonl", [row])
    last, ledger = load(chatbot_arena, path)
    each, _ = load(chatbot_arena, path, judged="each")
    expected = [i for i, role in enumerate(roles) if role == "assistant" and i > 0]
    assert [len(item.example.turns) - 1 for item in each] == expected
    assert [len(item.example.turns) - 1 for item in last] == expected[-1:]
    whole = [(role, f"turn {i}") for i, role in enumerate(roles)]
    assert all(turns(item) == whole[: len(item.example.turns)] for item in each)
    assert len({item.example.id for item in each}) == len(each)
    no_reply = "conversations without a reply to judge were left out"
    after = "conversations go on after their last reply; what follows it was left out"
    assert ledger.counts[no_reply] == (not expected)
    assert ledger.counts[after] == bool(expected and expected[-1] < len(roles) - 1)


def test_equal_content_has_the_id_of_its_content(tmp_path: Path) -> None:
    rows = [arena_row(["Hi?", "Yes."]), arena_row([" Hi? ", "Yes.\n"]), arena_row(["Hi?", "No."])]
    items, ledger = load(chatbot_arena, write_lines(tmp_path / "a.jsonl", rows))
    ids = [item.example.id for item in items]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] == content_id("chatbot_arena", items[0].example.turns)
    assert (ledger.rows, ledger.quarantined) == (3, [])
    digest = hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    assert ledger.inputs == {"a.jsonl": digest}
    assert all(item.replies == () and item.settled and not item.example.gold for item in items)
    assert [item.line for item in items] == [1, 2, 3]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_missing_release_and_an_unknown_part_are_named(
    tmp_path: Path, loader: ModuleType
) -> None:
    with pytest.raises(CorpusError, match=r"gone: no such file or folder; expected .*; set"):
        load(loader, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty: found no file of .*; expected .*; set"):
        load(loader, tmp_path / "empty")
    expected = ", ".join(loader.ABOUT.parts) or "has no parts"
    with pytest.raises(CorpusError, match=rf"corpora\.mine\.part: found 'best', .*{expected}"):
        load(loader, tmp_path, part="best")


@pytest.mark.parametrize("loader", [amazonqa, coqa, cornell, hh_rlhf])
def test_languages_are_refused_where_the_release_names_none(
    tmp_path: Path, loader: ModuleType
) -> None:
    with pytest.raises(CorpusError, match=r"corpora\.mine\.languages: found English, but"):
        load(loader, tmp_path, languages=["English"])


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        (amazonqa, "qa_Baby.json.gz"),
        (chatbot_arena, "a.parquet"),
        (chatbot_arena, "a.json"),
        (chatbot_arena, "a.jsonl"),
        (coqa, "coqa-train-v1.0.json"),
        (hh_rlhf, "helpful-base/test.jsonl.gz"),
        (hh_rlhf, "helpful-base/test.jsonl"),
    ],
)
def test_a_git_lfs_pointer_and_a_foreign_file_are_said_to_be_one(
    tmp_path: Path, loader: ModuleType, name: str
) -> None:
    path = write(tmp_path / name, LFS)
    for place in (path, tmp_path):
        with pytest.raises(CorpusError, match=f"{path.name}: found a Git LFS pointer"):
            load(loader, place)
    path.unlink()
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["a", "b"]}), path)
    else:
        write(path, '[{"text": "a"}]')
    with pytest.raises(CorpusError) as raised:
        load(loader, path)
    assert str(raised.value).startswith(f"{path}: ")
    assert loader.ABOUT.format in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
COQA_ROW: dict[str, Any] = {
    "source": "cnn",
    "id": "one",
    "story": "A cat sat.",
    "questions": [{"input_text": "Who?", "turn_id": 1}],
    "answers": [{"input_text": "a cat", "turn_id": 1, "span_start": 0, "span_end": 5}],
}
AMAZON_ROW = {"asin": "B1", "question": "Does it fit?", "answer": "Yes.", "answerType": "Y"}
HH_ROW = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
ROWS: list[tuple[ModuleType, str, dict[str, Any]]] = [
    (amazonqa, "qa_Baby.json", AMAZON_ROW),
    (chatbot_arena, "a.jsonl", arena_row(["Hi?", "Yes."])),
    (coqa, "a.json", COQA_ROW),
    (hh_rlhf, "test.jsonl", HH_ROW),
]


@pytest.mark.parametrize(("loader", "name", "good"), ROWS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_a_row_holds_the_others_are_read(
    tmp_path: Path, loader: ModuleType, name: str, good: dict[str, Any], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(sorted(good)))
    inner = data.draw(st.sampled_from([None, *_places(good[field])]))
    strange = json.loads(json.dumps(good))
    value = data.draw(JSON)
    if inner is None:
        strange[field] = value
    else:
        strange[field][inner[0]][inner[1]] = value
    items, ledger = load(loader, _write_rows(tmp_path / name, [strange, value, good]))
    (alone,), _ = load(loader, _write_rows(tmp_path / "alone" / name, [good]))
    assert turns(items[-1]) == turns(alone)
    assert ledger.rows == 3
    assert ledger.unreadable >= (not isinstance(value, dict))
    assert len(items) + ledger.unreadable + sum(ledger.counts.values()) >= 3


def _write_rows(path: Path, rows: list[Any]) -> Path:
    if path.name == "a.json":
        return write(path, json.dumps(rows))
    return write_lines(path, rows)


def _places(value: Any) -> list[tuple[int, str]]:
    """Fields of objects in a list: (index, key)."""
    entries = value if isinstance(value, list) else []
    return [(i, key) for i, entry in enumerate(entries) for key in sorted(entry)]


def test_half_a_surrogate_pair_is_quarantined(tmp_path: Path) -> None:
    rows = [arena_row(["Hi \ud83d", "Yes."]), arena_row(["Hi?", "Yes."])]
    items, ledger = load(chatbot_arena, write_lines(tmp_path / "a.jsonl", rows))
    assert len(items) == 1
    (fault,) = ledger.quarantined
    assert (fault.file, fault.line) == ("a.jsonl", 1)
    where = "at character 3 of `content`, expected whole characters"
    assert fault.reason == f"found half a surrogate pair {where}"
    assert r"Hi \ud83d" in fault.text
    assert fault.text.isascii()


def test_a_turn_of_nobody_is_quarantined(tmp_path: Path) -> None:
    rows = [arena_row(["Hi?", "Yes."]), arena_row(["你好?", "Yes."])]
    rows[1]["conversation_a"][1]["role"] = " "
    items, ledger = load(chatbot_arena, write_lines(tmp_path / "a.jsonl", rows))
    assert len(items) == 1
    (fault,) = ledger.quarantined
    assert fault.reason == "found `role` ' ', expected text"
    assert "你好?" in fault.text


# HH-RLHF


def transcript(*said: tuple[str, str]) -> str:
    return "".join(f"\n\n{who}: {text}" for who, text in said)


def pair(prompt: str = "Hi", chosen: str = "Yes", rejected: str = "No") -> dict[str, str]:
    return {
        "chosen": transcript(("Human", prompt), ("Assistant", chosen)),
        "rejected": transcript(("Human", prompt), ("Assistant", rejected)),
    }


def test_hh_reads_the_folder_a_subfolder_and_a_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "harmless-base" / "test.jsonl.gz", [pair("One?")])
    write_lines(tmp_path / "helpful-base" / "test.jsonl", [pair("Two?")])
    write_lines(tmp_path / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"transcript": ""}])
    items, ledger = load(hh_rlhf, tmp_path)
    assert [(i.example.source, i.example.group) for i in items] == [
        ("harmless-base", "one?"), ("helpful-base", "two?"),
    ]  # fmt: skip
    assert list(ledger.inputs) == ["harmless-base/test.jsonl.gz", "helpful-base/test.jsonl"]
    assert turns(items[0]) == [("user", "One?"), ("assistant", "Yes")]
    for place in (tmp_path / "helpful-base", tmp_path / "helpful-base" / "test.jsonl"):
        (item,), _ = load(hh_rlhf, place)
        assert item.example == items[1].example
    # By its own name whatever that is; in a folder nobody would know what it is.
    other = write_lines(tmp_path / "helpful-base" / "mine.jsonl", [pair("Two?")])
    assert load(hh_rlhf, other)[0] == [item]
    assert len(load(hh_rlhf, tmp_path)[0]) == 2
    # Unpacked beside packed: the same rows once.
    write_lines(tmp_path / "harmless-base" / "test.jsonl", [pair("One?")])
    assert len(load(hh_rlhf, tmp_path)[0]) == 2


def test_hh_part_picks_the_transcript_and_both_share_a_group(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "test.jsonl", [pair("Hi  THERE", "Yes", "No")])
    (chosen,), _ = load(hh_rlhf, path)
    (rejected,), _ = load(hh_rlhf, path, part="rejected")
    assert (turns(chosen)[-1], turns(rejected)[-1]) == (("assistant", "Yes"), ("assistant", "No"))
    assert chosen.example.group == rejected.example.group == "hi there"


def test_hh_has_its_split_where_both_sides_are_there(tmp_path: Path) -> None:
    rows = [pair("Shared?"), pair("Own?")]
    write_lines(tmp_path / "harmless-base" / "train.jsonl", rows)
    items, _ = load(hh_rlhf, tmp_path)
    assert [item.example.split for item in items] == [None, None]
    write_lines(tmp_path / "helpful-base" / "test.jsonl", [pair("shared? "), pair("shared?", "X")])
    items, _ = load(hh_rlhf, tmp_path)
    assert Counter((item.example.group, item.example.split) for item in items) == {
        ("shared?", Split.TEST): 2, ("shared?", Split.TRAIN): 1, ("own?", Split.TRAIN): 1,
    }  # fmt: skip
    # What is held out is not taught from.
    corpus = corpora.load("hh_rlhf", CorpusSpec(path=str(tmp_path)), TASKS)
    assert [(e.group, e.split) for e in corpus.examples if e.split is Split.TRAIN] == [
        ("own?", Split.TRAIN)
    ]


def test_hh_splits_only_behind_an_empty_line(tmp_path: Path) -> None:
    reply = 'I watched television.  Human: So what?\nAssistant: ("so")\n\nResponse: all day.'
    path = write_lines(tmp_path / "test.jsonl", [pair("Hi", reply)])
    (item,), _ = load(hh_rlhf, path)
    assert turns(item) == [("user", "Hi"), ("assistant", reply)]


def test_hh_keeps_two_turns_of_one_speaker_apart(tmp_path: Path) -> None:
    said = [("Human", "Now?"), ("Assistant", "A moment."), ("Assistant", " Sorry about that.")]
    row = {"chosen": transcript(*said), "rejected": transcript(*said[:2])}
    path = write_lines(tmp_path / "test.jsonl", [row])
    (item,), _ = load(hh_rlhf, path)
    assert [role for role, _ in turns(item)] == ["user", "assistant", "assistant"]
    assert [len(i.example.turns) for i in load(hh_rlhf, path, judged="each")[0]] == [2, 3]


def test_hh_leaves_out_and_counts_an_empty_last_reply(tmp_path: Path) -> None:
    empty = transcript(("Human", "Hi"), ("Assistant", "Yes?"), ("Human", "No"), ("Assistant", ""))
    rows = [{"chosen": empty, "rejected": pair()["rejected"]}, pair("Other?")]
    path = write_lines(tmp_path / "test.jsonl", rows)
    for judged in ("last", "each"):
        items, ledger = load(hh_rlhf, path, judged=judged)
        assert [item.example.group for item in items] == ["other?"]
        assert ledger.counts == {"conversations hold an empty turn and were left out": 1}
        assert not ledger.quarantined
    assert len(load(hh_rlhf, path, part="rejected")[0]) == 2


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    said=st.lists(
        st.tuples(
            st.sampled_from(["Human", "Assistant"]),
            st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"]))
            .map(str.strip)
            .filter(lambda t: t and "Human:" not in t and "Assistant:" not in t),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_hh_transcripts_are_read_back(said: list[tuple[str, str]], tmp_path: Path) -> None:
    said = [("Human", "First?"), *said, ("Assistant", "Last.")]
    row = {"chosen": transcript(*said), "rejected": transcript(*said)}
    (item,), _ = load(hh_rlhf, write_lines(tmp_path / "test.jsonl", [row]))
    roles = {"Human": "user", "Assistant": "assistant"}
    assert turns(item) == [(roles[who], text) for who, text in said]


def test_hh_quarantines_what_is_no_pair(tmp_path: Path) -> None:
    late = {**pair(), "rejected": "Hello" + transcript(("Human", "Hi"), ("Assistant", "Yes"))}
    rows = [pair(), {"chosen": "Hello"}, late]
    path = write_lines(tmp_path / "test.jsonl", rows)
    path.write_bytes(path.read_bytes() + b'{"chosen": "cut o\n\xff\n')
    items, ledger = load(hh_rlhf, path)
    assert (len(items), ledger.rows, ledger.unreadable) == (1, 5, 4)
    assert [row.line for row in ledger.quarantined] == [2, 3, 4, 5]
    assert reasons(ledger)[0].startswith("`chosen` begins with no turn, expected")
    assert reasons(ledger)[1].startswith("`rejected` begins with no turn, expected")
    assert "not JSON" in reasons(ledger)[2]


# Chatbot Arena


def write_arena(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return path
    if path.suffix == ".json":
        return write(path, json.dumps(rows))
    return write_lines(path, rows)


@pytest.mark.parametrize(
    "name", ["data/train-00000-of-00001.parquet", "a.json", "a.jsonl", "a.jsonl.gz"]
)
def test_arena_reads_parquet_json_and_json_lines(tmp_path: Path, name: str) -> None:
    rows = [arena_row([f"Question {i}?", f"Answer {i}.", "And?", "So."]) for i in range(5)]
    path = write_arena(tmp_path / name, rows)
    for place, known_as in ((path, path.name), (tmp_path, name)):
        items, ledger = load(chatbot_arena, place)
        assert [turns(item)[0] for item in items] == [("user", f"Question {i}?") for i in range(5)]
        assert len(items[0].example.turns) == 4
        assert ledger.inputs == {known_as: hashlib.sha256(path.read_bytes()).hexdigest()}
        assert (ledger.rows, ledger.unreadable, ledger.counts) == (5, 0, {})


def test_arena_reads_the_wrapper_with_instances(tmp_path: Path) -> None:
    wrapped = {"instances": [{"id": 0, "instance": arena_row(["Hi?", "Yes."])}, 7]}
    items, ledger = load(chatbot_arena, write(tmp_path / "a.json", json.dumps(wrapped)))
    assert [turns(item) for item in items] == [[("user", "Hi?"), ("assistant", "Yes.")]]
    assert reasons(ledger) == ["row 2: found int, expected an object"]
    with pytest.raises(CorpusError, match=r"found dict, expected a list .* as `instances`"):
        load(chatbot_arena, write(tmp_path / "a.json", '{"rows": []}'))


def test_arena_reads_later_rows(tmp_path: Path) -> None:
    """Other keys beside the known ones, tokens counted in turns, texts as lists of parts."""
    later = arena_row(["Hi?", "Yes."], is_code=False, category_tag={"if": True}, language="en")
    later["conversation_a"][0]["num_tokens"] = 3
    del later["judge"]
    parts = [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}]
    listed = arena_row(["Hi?", "Yes."])
    listed["conversation_a"][0]["content"] = parts
    picture = arena_row(["Hi?", "Yes."])
    picture["conversation_a"][0]["content"] = [*parts, {"type": "image", "image": "x.png"}]
    path = write_lines(tmp_path / "a.jsonl", [later, listed, picture])
    items, ledger = load(chatbot_arena, path)
    assert [turns(item)[0][1] for item in items] == ["Hi?", "Look\n\nhere"]
    assert ledger.counts == {"battles hold more than text and were left out": 1}


def test_arena_takes_a_side_or_both_of_one_group(tmp_path: Path) -> None:
    rows = [arena_row(["Hi there", "A."], ["hi  There ", "B."]), arena_row(["Bye", "C."])]
    path = write_lines(tmp_path / "a.jsonl", rows)

    def said(part: str | None) -> list[tuple[str, str, str]]:
        items, ledger = load(chatbot_arena, path, part=part)
        assert ledger.rows == 2
        return [(i.example.group, i.example.source, turns(i)[-1][1]) for i in items]

    assert said(None) == said("a") == [
        ("hi there", "koala-13b", "A."), ("bye", "koala-13b", "C."),
    ]  # fmt: skip
    assert said("b") == [("hi there", "vicuna-13b", "B."), ("bye", "vicuna-13b", "Yes.")]
    assert sorted(said("both")) == sorted(said("a") + said("b"))


def test_arena_keeps_the_languages_asked_for_and_counts_the_others(tmp_path: Path) -> None:
    languages = ["English", "unknown", "German", "Chinese", None]
    rows = [arena_row([f"{i}?", "Yes."], language=name) for i, name in enumerate(languages)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    items, ledger = load(chatbot_arena, path, languages=["english", "German"])
    assert [turns(item)[0][1] for item in items] == ["0?", "2?"]
    assert ledger.counts == {"battles in other languages were left out": 3}
    assert len(load(chatbot_arena, path)[0]) == 5
    with pytest.raises(CorpusError, match=r"no battle in Latin; expected some of English \(1\)"):
        load(chatbot_arena, path, languages=["Latin"])


def test_arena_counts_an_empty_reply_and_keeps_mixed_scripts(tmp_path: Path) -> None:
    mixed = "a general-purpose并行编程接口\n```c\nint x;\n```"
    path = write_arena(tmp_path / "a.parquet", [arena_row(["Hi?", mixed]), arena_row(["Hi?", ""])])
    (item,), ledger = load(chatbot_arena, path)
    assert turns(item)[1] == ("assistant", mixed)
    assert ledger.counts == {"conversations hold an empty turn and were left out": 1}


def test_arena_prefers_parquet_to_the_json_beside_it(tmp_path: Path) -> None:
    write_arena(tmp_path / "data" / "train.parquet", [arena_row(["Hi?", "Yes."])])
    write(tmp_path / "dataset_infos.json", "{}")
    assert len(load(chatbot_arena, tmp_path)[0]) == 1


def test_arena_names_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = write_arena(tmp_path / "a.parquet", [arena_row(["Hi?", "Yes."])])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match=r"a\.parquet: not readable as Parquet .*fetch it again"):
        load(chatbot_arena, path)
    with pytest.raises(CorpusError, match=r"a\.csv: found a file that is none of"):
        load(chatbot_arena, write(tmp_path / "a.csv", "a,b"))


def test_arena_holds_a_batch_of_a_parquet_file_in_memory(tmp_path: Path) -> None:
    rows = [arena_row([f"{i}?", "word " * 1000]) for i in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=500)
    del rows
    tracemalloc.start()
    spec = CorpusSpec()
    count = sum(1 for _ in chatbot_arena.read("mine", tmp_path, TASKS, spec, Ledger()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2000
    # All texts are 10 MB; a batch of them, 1.3 MB.
    assert peak < 5_000_000


# AmazonQA


def write_literals(path: Path, rows: Sequence[Any]) -> Path:
    return write(path, "".join(f"{row!r}\n" for row in rows))


def test_amazon_reads_python_literals(tmp_path: Path) -> None:
    rows = [
        {**AMAZON_ROW, "answer": 'Yes, that\'s "it".'},
        {"asin": "B2", "question": "How long?", "answer": "1' 8\" \\ 20in", "unixTime": 1},
    ]
    path = write_literals(tmp_path / "qa_Video_Games.json.gz", rows)
    with pytest.raises(json.JSONDecodeError):
        json.loads(gzip.decompress(path.read_bytes()).split(b"\n")[0])
    for place in (path, tmp_path):
        items, ledger = load(amazonqa, place)
        assert [turns(item) for item in items] == [
            [("user", "Does it fit?"), ("assistant", 'Yes, that\'s "it".')],
            [("user", "How long?"), ("assistant", "1' 8\" \\ 20in")],
        ]
        assert [(i.example.source, i.example.group) for i in items] == [
            ("Video_Games", "B1"), ("Video_Games", "B2"),
        ]  # fmt: skip
        assert (ledger.rows, ledger.counts) == (2, {})


def test_amazon_unescapes_entities_and_counts_them(tmp_path: Path) -> None:
    row = {**AMAZON_ROW, "question": "A &amp; B?", "answer": "Steam&gt;common &#128516;"}
    path = write_literals(tmp_path / "qa_Baby.json", [row, AMAZON_ROW])
    items, ledger = load(amazonqa, path)
    assert turns(items[0]) == [("user", "A & B?"), ("assistant", "Steam>common 😄")]
    assert list(ledger.counts.values()) == [2]


def test_amazon_yields_duplicates_with_one_id_and_one_group_a_product(tmp_path: Path) -> None:
    other = {**AMAZON_ROW, "answer": "No."}
    path = write_literals(tmp_path / "qa_Baby.json", [AMAZON_ROW, AMAZON_ROW, other])
    items, _ = load(amazonqa, path)
    assert len(items) == 3
    assert len({item.example.id for item in items}) == 2
    assert {item.example.group for item in items} == {"B1"}


def question(text: str, *answers: str, asin: str = "B1", **more: Any) -> dict[str, Any]:
    return {
        "questionText": text,
        "questionType": "descriptive",
        "review_snippets": ["Good."],
        "answers": [{"answerText": a, "answerType": "NA", "helpful": [0, 0]} for a in answers],
        "asin": asin,
        "qid": 1,
        "category": "Toys_and_Games",
        "is_answerable": True,
        **more,
    }


def test_amazon_reads_json_lines_with_several_answers(tmp_path: Path) -> None:
    rows = [question("Why?", "So.", "Because."), question("When?")]
    items, ledger = load(amazonqa, write_lines(tmp_path / "train-qar.jsonl", rows))
    assert [turns(item)[1][1] for item in items] == ["So.", "Because."]
    assert {item.example.source for item in items} == {"Toys_and_Games"}
    assert ledger.counts == {"questions have no answer and were left out": 1}
    assert items[0].example.split is None


def test_amazon_reads_all_questions_of_a_product(tmp_path: Path) -> None:
    row = {"asin": "B7", "questions": [question("Why?", "So."), question("When?", "Now.", "Then.")]}
    items, _ = load(amazonqa, write_literals(tmp_path / "QA_Baby_multiple.json.gz", [row]))
    assert [turns(item)[0][1] for item in items] == ["Why?", "When?", "When?"]
    assert {(i.example.source, i.example.group) for i in items} == {("Baby", "B7")}


def test_amazon_keeps_the_split_by_product(tmp_path: Path) -> None:
    train = [question("Why?", "So.", asin="B1"), question("Why?", "No.", asin="B2")]
    write_lines(tmp_path / "train-qar.jsonl", train)
    write_lines(tmp_path / "val-qar.jsonl", [question("Who?", "I.", asin="B3")])
    write_lines(tmp_path / "test-qar.jsonl", [question("How?", "Well.", asin="B4")])
    items, _ = load(amazonqa, tmp_path)
    assert {(item.example.group, item.example.split) for item in items} == {
        ("B1", Split.TRAIN), ("B2", Split.TRAIN), ("B3", Split.VALIDATION), ("B4", Split.TEST),
    }  # fmt: skip
    # McAuley's files have no part in that split.
    write_literals(tmp_path / "qa_Baby.json", [AMAZON_ROW])
    assert {item.example.split for item in load(amazonqa, tmp_path)[0]} == {None}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("__import__('os').getcwd()", "neither a JSON object nor a Python dict literal"),
        ("{'asin': 'B1', 'question': 'Cut o", "found neither"),
        ("[" * 5000, "found neither"),
        ("-" * 100_000 + "1", "found neither"),
        ("-" * 3000 + "1", "found neither"),
        ("{[]: 1}", "found neither"),
        ("['B1']", "found neither"),
        ("{'asin': 'B1', 'answer': 'Yes.'}", "found no `question`, expected text"),
        ("{'question': 'Q?', 'answer': 'Yes.'}", "found no `asin`, expected text"),
        ("{'asin': 'B1', 'questionText': 'Q?'}", "found no `answers`"),
    ],
)
def test_amazon_quarantines_what_it_cannot_read(tmp_path: Path, line: str, expected: str) -> None:
    path = write(tmp_path / "qa_Baby.json", f"{AMAZON_ROW!r}\n\n{line}\n")
    items, ledger = load(amazonqa, path)
    assert (len(items), ledger.rows) == (1, 2)
    (fault,) = ledger.quarantined
    assert (fault.file, fault.line) == ("qa_Baby.json", 3)
    assert expected in fault.reason


def test_amazon_takes_a_stray_backslash_as_one(tmp_path: Path) -> None:
    line = r"{'asin': 'B1', 'question': 'C:\games?', 'answer': 'Yes.'}"
    (item,), _ = load(amazonqa, write(tmp_path / "qa_Baby.json", line))
    assert turns(item)[0] == ("user", r"C:\games?")


# CoQA


def story(*said: tuple[str, str], **more: Any) -> dict[str, Any]:
    questions = [{"input_text": q, "turn_id": i} for i, (q, _) in enumerate(said, start=1)]
    answers = [
        {"span_start": 0, "span_end": 3, "span_text": "A c", "input_text": a, "turn_id": i}
        for i, (_, a) in enumerate(said, start=1)
    ]
    row = {"source": "cnn", "id": "one", "filename": "x.txt", "name": "x.txt"}
    return {**row, "story": ' "A" cat\n\nsat. ', "questions": questions, "answers": answers, **more}


def write_coqa(path: Path, *rows: Any, bare: bool = False) -> Path:
    value = list(rows) if bare else {"version": "1.0", "data": list(rows)}
    return write(path, json.dumps(value))


@pytest.mark.parametrize("bare", [False, True])
def test_coqa_reads_the_wrapper_and_the_bare_list(tmp_path: Path, bare: bool) -> None:
    row = story(("Who?", "a cat"), ("where?", "there"), additional_answers={"0": []})
    path = write_coqa(tmp_path / "coqa-dev-v1.0.json", row, bare=bare)
    (item,), ledger = load(coqa, path)
    assert turns(item) == [
        ("passage", '"A" cat\n\nsat.'),
        ("user", "Who?"), ("assistant", "a cat"),
        ("user", "where?"), ("assistant", "there"),
    ]  # fmt: skip
    assert (item.example.source, item.example.group) == ("cnn", "one")
    assert ledger.inputs == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert [len(i.example.turns) for i in load(coqa, path, judged="each")[0]] == [3, 5]


def test_coqa_matches_by_turn_not_by_place(tmp_path: Path) -> None:
    row = story(("Who?", "a cat"), ("where?", "there"), ("why?", "so"))
    row["answers"] = row["answers"][::-1]
    row["questions"] = row["questions"][1:] + row["questions"][:1]
    (item,), _ = load(coqa, write_coqa(tmp_path / "a.json", row))
    said = [text for _, text in turns(item)[1:]]
    assert said == ["Who?", "a cat", "where?", "there", "why?", "so"]


def test_coqa_keeps_and_counts_the_unanswerable(tmp_path: Path) -> None:
    row = story(("Who?", "a cat"), ("why?", "unknown"))
    row["answers"][1].update(span_start=-1, span_end=-1, span_text="unknown")
    (item,), ledger = load(coqa, write_coqa(tmp_path / "a.json", row))
    assert turns(item)[-1] == ("assistant", "unknown")
    kept = "answers say that the passage does not tell (`unknown`) and were kept"
    assert ledger.counts == {kept: 1}


def test_coqa_leaves_out_and_counts_bad_turns(tmp_path: Path) -> None:
    row = story(("Who?", "a cat"), ("what must?", "unknown"), ("why?", "so"))
    row["answers"][1].update(bad_turn="true", span_start=-1)
    row["answers"][0].update(bad_turn="false")
    path = write_coqa(tmp_path / "a.json", row, story(("Who?", "a cat"), id="two"))
    items, ledger = load(coqa, path)
    assert [text for _, text in turns(items[0])[1:]] == ["Who?", "a cat", "why?", "so"]
    bad = "question and answer pairs are marked as bad turns and were left out"
    assert ledger.counts == {bad: 1}


def test_coqa_has_its_split_where_both_files_are_there(tmp_path: Path) -> None:
    write_coqa(
        tmp_path / "coqa-train-v1.0.json", story(("Who?", "a")), story(("Q?", "b"), id="two")
    )
    write_coqa(tmp_path / "predictions.json", {"id": "one", "turn_id": 1, "answer": "x"})
    assert {item.example.split for item in load(coqa, tmp_path)[0]} == {None}
    write_coqa(tmp_path / "coqa-dev-v1.0.json", story(("Who?", "c"), id="three"))
    items, _ = load(coqa, tmp_path)
    assert {(item.example.group, item.example.split) for item in items} == {
        ("one", Split.TRAIN), ("two", Split.TRAIN), ("three", Split.TEST),
    }  # fmt: skip


def test_coqa_reads_conversations_without_their_passage(tmp_path: Path) -> None:
    said = [
        {"id": 1, "speaker": "system", "text": "in 1475", "span_start": 151},
        {"id": 0, "speaker": "user", "text": "When?", "paraphrases": ["When was it?"]},
    ]
    row = {"dialogue_id": "one", "source": "wikipedia", "turns": said}
    strange = {**row, "turns": [{**said[0], "speaker": "nobody"}]}
    path = write_coqa(tmp_path / "a.json", row, strange, bare=True)
    (item,), ledger = load(coqa, path)
    assert turns(item) == [("user", "When?"), ("assistant", "in 1475")]
    assert (item.example.source, item.example.group) == ("wikipedia", "one")
    assert ledger.counts == {"conversations came without their passage": 1}
    assert reasons(ledger) == ["conversation 2: found speaker 'nobody', expected user or system"]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({"answers": []}, "found `answers` [], expected a list of objects"),
        ({"answers": [{"input_text": "a", "turn_id": 2}]}, "turn 1: found a question or an answer"),
        ({"questions": [{"input_text": "a"}]}, "found `turn_id` None in `questions`"),
        ({"questions": [{"turn_id": 1}] * 2}, "found `turn_id` 1 in `questions`, expected its own"),
        ({"questions": [{"turn_id": 1}]}, "found no `input_text`"),
        ({"story": None}, "found no `story`"),
        ({"id": 7}, "found `id` 7, expected text"),
    ],
)
def test_coqa_quarantines_what_it_cannot_read(tmp_path: Path, broken: Any, expected: str) -> None:
    path = write_coqa(tmp_path / "a.json", {**COQA_ROW, **broken}, COQA_ROW)
    items, ledger = load(coqa, path)
    assert (len(items), ledger.rows) == (1, 2)
    assert reasons(ledger)[0].startswith(f"conversation 1: {expected}")


def test_coqa_names_a_file_without_conversations(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"found dict, expected a list .* as `data`"):
        load(coqa, write(tmp_path / "a.json", '{"text": "a"}'))
    with pytest.raises(CorpusError, match="found 0 rows, none of them readable"):
        load(coqa, write(tmp_path / "a.json", "[]"))


# Cornell


def row(*fields: str) -> str:
    return " +++$+++ ".join(fields)


def write_cornell(folder: Path, **more: str | bytes) -> Path:
    """Upstream's four files; lines in reverse order, with CRLF."""
    lines = [
        row("L4", "u2", "m0", "CAMERON", "They do  to! <u>Really</u>."),
        row("L3", "u0", "m0", "BIANCA", "a +++$+++ b"),
        row("L2", "u2", "m0", "CAMERON", ""),
        row("L1", "u0", "m0", "BIANCA", "Hello <i>there</i>."),
        row("L9", "u5", "m1", "ZOÉ", "Caf\u00e9?"),
        row("L8", "u6", "m1", "BO", "Where is <3?"),
    ]
    written: dict[str, str | bytes] = {
        "movie_lines": "".join(line + "\r\n" for line in lines),
        "movie_conversations": "\n".join(
            [
                row("u0", "u2", "m0", "['L1', 'L3', 'L4']"),
                row("u0", "u2", "m0", "['L1', 'L2']"),
                row("u5", "u6", "m1", "['L8', 'L9']"),
            ]
        ),
        "movie_titles_metadata": row("m0", "10 things", "1999", "6.90", "62847", "['comedy']")
        + "\n"
        + row("m1", "am\u00e9lie", "2001", "8.30", "9", "[]"),
        "movie_characters_metadata": "\n".join(
            row(who, name, "m0", "10 things", "f", "4")
            for who, name in (("u0", "BIANCA"), ("u2", "CAMERON"), ("u5", "ZO\u00c9"), ("u6", ""))
        ),
    }
    for name, content in {**written, **more}.items():
        data = content.encode("latin-1") if isinstance(content, str) else content
        write(folder / f"{name}.txt", data)
    return folder


def test_cornell_joins_lines_in_the_order_of_the_conversation(tmp_path: Path) -> None:
    items, ledger = load(cornell, write_cornell(tmp_path))
    # The text keeps the separator; tags and double spaces go; ISO-8859-1, CRLF and LF are read.
    assert [turns(item) for item in items] == [
        [
            ("BIANCA", "Hello there."),
            ("BIANCA", "a +++$+++ b"),
            ("CAMERON", "They do to! Really."),
        ],
        [("BO", "Where is <3?"), ("ZO\u00c9", "Caf\u00e9?")],
    ]
    assert [(i.example.source, i.example.group) for i in items] == [
        ("10 things", "m0"), ("am\u00e9lie", "m1"),
    ]  # fmt: skip
    assert ledger.rows == 3
    assert ledger.counts == {
        "lines of film dialogue had tags (<u>, <i>), which were removed": 2,
        # A blank text is not cut off with the end of its row.
        "conversations hold an empty turn and were left out": 1,
    }
    assert not ledger.quarantined
    assert len(ledger.inputs) == 4


def test_cornell_judges_every_turn_from_the_second_on(tmp_path: Path) -> None:
    items, _ = load(cornell, write_cornell(tmp_path), judged="each")
    assert [len(item.example.turns) for item in items] == [2, 3, 2]


def test_cornell_quarantines_rows_that_do_not_resolve(tmp_path: Path) -> None:
    conversations = [
        row("u0", "u2", "m0", "['L1', 'L3']"),
        row("u0", "u2", "m0", "['L1', 'L77']"),
        row("u0", "u2", "m0", "['L1', "),
        row("u0", "u2", "m0", "[]"),
        row("u0", "u2", "m0"),
    ]
    lines = (
        row("L1", "u0", "m0", "A", "x") + "\n" + row("L3", "u2", "m0", "B", "y") + "\nL5 +++$+++ u"
    )
    folder = write_cornell(
        tmp_path, movie_conversations="\n".join(conversations), movie_lines=lines
    )
    items, ledger = load(cornell, folder)
    assert len(items) == 1
    assert (ledger.rows, ledger.unreadable) == (6, 5)
    assert [(fault.file, fault.line) for fault in ledger.quarantined] == [
        ("movie_lines.txt", 3), *(("movie_conversations.txt", number) for number in range(2, 6)),
    ]  # fmt: skip
    found = reasons(ledger)
    assert found[0].startswith("found 2 fields, expected 5")
    assert found[1].startswith("line L77 is not in movie_lines.txt")
    assert all("expected a list of line ids" in reason for reason in found[2:4])
    assert found[4].startswith("found 3 fields, expected 4")


@pytest.mark.parametrize(
    "name", ["lines", "conversations", "titles_metadata", "characters_metadata"]
)
def test_cornell_needs_all_four_files(tmp_path: Path, name: str) -> None:
    folder = write_cornell(tmp_path, **{f"movie_{name}": b"a foreign file\n"})
    with pytest.raises(CorpusError, match=rf"movie_{name}\.txt: found .*; expected Cornell"):
        load(cornell, folder)
    write_cornell(folder, **{f"movie_{name}": LFS})
    with pytest.raises(CorpusError, match=rf"movie_{name}\.txt: found a Git LFS pointer"):
        load(cornell, folder)
    (folder / f"movie_{name}.txt").unlink()
    with pytest.raises(CorpusError, match=rf"found no movie_{name}\.txt; expected movie_lines"):
        load(cornell, folder)


def test_cornell_does_not_hold_the_lines_in_memory(tmp_path: Path) -> None:
    count = 20_000
    lines = "".join(row(f"L{i}", "u0", "m0", "A", "word " * 100) + "\r\n" for i in range(count))
    pairs = "".join(
        row("u0", "u2", "m0", f"['L{i}', 'L{i + 1}']") + "\n" for i in range(0, count, 2)
    )
    write_cornell(tmp_path, movie_lines=lines, movie_conversations=pairs)
    del lines, pairs
    tracemalloc.start()
    found = sum(1 for _ in cornell.read("mine", tmp_path, TASKS, CorpusSpec(), Ledger()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == count // 2
    # All texts are 10 MB; reading a file takes a buffer of 1 MB or two.
    assert peak < 5_000_000


# The real data


def real(name: str) -> Path:
    shared = os.environ.get("WHYTUNE_SHARED")
    root = Path(shared) if shared else Path(__file__).parents[2] / "shared"
    path = root / "data" / "raw" / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set WHYTUNE_SHARED to check the real {name}")
    return path


def distinct(items: Sequence[Item]) -> int:
    return len({item.example.id for item in items})


def test_the_real_hh_rlhf_has_the_known_counts() -> None:
    path = real("hh_rlhf")
    chosen, ledger = load(hh_rlhf, path)
    assert (ledger.rows, ledger.unreadable) == (2312, 0)
    assert (len(chosen), distinct(chosen)) == (2308, 2308)
    assert ledger.counts == {"conversations hold an empty turn and were left out": 4}
    rejected, _ = load(hh_rlhf, path, part="rejected")
    assert (len(rejected), distinct(rejected)) == (2312, 2312)
    both = [turns(item) for item in (*chosen, *rejected)]
    twice = [said for said in both if any(a[0] == b[0] for a, b in pairwise(said))]
    assert len(twice) == 13
    assert (min(map(len, both)), max(map(len, both))) == (2, 36)
    assert all(said[0][0] == "user" and said[-1][0] == "assistant" for said in both)
    groups = {item.example.group for item in rejected}
    assert (len(groups), groups >= {item.example.group for item in chosen}) == (2177, True)
    assert {item.example.source for item in chosen} == {"harmless-base"}
    assert len(load(hh_rlhf, path, judged="each")[0]) == 5759


def test_the_real_chatbot_arena_has_the_known_counts() -> None:
    path = real("chatbot_arena")
    native, ledger = load(chatbot_arena, path / "chatbot_arena_convo.json", part="both")
    assert (len(native), distinct(native), ledger.rows) == (20, 20, 10)
    assert all([role for role, _ in turns(item)] == ["user", "assistant"] for item in native)
    assert any("并行编程接口" in turns(item)[-1][1] for item in native)
    later, ledger = load(chatbot_arena, path / "labeled.jsonl")
    assert (len(later), distinct(later), ledger.rows, ledger.unreadable) == (100, 100, 100, 0)
    lengths = Counter(len(item.example.turns) // 2 for item in later)
    assert (min(lengths), max(lengths), lengths[1]) == (1, 10, 79)
    english, ledger = load(
        chatbot_arena, path / "labeled.jsonl", languages=["English"], part="both"
    )
    assert (len(english), distinct(english)) == (128, 127)
    assert ledger.counts == {"battles in other languages were left out": 36}
    with pytest.raises(CorpusError, match="found 960 rows, none of them readable"):
        load(chatbot_arena, path / "noscenario.jsonl")


def test_the_real_chatbot_arena_reads_the_same_from_parquet(tmp_path: Path) -> None:
    path = real("chatbot_arena") / "labeled.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=30)
    packed, _ = load(chatbot_arena, tmp_path, part="both", judged="each")
    plain, _ = load(chatbot_arena, path, part="both", judged="each")
    assert [item.example for item in packed] == [item.example for item in plain]


@pytest.mark.parametrize(
    ("category", "rows", "duplicates", "products", "entities"),
    [("Appliances", 9011, 143, 1153, 123), ("Video_Games", 13307, 3401, 1188, 207)],
)
def test_the_real_amazon_questions_have_the_known_counts(
    category: str, rows: int, duplicates: int, products: int, entities: int
) -> None:
    items, ledger = load(amazonqa, real("amazonqa") / f"qa_{category}.json.gz")
    assert (len(items), ledger.rows, ledger.unreadable) == (rows, rows, 0)
    assert len(items) - distinct(items) == duplicates
    assert len({item.example.group for item in items}) == products
    assert {item.example.source for item in items} == {category}
    # Answers: 16 and 43; the others stand in questions.
    assert sum(ledger.counts.values()) == entities
    assert not any("&gt;" in text for item in items for _, text in turns(item))


def test_the_real_coqa_has_the_known_counts() -> None:
    path = real("coqa")
    files = ["hf_dummy/coqa-dev-v1.0.json", "hf_dummy/coqa-train-v1.0.json",
             "hf_dummy/test.json", "original_examples.json"]  # fmt: skip
    read = [load(coqa, path / name, judged="each") for name in files]
    native = [item for items, _ in read for item in items]
    assert [ledger.rows for _, ledger in read] == [1, 1, 2, 5]
    assert len({item.example.group for item in native}) == 7
    # 98 pairs, three of them bad.
    assert distinct(native) == 95
    assert all(turns(item)[0][0] == "passage" for item in native)
    items, ledger = load(coqa, path / "coqar_train_coqa_examples.json", judged="each")
    assert (ledger.rows, len(items), distinct(items)) == (50, 782, 782)
    assert ledger.counts["conversations came without their passage"] == 50
    sources = Counter(source for _, source in {(i.example.group, i.example.source) for i in items})
    assert sources == {"cnn": 13, "race": 12, "wikipedia": 10, "gutenberg": 9, "mctest": 6}
    everything, ledger = load(coqa, path)
    assert (len(everything), distinct(everything), ledger.unreadable) == (59, 57, 0)
    assert len({item.example.group for item in everything}) == 52
    with_split, _ = load(coqa, path / "hf_dummy")
    assert [item.example.split for item in with_split] == [Split.TEST, Split.TRAIN]


def test_the_real_cornell_has_the_known_counts() -> None:
    path = real("cornell")
    items, ledger = load(cornell, path)
    assert (ledger.rows, ledger.unreadable) == (8066, 0)
    # Both blank lines begin or end a conversation of two.
    assert ledger.counts == {
        "conversations hold an empty turn and were left out": 2,
        "lines of film dialogue had tags (<u>, <i>), which were removed": 50,
    }
    assert (len(items), len(items) - distinct(items)) == (8064, 4)
    lengths = Counter(len(item.example.turns) for item in items)
    assert (lengths[2], lengths[3], lengths[4], max(lengths)) == (3677 - 2, 1773, 942, 34)
    films = {(item.example.group, item.example.source) for item in items}
    assert len(films) == 59
    assert ("m0", "10 things i hate about you") in films
    assert not any("  " in text or "<u>" in text for item in items for _, text in turns(item))
    assert len(load(cornell, path, judged="each")[0]) == 20605
