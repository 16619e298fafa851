"""Who may ask: a key where one is set, and otherwise, on the loopback, nobody whom a browser has been led astray by."""

from __future__ import annotations

import hmac
import re

from fastapi import Request

from bitzones.serve.http.api_errors import ApiError

__all__ = ["Access"]

LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
"""Hosts that are this machine, in a Host header."""


class Access:
    """A dependency of every endpoint but the health."""

    def __init__(self, key: str | None, *, local: bool) -> None:
        self._key = None if key is None else key.encode()
        self._local = local and key is None

    async def __call__(self, request: Request) -> None:
        """Let a request pass; the time of the comparison says nothing about the key.

        A page whose name is made to lead to this machine (DNS rebinding) asks as if it were of this server, but under its own name. It has
        no key, so that where one is set any name will do, as behind a proxy.

        Raises:
            ApiError: the key is missing or wrong, or the request is for another host.
        """
        if self._local and not LOCAL.fullmatch(request.headers.get("host", "")):
            raise ApiError(403, "this server answers to localhost only: set BITZONES_API_KEY to use another name", code="wrong_host")
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            raise ApiError(401, "send the server's key as Authorization: Bearer KEY", code="invalid_api_key")
