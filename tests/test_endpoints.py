"""Requests over loopback to servers that answer as real ones do."""

import asyncio
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from whytune.errors import TeachingError
from whytune.teaching import lines
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.endpoints import Api, Connection, Endpoint, answer, body
from whytune.teaching.requests import Request

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}}
MESSAGES = [
    {"role": "system", "content": "You judge."}, {"role": "user", "content": "How good?"},
]  # fmt: skip
CANARY = "canary-7f3a-key"
OPENAI = {
    "choices": [{"message": {"content": '{"score": 4}'}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 30, "completion_tokens": 5,
              "prompt_tokens_details": {"cached_tokens": 16}},
}  # fmt: skip
ANTHROPIC = {
    "content": [{"type": "text", "text": '{"score":'}, {"type": "text", "text": " 4}"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 5},
}


class Server:
    """Answers every request with what it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.reply: tuple[int, dict[str, str], bytes] | None = (
            200,
            {},
            json.dumps(OPENAI).encode(),
        )
        self.closing = False
        """Hang up after every answer, without having said so."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.asked.append((self.path, headers, content))
                if server.reply is None:
                    self.close_connection = True
                    return
                status, extra, found = server.reply
                self.send_response(status)
                for name, value in {**extra, "content-length": str(len(found))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(found)
                self.close_connection = self.close_connection or server.closing

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def encrypt(self, certificate: Path, key: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


REQUEST = Request(example_id="e", task="t", teacher="a", prompt="p", model="m",
                  messages=MESSAGES, schema=SCHEMA, parameters={"temperature": 0})  # fmt: skip


def ask(endpoint: Endpoint, timeout: float = 5.0) -> Answer:
    async def once() -> Answer:
        async with Connection(endpoint, timeout=timeout) as connection:
            return await connection.ask(REQUEST)

    return asyncio.run(once())


def ask_often(endpoint: Endpoint, times: int) -> list[Answer]:
    """One after another, by the same connection where it holds."""

    async def all_of_them() -> list[Answer]:
        async with Connection(endpoint, timeout=5.0) as connection:
            found = []
            for _ in range(times):
                found.append(await connection.ask(REQUEST))
                await asyncio.sleep(0.02)
            return found

    return asyncio.run(all_of_them())


def test_openai_is_asked_and_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    found = ask(Endpoint(url=server.url, key="SOME_KEY"))
    assert found == Answer(
        ended=Ended.REPLIED, text='{"score": 4}', status=200, tokens_in=30, tokens_out=5,
        tokens_cached=16,
    )  # fmt: skip
    ((path, headers, content),) = server.asked
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {CANARY}"
    assert (content["model"], content["temperature"]) == ("m", 0)
    assert content["messages"] == MESSAGES
    assert content["response_format"]["json_schema"]["schema"] == SCHEMA


def test_anthropic_is_asked_and_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    server.reply = (200, {}, json.dumps(ANTHROPIC).encode())
    found = ask(Endpoint(url=server.url, api="anthropic", key="SOME_KEY"))
    assert found == Answer(
        ended=Ended.REPLIED, text='{"score": 4}', status=200, tokens_in=30, tokens_out=5,
        tokens_cached=20,
    )  # fmt: skip
    ((path, headers, content),) = server.asked
    assert path == "/v1/messages"
    assert headers["x-api-key"] == CANARY
    assert headers["anthropic-version"]
    assert content["system"] == "You judge."
    assert content["messages"] == MESSAGES[1:]
    assert content["max_tokens"] > 0
    assert content["output_config"]["format"]["schema"] == SCHEMA


def test_a_server_that_knows_no_schemas_gets_none() -> None:
    asked = body("openai", replace(REQUEST, schema=None))
    assert set(asked) == {"model", "messages", "temperature"}


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (400, Ended.CLIENT_ERROR), (401, Ended.CLIENT_ERROR), (404, Ended.CLIENT_ERROR),
        (301, Ended.CLIENT_ERROR), (408, Ended.TIMEOUT), (429, Ended.RATE_LIMITED),
        (529, Ended.RATE_LIMITED), (500, Ended.SERVER_ERROR), (503, Ended.RATE_LIMITED), (502, Ended.SERVER_ERROR),
    ],
)  # fmt: skip
def test_every_status_ends_somehow(status: int, ended: Ended, server: Server) -> None:
    server.reply = (status, {"Retry-After": "7", "x-ratelimit-limit-requests": "60"}, b"no\n luck")
    found = ask(Endpoint(url=server.url))
    assert (found.ended, found.status, found.text) == (ended, status, "")
    assert (found.retry_after, found.error) == ("7", f"HTTP {status}: no luck")
    assert found.limits == {"x-ratelimit-limit-requests": "60"}


def test_a_server_that_is_down_says_nothing_of_waiting() -> None:
    found = answer("openai", 503, {}, b"")
    assert found.ended is Ended.SERVER_ERROR


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b'{"choices": []}', b'{"choices": [{"message": null}]}',
     b"\xff\xfe", b'{"choices": [{"message": {"content": 4}}]}', b"[" * 100_000],
)  # fmt: skip
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_what_is_no_answer_never_becomes_one(content: bytes, api: Any) -> None:
    found = answer(api, 200, {}, content)
    assert (found.ended, found.text) == (Ended.SERVER_ERROR, "")
    assert found.error


