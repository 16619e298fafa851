"""Finds a model's decoder layers, and the modules in them that can be quantized, by what a forward pass does, without a table of names.

Every quantizable module inside a decoder layer belongs to that layer, unless several modules share its weight.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from bitzones.backends.backend_protocol import Packed
from bitzones.backends.linear import is_quantizable
from bitzones.backends.quantizing import expected_bytes
from bitzones.backends.weights import stored_bytes
from bitzones.models import decoder_list
from bitzones.schema.errors import ModelError
from bitzones.schema.run_record import SHARED_WEIGHTS

__all__ = [
    "decoder_layers",
    "find_layers_unread",
    "has_experts",
    "head",
    "model_bytes",
    "not_quantizable",
    "quantizable_modules",
    "tied_embeddings",
    "weights_sha256",
]

_KEPT = "_bitzones_decoder_layers"
"""Attribute of a model that keeps the names of its decoder layers."""


def tied_embeddings(model: PreTrainedModel) -> bool:
    """Whether input and output embeddings are one tensor."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def decoder_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Name -> module of the decoder layers, in order: what the text model's forward pass runs through (`decoder_list.names`).

    The names are kept on the model, so that a pass is run once and a copy, quantized or not, has the layers of what it was copied from.

    Raises:
        ModelError: the model has no list of layers, or cannot be run.
    """
    found: tuple[str, ...] | None = vars(model).get(_KEPT)
    if found is None:
        found = decoder_list.names(model)
        if not any(parameter.is_meta for parameter in model.parameters()):
            vars(model)[_KEPT] = found
    return {name: model.get_submodule(name) for name in found}


def find_layers_unread(model: PreTrainedModel) -> None:
    """Find the decoder layers on a copy without weights: a pass over the model itself would read all of its files."""
    with torch.device("meta"):
        twin = type(model)(copy.deepcopy(model.config))
    vars(model)[_KEPT] = decoder_list.names(twin)


def has_experts(model: torch.nn.Module) -> bool:
    """Whether a decoder layer holds a list of modules: a token visits a few of them."""
    return any(isinstance(module, torch.nn.ModuleList) for layer in decoder_layers(model).values() for module in layer.modules())


def quantizable_modules(model: torch.nn.Module) -> dict[str, int]:
    """Module name -> layer number of all that can be quantized inside the decoder layers.

    The embeddings and ``lm_head`` lie outside and are left alone: they are tied in many small models, and quantizing one would untie them.
    So would quantizing a weight that several modules have in common, as the attention blocks of Zamba2 do.

    Raises:
        ModelError: there is none.
    """
    shared = _shared_weights(model)
    found = {
        f"{layer_name}.{name}": number
        for number, (layer_name, layer) in enumerate(decoder_layers(model).items())
        for name, module in layer.named_modules()
        if is_quantizable(module) and id(module.weight) not in shared
    }
    if not found:
        kinds = sorted({type(m).__name__ for layer in decoder_layers(model).values() for m in layer.modules() if not list(m.children())})
        raise ModelError(f"no module of {type(model).__name__} is quantizable (its layers are made of {', '.join(kinds)})")
    return found


def _shared_weights(model: torch.nn.Module) -> set[int]:
    """Ids of the parameters that lie under several names."""
    count = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {key for key, names in count.items() if names > 1}


def head(model: PreTrainedModel) -> str:
    """Name of the module that turns hidden states into logits, where quantizing it makes the model smaller.

    quanto gives a tied head a packed copy of its own, beside the dense embeddings, on disk and after a reload too: the model then grows.

    Raises:
        ModelError: there is none, it cannot be quantized, or it is tied to the embeddings.
    """
    module = model.get_output_embeddings()
    names: list[str] = [name for name, found in model.named_modules() if found is module]
    if not names or module is None or not is_quantizable(module):
        raise ModelError(f"sensitivity.include = lm_head: {type(model).__name__} has no head that is quantizable")
    if tied_embeddings(model):
        rows, columns = module.weight.shape
        added = (f"{expected_bytes(rows, columns, module.weight.dtype, f'qint{bits}'):,} bytes at qint{bits}" for bits in (8, 4, 2))
        raise ModelError(
            "sensitivity.include = lm_head: the head is tied to the embeddings, which stay dense; quantized it would be a copy besides, "
            f"and the model would grow by {', '.join(added)}; leave it out"
        )
    return names[0]


def not_quantizable(model: torch.nn.Module) -> dict[str, int]:
    """Kind of module -> parameters of the matrices inside the decoder layers that are not quantizable.

    Such as the fused experts of a mixture (three-dimensional parameters) or GPT-2's ``Conv1D``: they stay as they are. A weight that
    several modules have in common counts once, as ``Linear with shared weights``.
    """
    found: dict[str, dict[int, int]] = {}
    shared = _shared_weights(model)
    for module in (inner for layer in decoder_layers(model).values() for inner in layer.modules()):
        for matrix in (p for p in module.parameters(recurse=False) if p.ndim > 1):
            if is_quantizable(module) and id(matrix) in shared:
                found.setdefault(f"{type(module).__name__} {SHARED_WEIGHTS}", {})[id(matrix)] = matrix.numel()
            elif not is_quantizable(module):
                found.setdefault(type(module).__name__, {})[id(matrix)] = matrix.numel()
    return {kind: sum(counts.values()) for kind, counts in found.items()}


def model_bytes(model: torch.nn.Module, packed: Mapping[str, Packed]) -> int:
    """Bytes of a whole model with some weights replaced by packed ones; tied tensors and shared storage count once.

    Buffers count only where they are saved with the model.
    """
    replaced = {f"{name}.weight" for name in packed}
    tensors = {t.data_ptr(): t for name, t in model.state_dict(keep_vars=True).items() if name not in replaced}
    return sum(map(stored_bytes, tensors.values())) + sum(map(stored_bytes, packed.values()))


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of the names, dtypes, shapes and bytes of every weight and saved buffer, tied ones under each of their names.

    It is no hash of a file: the same weights saved to disk have another.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
