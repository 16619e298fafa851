"""Special tokens around a text: the tokenizer's opening tokens exactly once, and no closing tokens.

A closing token would come between a prompt and its answer and be scored as part of it; opening tokens may already be in the text, from a
chat template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from bitzones.schema.quality_cells import SpecialTokens

__all__ = ["Tokens", "described", "tokens"]

_PROBE = "Question: 1"
"""A non-empty text without special tokens, similar to the start of every prompt."""


@dataclass(frozen=True)
class Tokens:
    """A text as tokens. The first ``opening`` IDs were added by the tokenizer; ``spans`` has the (start, end) characters of the others."""

    ids: list[int]
    opening: int
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class _Frame:
    """Token IDs that a tokenizer's post-processor adds before and after every text."""

    opening: list[int]
    closing: list[int]


def tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    """Tokenize texts, with the tokenizer's opening tokens unless the text starts with them, and without closing tokens.

    Args:
        tokenizer: a fast tokenizer, which gives the positions of tokens in a text.
        texts: prompts, or prompts with their answers.
    """
    if not texts:
        return []
    frame = _frame(tokenizer)
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    return [_opened(tokenizer, frame, ids, spans) for ids, spans in zip(found["input_ids"], found["offset_mapping"], strict=True)]


def described(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> SpecialTokens:
    """A record of what `tokens` adds to these texts, for the run file."""
    frame = _frame(tokenizer)
    added = {found.opening > 0 for found in tokens(tokenizer, list(texts))}
    opened: Literal["by the tokenizer", "by the prompt", "by either", "not at all"] = "not at all"
    if frame.opening:
        opened = "by either" if len(added) > 1 else "by the tokenizer" if True in added else "by the prompt"
    return SpecialTokens(
        opening=tuple(tokenizer.convert_ids_to_tokens(frame.opening)),
        opened=opened,
        closing=tuple(tokenizer.convert_ids_to_tokens(frame.closing)),
    )


def _frame(tokenizer: PreTrainedTokenizerBase) -> _Frame:
    found = tokenizer(_PROBE, return_special_tokens_mask=True)
    ids, mask = list(found["input_ids"]), list(found["special_tokens_mask"])
    own = [place for place, special in enumerate(mask) if not special]
    return _Frame(ids[: own[0]], ids[own[-1] + 1 :]) if own else _Frame(ids, [])


def _opened(tokenizer: PreTrainedTokenizerBase, frame: _Frame, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Tokens:
    """One text with opening tokens exactly once. lm-evaluation-harness also adds no special tokens to a text that starts with BOS."""
    begins = ids[0] if ids else None
    opening = [] if begins is not None and begins in {*frame.opening[:1], tokenizer.bos_token_id} else frame.opening
    return Tokens([*opening, *ids], len(opening), [(start, end) for start, end in spans])
