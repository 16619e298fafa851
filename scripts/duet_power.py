"""How often `bitzones duet` sees a slowdown that was really made, and how often it alarms without one, on this machine.

    python scripts/duet_power.py -o power/ --duets 100 --slower 0.10 --slower 0.05 --resume

A slowdown is made in a copy of this checkout: after every timed call the same thread goes on multiplying, inside the timed region, until it
has used that share of the processor time of the call. Half of the duets run beside another process that loads a core. Each duet is an
independent one, with its own seed, processes and verdict, and is written to the folder when it is done: ``--resume`` goes on from there.

The same rounds are then given to what judges runs: `bitzones compare` on the first and second half of a duet's quadruples, old rounds from
one half and new ones from the other, so that the two are minutes apart as runs are; `compare --history` with the old rounds of the other
duets; and ``--benchmark-compare-fail=median:5%``. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bitzones
from bitzones.duets.watch import DuetWatch
from bitzones.regression import time_changes
from bitzones.regression.decision_rule import decided
from bitzones.regression.drift import between
from bitzones.schema.cell_key import CellKey
from bitzones.schema.duet_cells import DuetCell
from bitzones.schema.performance_cells import LatencyCell
from bitzones.schema.profile_sections import Gate
from bitzones.stats.intervals import wilson_interval

ROOT = Path(__file__).parents[1]

CELL = "w4 decode"
"""One cell, as the question is how well one is judged; its error is not shared."""

SLOWER = """

import time as _time


def _slowed(call):
    def slow(*arguments):
        began = _time.thread_time()
        result = call(*arguments)
        until = _time.thread_time() + {share} * (_time.thread_time() - began)
        work = torch.ones(64, 64)
        while _time.thread_time() < until:
            work @ work
        return result

    return slow
"""

EDITS = {
    "latency.py": """
_prefill, _decode = prefill, decode


def prefill(*arguments, **named):
    timed = _prefill(*arguments, **named)
    return replace(timed, run=_slowed(timed.run))


def decode(*arguments, **named):
    timed = _decode(*arguments, **named)
    return replace(timed, run=_slowed(timed.run))
""",
    "gemm_latency.py": "\n\nProductBench.round = _slowed(ProductBench.round)\n",
}
"""What is added to the modules of `bitzones.profiling` that time."""

JUDGES = ("duet", "compare", "compare --history", "--benchmark-compare-fail=median:5%")


@dataclass(frozen=True)
class Trial:
    """One duet of the experiment."""

    slower: float
    loaded: bool
    number: int

    def place(self, folder: Path) -> Path:
        return folder / f"slower-{self.slower:g}" / f"{'loaded' if self.loaded else 'quiet'}-{self.number:03}.json"


def slowed_checkout(folder: Path, share: float) -> Path:
    """A copy of this checkout's package whose timed calls take ``share`` longer; with 0 a copy in which nothing is changed."""
    place = folder / f"slower-{share:g}-source"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "bitzones", place / "src" / "bitzones", ignore=shutil.ignore_patterns("__pycache__"))
    for name, edit in EDITS.items() if share else ():
        module = place / "src" / "bitzones" / "profiling" / name
        module.write_text(module.read_text(encoding="utf-8") + SLOWER.format(share=share) + edit, encoding="utf-8")
    return place


@contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Another process that loads a core, if wanted."""
    if not wanted:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def trials(shares: list[float], duets: int) -> list[Trial]:
    """With and without load by turns, and all slowdowns by turns, so that no hour of the machine is one condition's."""
    return [Trial(share, bool(number % 2), number) for number in range(duets) for share in shares]


