"""Several devices for machines that have one: tensors of the CPU that say they lie elsewhere, and refuse what real ones would refuse.

While the mode is on, every storage has a place. What is moved is copied; what is made has a place by its ``device``, or that of what it is
made of; what is made of tensors of two places raises as CUDA would. Tensors made inside one call, such as those of a kernel, have none and
go with any. It shows that code moves what it has to; not that a GPU computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

HOST = torch.device("cpu")
GET_DEVICE, SET_DATA = torch.Tensor.device.__get__, torch.Tensor.data.__set__  # type: ignore[attr-defined]
Call = Callable[..., Any]


class TwoDevices(TorchFunctionMode):
    """Knows where every tensor lies that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[int, tuple[StorageWeakRef, torch.device]] = {}

    def __torch_function__(self, func: Call, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == GET_DEVICE:
            return self.place(args[0]) or HOST
        if func in {torch.Tensor.to, torch.Tensor.cpu}:
            return self._moved(func, args, kwargs)
        if func is torch._has_compatible_shallow_copy_type:  # asked whether a parameter may take what was moved
            return True
        if func is torch.autograd.grad:  # gradients lie where what they belong to lies
            found = func(*args, **kwargs)
            for gradient, tensor in zip(found, tensors(args[1]), strict=True):
                self.put(gradient, self.place(tensor) or HOST)
            return found
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = HOST
        place = torch.device(asked) if asked is not None else self._common(func, args, kwargs)
        out = func(*args, **kwargs)
        if func not in {SET_DATA, torch.Tensor.copy_}:
            for tensor in tensors(out):
                if self.place(tensor) is None:
                    self.put(tensor, place or HOST)
        return out

    def place(self, tensor: torch.Tensor) -> torch.device | None:
        """Where a tensor lies; None where it was made out of sight."""
        held = self._places.get(_storage(tensor)._cdata)
        return held[1] if held else None

    def put(self, tensor: torch.Tensor, place: torch.device) -> None:
        """Say where a tensor lies. The reference keeps its storage's address from being given out again."""
        for inner in _inner(tensor):
            storage = inner.untyped_storage()
            self._places[storage._cdata] = (StorageWeakRef(storage), place)

    def _moved(self, func: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        tensor, given = args[0], [*args[1:], kwargs.get("device"), kwargs.get("dtype")]
        asked = HOST if func is torch.Tensor.cpu else next((v for v in given if isinstance(v, torch.device | str)), None)
        dtype = next((v for v in given if isinstance(v, torch.dtype)), tensor.dtype)
        now = self.place(tensor) or HOST
        to = now if asked is None else torch.device(asked)
        out = tensor if dtype == tensor.dtype else tensor.to(dtype)
        if to != now and out is tensor:
            out = _copied(tensor)
        if out is not tensor:
            self.put(out, to)
        return out

    def _common(self, func: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.device | None:
        given = list(
            tensors(args[:1] if func is torch.Tensor.__deepcopy__ else (args, kwargs))
        )  # which is given all that is copied already
        if func in {SET_DATA, torch.Tensor.copy_}:
            return None
        if func in {torch.Tensor.__getitem__, torch.Tensor.__setitem__}:  # indices may lie on the host
            given = [tensor for number, tensor in enumerate(given) if not number or self.place(tensor) != HOST]
        found = {place for tensor in given if tensor.ndim and (place := self.place(tensor)) is not None}
        if len(found) > 1:
            name = getattr(func, "__name__", func)
            raise RuntimeError(f"{name}: expected all tensors on one device, found {', '.join(sorted(map(str, found)))}")
        return next(iter(found), None) or next((place for t in given if (place := self.place(t)) is not None), None)


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested sequences and mappings."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors(tuple(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)


def _inner(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that a quantized one is made of."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
    else:
        for name in flatten()[0]:
            yield from _inner(getattr(tensor, name))


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return next(_inner(tensor)).untyped_storage()


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.detach().clone() if not tensor.requires_grad else tensor.clone()
    names, meta = flatten()
    inner = {name: _copied(getattr(tensor, name)) for name in names}
    made: torch.Tensor = type(tensor).__tensor_unflatten__(inner, meta, tensor.size(), tensor.stride())  # type: ignore[attr-defined]
    return made
