"""bitzones: which layers of a causal language model survive 2 bits, measured.

Importing this package imports neither torch nor pydantic: the public API (`bitzones.api`) is loaded when one of its names is first used,
and torch when a function that runs a model is called.

>>> import bitzones
>>> bitzones.__version__.count(".")
2
"""

# The types of what is offered here stand in __init__.pyi.

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "Analysis",
    "ArgumentError",
    "BitzonesError",
    "BitzonesWarning",
    "CellDelta",
    "Comparison",
    "DeviceError",
    "Estimate",
    "Gate",
    "Interval",
    "MeasureError",
    "Metric",
    "MissingPackageError",
    "ModelError",
    "NonFiniteError",
    "NotMeasuredError",
    "OutOfMemoryError",
    "OutputError",
    "Plan",
    "PlanError",
    "PlanKL",
    "ProfileError",
    "Report",
    "RunFile",
    "RunFileError",
    "TaskError",
    "Verdict",
    "__version__",
    "analyze",
    "apply",
    "compare",
    "export",
    "measure",
    "measure_export",
    "measure_plan",
    "read_plan",
    "read_run",
    "verify_export",
    "write_report",
]

__version__ = "0.1.0"

_ELSEWHERE = {"measure": "bitzones.run.measuring"}
"""Where a public name is, if not in `bitzones.api`."""


def __getattr__(name: str) -> Any:
    """A public name, loaded at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bitzones.api.requirements import needs  # noqa: PLC0415  # nothing is imported before a name is used

    with needs("measure"):
        value = getattr(import_module(_ELSEWHERE.get(name, "bitzones.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
