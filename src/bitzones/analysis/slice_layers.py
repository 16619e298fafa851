"""Layers whose zone depends on the task or text domain.

A zone follows from a layer's sensitivity beside that of the other layers, so what is compared between slices is the layer's share of the
sum at the lowest format. Slices have different sequences: layers are paired within a sequence, and slices are not paired with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.decision import Decision
from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES, Measured, layers_of
from bitzones.analysis.slice_figures import LayerBySlice, LayerShare
from bitzones.stats.intervals import ALPHA
from bitzones.stats.share_contrasts import ShareContrast, share_contrasts
from bitzones.stats.significance import holm

__all__ = ["read_layers"]

Floats = NDArray[np.float64]


def read_layers(slices: Mapping[str, tuple[Measured, Decision]], for_all: Decision, seed: int) -> tuple[tuple[LayerBySlice, ...], int]:
    """Every layer with its zones and shares by slice, and the number of contrasts that p-values are corrected for.

    Args:
        slices: slice -> its sensitivities, and what was decided from them.
        for_all: what was decided from all sequences.
        seed: the run's.
    """
    amounts = {name: _amounts(measured) for name, (measured, _) in slices.items()}
    swept = [item.layer for item in for_all.layer_zones]
    compared = [layer for layer in swept if all(layer in found for found in amounts.values())]
    contrasts = (
        _contrasts({name: np.stack([found[layer] for layer in compared]) for name, found in amounts.items()}, seed) if compared else {}
    )
    p_values = [c.p_value for found in contrasts.values() for c in found if c is not None and c.p_value is not None]
    adjusted = iter(holm(p_values))
    shares: dict[int, list[LayerShare]] = {layer: [] for layer in swept}
    for name, found in contrasts.items():
        whole = sum(float(amounts[name][layer].sum()) for layer in compared)
        for layer, contrast in zip(compared, found, strict=True):
            p_adjusted = next(adjusted) if contrast is not None and contrast.p_value is not None else None
            share = float(amounts[name][layer].sum()) / whole if whole else 0.0
            shares[layer].append(_share(name, share, contrast, p_adjusted))
    if len(slices) == 2 and contrasts:
        _mirror(shares, amounts, compared, list(slices))
    layers = tuple(
        _layer(layer, for_all, {name: decision for name, (_, decision) in slices.items()}, tuple(shares[layer])) for layer in swept
    )
    return layers, len(p_values)


def _amounts(measured: Measured) -> dict[int, Floats]:
    """Layer -> nats of every sequence at the lowest format, summed over its units; without layers that were not measured there."""
    lowest = len(measured.formats) - 1
    done = {item.unit for item in measured.cell.measurements if item.format == measured.formats[lowest] and item.kl_nats is not None}
    return {
        layer: measured.kl[rows, lowest].sum(axis=0)
        for layer, rows in layers_of(measured.cell.units).items()
        if all(measured.cell.units[row].name in done for row in rows)
    }


def _contrasts(amounts: Mapping[str, Floats], seed: int) -> dict[str, list[ShareContrast | None]]:
    """Slice -> its contrast with all others, by layer; of two slices only the first, which says the same as the second."""
    names = list(amounts)
    asked = names[:1] if len(names) == 2 else names
    every, owner = np.concatenate([amounts[name] for name in names], axis=1), np.repeat(names, [amounts[name].shape[1] for name in names])
    return {name: share_contrasts(every, owner == name, len(asked) * len(every), INTERVAL_RESAMPLES, seed) for name in asked}


def _share(name: str, share: float, contrast: ShareContrast | None, p_adjusted: float | None) -> LayerShare:
    ratio = contrast.ratio if contrast is not None else None
    apart = ratio is not None and ratio.low is not None and ratio.high is not None and not ratio.low <= 1 <= ratio.high
    return LayerShare(
        slice=name,
        share=share,
        ratio=ratio,
        p_value=contrast.p_value if contrast is not None else None,
        p_adjusted=p_adjusted,
        told=apart and p_adjusted is not None and p_adjusted < ALPHA,
    )


def _mirror(
    shares: dict[int, list[LayerShare]], amounts: Mapping[str, Mapping[int, Floats]], compared: Sequence[int], names: list[str]
) -> None:
    """Give the second of two slices the contrast of the first, the other way round."""
    second = amounts[names[1]]
    whole = sum(float(second[layer].sum()) for layer in compared)
    for layer in compared:
        first = shares[layer][0]
        share = float(second[layer].sum()) / whole if whole else 0.0
        ratio = first.ratio and first.ratio.model_copy(
            update={
                "value": 1 / first.ratio.value,
                "low": None if first.ratio.high is None else 1 / first.ratio.high,
                "high": None if first.ratio.low is None else 1 / first.ratio.low,
            }
        )
        shares[layer].append(first.model_copy(update={"slice": names[1], "share": share, "ratio": ratio}))


def _layer(layer: int, for_all: Decision, decisions: Mapping[str, Decision], shares: tuple[LayerShare, ...]) -> LayerBySlice:
    zones = {name: zone for name, decision in decisions.items() if (zone := decision.zone_of(layer)) is not None}
    told = {item.slice for item in shares if item.told}
    zone_for_all = for_all.zone_of(layer)
    assert zone_for_all is not None, "a layer that was swept has a zone"
    known = {name: zone for name, zone in zones.items() if zone != "INCONCLUSIVE"}
    return LayerBySlice(
        layer=layer,
        zone_for_all=zone_for_all,
        zones=zones,
        shares=shares,
        depends=any(zone != other for name, zone in known.items() if name in told for other in known.values()),
    )