@pytest.mark.parametrize(
    ("api", "change", "text"),
    [
        ("openai", {"message": {"refusal": "I will not."}}, "I will not."),
        ("openai", {"message": {"content": "Hm"}, "finish_reason": "content_filter"}, "Hm"),
        ("anthropic", {"content": [], "stop_reason": "refusal"}, ""),
    ],
)  # fmt: skip
def test_a_refusal_is_told_by_the_server(api: Any, change: dict[str, Any], text: str) -> None:
    content = {"choices": [change]} if api == "openai" else change
    found = answer(api, 200, {}, json.dumps(content).encode())
    assert (found.ended, found.text) == (Ended.REFUSED, text)


def test_a_reply_that_ran_out_of_tokens_says_so() -> None:
    openai = {"choices": [{"message": {"content": "{"}, "finish_reason": "length"}]}
    anthropic = {"content": [{"type": "text", "text": "{"}], "stop_reason": "max_tokens"}
    apis: tuple[tuple[Api, object], ...] = (("openai", openai), ("anthropic", anthropic))
    for api, content in apis:
        found = answer(api, 200, {}, json.dumps(content).encode())
        assert (found.ended, found.text, found.cut) == (Ended.REPLIED, "{", True)


def test_a_server_that_hangs_up_or_is_not_there_is_an_answer(server: Server) -> None:
    server.reply = None
    assert ask(Endpoint(url=server.url)).ended is Ended.CONNECTION
    server.stop()
    gone = ask(Endpoint(url=server.url))
    assert gone.ended is Ended.CONNECTION
    assert gone.error


def test_a_server_that_is_late_is_an_answer() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert ask(Endpoint(url=url), timeout=0.2).ended is Ended.TIMEOUT


def test_a_key_comes_back_in_no_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    endpoint = Endpoint(url=server.url, key="SOME_KEY")
    for padding in (0, 290, 296):
        quoted = b"x" * padding + f"no such key {CANARY}".encode()
        server.reply = (401, {}, quoted)
        found = ask(endpoint)
        assert found.ended is Ended.CLIENT_ERROR
        assert not any(CANARY[: n + 5] in repr(found) for n in range(len(CANARY)))
    assert CANARY not in repr(endpoint)
    assert CANARY not in json.dumps(body("openai", REQUEST))


def test_what_cannot_be_asked_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(TeachingError, match="SOME_KEY is not set"):
        Connection(Endpoint(url="http://x/v1", key="SOME_KEY"))
    with pytest.raises(TeachingError, match="begins with http"):
        Connection(Endpoint(url="localhost:8000"))


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not here to make a certificate")
def test_a_server_is_asked_by_tls_and_only_a_trusted_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
         "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    server.encrypt(certificate, key)
    endpoint = Endpoint(url=server.url.replace("http://127.0.0.1", "https://localhost"))
    refused = ask(endpoint)
    assert (refused.ended, "certificate" in refused.error.lower()) == (Ended.CONNECTION, True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert [found.text for found in ask_often(endpoint, 8)] == ['{"score": 4}'] * 8


def test_a_connection_that_the_server_has_closed_is_not_used_again(server: Server) -> None:
    server.closing = True
    assert [found.ended for found in ask_often(Endpoint(url=server.url), 5)] == [Ended.REPLIED] * 5


def test_a_proxy_of_the_environment_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    found = ask(Endpoint(url="http://nowhere.invalid/v1"))
    assert found.ended is Ended.REPLIED
    assert server.asked[0][0] == "http://nowhere.invalid/v1/chat/completions"


class Raw:
    """A server that writes whatever it is told, a list of pieces, after every request."""

    def __init__(self, *pieces: bytes, pause: float = 0.0) -> None:
        self.pieces, self.pause, self.connections, self.requests = pieces, pause, 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.findall(rb"ength: (\d+)", head)[0]))
                self.requests += 1
                for piece in self.pieces:
                    writer.write(piece.replace(b"NUMBER", b"%06d" % self.requests))
                    await writer.drain()
                    await asyncio.sleep(self.pause)
        writer.close()

    async def asked(self, times: int, timeout: float = 5.0) -> list[Answer]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Connection(Endpoint(url=f"http://127.0.0.1:{port}"), timeout=timeout) as line:
            found = [await line.ask(REQUEST) for _ in range(times)]
        server.close()
        await asyncio.sleep(0.1)  # for its connections to end
        return found


