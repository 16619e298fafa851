"""How much faster two Ray workers on two cores measure a sweep than one on one core, in alternation, and that both give the same cell.

    PYTHONPATH=src OMP_NUM_THREADS=1 python scripts/ray_speed.py                      the embedded model, 3 pairs
    PYTHONPATH=src OMP_NUM_THREADS=1 python scripts/ray_speed.py smollm2-quick --pairs 1

The clock runs from when all workers are ready, so that what a cluster takes to start is told apart: it does not grow with the sweep.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass

from bitzones.run.ray_options import RayOptions
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.profile import Profile
from bitzones.schema.sensitivity_cells import SensitivityCell

FORMATS = ("qint8", "qint4", "qint2:hqq")
"""Of the embedded model, swept by groups: its own profile is over in seconds."""


@dataclass(frozen=True)
class Timed:
    """A sweep: seconds until all workers were ready, seconds of measuring, and what came out."""

    starting_s: float
    measuring_s: float
    cell: SensitivityCell


def sweep(profile: Profile, workers: int) -> Timed:
    began, ready = time.monotonic(), list[float]()

    def hear(line: str) -> None:
        if line.endswith("is ready"):
            ready.append(time.monotonic())

    session = Session(profile, hear, ray=RayOptions("local", workers=workers))
    cell = session.sweep()
    ended = time.monotonic()
    return Timed(ready[workers - 1] - began, ended - ready[workers - 1], cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", nargs="?", default="tiny")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4096, help="of the embedded model's sensitivity set")
    arguments = parser.parse_args()
    profile = profile_files.load(arguments.profile).resolved()
    if arguments.profile == "tiny":
        longer = profile.sensitivity.model_copy(update={"tokens": arguments.tokens, "granularity": "group"})
        profile = profile.model_copy(update={"sensitivity": longer, "formats": FORMATS})
    ratios, cells = [], []
    for pair in range(arguments.pairs):
        found = {workers: sweep(profile, workers) for workers in ((1, 2) if pair % 2 == 0 else (2, 1))}
        ratios.append(found[1].measuring_s / found[2].measuring_s)
        cells += [timed.cell for timed in found.values()]
        said = ", ".join(f"{n} workers {t.measuring_s:.1f} s (ready after {t.starting_s:.1f} s)" for n, t in sorted(found.items()))
        print(f"pair {pair}: {said}: {ratios[-1]:.2f} times; load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"median {statistics.median(ratios):.2f} (n = {len(ratios)}, {min(ratios):.2f} to {max(ratios):.2f})")
    print(f"all cells alike, bit for bit: {all(cell == cells[0] for cell in cells)}")


if __name__ == "__main__":
    main()
