"""What the rooms ask of a quantization library: nothing outside a backend's own folder imports the library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from transformers import PreTrainedModel

from bitzones.backends.integers import Rounded
from bitzones.schema.formats import Format

__all__ = ["Backend", "Checkpoints", "Notify", "Packed", "Staying", "Weight", "silent"]

Notify: TypeAlias = Callable[[str], None]

Staying: TypeAlias = Mapping[str, Mapping[str, str]]
"""Format -> module that this format leaves in the reference's format -> reason."""


def silent(message: str) -> None:
    """Report no progress."""


class Packed(Protocol):
    """A quantized weight as its backend stores it: packed integers and whatever makes values of them. It is never changed."""

    @property
    def format(self) -> str:
        """Its name without a method, as in ``qint4`` or ``mlx:3g64``: what the tensors themselves tell."""

    @property
    def shape(self) -> torch.Size:
        """Of the weight: (rows, columns)."""

    @property
    def device(self) -> torch.device:
        """Where the packed data are."""

    @property
    def stored_bytes(self) -> int:
        """Packed data, scales and shifts, read off the tensors and not computed from the bits."""

    @property
    def group_size(self) -> int | None:
        """Number of input features that share one scale; None if a whole row does."""

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """The dense weight that it stands for, on its device, computed in ``dtype`` or wider."""

    def parts(self) -> Rounded:
        """Integers, scales and shifts on the CPU, exactly: what other file formats are to carry unchanged.

        Raises:
            ModelError: it is not made of these.
        """

    def to(self, device: torch.device) -> Packed:
        """The same on a device; itself where it is there."""


Weight: TypeAlias = torch.Tensor | Packed
"""A weight in a swap or a sweep: dense or quantized."""


class Checkpoints(Protocol):
    """Models in the library's own layout, for a backend whose library saves and loads them."""

    def check(self, model: PreTrainedModel) -> None:
        """Refuse a dense model that the library's loader would not rebuild.

        Raises:
            ModelError: naming the class.
        """

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write a quantized model.

        Raises:
            ModelError: the library cannot save it.
            OSError: the folder cannot be written.
        """

    def reload(self, folder: Path) -> PreTrainedModel:
        """Load a folder as a user would, on the CPU and without running code from the folder.

        Raises:
            ModelError: it cannot be loaded whole.
        """

    def repack(self, model: torch.nn.Module) -> None:
        """Give every weight of a model in memory, in place, what it has after saving and loading, bit for bit."""

    def read_module(self, like: torch.nn.Module, tensors: Mapping[str, torch.Tensor], format_: Format) -> torch.nn.Module:
        """One quantized module from the tensors that `save` wrote for it, as `reload` would make it, on the CPU.

        Args:
            like: a linear module, dense or quantized, of the same shape; its bias is shared.
            tensors: by their names within the module.
            format_: of the weight.

        Raises:
            ModelError: the tensors make no weight of this shape and format.
        """


class Backend(Protocol):
    """A quantization library, or a file format of another engine whose values are computed here.

    Methods that take ``columns`` or a shape answer for any weight; those that take a format only see what `check` accepts.
    """

    @property
    def name(self) -> str:
        """What opens the names of its formats."""

    @property
    def checkpoints(self) -> Checkpoints | None:
        """None where weights are only measured here and run elsewhere, through `bitzones export`."""

    @property
    def whole_zeros(self) -> bool:
        """Whether `pack` takes only shifts that are whole numbers of scales, float32, on grids of `bitzones.backends.whole_zeros`."""

    def check(self, format_: Format) -> None:
        """Refuse a format that is not offered.

        Raises:
            ValueError: the message lists those that are.
            MissingPackageError: a package that it takes is not installed.
        """

    def group_size(self, format_: Format, columns: int) -> int | None:
        """Number of adjacent input features that share a scale; None if a whole row does."""

    def stored_bytes(self, format_: Format, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Bytes of a weight of this shape whose scales are stored in ``dtype``."""

    def unsupported(
        self,
        model: torch.nn.Module,
        wanted: Iterable[tuple[str, str]],
        compute_dtype: torch.dtype,
        device: torch.device,
        notify: Notify = silent,
    ) -> Staying:
        """Which of (module, format) cannot be, and why: a shape that the format does not take, or that no kernel here supports."""

    def quantize(self, weight: torch.Tensor, format_: Format) -> Packed:
        """One weight, rounded by the backend itself, on the weight's device.

        Args:
            weight: shape (rows, columns), in the dtype that scales are stored in.
            format_: not one that is calibrated.
        """

    def pack(self, rounded: Rounded, format_: Format) -> Packed:
        """One weight from integers, scales and shifts that were chosen elsewhere, in groups of `group_size`."""

    def weigh(self, weight: torch.Tensor, importance: torch.Tensor, format_: Format) -> Packed:
        """One weight, rounded by the backend with an importance of each column, shape (columns,); only for the method ``imatrix``."""

    def install(self, model: torch.nn.Module, formats: Mapping[str, Format], ready: Mapping[str, Packed]) -> None:
        """Quantize the named modules in place: with the weights that are ready, the others by `quantize`'s rule."""

    def holds(self, module: torch.nn.Module) -> bool:
        """Whether a module is one that `install` made."""

    def weight_of(self, module: torch.nn.Module) -> Packed | None:
        """The quantized weight of a module that it `holds`, in the packing of a file; None if it was never frozen."""

    def cast(self, module: torch.nn.Module, dtype: torch.dtype, device_type: str | None) -> None:
        """Make a module that it `holds` compute in ``dtype``, in place, with the same integers.

        ``device_type`` is that of the model's other weights: where the module's lie elsewhere they are left for their move.
        """

    def kernel(self, module: torch.nn.Module) -> str:
        """What computes the product of a module that it `holds`."""

    @property
    def unpacking_kernels(self) -> frozenset[str]:
        """Those of its kernels that unpack a weight at every product."""

    def untimed(self, module: torch.nn.Module) -> str | None:
        """Why the time of a module that it `holds` says nothing of its format here; None if it does."""

    def prepare(self, notify: Notify = silent) -> str | None:
        """Compile what has to be before anything is timed; the reason in a line if that fails."""

    def build(self) -> Mapping[str, str | None]:
        """Compile everything, also for devices that are not here: name -> failure, None if it is built."""
