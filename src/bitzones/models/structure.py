"""Finds a model's decoder layers, and the modules in them that can be quantized, by structure and not by a table of names.

The longest list of blocks of one class is the list of decoder layers; every quantizable module inside a block belongs to that layer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from bitzones.backends.quanto import packing, quantizers
from bitzones.schema.errors import ModelError

__all__ = [
    "decoder_layers",
    "has_experts",
    "head",
    "model_bytes",
    "not_quantizable",
    "quantizable_modules",
    "tied_embeddings",
    "weights_sha256",
]


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


def has_experts(model: torch.nn.Module) -> bool:
    """Whether a decoder layer holds a list of modules: a token visits a few of them."""
    return any(isinstance(module, torch.nn.ModuleList) for layer in decoder_layers(model).values() for module in layer.modules())


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


def head(model: PreTrainedModel) -> str:
    """Name of the module that turns hidden states into logits, where quantizing it makes the model smaller.

    quanto gives a tied head a packed copy of its own, beside the dense embeddings, on disk and after a reload too: the model then grows.

    Raises:
        ModelError: there is none, quanto has no quantized counterpart, or it is tied to the embeddings.
    """
    module = model.get_output_embeddings()
    names: list[str] = [name for name, found in model.named_modules() if found is module]
    if not names or module is None or not quantizers.is_quantizable(module):
        raise ModelError(f"sensitivity.include = lm_head: {type(model).__name__} has no head that is quantizable by quanto")
    if tied_embeddings(model):
        rows, columns = module.weight.shape
        added = (
            f"{quantizers.expected_bytes(rows, columns, module.weight.dtype, f'qint{bits}'):,} bytes at qint{bits}" for bits in (8, 4, 2)
        )
        raise ModelError(
            "sensitivity.include = lm_head: the head is tied to the embeddings, which stay dense; quantized it would be a copy besides, "
            f"and the model would grow by {', '.join(added)}; leave it out"
        )
    return names[0]


def not_quantizable(model: torch.nn.Module) -> dict[str, int]:
    """Kind of module -> parameters of the matrices inside the decoder layers that quanto has no quantized counterpart for.

    Such as the fused experts of a mixture (three-dimensional parameters) or GPT-2's ``Conv1D``: they stay as they are.
    """
    found: Counter[str] = Counter()
    for layer in decoder_layers(model).values():
        for module in layer.modules():
            matrices = [p for p in module.parameters(recurse=False) if p.ndim > 1]
            if matrices and not quantizers.is_quantizable(module):
                found[type(module).__name__] += sum(p.numel() for p in matrices)
    return dict(found)


def model_bytes(model: torch.nn.Module, packed: Mapping[str, torch.Tensor]) -> int:
    """Bytes of a whole model with some weights replaced by packed ones; tied tensors and shared storage count once.

    Buffers count only where they are saved with the model.
    """
    replaced = {f"{name}.weight" for name in packed}
    tensors = {t.data_ptr(): t for name, t in model.state_dict(keep_vars=True).items() if name not in replaced}
    return sum(map(packing.stored_bytes, tensors.values())) + sum(map(packing.stored_bytes, packed.values()))


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of the names, dtypes, shapes and bytes of every weight and saved buffer, tied ones under each of their names.

    It is no hash of a file: the same weights saved to disk have another.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
