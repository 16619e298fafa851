"""Plans with calibrated formats, and the sequences that their integers come from."""

from __future__ import annotations

from typing import Any

from bitzones.analysis.plan import Plan
from bitzones.data import sequences

CALIBRATED_ON = sequences.retold([" ".join(str(1 + (17 * row + 31 * place) % 256) for place in range(40)) for row in range(12)])


def calibrated(plan: Plan, **changes: Any) -> dict[str, Any]:
    """The plan with calibrated formats in place of hqq's, and the sequences that they are rounded on."""
    assignment = {name: format_.replace("qint2:hqq", "qint2:gptq") for name, format_ in plan.assignment.items()}
    calibration = {
        "sequences_sha256": CALIBRATED_ON.sha256,
        "sequences": [" ".join(map(str, sequence.ids)) for sequence in CALIBRATED_ON.sequences],
        "batch": 4,
        "damping": 0.01,
    }
    return {"assignment": assignment, "calibration": {**calibration, **changes}}
