"""Teachers asked over loopback: what is sent, what is kept, what it costs, what is never sent twice."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from whytune import asking, forecast, material, progress, recipe_file
from whytune.errors import RecipeError, TeachingError, WorkError
from whytune.progress import Progress
from whytune.recipe import Recipe
from whytune.records import Outcome
from whytune.teaching import annotate as annotate_module
from whytune.teaching import ensemble
from whytune.teaching.estimates import Estimate
from whytune.teaching.journal import Journal
from whytune.teaching.requests import Request
from whytune.teaching.teachers import Function

CANARY = "canary-51c0ffee-key"
QUIET = Progress(quiet=True)
Respond = Callable[[dict[str, Any], int], tuple[int, dict[str, str], bytes] | None]


def good(asked: dict[str, Any], _: int = 0) -> tuple[int, dict[str, str], bytes]:
    """A reply that keeps to the schema; its score or label is drawn from the question."""
    return spoken(reply_to(asked["messages"], asked["response_format"]["json_schema"]["schema"]))


def reply_to(messages: Any, schema: Any) -> str:
    drawn = int(hashlib.sha256(json.dumps(messages).encode()).hexdigest(), 16)
    said = {
        name: form["enum"][drawn % len(form["enum"])] if "enum" in form else f"{name} {drawn % 97}"
        for name, form in schema["properties"].items()
    }
    return json.dumps(said)


def spoken(text: str | None, **more: Any) -> tuple[int, dict[str, str], bytes]:
    choice = {"message": {"content": text, **more}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage}).encode()


class Server:
    """Answers as `respond(body, times asked before)` says; None hangs up."""

    def __init__(self) -> None:
        self.respond: Respond = good
        self.latency = 0.0
        self.asked: list[str] = []
        self.keys: set[str | None] = set()
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                content = self.rfile.read(size)
                if len(content) < size:
                    self.close_connection = True
                    return  # who asked is gone
                with lock:
                    before = server.asked.count(content.decode())
                    server.asked.append(content.decode())
                    server.keys.add(self.headers["authorization"])
                time.sleep(server.latency)
                found = server.respond(json.loads(content), before)
                if found is None:
                    self.close_connection = True
                    return
                status, headers, body = found
                try:
                    self.send_response(status)
                    for name, value in {**headers, "content-length": str(len(body))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # who asked is gone

            def log_message(self, *_: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                pass

        self._http = Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def times(self) -> Counter[str]:
        return Counter(self.asked)

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


RECIPE = """
name: ask
model: smollm2-135m
corpora: {starter: {train: 12, test: 8}}
tasks: [on_topic]
arms: {label: {}, why: {explanation: assessment}}
teachers:
  mind:
    url: URL
    prompts: [scale-1-4, scale-1-5]
    price: {input: 1.0, output: 10.0}
