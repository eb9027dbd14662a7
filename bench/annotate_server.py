"""A scripted model server on loopback, in a process of its own: OpenAI's chat completions with a
latency, a permitted rate, lost connections and malformed replies, and a log of what was asked.

`python bench/annotate_server.py` prints its port and serves until its standard input is closed.
POST /reset takes options (`Options`) and empties the log; GET /log gives it, /count the number of
calls in it. HTTP/1.1 is read and written by hand, so that the server costs less than any client.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import math
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

SHORT = 1000
"""Bytes: with shorter requests a client learns about the server. They are always answered."""
_JASON = '{"name": "Jason", "age": 25}'
"""Curator asks for this to see whether a server keeps to a schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the server behaves."""

    latency: float = 0.2
    """Seconds from a request to its reply; refusals come at once."""
    rate: float | None = None
    """Permitted requests a second (a token bucket); None: all are served."""
    burst: float = 1.0
    """Requests that the bucket holds."""
    fractions: bool = False
    """Retry-After as a fraction of a second; else whole seconds, as RFC 9110 wants it."""
    disconnect: float = 0.0
    """Share of the permitted requests whose connection is closed without a reply."""
    malformed: float = 0.0
    """Share of the permitted requests whose reply is none: half of them words instead of the JSON
    asked for, half an HTTP body that breaks off within its JSON."""
    seed: int = 0
    """Of these shares. The same request, asked the same number of times, always fares alike."""


class Bucket:
    """`rate` tokens flow in each second, `burst` are kept."""

    def __init__(self, rate: float, burst: float):
        self._rate, self._burst = rate, max(1.0, burst)
        self._level, self._at = self._burst, time.monotonic()

    def take(self) -> float:
        """0 where a request is permitted; else the seconds until one will be."""
        now = time.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self._rate


class Script:
    """What becomes of each request, and the log."""

    def __init__(self, options: Options):
        self.options = options
        self.log: list[list[Any]] = []
        """[received, ended or None, SHA-256 of the body without white space, what became of it, the
        body's bytes]; times in seconds since 1970."""
        self._bucket = None if options.rate is None else Bucket(options.rate, options.burst)
        self._asked: dict[bytes, int] = {}

    def receive(self, body: bytes) -> tuple[list[Any], float, bytes | None]:
        """The request's entry in the log, the seconds until its end, and the response; None: the
        connection is lost."""
        options = self.options
        digest = hashlib.sha256(body.translate(None, b" \t\r\n")).digest()
        entry = [time.time(), None, digest.hex(), "answered", len(body)]
        self.log.append(entry)
        if len(body) < SHORT:
            return entry, options.latency, _response(_completion(_JASON, digest))
        if self._bucket is not None and (wait := self._bucket.take()) > 0:
            entry[3] = "429"
            told = f"{wait:.3f}" if options.fractions else str(math.ceil(wait))
            return entry, 0.0, _response(_REFUSED, HTTPStatus.TOO_MANY_REQUESTS, told)
        times = self._asked[digest] = self._asked.get(digest, 0) + 1
        fate = _fraction(digest, times, options.seed)
        if fate < options.disconnect:
            entry[3] = "lost"
            return entry, options.latency, None
        fate -= options.disconnect
        if fate < options.malformed:
            if fate < options.malformed / 2:
                entry[3] = "words"
                return entry, options.latency, _response(_completion("I would say: good.", digest))
            entry[3] = "torn"
            return entry, options.latency, _response(_completion(_verdict(digest), digest)[:-60])
        return entry, options.latency, _response(_completion(_verdict(digest), digest))


def _fraction(digest: bytes, times: int, seed: int) -> float:
    """Evenly from 0 to 1."""
    drawn = hashlib.blake2b(digest + f"{times} {seed}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") / 2**64


def _verdict(digest: bytes) -> str:
    """A reply as the prompts of whytune ask for it."""
    return json.dumps({
        "score": 1 + digest[0] % 4,
        "assessment": f"The reply {digest[:6].hex()} answers what was asked and stays with it.",
        "confidence": f"{digest[1] % 101} percent: the text says it plainly.",
    })  # fmt: skip


def _completion(text: str, digest: bytes) -> bytes:
    return json.dumps({
        "id": f"chatcmpl-{digest[:12].hex()}", "object": "chat.completion", "created": 1_700_000_000,
        "model": "scripted",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None, "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460},
    }).encode()  # fmt: skip


_REFUSED = b'{"error": {"message": "too many requests", "type": "rate_limit", "code": 429}}'


def _response(body: bytes, status: HTTPStatus = HTTPStatus.OK, retry_after: str = "") -> bytes:
    wait = f"Retry-After: {retry_after}\r\n" if retry_after else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n{wait}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Server:
    """The script of the moment, for all connections."""

    def __init__(self) -> None:
        self.script = Script(Options())

    def control(self, path: bytes, body: bytes) -> bytes:
        """Anything but a completion."""
        if path == b"/log":
            return _response(json.dumps(self.script.log).encode())
        if path == b"/count":
            calls = sum(entry[4] >= SHORT for entry in self.script.log)
            return _response(str(calls).encode())
        if path == b"/reset":
            self.script = Script(Options(**json.loads(body)))
            gc.collect()
            return _response(b"{}")
        return _response(b"{}", HTTPStatus.NOT_FOUND)


class Talk(asyncio.Protocol):
    """One connection, kept alive; one request after the other."""

    def __init__(self, server: Server):
        self._server = server
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, mark, rest = self._read.partition(b"\r\n\r\n")
        if not mark:
            return
        length = _content_length(head)
        if len(rest) < length:
            return
        body, self._read = rest[:length], rest[length:]
        path = head.split(b" ", 2)[1]
        if not path.endswith(b"/chat/completions"):
            self._transport.write(self._server.control(path, body))
            return
        entry, wait, response = self._server.script.receive(body)
        if wait:
            asyncio.get_running_loop().call_later(wait, self._end, entry, response)
        else:
            self._end(entry, response)

    def _end(self, entry: list[Any], response: bytes | None) -> None:
        if self._transport.is_closing():
            entry[3] = "gone"  # the client went before its reply
            return
        if response is None:
            self._transport.abort()
        else:
            self._transport.write(response)
        entry[1] = time.time()


def _content_length(head: bytes) -> int:
    _, mark, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if mark else 0


async def serve() -> None:
    """Until standard input is closed, as it is when the process that started this one ends."""
    loop, server, closed = asyncio.get_running_loop(), Server(), asyncio.Event()
    listening = await loop.create_server(lambda: Talk(server), "127.0.0.1", 0, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=wait, daemon=True).start()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and the log of a run is large
    await closed.wait()


if __name__ == "__main__":
    asyncio.run(serve())
