"""Tokenizers of the families that put special tokens, spaces and turns of a chat in different places, all over one model's vocabulary.

Each is made from the embedded model's tokenizer, so that one model answers through all of them. How well it answers says nothing: what is
compared is whether two programs ask it the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bitzones.embedded import TINY

__all__ = ["FAMILIES", "Family"]

END = "<|end|>"
"""The vocabulary's only special token, which opens a text, closes one, and pads."""
SPACE = "▁"
"""What SentencePiece writes for a space."""

TEMPLATE = """\
{% for message in messages %}{{ message.role }}:
{{ message.content }}
{% endfor %}{% if add_generation_prompt %}assistant:
{% endif %}"""
"""As those of Zephyr and TinyLlama it leaves the begin token to the tokenizer."""


@dataclass(frozen=True)
class Family:
    """``make`` gives the tokenizer; with ``chat`` prompts go through its template.

    Where the tokenizer closes a text with a token, lm-evaluation-harness 0.4.13 scores that token and drops an answer's first unless it is
    told to add no special tokens (``add_bos_token``); None leaves it at its default.
    """

    make: Callable[[], PreTrainedTokenizerBase]
    chat: bool = False
    add_bos_token: bool | None = None


def _made(before: str, after: str, change: Callable[[dict[str, Any]], None] = lambda state: None) -> PreTrainedTokenizerBase:
    """The embedded tokenizer with tokens before and after every text, and whatever else is changed in its description."""
    state = json.loads(AutoTokenizer.from_pretrained(TINY).backend_tokenizer.to_str())
    text = {"Sequence": {"id": "A", "type_id": 0}}
    opens, closes = ([{"SpecialToken": {"id": token, "type_id": 0}}] if token else [] for token in (before, after))
    state["post_processor"] |= {"single": [*opens, text, *closes]}
    change(state)
    made = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=END, pad_token=END)


def _sentencepiece(state: dict[str, Any]) -> None:
    """As Llama's: a space before every text, no words, ``▁`` for spaces; what the vocabulary does not have is the end token."""
    state["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
    }
    state["pre_tokenizer"] = None
    state["decoder"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False}
    model = state["model"]
    model["vocab"] = {_piece(token): number for token, number in model["vocab"].items()}
    model["merges"] = [[_piece(part) for part in pair] for pair in model["merges"]]
    model["unk_token"] = END


def _piece(token: str) -> str:
    """A token of bytes as SentencePiece writes it.

    >>> _piece("Ġthe")
    '▁the'
    """
    return token.replace("Ġ", SPACE).replace("Ċ", "\n")


def _chat() -> PreTrainedTokenizerBase:
    made = _made(END, "")
    made.chat_template = TEMPLATE
    return made


FAMILIES: Mapping[str, Family] = {
    "BOS added": Family(lambda: _made(END, "")),
    "EOS added": Family(lambda: _made("", END), add_bos_token=False),
    "none added": Family(lambda: _made("", "")),
    "SentencePiece": Family(lambda: _made(END, "", _sentencepiece)),
    "chat template": Family(_chat, chat=True),
}
