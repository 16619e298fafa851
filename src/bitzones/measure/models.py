"""Loading a model, so that measuring functions receive a model and never load one.

This module does not know about tasks or measurements.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bitzones import embedded, profile
from bitzones.errors import ModelError
from bitzones.measure.device import dtype_of
from bitzones.measure.structure import decoder_layers, tied_embeddings
from bitzones.records import ModelInfo

__all__ = ["Loaded", "load"]

_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """A model as it is stored, in evaluation mode, with its tokenizer: what every variant is a fresh copy of."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    sha256: str

    def info(self, compute_dtype: torch.dtype) -> ModelInfo:
        """What the run file says about the model."""
        model = self.model
        return ModelInfo(
            source=self.source,
            sha256=self.sha256,
            architecture=type(model).__name__,
            parameters=sum(p.numel() for p in model.parameters()),
            layers=len(decoder_layers(model)),
            dtype=str(model.dtype).removeprefix("torch."),
            compute_dtype=str(compute_dtype).removeprefix("torch."),
            tied_embeddings=tied_embeddings(model),
        )


def load(settings: profile.Model, device: torch.device) -> Loaded:
    """Load a model in its stored dtype.

    Args:
        settings: ``embedded:tiny``, or a local folder with ``config.json`` and safetensors.
        device: where the weights go.

    Raises:
        ModelError: the source is not understood, is not there, has no safetensors, or cannot be loaded.
    """
    folder = _folder(settings.source)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"model {settings.source!r}: no *.safetensors in {folder}; weights of other kinds can run code and are not loaded")
    options = {"trust_remote_code": settings.trust_remote_code, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype_of(settings.dtype), use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model {settings.source!r} cannot be loaded: {str(error)[:300]}") from error
    model.eval().requires_grad_(requires_grad=False)
    torch.nn.Module.to(model, device)
    return Loaded(model, tokenizer, settings.source, _sha256(weights))


def _folder(source: str) -> Path:
    if source == "embedded:tiny":
        return embedded.TINY
    if (folder := Path(source)).is_dir():
        return folder
    raise ModelError(f"model source {source!r} is not understood: give embedded:tiny or a folder with config.json and safetensors")


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
