"""Calls of one side of a duet by what every release of quanto and transformers knows, in float32 on the CPU.

Where one side is too old for the session, both are timed in this way: the key-value cache grows, and the matrix products of a whole variant
are one cell.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch

from bitzones.devices import device as devices
from bitzones.duets.line_protocol import TimedCell
from bitzones.models import text_config
from bitzones.run.call_clock import Called, timed_call
from bitzones.run.release import CPU, ReleaseVariant, release_bench, run_of
from bitzones.schema.cells import Cell
from bitzones.schema.latency_grid import Timing
from bitzones.schema.profile import Profile, variant_formats
from bitzones.schema.run_record import Run

__all__ = ["BasicBench"]

WARM_CALLS = 3
"""A release may compile its extension in the first; the fastest of them is what a call takes."""

PRODUCTS = "every product"

CACHE_NAMES = ("cache", "past_key_values")
"""Of the key-value cache, the latest name first."""


class BasicBench:
    """One profile, one variant in memory beside the reference."""

    def __init__(self, profile: Profile) -> None:
        devices.seed_everything(profile.seed)
        self._bench = release_bench(profile, lambda message: None)
        self._formats = variant_formats(profile)
        self._timings = {timing.name: timing for timing in profile.latency.timings().values() if not timing.compiled}
        self._variant: ReleaseVariant | None = None

    def run(self) -> Run:
        """What all cells share."""
        return run_of(self._bench, self._formats)

    def cells(self) -> list[TimedCell]:
        """What can be timed, variant by variant."""
        return [
            cell
            for variant in self._formats
            for cell in (
                *(TimedCell(kind="latency", variant=variant, detail=name) for name in self._timings),
                TimedCell(kind="unit_latency", variant=variant, detail=PRODUCTS),
            )
        ]

    def prepare(self, cell: TimedCell) -> tuple[str, float]:
        """Warm a cell up: the shape that is timed, and the seconds of a call."""
        return cell.detail, min(self.call(cell).wall_s for _ in range(WARM_CALLS))

    @torch.no_grad()
    def call(self, cell: TimedCell) -> Called:
        """One call; reading the prompt before decoding is not timed."""
        model: Any = self._model(cell.variant)
        if cell.kind == "unit_latency":
            return timed_call(lambda: [model.get_submodule(name)(given) for name, given in self._inputs.items()])
        timing = self._timings[cell.detail]
        ids = self._prompt(timing)
        if timing.phase == "prefill":
            return timed_call(lambda: model(input_ids=ids, use_cache=True))
        read = model(input_ids=ids, use_cache=True)
        return timed_call(lambda: _decode(model, read, timing.new_tokens))

    def checks(self) -> Iterator[Cell]:
        """Memory, accuracy, divergence, and what the release does with a variant."""
        for variant in self._formats:
            self._model(variant)
            assert self._variant is not None
            yield from self._variant.cells()

    def _model(self, variant: str) -> Any:
        if self._variant is None or self._variant.name != variant:
            self._variant = ReleaseVariant(self._bench, variant, self._formats[variant])
        return self._variant.model

    def _prompt(self, timing: Timing) -> torch.Tensor:
        generator, tokens = torch.Generator().manual_seed(self._bench.profile.seed), text_config.plain_tokens(self._bench.model)
        return tokens[torch.randint(0, len(tokens), (timing.batch, timing.prompt_tokens), generator=generator)]

    @cached_property
    def _inputs(self) -> dict[str, torch.Tensor]:
        """Module -> an input of one token."""
        generator = torch.Generator(CPU).manual_seed(self._bench.profile.seed)
        widths = {name: self._bench.model.get_submodule(name).get_parameter("weight").shape[1] for name in self._bench.names}
        return {name: torch.randn(1, 1, width, generator=generator) for name, width in widths.items()}


def _decode(model: Any, read: Any, new_tokens: int) -> None:
    """Greedy decoding of some tokens after what was read."""
    out = read
    for _ in range(new_tokens):
        token = out.logits[:, -1:].argmax(-1)
        cache = next(out[name] for name in CACHE_NAMES if name in out)
        out = model(input_ids=token, use_cache=True, **{_cache_argument(model): cache})


def _cache_argument(model: Any) -> str:
    """What this release calls the cache in ``forward``."""
    accepted = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in accepted), CACHE_NAMES[-1])
