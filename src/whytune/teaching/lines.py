"""Many requests at a time to one address over HTTP."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

import httpcore2

from whytune.teaching.streams import Stream, Streams

LONGEST = 1 << 24
"""Bytes of an answer, at most."""
_STREAMS = Streams()


@dataclass(frozen=True, slots=True)
class Response:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes


class Lines:
    """Connections to one address; the last one used is taken first.

    A connection is looked at only when it is used: a pool looks at every one of its connections
    twice for each request, which at 64 of them is half of a client's time. Nobody waits for a
    connection: the flow bounds what is under way. Where the environment names a proxy, a pool goes
    through it.

    Args:
        url: where everything is posted to.
        headers: of every request.
        timeout: seconds that connecting may take.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self._url = httpcore2.URL(url)
        host = self._url.host.decode()
        port = "" if self._url.port is None else f":{self._url.port}"
        self._headers = [
            (name.encode(), value.encode())
            for name, value in {"Host": f"{host}{port}", **headers,
                                "Content-Type": "application/json", "Accept": "*/*",
                                "Accept-Encoding": "identity"}.items()
        ]  # fmt: skip
        self._extensions = {"timeout": {"connect": timeout}}
        self._free: list[httpcore2.AsyncHTTPConnection] = []
        self._context = ssl.create_default_context()
        proxy = _proxy(self._url.scheme.decode(), host)
        self._through = None if proxy is None else httpcore2.AsyncHTTPProxy(
            proxy, ssl_context=self._context, max_connections=None, network_backend=_STREAMS)  # fmt: skip

    async def post(self, content: bytes) -> Response:
        """Send a request and read the whole response.

        Raises:
            OSError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError: whatever
                keeps the response from being whole; TimeoutError where it could not connect.
        """
        if self._through is not None:
            return (await self._exchange(self._through, content))[0]
        line = await self._line()
        whole = False
        try:
            response, whole = await self._exchange(line, content)
        finally:
            # Cancelled, too: nothing can follow half an exchange.
            if whole:
                self._free.append(line)
            else:
                await line.aclose()
        return response

    async def aclose(self) -> None:
        """Close those that are not in use."""
        while self._free:
            await self._free.pop().aclose()
        if self._through is not None:
            await self._through.aclose()

    async def _line(self) -> httpcore2.AsyncHTTPConnection:
        while self._free:
            line = self._free.pop()
            if line.is_available() and not line.has_expired():
                return line
            await line.aclose()
        return httpcore2.AsyncHTTPConnection(
            self._url.origin,
            ssl_context=self._context,
            keepalive_expiry=30.0,
            network_backend=_STREAMS,
        )

    async def _exchange(
        self, line: httpcore2.AsyncHTTPConnection | httpcore2.AsyncHTTPProxy, content: bytes
    ) -> tuple[Response, bool]:
        """The response, and whether another one can follow by the same connection."""
        length = (b"Content-Length", str(len(content)).encode())
        request = httpcore2.Request("POST", self._url, headers=[*self._headers, length],
                                    content=content, extensions=self._extensions)  # fmt: skip
        response = await line.handle_async_request(request)
        parts, size = [], 0
        try:
            async for part in response.aiter_stream():
                parts.append(part)
                size += len(part)
                if size > LONGEST:
                    raise OSError(f"an answer of more than {LONGEST} bytes")
        finally:
            await response.aclose()
        headers = {name.decode("ascii").lower(): value.decode("latin-1")
                   for name, value in response.headers}  # fmt: skip
        stream = response.extensions["network_stream"]
        whole = isinstance(stream, Stream) and stream.exact(
            None if "transfer-encoding" in headers else size
        )
        return Response(response.status, headers, b"".join(parts)), whole


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for an address."""
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all")
