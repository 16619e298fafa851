"""Every architecture that is exported computes in its engine what it computes in transformers: biases, norms, rotary embeddings."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import make_plan
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, MistralConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from bitzones import embedded
from bitzones.deploy import engines
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.deploy.targets import target

SHAPE: dict[str, Any] = {
    "vocab_size": 768,
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "untied": LlamaConfig(tie_word_embeddings=False, **SHAPE),
    "biases": LlamaConfig(attention_bias=True, mlp_bias=True, **SHAPE),
    "llama3": LlamaConfig(rope_parameters=LLAMA_3, **SHAPE),
    "linear": LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}, **SHAPE),
    "mistral": MistralConfig(sliding_window=None, head_dim=32, **SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(head_dim=64, **SHAPE),
}
QUANTIZED = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.0.mlp.up_proj")
TOKENS = torch.randint(0, 768, (100,), generator=torch.Generator().manual_seed(1)).tolist()
IN_TRANSFORMERS = ("untied", "mistral", "qwen2")
"""transformers 5.24 reads from a GGUF neither scaled rotary embeddings, nor a head size of its own, nor biases of a Llama."""


def made(name: str, folder: Path) -> tuple[PreTrainedModel, PlanFile]:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    source = folder / "source"
    model.save_pretrained(source)
    AutoTokenizer.from_pretrained(embedded.TINY).save_pretrained(source)
    sha256 = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    kind = type(model).__name__
    plan = make_plan.plan(dict.fromkeys(QUANTIZED, "qint8"), dict.fromkeys(QUANTIZED), source=str(source), sha256=sha256, architecture=kind)
    return model, read_plan(make_plan.write(folder / "plan.json", plan))


def kl(name: str, folder: Path, to: str, engine: str) -> float:
    """Of the model with the weights that the export stores to the engine, nats per token."""
    model, plan_file = made(name, folder)
    done = target(to)(ExportRequest(plan_file, folder / to, torch.device("cpu"), notify=print))
    stored = model.float()
    for module, weights in engines.stored_values(done.folder, to):
        stored.get_parameter(f"{module}.weight").data = weights
    with torch.no_grad():
        ours = stored(torch.tensor([TOKENS])).logits[0].log_softmax(-1)
    theirs = engines.engine(engine, to)(done.folder, len(TOKENS))(TOKENS)
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_transformers_computes_the_same_from_the_gguf(name: str, tmp_path: Path) -> None:
    assert abs(kl(name, tmp_path, "gguf", "transformers")) < 1e-7


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_computes_nearly_the_same(name: str, tmp_path: Path) -> None:
    """Its kernels round activations: 3e-5 to 3e-4 when this was written; with the rows of q in another order it is above 0.1."""
    assert 0 < kl(name, tmp_path, "gguf", "llama.cpp") < 2e-3


@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="mlx-lm is not installed")
@pytest.mark.parametrize("name", CONFIGS)
def test_mlx_computes_nearly_the_same(name: str, tmp_path: Path) -> None:
    """The export itself has compared logits in float32; this is in bfloat16."""
    assert 0 < kl(name, tmp_path, "mlx", "mlx") < 2e-2
