"""Types of the names that `bitzones` offers lazily (PEP 561, PEP 562): those of `bitzones.api.__all__`."""

from bitzones.api import *  # noqa: F403
from bitzones.api import __all__ as __all__

__version__: str
