"""Engines that load an exported folder and answer tokens with logits: a new one is a module with an `Opener` and a row in `ENGINES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from bitzones.schema.errors import ArgumentError, MissingPackageError, PlanError

if TYPE_CHECKING:
    import torch

__all__ = ["ENGINES", "Answering", "EngineEntry", "engine", "stored_values"]


class Answering(Protocol):
    """A model in its engine."""

    def __call__(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Log-softmax over the vocabulary after each token of a sequence, nats, float32, shape (tokens, vocabulary), on the CPU."""


@dataclass(frozen=True)
class EngineEntry:
    """``opener`` is the module and function that loads a folder, ``targets`` what it was exported to, ``packages`` what to install."""

    opener: str
    targets: tuple[str, ...]
    packages: str


ENGINES: Mapping[str, EngineEntry] = {
    "mlx": EngineEntry("bitzones.deploy.mlx_engine:opened", ("mlx",), "'bitzones[mlx]'"),
    "llama.cpp": EngineEntry("bitzones.deploy.llama_engine:opened", ("gguf",), "llama-cpp-python"),
    "gptqmodel": EngineEntry("bitzones.deploy.gptqmodel_engine:opened", ("gptq",), "gptqmodel"),
    "transformers": EngineEntry(
        "bitzones.deploy.transformers_engine:opened",
        ("gguf", "compressed-tensors", "auto-round"),
        "'bitzones[measure]' compressed-tensors auto-round",
    ),
}

_VALUES = {
    "mlx": "bitzones.deploy.mlx_checkpoint:values",
    "gguf": "bitzones.deploy.gguf_file:values",
    "compressed-tensors": "bitzones.deploy.compressed_tensors_checkpoint:values",
    "auto-round": "bitzones.deploy.gptq_layout:values",
    "gptq": "bitzones.deploy.gptq_layout:values",
}
"""Target -> what reads the weights of a folder."""


def engine(name: str, target: str) -> Callable[[Path, int], Answering]:
    """What loads a folder of a target in an engine, for sequences of up to so many tokens.

    Raises:
        ArgumentError: there is no such engine, or it loads no such folder.
        MissingPackageError: the engine is not installed.
    """
    if name not in ENGINES:
        raise ArgumentError(f"there is no engine {name!r}; engines: {', '.join(ENGINES)}")
    entry = ENGINES[name]
    if target not in entry.targets:
        raise ArgumentError(f"{name} loads what was exported to {' or '.join(entry.targets)}, and this folder was exported to {target}")
    try:
        return cast("Callable[[Path, int], Answering]", _function(entry.opener))
    except ImportError as error:
        if error.name is not None and error.name.startswith("bitzones"):  # a bug of ours, not a missing package
            raise
        raise MissingPackageError(f"{name} cannot be imported here ({error}): pip install {entry.packages}") from error


def stored_values(folder: Path, target: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Module -> what the weights that a folder stores for it stand for, float32.

    Raises:
        PlanError: the folder holds a recipe.
    """
    if target not in _VALUES:
        raise PlanError(f"{folder}: exported to {target}, which stores no weights that can be compared")
    return cast("Callable[[Path], Iterator[tuple[str, torch.Tensor]]]", _function(_VALUES[target]))(folder)


def _function(place: str) -> object:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)
