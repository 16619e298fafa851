"""A client that sends any bytes and reads one answer: what a library would never send, and no more than one request a connection."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_ANSWER", "Answer", "ask", "post"]

NO_ANSWER = 0
"""Status of a connection that was closed without one."""


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A request that is well formed unless ``headers``, whose underscores are hyphens, say otherwise; an empty one leaves a header out."""
    sent = {"Host": "localhost", "Connection": "close", "Content-Type": "application/json", "Content-Length": str(len(body))}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value)
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


async def ask(host: str, port: int, request: bytes, limit_s: float) -> Answer:
    """Send bytes, and read what comes until the other side closes or one answer is whole.

    Raises:
        TimeoutError: neither happened in time.
        OSError: no connection.
    """
    async with asyncio.timeout(limit_s):
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 24)
        try:
            writer.write(request)
            with suppress(ConnectionError):  # it answered and closed before it had read all; the answer may be here
                await writer.drain()
            return await _answer(reader)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if head.startswith("HTTP/1.1 100"):  # the answer comes after it
            return await _answer(reader)
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(NO_ANSWER, {}, b"")
    status, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read() if headers.get("transfer-encoding") != "chunked" else await _chunked(reader)
    return Answer(int(status.split()[1]), headers, body)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body
