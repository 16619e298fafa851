"""Measures blocks of a sweep, in any order, on any machine: each comes out as it does in the whole sweep (`sweep.exact_cell`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import product
from time import perf_counter

import torch

from bitzones.data.sequences import Batch, SequenceSet
from bitzones.models import structure
from bitzones.models.units import Granularity
from bitzones.schema.profile_sections import HeadUse
from bitzones.schema.sensitivity_cells import Unit, UnitSensitivity
from bitzones.schema.shard_record import Block, MeasuredBlock, SweepLayout
from bitzones.sensitivity import sweep
from bitzones.sensitivity.layer_weights import LayerWeights
from bitzones.sensitivity.variants import Variants

__all__ = ["BlockBench"]


class BlockBench:
    """One sweep whose blocks are measured one by one.

    Args:
        variants: the reference and the formats.
        units: what is swept.
        granularity: of the units.
        sequence_set: the sensitivity set.
        batches: all of it.
        head: as in `sweep.exact`.
    """

    def __init__(
        self,
        variants: Variants,
        units: Sequence[Unit],
        granularity: Granularity,
        sequence_set: SequenceSet,
        batches: Sequence[Batch],
        head: HeadUse = "whole",
    ) -> None:
        self._variants, self._granularity, self._set, self._batches = variants, granularity, sequence_set, batches
        self._units, self._head = units, head
        self._candidates: list[tuple[Unit, str]] = []
        self._stays: list[tuple[Unit, str]] = []
        for unit, variant in product(units, variants.uniform):
            taken = variants.taken_by(unit, variants.formats[variant])
            (self._candidates if taken else self._stays).append((unit, variant))
        self._weights = LayerWeights(variants)
        self._facts: dict[tuple[str, str], UnitSensitivity] = {}

    @cached_property
    def layout(self) -> SweepLayout:
        """What all blocks share."""
        return SweepLayout(
            variant=self._variants.reference_id,
            granularity=self._granularity,
            sequences_sha256=self._set.sha256,
            sequence_tokens=self._set.sequence_tokens,
            passed_over=self._set.passed_over,
            units=tuple(self._units),
            formats=tuple(self._variants.uniform.values()),
            stays=tuple(sweep.measurement(self._variants, unit, variant, {}, None) for unit, variant in self._stays),
            batches=tuple(batch.index for batch in self._batches),
        )

    @cached_property
    def costs(self) -> list[int]:
        """Of every candidate per token: the weights of the layers from it on and of the head, since each is read and multiplied once."""
        layers = [sum(p.numel() for p in layer.parameters()) for layer in self._layers]
        head = self._head_cost
        return [head + (0 if unit.layer is None else sum(layers[unit.layer :])) for unit, _ in self._candidates]

    @cached_property
    def reference_cost(self) -> int:
        """Of the reference's pass per token, which every block makes."""
        return self._head_cost + sum(p.numel() for layer in self._layers for p in layer.parameters())

    @property
    def _head_cost(self) -> int:
        head = self._variants.reference.get_output_embeddings()
        return 0 if head is None else sum(p.numel() for p in head.parameters())

    @property
    def tokens(self) -> list[int]:
        """Of every batch, padding counted."""
        return [batch.ids.numel() for batch in self._batches]

    def layers(self, blocks: Collection[Block]) -> set[int]:
        """The layers whose units some blocks change."""
        units = {unit.layer for block in blocks for unit, _ in self._candidates[block.first : block.end]}
        return {layer for layer in units if layer is not None}

    def prepare(self, blocks: Collection[Block]) -> None:
        """Round at once what these blocks need in calibrated formats: block by block, each would go through the layers again."""
        self._weights.round(self.layers(blocks))

    def measure(self, block: Block) -> MeasuredBlock:
        """Measure one block."""
        began = perf_counter()
        batch, pairs = self._batches[block.batch], self._candidates[block.first : block.end]
        candidates = [sweep.Candidate(unit.layer, self._weights.of(unit, variant)) for unit, variant in pairs]
        count = len(self._set.sequences)
        swept = sweep.exact(self._variants.reference, self._layers, candidates, [batch], count, head=self._head)
        made = [self._measurement(*pair, *swept.found(number), batch.index) for number, pair in enumerate(pairs)]
        return MeasuredBlock(block=block, measurements=tuple(made), seconds_s=perf_counter() - began)

    def _measurement(
        self, unit: Unit, variant: str, kl: Sequence[float] | None, variance: Sequence[float] | None, places: Sequence[int]
    ) -> UnitSensitivity:
        """The record on the batch with the sequences at these places; what the weights are like is computed once."""
        key = unit.name, variant
        if key not in self._facts:
            self._facts[key] = sweep.measurement(self._variants, unit, variant, self._weights.of(unit, variant), None)
        here = {
            field: None if values is None else tuple(values[place] for place in places)
            for field, values in (("kl_nats", kl), ("sampling_variance", variance))
        }
        failure = sweep.NOT_FINITE if kl is None else None
        return UnitSensitivity.model_validate({**self._facts[key].model_dump(), **here, "failure": failure})

    @property
    def _layers(self) -> list[torch.nn.Module]:
        return list(structure.decoder_layers(self._variants.reference).values())
