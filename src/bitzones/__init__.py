"""bitzones: which layers of a causal language model survive 2 bits, measured.

Importing this package imports neither torch nor transformers: the deciding side runs anywhere the JSON can be read.

>>> import bitzones
>>> bitzones.__version__.count(".")
2
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
