"""A tiny configuration of any architecture of transformers: what its config class calls a size is made small, whatever it is called.

Names of sizes are few across architectures, and most configurations follow from them. What is left over (sizes that have to fit each other
in a way of their own) is given by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

__all__ = ["LAYERS", "VOCABULARY", "tiny_config"]

VOCABULARY, WIDTH, HEADS, LAYERS, POSITIONS, EXPERTS = 768, 64, 4, 4, 1024, 4
"""The embedded tokenizer's vocabulary; four layers are enough for the patterns of hybrids; positions for its longest prompt."""
HEAD = WIDTH // HEADS

_SIZES: tuple[tuple[int, str], ...] = (
    (VOCABULARY, "vocab_size vocab_size_per_layer_input unpadded_vocab_size"),
    (
        WIDTH,
        """hidden_size d_model n_embd embed_dim embedding_size embedding_dim decoder_hidden_size dim projection_dim out_hidden_size
        rotary_embedding_dim lru_width word_embed_proj_dim emb_dim output_dim qk_hidden_size input_embedding_size dim_model""",
    ),
    (
        2 * WIDTH,
        """intermediate_size ffn_dim ffn_dim_size n_inner d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size
        intermediate_size_mlp dff shared_intermediate_size mamba_d_ssm inner_dim mlp_hidden_size dense_intermediate_size d_inner
        dim_ff block_ff_dim dense_intermediate_size_mlp prefix_dense_intermediate_size""",
    ),
    (
        WIDTH // 2,
        """moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size kv_lora_rank
        moe_shared_expert_intermediate_size moe_ffn_hidden_size moe_latent_size o_lora_rank q_lora_rank
        hidden_size_per_layer_input laurel_rank expert_intermediate_size moe_shared_intermediate_size""",
    ),
    (
        HEADS,
        """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads linear_num_value_heads
        num_query_heads index_n_heads swa_num_attention_heads encoder_num_heads""",
    ),
    (
        2,
        """num_key_value_heads num_kv_heads kv_n_heads num_attention_groups linear_num_key_heads num_experts_per_tok moe_k moe_topk
        top_k num_experts_per_token num_selected_experts n_group topk_group swa_num_key_value_heads num_global_key_value_heads
        top_k_experts""",
    ),
    (
        HEAD,
        """head_dim v_head_dim qk_nope_head_dim attention_head_dim kv_channels attention_head_size d_kv d_head linear_key_head_dim
        swa_head_dim linear_value_head_dim mamba_d_head mamba_headdim mamba_head_dim index_head_dim mamba_d_state ssm_state_size
        state_size dim_head swa_v_head_dim global_head_dim sliding_window window_size attention_window_size local_window_size
        index_topk mamba_chunk_size attention_chunk_size chunk_size mamba_dt_rank time_step_rank""",
    ),
    (2 * WIDTH // HEAD, "mamba_n_heads n_mamba_heads mamba_num_heads"),  # times a head they are what these models expand to
    (HEAD // 2, "qk_rope_head_dim rotary_dim"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth num_blocks"),
    (EXPERTS, "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num num_routed_experts"),
    (
        1,
        """first_k_dense_replace n_groups mamba_n_groups mamba_ngroups num_nextn_predict_layers n_shared_experts num_shared_experts
        num_mem_blocks num_dense_layers""",
    ),
    (POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length seq_length max_target_positions"),
)
_SIZE = {name: size for size, names in _SIZES for name in names.split()}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_LATENT = {"num_key_value_heads": HEADS, "head_dim": HEAD // 2}
"""Of attention with latent keys and values: as many as there are queries, and the width of what is rotated."""
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


def tiny_config(kind: type[PretrainedConfig], changes: Mapping[str, Any] | None = None) -> PretrainedConfig:
    """A configuration of a few thousand weights that has the architecture's own pattern of layers.

    Args:
        kind: the config class.
        changes: fields that are given; those of a configuration inside it under its name, as a mapping.
    """
    return kind(**_tiny(kind(), dict(changes or {})))


def _tiny(whole: PretrainedConfig, changes: dict[str, Any]) -> dict[str, Any]:
    takes = _fields(type(whole))
    held = {name: _held(whole, name) for name in takes}
    layers = next((value for name in _LAYERS if isinstance(value := held.get(name), int)), 0)
    found: dict[str, Any] = {}
    for name, value in held.items():
        if isinstance(value, PretrainedConfig):
            found[name] = type(value)(**_tiny(value, dict(changes.get(name, {}))))
        elif name in _TOKENS:
            found[name] = None if value is None else 0
        elif isinstance(value, int) and not isinstance(value, bool) and name in _SIZE:
            found[name] = min(value, _SIZE[name]) if value > 0 else value
        elif isinstance(value, list | tuple) and layers and len(value) == layers:
            found[name] = _shortened(value)
    if "kv_lora_rank" in held:
        found |= {name: value for name, value in _LATENT.items() if name in held}
    elif held.get("head_dim", 0) is None:
        found |= {"head_dim": HEAD}
    return {**found, **{name: value for name, value in changes.items() if not isinstance(held.get(name), PretrainedConfig)}}


def _held(whole: PretrainedConfig, name: str) -> Any:
    try:
        return getattr(whole, name, None)
    except RuntimeError:  # each layer has its own
        return None


def _fields(kind: type[PretrainedConfig]) -> list[str]:
    """What a config class can be given: its own annotations, or the arguments of its ``__init__``."""
    named = dict.fromkeys(name for base in reversed(kind.__mro__) for name in getattr(base, "__annotations__", {}))
    named |= dict.fromkeys(inspect.signature(kind.__init__).parameters)
    return [name for name in named if not name.startswith("_") and name not in {"self", "kwargs"}]


def _shortened(pattern: Sequence[Any]) -> list[Any]:
    """A pattern of layers with each of its kinds in it, in their order."""
    first = sorted({pattern.index(kind) for kind in pattern})[:LAYERS]
    rest = [number for number in range(len(pattern)) if number not in first][: LAYERS - len(first)]
    return [pattern[number] for number in sorted(first + rest)]
