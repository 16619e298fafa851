"""Types of what `bitzones` offers lazily (PEP 561, PEP 562)."""

from bitzones.api import (
    Analysis as Analysis,
)
from bitzones.api import (
    ArgumentError as ArgumentError,
)
from bitzones.api import (
    BitzonesError as BitzonesError,
)
from bitzones.api import (
    BitzonesWarning as BitzonesWarning,
)
from bitzones.api import (
    CellDelta as CellDelta,
)
from bitzones.api import (
    Comparison as Comparison,
)
from bitzones.api import (
    DeviceError as DeviceError,
)
from bitzones.api import (
    Estimate as Estimate,
)
from bitzones.api import (
    Gate as Gate,
)
from bitzones.api import (
    Interval as Interval,
)
from bitzones.api import (
    MeasureError as MeasureError,
)
from bitzones.api import (
    Metric as Metric,
)
from bitzones.api import (
    MissingPackageError as MissingPackageError,
)
from bitzones.api import (
    ModelError as ModelError,
)
from bitzones.api import (
    NonFiniteError as NonFiniteError,
)
from bitzones.api import (
    NotMeasuredError as NotMeasuredError,
)
from bitzones.api import (
    OutOfMemoryError as OutOfMemoryError,
)
from bitzones.api import (
    OutputError as OutputError,
)
from bitzones.api import (
    Plan as Plan,
)
from bitzones.api import (
    PlanError as PlanError,
)
from bitzones.api import (
    PlanKL as PlanKL,
)
from bitzones.api import (
    ProfileError as ProfileError,
)
from bitzones.api import (
    Report as Report,
)
from bitzones.api import (
    RunFile as RunFile,
)
from bitzones.api import (
    RunFileError as RunFileError,
)
from bitzones.api import (
    TaskError as TaskError,
)
from bitzones.api import (
    Verdict as Verdict,
)
from bitzones.api import (
    analyze as analyze,
)
from bitzones.api import (
    apply as apply,
)
from bitzones.api import (
    compare as compare,
)
from bitzones.api import (
    export as export,
)
from bitzones.api import (
    measure_export as measure_export,
)
from bitzones.api import (
    measure_plan as measure_plan,
)
from bitzones.api import (
    read_plan as read_plan,
)
from bitzones.api import (
    read_run as read_run,
)
from bitzones.api import (
    verify_export as verify_export,
)
from bitzones.api import (
    write_report as write_report,
)
from bitzones.run.measuring import measure as measure

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

__version__: str
