"""One request and its response, watched: which status was sent, and a body that nobody has read when the answer is a refusal."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

__all__ = ["Exchange"]

DISCARDED_BYTES = 16 << 20
"""Most of a refused request's body that is read and thrown away. A connection that is closed with bytes unread is reset, and the client
loses the answer that says why; nginx lingers for the same reason. A client that announces more gets its answer at once."""

DISCARD_S = 5.0
"""Longest time for that; nginx waits as long for more."""


class Exchange:
    """Passes messages on in both directions."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        headers = {name: value for name, value in scope["headers"] if name in {b"content-length", b"expect"}}
        length = headers.get(b"content-length", b"0")
        self._unread = b"expect" not in headers and length.isdigit() and int(length[:20]) <= DISCARDED_BYTES
        self.status = 0
        """What was sent; 0 before that."""

    async def receive(self) -> Message:
        """The next part of the body, or that the client has left."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        """A part of the response; a refusal waits for the rest of the body, unless it is that the body does not come."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= 400 and self.status != 408:
                await self._discard()
        await self._send(message)

    async def _discard(self) -> None:
        discarded = 0
        try:
            async with asyncio.timeout(DISCARD_S):
                while self._unread and discarded < DISCARDED_BYTES:
                    discarded += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
