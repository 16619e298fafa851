"""Reads a log of requests, JSON lines that grow, from where it was left.

Keys of a line, of which only what is there is used:

    prompt            the text; or "characters", its length, where texts must not be logged
    task, domain      the name that it was routed by; the kind of text it is
    prompt_tokens     a number
    prompt_logprobs   log-probabilities of the prompt's tokens in nats, null for the first: numbers as our server and vLLM give them
    entropy_nats      mean entropy of the predictions in the prompt

Other keys are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitzones.schema.errors import ArgumentError

__all__ = ["LogPlace", "Request", "read_requests"]

LONGEST_BYTES = 1 << 24
"""Of a line: longer ones are no requests."""

MOST_BYTES = 1 << 28
"""Read at a time; what is left of a long log is the next round's."""


@dataclass(frozen=True)
class LogPlace:
    """Up to where a log was read: bytes, and the inode of the file, by which a rotated log is known."""

    offset: int = 0
    inode: int = 0

    def to_text(self) -> str:
        return f"{self.offset} {self.inode}"

    @classmethod
    def of(cls, text: str | None) -> LogPlace:
        offset, inode = map(int, text.split()) if text else (0, 0)
        return cls(offset, inode)


@dataclass(frozen=True)
class Request:
    """One line; a property that it lacks is None."""

    prompt: str | None = None
    task: str | None = None
    domain: str | None = None
    characters: int | None = None
    tokens: int | None = None
    nll_nats: float | None = None
    entropy_nats: float | None = None


def read_requests(path: Path, place: LogPlace) -> tuple[list[Request], int, LogPlace]:
    """Whole lines after a place, the number of lines that are no requests, and the place behind the last whole line.

    A log that was rotated or cut off is read from its start.

    Raises:
        ArgumentError: the log cannot be read.
    """
    try:
        with path.open("rb") as file:
            inode = path.stat().st_ino
            start = place.offset if place.inode in {0, inode} and place.offset <= path.stat().st_size else 0
            file.seek(start)
            data = file.read(MOST_BYTES)
    except OSError as error:
        raise ArgumentError(f"{path}: the log of requests cannot be read: {error.strerror}") from error
    whole = data[: data.rfind(b"\n") + 1]
    found, malformed = [], 0
    for line in whole.splitlines():
        if not line.strip():
            continue
        request = _request(line)
        if request is None:
            malformed += 1
        else:
            found.append(request)
    return found, malformed, LogPlace(start + len(whole), inode)


def _request(line: bytes) -> Request | None:
    try:
        data = json.loads(line.decode("utf-8")) if len(line) <= LONGEST_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    prompt = data.get("prompt")
    text = prompt if isinstance(prompt, str) else None
    characters = len(text) if text is not None else _whole(data.get("characters"))
    found = Request(
        prompt=text,
        task=_name(data.get("task")),
        domain=_name(data.get("domain")),
        characters=characters,
        tokens=_whole(data.get("prompt_tokens")),
        nll_nats=_mean_nll(data.get("prompt_logprobs")),
        entropy_nats=_number(data.get("entropy_nats")),
    )
    return found if found != Request() else None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0 else None


def _mean_nll(value: Any) -> float | None:
    if not isinstance(value, list):
        return None
    numbers = list(_numbers(value))
    return -math.fsum(numbers) / len(numbers) if numbers else None


def _numbers(values: list[Any]) -> Iterator[float]:
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield min(0.0, float(value))
