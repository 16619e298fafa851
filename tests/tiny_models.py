"""Models and tokenizers made in memory, small enough for milliseconds and wide enough that quanto forms groups."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH, INNER, LAYERS = 192, 384, 3
"""192 input features give groups of 96, 384 give groups of 128."""
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; every text opens with the end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={"<|end|>": 0, **{letter: n + 1 for n, letter in enumerate(alphabet)}}, merges=[]))
    made.add_special_tokens(["<|end|>"])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token="<|end|>", pad_token="<|end|>")


def llama(dtype: torch.dtype = torch.float32, layers: int = LAYERS, *, tied: bool = True) -> LlamaForCausalLM:
    """A random Llama of vocabulary 257, weights large enough that layers differ."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.08,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).eval().requires_grad_(False)
    torch.nn.Module.to(model, dtype)
    return model


def save(folder: Path, model: LlamaForCausalLM | None = None) -> Path:
    """A model folder as a user would have it."""
    (model or llama(torch.bfloat16)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def profile_text(source: str, **changes: str) -> str:
    """A profile that runs in seconds; ``changes`` replace whole lines by their key."""
    lines = {
        "schema": "schema = 2",
        "formats": 'formats = ["qint8", "qint4", "qint2:hqq"]',
        "model": f'[model]\nsource = "{source}"',
        "tasks": '[[tasks]]\nname = "science_mini"\nlimit = 8\n[[tasks]]\nname = "word_problems_mini"\nlimit = 8',
        "sensitivity": "[sensitivity]\ntokens = 2000\nbatch = 16",
        "held_out": "[held_out]\ntokens = 400",
        "plans": '[plans]\nrounds = 1\nrandom = 1\naccuracy = ["random"]',
        "latency": "[latency]\nprompt_tokens = 8\nnew_tokens = 2\nrounds = 3\nwarmup_rounds = 1",
        "zones": "[zones]\nresamples = 50",
    }
    return "\n".join({**lines, **changes}.values()) + "\n"
