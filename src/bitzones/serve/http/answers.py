"""Answers in OpenAI's JSON shapes: whole, and as the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from bitzones.serve.answering import Event, Finished, Wrote
from bitzones.serve.decoding import Candidate
from bitzones.serve.http.asking import Asked
from bitzones.serve.pieces import Piece, Placed, token_name, token_text

__all__ = ["ChatForm", "CompletionForm", "Form", "Names", "Shape", "chunks", "whole"]

LOWEST = -9999.0
"""Written for a probability of zero, whose logarithm JSON cannot hold; vLLM writes the same."""

NAMES_KEPT = 1 << 16
"""Token names that are kept at hand."""

JSON = dict[str, Any]


class Names:
    """Tokens as they are named in log-probabilities: as text, or by their ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._name = lru_cache(NAMES_KEPT)(lambda token: token_name(tokenizer, token))
        self._text = lru_cache(NAMES_KEPT)(lambda token: token_text(tokenizer, token))

    def name(self, token: int, *, as_id: bool) -> str:
        """The name of a token."""
        return f"token_id:{token}" if as_id else str(self._name(token))

    def bytes(self, token: int) -> list[int] | None:
        """The UTF-8 of a token; None for one that is no whole text."""
        text = self._text(token)
        return None if text is None else list(text.encode())


@dataclass(frozen=True)
class Form:
    """What all parts of one answer have in common."""

    asked: Asked
    names: Names
    sha256: str
    as_ids: bool
    with_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def frame(self, prefix: str, kind: str, choices: Sequence[JSON], usage: JSON | None) -> JSON:
        """The outside of an answer or a chunk."""
        routed = self.asked.routed
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": f"fp_{self.sha256[:12]}",
            "choices": list(choices),
            "usage": usage,
            "routing": {"task": routed.task, "by": routed.by, "confidence": routed.confidence},
        }

    def name(self, token: int) -> str:
        """A token's name."""
        return self.names.name(token, as_id=self.as_ids)

    @property
    def logprobs_asked(self) -> bool:
        """Whether log-probabilities are part of the answer."""
        return self.asked.ask.top is not None

    def usage(self, new_tokens: int) -> JSON:
        """The numbers of tokens."""
        read = sum(len(prompt.ids) for prompt in self.asked.ask.prompts)
        return {"prompt_tokens": read, "completion_tokens": new_tokens, "total_tokens": read + new_tokens}


class Shape(Protocol):
    """How one endpoint writes the answer to a prompt."""

    @property
    def form(self) -> Form: ...

    def whole(self, index: int, pieces: Sequence[Piece], reason: str) -> JSON: ...

    def opening(self, index: int) -> JSON | None: ...

    def part(self, index: int, piece: Piece | None, reason: str | None) -> JSON: ...

    def envelope(self, choices: Sequence[JSON], usage: JSON | None, *, chunk: bool) -> JSON: ...


@dataclass(frozen=True)
class CompletionForm:
    """The answers of ``/v1/completions``."""

    form: Form

    def whole(self, index: int, pieces: Sequence[Piece], reason: str) -> JSON:
        """A choice."""
        tokens = [token for piece in pieces for token in piece.tokens]
        logprobs = self._logprobs(tokens) if self.form.logprobs_asked else None
        return {"index": index, "text": "".join(piece.text for piece in pieces), "logprobs": logprobs, "finish_reason": reason}

    def opening(self, index: int) -> JSON | None:
        """A completion begins with its text."""
        return None

    def part(self, index: int, piece: Piece | None, reason: str | None) -> JSON:
        """A choice of a chunk."""
        logprobs = self._logprobs(piece.tokens) if piece and self.form.logprobs_asked else None
        return {"index": index, "text": piece.text if piece else "", "logprobs": logprobs, "finish_reason": reason}

    def envelope(self, choices: Sequence[JSON], usage: JSON | None, *, chunk: bool) -> JSON:
        """An answer, or a chunk, which has the same shape."""
        return self.form.frame("cmpl", "text_completion", choices, usage)

    def _logprobs(self, tokens: Iterable[Placed]) -> JSON:
        placed = list(tokens)
        return {
            "tokens": [self.form.name(token.step.token) for token in placed],
            "token_logprobs": [None if token.step.logprob is None else max(token.step.logprob, LOWEST) for token in placed],
            "top_logprobs": [self._top(token) for token in placed],
            "text_offset": [token.offset for token in placed],
        }

    def _top(self, placed: Placed) -> dict[str, float] | None:
        """The alternatives and the token itself."""
        if placed.step.logprob is None:
            return None
        shown = (*placed.step.top, Candidate(placed.step.token, placed.step.logprob))
        return {self.form.name(candidate.token): max(candidate.logprob, LOWEST) for candidate in shown}


