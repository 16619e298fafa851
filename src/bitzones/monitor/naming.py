"""A record's tokens and a server's in the same names: by id where the server says ids, else by what a server may write for a token."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property

from bitzones.monitor.deviation import Listed
from bitzones.schema.canary_record import CanaryRecord, Predicted

__all__ = ["Names"]


class Names:
    """Names of a record's tokens on a server that tells tokens by id, or by their text.

    Texts of two tokens may be alike, such as those of single bytes. What is said of such a text says nothing of either token: both are
    left out on both sides, and are part of the tail.
    """

    def __init__(self, record: CanaryRecord, *, by_id: bool) -> None:
        self._record = record
        self._by_id = by_id

    def plan(self, prompt: int) -> Listed:
        """What the plan's model predicts after a prompt."""
        return self._listed(self._record.prompts[prompt].plan)

    def reference(self, prompt: int) -> Listed:
        """What the unquantized model predicts."""
        return self._listed(self._record.prompts[prompt].reference)

    def served(self, logprobs: Listed) -> Listed:
        """An answer, its tokens by id where the record knows them."""
        if self._by_id:
            return logprobs
        found: dict[Hashable, float] = {}
        for text, value in logprobs.items():
            token = self._tokens.get(str(text), text)
            if token is not None and token not in self._alike:
                found[token] = value
        return found

    @cached_property
    def _tokens(self) -> Mapping[Hashable, int | None]:
        """How a token may be written -> its id; None where two tokens are written alike."""
        found: dict[Hashable, int | None] = {}
        for key, texts in self._record.tokens.items():
            for text in texts:
                found[text] = int(key) if found.get(text, int(key)) == int(key) else None
        return found

    @cached_property
    def _alike(self) -> frozenset[Hashable]:
        return frozenset(int(key) for key, texts in self._record.tokens.items() if any(self._tokens[text] is None for text in texts))

    def _listed(self, predicted: Predicted) -> Listed:
        pairs = zip(predicted.token_ids, predicted.logprobs, strict=True)
        return {token: value for token, value in pairs if self._by_id or token not in self._alike}
