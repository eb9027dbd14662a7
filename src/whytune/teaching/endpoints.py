"""What goes to a model server and what comes back, over HTTP: OpenAI's chat completions (vLLM,
SGLang, Ollama, llama.cpp, Bedrock and hosted models speak it too) and Anthropic's messages.

Nothing is retried or waited for here, and nothing is read out of a reply: an answer says how the
request ended, and holds the model's text as it came.
"""

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

import httpcore2

from whytune.errors import TeachingError
from whytune.teaching.answers import Answer, Ended
from whytune.teaching.lines import Lines
from whytune.teaching.requests import Request

ANTHROPIC_VERSION = "2023-06-01"
ERROR_LENGTH = 300
"""Characters of a server's complaint that are kept."""
_BUSY = frozenset({429, 529})  # 529: Anthropic's "overloaded"
_LIMITS = ("x-ratelimit-", "anthropic-ratelimit-")


_BROKEN = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError)
_CONNECT = 20.0
"""Seconds until a connection must stand."""

Api = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address where models answer."""

    url: str
    """Up to the version, as `http://127.0.0.1:8000/v1`."""
    api: Api = "openai"
    key: str | None = None
    """Name of the environment variable that holds the key; None: none is sent."""


def body(api: Api, request: Request) -> dict[str, Any]:
    """The request's JSON; equal for equal requests, with no secret in it.

    Without a schema the server is not asked to keep to one: not every server knows how.
    """
    asked = (_anthropic_body if api == "anthropic" else _openai_body)(request)
    return asked | dict(request.parameters)


def _openai_body(request: Request) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "model": request.model,
        "messages": [dict(message) for message in request.messages],
    }
    if request.schema is not None:
        form = {"name": "answer", "strict": True, "schema": request.schema}
        asked["response_format"] = {"type": "json_schema", "json_schema": form}
    return asked


def _anthropic_body(request: Request) -> dict[str, Any]:
    instructions = [m["content"] for m in request.messages if m["role"] == "system"]
    asked: dict[str, Any] = {
        "model": request.model,
        "max_tokens": 1024,  # the one parameter that this interface demands
        "messages": [dict(m) for m in request.messages if m["role"] != "system"],
    }
    if instructions:
        asked["system"] = "\n\n".join(instructions)
    if request.schema is not None:
        asked["output_config"] = {"format": {"type": "json_schema", "schema": request.schema}}
    return asked


def answer(api: Api, status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    """What a response says.

    Args:
        api: whose.
        status: of HTTP.
        headers: names in lower case.
        content: the body, whatever it is.
    """
    limits = {name: value for name, value in headers.items() if name.startswith(_LIMITS)}
    common: dict[str, Any] = {"status": status, "limits": limits,
                              "retry_after": headers.get("retry-after")}  # fmt: skip
    if status != HTTPStatus.OK:
        told = f"HTTP {status}: {_shown(content)}"
        if "location" in headers and status < HTTPStatus.BAD_REQUEST:
            told = f"HTTP {status}: redirects to {headers['location']}; correct the url"
        return Answer(ended=_failed(status, headers), error=told[:ERROR_LENGTH], **common)
    try:
        found = (_anthropic if api == "anthropic" else _openai)(json.loads(content))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # Half an answer, or that of something else: the server's fault, so worth another try.
        told = f"HTTP 200, but not an answer of {api}'s interface: {_shown(content)}"
        return Answer(ended=Ended.SERVER_ERROR, error=told[:ERROR_LENGTH], **common)
    return Answer(**found, **common)


def _shown(content: bytes) -> str:
    """The beginning of a body on one line, without what a terminal would obey."""
    text = " ".join(content[: 4 * ERROR_LENGTH].decode("utf-8", "replace").split())
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _failed(status: int, headers: Mapping[str, str]) -> Ended:
    asked_to_wait = status == HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" in headers
    if status in _BUSY or asked_to_wait:
        return Ended.RATE_LIMITED
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return Ended.TIMEOUT
    return Ended.SERVER_ERROR if status >= 500 else Ended.CLIENT_ERROR


def _openai(response: dict[str, Any]) -> dict[str, Any]:
    choice = response["choices"][0]
    said, how = choice["message"], choice.get("finish_reason")
    usage = _mapping(response.get("usage"))
    refusal = said.get("refusal")
    refused = bool(refusal) or how == "content_filter"
    return {
        "ended": Ended.REFUSED if refused else Ended.REPLIED,
        "text": _text(refusal or said.get("content") or ""), "cut": how == "length",
        "tokens_in": _count(usage.get("prompt_tokens")),
        "tokens_out": _count(usage.get("completion_tokens")),
        "tokens_cached": _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
    }  # fmt: skip


def _anthropic(response: dict[str, Any]) -> dict[str, Any]:
    how, usage = response.get("stop_reason"), _mapping(response.get("usage"))
    read, written = (_count(usage.get(f"cache_{what}_input_tokens")) or 0
                     for what in ("read", "creation"))  # fmt: skip
    fresh = _count(usage.get("input_tokens"))
    return {
        "ended": Ended.REFUSED if how == "refusal" else Ended.REPLIED,
        "text": "".join(_text(b["text"]) for b in response["content"] if b["type"] == "text"),
        "cut": how == "max_tokens",
        # This interface counts what came from or went into its cache apart.
        "tokens_in": None if fresh is None else fresh + read + written,
        "tokens_out": _count(usage.get("output_tokens")), "tokens_cached": read,
    }  # fmt: skip


def _mapping(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _count(found: Any) -> int | None:
    """Tokens, where a server counts as one can count; it must not cost a reply where not."""
    sound = isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 10**9
    return found if sound else None


def _text(found: Any) -> str:
    if isinstance(found, list):
        return "".join(_text(part["text"]) for part in found if part["type"] == "text")
    if not isinstance(found, str):
        raise TypeError(f"found {type(found).__name__}, expected text")
    return found


class Connection:
    """Sends requests to one endpoint; use it as `async with`."""

    def __init__(self, endpoint: Endpoint, *, timeout: float = 120.0):
        """Take the key from the environment.

        Args:
            endpoint: where to.
            timeout: seconds until an answer must be whole.

        Raises:
            TeachingError: the environment does not hold the key, or the address is none.
        """
        if not endpoint.url.startswith(("http://", "https://")):
            raise TeachingError(
                f"teacher: found the address {endpoint.url!r}, expected one that begins with http:// "
                "or https://; correct it"
            )
        self.endpoint = endpoint
        secret = _secret(endpoint)
        headers = {} if secret is None else _authorised(endpoint, secret)
        self._secrets = _every_form(secret)
        path = "messages" if endpoint.api == "anthropic" else "chat/completions"
        self._lines = Lines(f"{endpoint.url.rstrip('/')}/{path}", headers, min(timeout, _CONNECT))
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        """Open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close all connections."""
        await self._lines.aclose()

    async def ask(self, request: Request) -> Answer:
        """Send one request, once; whatever happens is an answer."""
        asked = json.dumps(body(self.endpoint.api, request)).encode()
        try:
            # A server that sends a byte now and then never times out by itself.
            async with asyncio.timeout(self._timeout):
                response = await self._lines.post(asked)
        except TimeoutError as error:
            return Answer(ended=Ended.TIMEOUT, error=type(error).__name__)
        except (OSError, *_BROKEN) as error:
            told = self._secrets.sub(b"***", f"{type(error).__name__}: {error}".encode())
            return Answer(ended=Ended.CONNECTION, error=_shown(told)[:ERROR_LENGTH])
        # Before anything is read or cut: half a key is one, too.
        return answer(self.endpoint.api, response.status, response.headers,
                      self._secrets.sub(b"***", response.content))  # fmt: skip


def _secret(endpoint: Endpoint) -> str | None:
    if endpoint.key is None:
        return None
    found = os.environ.get(endpoint.key, "").strip()
    if not found:
        raise TeachingError(
            f"teacher at {endpoint.url}: the environment variable {endpoint.key} is not "
            "set; expected the server's key in it; set it (keys are read from nowhere else)"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", found):
        raise TeachingError(
            f"teacher at {endpoint.url}: the environment variable {endpoint.key} holds spaces, line "
            "breaks or letters that no key has; expected the key alone; set it anew"
        )
    return found


def _every_form(secret: str | None) -> re.Pattern[bytes]:
    """Finds a key as it is, and as JSON may write it: servers like to quote one they do not know."""
    if secret is None:
        return re.compile(rb"(?!)")  # finds nothing
    forms = (rf"(?:\\?{re.escape(c)}|\\u00{ord(c):02x}|\\u00{ord(c):02X})" for c in secret)
    return re.compile("".join(forms).encode())


def _authorised(endpoint: Endpoint, secret: str) -> dict[str, str]:
    if endpoint.api == "anthropic":
        return {"x-api-key": secret, "anthropic-version": ANTHROPIC_VERSION}
    return {"Authorization": f"Bearer {secret}"}
