"""Builds the variants of a run, each once and from a fresh copy, with at most one quantized model in memory beside the reference.

A variant's packed weights, a fraction of the reference's size, are kept for the sensitivity sweep. A calibrated format has two sets of
them: each module rounded alone, for sensitivities, and the whole variant, rounded layer by layer.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from transformers import PreTrainedModel

from bitzones.backends import quantizing
from bitzones.backends.backend_protocol import Packed, Staying
from bitzones.backends.weights import packed_weights
from bitzones.data.sequences import Batch
from bitzones.devices import device as devices
from bitzones.models import loading, streamed_weights, structure
from bitzones.rounding import layerwise
from bitzones.rounding.gptq import DAMPING
from bitzones.schema.errors import ModelError, NotMeasuredError
from bitzones.schema.formats import is_calibrated
from bitzones.schema.run_record import ModelInfo
from bitzones.schema.sensitivity_cells import Unit
from bitzones.sensitivity.weights_by_layer import WeightsByLayer
from bitzones.tuning.weights_file import StoredWeights

__all__ = ["Variants"]


def _copied(model: PreTrainedModel, but: Iterable[str]) -> PreTrainedModel:
    """A copy that shares the weights of some modules with the model: they are about to be replaced, and copying them would waste memory."""
    shared = [model.get_submodule(name).weight for name in but]
    return copy.deepcopy(model, {id(weight): weight for weight in shared})


def _none() -> Sequence[Batch]:
    raise ModelError("a calibrated format needs a calibration set, and none was given")


class Variants:
    """The models of one run by variant ID, ready to run on ``device`` in ``compute_dtype``.

    Args:
        loaded: the model as stored.
        formats: variant ID -> format; the first is the reference, the others are ``uniform``.
        batches: returns the calibration set.
        damping: damping of calibrated formats (`gptq.round_rows`).
        notify: receives a line when modules are rounded, which takes a while.
        include: modules outside the decoder layers that uniform variants quantize too.
        staying: format -> modules that it leaves in the reference's format (`quantizing.unsupported`).
    """

    def __init__(
        self,
        loaded: loading.Loaded,
        formats: Mapping[str, str],
        device: torch.device,
        compute_dtype: torch.dtype,
        batches: Callable[[], Sequence[Batch]] = _none,
        damping: float = DAMPING,
        notify: Callable[[str], None] = lambda message: None,
        include: Sequence[str] = (),
        staying: Staying | None = None,
    ) -> None:
        self.loaded = loaded
        self.staying = staying or {}
        self.formats = dict(formats)
        self.reference_id = next(iter(formats))
        self.uniform = {variant: name for variant, name in self.formats.items() if variant != self.reference_id}
        self._mixed: dict[str, dict[str, str]] = {}
        self._stored: dict[str, StoredWeights] = {}
        self.device = device
        self.compute_dtype = compute_dtype
        self.reference = self._computing(loaded.model)
        self.fallbacks: dict[str, dict[str, str]] = {}
        """Variant -> module -> why it has the stock format's integers instead of calibrated ones."""
        self._packed: dict[str, Mapping[str, Packed]] = {self.reference_id: {}}
        self._whole: dict[str, Mapping[str, Packed]] = {self.reference_id: {}}
        self._alive: tuple[str, PreTrainedModel] | None = None
        self._include = include
        self._batches = batches
        self._damping = damping
        self._notify = notify

    def define(self, variant: str, assignment: Mapping[str, str]) -> None:
        """Add a variant with mixed formats: module name -> format, which may be the reference's."""
        self.formats[variant] = variant
        self._mixed[variant] = self._taken({name: form for name, form in assignment.items() if form != self.formats[self.reference_id]})

    def define_stored(self, variant: str, assignment: Mapping[str, str], stored: StoredWeights) -> None:
        """Add a variant whose weights were made already, in part or all of them; the others are quantized as `assignment` says."""
        self.define(variant, assignment)
        self._stored[variant] = stored

    def assignment(self, variant: str) -> dict[str, str]:
        """Module name -> format, of the modules that a variant quantizes."""
        return self._mixed[variant] if variant in self._mixed else self._everywhere(variant)

    def dense(self, variant: str) -> Mapping[str, torch.Tensor]:
        """Name -> parameter that is not quantized and yet differs from the reference's, as stored."""
        return self._stored[variant].dense if variant in self._stored else {}

    def _taken(self, assignment: Mapping[str, str]) -> dict[str, str]:
        """An assignment without the modules that their format does not support."""
        return {name: format_ for name, format_ in assignment.items() if name not in self.staying.get(format_, {})}

    def taken_by(self, unit: Unit, format_: str) -> list[str]:
        """The modules of a unit that a format quantizes: those that it supports."""
        return list(self._taken(dict.fromkeys(unit.modules, format_)))

    def weights(self, unit: Unit, variant: str) -> dict[str, Packed]:
        """Module -> packed weight (`packed`) of the modules of a unit that are quantized; empty if the format supports none of them."""
        taken = self.taken_by(unit, self.formats[variant])
        return {name: self.packed(variant)[name] for name in taken}

    def info(self) -> ModelInfo:
        """The model's record in the run file."""
        said: dict[str, dict[str, tuple[str, ...]]] = {}
        for format_, modules in self.staying.items():
            alike = defaultdict[str, list[str]](list)
            for name, why in modules.items():
                alike[why].append(name)
            said[format_] = {why: tuple(names) for why, names in alike.items()}
        return self.loaded.info(self.compute_dtype).model_copy(update={"staying": said})

    def _computing(self, stored: PreTrainedModel) -> PreTrainedModel:
        """The reference in the compute dtype."""
        if streamed_weights.is_streamed(stored):
            return streamed_weights.computing(stored, self.compute_dtype)
        return self._ready(stored if stored.dtype == self.compute_dtype else copy.deepcopy(stored))

    @property
    def is_streamed(self) -> bool:
        """Whether the layers stay in their files: no variant is built, and packed weights are made for one layer at a time."""
        return streamed_weights.is_streamed(self.reference)

    def model(self, variant: str) -> PreTrainedModel:
        """The variant's model; a quantized one is freed when the next is requested.

        Raises:
            ModelError: it could not be quantized as requested.
            NotMeasuredError: the model is streamed.
        """
        streamed_weights.refuse(self.reference, f"the model of {variant}")
        if variant == self.reference_id:
            return self.reference
        if self._alive is None or self._alive[0] != variant:
            self._alive = None
            devices.free(self.device)
            self._alive = (variant, self._build(variant))
        return self._alive[1]

    def packed(self, variant: str) -> Mapping[str, Packed]:
        """Module name -> packed weight of a variant, as stored; empty for the reference.

        In a calibrated format, each module is rounded as if it were the only change.
        """
        if self.is_streamed:
            return self._by_layer.of(list(self._everywhere(variant)), self.formats[variant])
        if variant not in self._packed:
            if variant not in self._mixed and not self._everywhere(variant):
                self._packed[variant] = {}
            elif is_calibrated(self.formats[variant]):
                self._packed |= self.rounded_alone()
            else:
                self._packed[variant] = self.whole(variant)
        return self._packed[variant]

    @cached_property
    def _by_layer(self) -> WeightsByLayer:
        return WeightsByLayer(self.loaded.model, structure.quantizable_modules(self.loaded.model), self.device, self._rounded_by_layer)

    def stock(self, variant: str) -> dict[str, Packed]:
        """Module -> packed weight of all of a streamed model's variant, made when it is used.

        Raises:
            NotMeasuredError: a format is calibrated.
        """
        chosen = self.assignment(variant)
        if any(map(is_calibrated, chosen.values())):
            streamed_weights.refuse(self.reference, f"rounding {variant} layer after layer")
        return {name: self._by_layer.of([name], format_)[name] for name, format_ in chosen.items()}

    def whole(self, variant: str) -> Mapping[str, Packed]:
        """Module name -> packed weight of the variant's model: calibrated formats are rounded layer by layer."""
        if variant not in self._whole:
            self.model(variant)
        return self._whole[variant]

    def stored_bytes(self, variant: str) -> int:
        """Stored bytes of the whole model: packed weights, and everything else in the model's own dtype."""
        return structure.model_bytes(self.loaded.model, self.whole(variant))

    def _build(self, variant: str) -> PreTrainedModel:
        assignment = self.assignment(variant)
        if variant not in self._mixed and not assignment:  # the variant would be the reference under another name
            why = next(iter(self.staying[self.formats[variant]].values()))
            raise NotMeasuredError(f"{variant}: no module can be {self.formats[variant]}; {why}")
        stored = self._stored.get(variant)
        ready = stored.packed if stored else self._round_in_sequence(variant, assignment) or self._packed_from_host(assignment)
        model = _copied(self.loaded.model, assignment)
        if stored is not None:
            stored.put_dense(model)
        if assignment:  # a plan may leave everything in the reference's format
            quantizing.quantize(model, assignment, ready)
        self._whole[variant] = packed_weights(model)
        return self._ready(model)

    def _everywhere(self, variant: str) -> dict[str, str]:
        """The assignment of a uniform variant."""
        modules = (*structure.quantizable_modules(self.loaded.model), *self._include)
        return self._taken(dict.fromkeys(modules, self.formats[variant]))

    def _packed_from_host(self, assignment: Mapping[str, str]) -> Mapping[str, Packed]:
        """Offloaded weights, quantized on the GPU like all others."""
        weights = {name: self.loaded.model.get_parameter(f"{name}.weight") for name in assignment}
        return {
            name: quantizing.quantized_alone(weight.detach(), assignment[name], self.device)
            for name, weight in weights.items()
            if weight.device.type != self.device.type
        }

    def _round_in_sequence(self, variant: str, assignment: Mapping[str, str]) -> Mapping[str, Packed]:
        if not any(map(is_calibrated, assignment.values())):
            return {}
        made = self.in_sequence(variant, assignment)
        self.fallbacks[variant] = made.fallbacks
        return made.weights

    def in_sequence(self, name: str, assignment: Mapping[str, str]) -> layerwise.Calibrated:
        """Weights of a plan that is not a variant, rounded layer by layer; ``assignment`` leaves out the reference's format."""
        self._notify(f"rounding {len(assignment)} modules of {name}, layer after layer")
        return layerwise.in_sequence(self.reference, assignment, self._batches(), self.loaded.model.dtype, self._damping)

    def _rounded_by_layer(self) -> Iterator[Mapping[str, layerwise.Calibrated]]:
        """The calibrated formats of a streamed model, every module rounded alone."""
        wanted = [name for name in self.uniform.values() if is_calibrated(name)]
        self._notify(f"rounding every module alone in {' and '.join(wanted)}, layer by layer")
        return layerwise.by_layer(self.reference, wanted, self._batches(), self.loaded.model.dtype, self._damping, self.staying)

    def rounded_alone(self, layers: Collection[int] | None = None) -> dict[str, Mapping[str, Packed]]:
        """Variant -> module -> weight of every calibrated variant, made in one pass over the layers; of some layers if they are named."""
        wanted = {variant: name for variant, name in self.uniform.items() if is_calibrated(name)}
        batches, formats, dtype = self._batches(), list(wanted.values()), self.loaded.model.dtype
        some = "every module" if layers is None else f"the modules of {len(layers)} layers"
        self._notify(f"rounding {some} alone in {' and '.join(formats)}")
        found = layerwise.separately(self.reference, formats, batches, dtype, self._damping, staying=self.staying, only=layers)
        return {variant: found[name].weights for variant, name in wanted.items()}

    def _ready(self, model: PreTrainedModel) -> PreTrainedModel:
        quantizing.set_compute_dtype(model, self.compute_dtype)
        model.eval()
        return model
