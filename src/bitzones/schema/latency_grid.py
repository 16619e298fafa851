"""The latency grid of a profile: the shapes that are timed, and their names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from bitzones.schema.section import Section

__all__ = ["Latency", "Timing"]


def _several(value: object) -> object:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several), Field(min_length=1, strict=False)]
"""One size, or a list of them."""


@dataclass(frozen=True)
class Timing:
    """One cell of the latency grid; prefill writes no new tokens."""

    phase: Literal["prefill", "decode"]
    batch: int
    prompt_tokens: int
    new_tokens: int = 0
    compiled: bool = False

    @property
    def name(self) -> str:
        """Phase and shape in short, the same in every profile.

        >>> Timing("prefill", 1, 64).name, Timing("decode", 4, 64, 16, compiled=True).name
        ('prefill-b1-p64', 'decode-b4-p64-n16-compile')
        """
        new = f"-n{self.new_tokens}" if self.phase == "decode" else ""
        return f"{self.phase}-b{self.batch}-p{self.prompt_tokens}{new}{'-compile' if self.compiled else ''}"

    def __str__(self) -> str:
        new = f", {self.new_tokens} new tokens" if self.phase == "decode" else ""
        return f"{self.phase}, batch {self.batch}, {self.prompt_tokens} prompt tokens{new}{', compiled' if self.compiled else ''}"


class Latency(Section):
    """The shapes that are timed: every combination of batch, prompt and new tokens, each one size or a list.

    ``batch`` is the number of sequences. ``prompt_tokens`` is the length of the prompt. ``new_tokens`` is the number of tokens decoded in
    a round. ``rounds`` is the number of timed rounds. ``warmup_rounds`` is the minimum number of rounds before timing starts. ``compile``
    also times decoding under torch.compile, in addition to eager decoding.
    """

    batch: Sizes = (1,)
    prompt_tokens: Sizes = (64,)
    new_tokens: Sizes = (16,)
    rounds: int = Field(default=20, ge=2)
    warmup_rounds: int = Field(default=3, ge=1)
    compile: bool = False

    @field_validator("batch", "prompt_tokens", "new_tokens")
    @classmethod
    def _each_once(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) < len(sizes):
            raise ValueError("a size occurs twice")
        return sizes

    def timings(self) -> dict[str, Timing]:
        """Id -> cell of the grid; the ids name the shape where there is more than one.

        >>> list(Latency().timings()), list(Latency(batch=(1, 4), compile=True).timings())[3:]
        (['prefill', 'decode'], ['decode-b1-p64-n16-compile', 'decode-b4-p64-n16', 'decode-b4-p64-n16-compile'])
        """
        single = len(self.batch) == len(self.prompt_tokens) == len(self.new_tokens) == 1
        found: dict[str, Timing] = {}
        for batch, prompt in product(self.batch, self.prompt_tokens):
            timing = Timing("prefill", batch, prompt)
            found["prefill" if single else timing.name] = timing
        for batch, prompt, new in product(self.batch, self.prompt_tokens, self.new_tokens):
            for compiled in (False, True) if self.compile else (False,):
                timing = Timing("decode", batch, prompt, new, compiled)
                found[f"decode{'-compile' if compiled else ''}" if single else timing.name] = timing
        return found
