"""Every variant is built from a fresh copy and quantized once, and at most one quantized model is alive beside the reference.

What stays of a variant is its packed weights, a fraction of the reference's size: the sensitivity sweep takes them from here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from bitzones.measure import device as devices
from bitzones.measure import models, quantizers, structure
from bitzones.measure.quantizers import Packed

__all__ = ["Variants"]


class Variants:
    """The models of one run, by variant id, ready to run on ``device`` in ``compute_dtype``.

    Args:
        loaded: the model as stored.
        formats: variant id -> format; the first is the reference, the others are ``uniform``.
    """

    def __init__(self, loaded: models.Loaded, formats: Mapping[str, str], device: torch.device, compute_dtype: torch.dtype) -> None:
        self.loaded = loaded
        self.formats = dict(formats)
        self.reference_id = next(iter(formats))
        self.uniform = {variant: name for variant, name in self.formats.items() if variant != self.reference_id}
        self._mixed: dict[str, dict[str, str]] = {}
        self.device = device
        self.compute_dtype = compute_dtype
        self.reference = self._ready(loaded.model if loaded.model.dtype == compute_dtype else copy.deepcopy(loaded.model))
        self._packed: dict[str, dict[str, Packed]] = {self.reference_id: {}}
        self._alive: tuple[str, PreTrainedModel] | None = None

    def define(self, variant: str, assignment: Mapping[str, str]) -> None:
        """Add a variant of mixed formats: module name -> format, the reference's for what stays as it is."""
        self.formats[variant] = variant
        self._mixed[variant] = {name: format_ for name, format_ in assignment.items() if format_ != self.formats[self.reference_id]}

    def model(self, variant: str) -> PreTrainedModel:
        """The variant's model; a quantized one is freed when the next is asked for.

        Raises:
            ModelError: it could not be quantized as asked.
        """
        if variant == self.reference_id:
            return self.reference
        if self._alive is None or self._alive[0] != variant:
            self._alive = None
            devices.free(self.device)
            self._alive = (variant, self._build(variant))
        return self._alive[1]

    def packed(self, variant: str) -> Mapping[str, Packed]:
        """Module name -> packed weight of a variant, as it would be stored; empty for the reference."""
        if variant not in self._packed:
            self.model(variant)
        return self._packed[variant]

    def stored_bytes(self, variant: str) -> int:
        """Bytes of the whole model as it would be stored: packed weights, and all else in the model's own dtype."""
        return structure.model_bytes(self.loaded.model, self.packed(variant))

    def _build(self, variant: str) -> PreTrainedModel:
        model = copy.deepcopy(self.loaded.model)
        everywhere = dict.fromkeys(structure.quantizable_modules(model), self.formats[variant])
        if assignment := self._mixed.get(variant, everywhere):  # a plan may leave everything as it is
            quantizers.quantize(model, assignment)
        self._packed[variant] = quantizers.packed_weights(model)
        return self._ready(model)

    def _ready(self, model: PreTrainedModel) -> PreTrainedModel:
        quantizers.set_compute_dtype(model, self.compute_dtype)
        model.eval()
        return model
