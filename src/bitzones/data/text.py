"""Sequences cut from documents: a user's own texts in place of the train splits of the tasks.

A set takes whole documents, in their order. A document that one set has taken is never in another, not even where a source holds it twice
or two sources share it, and no sequence occurs twice (boilerplate does): a plan is never judged on text that it was made from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from bitzones.data import readers
from bitzones.data.sequences import SequenceSet, TokenSequence
from bitzones.schema.errors import TaskError
from bitzones.schema.profile_sections import HUB_ID
from bitzones.schema.run_record import TextSet

__all__ = ["SHORTEST", "Dealer", "Documents", "Texts", "opened", "origin_of"]

SHORTEST = 8
"""Tokens of the shortest sequence that is kept: the tail of a document below it has hardly any context to be sensitive to."""

Texts: TypeAlias = "str | Path | Iterable[str] | Any"
"""A path, a hub id, strings, or a ``datasets.Dataset``."""


@dataclass
class Documents:
    """Documents in a fixed order, read once and only as far as they are needed; ``origin`` is what a run file says of them."""

    origin: str
    unread: Iterator[str] = field(repr=False)


def origin_of(given: Texts) -> str:
    """What a profile and a run file call texts.

    >>> origin_of(["one", "two"]), origin_of("wiki.txt")
    ('memory:list', 'wiki.txt')
    """
    return str(given) if isinstance(given, str | Path) else f"memory:{type(given).__name__}"


def opened(given: Texts, column: str = "text", split: str = "train") -> Documents:
    """Documents of any source.

    Args:
        given: a path, a hub id (``owner/name`` or ``owner/name:config``), strings, or a ``datasets.Dataset``.
        column: of a data set, which holds the documents.
        split: of a data set in a folder or on the hub.

    Raises:
        TaskError: there is no such file, folder or data set, or it cannot be read.
    """
    if isinstance(given, str | Path):
        return _stored(str(given), column, split)
    rows_of: Any = given
    found = _column(rows_of, column, origin_of(given)) if hasattr(given, "column_names") else _strings(given, origin_of(given))
    return Documents(origin_of(given), found)


def _stored(name: str, column: str, split: str) -> Documents:
    path = Path(name).expanduser()
    if path.suffix.lower() == ".txt" and path.is_file():
        return Documents(name, _paragraphs(path))
    repository, _, config = name.partition(":")
    if not path.exists() and not HUB_ID.fullmatch(repository):
        raise TaskError(
            f"{name}: no such file or folder, and no hub id (owner/name) either; a text is a .txt file, or {', '.join(readers.READERS)}"
        )
    source = readers.local(path) if path.exists() else readers.hub(repository, config or None)
    return Documents(source.origin, _column(source.rows(split), column, source.where))


def _paragraphs(path: Path) -> Iterator[str]:
    """Documents of a plain text file, one or more blank lines between them, read line by line."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines: list[str] = []
            for line in file:
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield "".join(lines).rstrip("\n")
                    lines = []
            if lines:
                yield "".join(lines).rstrip("\n")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from error


def _column(found: Iterable[Mapping[str, Any]], column: str, where: str) -> Iterator[str]:
    """One column of rows; a row that holds no text is an error, since a wrong column would otherwise read as an empty source."""
    for row in found:
        if column not in row:
            raise TaskError(f"{where}: no column {column}; it has {', '.join(row)} (text.column names the one that holds the documents)")
        if not isinstance(row[column], str):
            raise TaskError(f"{where}: column {column} holds {type(row[column]).__name__}, not text")
        yield row[column]


def _strings(found: Iterable[Any], where: str) -> Iterator[str]:
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise TaskError(
                f"{where}: item {number} is {type(text).__name__}, not text; give strings, a datasets.Dataset, a path or a hub id"
            )
        yield text


class Dealer:
    """Cuts documents into sequences and deals them out to sets.

    Args:
        tokenizer: of the model. Special tokens that it puts before a text open every sequence; what it appends is left out.
        length: tokens of the longest sequence, special tokens included.
        positions: of the model, None where it has no such limit.
        scored: prompts that accuracy is measured on; a document that holds one is passed over.

    Raises:
        TaskError: the model has fewer positions than ``length``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, length: int, positions: int | None = None, scored: Collection[str] = frozenset()
    ) -> None:
        if positions is not None and length > positions:
            raise TaskError(f"text.sequence_tokens = {length} and the model has {positions} positions: lower it to at most {positions}")
        self._tokenizer = tokenizer
        self._length = length
        self._scored = scored
        self._dealt: set[str] = set()
        self._rows: set[tuple[int, ...]] = set()
        self._prefix = _prefix(tokenizer)

    def take(self, documents: Documents, tokens: int, key: str) -> tuple[SequenceSet, TextSet]:
        """The next whole documents until they give at least ``tokens`` tokens; the sequences of the last one beyond that are dropped.

        Raises:
            TaskError: fewer tokens are left; the message names the profile's ``key``.
        """
        taken: list[TokenSequence] = []
        digest, used, passed = hashlib.sha256(), 0, Counter[str]()
        total = 0
        for text in documents.unread:
            sequences = [] if (why := self._refused(text)) else list(self._cut(text))
            fresh = [sequence for sequence in sequences if sequence.ids not in self._rows]
            if not fresh:
                passed[why or ("already taken" if sequences else "too short")] += 1
                continue
            self._dealt.add(_hash(text))
            digest.update(_hash(text).encode())
            used += 1
            for sequence in fresh:
                self._rows.add(sequence.ids)
                taken.append(sequence)
                total += len(sequence.ids)
                if total >= tokens:
                    made = SequenceSet(tuple(taken))
                    return made, TextSet(
                        origin=documents.origin,
                        documents=used,
                        sequences=len(taken),
                        tokens=total,
                        sequence_tokens=self._length,
                        passed_over=dict(passed),
                        sha256=digest.hexdigest(),
                    )
        reasons = ", ".join(f"{count} {why}" for why, count in passed.items())
        left = f" (passed over: {reasons})" if reasons else ""
        raise TaskError(
            f"{key} asks for {tokens} tokens and {documents.origin} holds {total} that no other set has taken{left}: "
            f"lower {key}, or give more text"
        )

    def _refused(self, text: str) -> str:
        """Why a document is passed over; empty where it is not."""
        if _hash(text) in self._dealt:
            return "already taken"
        return "holds a scored item" if any(prompt in text for prompt in self._scored) else ""

    def _cut(self, text: str) -> Iterator[TokenSequence]:
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        step = self._length - len(self._prefix)
        for start in range(0, len(ids), step):
            row = (*self._prefix, *ids[start : start + step])
            if len(row) >= SHORTEST:
                yield TokenSequence(row, len(row) - 1, ())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Special tokens that the tokenizer puts before a text: all before its first token of the text itself."""
    mask = tokenizer("a", return_special_tokens_mask=True)
    ids, special = mask["input_ids"], mask["special_tokens_mask"]
    first = special.index(0) if 0 in special else 0
    return tuple(ids[:first])
