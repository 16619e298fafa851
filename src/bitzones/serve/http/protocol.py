"""HTTP/1.1 as uvicorn speaks it, for clients that do not: heads that never end, and bytes that are no HTTP.

uvicorn times only the pause between two requests. Without this, clients that send a byte an hour hold every connection.
"""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bitzones.serve.http import api_errors
from bitzones.serve.http.api_errors import ApiError
from bitzones.serve.limits import Limits

__all__ = ["Patient", "patient"]


class Patient(H11Protocol):
    """Waits a while for the head of a request, and as long for a body behind an answer that did not need it; then the connection ends."""

    head_s = Limits.head_s
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on; the clock goes on too, or a byte at a time would stop it."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn's own words are no JSON."""
        self._refuse(ApiError(400, "this is not HTTP/1.1 as this server reads it", code="invalid_http"))

    def _watch(self) -> None:
        """The clock runs while a head, or a body behind an answer, is incomplete."""
        theirs = self.conn.their_state
        incomplete = theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE)
        if self.transport.is_closing() or not incomplete:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_s, self._give_up)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._refuse(ApiError(408, f"the request's head was not whole after {self.head_s:g} s", code="head_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer in the API's JSON where an answer can still begin, and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = json.dumps(api_errors.shape(error)).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
            for event in (h11.Response(status_code=error.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def patient(head_s: float) -> type[Patient]:
    """The protocol with a limit of its own: uvicorn makes an instance a connection, and hands it none of ours."""
    return type("Patient", (Patient,), {"head_s": head_s})
