"""asyncio's own streams under httpcore2: its usual backend, anyio, takes two fifths of a request's
time. Timeouts but that of connecting are the caller's.
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2

_KEPT = 1 << 20
"""Bytes that wait to be read, before the server is made to wait."""
_LONGEST_HEAD = 1 << 16
_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Streams(httpcore2.AsyncNetworkBackend):
    """Opens connections over TCP."""

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:  # fmt: skip
        """Connect.

        Raises:
            TimeoutError: not in time.
            OSError: not at all.
        """
        async with asyncio.timeout(timeout):
            return Stream(*await asyncio.open_connection(host, port, limit=_KEPT))


class Stream(httpcore2.AsyncNetworkStream):
    """One connection. What breaks it is an OSError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._begin()

    def _begin(self) -> None:
        self._head, self._last = bytearray(), b""
        self._count = 0
        self._chunks_end: int | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, or empty at the end."""
        found = await self._reader.read(max_bytes)
        if self._chunks_end is None:
            window = self._last + found
            place = window.find(_LAST_CHUNK)
            if place >= 0:
                self._chunks_end = self._count - len(self._last) + place + len(_LAST_CHUNK)
            self._last = window[-len(_LAST_CHUNK) + 1 :]
        self._count += len(found)
        if len(self._head) < _LONGEST_HEAD and _END not in self._head:
            self._head += found
        return found

    def exact(self, length: int | None) -> bool:
        """Whether what was read since the last call is one response and not a byte more.

        A server that says more than it announced would have the rest taken for its next answer.

        Args:
            length: of the body in bytes; None: it came in chunks.
        """
        end = self._head.find(_END) + len(_END) + length if length is not None else self._chunks_end
        exact = end == self._count
        self._begin()
        return exact

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it."""
        self._writer.write(buffer)
        await self._writer.drain()

    async def aclose(self) -> None:
        """Let go at once."""
        self._writer.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:  # fmt: skip
        """Encrypt from here on."""
        async with asyncio.timeout(timeout):
            await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        """What httpcore2 asks for: whether the server has closed, and the encryption."""
        if info == "is_readable":
            return self._reader.at_eof() or self._reader.exception() is not None
        return self._writer.get_extra_info(info)
