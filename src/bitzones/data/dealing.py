"""Documents cut into sequences and dealt out to sets and domains.

A set takes whole documents, in their order. A document that one set has taken is never in another, not even where a source holds it twice
or two sources share it, and no sequence occurs twice (boilerplate does): a plan is never judged on text that it was made from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from bitzones.data import chats
from bitzones.data.sequences import NO_FEWEST, Fewest, TokenSequence
from bitzones.data.text import Document, Documents
from bitzones.schema.errors import TaskError
from bitzones.schema.text_records import TextPart
from bitzones.schema.text_settings import Domain

__all__ = ["JOINER", "SHORTEST", "Dealer", "Taken", "text_hash"]

SHORTEST = 8
"""Tokens of the shortest sequence that is kept: the tail of a document below it has hardly any context to be sensitive to."""

JOINER = "\n\n"
"""Between documents that are read as one text, as the usual figure for WikiText-2 has it."""

CHARACTERS_A_TOKEN = 1
"""With which joined documents are first gathered, no fewer than any text has; from how many tokens those give it is known how many more."""


@dataclass
class Taken:
    """What one source gave: its sequences, the record of it, and the hashes of its documents."""

    sequences: list[TokenSequence]
    part: TextPart
    hashes: frozenset[str]


@dataclass
class _Count:
    """What was read so far."""

    hashes: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)

    def part(self, documents: Documents, sequences: list[TokenSequence]) -> Taken:
        made = TextPart(
            origin=documents.origin,
            documents=len(self.hashes),
            sequences=len(sequences),
            tokens=sum(len(sequence.ids) for sequence in sequences),
            passed_over=dict(self.passed),
            sha256=hashlib.sha256("".join(self.hashes).encode()).hexdigest(),
            license=documents.license,
        )
        return Taken(sequences, made, frozenset(self.hashes))


class Dealer:
    """Cuts documents into sequences and deals them out to sets.

    Args:
        tokenizer: of the model. Special tokens that it puts before a text open every sequence; what it appends is left out.
        length: tokens of the longest sequence of a set, special tokens included.
        positions: of the model, None where it has no such limit.
        scored: prompts that accuracy is measured on; a document that holds one is passed over.

    Raises:
        TaskError: the model has fewer positions than ``length``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, length: int, positions: int | None = None, scored: Collection[str] = frozenset()
    ) -> None:
        self._tokenizer = tokenizer
        self._length = length
        self._positions = positions
        self._scored = scored
        self._dealt: set[str] = set()
        self._rows: set[tuple[int, ...]] = set()
        self.prefix = _prefix(tokenizer)
        self._require_room(length, "text.sequence_tokens")

    def take(self, documents: Documents, tokens: int, key: str, fewest: Fewest = NO_FEWEST) -> Taken:
        """The next whole documents until they give at least ``tokens`` tokens; the sequences of the last one beyond that are dropped.

        Raises:
            TaskError: fewer tokens are left, or fewer than the ``fewest`` sequences; the message names the profile's ``key``.
        """
        return self._apart(documents, tokens, key, self._length, self._length - len(self.prefix), SHORTEST, fewest)

    def windows(self, documents: Documents, domain: Domain) -> Taken:
        """The windows of a domain: of its documents joined, or of each by itself.

        Joined text is cut without regard to special tokens, and those that open a text then take the place of a window's first tokens, as
        in llama-perplexity.

        Raises:
            TaskError: the source holds fewer tokens, or the model has fewer positions than a window.
        """
        key = f"domain {domain.name}: tokens"
        self._require_room(domain.window, f"domain {domain.name}: window")
        if not domain.is_joined:
            return self._apart(documents, domain.tokens, key, domain.window, domain.step, domain.first + 2)
        count, many = _Count(), (domain.tokens - domain.window) // domain.step + 1
        ids = self._joined(documents, (many - 1) * domain.step + domain.window, key, count)
        cut = [tuple(ids[n * domain.step : n * domain.step + domain.window]) for n in range(many)]
        return count.part(documents, [_sequence((*self.prefix, *row[len(self.prefix) :])) for row in cut])

    def _apart(
        self, documents: Documents, tokens: int, key: str, length: int, step: int, shortest: int, fewest: Fewest = NO_FEWEST
    ) -> Taken:
        taken, count, total = list[TokenSequence](), _Count(), 0
        for text in self._fresh(documents, count.passed):
            cut = list(self._cut(text, length, step, shortest))
            fresh = [row for row in dict.fromkeys(cut) if row not in self._rows]
            if not fresh:
                count.passed["already taken" if cut else "too short"] += 1
                continue
            count.hashes.append(self._deal(text))
            for row in fresh:
                self._rows.add(row)
                taken.append(_sequence(row))
                total += len(row)
                if total >= tokens and not fewest.lacking(taken):
                    return count.part(documents, taken)
        if total >= tokens:
            raise TaskError(f"{key}: {documents.origin} gives {fewest.lacking(taken)}: lower text.sequence_tokens, or give more text")
        raise self._too_few(documents, tokens, total, key, count.passed)

    def _joined(self, documents: Documents, tokens: int, key: str, count: _Count) -> list[int]:
        """The first tokens of documents with a blank line between them: as few documents as give so many."""
        texts, characters, asked, ids = list[str](), 0, tokens * CHARACTERS_A_TOKEN, list[int]()
        for text in self._fresh(documents, count.passed):
            count.hashes.append(self._deal(text))
            texts.append(text)
            characters += len(text)
            if characters >= asked:
                ids = self._ids(JOINER.join(texts))
                if len(ids) >= tokens:
                    return ids[:tokens]
                asked = max(characters + 1, characters * tokens // max(1, len(ids)))
        ids = self._ids(JOINER.join(texts))
        if len(ids) < tokens:
            raise self._too_few(documents, tokens, len(ids), key, count.passed)
        return ids[:tokens]

    def _fresh(self, documents: Documents, passed: Counter[str]) -> Iterator[str]:
        """Documents that no set has, as text; the others are counted by reason."""
        for document in documents.unread:
            text = self._text(document, documents.origin)
            if why := self._refused(text):
                passed[why] += 1
            else:
                yield text

    def _text(self, document: Document, where: str) -> str:
        return document if isinstance(document, str) else chats.written(document, self._tokenizer, where)

    def _deal(self, text: str) -> str:
        found = text_hash(text)
        assert found not in self._dealt, "a document is dealt out twice"
        self._dealt.add(found)
        return found

    def _refused(self, text: str) -> str:
        """Why a document is passed over; empty where it is not."""
        if not text.strip():
            return "empty"
        if text_hash(text) in self._dealt:
            return "already taken"
        return "holds a scored item" if any(prompt in text for prompt in self._scored) else ""

    def _ids(self, text: str) -> list[int]:
        """Tokens of a text without those that the tokenizer adds, and without those that would open it, where it has them itself."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        opened = len(self.prefix) if self.prefix and tuple(ids[: len(self.prefix)]) == self.prefix else 0
        return ids[opened:]

    def _cut(self, text: str, length: int, step: int, shortest: int) -> Iterator[tuple[int, ...]]:
        ids, room = self._ids(text), length - len(self.prefix)
        for start in range(0, len(ids), min(step, room)):
            row = (*self.prefix, *ids[start : start + room])
            if len(row) >= max(shortest, SHORTEST):
                yield row
            if start + room >= len(ids):
                return

    def _require_room(self, length: int, key: str) -> None:
        if self._positions is not None and length > self._positions:
            raise TaskError(f"{key} = {length} and the model has {self._positions} positions: lower it to at most {self._positions}")

    def _too_few(self, documents: Documents, tokens: int, total: int, key: str, passed: Counter[str]) -> TaskError:
        reasons = ", ".join(f"{count} {why}" for why, count in passed.items())
        left = f" (passed over: {reasons})" if reasons else ""
        return TaskError(
            f"{key} asks for {tokens} tokens and {documents.origin} holds {total} that no other set has taken{left}: "
            f"lower {key}, or give more text"
        )


def text_hash(text: str) -> str:
    """Of a document, by which it is known again."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _sequence(row: tuple[int, ...]) -> TokenSequence:
    return TokenSequence(row, len(row) - 1, ())


def _prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Special tokens that the tokenizer puts before a text: all before its first token of the text itself."""
    mask = tokenizer("a", return_special_tokens_mask=True)
    ids, special = mask["input_ids"], mask["special_tokens_mask"]
    first = special.index(0) if 0 in special else 0
    return tuple(ids[:first])
