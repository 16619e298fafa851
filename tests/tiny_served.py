"""The embedded model as it is served, loaded once: alone, and with a second plan and a rule that chooses it."""

from __future__ import annotations

import copy
from functools import cache

from bitzones.serve import load
from bitzones.serve.served_model import Routed, ServedModel
from bitzones.serve.switching import BASE, Switch

CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}Answer:"
"""A chat template, which the embedded model has none of."""

SWAPPED = "model.layers.0.mlp.down_proj"
OTHER = "other"


@cache
def tiny() -> ServedModel:
    """The embedded model in float32."""
    return load("embedded:tiny")


class ByWord:
    """Sends prompts about apples to the other plan."""

    def route(self, prompt: str, *, system: str | None, role: str | None) -> Routed:
        """The task."""
        return Routed(OTHER, "rule") if "apples" in prompt else Routed(BASE, "base")


@cache
def two_plans() -> ServedModel:
    """A model whose second plan has one module negated, and a chat template."""
    alone = load("embedded:tiny")
    changed = copy.deepcopy(alone.model.get_submodule(SWAPPED))
    changed.weight.data *= -1
    alone.tokenizer.chat_template = CHAT
    switch = Switch(alone.model, {OTHER: {SWAPPED: changed}})
    return ServedModel(alone.model, alone.tokenizer, name="pair", sha256="ab" * 32, switch=switch, router=ByWord())
