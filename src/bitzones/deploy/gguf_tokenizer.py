"""A tokenizer of transformers as llama.cpp reads it from a GGUF: byte-level BPE, whose pre-tokenizer llama.cpp knows by a name."""

from __future__ import annotations

import json
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from bitzones.schema.errors import ModelError

__all__ = ["check", "write"]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_BY_PATTERN = {
    (r"GPT-2",): "gpt-2",
    (r"Digits", r"GPT-2"): "smollm",
    (_CONTRACTIONS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    (_CONTRACTIONS + r"\p{N}" + _REST,): "qwen2",
}
"""How a text is split before BPE -> llama.cpp's name for it (llama-vocab.cpp). GPT-2 is the expression that ByteLevel applies itself."""


def check(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that llama.cpp would not split texts like.

    Raises:
        ModelError: its kind or its pre-tokenizer has no name here.
    """
    _pre_tokenizer(_spelled(tokenizer))


def write(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Write vocabulary, merges, special tokens and chat template.

    Args:
        writer: of the GGUF.
        tokenizer: of the model.
        rows: of the embeddings; those beyond the vocabulary become unused tokens.

    Raises:
        ModelError: as `check`.
    """
    spelled = _spelled(tokenizer)
    added = {token["id"]: token for token in spelled["added_tokens"]}
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(spelled))
    writer.add_token_list([by_id.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types([_type(number in by_id, added.get(number)) for number in range(rows)])
    merges = spelled["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for kind, number in (("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id), ("pad", tokenizer.pad_token_id)):
        if number is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _spelled(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return found


def _pre_tokenizer(spelled: dict[str, Any]) -> str:
    model, step = spelled["model"], spelled["pre_tokenizer"] or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    name = _BY_PATTERN.get(tuple(filter(None, map(_pattern, steps))))
    if model["type"] != "BPE" or model.get("byte_fallback") or name is None:
        raise ModelError(
            f"its tokenizer ({model['type']} behind {', '.join(str(step.get('type')) for step in steps)}) is not exported to GGUF: "
            "byte-level BPE that splits texts as GPT-2, SmolLM, Llama 3 or Qwen 2; a plan made for a .gguf file takes the tokenizer from it"
        )
    return name


def _pattern(step: dict[str, Any]) -> str:
    """What one step splits at: empty where it does not split."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return "GPT-2"
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return ""
        case {"type": "Digits", "individual_digits": True}:
            return "Digits"
        case {"type": "Split", "pattern": {"Regex": str(expression)}, "behavior": "Isolated", "invert": False}:
            return expression
    return f"unknown: {step.get('type')}"


def _type(known: bool, added: dict[str, Any] | None) -> gguf.TokenType:
    if not known:
        return gguf.TokenType.UNUSED
    if added is None:
        return gguf.TokenType.NORMAL
    return gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
