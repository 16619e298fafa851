"""Packed weights of single units, made when they are first asked for, each module quantized alone.

`Variants.packed` makes all weights of a variant; a part of a sweep needs those of a few layers. Both give the same weights bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from bitzones.backends.backend_protocol import Packed
from bitzones.backends.quantizing import quantized_alone
from bitzones.schema.formats import is_calibrated
from bitzones.schema.sensitivity_cells import Unit
from bitzones.sensitivity.variants import Variants

__all__ = ["LayerWeights"]


class LayerWeights:
    """Weights of the uniform variants by unit, kept once they are made: a fraction of the reference's size."""

    def __init__(self, variants: Variants) -> None:
        self._variants = variants
        self._made: dict[str, dict[str, Packed]] = defaultdict(dict)
        self._rounded: set[int] = set()

    def round(self, layers: Collection[int]) -> None:
        """Make the weights in calibrated formats of some layers, all in one pass over the calibration set up to the last of them."""
        lacking = set(layers) - self._rounded
        if lacking and any(map(is_calibrated, self._variants.uniform.values())):
            for variant, weights in self._variants.rounded_alone(lacking).items():
                self._made[variant].update(weights)
        self._rounded |= lacking

    def of(self, unit: Unit, variant: str) -> dict[str, Packed]:
        """Module -> packed weight of the modules of a unit that the variant quantizes; empty if its format supports none of them."""
        format_ = self._variants.formats[variant]
        names, made = self._variants.taken_by(unit, format_), self._made[variant]
        if is_calibrated(format_) and unit.layer is not None:
            self.round([unit.layer])
        for name in names:
            if name not in made:
                weight = self._variants.loaded.model.get_parameter(f"{name}.weight").detach()
                made[name] = quantized_alone(weight, format_, self._variants.device)
        return {name: made[name] for name in names}
