"""The tiny model, the two small task sets and the three small texts that make the default run work offline.

`scripts/make_tasks.py`, `scripts/train_tiny.py` and `scripts/make_text.py` made them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "TEXT", "TEXT_LICENSES", "TINY"]

TINY = Path(__file__).parent / "tiny"
"""Folder of the embedded model: config, tokenizer and bf16 safetensors."""

DATA = Path(__file__).parent / "data"
"""Folder of the embedded task sets, in the hub's layout: ``NAME/{train,test}-00000-of-00001.parquet``."""

TEXT = Path(__file__).parent / "text"
"""Folder of the embedded texts, ``NAME.jsonl`` with a document a line; its README has their origin and license."""

TEXT_LICENSES = {"docs": "PSF-2.0", "code": "PSF-2.0", "law": "public domain"}
"""Name of an embedded text -> its license."""
