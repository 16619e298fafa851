"""Latency of prefill and decode, as callables whose rounds pytest-benchmark times; setup is outside the timed part.

Prompts are random tokens, because the time does not depend on their content. Decoding uses a static key-value cache, so that every step has
the same shape and a compiled step is never recompiled.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from transformers import PreTrainedModel

from bitzones.backends.weights import kernel, kernel_kinds, stored_bytes, untimed
from bitzones.backends.weights import kernels as kernels_of
from bitzones.devices import device as devices
from bitzones.devices import energy, oom_retry
from bitzones.devices.gpu_monitor import Watch
from bitzones.devices.nvml import Gpu
from bitzones.models import kv_cache as caches
from bitzones.models import offload, structure, text_config
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.latency_grid import Timing
from bitzones.schema.performance_cells import Energy, LatencyCell
from bitzones.schema.record import Figure, Shortage

__all__ = [
    "Ready",
    "Timed",
    "WarmUp",
    "cell",
    "decode",
    "energy_of",
    "kernels",
    "kernels_by_group",
    "prefill",
    "prepare",
    "ready",
    "warm_up",
    "weight_bytes",
]

Groups: TypeAlias = Mapping[tuple[int, str], tuple[str, ...]]

STABLE_ROUNDS, STABLE_SPREAD = 3, 0.05
"""A phase is warm if its last three rounds are within 5% of the fastest of them; less than 5% is noise on a busy machine."""

MAX_WARMUP_ROUNDS, MAX_WARMUP_S = 10, 5.0
"""Limits of warming up; the seconds exclude the first round, which may compile. A phase that is not stable by then, as on a shared machine,
is timed anyway and recorded as unstable."""


@dataclass(frozen=True)
class Timed:
    """One phase: a round is ``run(*setup())``, of which only ``run`` is timed; ``tokens`` is what a round processes or generates.

        After a setup, ``cache_bytes`` returns the bytes of keys and values visible in the middle of a round, ``held_cache_bytes`` those of
    the whole cache. ``cache_refused`` says why the cache is not static although the model claims to support one. ``again`` runs another
    round without reading the prompt again; None if the cache cannot be wound back.
    """

    setup: Callable[[], tuple[Any, ...]]
    run: Callable[..., Any]
    tokens: int
    kernels: dict[str, int]
    clock: devices.Clock
    cache: Literal["static", "dynamic"] = "dynamic"
    cache_refused: str | None = None
    weight_bytes: int | None = None
    cache_bytes: Callable[[], int | None] = lambda: None
    held_cache_bytes: Callable[[], int | None] = lambda: None
    again: Callable[[], None] | None = None


@dataclass(frozen=True)
class WarmUp:
    """Number of warmup rounds, and whether the last of them were stable."""

    rounds: int
    stable: bool


@dataclass(frozen=True)
class Ready:
    """A warmed-up phase at a batch size that fits in memory, and the GPU monitor for its timed rounds."""

    timing: Timing
    timed: Timed
    warmup: WarmUp
    shortages: tuple[Shortage, ...]
    groups: dict[str, dict[str, int]]
    watch: Watch


def ready(model: PreTrainedModel, timing: Timing, seed: int, least: int, gpu: Gpu, groups: Groups) -> Ready:
    """Prepare a phase and warm it up, halving the batch while memory runs out.

    Args:
        model: the model to time.
        timing: the cell of the profile's latency grid.
        seed: seed of the prompt.
        least: fewest warmup rounds.
        gpu: the GPU to monitor while rounds are timed.
        groups: (layer, group) -> modules, from `bitzones.models.units.fused_groups` of the unquantized model.

    Raises:
        NotMeasuredError: as `prepare`, or torch.compile fails.
        OutOfMemoryError: memory runs out at batch 1.
    """

    def at(batch: int) -> tuple[Timing, Timed, WarmUp]:
        shape = replace(timing, batch=batch)
        timed = prepare(model, shape, seed)
        return shape, timed, warm_up(lambda: _timed_once(timed), least)

    if timing.compiled:
        if offload.is_spread(model):
            raise NotMeasuredError("a model whose layers are on several devices is not compiled")
        devices.forget_compiled()
    try:
        (shape, timed, warmup), shortages = oom_retry.halving(timing.batch, at, model.device)
    except Exception as error:
        if timing.compiled and devices.is_compiler_error(error):
            raise NotMeasuredError(f"torch.compile fails on this model: {type(error).__name__}: {str(error)[:200]}") from error
        raise
    return Ready(shape, timed, warmup, shortages, kernels_by_group(model, groups), Watch(gpu))


def prepare(model: PreTrainedModel, timing: Timing, seed: int) -> Timed:
    """The phase at one shape of the profile's latency grid.

    Raises:
        NotMeasuredError: a format has no kernel here, or this machine lacks the one that unpacks its weights.
    """
    if (why := untimed(model.modules())) is not None:
        raise NotMeasuredError(why)
    if timing.phase == "prefill":
        return prefill(model, timing.batch, timing.prompt_tokens, seed)
    return decode(model, timing.batch, timing.prompt_tokens, timing.new_tokens, seed, compiled=timing.compiled)


def cell(variant: str, made: Ready, rounds_s: Sequence[float], bandwidth: Figure | None = None) -> LatencyCell:
    """The record of the rounds that were timed last.

    Args:
        variant: its ID.
        made: the phase that was timed.
        rounds_s: wall time of each round.
        bandwidth: memory bandwidth, measured in the same run.
    """
    timing, timed = made.timing, made.timed
    return LatencyCell(
        variant=variant,
        shortages=made.shortages,
        phase=timing.phase,
        batch=timing.batch,
        prompt_tokens=timing.prompt_tokens,
        tokens=timed.tokens,
        compiled=timing.compiled,
        cache=timed.cache,
        static_cache_refused=timed.cache_refused,
        warmup_rounds=made.warmup.rounds,
        warmup_stable=made.warmup.stable,
        rounds_s=tuple(rounds_s),
        device_rounds_s=timed.clock.rounds_s(len(rounds_s)),
        kernels=timed.kernels,
        kernels_by_group=made.groups,
        kernel_kinds=kernel_kinds(timed.kernels),
        weight_bytes=timed.weight_bytes,
        cache_bytes=timed.cache_bytes(),
        bandwidth=bandwidth,
        gpu=made.watch.reading(),
    )


def energy_of(made: Ready, gpu: Gpu, idle: Figure) -> Energy | None:
    """Energy per generated token; None for prefill, whose rounds are too short to be separated from their setup."""
    if made.timed.again is None:
        return None
    return energy.per_token(gpu, idle, made.timed.again, made.timed.tokens)


def _timed_once(timed: Timed) -> float:
    prepared = timed.setup()
    began = time.perf_counter()
    timed.run(*prepared)
    return time.perf_counter() - began


def warm_up(once: Callable[[], float], least: int) -> WarmUp:
    """Run at least ``least`` rounds, until the last `STABLE_ROUNDS` agree within `STABLE_SPREAD` or a limit is reached.

    Args:
        once: runs a round and returns its seconds.
        least: fewest rounds.
    """
    rounds: list[float] = []
    while True:
        rounds.append(once())
        last = rounds[-STABLE_ROUNDS:]
        stable = len(rounds) >= STABLE_ROUNDS and max(last) <= (1 + STABLE_SPREAD) * min(last)
        over = len(rounds) >= MAX_WARMUP_ROUNDS or sum(rounds[1:]) >= MAX_WARMUP_S
        if len(rounds) >= least and (stable or over):
            return WarmUp(len(rounds), stable)


def kernels(model: PreTrainedModel) -> dict[str, int]:
    """Number of linear modules in the decoder layers per kernel."""
    layers = structure.decoder_layers(model).values()
    return kernels_of(m for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Linear))


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of the weights that a decode step reads, as packed in memory: all except an embedding table that is used only for lookups.

    For a mixture of experts this is more than one token reads.
    """
    table = model.get_input_embeddings().weight
    skipped = None if structure.tied_embeddings(model) else id(table)
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(stored_bytes(tensor) for key, tensor in tensors.items() if key != skipped)


