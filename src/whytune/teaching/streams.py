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

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, or empty at the end."""
        return await self._reader.read(max_bytes)

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
