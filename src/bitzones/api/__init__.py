"""The public Python API. `import bitzones` offers all of it lazily; documentation is generated from here into docs/api.md.

Importing this package imports no torch. Functions that run a model import it when they are called.
"""

from __future__ import annotations

from bitzones.analysis.plan import Plan, PlanKL
from bitzones.analysis.reader import RunFile
from bitzones.api.analyzing import Analysis, Report, analyze, read_run, write_report
from bitzones.api.comparing import Comparison, compare
from bitzones.api.planning import apply, export, measure_plan, read_plan, verify_export
from bitzones.regression.comparison import CellDelta, Metric
from bitzones.schema.errors import (
    ArgumentError,
    BitzonesError,
    BitzonesWarning,
    DeviceError,
    MeasureError,
    MissingPackageError,
    ModelError,
    NonFiniteError,
    NotMeasuredError,
    OutOfMemoryError,
    OutputError,
    PlanError,
    ProfileError,
    RunFileError,
    TaskError,
)
from bitzones.schema.profile_sections import Gate
from bitzones.stats.intervals import Estimate, Interval
from bitzones.stats.verdicts import Verdict

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
    "analyze",
    "apply",
    "compare",
    "export",
    "measure_plan",
    "read_plan",
    "read_run",
    "verify_export",
    "write_report",
]
