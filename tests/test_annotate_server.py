"""The benchmark's scripted server and the reading of its log: figures are only as good as these."""

import hashlib
import http.client
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"
FILLER = "x" * 1000


class Client:
    """One connection to the server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.close = self._connection.close

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self._connection.request("POST", "/v1/chat/completions", body)
        response = self._connection.getresponse()
        return response.status, dict(response.headers), response.read()

    def reset(self, **options: Any) -> None:
        self._connection.request("POST", "/reset", json.dumps(options).encode())
        self._connection.getresponse().read()

    def log(self) -> list[list[Any]]:
        self._connection.request("GET", "/log")
        found: list[list[Any]] = json.loads(self._connection.getresponse().read())
        return found


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with subprocess.Popen([sys.executable, str(BENCH / "annotate_server.py")], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None
        client = Client(int(server.stdout.readline()))
        yield client
        client.close()
        server.stdin.close()


def call(number: int) -> bytes:
    return json.dumps({"messages": [{"content": f"{number} {FILLER}"}]}).encode()


def test_a_reply_comes_after_the_latency_and_is_logged_under_its_digest(client: Client) -> None:
    client.reset(latency=0.1)
    body = call(1)
    before = time.monotonic()
    status, _, reply = client.ask(body)
    assert time.monotonic() - before >= 0.1
    said = json.loads(json.loads(reply)["choices"][0]["message"]["content"])
    digest = hashlib.sha256(body.replace(b" ", b"")).hexdigest()
    assert status == 200
    assert list(said) == ["score", "assessment", "confidence"]
    assert digest[:12] in said["assessment"]
    client.ask(json.dumps(json.loads(body), indent=2).encode())
    first, second = client.log()
    assert first[2] == second[2] == digest
    assert first[3] == "answered"
    assert first[1] - first[0] == pytest.approx(0.1, abs=0.05)


def test_the_bucket_lets_through_its_store_and_then_its_rate(client: Client) -> None:
    client.reset(latency=0.0, rate=50.0, burst=10.0)
    started = time.monotonic()
    statuses: list[int] = []
    while time.monotonic() - started < 0.5:
        status, headers, _ = client.ask(call(len(statuses)))
        statuses.append(status)
        assert headers.get("Retry-After") == (None if status == 200 else "1")
        time.sleep(0.002)
    seconds = time.monotonic() - started
    assert statuses[:10] == [200] * 10
    assert set(statuses) == {200, 429}
    assert statuses.count(200) == pytest.approx(10 + 50 * seconds, abs=2)


def test_retry_after_as_a_fraction_is_just_long_enough(client: Client) -> None:
    client.reset(latency=0.0, rate=4.0, burst=1.0, fractions=True)
    client.ask(call(1))
    status, headers, _ = client.ask(call(2))
    assert status == 429
    assert 0 < float(headers["Retry-After"]) <= 0.25
    time.sleep(float(headers["Retry-After"]) + 0.01)
    assert client.ask(call(2))[0] == 200


def test_faults_come_in_their_shares_and_fall_on_the_same_requests(client: Client) -> None:
    def fates() -> list[str]:
        client.reset(latency=0.0, disconnect=0.1, malformed=0.2, seed=3)
        for number in range(600):
            try:
                _, _, reply = client.ask(call(number))
            except (http.client.RemoteDisconnected, ConnectionResetError):
                fate = "lost"
            else:
                fate = read(reply)
            assert client_fates.setdefault(number, fate) == fate
        return [entry[3] for entry in client.log()]

    client_fates: dict[int, str] = {}
    found = fates()
    assert found == fates() == list(client_fates.values())
    for fate, share in (("lost", 0.1), ("words", 0.1), ("torn", 0.1), ("answered", 0.7)):
        assert found.count(fate) == pytest.approx(600 * share, abs=4 * (600 * share) ** 0.5)


def read(reply: bytes) -> str:
    try:
        said = json.loads(reply)["choices"][0]["message"]["content"]
    except ValueError:
        return "torn"
    return "answered" if said.startswith("{") else "words"


def test_short_requests_are_no_calls(client: Client) -> None:
    client.reset(latency=0.0, rate=1.0, burst=1.0, disconnect=1.0)
    assert [client.ask(b'{"messages": []}')[0] for _ in range(3)] == [200] * 3


@pytest.fixture
def annotate_log(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("annotate_log")


def entry(received: float, ended: float | None, request: str, fate: str = "answered") -> list[Any]:
    return [received, ended, request * 64, fate, 2000]


def test_what_kills_cost_is_counted_as_by_hand(annotate_log: Any) -> None:
    log = [
        entry(1.0, 1.2, "a"),  # kept, asked again: needless
        entry(1.1, 1.3, "b"),  # answered long before the kill and not kept: needless
        entry(8.9, 9.8, "c"),  # answered just before the kill: in flight
        entry(9.9, None, "d", "gone"),  # cut off: in flight, and not asked again
        entry(1.2, 1.4, "e"),  # kept, not asked again
        entry(11.0, 11.2, "a"), entry(11.0, 11.2, "b"), entry(11.0, 11.2, "c"),
        entry(12.0, 12.2, "c"),  # a retry, no kill between
    ]  # fmt: skip
    kills = [annotate_log.Kill(10.0, 4, {"a" * 12, "e" * 12})]
    assert annotate_log.after_kills(log, kills) == {
        "kills": 1, "acknowledged_lost": 2, "asked_again": 3, "reasked_after_kill": 2,
        "in_flight_at_kill": 2,
    }  # fmt: skip


def test_shares_of_a_rate_are_those_of_an_even_stream(annotate_log: Any) -> None:
    log = [entry(number / 80, 0.0, "a") for number in range(1000)]
    log += [entry(number / 80, 0.0, "b", "429") for number in range(250)]
    found = annotate_log.figures(log, 100.0)
    assert found["share_of_permitted_rate"] == pytest.approx(0.8)
    assert found["share_of_permitted_rate_whole_run"] == pytest.approx(0.8)
    assert found["share_429"] == pytest.approx(0.2)
