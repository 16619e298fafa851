"""The outermost layer of the server: one line in the log per request, its counters, and an answer whatever happens inside.

Neither log nor metrics contain anything that a client wrote: unknown paths are "other", errors are their type and place.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from bitzones.serve.http import api_errors
from bitzones.serve.http.api_errors import ApiError
from bitzones.serve.http.exchange import Exchange
from bitzones.serve.http.server_metrics import Metrics

__all__ = ["LOGGER", "Watch"]

LOGGER = logging.getLogger("bitzones.serve")

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

CLOSED_BY_CLIENT = 499
"""What nginx logs for a client that left before its answer; never sent."""

TOO_MANY = ApiError(429, "too many requests at a time", code="too_many_requests", retry_after_s=1)


class Watch:
    """ASGI middleware that sees every request and every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int) -> None:
        self._app, self._metrics, self._most = app, metrics, most
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, refused where too many are in memory, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, exchange = time.perf_counter(), Exchange(scope, receive, send)
        self._now += 1
        self._metrics.in_flight.set(self._now)
        try:
            await self._answer(scope, exchange)
        finally:
            self._now -= 1
            self._metrics.in_flight.set(self._now)
            self._note(scope, exchange.status or CLOSED_BY_CLIENT, time.perf_counter() - start)

    async def _answer(self, scope: Scope, exchange: Exchange) -> None:
        if self._now > self._most and scope["method"] == "POST":
            await self._refuse(TOO_MANY, scope, exchange)
            return
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # nobody is there to answer
        except asyncio.CancelledError:  # the time to finish after a signal to stop is over
            await self._refuse(ApiError(503, "the server is stopping", code="stopping"), scope, exchange)
        except Exception as error:  # noqa: BLE001  # a bug: said without its message, which may quote the request
            _log_bug(error)
            await self._refuse(ApiError(500, "internal error: the server's log names its place", code="internal"), scope, exchange)

    @staticmethod
    async def _refuse(error: ApiError, scope: Scope, exchange: Exchange) -> None:
        if not exchange.status:
            await api_errors.response(error)(scope, exchange.receive, exchange.send)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        route: Any = scope.get("route")
        endpoint = getattr(route, "path", "other")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(endpoint, str(status)).inc()
        self._metrics.seconds.labels(endpoint).observe(took_s)
        LOGGER.info("%s %s %d %.3f s", method, endpoint, status, took_s)


def _log_bug(error: Exception) -> None:
    """Log the type of an error and where it was raised."""
    raised = traceback.extract_tb(error.__traceback__)[-1]
    LOGGER.error("internal error: %s at %s:%s", type(error).__name__, raised.filename, raised.lineno)
