"""Loading a model and finding its layers, so that measuring functions receive a model and never load one.

Layers and the modules in them are found by structure: the longest list of like-classed blocks is the list of decoder layers, and what
quanto can quantize inside one of them belongs to it. This module does not know about tasks or measurements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bitzones import embedded, profile
from bitzones.errors import ModelError
from bitzones.measure import quantizers
from bitzones.measure.device import dtype_of
from bitzones.records import ModelInfo, Part

__all__ = ["Loaded", "decoder_layers", "layer_parts", "load", "model_bytes", "quantizable_modules", "tied_embeddings"]

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


def tied_embeddings(model: PreTrainedModel) -> bool:
    """Whether input and output embeddings are one tensor."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def decoder_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Name -> module of the decoder layers, in order: the longest ``ModuleList`` of one class that no other such list contains.

    Raises:
        ModelError: the model has no list of layers.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    outermost = [(n, m) for n, m in lists if not any(n.startswith(f"{other}.") for other, _ in lists)]
    if not outermost:
        raise ModelError(f"{type(model).__name__} has no list of decoder layers")
    name, layers = max(outermost, key=lambda pair: len(pair[1]))
    return {f"{name}.{number}": layer for number, layer in enumerate(layers)}


def quantizable_modules(model: torch.nn.Module) -> dict[str, int]:
    """Module name -> layer number of all that quanto can quantize inside the decoder layers.

    The embeddings and ``lm_head`` lie outside and are left alone: they are tied in many small models, and quantizing one would untie them.

    Raises:
        ModelError: there is none.
    """
    found = {
        f"{layer_name}.{name}": number
        for number, (layer_name, layer) in enumerate(decoder_layers(model).items())
        for name, module in layer.named_modules()
        if quantizers.is_quantizable(module)
    }
    if not found:
        kinds = sorted({type(m).__name__ for layer in decoder_layers(model).values() for m in layer.modules() if not list(m.children())})
        raise ModelError(f"no module of {type(model).__name__} is quantizable by quanto (its layers are made of {', '.join(kinds)})")
    return found


def layer_parts(model: torch.nn.Module) -> tuple[Part, ...]:
    """One `Part` per decoder layer that has something to quantize; bytes are those of the weights in the model's own dtype."""
    modules = quantizable_modules(model)
    parts = []
    for number, name in enumerate(decoder_layers(model)):
        names = tuple(module for module, layer in modules.items() if layer == number)
        weights = [model.get_parameter(f"{module}.weight") for module in names]
        if names:
            parts.append(
                Part(
                    name=name,
                    layer=number,
                    modules=names,
                    parameters=sum(w.numel() for w in weights),
                    reference_bytes=sum(quantizers.stored_bytes(w) for w in weights),
                )
            )
    return tuple(parts)


def model_bytes(model: torch.nn.Module, packed: Mapping[str, torch.Tensor]) -> int:
    """Bytes of a whole model with some weights replaced by packed ones; tied tensors and shared storage count once.

    Buffers count only where they are saved with the model.
    """
    replaced = {f"{name}.weight" for name in packed}
    tensors = {t.data_ptr(): t for name, t in model.state_dict(keep_vars=True).items() if name not in replaced}
    return sum(map(quantizers.stored_bytes, tensors.values())) + sum(map(quantizers.stored_bytes, packed.values()))
