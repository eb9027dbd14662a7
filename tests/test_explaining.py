"""Stage one of the two-stage road: a tiny generator, taught on the spot, and what it writes."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from whytune import cli, generator_folder, recipe_file, store
from whytune.corpora import explained
from whytune.corpora.explained import Explained
from whytune.errors import CorpusError, EncodingError, FolderError, RecipeError, TeachingError
from whytune.explaining import explain
from whytune.material import merged
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.recipe_data import CorpusSpec
from whytune.records import Example, Split, Turn
from whytune.student import generator
from whytune.student.models import Student
from whytune.student.targets import Part
from whytune.teaching import journal_file, reasons

QUIET = Progress(quiet=True)
RECIPE = """
name: two
model: {model}
corpora:
  mine: {{loader: table, path: moods.csv, columns: {{text: text, label: mood, id: id, split: part}}}}
tasks: [{{name: mood, question: 'Which mood?', labels: [sad, glad]}}]
arms: {{label: {{explanation: none}}, why: {{explanation: generated}}}}
generator:
  corpora: {{own: {{loader: flan_cot, path: ecqa_train.tsv, train: 12, test: 4}}}}
  train: {{learning_rate: 1.0e-2, num_train_epochs: 4, per_device_train_batch_size: 2,
          lora_dropout: 0}}
  max_new_tokens: 8
  batch_size: 3
