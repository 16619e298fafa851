"""Objects that a caller hands over in memory, where a profile can only name things."""

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
"""Opens the source of a model, or the origin of texts, that no file or hub id names."""


@dataclass(frozen=True)
class Given:
    """A model in memory, a tokenizer, and texts by the name that the profile has for them; what is None is what the profile names.

    Raises:
        ModelError: a model without its tokenizer.
    """

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    texts: Mapping[str, Texts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model is not None and self.tokenizer is None:
            raise ModelError(f"{type(self.model).__name__}: a model in memory needs its tokenizer: measure(model, tokenizer, ...)")

    def loaded(self, source: str, device: torch.device) -> loading.Loaded | None:
        """The model in memory as a run needs it: a copy, so that the caller's keeps its device, its mode and its gradients.

        Args:
            source: what the run file calls it.
            device: where the copy goes, whole.

        Returns:
            None where no model was handed over.

        Raises:
            ModelError: it is quantized already, or has no tokenizer that says where a token stands in a text.
        """
        if self.model is None or self.tokenizer is None:
            return None
        if odd := [name for name, p in self.model.named_parameters() if not p.is_floating_point() or p.is_meta]:
            raise ModelError(
                f"model {source!r}: {len(odd)} of its weights are quantized or not loaded, such as {odd[0]}; give it as it was before"
            )
        made = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        offload.place(made, device, dict.fromkeys(structure.decoder_layers(made), device))
        return loading.Loaded(made, _fast(self.tokenizer, source), source, structure.weights_sha256(self.model))

    def with_tokenizer(self, loaded: loading.Loaded) -> loading.Loaded:
        """A model that was loaded, with the tokenizer that was handed over, if one was."""
        return loaded if self.tokenizer is None else replace(loaded, own_tokenizer=_fast(self.tokenizer, loaded.source))


def _fast(tokenizer: PreTrainedTokenizerBase, source: str) -> PreTrainedTokenizerBase:
    if not tokenizer.is_fast:
        raise ModelError(f"model {source!r}: its tokenizer ({type(tokenizer).__name__}) does not say where a token stands in a text")
    return tokenizer
