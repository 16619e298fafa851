"""A real run, killed (-9) at random moments and taken up again, until it has been killed so many times: what is lost, and what comes out.

    PYTHONPATH=src python scripts/kill_test.py                    20 kills
    PYTHONPATH=src python scripts/kill_test.py --kills 3 --seed 1

A run is killed a random time after a random number of further cells, and resumed, until it gets through; then the next one begins. (Moments
drawn from the clock alone fall on the longest cells, again and again.) What each of them decides must be what the undisturbed one does, in
all but times. Ends with 1 where that is not so.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE / "tests"))

import tiny_models  # noqa: E402  # lies beside the tests, which are no package

from bitzones.analysis.results import repeatable  # noqa: E402

PROFILE = {
    "tasks": '[[tasks]]\nname = "science_mini"\nlimit = 4\n[[tasks]]\nname = "word_problems_mini"\nlimit = 4',
    "calibration": "[calibration]\ntokens = 900\nbatch = 8",
}
LOOK_EVERY_S = 0.005
NEVER = float("inf")
MOST_CELLS, MOST_S = 4, 3.0
"""How many cells further, and how long after that, a run is killed at the latest."""


@dataclass(frozen=True)
class Kill:
    """A run was killed ``after_s``: ``seen`` cells were in its journal just before and ``kept`` after. ``lost_s`` is how long it had worked
    on the cell in flight, or since its start."""

    after_s: float
    seen: int
    kept: int
    lost_s: float
    cut: bool


def start(place: Path, report: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bitzones", "run", "profile.toml", "-o", report, "--resume"]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


def attempt(place: Path, report: str, cells: float, delay: float) -> Kill | None:
    """Start or resume a run and kill it so long after so many further cells; None where it was through by then."""
    journal = place / report / "journal.jsonl"
    began, seen, since = time.monotonic(), lines(journal), time.monotonic()
    wanted = seen + cells
    with start(place, report) as process:
        while seen < wanted or time.monotonic() - since < delay:
            if process.poll() is not None:
                assert process.returncode == 0, f"the run ended by itself with {process.returncode}"
                return None
            if (now := lines(journal)) > seen:
                seen, since = now, time.monotonic()
            time.sleep(LOOK_EVERY_S)
        process.kill()
    after = time.monotonic()
    whole = not journal.is_file() or journal.read_bytes().endswith(b"\n") or not lines(journal)
    return Kill(after - began, max(0, seen - 1), max(0, lines(journal) - 1), after - since, not whole)


def cells_to(draw: random.Random, kills: list[Kill], most: int) -> float:
    """After how many further cells the next kill comes; the last run is let through."""
    return draw.randint(0, MOST_CELLS) if len(kills) < most else NEVER


def decided(place: Path, report: str) -> Any:
    return repeatable(json.loads((place / report / "analysis.json").read_text(encoding="utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, kills, runs, equal = random.Random(arguments.seed), list[Kill](), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tiny_models.save(place / "model")
        (place / "profile.toml").write_text(tiny_models.profile_text(str(place / "model"), **PROFILE), encoding="utf-8")
        began = time.monotonic()
        assert attempt(place, "undisturbed", NEVER, 0.0) is None
        takes, expected = time.monotonic() - began, decided(place, "undisturbed")
        cells = len(json.loads((place / "undisturbed" / "run.json").read_text(encoding="utf-8"))["benchmarks"])
        print(f"undisturbed: {cells} cells in {takes:.1f} s")
        while len(kills) < arguments.kills:
            report, runs = f"killed{runs}", runs + 1
            while (kill := attempt(place, report, cells_to(draw, kills, arguments.kills), draw.uniform(0, MOST_S))) is not None:
                kills.append(kill)
                print(f"{report}: killed after {kill.after_s:5.1f} s, {kill.kept} cells kept", flush=True)
            equal += decided(place, report) == expected
    lost, working = sum(max(0, kill.seen - kill.kept) for kill in kills), sum(kill.kept > 0 for kill in kills)
    print(f"{len(kills)} kills in {runs} runs, {working} of them with finished cells, of which {lost} were lost")
    longest, cut = max(kill.lost_s for kill in kills), sum(kill.cut for kill in kills)
    print(f"lost at a kill: the cell in flight, {longest:.1f} s of work at most; last lines that were cut off: {cut}")
    print(f"runs that decide what the undisturbed one does, in all but times: {equal} of {runs}")
    return 0 if equal == runs and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
