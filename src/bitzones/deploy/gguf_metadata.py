"""What llama.cpp reads of a GGUF beside the weights: its shape and rotary embedding, from a GGUF of the model or from its configuration.

Keys and values as llama.cpp's convert_hf_to_gguf.py writes them. Only architectures are here whose tensors it writes as they are, but for
the order of the rows of q and k.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from bitzones.schema.errors import ModelError

__all__ = ["ARCHITECTURES", "architecture", "copied", "described", "name_map", "rope_factors", "tensor_names"]

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""``model_type`` of transformers -> architecture of llama.cpp."""

_OF_THE_FILE = ("GGUF.", "general.file_type", "general.quantization_version", "split.", "quantize.")
"""Keys of a GGUF that say how its own tensors are stored."""

_ACTIVATION = "silu"


def architecture(model: PreTrainedModel) -> str:
    """The architecture of llama.cpp that computes what a model computes.

    Raises:
        ModelError: there is none here; the message says what there is.
    """
    config = model.config
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ModelError(
            f"{type(model).__name__} ({config.model_type!r}) is not exported to GGUF: llama.cpp stores some of its tensors in another way; "
            f"architectures: {', '.join(ARCHITECTURES)}"
        )
    if config.hidden_act != _ACTIVATION:
        raise ModelError(f"its activation is {config.hidden_act!r}, and llama.cpp computes {_ACTIVATION!r} in {found!r}")
    if (kind := _rope(config).get("rope_type", "default")) not in {"default", "linear", "llama3"}:
        raise ModelError(f"its rotary embedding is scaled by {kind!r}; default, linear and llama3 are exported to GGUF")
    return found


def tensor_names(model: PreTrainedModel) -> gguf.TensorNameMap:
    """llama.cpp's names of a model's tensors. Raises what `architecture` raises."""
    return name_map(architecture(model), model.config.num_hidden_layers)


def name_map(name: str, blocks: int) -> gguf.TensorNameMap:
    """The names in an architecture of llama.cpp with so many layers."""
    number = next(key for key, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    return gguf.get_tensor_name_map(number, blocks)


def copied(writer: gguf.GGUFWriter, source: Path) -> None:
    """Take everything that is not about the tensors themselves from a GGUF of the same model."""
    for name, field in gguf.GGUFReader(source).fields.items():
        if name != "general.architecture" and not name.startswith(_OF_THE_FILE):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[0] if inner else None)


def described(writer: gguf.GGUFWriter, model: PreTrainedModel, name: str) -> None:
    """Describe a model by its configuration."""
    config, rope = model.config, _rope(model.config)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _rope(config: PreTrainedConfig) -> dict[str, Any]:
    found: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return found


def rope_factors(config: PreTrainedConfig) -> torch.Tensor | None:
    """What llama.cpp divides each rotary frequency by, float32 of shape (head size / 2): Llama 3's scaling, which it stores as a tensor."""
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2).double() / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: scaled as a whole, 1: not at all
    factors: torch.Tensor = 1 / ((1 - share) / rope["factor"] + share)
    return factors.float()
