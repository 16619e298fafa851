"""Random models of architectures whose layers are unlike Llama's, small enough for milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as hf
from transformers import PretrainedConfig, PreTrainedModel

_SIZES = {"vocab_size": 257, "hidden_size": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 128}
_GEMMA = {"head_dim": 16, "sliding_window": 16, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
_PER_LAYER = {"num_kv_shared_layers": 2, "vocab_size_per_layer_input": 257, "hidden_size_per_layer_input": 8}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8}


def gemma3_vl(text_layers: int = 2, vision_layers: int = 2) -> PretrainedConfig:
    """Gemma 3 with its vision tower."""
    text = {**_SIZES, **_HEADS, "num_hidden_layers": text_layers, "head_dim": 16, "sliding_window": 16}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": vision_layers, "num_attention_heads": 4}
    return hf.Gemma3Config(
        text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 16}, mm_tokens_per_image=4, image_token_index=250
    )


def git() -> PretrainedConfig:
    """GIT: a BERT-like decoder of 2 layers beside a vision tower of 3, whose sizes stand in the configuration itself."""
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes = {**_SIZES, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 128, "num_hidden_layers": 2}
    return hf.GitConfig(**sizes, vision_config={**vision, "image_size": 32, "patch_size": 16})


def qwen_vl() -> PretrainedConfig:
    """Qwen2.5-VL, which is loaded as an image-text-to-text model."""
    text = {
        **_SIZES,
        **_HEADS,
        "num_hidden_layers": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
    }
    vision = {"depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64, "patch_size": 14}
    tokens = {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253}
    return hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)


CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "bloom": lambda: hf.BloomConfig(**_SIZES, n_layer=2, n_head=4),
    "falcon": lambda: hf.FalconConfig(**_SIZES, num_hidden_layers=2, num_attention_heads=4),
    "falcon-alibi": lambda: hf.FalconConfig(**_SIZES, num_hidden_layers=2, num_attention_heads=4, alibi=True, multi_query=False),
    "mpt": lambda: hf.MptConfig(vocab_size=257, d_model=64, n_layers=2, n_heads=4, max_seq_len=128),
    "gpt-neo": lambda: hf.GPTNeoConfig(**_SIZES, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=8),
    "gemma3-vl": gemma3_vl,
    "qwen-vl": qwen_vl,
    "gemma3n": lambda: hf.Gemma3nTextConfig(
        **_SIZES, **_HEADS, **_GEMMA, **_PER_LAYER, laurel_rank=8, activation_sparsity_pattern=[0.0] * 4
    ),
    "gemma4": lambda: hf.Gemma4TextConfig(**_SIZES, **_HEADS, **_GEMMA, **_PER_LAYER),
    "git": git,
    "zamba2": lambda: hf.Zamba2Config(
        **_SIZES,
        **(_HEADS | {"num_key_value_heads": 4}),
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
        num_hidden_layers=4,
        mamba_d_state=8,
        n_mamba_heads=8,
        mamba_ngroups=1,
        num_mem_blocks=1,
        use_shared_attention_adapter=True,
        adapter_rank=8,
    ),
    "jamba": lambda: hf.JambaConfig(
        **_SIZES,
        **_HEADS,
        num_hidden_layers=4,
        attn_layer_period=4,
        attn_layer_offset=2,
        expert_layer_period=2,
        num_experts=4,
        mamba_d_state=8,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
    ),
    "lfm2": lambda: hf.Lfm2Config(**_SIZES, **_HEADS, num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2),
    "bamba": lambda: hf.BambaConfig(**_SIZES, **_HEADS, num_hidden_layers=2, attn_layer_indices=[1], **_MAMBA),
    "falcon-h1": lambda: hf.FalconH1Config(**_SIZES, **_HEADS, num_hidden_layers=2, **_MAMBA, mamba_d_ssm=128),
    "mamba2": lambda: hf.Mamba2Config(**_SIZES, num_hidden_layers=2, num_heads=8, head_dim=16, state_size=8, n_groups=1),
}
"""Name -> makes a configuration."""


def built(config: PretrainedConfig) -> PreTrainedModel:
    """A model of a configuration, weights large enough that layers differ."""
    torch.manual_seed(0)
    kind = hf.AutoModelForCausalLM if type(config) in hf.MODEL_FOR_CAUSAL_LM_MAPPING else hf.AutoModelForImageTextToText
    model: PreTrainedModel = kind.from_config(config).eval().requires_grad_(False)
    for parameter in {id(p): p for p in model.parameters() if p.ndim > 1}.values():
        parameter.data.mul_(2.0)
    return model


def model(name: str) -> PreTrainedModel:
    """A model of `CONFIGS`."""
    return built(CONFIGS[name]())
