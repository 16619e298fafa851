"""The tiny model and the two small task sets that make the default run work offline.

`scripts/make_tasks.py` and `scripts/train_tiny.py` made them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "TINY"]

TINY = Path(__file__).parent / "tiny"
"""Folder of the embedded model: config, tokenizer and bf16 safetensors."""

DATA = Path(__file__).parent / "data"
"""Folder of the embedded task sets, in the hub's layout: ``NAME/{train,test}-00000-of-00001.parquet``."""
