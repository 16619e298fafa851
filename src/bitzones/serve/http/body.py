"""The body of a request: read within a size and a time, and checked."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from bitzones.serve.http import api_errors
from bitzones.serve.http.api_errors import ApiError
from bitzones.serve.limits import Limits

__all__ = ["read"]

Body = TypeVar("Body", bound=BaseModel)


async def read(request: Request, kind: type[Body], limits: Limits) -> Body:
    """A request's body.

    Other media types are refused, so that a page in a browser cannot ask a server on its user's machine: a browser sends text to another
    origin unasked, and JSON only if that agrees.

    Raises:
        ApiError: the body is too large, too slow, not JSON, or not of this kind.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body has to be JSON: send the header Content-Type: application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "the body has to be sent as it is, not compressed", code="unsupported_media_type")
    try:
        async with asyncio.timeout(limits.body_s):
            body = await _bytes(request, limits.body_bytes)
    except TimeoutError:
        raise ApiError(408, f"the body was not whole after {limits.body_s:g} s", code="body_timeout") from None
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise api_errors.invalid(error) from None


async def _bytes(request: Request, most: int) -> bytes:
    too_large = ApiError(413, f"the body has more than {most:,} bytes", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large
    return bytes(body)
