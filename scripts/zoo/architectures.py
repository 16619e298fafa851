"""The architectures that are measured: one row each, by the name that their config.json gives as ``model_type``.

A row changes what `shrink.tiny_config` cannot know. A name behind a colon is a second model of an architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BY_HAND", "ZOO"]

_SHARED_KV = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
_THREE_AXES = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}}

ZOO: Mapping[str, str] = {
    "llama": "Llama 1 to 3",
    "llama4_text": "Llama 4 (text)",
    "mistral": "Mistral",
    "ministral": "Ministral",
    "mixtral": "Mixtral",
    "qwen2": "Qwen 2, 2.5",
    "qwen2_moe": "Qwen 2 MoE",
    "qwen3": "Qwen 3",
    "qwen3_moe": "Qwen 3 MoE",
    "qwen3_next": "Qwen 3 Next",
    "qwen3_5_text": "Qwen 3.5 (text)",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
    "gemma3": "Gemma 3 (vision)",
    "gemma3n_text": "Gemma 3n (text)",
    "gemma4_text": "Gemma 4 (text)",
    "phi": "Phi 1, 1.5, 2",
    "phi3": "Phi 3, Phi 4",
    "phimoe": "Phi 3.5 MoE",
    "gpt2": "GPT-2",
    "gpt_neo": "GPT-Neo",
    "gptj": "GPT-J",
    "gpt_neox": "GPT-NeoX, Pythia",
    "gpt_bigcode": "StarCoder 1",
    "gpt_oss": "gpt-oss",
    "opt": "OPT",
    "bloom": "Bloom",
    "falcon": "Falcon",
    "falcon:alibi": "Falcon RW (alibi)",
    "falcon_h1": "Falcon-H1",
    "falcon_mamba": "Falcon Mamba",
    "mpt": "MPT",
    "starcoder2": "StarCoder 2",
    "stablelm": "StableLM",
    "granite": "Granite",
    "granitemoe": "Granite MoE",
    "granitemoehybrid": "Granite 4 hybrid",
    "olmo": "OLMo",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "olmoe": "OLMoE",
    "deepseek_v2": "DeepSeek V2",
    "deepseek_v3": "DeepSeek V3, R1",
    "glm": "GLM 4 (hf)",
    "glm4": "GLM 4-0414",
    "glm4_moe": "GLM 4.5",
    "cohere": "Command R",
    "cohere2": "Command R7B, A",
    "jamba": "Jamba",
    "mamba": "Mamba",
    "mamba2": "Mamba 2",
    "bamba": "Bamba",
    "zamba2": "Zamba 2",
    "nemotron": "Nemotron, Minitron",
    "nemotron_h": "Nemotron-H",
    "smollm3": "SmolLM 3",
    "ernie4_5": "ERNIE 4.5",
    "ernie4_5_moe": "ERNIE 4.5 MoE",
    "lfm2": "LFM 2",
    "lfm2_moe": "LFM 2 MoE",
    "recurrent_gemma": "RecurrentGemma",
    "rwkv": "RWKV 4",
    "exaone4": "EXAONE 4",
    "hunyuan_v1_dense": "Hunyuan",
    "minimax": "MiniMax",
    "git": "GIT (vision)",
    "qwen2_vl": "Qwen 2 VL",
    "qwen2_5_vl": "Qwen 2.5 VL",
    "llava": "LLaVA",
}
"""Name -> what people call its models."""

BY_HAND: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "falcon:alibi": {"alibi": True, "multi_query": False, "num_kv_heads": 4},
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "falcon_h1": {"mamba_d_head": 16},
    "gemma3n_text": {**_SHARED_KV, "intermediate_size": 128, "pad_token_id": None},
    "gemma4_text": {**_SHARED_KV, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": 2},
    "phi4_multimodal": {"num_hidden_layers": 2},
    "qwen2_vl": {"text_config": _THREE_AXES},
    "qwen2_5_vl": {"text_config": _THREE_AXES},
    "rwkv": {"attention_hidden_size": 64},
    "xmod": {"default_language": "en_XX"},
}
"""Fields of a configuration that nothing else says."""
