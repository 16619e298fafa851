"""The name of a model's key-value cache: transformers 5.24 calls ``cache`` what was ``past_key_values`` before, and warns of the old name.

This module goes when the lowest transformers that is allowed knows the new name.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PreTrainedModel

__all__ = ["as_argument", "name_of", "of_output"]

NAMES = ("cache", "past_key_values")
"""Newest first."""


def name_of(model: PreTrainedModel) -> str | None:
    """What the model's ``forward`` calls its cache; None where it takes none."""
    takes = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in takes), None)


def as_argument(model: PreTrainedModel, cache: Any) -> dict[str, Any]:
    """The cache as a keyword argument of the model's ``forward`` and ``generate``; nothing where the model takes none."""
    name = name_of(model)
    return {} if name is None else {name: cache}


def of_output(out: Any) -> Any:
    """The cache that a pass left; None where it left none."""
    return next((out[name] for name in NAMES if name in out), None)