def response(text: str, *more: bytes) -> bytes:
    content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s" % (
        len(content), content, b"".join(more))  # fmt: skip


def chunked(text: str, *more: bytes) -> bytes:
    content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n%s" % (
        len(content), content, b"".join(more))  # fmt: skip


@pytest.mark.parametrize("form", [response, chunked])
def test_what_a_server_says_too_much_is_never_another_answer(form: Any) -> None:
    """Every answer is that of its own request, also where each response comes twice."""
    twice = Raw(form("NUMBER", form("NUMBER")))
    assert [int(found.text) for found in asyncio.run(twice.asked(6))] == [1, 2, 3, 4, 5, 6]
    assert twice.connections == 6
    once = Raw(form("NUMBER"))
    assert [int(found.text) for found in asyncio.run(once.asked(6))] == [1, 2, 3, 4, 5, 6]
    assert once.connections == 1


def test_an_answer_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 1000)
    (found,) = asyncio.run(Raw(response("x" * 2000)).asked(1))
    assert (found.ended, "more than 1000 bytes" in found.error) == (Ended.CONNECTION, True)
    dripping = Raw(*(response("slow")[i : i + 1] for i in range(80)), pause=0.05)
    (found,) = asyncio.run(dripping.asked(1, timeout=0.5))
    assert found.ended is Ended.TIMEOUT


@pytest.mark.parametrize(
    "odd", ["400", -1, 1e30, float("nan"), True, 10**400, None, [], {"cached_tokens": "12"}]
)
def test_odd_counts_cost_no_reply(odd: Any) -> None:
    content = {"choices": [{"message": {"content": "fine"}}],
               "usage": {"prompt_tokens": odd, "completion_tokens": odd,
                         "prompt_tokens_details": odd}}  # fmt: skip
    for usage in (content["usage"], odd):
        found = answer("openai", 200, {}, json.dumps({**content, "usage": usage}).encode())
        assert (found.ended, found.text) == (Ended.REPLIED, "fine")
        assert (found.tokens_in, found.tokens_out, found.tokens_cached) == (None, None, None)
    anthropic = {"content": [{"type": "text", "text": "fine"}],
                 "usage": {"input_tokens": odd, "output_tokens": odd}}  # fmt: skip
    assert answer("anthropic", 200, {}, json.dumps(anthropic).encode()).tokens_in is None


@pytest.mark.parametrize("form", ["plain", "slashes", "unicode"])
def test_a_key_that_json_writes_otherwise_is_no_word_of_it(
    form: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-ab/cd+ef=="
    monkeypatch.setenv("SOME_KEY", key)
    written = {"plain": key, "slashes": key.replace("/", "\\/"),
               "unicode": "".join(f"\\u00{ord(c):02X}" for c in key)}[form]  # fmt: skip
    for status, content in (
        (401, f'{{"error": "no such key {written}"}}'),
        (200, f'{{"choices": [{{"message": {{"content": "your key is {written}"}}}}]}}'),
    ):
        server.reply = (status, {}, content.encode())
        found = ask(Endpoint(url=server.url, key="SOME_KEY"))
        assert not any(part in repr(found) for part in (key, written, "cd+ef"))
        assert "***" in found.text + found.error


@pytest.mark.parametrize("key", ["sk-SEC\nRET123", "sk-SECRÉT", "two words"])
def test_a_key_that_is_none_is_told_without_being_shown(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(TeachingError, match="SOME_KEY holds spaces, line breaks") as told:
        Connection(Endpoint(url="http://x/v1", key="SOME_KEY"))
    assert not any(word in str(told.value) for word in key.split())


def test_what_a_terminal_would_obey_is_not_in_a_complaint() -> None:
    found = answer("openai", 500, {}, b"\x1b]0;title\x07oh \x1b[31mno")
    assert found.error == "HTTP 500: \ufffd]0;title\ufffdoh \ufffd[31mno"
    found = answer("openai", 307, {"location": "https://other/v1"}, b"")
    assert found.error == "HTTP 307: redirects to https://other/v1; correct the url"
