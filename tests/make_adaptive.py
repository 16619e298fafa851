"""A full sweep as an adaptive one would have recorded it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitzones.schema.sensitivity_cells import AdaptiveSweep, SensitivityCell


def adaptive(
    cell: SensitivityCell, partial: Mapping[tuple[str, str], int], uniform: Mapping[str, tuple[float, ...]] | None = None, seed: int = 0
) -> SensitivityCell:
    """The cell in another order of its sequences, with these units and formats on the first so many."""
    order = tuple(int(place) for place in np.random.default_rng(seed).permutation(len(cell.sequence_tokens)))
    measurements = []
    for item in cell.measurements:
        count = partial.get((item.unit, item.format), len(order))
        assert item.kl_nats is not None
        nats = tuple(item.kl_nats[place] for place in order[:count])
        measurements.append(item.model_copy(update={"kl_nats": nats, "stopped": "never taken" if count < len(order) else None}))
    record = AdaptiveSweep(order=order, looks=(20, len(order)), uniform_kl_nats=dict(uniform or {}), regret_nats=0.001, budget=2**30)
    made = cell.model_copy(update={"measurements": tuple(measurements), "adaptive": record})
    return SensitivityCell.model_validate_json(made.model_dump_json())
