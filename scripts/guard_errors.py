"""How often `bitzones compare` alarms without a reason, and how often it misses one: measured on rounds that were really recorded.

Needs run files of the same code on the same machine, the more the better; latency cells are enough:

    for i in $(seq 20); do pytest bench/test_latency.py -k "not plan" --benchmark-json=runs/$i.json; done
    python scripts/guard_errors.py runs/*.json

Each of 200 comparisons takes two different runs of those, whole, and blocks of neighbouring rounds from each cell, so that what differs
between runs is in the sample and what differs within them too. Nothing is injected, or one cell is made 10% slower. The pair is judged by
itself, and with the other runs as its history (`bitzones compare --history`). Beside it stands what pytest-benchmark's
``--benchmark-compare-fail=median:5%`` says of the same rounds. Accuracies: 1,000 items, answers that flip both ways by chance (2% of the
items, more than two runs of one release were seen to), and a drop of 3 points. KLs: the sensitivity cells of the same run files, sequences
drawn anew, with noise, and one of them made larger; `wrong_scale.py` measures what a wrong scale really does.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitzones.regression import paired, time_changes
from bitzones.regression.decision_rule import Draft, decided
from bitzones.regression.drift import MIN_FREEDOM, between, medians
from bitzones.schema.performance_cells import LatencyCell
from bitzones.schema.profile_sections import Gate
from bitzones.schema.quality_cells import AccuracyCell
from bitzones.stats.intervals import wilson_interval

COMPARISONS = 200
SLOWDOWN = 1.10
DROP = 0.03
ITEMS = 1000
FLIPS = 0.02
OURS, WITH_HISTORY, OTHER = "ours", "ours, with history", "--benchmark-compare-fail=median:5%"
Rounds = dict[str, list[float]]


def recorded(paths: list[Path]) -> list[Rounds]:
    """Cell -> raw rounds, run by run; only cells that all of them have. Also of schemas that are not read any more."""
    runs = []
    for path in paths:
        cells = [benchmark["extra_info"].get("bitzones", {}) for benchmark in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]]
        timed = [cell for cell in cells if cell.get("kind") == "latency"]
        runs.append({f"{c['variant']} {c['phase']} {c['tokens']}": c["rounds_s"] for c in timed})
    shared = set.intersection(*(set(run) for run in runs))
    return [{name: run[name] for name in sorted(shared)} for run in runs]


def block(rng: random.Random, rounds: list[float], count: int) -> list[float]:
    """Neighbouring rounds, from a random start on, around the end."""
    start = rng.randrange(len(rounds))
    return [rounds[(start + step) % len(rounds)] for step in range(count)]


def latency_cell(name: str, rounds: list[float]) -> LatencyCell:
    return LatencyCell(
        variant=name, phase="decode", batch=1, prompt_tokens=1, tokens=1, warmup_rounds=0, rounds_s=tuple(rounds), kernels={}
    )


def alarms(drafts: list[Draft]) -> list[int]:
    """Which of them are called worse after the correction."""
    return [row for row, metric in enumerate(decided(drafts)) if metric.status == "worse"]


def told(metrics: list[Draft]) -> Counter[str]:
    return Counter(metric.status for metric in decided(metrics))


@dataclass
class Tally:
    """Of comparisons: with any alarm, with one on the slowed cell, and the words of all cells."""

    any: int = 0
    slowed: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def add(self, called: Collection[int], slowed: int, words: Counter[str]) -> None:
        self.any += bool(called)
        self.slowed += slowed in called
        self.words += words


def time_trials(runs: list[Rounds], count: int, factor: float, rng: random.Random) -> dict[str, Tally]:
    """By judge, what it said of `COMPARISONS` pairs of runs."""
    gate, names = Gate(), list(runs[0])
    tallies = {judge: Tally() for judge in (OURS, *((WITH_HISTORY,) if len(runs) > 2 + MIN_FREEDOM else ()), OTHER)}
    for number in range(COMPARISONS):
        order = rng.sample(runs, len(runs))
        old, new, slowed = order[0], order[1], rng.randrange(len(names))
        history = between([[medians(latency_cell(name, block(rng, run[name], count)) for name in names) for run in order[2:]]])
        pairs = []
        for row, name in enumerate(names):
            after = [value * (factor if row == slowed else 1.0) for value in block(rng, new[name], count)]
            pairs.append((latency_cell(name, block(rng, old[name], count)), latency_cell(name, after)))
        for judge, known in ((OURS, None), *(((WITH_HISTORY, history),) if history is not None else ())):
            drafts = [time_changes.latency(*pair, gate, None, number, known.of(pair[0]) if known else None) for pair in pairs]
            tallies[judge].add(alarms(drafts), slowed, told(drafts))
        slower = [row for row, (a, b) in enumerate(pairs) if np.median(b.rounds_s) > 1.05 * np.median(a.rounds_s)]
        tallies[OTHER].add(slower, slowed, Counter())
    return tallies


def answers(rng: random.Random, drop: float, cells: int) -> list[Draft]:
    """Accuracy cells of one comparison, the first of which loses ``drop`` of its items."""
    found = []
    for cell in range(cells):
        old = [rng.random() < 0.8 for _ in range(ITEMS)]
        new = [not value if rng.random() < FLIPS * (0.5 / (0.8 if value else 0.2)) else value for value in old]
        if cell == 0 and drop:
            for item in rng.sample([index for index, value in enumerate(new) if value], round(drop * ITEMS)):
                new[item] = False
        found += paired.accuracy(accuracy_cell(old), accuracy_cell(new), Gate())
    return found


def accuracy_cell(correct: list[bool]) -> AccuracyCell:
    n = len(correct)
    return AccuracyCell(
        variant="w4",
        task="task",
        task_version=1,
        task_sha256="t",
        origin="simulated",
        metric="exact_match",
        item_ids=tuple(str(index) for index in range(n)),
        correct=tuple(correct),
        predictions=("",) * n,
        gold_nll_nats=(1.0,) * n,
        gold_tokens=(1,) * n,
        chance=(0.0,) * n,
        tokens=n,
        seconds_s=1.0,
    )


def sweeps(paths: list[Path]) -> list[dict[str, Any]]:
    """Sensitivity cells of the files, as they are written."""
    found = []
    for path in paths:
        for benchmark in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
            cell = benchmark["extra_info"].get("bitzones", {})
            if cell.get("kind") == "sensitivity":
                found.append(cell)
    return found


def kl_trials(sweep: dict[str, Any], noise: float, factor: float, rng: random.Random) -> Iterator[tuple[bool, bool]]:
    """For each comparison: any alarm, and one on the unit that was made worse. Sequences are drawn anew, the same for both runs."""
    rows = [item["kl_nats"] for item in sweep["measurements"] if item["kl_nats"] is not None]
    for number in range(COMPARISONS):
        generator = np.random.default_rng(rng.randrange(2**32))
        drawn = generator.integers(0, len(sweep["sequence_tokens"]), len(sweep["sequence_tokens"]))
        sequences = paired.Sequences([sweep["sequence_tokens"][index] for index in drawn], number)
        hurt = rng.randrange(len(rows))
        drafts = []
        for row, values in enumerate(rows):
            old = np.asarray(values)[drawn]
            new = old * np.exp(generator.normal(0, noise, len(old))) * (factor if row == hurt else 1.0)
            drafts.append(paired.kl("KL", old.tolist(), new.tolist(), sequences, Gate()))
        found = alarms(drafts)
        yield bool(found), hurt in found


def share(hits: int, count: int = COMPARISONS) -> str:
    interval = wilson_interval(hits, count)
    return f"{hits} of {count} ({interval.low:.1%} to {interval.high:.1%})"


def say(what: str, hits: int) -> None:
    print(f"{what:<70} {share(hits)}", flush=True)


def say_times(runs: list[Rounds], rounds: int, rng: random.Random) -> None:
    for name in runs[0]:
        medians = [float(np.median(run[name])) * 1e3 for run in runs]
        spread = np.std(np.log(medians), ddof=1)
        print(f"  {name:<24} {min(medians):8.2f} to {max(medians):.2f} ms, medians differ by {spread:.1%} (standard deviation)")
    for what, factor in (("nothing changed", 1.0), ("one cell 10% slower", SLOWDOWN)):
        for judge, tally in time_trials(runs, rounds, factor, rng).items():
            say(f"times, {what}, any alarm: {judge}", tally.any)
            if factor > 1:
                say(f"times, an alarm on the slowed cell: {judge}", tally.slowed)
            if tally.words:
                print(f"  our words: {dict(tally.words)}")


def say_kls(sweep: dict[str, Any], rng: random.Random) -> None:
    units = len(sweep["measurements"])
    for noise in (0.0, 0.01, 0.05):
        say(f"KL, {units} cells, {noise:.0%} noise per sequence, any alarm", sum(item[0] for item in kl_trials(sweep, noise, 1.0, rng)))
    for factor in (1.15, 1.25, 1.5):
        say(f"KL, one of them {factor - 1:.0%} up, 1% noise, caught", sum(item[1] for item in kl_trials(sweep, 0.01, factor, rng)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=20, help="of every cell")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, runs = random.Random(given.seed), recorded(given.runs)
    if len(runs) < 2 or not runs[0]:
        raise SystemExit("give at least two run files that have latency cells in common")
    print(f"{len(runs)} runs, {len(runs[0])} latency cells, {given.rounds} rounds of each")
    say_times(runs, given.rounds, rng)
    say("accuracy, 10 cells of 1,000 items, 2% flips, any alarm", sum(bool(alarms(answers(rng, 0, 10))) for _ in range(COMPARISONS)))
    say("accuracy, a drop of 3 points in one of them, caught", sum(0 in alarms(answers(rng, DROP, 10)) for _ in range(COMPARISONS)))
    for sweep in sweeps(given.runs)[:1]:
        say_kls(sweep, rng)


if __name__ == "__main__":
    main()
