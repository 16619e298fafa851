"""optimum-quanto as a backend: 8 bits with a scale a row, 4 and 2 bits in groups, run by its own kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from optimum import quanto
from optimum.quanto.nn import QModuleMixin
from transformers import PreTrainedModel

from bitzones.backends import backend_protocol
from bitzones.backends.backend_protocol import Notify, Staying, silent
from bitzones.backends.integers import Rounded
from bitzones.backends.quanto import extensions, kernels, packing, quantizers, saving, supported
from bitzones.backends.quanto.quanto_weight import QuantoWeight
from bitzones.schema.formats import Format

__all__ = ["QUANTO", "Quanto"]


class _Checkpoints:
    """quanto's own layout, which `QuantizedModelForCausalLM` loads."""

    def check(self, model: PreTrainedModel) -> None:
        saving.check_reloadable(model)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        saving.save(model, folder)

    def reload(self, folder: Path) -> PreTrainedModel:
        return saving.reload(folder)

    def repack(self, model: torch.nn.Module) -> None:
        saving.repack_as_reloaded(model)

    def read_module(self, like: torch.nn.Module, tensors: Mapping[str, torch.Tensor], format_: Format) -> torch.nn.Module:
        return saving.read_module(like, tensors, format_.bits)


class Quanto:
    """The backend."""

    name = "quanto"
    checkpoints: backend_protocol.Checkpoints | None = _Checkpoints()
    unpacking_kernels = kernels.UNPACKING
    whole_zeros = False

    def check(self, format_: Format) -> None:
        """Accept: its names are parsed where all are (`bitzones.schema.formats`), and no other is parsed as its."""

    def group_size(self, format_: Format, columns: int) -> int | None:
        return None if format_.bits == 8 else packing.planned_group_size(columns)

    def stored_bytes(self, format_: Format, rows: int, columns: int, dtype: torch.dtype) -> int:
        return quantizers.expected_bytes(rows, columns, dtype, format_.bits)

    def unsupported(
        self,
        model: torch.nn.Module,
        wanted: Iterable[tuple[str, str]],
        compute_dtype: torch.dtype,
        device: torch.device,
        notify: Notify = silent,
    ) -> Staying:
        return supported.staying(model, wanted, compute_dtype, device, notify)

    def quantize(self, weight: torch.Tensor, format_: Format) -> QuantoWeight:
        return QuantoWeight(quantizers.packed_alone(weight, format_))

    def pack(self, rounded: Rounded, format_: Format) -> QuantoWeight:
        columns, groups = rounded.integers.shape[1], rounded.scale.shape[1]
        whole = groups == 1 and self.group_size(format_, columns) is None
        return QuantoWeight(packing.pack(rounded, format_.bits, None if whole else columns // groups))

    def weigh(self, weight: torch.Tensor, importance: torch.Tensor, format_: Format) -> QuantoWeight:
        raise NotImplementedError(format_.name)  # no name of quanto's has the method

    def install(self, model: torch.nn.Module, formats: Mapping[str, Format], ready: Mapping[str, backend_protocol.Packed]) -> None:
        own = {name: weight.tensor for name, weight in ready.items() if isinstance(weight, QuantoWeight)}
        quantizers.install(model, formats, own)

    def holds(self, module: torch.nn.Module) -> bool:
        return isinstance(module, QModuleMixin)

    def weight_of(self, module: torch.nn.Module) -> QuantoWeight | None:
        weight = module.weight
        return QuantoWeight(packing.as_stored(weight.data)) if isinstance(weight, quanto.QTensor) else None

    def cast(self, module: torch.nn.Module, dtype: torch.dtype, device_type: str | None) -> None:
        quantizers.cast_module(module, dtype, device_type)

    def kernel(self, module: torch.nn.Module) -> str:
        return kernels.kernel(module)

    def untimed(self, module: torch.nn.Module) -> str | None:
        if kernels.needs_unpacking(module) and (failure := extensions.extension_failure()) is not None:
            return f"latency of packed weights: {failure}"
        return None

    def prepare(self, notify: Notify = silent) -> str | None:
        return extensions.extension_failure(notify)

    def build(self) -> Mapping[str, str | None]:
        return extensions.build()


QUANTO: backend_protocol.Backend = Quanto()
"""The backend, as `bitzones.backends.registry` finds it."""
