"""The unit of a run that no machine has a say in, as a baseline to commit: what `bitzones compare` finds against it is the code's doing.

Kept are accuracies, KLs of whole variants, the sweep and stored bytes. Left out are times, memory in use, and what a search found: on
another processor it may take another path to a plan as good. The processor is left out too, so that no time is ever compared.

    python scripts/make_baseline.py report/run.json .ci/baseline.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bitzones.analysis.reader import read_run
from bitzones.schema.files import write_text
from bitzones.schema.profile import PLAN
from bitzones.schema.run_record import KEY

KEPT = ("accuracy", "divergence", "memory", "sensitivity")
UNKNOWN = {"value": None, "unit": "bytes", "status": "left out"}


def portable(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without what the machine says of itself."""
    if cell["kind"] == "memory":
        figures = [name for name, value in cell.items() if isinstance(value, dict) and "status" in value]
        cell = {**cell, **dict.fromkeys(figures, UNKNOWN), "gpu": None}
    return {**cell, "seconds_s": 0.0} if "seconds_s" in cell else cell


def main() -> None:
    source, place = Path(sys.argv[1]), Path(sys.argv[2])
    read_run(source)
    data = json.loads(source.read_text(encoding="utf-8"))
    cells = [benchmark["extra_info"][KEY] for benchmark in data["benchmarks"] if KEY in benchmark.get("extra_info", {})]
    kept = [portable(cell) for cell in cells if cell["kind"] in KEPT and cell["variant"] != PLAN]
    benchmarks = [{"fullname": f"{cell['kind']} {cell['variant']}", "extra_info": {KEY: cell}} for cell in kept]
    run = {**data[KEY], "environment": {**data[KEY]["environment"], "cpu": "left out", "platform": "left out", "device_name": "left out"}}
    small = {"datetime": data["datetime"], "version": data["version"], "benchmarks": benchmarks, KEY: run}
    write_text(place, json.dumps(small) + "\n")
    print(f"{place}: {len(read_run(place).cells)} cells, {place.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