prompt: {{max_length: 96}}
"""
WHERE = ["a park", "the sea", "a school", "some shop"]
TSV = [
    f"Where would person {n} stand?\\nOptions:\\n- {WHERE[n % 4]}\\n- Mars\t{WHERE[n % 4]}"
    f"\tThe answer is easy.\\nPeople stand in {WHERE[n % 4]}."
    for n in range(20)
]
MOODS = [
    f"m{n},It {'rains' if n % 2 else 'shines'} on day {n}{', long' * (n % 5)}.,"
    f"{'sad' if n % 2 else 'glad'},{'test' if n > 9 else 'train'}"
    for n in range(14)
]  # The commas of the texts are quoted below.


def write(folder: Path, moods: list[str] = MOODS, tsv: list[str] = TSV) -> None:
    rows = [row.split(",", 1) for row in moods]
    lines = [f'{name},"{rest.rsplit(",", 2)[0]}",{",".join(rest.rsplit(",", 2)[1:])}'
             for name, rest in rows]  # fmt: skip
    (folder / "moods.csv").write_text("\n".join(["id,text,mood,part", *lines]) + "\n", "utf-8")
    (folder / "ecqa_train.tsv").write_text("\n".join(tsv) + "\n", "utf-8")


def load(folder: Path, model: Path, *overrides: str) -> Recipe:
    (folder / "two.yaml").write_text(RECIPE.format(model=model), encoding="utf-8")
    return recipe_file.load(folder / "two.yaml", overrides)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Recipe:
    write(tmp_path)
    return load(tmp_path, tiny_folder)


@pytest.fixture(scope="session")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything was explained without a stop."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder)
    explain(load(folder, tiny_folder), QUIET)
    return folder


def again(finished: Path, tmp_path: Path) -> Path:
    """A copy with the generator alone."""
    write(tmp_path)
    for path in (finished / "two.reasons" / "generator").rglob("*"):
        if path.is_file():
            store.write_bytes(tmp_path / path.relative_to(finished), path.read_bytes())
    return tmp_path


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "two.reasons" / "reasons.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def by_place(folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    return {(row["example_id"], row["label"]): (row["reason"], row["key"]) for row in lines(folder)}


def one(text: str = "It rains.", answer: str = "sad", reason: str = "Rain is sad.") -> Explained:
    turns = (Turn(role="text", text=text),)
    return Explained(
        example=Example(id="e", source="s", group="g", turns=turns, split=Split.TRAIN),
        question="Which mood?", answer=answer, reason=reason,
    )  # fmt: skip


def test_a_generator_learns_and_every_training_example_gets_a_reason(
    tmp_path: Path, recipe: Recipe
) -> None:
    found = explain(recipe, QUIET)
    assert found.reason_nll < found.reason_nll_before - 0.5
    assert Path(found.reasons) == tmp_path / "two.reasons" / "reasons.jsonl"
    (count,) = found.counts
    assert (count.corpus, count.task, count.reasons, count.written, count.found) == (
        "mine", "mood", 10, 10, 0)  # fmt: skip
    rows = lines(tmp_path)
    assert {row["example_id"] for row in rows} == {f"m{n}" for n in range(10)}  # no test example
    assert count.cut == sum(row["cut"] for row in rows)
    assert found.tokens <= 80
    newest = reasons.read(Path(found.reasons))
    assert newest == {row["about"]: row["reason"] for row in rows if row["reason"]}
    place = tmp_path / "two.reasons" / "generator"
    assert {path.name for path in place.iterdir()} == {"adapter", "history.jsonl", "run.json"}
    facts = store.read_json(place / "run.json")
    assert facts["state"] == "finished"
    assert facts["inputs"] == {"own": {"ecqa_train.tsv": store.sha256(tmp_path / "ecqa_train.tsv")}}
    history = store.read_jsonl(place / "history.jsonl")
    assert [row["step"] for row in history] == [6, 12, 18, 24]
    assert history[-1]["reason_nll"] == pytest.approx(found.reason_nll)
    assert "label_nll" not in history[0]


def test_the_second_time_nothing_is_taught_or_written(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    plan = load(folder, tiny_folder)
    before = (folder / "two.reasons" / "generator" / "run.json").read_bytes()
    first, second = explain(plan, QUIET), explain(plan, QUIET)
    assert (first.counts[0].written, second.counts[0].written) == (10, 0)
    assert second.counts[0].found == 10
    assert second.tokens == 0
    assert (folder / "two.reasons" / "generator" / "run.json").read_bytes() == before
    assert by_place(folder) == by_place(finished)


def test_what_was_cut_off_is_written_and_nothing_else(
    finished: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = again(finished, tmp_path)
    plan = load(folder, tiny_folder)
    real = generator.write

    def stops(*args: Any) -> Iterator[Any]:
        batches = real(*args)
        yield next(batches)
        yield next(batches)
        raise KeyboardInterrupt

    monkeypatch.setattr(generator, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        explain(plan, QUIET)
    assert len(lines(folder)) == 6
    path = folder / "two.reasons" / "reasons.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # the disk kept five whole lines
    assert len(reasons.read(path)) <= 5
    monkeypatch.undo()
    asked: list[Any] = []

    def counts(student: Student, prompts: Any, settings: Any) -> Iterator[Any]:
        asked.extend(prompts)
        return real(student, prompts, settings)

    monkeypatch.setattr(generator, "write", counts)
    found = explain(plan, QUIET)
    assert len(asked) == found.counts[0].written == 5
    whole = finished / "two.reasons" / "reasons.jsonl"
    assert path.read_bytes() == whole.read_bytes()


def test_the_batch_does_not_change_the_text(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    explain(load(folder, tiny_folder, "generator.batch_size=7"), QUIET)
    assert by_place(folder) == by_place(finished)


def test_drawn_reasons_do_not_depend_on_the_batch_either(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    warm = ["generator.temperature=1.5"]
    explain(load(folder, tiny_folder, *warm), QUIET)
    first = by_place(folder)
    assert {reason for reason, _ in first.values()} != {r for r, _ in by_place(finished).values()}
    (folder / "two.reasons" / "reasons.jsonl").unlink()
    explain(load(folder, tiny_folder, *warm, "generator.batch_size=1"), QUIET)
    assert by_place(folder) == first


def test_going_back_to_former_settings_asks_nothing_and_is_read_again(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    path = folder / "two.reasons" / "reasons.jsonl"
    plain = load(folder, tiny_folder)
    explain(plain, QUIET)
    first = reasons.read(path)
    explain(load(folder, tiny_folder, "generator.temperature=1.5"), QUIET)
    both = path.read_bytes()
    assert len(reasons.load(path)) == 20
    assert first.items() < reasons.read(path).items()
    assert explain(load(folder, tiny_folder), QUIET).counts[0].written == 0
    assert path.read_bytes() == both


def test_another_label_or_text_is_asked_anew(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    plan = load(folder, tiny_folder)
    explain(plan, QUIET)
    other = [row.replace(",glad,", ",sad,") if row.startswith("m4,") else row for row in MOODS]
    write(folder, [row.replace("day 3", "night 3") for row in other])
    found = explain(plan, QUIET)
    assert (found.counts[0].written, found.counts[0].found) == (2, 8)
    assert [(row["example_id"], row["label"]) for row in lines(folder)[10:]] in (
        [("m4", "sad"), ("m3", "sad")], [("m3", "sad"), ("m4", "sad")])  # fmt: skip


def test_a_limit_takes_the_first_and_the_rest_comes_later(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    plan = load(folder, tiny_folder)
    assert explain(plan, QUIET, limit=4).counts[0].written == 4
    (said,) = merged(plan).values()
    training = [e.id for e in said.corpus.examples if e.split is Split.TRAIN]
    assert {row["example_id"] for row in lines(folder)} == set(training[:4])
    assert explain(plan, QUIET).counts[0].written == 6
    assert by_place(folder) == by_place(finished)


def test_a_generator_of_other_settings_is_not_overwritten(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    with pytest.raises(FolderError, match=r"generator: taught by another recipe.*`reasons:`"):
        explain(load(folder, tiny_folder, "generator.train.learning_rate=0.02"), QUIET)
    write(folder, tsv=[row.replace("easy", "plain") for row in TSV])
    with pytest.raises(FolderError, match="from other data; delete it"):
        explain(load(folder, tiny_folder), QUIET)


def test_the_command_prints_counts_and_samples(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    load(folder, tiny_folder)
    ended = CliRunner().invoke(
        cli.app, ["explain", str(folder / "two.yaml"), "--limit", "3", "--json"]
    )
    assert ended.exit_code == 0, ended.output
    *printed, last = ended.stdout.splitlines()
    assert "mine, mood: 3 reasons, 3 written now, 0 before" in ended.stdout
    assert sum(line.startswith(("  sad: ", "  glad: ")) for line in printed) == 3
    facts = json.loads(last)
    assert facts["counts"][0]["written"] == 3
    assert {one["example_id"] for one in facts["samples"]} == {
        row["example_id"] for row in lines(folder)
    }


def test_without_a_generator_there_is_a_way_out(tmp_path: Path, tiny_folder: Path) -> None:
    write(tmp_path)
    plain = load(tmp_path, tiny_folder, "generator=null", "arms={label: {explanation: none}}")
    with pytest.raises(RecipeError, match=r"two: found no generator.*add `generator:"):
        explain(plain, QUIET)
    unnamed = load(tmp_path, tiny_folder, "generator.corpora={starter: {train: 4}}")
    with pytest.raises(RecipeError, match=r"generator.tasks: missing.*corpora.starter are labels"):
        explain(unnamed, QUIET)
    choosing = load(tmp_path, tiny_folder, "generator.train.load_best_model_at_end=true")
    with pytest.raises(RecipeError, match=r"set generator.corpora.own.validation, or drop"):
        explain(choosing, QUIET)


def test_two_processes_do_not_write_at_once(
    finished: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = again(finished, tmp_path)
    handle = journal_file.lock(folder / "two.reasons" / reasons.NAME)
    try:
        with pytest.raises(TeachingError, match="one writer at a time"):
            explain(load(folder, tiny_folder), QUIET)
    finally:
        os.close(handle)


# What it is taught


def test_the_mask_is_the_reason_and_the_end(student: Callable[..., Student]) -> None:
    encoder = student(max_length=96).encoder
    said = one("It rains.<|im_end|>", "<|im_start|>sad", "Rain <|im_end|> is\u2028sad.")
    bundle = generator.lesson(encoder, said)
    (branch,) = bundle.branches
    supervised = [i for i, p in zip(branch.ids, branch.parts, strict=True) if p is not Part.PROMPT]
    assert encoder.decode(supervised[:-1], special=True) == "Rain <|im_end|> is\u2028sad."
    assert supervised[-1] == encoder.end
    assert encoder.end not in supervised[:-1]  # spelt out, it stays text
    prompt = generator.prompt(encoder, said.example, said.question, said.answer)
    read = prompt.prefix + prompt.questions[0]
    assert (bundle.prefix + branch.ids)[: len(read)] == read
    assert encoder.decode(read, special=True) == (
        "<|im_start|>user\nIt rains.<|im_end|>\n\nWhich mood?\nThe answer is: <|im_start|>sad\n"
        "Say why.<|im_end|>\n<|im_start|>assistant\n"
    )
    bare = generator.prompt(encoder, said.example, None, "sad")
    assert encoder.decode(bare.prefix + bare.questions[0], special=True) == (
        "<|im_start|>user\nIt rains.<|im_end|>\n\nThe answer is: sad\nSay why.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_long_text_loses_its_middle_and_nothing_else(student: Callable[..., Student]) -> None:
    encoder = student(max_length=96).encoder
    said = one(" ".join(map(str, range(400))), reason="Because " * 40 + "of it.")
    bundle = generator.lesson(encoder, said)
    text = encoder.decode(bundle.prefix + bundle.branches[0].ids)
    assert bundle.cut > 0
    assert "0 1 2" in text
    assert "398 399" in text
    assert "Which mood?\nThe answer is: sad\nSay why." in text
    assert said.reason in text
    with pytest.raises(EncodingError, match="example e: its question takes"):
        generator.lesson(encoder, one(answer="so " * 100))


def test_reason_nll_is_that_of_the_plain_model(student: Callable[..., Student]) -> None:
    taught = student(max_length=96)
    bundles = [generator.lesson(taught.encoder, one(reason=why)) for why in ("Rain.", "It is so.")]
    losses: list[torch.Tensor] = []
    for bundle in bundles:
        ids = torch.tensor([bundle.prefix + bundle.branches[0].ids])
        start = len(bundle.prefix) + bundle.branches[0].parts.count(Part.PROMPT)
        model: Any = taught.model
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, start - 1 : -1].float()
        losses += torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="none")
    expected = float(torch.stack(losses).mean())
    for size in (1, 2):
        assert generator.reason_nll(taught, bundles, size) == pytest.approx(expected, abs=1e-4)


# What it learns from


def test_open_tables_of_flan_are_read_and_split_by_question(tmp_path: Path) -> None:
    again_with_options = TSV[0].replace("Mars", "Venus")
    write(tmp_path, tsv=[*TSV, again_with_options, TSV[1], "no answer\t\twhy"])
    spec = CorpusSpec(loader="flan_cot", path=str(tmp_path), part="ecqa", test=5)
    found = explained.open_answers("own", spec)
    assert len(found.lessons) == 21
    assert found.notes == ("1 rows without a question, an answer or a reason were left out.",)
    parts: dict[str, set[Split | None]] = {}
    for lesson in found.lessons:
        parts.setdefault(lesson.example.group, set()).add(lesson.example.split)
    assert all(len(splits) == 1 for splits in parts.values())
    known = {lesson.example.turns[0].text: lesson for lesson in found.lessons}
    lesson = known["Where would person 3 stand?\nOptions:\n- some shop\n- Mars"]
    assert (lesson.question, lesson.answer) == (None, "some shop")
    assert lesson.reason == "The answer is easy. People stand in some shop."
    assert {e.example.id for e in found.lessons} == {
        e.example.id for e in explained.open_answers("own", spec).lessons}  # fmt: skip
    drawn = explained.open_answers("own", spec.model_copy(update={"train": 3, "seed": 1}))
    assert [e.example.split for e in drawn.lessons].count(Split.TRAIN) == 3


def test_a_table_with_open_answers_needs_no_task(tmp_path: Path) -> None:
    rows = ["q,a,why,part", *(f"What is {n} + {n}?,{2 * n},\"Twice\n{n}.\",train" for n in range(4)),
            "What is 9 + 9?,18,Twice 9.,test", "What is 8 + 8?,,Twice 8.,test"]  # fmt: skip
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    columns = {"text": "q", "label": "a", "explanation": "why", "split": "part"}
    spec = CorpusSpec(loader="table", path=str(tmp_path / "own.csv"), columns=columns)
    assert explained.is_open("own", spec, tasked=False)
    assert not explained.is_open("own", spec, tasked=True)
    found = explained.open_answers("own", spec)
    assert sorted((e.answer, e.reason, str(e.example.split)) for e in found.lessons) == [
        ("0", "Twice 0.", "train"), ("18", "Twice 9.", "test"), ("2", "Twice 1.", "train"),
        ("4", "Twice 2.", "train"), ("6", "Twice 3.", "train")]  # fmt: skip
    for changed, message in (
        ({"explanation": None}, "corpora.own.columns.explanation: missing"),
        ({"label": "answer"}, r"column answer: not there \(for label\)"),
    ):
        other = spec.model_copy(update={"columns": spec.columns.model_copy(update=changed)})
        with pytest.raises(CorpusError, match=message):
            explained.open_answers("own", other)


def lessons_of(recipe: Recipe) -> generator_folder.Lessons:
    settings, _ = generator_folder.checked(recipe)
    return generator_folder.lessons(recipe, settings, merged(recipe))


def test_labelled_corpora_teach_their_verdicts(tmp_path: Path, tiny_folder: Path) -> None:
    write(tmp_path)
    plan = load(tmp_path, tiny_folder, "generator.corpora={starter: {train: 6, test: 5}}",
                "generator.tasks=[naturalness, on_topic]")  # fmt: skip
    found = lessons_of(plan)
    assert (len(found.training), len(found.held_out)) == (12, 10)
    settings = plan.generator
    assert settings is not None
    own = merged(plan.model_copy(update={"corpora": settings.corpora, "tasks": settings.tasks}))
    for lesson in (*found.training, *found.held_out):
        said = next(one for one in own.values() if one.task.question == lesson.question)
        verdict = said.verdicts[lesson.example.id]
        assert (lesson.answer, lesson.reason) == (verdict.label, verdict.assessment)


def test_what_the_recipe_holds_out_is_not_learned_from(tmp_path: Path, tiny_folder: Path) -> None:
    write(tmp_path)
    rows = ["q,a,why", *(f"It {'rains' if n % 2 else 'shines'} on day {n}{', long' * (n % 5)}.|x|y"
                         .replace(",", ";").replace("|", ",") for n in range(14))]  # fmt: skip
    (tmp_path / "own.csv").write_text("\n".join(rows).replace(";", " "), encoding="utf-8")
    moods = (tmp_path / "moods.csv").read_text(encoding="utf-8")
    (tmp_path / "moods.csv").write_text(moods.replace(", long", "  long"), encoding="utf-8")
    own = "{loader: table, path: own.csv, columns: {text: q, label: a, explanation: why}, test: 2}"
    found = lessons_of(load(tmp_path, tiny_folder, f"generator.corpora={{own: {own}}}"))
    held = {f"day {n}" for n in range(10, 14)}
    texts = [lesson.example.turns[0].text for lesson in found.training]
    assert not [text for text in texts if any(day in text for day in held)]
    assert len(texts) + len(found.held_out) < 14
    assert "the recipe holds out" in found.notes["own"][-1]


# The file


def reason(name: str, text: str = "Because.") -> reasons.Reason:
    return reasons.Reason(corpus="c", task="t", example_id=name, label="l", reason=text, cut=False,
                          leaks=False, about=f"of {name}", key="k")  # fmt: skip


def test_reasons_are_appended_behind_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "folder" / reasons.NAME
    assert reasons.read(path) == {}
    reasons.append(path, [reason("a", "One\u2028line."), reason("b")])
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at])
        kept = whole[:at].count(b"\n")
        assert len(reasons.load(path)) == kept
        reasons.append(path, [reason("c", "")])
        assert [one.example_id for one in reasons.load(path)] == [*"ab"[:kept], "c"]
    reasons.append(path, [reason("a", "Newer.")])
    assert reasons.read(path) == {"of a": "Newer."}


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"corpus": 1}', "\x00\x00"])
def test_a_line_that_is_no_reason_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / reasons.NAME
    reasons.append(path, [reason("a")])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(FolderError, match=r"reasons.jsonl line 2: .*delete the line"):
        reasons.read(path)
