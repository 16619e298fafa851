"""Objects in memory that a caller passes in place of what a profile names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.text import Texts
from bitzones.models import loading, offload, structure
from bitzones.schema.errors import ModelError

__all__ = ["MEMORY", "Given"]

MEMORY = "memory:"
"""Prefix of the source of a model in memory, and of the origin of texts in memory."""


@dataclass(frozen=True)
class Given:
    """A model in memory, a tokenizer, and texts by the profile's name for them; the profile's own are used for what is None.

    Raises:
        ModelError: a model without a tokenizer.
    """

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    texts: Mapping[str, Texts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model is not None and self.tokenizer is None:
            raise ModelError(f"{type(self.model).__name__}: a model in memory needs its tokenizer: measure(model, tokenizer, ...)")

    def loaded(self, source: str, device: torch.device) -> loading.Loaded | None:
        """A copy of the model in memory, so that the caller's model keeps its device, mode and gradients.

        Args:
            source: its name in the run file.
            device: the device of the whole copy.

        Returns:
            None if there is no model in memory.

        Raises:
            ModelError: it is already quantized, or its tokenizer does not give the positions of tokens in a text.
        """
        if self.model is None or self.tokenizer is None:
            return None
        if odd := [name for name, p in self.model.named_parameters() if not p.is_floating_point() or p.is_meta]:
            raise ModelError(
                f"model {source!r}: {len(odd)} of its weights are quantized or not loaded, such as {odd[0]}; pass the dense model"
            )
        made = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        offload.place(made, device, dict.fromkeys(structure.decoder_layers(made), device))
        return loading.Loaded(made, _fast(self.tokenizer, source), source, structure.weights_sha256(self.model))

    def with_tokenizer(self, loaded: loading.Loaded) -> loading.Loaded:
        """A loaded model with the tokenizer in memory, if there is one."""
        return loaded if self.tokenizer is None else replace(loaded, own_tokenizer=_fast(self.tokenizer, loaded.source))


def _fast(tokenizer: PreTrainedTokenizerBase, source: str) -> PreTrainedTokenizerBase:
    if not tokenizer.is_fast:
        raise ModelError(f"model {source!r}: its tokenizer ({type(tokenizer).__name__}) does not give the positions of tokens in a text")
    return tokenizer