"""
"""20 examples x 2 prompts; each send costs 0.0002 dollars."""


@pytest.fixture
def write(tmp_path: Path, server: Server) -> Callable[..., Path]:
    def written(*changes: tuple[str, str], text: str = RECIPE) -> Path:
        text = text.replace("URL", server.url)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return path

    return written


def load(path: Path) -> Recipe:
    return recipe_file.load(path)


def journal(recipe: Recipe) -> Journal:
    assert recipe.journal is not None
    return Journal(Path(recipe.journal))


def command(*words: str, **rest: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "whytune", *words], text=True, capture_output=True,
                          timeout=60, check=False, **rest)  # fmt: skip


def test_the_command_asks_all_and_never_twice(server: Server, write: Callable[..., Path]) -> None:
    path = write()
    ended = command("annotate", str(path), "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    (one,) = found["teachers"]
    assert (one["questions"], one["outcomes"]) == (40, {"read": 40})
    assert one["account"]["sends"] == len(server.asked) == len(set(server.asked)) == 40
    assert one["account"]["cost"] == pytest.approx(40 * 0.0002)
    again = command("annotate", str(path), "--json", "--resume", "require")
    assert again.returncode == 0
    assert len(server.asked) == 40
    (material_,) = material.gather(load(path)).values()
    assert len(material_.annotations) == 40
    assert all(verdict.votes == 2 for verdict in material_.verdicts.values())
    assert {lesson.label for lesson in material_.lessons("why", 0)} <= set("12345")


def test_only_what_is_new_is_asked(server: Server, write: Callable[..., Path]) -> None:
    asking.ask(load(write()), QUIET)
    assert len(server.asked) == 40
    asking.ask(load(write(("train: 12", "train: 13"))), QUIET)
    assert len(server.asked) == 42
    asking.ask(load(write(("[on_topic]", "[on_topic, naturalness]"))), QUIET)
    assert len(server.asked) == 42 + 40
    more = ("teachers:", "teachers:\n  other: {url: URL, prompts: [labels]}")
    asking.ask(load(write(more, ("URL", server.url))), QUIET)
    assert len(server.asked) == 82 + 20
    assert max(server.times.values()) == 1


def test_the_limit_takes_the_first_examples(server: Server, write: Callable[..., Path]) -> None:
    recipe = load(write())
    (one,) = asking.ask(recipe, QUIET, limit=3)
    assert (one.questions, len(server.asked)) == (6, 6)
    # A verdict is there for those alone that somebody was asked about.
    assert len(list(journal(recipe).replies())) == 6


def test_what_cannot_be_read_is_asked_again_and_never_a_score(
    server: Server, write: Callable[..., Path]
) -> None:
    def respond(asked: dict[str, Any], _: int) -> Any:
        last = asked["messages"][-1]["content"]
        hard = "scale" not in last and len(asked["messages"]) == 1 and "to 4" in last
        return spoken("I would say five!") if hard else good(asked)

    server.respond = respond
    recipe = load(write())
    (one,) = asking.ask(recipe, QUIET)
    assert one.outcomes == {"read": 40}
    assert (one.account.sends, len(server.asked)) == (60, 60)
    again = [json.loads(a)["messages"] for a in server.asked if "could not be read" in a]
    assert len(again) == 20
    assert all(m[1] == {"role": "assistant", "content": "I would say five!"} for m in again)
    prompts = Counter(count.prompt for count in journal(recipe).counts())
    assert prompts["scale-1-4, asked again"] == 1

    server.respond = lambda asked, _: spoken("I would say five!")
    other = load(write(("mind:", "other:")))
    (one,) = asking.ask(other, QUIET)
    assert one.outcomes == {"unreadable": 40}
    assert one.whole
    assert one.account.sends == 80  # once again each, and no more
    asking.ask(other, QUIET)
    assert len(server.asked) == 60 + 80
    with pytest.raises(TeachingError, match="none of 40 replies could be read"):
        material.gather(other)


def test_refusals_and_failures_are_outcomes(server: Server, write: Callable[..., Path]) -> None:
    def respond(asked: dict[str, Any], before: int) -> Any:
        drawn = int(hashlib.sha256(str(asked["messages"]).encode()).hexdigest(), 16) % 10
        if drawn == 0:
            return spoken(None, refusal="I will not.")
        if drawn == 1:
            return 400, {}, b"too long"
        if drawn == 2 and before == 0:
            return None
        return good(asked)

    server.respond = respond
    recipe = load(write())
    (one,) = asking.ask(recipe, QUIET)
    kinds = Counter(
        int(hashlib.sha256(str(json.loads(a)["messages"]).encode()).hexdigest(), 16) % 10
        for a in set(server.asked)
    )
    assert min(kinds[0], kinds[1], kinds[2]) > 0
    assert one.outcomes == {
        "read": 40 - kinds[0] - kinds[1], "refused": kinds[0], "failed": kinds[1],
    }  # fmt: skip
    assert not one.whole
    assert one.account.given_up == ["client error: HTTP 400: too long"]
    (found,) = material.gather(recipe).values()
    assert Counter(a.outcome for a in found.annotations)[Outcome.FAILED] == kinds[1]
    # What failed is asked again by the next call; what was refused is not.
    before = len(server.asked)
    asking.ask(recipe, QUIET)
    assert len(server.asked) == before + kinds[1]


def test_a_teacher_who_refuses_everything_is_given_up_early(
    server: Server, write: Callable[..., Path]
) -> None:
    server.respond = lambda *_: (401, {}, b"who are you?")
    ended = command("annotate", str(write(("{train: 12, test: 8}", "{}"))))
    assert ended.returncode == 2
    assert "teachers.mind" in ended.stderr
    assert "who are you?" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert 12 <= len(server.asked) < 120  # of 360


def test_a_server_that_is_not_there_is_told(server: Server, write: Callable[..., Path]) -> None:
    path = write()
    server.stop()
    with pytest.raises(WorkError, match="none was answered"):
        asking.ask(load(path), QUIET)


def test_a_key_is_in_no_file_and_no_word(
    server: Server, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(("url:", "key: SOME_KEY\n    url:"))
    missing = command("annotate", str(path), env={**os.environ, "SOME_KEY": ""})
    assert missing.returncode == 2
    assert "SOME_KEY is not set" in missing.stderr
    quoting = 0

    def respond(asked: dict[str, Any], _: int) -> Any:
        nonlocal quoting
        quoting += 1
        if quoting % 3 == 0:
            return spoken(f"my key is {CANARY}")
        return (403, {"x-key": CANARY}, f"bad {CANARY}".encode()) if quoting % 3 else good(asked)

    server.respond = respond
    ended = command("annotate", str(path), "--json", env={**os.environ, "SOME_KEY": CANARY})
    assert server.keys == {f"Bearer {CANARY}"}
    assert CANARY not in ended.stdout + ended.stderr
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file
    # Who writes the key itself where its name belongs sees it nowhere either.
    wrong = command("annotate", str(write(("url:", f"key: {CANARY}\n    url:"))))
    assert wrong.returncode == 2
    assert "name of an environment variable" in wrong.stderr
    assert CANARY not in wrong.stdout + wrong.stderr


def test_the_budget_is_never_passed(server: Server, write: Callable[..., Path]) -> None:
    parameters = ("prompts:", "parameters: {max_tokens: 20}\n    prompts:")
    recipe = load(write(parameters))
    (one,) = asking.ask(recipe, QUIET, budget=0.003)
    assert one.account.stopped
    assert 0 < one.account.cost <= 0.003
    assert one.account.cost == pytest.approx(0.0002 * len(server.asked))
    assert one.outcomes["unasked"] == 40 - len(server.asked)
    spent = len(server.asked)
    (one,) = asking.ask(recipe, QUIET, budget=0.003)  # of the journal, not of the call
    assert 0.0002 * len(server.asked) <= 0.003
    (one,) = asking.ask(recipe, QUIET, budget=1)
    assert one.whole
    assert len(server.asked) == len(set(server.asked)) == 40
    assert spent < 40
    with pytest.raises(RecipeError, match="found no price of mind"):
        asking.ask(load(write(("    price: {input: 1.0, output: 10.0}\n", ""))), QUIET, budget=1)


def test_a_dry_run_sends_nothing_and_needs_no_key(
    server: Server, write: Callable[..., Path]
) -> None:
    path = write(("url:", "key: SOME_KEY\n    url:"))
    ended = command("annotate", str(path), "--dry-run", "--json")
    assert ended.returncode == 0, ended.stderr
    assert not server.asked
    assert not list(path.parent.glob("r.journal*"))
    found = json.loads(ended.stdout.splitlines()[-1])
    (row,) = found["forecasts"]
    assert (row["questions"], row["settled"]) == (40, 0)
    costs = [row[level]["cost"] for level in ("low", "expected", "high")]
    assert costs == sorted(costs)
    assert 0 < costs[0] < costs[2]
    assert "whole number from 1 to 4" in found["prompt"][0]["content"]
    open_path = write()
    asking.ask(load(open_path), QUIET, limit=5)
    (row,) = forecast.plan(load(open_path)).forecasts
    assert (row.questions, row.settled) == (40, 10)


def test_a_forecast_holds_what_is_then_spent(server: Server, write: Callable[..., Path]) -> None:
    """The server counts two tokens for every seven bytes, and answers in ninety words."""

    def respond(asked: dict[str, Any], _: int) -> Any:
        size = sum(len(m["content"].encode()) for m in asked["messages"])
        status, headers, body = good(asked)
        content = json.loads(body)
        content["usage"] = {"prompt_tokens": size * 2 // 7, "completion_tokens": 120}
        return status, headers, json.dumps(content).encode()

    server.respond = respond
    recipe = load(write())
    (row,) = forecast.plan(recipe).forecasts
    (one,) = asking.ask(recipe, QUIET)
    assert (row.low.cost or 0) < one.account.cost < (row.high.cost or 0)
    assert row.expected.tokens_in == pytest.approx(one.account.tokens_in, rel=0.02)


@pytest.mark.parametrize("moment", range(4))
def test_a_killed_process_loses_nothing(
    moment: int, server: Server, write: Callable[..., Path]
) -> None:
    server.latency = 0.02
    path = write(("url:", "concurrency: 4\n    url:"))
    process = subprocess.Popen([sys.executable, "-m", "whytune", "annotate", str(path)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    drawn = random.Random(moment).randrange(2, 35)
    while len(server.asked) < drawn and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    recipe = load(path)
    acknowledged = {r.key for r in journal(recipe).replies()}
    (one,) = asking.ask(recipe, QUIET)
    assert one.whole
    assert sum(server.times.values()) - len(server.times) <= 4
    assert acknowledged <= {r.key for r in journal(recipe).replies()}
    # Bought once, it is not bought again.
    bought = {asked_in(r) for r in _requests(recipe) if r.key in acknowledged}
    assert all(server.times[body] == 1 for body in server.asked
               if str(json.loads(body)["messages"]) in bought)  # fmt: skip


def asked_in(request: Request) -> str:
    return str([dict(message) for message in request.messages])


def _requests(recipe: Recipe) -> Iterator[Request]:
    (about,) = asking.abouts(recipe, None)
    for questions in ensemble.voters(recipe, about).values():
        yield from (question.request for question in questions)


def test_an_interrupt_waits_for_what_is_under_way(
    server: Server, write: Callable[..., Path]
) -> None:
    server.latency = 0.1
    path = write(("url:", "concurrency: 4\n    url:"))
    process = subprocess.Popen([sys.executable, "-m", "whytune", "annotate", str(path)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while len(server.asked) < 6:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "goes on where it stopped" in told
    assert "Traceback" not in told
    recipe = load(path)
    assert not list(journal(recipe).in_flight())
    assert len(list(journal(recipe).replies())) == len(server.asked) < 40


def test_several_addresses_share_the_work(server: Server, write: Callable[..., Path]) -> None:
    other = Server()
    try:
        server.latency = other.latency = 0.02
        recipe = load(write((f"url: {server.url}", f"url: [{server.url}, {other.url}]")))
        (one,) = asking.ask(recipe, QUIET)
        assert one.whole
        assert len(server.asked) + len(other.asked) == 40
        assert min(len(server.asked), len(other.asked)) >= 10
    finally:
        other.stop()


ENSEMBLE = """
name: ask
model: smollm2-135m
corpora: {starter: {train: 6, test: 4}}
tasks: [on_topic]
arms: {label: {}, why: {explanation: assessment}}
teachers:
  one: {api: python, prompts: [scale-1-5, labels]}
  two: {api: python, prompts: [scale-1-4, justify]}
  boss: {api: python, prompts: []}
