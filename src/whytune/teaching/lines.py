"""Many requests at a time to one address over HTTP."""

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2


class Lines:
    """Connections to one address; the last one used is taken first.

    A connection is looked at only when it is used: httpx2's own pool looks at every one of its
    connections twice for each request, which at 64 of them is half of a client's time. So each has
    a pool of its own, and the pools wait in a stack. Nobody waits for a connection: the flow
    bounds what is under way.

    Args:
        url: where everything is posted to.
        headers: of every request.
        timeout: seconds until an answer must be whole.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self._url = httpx2.URL(url)
        self._headers = {**headers, "content-type": "application/json", "accept": "*/*"}
        limit = httpx2.Timeout(timeout, connect=min(timeout, 20.0))
        self._extensions = {"timeout": limit.as_dict()}
        self._free: list[httpx2.AsyncHTTPTransport] = []
        self._context = ssl.create_default_context()
        self._proxy = _proxy(url)

    async def post(self, content: bytes) -> httpx2.Response:
        """Send a request and read the whole response.

        Raises:
            httpx2.HTTPError: whatever keeps the response from being whole.
        """
        line = self._free.pop() if self._free else self._new()
        request = httpx2.Request("POST", self._url, headers=self._headers, content=content,
                                 extensions=self._extensions)  # fmt: skip
        try:
            response = await line.handle_async_request(request)
            await response.aread()
        except BaseException:
            await line.aclose()
            raise
        self._free.append(line)
        return response

    async def aclose(self) -> None:
        """Close those that are not in use."""
        while self._free:
            await self._free.pop().aclose()

    def _new(self) -> httpx2.AsyncHTTPTransport:
        one = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30.0)
        return httpx2.AsyncHTTPTransport(verify=self._context, limits=one, proxy=self._proxy)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
