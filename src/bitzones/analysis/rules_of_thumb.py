"""The rules of thumb as a table: claim, statistic, threshold and source. `bitzones.analysis.heuristics` tests them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bitzones.analysis.layer_sensitivity import Measured, layers_of
from bitzones.schema.layer_statistics import AttentionStatistics, LayersCell, LayerStatistics

__all__ = ["RULES", "Rule", "Statistic", "statistics"]

Statistic = Literal["sparsity", "entropy", "focus", "magnitude", "depth", "weight kurtosis", "peak", "weight error"]


@dataclass(frozen=True)
class Rule:
    """One rule. With a threshold it names the layers whose statistic, times ``sign``, is above it; without one it orders them.

    ``sign`` is -1 if less means more sensitive. ``claims`` is the measure by which a rule that names layers is judged: precision, or
    recall for a rule that calls the other layers safe.
    """

    name: str
    claim: str
    source: str
    statistic: Statistic
    sign: int = 1
    threshold: float | None = None
    claims: Literal["precision", "recall"] = "precision"

    def __post_init__(self) -> None:
        assert self.sign in (-1, 1)


FOLKLORE = "folklore"

RULES = (
    Rule("sparsity above 15%", "layers with activation sparsity above 15% are critical", FOLKLORE, statistic="sparsity", threshold=0.15),
    Rule(
        "entropy below 1.0",
        "layers whose attention has an entropy below 1.0 nat are critical",
        FOLKLORE,
        statistic="entropy",
        sign=-1,
        threshold=1.0,
    ),
    Rule(
        "focus above 70%",
        "layers that turn over 70% of the answer's attention to the question's content are critical",
        FOLKLORE,
        statistic="focus",
        threshold=0.7,
    ),
    Rule("magnitude above 4.0", "layers with a mean |activation| above 4.0 are critical", FOLKLORE, statistic="magnitude", threshold=4.0),
    Rule(
        "first half safe",
        "the first half of the layers is safe: critical ones lie in the second half",
        FOLKLORE,
        statistic="depth",
        threshold=0.5,
        claims="recall",
    ),
    Rule(
        "last quarter critical",
        "the last quarter of the layers is critical",
        "common practice: the layers next to the output stay wide",
        statistic="depth",
        threshold=0.75,
    ),
    Rule(
        "weight kurtosis",
        "the heavier the tails of a layer's weights, the more sensitive it is",
        "Shkolnik et al. 2020, arXiv:2002.07686",
        statistic="weight kurtosis",
    ),
    Rule(
        "peak activation",
        "the higher a layer's largest |activation|, the more sensitive it is",
        "outliers: LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339; SmoothQuant, Xiao et al. 2022, arXiv:2211.10438",
        statistic="peak",
    ),
    Rule(
        "weight error",
        "the larger the relative quantization error of a layer's weights, the more sensitive it is",
        "common practice; as a criterion for clipping, Banner et al. 2018, arXiv:1810.05723",
        statistic="weight error",
    ),
    Rule("sparsity", "the sparser a layer's activations, the more sensitive it is", FOLKLORE, statistic="sparsity"),
    Rule("entropy", "the lower the entropy of a layer's attention, the more sensitive it is", FOLKLORE, statistic="entropy", sign=-1),
    Rule("focus", "the more a layer attends to the question's content, the more sensitive it is", FOLKLORE, statistic="focus"),
    Rule(
        "magnitude",
        "the larger a layer's mean |activation|, the more sensitive it is",
        "of channels: AWQ, Lin et al. 2023, arXiv:2306.00978",
        statistic="magnitude",
    ),
)
"""In report order: rules that name layers, then rules that order them."""


def statistics(measured: Measured, layers: LayersCell | None, total: int | None = None) -> dict[Statistic, dict[int, float]]:
    """Every statistic by layer; layers without a value are absent.

    ``depth`` is the share of the model's layers up to and including this one. ``total`` is the number of layers; by default, up to the last
    layer in the data.
    """
    found = layers.layers if layers else ()
    named = {unit.layer for unit in measured.cell.units if unit.layer is not None} | {item.layer for item in found}
    count = total or max(named) + 1
    attention = {item.layer: item.attention for item in found if item.attention is not None}
    return {
        "sparsity": _activation(found, "sparsity"),
        "magnitude": _activation(found, "magnitude"),
        "peak": _activation(found, "peak"),
        "entropy": {layer: item.entropy_nats for layer, item in attention.items()},
        "focus": _focus(attention),
        "depth": {layer: (layer + 1) / count for layer in named},
        "weight kurtosis": _mean(measured, {unit.name: unit.weight_kurtosis for unit in measured.cell.units}, power=1),
        "weight error": _mean(measured, _errors(measured), power=2),
    }


def _activation(found: tuple[LayerStatistics, ...], name: Literal["sparsity", "magnitude", "peak"]) -> dict[int, float]:
    return {item.layer: float(getattr(item, name)) for item in found}


def _focus(attention: Mapping[int, AttentionStatistics]) -> dict[int, float]:
    return {layer: item.reasoning_focus for layer, item in attention.items() if item.reasoning_focus is not None}


def _errors(measured: Measured) -> dict[str, float | None]:
    """Relative error of every unit's weights at the lowest format."""
    return {item.unit: item.weight_error for item in measured.cell.measurements if item.format == measured.formats[-1]}


def _mean(measured: Measured, values: Mapping[str, float | None], power: int) -> dict[int, float]:
    """The power mean over a layer's units, weighted by parameters; a layer with a unit without a value is absent.

    For relative errors (power 2) it is exact if the units' weights have the same root mean square, for kurtosis (power 1) if they also have
    the same mean.
    """
    units, means = measured.cell.units, {}
    for layer, rows in layers_of(units).items():
        known = [(units[row].parameters, value) for row in rows if (value := values.get(units[row].name)) is not None]
        weight = sum(parameters for parameters, _ in known)
        if len(known) == len(rows) and weight:
            means[layer] = (math.fsum(n * value**power for n, value in known) / weight) ** (1 / power)
    return means
