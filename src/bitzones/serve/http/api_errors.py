"""Errors as the API words them: OpenAI's JSON shape, a status, and never a request's text or a traceback."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import ValidationError

from bitzones.schema.validation_errors import first_error

__all__ = ["ApiError", "invalid", "response", "shape"]

KINDS = {401: "authentication_error", 429: "rate_limit_error"}
"""OpenAI's ``type`` of a status; every other is a mistake in the request below 500, and the server's from there."""


class ApiError(Exception):
    """A request that is refused: its status, what is wrong and what to do, and which key of the body is meant."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_s = retry_after_s


def shape(error: ApiError) -> dict[str, Any]:
    """The JSON of an error."""
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def response(error: ApiError) -> JSONResponse:
    """An error as a response."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(shape(error), status_code=error.status, headers=headers)


SHAPES = {
    "prompt": "must be a string, a list of strings, a list of token ids, or a list of lists of token ids, none of them empty",
    "stop": "must be a string or a list of at most 4 strings, of 1 to 256 characters each",
}
"""Of keys with several types, for which pydantic names the mistake in each."""


def invalid(error: ValidationError) -> ApiError:
    """The first mistake in a body, without the value that was refused."""
    first = first_error(error)
    key = str(first.keys[0]) if first.keys else None
    if first.kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first.clause.removeprefix('invalid JSON: ')}", code="invalid_json")
    if first.kind == "extra_forbidden":
        return ApiError(400, "the body has a key that this server does not know", _printable(first.path), "unknown_parameter")
    if key in SHAPES:
        return ApiError(400, f"{key} {SHAPES[key]}", key, "invalid_value")
    return ApiError(400, f"{_printable(first.path) or 'the body'}: {first.clause}", _printable(first.path), "invalid_value")


def _printable(path: str) -> str | None:
    """The path of a key, shortened and escaped: unknown keys are the client's words."""
    return path[:100].encode("unicode_escape").decode("ascii") or None