def _prompt(model: PreTrainedModel, batch: int, length: int, seed: int) -> torch.Tensor:
    generator, tokens = torch.Generator().manual_seed(seed), text_config.plain_tokens(model)
    return tokens[torch.randint(0, len(tokens), (batch, length), generator=generator)].to(model.device)


def prefill(model: PreTrainedModel, batch: int, prompt_tokens: int, seed: int) -> Timed:
    """Prefill: fills the key-value cache and computes the logits of the next token, shape (batch, 1, vocabulary)."""
    ids, clock = _prompt(model, batch, prompt_tokens, seed), devices.Clock(model.device)

    @torch.no_grad()
    def run(ids: torch.Tensor) -> Any:
        clock.start()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        clock.stop()
        return out

    return Timed(lambda: (ids,), run, batch * prompt_tokens, kernels(model), clock)


def decode(model: PreTrainedModel, batch: int, prompt_tokens: int, new_tokens: int, seed: int, *, compiled: bool = False) -> Timed:
    """Decode: generates ``new_tokens`` tokens greedily after a prompt in the cache, without stopping early.

    Uses a static cache if the model supports one and computes the same on it (`kv_cache.static`). The result of `setup` is then valid for
    one round, because the next setup overwrites it; if the cache can be wound back, the prompt is read only once.
    """
    ids, clock = _prompt(model, batch, prompt_tokens, seed), devices.Clock(model.device)
    found = caches.static(model, prompt_tokens + new_tokens)
    static = found.cache
    step = devices.compiled(model, model.device) if compiled else model
    held: list[tuple[Any, torch.Tensor]] = []

    rewinds = static is not None and caches.can_wind_back(static)

    @torch.no_grad()
    def setup() -> tuple[Any, ...]:
        if held and rewinds:
            caches.wind_back(held[0][0], prompt_tokens)
            return held[0]
        caches.forget(model)
        if static is not None:
            static.reset()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1, **(caches.as_argument(model, static) if static is not None else {}))
        held[:] = [(caches.of_output(out), out.logits[:, -1:].argmax(-1))]
        return held[0]

    @torch.no_grad()
    def run(cache: Any, token: torch.Tensor) -> torch.Tensor:
        clock.start()
        for _ in range(new_tokens):
            out = step(input_ids=token, use_cache=True, logits_to_keep=1, **caches.as_argument(model, cache))
            token = out.logits[:, -1:].argmax(-1)
        clock.stop()
        return token

    def again() -> None:
        run(*setup())

    def cache_bytes(positions: float) -> int | None:
        return round(caches.bytes_per_position(held[0][0]) * positions) if held else None

    return Timed(
        setup=setup,
        run=run,
        tokens=batch * new_tokens,
        kernels=kernels(model),
        clock=clock,
        cache="dynamic" if static is None else "static",
        cache_refused=found.refused,
        weight_bytes=weight_bytes(model),
        cache_bytes=lambda: cache_bytes(prompt_tokens + (new_tokens + 1) / 2),
        held_cache_bytes=lambda: cache_bytes(prompt_tokens + new_tokens),
        again=again if rewinds else None,
    )


def kernels_by_group(model: PreTrainedModel, groups: Groups) -> dict[str, dict[str, int]]:
    """Group (such as ``attn.qkv``) -> kernel -> number of modules over all layers."""
    found: dict[str, Counter[str]] = {}
    for (_, group), names in groups.items():
        found.setdefault(group, Counter()).update(kernel(model.get_submodule(name)) for name in names)
    return {group: dict(kinds) for group, kinds in found.items()}