@dataclass(frozen=True)
class ChatForm:
    """The answers of ``/v1/chat/completions``."""

    form: Form

    def whole(self, index: int, pieces: Sequence[Piece], reason: str) -> JSON:
        """A choice."""
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        logprobs = self._logprobs([token for piece in pieces for token in piece.tokens])
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def opening(self, index: int) -> JSON | None:
        """A chat begins with its role."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def part(self, index: int, piece: Piece | None, reason: str | None) -> JSON:
        """A choice of a chunk."""
        delta = {"content": piece.text} if piece else {}
        return {"index": index, "delta": delta, "logprobs": self._logprobs(piece.tokens) if piece else None, "finish_reason": reason}

    def envelope(self, choices: Sequence[JSON], usage: JSON | None, *, chunk: bool) -> JSON:
        """An answer or a chunk."""
        return self.form.frame("chatcmpl", "chat.completion.chunk" if chunk else "chat.completion", choices, usage)

    def _logprobs(self, tokens: Iterable[Placed]) -> JSON | None:
        if not self.form.logprobs_asked:
            return None
        shown = [(token.step, token.step.logprob) for token in tokens]
        return {
            "content": [
                self._entry(Candidate(step.token, logprob)) | {"top_logprobs": [self._entry(candidate) for candidate in step.top]}
                for step, logprob in shown
                if logprob is not None
            ],
            "refusal": None,
        }

    def _entry(self, candidate: Candidate) -> JSON:
        return {
            "token": self.form.name(candidate.token),
            "logprob": max(candidate.logprob, LOWEST),
            "bytes": self.form.names.bytes(candidate.token),
        }


async def whole(shape: Shape, events: AsyncIterator[Event]) -> JSON:
    """The answer to a request, from all of its events."""
    pieces: dict[int, list[Piece]] = {index: [] for index in range(len(shape.form.asked.ask.prompts))}
    choices, new_tokens = [], 0
    async for event in events:
        match event:
            case Wrote(index, piece):
                pieces[index].append(piece)
            case Finished(index, reason, tokens):
                choices.append(shape.whole(index, pieces.pop(index), reason))
                new_tokens += tokens
    return shape.envelope(choices, shape.form.usage(new_tokens), chunk=False)


async def chunks(shape: Shape, events: AsyncIterator[Event]) -> AsyncIterator[JSON]:
    """The answer to a request as chunks, as events come."""
    opened: set[int] = set()
    new_tokens = 0
    async for event in events:
        if event.index not in opened and (opening := shape.opening(event.index)) is not None:
            yield shape.envelope([opening], None, chunk=True)
        opened.add(event.index)
        if isinstance(event, Finished):
            new_tokens += event.tokens
            choice = shape.part(event.index, None, event.reason)
        else:
            choice = shape.part(event.index, event.piece, None)
        yield shape.envelope([choice], None, chunk=True)
    if shape.form.with_usage:
        yield shape.envelope([], shape.form.usage(new_tokens), chunk=True)
