"""How long `bitzones collect` takes on a large run, unit by unit, from a run file that the tests' own generator makes.

    PYTHONPATH=src python scripts/report_speed.py                          80 layers of 4 groups, 64 sequences, 2,000 resamples
    PYTHONPATH=src python scripts/report_speed.py --layers 30 --keep here  another size; the run file and its report stay in ``here``
    PYTHONPATH=src python scripts/report_speed.py --run run.json           a run of one's own
    PYTHONPATH=src python scripts/report_speed.py --profile decide         what a unit spends its time on

Each unit is timed in one process, as the command runs them; then the whole command in fresh ones, so that imports count. Wall-clock and
processor seconds stand side by side: on a shared machine the second is the steadier one.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE / "tests"))

from make_run import planned, profile, run_dict, write  # noqa: E402  # lies beside the tests, which are no package

from bitzones.analysis.analyze import analyse, read_run  # noqa: E402
from bitzones.report.writer import write_report  # noqa: E402
from bitzones.schema.profile_sections import Zones  # noqa: E402

Result = TypeVar("Result")
GROUPS = ("attn.qkv", "attn.o", "mlp.gate_up", "mlp.down")
SHOWN = 45
"""Lines of a profile."""


def made(folder: Path, layers: int, sequences: int, resamples: int) -> Path:
    """A run of that size with everything that a report can show."""
    cells = planned(layers, sequences, GROUPS)
    return write(folder, run_dict(cells, profile(zones=Zones(resamples=resamples))))


def timed(name: str, step: Callable[[], Result], profiled: str | None) -> Result:
    """What the step returns; its time is printed, and what it was spent on where asked."""
    watch = cProfile.Profile()
    if name == profiled:
        watch.enable()
    wall, processor = time.perf_counter(), time.process_time()
    result = step()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    watch.disable()
    print(f"{name:8} {wall:6.2f} s wall, {processor:6.2f} s processor")
    if name == profiled:
        pstats.Stats(watch).sort_stats("cumulative").print_stats(SHOWN)
    return result


def command(run: Path, folder: Path, times: int) -> None:
    """The whole command in fresh processes."""
    line = [sys.executable, "-m", "bitzones", "collect", str(run), "-o", str(folder)]
    walls, processors = [], []
    for _ in range(times):
        before, wall = os.times(), time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        walls.append(time.perf_counter() - wall)
        processors.append(after.children_user - before.children_user + after.children_system - before.children_system)
    for name, found in (("wall", walls), ("processor", processors)):
        print(f"bitzones collect, n = {times}: median {statistics.median(found):.2f} s {name} ({min(found):.2f} to {max(found):.2f})")


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--layers", type=int, default=80)
    ask.add_argument("--sequences", type=int, default=64)
    ask.add_argument("--resamples", type=int, default=2000)
    ask.add_argument("--run", type=Path, help="a run file instead of a made one")
    ask.add_argument("--keep", type=Path, help="a folder for the run file and its report")
    ask.add_argument("--profile", choices=("read", "decide", "show"), help="print what this unit spends its time on")
    ask.add_argument("--times", type=int, default=3, help="runs of the whole command")
    asked = ask.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        run = asked.run or made(folder, asked.layers, asked.sequences, asked.resamples)
        print(f"{run.stat().st_size / 1e6:.1f} MB of run file")
        read = timed("read", lambda: read_run(run), asked.profile)
        analysis = timed("decide", lambda: analyse(read), asked.profile)
        timed("show", lambda: write_report(analysis, folder / "report"), asked.profile)
        command(run, folder / "report", asked.times)


if __name__ == "__main__":
    main()