"""


def given(recipe: Recipe, asked: list[Request]) -> dict[str, Function]:
    def reply(request: Request) -> str:
        asked.append(request)
        return reply_to([dict(m) for m in request.messages], request.schema)

    return {name: Function(reply) for name in recipe.teachers}


def test_a_known_label_is_justified(write: Callable[..., Path]) -> None:
    recipe = load(write(text=ENSEMBLE))
    asked: list[Request] = []
    found = asking.ask(recipe, QUIET, teachers=given(recipe, asked))
    assert [(one.teacher, one.questions) for one in found] == [
        ("one", 20),
        ("two", 10),
        ("two", 10),
    ]
    (got,) = material.gather(recipe).values()
    reasons = {r.example_id: r for r in asked if r.prompt == "justify"}
    assert len(reasons) == 10
    for id_, verdict in got.verdicts.items():
        assert verdict.votes == 3  # a reason for a label is no vote for it
        assert f"The right label is known: {verdict.label}." in reasons[id_].messages[0]["content"]
        said = json.loads(reply_to([dict(m) for m in reasons[id_].messages], reasons[id_].schema))
        assert verdict.assessment == said["assessment"]


@pytest.mark.parametrize("decides", [False, True])
def test_a_merger_reads_what_all_said(decides: bool, write: Callable[..., Path]) -> None:
    merge = "merger: boss\nmerge: merger" if decides else "merger: boss"
    recipe = load(write((", justify", ""), ("name: ask", f"name: ask\n{merge}"), text=ENSEMBLE))
    asked: list[Request] = []
    found = asking.ask(recipe, QUIET, teachers=given(recipe, asked))
    assert [(one.teacher, one.questions) for one in found] == [
        ("one", 20),
        ("two", 10),
        ("boss", 10),
    ]
    (got,) = material.gather(recipe).values()
    merged = {r.example_id: r for r in asked if r.teacher == "boss"}
    for id_, verdict in got.verdicts.items():
        request = merged[id_]
        said = json.loads(reply_to([dict(m) for m in request.messages], request.schema))
        votes = [a for a in got.annotations if a.example_id == id_]
        assert all(str(vote.assessment) in request.messages[0]["content"] for vote in votes)
        assert verdict.assessment == said["assessment"]
        mean = sum(vote.score for vote in votes if vote.score is not None) / 3
        assert verdict.label == (said["label"] if decides else got.task.nearest(mean))
    before = len(asked)
    asking.ask(recipe, QUIET, teachers=given(recipe, asked))
    assert len(asked) == before


def test_recorded_replies_vote_with_those_who_are_asked(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = load(write((", justify", ""), ("  boss: {api: python, prompts: []}",
                                            "  old: {api: recorded, path: old.jsonl}\n"
                                            "  own: {api: recorded}"), text=ENSEMBLE))  # fmt: skip
    (about,) = asking.abouts(recipe, None)
    rows = [{"example_id": e.id, "task": "on_topic", "prompt": "p", "text": '{"score": 3}',
             "scale": [1, 5]} for e in about.examples]  # fmt: skip
    (tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asking.ask(recipe, QUIET, teachers=given(recipe, []))
    (got,) = material.gather(recipe).values()
    own = sum(reply.task == "on_topic" for reply in about.replies) // 10
    assert own
    assert all(v.votes + v.unread == 3 + 1 + own for v in got.verdicts.values())
    (tmp_path / "old.jsonl").write_text('{"example_id": "x", "task": 3}')
    with pytest.raises(TeachingError, match=r"old.jsonl:1: found task 3, expected text"):
        material.gather(recipe)


def test_a_function_that_fails_is_no_label(write: Callable[..., Path]) -> None:
    recipe = load(write((", justify", ""), text=ENSEMBLE))
    calls = Counter[str]()

    def reply(request: Request) -> str:
        calls[request.key] += 1
        if request.prompt == "labels" and calls[request.key] == 1:
            raise RuntimeError("not now")
        return reply_to([dict(m) for m in request.messages], request.schema)

    found = asking.ask(recipe, QUIET, teachers={n: Function(reply) for n in recipe.teachers})
    assert all(one.outcomes == {"read": one.questions} for one in found)
    assert Counter(calls.values()) == {1: 20, 2: 10}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--resume", "require"), "not there, and --resume require"),
        (("--set", "teachers={}"), "found no teacher that can be asked"),
        (("--set", "teachers={mind: {api: python}}"), "a function answers for it"),
        (("--set", "teachers={mind: {}}"), "openai needs `url:`"),
        (("--set", "teachers={mind: {url: localhost}}"), "begins with http"),
        (("--set", "merger=nobody"), "'nobody' is none of the teachers"),
        (("--set", "merge=merger"), "merge is merger, but there is none"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told(
    words: tuple[str, ...], told: str, write: Callable[..., Path]
) -> None:
    ended = command("annotate", str(write()), *words)
    assert (ended.returncode, told in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_journal_that_must_be_new_is_never_gone_on_with(
    server: Server, write: Callable[..., Path]
) -> None:
    recipe = load(write())
    asking.ask(recipe, QUIET, limit=1)
    with pytest.raises(TeachingError, match="is there already"):
        asking.ask(recipe, QUIET, resume="never")
    assert len(server.asked) == 2


def test_without_any_reply_the_way_out_is_named(write: Callable[..., Path]) -> None:
    ended = command("merge", str(write()))
    assert ended.returncode == 2
    assert "ask teachers first" in ended.stderr


@pytest.mark.parametrize("end", ["without usage", "timeout", "kill"])
def test_the_budget_holds_over_calls_of_unknown_cost(
    end: str, server: Server, write: Callable[..., Path]
) -> None:
    """What was perhaps paid counts as paid in every later call, with the estimate set aside."""
    quick = "prompts:", "parameters: {max_tokens: 20}\n    timeout: 0.5\n    prompts:"
    path = write(quick)
    recipe = load(path)
    (about,) = asking.abouts(recipe, None)
    worst = max(Estimate(recipe.teachers["mind"]).before(q.request)[2].cost or 0.0
                for q in ensemble.voters(recipe, about)["mind"])  # fmt: skip
    budget = 10 * worst

    def respond(asked: dict[str, Any], _: int) -> Any:
        status, headers, body = good(asked)
        if end == "timeout":
            time.sleep(1)
        content = json.loads(body)
        if end == "without usage":
            del content["usage"]
        return status, headers, json.dumps(content).encode()

    server.respond = respond
    if end == "kill":
        server.latency = 30
    for _ in range(3):
        if end == "kill":
            before = len(server.asked)
            words = ("annotate", str(path), "--budget", str(budget))
            process = subprocess.Popen([sys.executable, "-m", "whytune", *words],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            until = time.monotonic() + 3
            while len(server.asked) == before and process.poll() is None:
                if time.monotonic() > until:
                    break
                time.sleep(0.05)
            process.kill()
            process.wait()
        else:
            with suppress(WorkError):
                asking.ask(recipe, QUIET, budget=budget)
    # The least that a request may have cost, by its own estimate, is more than half of the worst.
    assert 0 < len(server.asked) <= 20


def test_one_who_cannot_be_reached_does_not_stop_the_others(
    server: Server, write: Callable[..., Path]
) -> None:
    gone = "teachers:", "teachers:\n  gone: {url: 'http://127.0.0.1:9/v1', prompts: [labels]}"
    recipe = load(write(gone))
    with pytest.raises(WorkError, match=r"teachers\.gone at http://127\.0\.0\.1:9/v1: 12 requests"):
        asking.ask(recipe, QUIET)
    assert len(server.asked) == 40


def test_sigterm_waits_for_what_is_under_way(server: Server, write: Callable[..., Path]) -> None:
    server.latency = 0.3
    path = write(("url:", "concurrency: 4\n    url:"))
    process = subprocess.Popen([sys.executable, "-m", "whytune", "annotate", str(path)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while len(server.asked) < 6:
        time.sleep(0.01)
    process.terminate()
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "waiting for what is under way" in told
    assert "Traceback" not in told
    assert not list(journal(load(path)).in_flight())


def test_work_that_is_held_up_says_why(
    server: Server, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotate_module, "BEAT", 0.05)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.02)
    waited = 0

    def respond(asked: dict[str, Any], _: int) -> Any:
        nonlocal waited
        waited += 1
        return (429, {"Retry-After": "0.4"}, b"") if waited == 1 else good(asked)

    server.respond = respond
    told: list[str] = []

    class Told(Progress):
        def say(self, text: str) -> None:
            told.append(text)

    asking.ask(load(write()), Told(), limit=2)
    assert any("1 refused for now (429)" in line for line in told)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("{url: 'http://[::1/v1'}", "expected an address that begins with http"),
        ("{url: 'http://x:99999/v1'}", "expected an address that begins with http"),
        ("{url: 'http://x/v1?api-version=3'}", "expected an address without ? and #"),
        ("{url: 'http://x/v1/chat/completions'}", "drop /chat/completions"),
        ("{url: 'http://me:hunter2@x/v1'}", "found a name or password in the address"),
        ("{url: 'http://x', parameters: {api_key: x}}", "keys come from the environment alone"),
        ("{url: 'http://x', parameters: {temperature: .nan}}", "found what is not JSON"),
        ("{url: 'http://x', prompts: [labels, labels]}", "a prompt stands twice"),
        ("{url: 'http://x', prompts: [justify]}", "none of mind votes"),
        ("{url: 'http://x', key: AKIA1234SECRETKEY99}", "name of an environment variable"),
    ],
)
def test_a_teacher_that_cannot_be_is_told_before_anything_is_sent(
    spec: str, told: str, write: Callable[..., Path]
) -> None:
    path = write()
    with pytest.raises(RecipeError, match=re.escape(told)) as fault:
        asking.ask(recipe_file.load(path, [f"teachers={{mind: {spec}}}"]), QUIET)
    assert not any(secret in str(fault.value) for secret in ("hunter2", "AKIA"))


def test_examples_that_are_not_there_are_told_first(
    server: Server, write: Callable[..., Path]
) -> None:
    task = "{name: own, kind: ordinal, question: 'How?', labels: [bad, good]}"
    other = "teachers:", "teachers:\n  other: {url: URL, prompts: [scale-1-5-examples]}"
    path = write(other, ("URL", server.url), ("[on_topic]", f"[{task}]"))
    with pytest.raises(TeachingError, match="found no example texts"):
        asking.ask(load(path), QUIET)
    assert not server.asked


def test_the_journal_is_named_by_the_recipes_file(write: Callable[..., Path]) -> None:
    path = write()
    one, other = load(path), recipe_file.load(path, ["name=other"])
    assert one.journal == other.journal == str(path.with_suffix(".journal"))
