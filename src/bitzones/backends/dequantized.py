"""Backends whose weights run in another engine: here they are measured, by computing with the values that they stand for.

KL and accuracy depend on values alone, so they are those of the format. Time and memory in use do not: they are refused, or are those of
the dense weights. A backend of this kind only says what its formats are and how a weight is rounded (docs/add-a-backend.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

import torch

from bitzones.backends.backend_protocol import Checkpoints, Notify, Packed, Staying, silent
from bitzones.backends.integers import Rounded
from bitzones.schema.formats import Format

__all__ = ["Dequantized", "DequantizedLinear"]


class DequantizedLinear(torch.nn.Linear):
    """A linear layer with the values of a packed weight, which it keeps."""

    backend: str
    packed: Packed

    @classmethod
    def of(cls, module: torch.nn.Linear, packed: Packed, backend: str) -> Self:
        """A module in another's place, with its bias, in its dtype."""
        made = cls(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        made.weight = torch.nn.Parameter(packed.values(module.weight.dtype), requires_grad=False)
        made.bias = module.bias
        made.backend, made.packed = backend, packed
        return made.train(module.training)


class Dequantized:
    """What all such backends have in common; see `bitzones.backends.backend_protocol.Backend` for every method.

    A backend adds ``name``, ``check``, ``group_size``, ``stored_bytes`` and ``quantize``; ``why_not`` where it does not take every shape,
    ``pack`` where integers can be given (and ``whole_zeros`` where zero points are integers), and ``weigh`` where columns can have an
    importance.
    """

    name: str
    checkpoints: Checkpoints | None = None
    whole_zeros: bool = False
    unpacking_kernels: frozenset[str] = frozenset()

    def quantize(self, weight: torch.Tensor, format_: Format) -> Packed:
        """One weight, rounded by the backend itself."""
        raise NotImplementedError

    def pack(self, rounded: Rounded, format_: Format) -> Packed:
        """One weight from given integers; only asked for where `check` accepts the method ``gptq``."""
        raise NotImplementedError

    def weigh(self, weight: torch.Tensor, importance: torch.Tensor, format_: Format) -> Packed:
        """One weight by an importance matrix; only asked for where `check` accepts the method ``imatrix``."""
        raise NotImplementedError

    def why_not(self, format_: Format, rows: int, columns: int) -> str | None:
        """Why a format does not take a weight of this shape; None if it does."""
        return None

    def unsupported(
        self,
        model: torch.nn.Module,
        wanted: Iterable[tuple[str, str]],
        compute_dtype: torch.dtype,
        device: torch.device,
        notify: Notify = silent,
    ) -> Staying:
        """Modules of a shape that their format does not take."""
        found: dict[str, dict[str, str]] = {}
        for name, format_name in wanted:
            rows, columns = model.get_parameter(f"{name}.weight").shape
            if (why := self.why_not(Format.of(format_name), rows, columns)) is not None:
                found.setdefault(format_name, {})[name] = why
        return found

    def install(self, model: torch.nn.Module, formats: Mapping[str, Format], ready: Mapping[str, Packed]) -> None:
        """Put modules with the values of the packed weights in their places."""
        for name, format_ in formats.items():
            module = model.get_submodule(name)
            assert isinstance(module, torch.nn.Linear)  # `linear.is_quantizable`
            packed = ready[name] if name in ready else self.quantize(module.weight.detach(), format_)
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, DequantizedLinear.of(module, packed, self.name))

    def holds(self, module: torch.nn.Module) -> bool:
        """Whether it is a module of `install`."""
        return isinstance(module, DequantizedLinear) and module.backend == self.name

    def weight_of(self, module: torch.nn.Module) -> Packed | None:
        """The packed weight that a module was made with."""
        return module.packed if isinstance(module, DequantizedLinear) else None

    def cast(self, module: torch.nn.Module, dtype: torch.dtype, device_type: str | None) -> None:
        """Compute the values again, so that none was rounded to the dtype before."""
        assert isinstance(module, DequantizedLinear)
        if module.weight.dtype != dtype:
            module.weight.data = module.packed.values(dtype).to(module.weight.device)

    def kernel(self, module: torch.nn.Module) -> str:
        """The engine's is not here."""
        return "dense"

    def untimed(self, module: torch.nn.Module) -> str | None:
        """It computes a dense product."""
        return f"{self.name} has no kernel in torch: its weights are measured here by their values, and timed in its own engine"

    def prepare(self, notify: Notify = silent) -> str | None:
        """Nothing is compiled."""
        return None

    def build(self) -> Mapping[str, str | None]:
        """Nothing is compiled."""
        return {}
