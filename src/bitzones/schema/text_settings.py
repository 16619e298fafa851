"""Where a profile's text comes from: the mixture of sources of each set, and the domains that variants are measured on.

It checks what can be checked without reading anything: shares that do not add up, and windows that score nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

__all__ = ["GENERATED", "RANDOM", "TASKS", "Domain", "Mixture", "TextSource", "WithText", "shares"]

TASKS = "tasks"
"""The source that is the train splits of the profile's tasks."""
GENERATED = "generated"
"""The source that is text which the reference writes."""
RANDOM = "random"
"""The source that is tokens drawn at random."""

SHARE_TOLERANCE = 1e-5
"""By which the shares of a set may miss 1: a third three times is written 0.333333."""


class _Source(BaseModel):
    """Where documents come from. Only what is set is written into a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    source: str = Field(min_length=1)
    otherwise: str | None = Field(default=None, min_length=1)
    column: str = Field(default="text", min_length=1)
    split: str = Field(default="train", min_length=1)
    config: str | None = Field(default=None, min_length=1)
    license: str | None = Field(default=None, min_length=1)

    @property
    def reads(self) -> tuple[str, str, str, str | None]:
        """What is read; two sources of which it is the same share their documents."""
        return self.source, self.column, self.split, self.config


class TextSource(_Source):
    """One source of a set's text.

    ``source`` is one of: ``tasks``, the train splits of the profile's tasks; a ``.txt`` file with blank lines between documents; a
    ``.jsonl``, ``.json``, ``.parquet`` or ``.csv`` file; a folder in the hub's layout; a hub id (``owner/name``, or
    ``owner/name:config``); ``embedded:docs``, ``embedded:code`` or ``embedded:law``, which ship with bitzones; ``generated``, what the
    reference writes from its start token; ``random``, tokens drawn alike from the vocabulary. A relative path starts at the working
    directory, or in the data folder. ``share`` is the share of the set's tokens; sources without one share what is left. ``otherwise`` is
    the source to use where a data folder is not given or lacks ``source``. ``column`` is the column of a data set that holds the text, or
    the messages of a chat, which the tokenizer's chat template then writes. ``split`` is the split of a data set that is read. ``config``
    is the configuration of a data set. ``license`` is a note for the run file; without it, what a data set's card says.
    """

    share: float | None = Field(default=None, gt=0, le=1)


class Domain(_Source):
    """Text of one kind, on which perplexity and divergence of every variant are measured. Documents of a domain are in no set.

    ``name`` names it in the report. ``source`` is one of the sources of a set's text. ``otherwise`` is the source to use where a data
    folder is not given or lacks ``source``. ``column`` is the column of a data set that holds the text or the messages. ``split`` is the
    split of a data set that is read. ``config`` is the configuration of a data set. ``license`` is a note for the run file. ``tokens`` is
    the number of tokens read, at least one window. ``window`` is the number of tokens of one pass. ``stride`` is the number of tokens from
    one window to the next, a whole window by default. ``context`` is the number of tokens at the start of a window whose predictions are
    not scored: by default half of it, where text is joined, or all but the last ``stride``. ``joined`` puts documents together with a blank
    line between them and cuts windows from that; otherwise every document has windows of its own, and the last may be short. The defaults
    score as `llama-perplexity` does; a window of 2,048 without context as the usual figure for WikiText-2 is.
    """

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    tokens: int = Field(default=8192, ge=16)
    window: int = Field(default=512, ge=16)
    stride: int | None = Field(default=None, ge=1)
    context: int | None = Field(default=None, ge=0)
    joined: bool = True

    @property
    def step(self) -> int:
        """Tokens from one window to the next."""
        return self.window if self.stride is None else self.stride

    @property
    def first(self) -> int:
        """Place in a window of the first prediction that is scored: by default half of it, as in llama-perplexity, or the last ``stride``.

        >>> [Domain(name="a", source="b", **said).first for said in ({}, {"context": 0}, {"stride": 128})]
        [256, 0, 383]
        """
        if self.context is not None:
            return self.context
        if self.stride is not None:
            return max(0, self.window - 1 - self.stride)
        return self.window // 2 if self.is_joined else 0

    @property
    def is_joined(self) -> bool:
        """Whether windows are cut from joined text: an item of a task is always read by itself."""
        return self.joined and self.source != TASKS

    @model_validator(mode="after")
    def _scores_something(self) -> Domain:
        if self.step > self.window:
            raise ValueError(f"stride = {self.stride} skips text: it is at most window = {self.window}")
        if self.first > self.window - 2:
            raise ValueError(f"context = {self.context} leaves nothing to score in a window of {self.window}")
        if self.window - 1 - self.first > self.step:
            raise ValueError(f"stride = {self.stride} and context = {self.context} score tokens twice: context has to be larger")
        if self.tokens < self.window and self.is_joined:
            raise ValueError(f"tokens = {self.tokens} are less than one window of {self.window}")
        return self


def shares(sources: Sequence[TextSource]) -> tuple[float, ...]:
    """The share of each source: what is not given is divided among the sources without one.

    >>> shares([TextSource(source="tasks", share=0.5), TextSource(source="a.txt"), TextSource(source="b.txt")])
    (0.5, 0.25, 0.25)

    Raises:
        ValueError: they do not add up to 1.
    """
    given = math.fsum(source.share for source in sources if source.share is not None)
    without = sum(source.share is None for source in sources)
    if not without and abs(given - 1) > SHARE_TOLERANCE:
        raise ValueError(f"shares add up to {given:g}, not to 1")
    if without and given > 1 - SHARE_TOLERANCE:
        raise ValueError(f"shares add up to {given:g}, which leaves nothing for {without} without one")
    rest = (1 - given) / without if without else 0.0
    return tuple(rest if source.share is None else source.share for source in sources)


def _checked(sources: tuple[TextSource, ...]) -> tuple[TextSource, ...]:
    if sources:
        shares(sources)
        if twice := _twice(source.reads for source in sources):
            raise ValueError(f"source {twice[0]!r} occurs twice")
    return sources


def _twice(reads: Iterable[tuple[str, str, str, str | None]]) -> tuple[Any, ...]:
    seen = set[tuple[Any, ...]]()
    for item in reads:
        if item in seen:
            return item
        seen.add(item)
    return ()


Mixture = Annotated[tuple[TextSource, ...], Field(strict=False), AfterValidator(_checked)]
"""Sources of one set, whose shares add up to 1; none is what another key says."""


class WithText(BaseModel):
    """A section of a set, whose key ``text`` is written only where it is set: profiles without it keep their hash."""

    text: Mixture = ()

    @model_serializer(mode="wrap")
    def _unless_empty(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = given(self)
        return found if found.get("text") else {key: value for key, value in found.items() if key != "text"}
