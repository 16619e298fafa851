"""Text from tokens as they come: incomplete characters wait, and so does what may become a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from bitzones.serve.decoding import Step

__all__ = ["Piece", "Placed", "Writing", "placed_prompt", "text_of_tokens", "token_name", "token_text"]

REPLACEMENT = "\ufffd"
"""How a decoder writes bytes that are no whole character."""

TAIL = 6
"""Tokens of the prompt that new tokens are decoded after, since some tokenizers drop a space at the start of a text. vLLM takes 5; a
character has at most 4 bytes, each a token of its own at worst."""


@dataclass(frozen=True)
class Placed:
    """A token, and where it begins in the text that is returned, in characters."""

    step: Step
    offset: int


@dataclass(frozen=True)
class Piece:
    """Text that is certain, and the tokens that came since the last piece."""

    text: str
    tokens: tuple[Placed, ...] = ()


def text_of_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens as text, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str | None:
    """A token as text; None for one that is no whole text by itself, such as a byte of a character."""
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    return text if text and REPLACEMENT not in text else None


def token_name(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as text; one that is none by its entry in the vocabulary, so that two tokens have two names."""
    return token_text(tokenizer, token) or str(tokenizer.convert_ids_to_tokens(token) or f"<{token}>")


class _Characters:
    """Whole characters as tokens come."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before[-TAIL:])
        self._read = len(self._ids)

    def add(self, token: int, *, last: bool = False) -> str:
        """The characters that are whole with this token; with the ``last`` one, what there is."""
        self._ids.append(token)
        known = text_of_tokens(self._tokenizer, self._ids[: self._read])
        text = text_of_tokens(self._tokenizer, self._ids)
        if len(text) <= len(known) or (text.endswith(REPLACEMENT) and not last):
            return ""
        self._ids = self._ids[self._read :]  # what was read this time is what the next is decoded after
        self._read = len(self._ids)
        return text[len(known) :]


def placed_prompt(tokenizer: PreTrainedTokenizerBase, steps: Sequence[Step]) -> tuple[Placed, ...]:
    """The tokens of a prompt, and where they are in its text."""
    characters, offset, placed = _Characters(tokenizer, ()), 0, []
    for step in steps:
        placed.append(Placed(step, offset))
        offset += len(characters.add(step.token))
    return tuple(placed)


class Writing:
    """One answer as it is written: every token in, pieces out."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Sequence[int],
        stops: Sequence[str],
        ends: frozenset[int],
        out: Callable[[Piece], None],
        offset: int = 0,
    ) -> None:
        self._characters = _Characters(tokenizer, prompt)
        self._stops, self._ends, self._out = tuple(stops), ends, out
        self._offset = offset  # of the text behind the held characters
        self._held = ""
        self._tokens: list[Placed] = []
        self.count = 0
        self.ended = False

    def add(self, step: Step, *, last: bool) -> bool:
        """Take a token; True where it ends the answer: an end token, or a stop string is whole."""
        self.count += 1
        self._tokens.append(Placed(step, self._offset + len(self._held)))
        self._held += "" if step.token in self._ends else self._characters.add(step.token, last=last)
        cut = min((place for stop in self._stops if (place := self._held.find(stop)) >= 0), default=None)
        self.ended = step.token in self._ends or cut is not None
        if cut is not None:
            self._tokens = [token for token in self._tokens if token.offset < self._offset + cut]
            self._release(cut)
        elif self.ended or last:
            self._release(len(self._held))
        elif certain := len(self._held) - self._uncertain():
            self._release(certain)
        return self.ended

    def _uncertain(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        lengths = (n for stop in self._stops for n in range(min(len(stop) - 1, len(self._held)), 0, -1) if self._held.endswith(stop[:n]))
        return max(lengths, default=0)

    def _release(self, length: int) -> None:
        piece = Piece(self._held[:length], tuple(self._tokens))
        self._held, self._tokens = self._held[length:], []
        self._offset += length
        self._out(piece)
