"""What asking a server for a next token brings, and the ways to ask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bitzones.schema.errors import ArgumentError, BitzonesError, ServerError

__all__ = ["WAYS", "Answered", "Reason", "Unanswered", "Way", "no_answer"]

Reason: TypeAlias = Literal["unreachable", "timeout", "busy", "server error", "malformed", "no log-probabilities"]


@dataclass(frozen=True)
class Way:
    """One way to ask: the prompt as ``ids`` or as text, tokens by id or by text, and how many log-probabilities."""

    ids: bool
    by_id: bool
    most: int | None = None

    @property
    def name(self) -> str:
        """For the state and the page."""
        top = "" if self.most is None else f", at most {self.most} log-probabilities"
        return f"prompts as {'token ids' if self.ids else 'text'}, tokens by {'id' if self.by_id else 'text'}{top}"


OPENAI_TOP = 5
"""The most log-probabilities that OpenAI's own completions give."""

WAYS = tuple(Way(ids, by_id, most) for most in (None, OPENAI_TOP) for ids, by_id in ((True, True), (True, False), (False, False)))


@dataclass(frozen=True)
class Answered:
    """The most likely next tokens, by id where the server says it and else by text, and the name of the model that answered."""

    logprobs: Mapping[Hashable, float]
    model: str
    tries: int


@dataclass(frozen=True)
class Unanswered:
    """Why a prompt has no answer after all tries."""

    reason: Reason
    detail: str
    tries: int


def no_answer(url: str, found: Unanswered) -> BitzonesError:
    """The error of a server that gave none: the user's where it will never give log-probabilities."""
    if found.reason == "no log-probabilities":
        return ArgumentError(f"{url}: {found.detail}")
    return ServerError(f"{url}: {found.reason}: {found.detail}; what was answered is kept, and the next check goes on from there")