def record(trial: Trial, baseline: Path, source: Path, folder: Path, minutes: float) -> None:
    with load(trial.loaded):
        found = bitzones.duet(
            baseline, source, select=CELL, checks=False, seed=trial.number, cell_limit_s=60 * minutes, watch=DuetWatch(say=print)
        )
    place = trial.place(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    part.write_text(found.to_json(), encoding="utf-8")
    part.replace(place)


def halves(cell: DuetCell) -> tuple[LatencyCell, LatencyCell]:
    """The old rounds of the first half and the new ones of the second, as two runs have them."""
    old, new = cell.first.of("A"), cell.first.of("B")
    return _latency(old[: len(old) // 2]), _latency(new[len(new) // 2 :])


def _latency(rounds: tuple[float, ...]) -> LatencyCell:
    return LatencyCell(variant="w4", phase="decode", batch=1, prompt_tokens=32, tokens=4, warmup_rounds=0, rounds_s=rounds, kernels={})


def judged(cell: DuetCell, past: list[DuetCell], number: int) -> dict[str, bool]:
    """Who says that this cell became slower."""
    old, new = halves(cell)
    key = CellKey("latency", "w4", "decode")
    history = between([[{key: float(np.log(np.median(other.first.of("A"))))} for other in past]])
    drift = None if history is None else time_changes.Drifted(history.typical, history.freedom)
    return {
        "compare": _worse(old, new, number, None),
        "compare --history": drift is not None and _worse(old, new, number, drift),
        "--benchmark-compare-fail=median:5%": bool(np.median(new.rounds_s) > 1.05 * np.median(old.rounds_s)),
    }


def _worse(old: LatencyCell, new: LatencyCell, seed: int, drift: time_changes.Drifted | None) -> bool:
    (metric,) = decided([time_changes.latency(old, new, Gate(), None, seed, drift)])
    return metric.status == "worse"


def say(folder: Path, shares: list[float], duets: int) -> None:
    """A line for each slowdown, load and judge: alarms with their Wilson interval; and how long a duet took."""
    for share in shares:
        for loaded in (False, True):
            places = [trial.place(folder) for trial in trials([share], duets) if trial.loaded == loaded and trial.place(folder).is_file()]
            found = [bitzones.read_duet(place) for place in places]
            cells = [duet.cells[0] for duet in found if duet.cells and not duet.stopped]
            if not cells:
                continue
            called = [duet.verdicts["latency", "w4", cell.detail] for duet, cell in zip(found, cells, strict=True)]
            alarms = dict.fromkeys(JUDGES, 0) | {"duet": called.count("worse")}
            for number, cell in enumerate(cells):
                for judge, worse in judged(cell, cells[:number] + cells[number + 1 :], number).items():
                    alarms[judge] += worse
            took = np.asarray([duet.took_s for duet in found])
            words = {word: called.count(word) for word in dict.fromkeys(called)}
            print(
                f"{share:.0%} slower, {'one core loaded' if loaded else 'nothing else'}: n = {len(cells)}, {json.dumps(words)}, "
                f"median {np.median(took):.0f} s ({took.min():.0f} to {took.max():.0f} s)"
            )
            for judge, count in alarms.items():
                interval = wilson_interval(count, len(cells))
                print(f"    {judge:<40} {count} of {len(cells)} alarms ({interval.low:.1%} to {interval.high:.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--duets", type=int, default=100, help="of each slowdown")
    parser.add_argument("--slower", type=float, action="append", help="share; 0, which is always measured, is nothing changed")
    parser.add_argument("--minutes", type=float, default=15.0, help="most of a cell")
    parser.add_argument("--resume", action="store_true", help="go on with the duets that are not in the folder yet")
    given = parser.parse_args()
    shares = [0.0, *(given.slower or [0.10, 0.05])]
    if not given.resume and given.output.exists() and any(given.output.iterdir()):
        raise SystemExit(f"{given.output} is not empty: give --resume, or another folder")
    given.output.mkdir(parents=True, exist_ok=True)
    sources = {share: slowed_checkout(given.output, share) for share in shares}
    baseline = slowed_checkout(given.output / "baseline", 0.0)
    for trial in trials(shares, given.duets):
        if not trial.place(given.output).is_file():
            print(f"{trial.slower:.0%} slower, {'loaded' if trial.loaded else 'quiet'}, {trial.number + 1} of {given.duets}", flush=True)
            record(trial, baseline, sources[trial.slower], given.output, given.minutes)
    say(given.output, shares, given.duets)


if __name__ == "__main__":
    main()
