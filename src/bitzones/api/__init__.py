"""The public Python API, and the one list of its names: `bitzones` offers them lazily, docs/api.md is generated from them.

Importing this package does not import torch. Functions that run a model import it when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitzones.analysis.plan import Plan, PlanKL
from bitzones.analysis.reader import RunFile
from bitzones.api.analyzing import Analysis, Report, analyze, read_run, write_report
from bitzones.api.bundling import bundle, measure_bundle
from bitzones.api.comparing import Comparison, compare
from bitzones.api.duetting import Duet, duet, read_duet
from bitzones.api.history import (
    ReleaseMatrix,
    Trend,
    compare_releases,
    export_metrics,
    find_baseline,
    list_baselines,
    save_baseline,
    trend,
)
from bitzones.api.monitoring import check_server, make_canary, watch_activations
from bitzones.api.plan_tuning import tune
from bitzones.api.planning import apply, export, measure_export, measure_plan, read_plan, verify_export
from bitzones.api.sharding import measure_shard, merge
from bitzones.monitor.overview import Alarm, Overview
from bitzones.regression.baseline_store import KeptRun
from bitzones.regression.comparison import CellDelta, Metric
from bitzones.schema.errors import (
    ArgumentError,
    BitzonesError,
    BitzonesWarning,
    DeviceError,
    DuetError,
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
    ServerError,
    TaskError,
)
from bitzones.schema.profile_sections import Gate
from bitzones.stats.intervals import Estimate, Interval
from bitzones.stats.verdicts import Verdict

if TYPE_CHECKING:
    from bitzones.run.measuring import measure

__all__ = [
    "Alarm",
    "Analysis",
    "ArgumentError",
    "BitzonesError",
    "BitzonesWarning",
    "CellDelta",
    "Comparison",
    "DeviceError",
    "Duet",
    "DuetError",
    "Estimate",
    "Gate",
    "Interval",
    "KeptRun",
    "MeasureError",
    "Metric",
    "MissingPackageError",
    "ModelError",
    "NonFiniteError",
    "NotMeasuredError",
    "OutOfMemoryError",
    "OutputError",
    "Overview",
    "Plan",
    "PlanError",
    "PlanKL",
    "ProfileError",
    "ReleaseMatrix",
    "Report",
    "RunFile",
    "RunFileError",
    "ServerError",
    "TaskError",
    "Trend",
    "Verdict",
    "analyze",
    "apply",
    "bundle",
    "check_server",
    "compare",
    "compare_releases",
    "duet",
    "export",
    "export_metrics",
    "find_baseline",
    "list_baselines",
    "make_canary",
    "measure",
    "measure_bundle",
    "measure_export",
    "measure_plan",
    "measure_shard",
    "merge",
    "read_duet",
    "read_plan",
    "read_run",
    "save_baseline",
    "trend",
    "tune",
    "verify_export",
    "watch_activations",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """`measure`, whose module loads torch when it is imported (PEP 562)."""
    if name != "measure":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bitzones.run.measuring import measure  # noqa: PLC0415

    return measure
