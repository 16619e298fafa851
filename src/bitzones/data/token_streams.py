"""Sequences that are no documents: items of the tasks, text that the reference writes, and tokens drawn at random."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from bitzones.data import sequences
from bitzones.data.dealing import Taken
from bitzones.data.sequences import NO_FEWEST, Fewest, Sequences, TokenSequence
from bitzones.schema.errors import TaskError
from bitzones.schema.text_records import TextPart

__all__ = ["Items", "TokenStream", "drawn"]

MOST_REPEATED = 1000
"""Sequences in one set that were given before, after which a source has nothing new: a model may write one text again and again."""


class TokenStream:
    """Sequences in a fixed order, each given out once.

    Args:
        origin: what a run file calls them.
        rows: the sequences, as many as are asked for.
    """

    def __init__(self, origin: str, rows: Iterator[TokenSequence]) -> None:
        self._origin = origin
        self._rows = rows
        self._given: set[tuple[int, ...]] = set()

    def take(self, tokens: int, key: str, fewest: Fewest = NO_FEWEST) -> Taken:
        """The next sequences until they give at least ``tokens`` tokens; one that was given before is passed over.

        Raises:
            TaskError: there are no new ones.
        """
        taken, total, repeated = list[TokenSequence](), 0, 0
        while total < tokens or fewest.lacking(taken):
            row = next(self._rows, None)
            if row is None or repeated > MOST_REPEATED:
                raise TaskError(f"{key} asks for {tokens} tokens and {self._origin} gave {total}: lower {key}, or give another source")
            if row.ids in self._given:
                repeated += 1
                continue
            self._given.add(row.ids)
            taken.append(row)
            total += len(row.ids)
        return _taken(self._origin, taken, repeated)


class Items:
    """Items of the tasks' train splits, each given out once.

    Args:
        names: of the tasks.
        found: the items, by one tokenizer.
    """

    def __init__(self, names: Iterable[str], found: Sequences) -> None:
        self._origin = f"train splits of {', '.join(names)}"
        self._found = found

    def take(self, tokens: int, key: str, fewest: Fewest = NO_FEWEST) -> Taken:
        """The next whole items until they give at least ``tokens`` tokens.

        Raises:
            TaskError: as `sequences.take`.
        """
        return _taken(self._origin, sequences.take(self._found, tokens, key, fewest).sequences)


def _taken(origin: str, rows: Sequence[TokenSequence], repeated: int = 0) -> Taken:
    hashes = [hashlib.sha256(repr(row.ids).encode()).hexdigest() for row in rows]
    part = TextPart(
        origin=origin,
        documents=len(rows),
        sequences=len(rows),
        tokens=sum(len(row.ids) for row in rows),
        passed_over={"already taken": repeated} if repeated else {},
        sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
    )
    return Taken(list(rows), part, frozenset(hashes))


def drawn(tokenizer: PreTrainedTokenizerBase, prefix: tuple[int, ...], length: int, seed: int) -> TokenStream:
    """Tokens drawn alike from the vocabulary without its special tokens, in sequences of ``length`` that open as a text does."""
    special = set(tokenizer.all_special_ids)
    vocabulary = [token for token in range(len(tokenizer)) if token not in special]

    def rows() -> Iterator[TokenSequence]:
        rng = random.Random(seed)
        while True:
            row = (*prefix, *rng.choices(vocabulary, k=length - len(prefix)))
            yield TokenSequence(row, len(row) - 1, ())

    return TokenStream(f"random tokens, seed {seed}", rows())
