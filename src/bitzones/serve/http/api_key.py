"""The key that clients have to send, where one is set."""

from __future__ import annotations

import hmac

from fastapi import Request

from bitzones.serve.http.errors import ApiError

__all__ = ["ApiKey"]


class ApiKey:
    """A dependency of every endpoint that needs the key."""

    def __init__(self, key: str | None) -> None:
        self._key = None if key is None else key.encode()

    async def __call__(self, request: Request) -> None:
        """Let a request pass; the time of the comparison says nothing about the key.

        Raises:
            ApiError: the key is missing or wrong.
        """
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            raise ApiError(401, "send the server's key as Authorization: Bearer KEY", code="invalid_api_key")
