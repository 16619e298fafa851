"""Replays adaptive sweeps on the full sweeps of run files: what they would have saved, and what that would have cost.

The race sees only the KLs that it asks for, in another random order of the sequences each time. Its plan is judged by the KLs of the full
sweep, and its zones beside those of the full sweep, both drawn from separate sensitivities.

    python scripts/adaptive_replay.py profiles/reference/h200-tiny.json docs/reports/smollm2-domains/run.json --orders 40
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation import racing
from bitzones.allocation.knapsack import Menu, budget_bytes, menu_of, solve
from bitzones.allocation.partial_sweep import PartialSweep
from bitzones.analysis.layer_sensitivity import measured_of
from bitzones.analysis.marginal_costs import separate
from bitzones.analysis.reader import RunFile, read_run
from bitzones.analysis.zones import layer_zones
from bitzones.report.markdown.tables import table
from bitzones.schema.formats import REFERENCE_NAMES
from bitzones.schema.profile import variant_formats
from bitzones.schema.quality_cells import DivergenceCell
from bitzones.schema.sensitivity_cells import AdaptiveSweep, SensitivityCell
from bitzones.stats.intervals import wilson_interval

AROUND = (-0.5, 0.0, 0.5)
"""Average bits from those of the profile: one budget is one boundary between units that are told apart and those that are not."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Replay:
    """One race: shares of what the full sweep has."""

    saved: float
    regret: float
    bound: float
    zones: float
    same: bool


def replays(run_file: RunFile, bits: float, orders: int) -> Iterator[Replay]:
    """Races of one budget, one for each order of the sequences."""
    (cell,) = run_file.of(SensitivityCell)
    profile = run_file.run.profile
    variants = variant_formats(profile)
    formats = tuple(variants.values())[1:]
    uniform = {variants[item.variant]: item.kl_nats for item in run_file.of(DivergenceCell) if variants.get(item.variant) in formats}
    menu = menu_of(cell, formats, REFERENCE_NAMES[profile.model.dtype])
    budget = budget_bytes(menu, bits)
    full = Full(cell, menu, budget, formats, profile.zones.agreement)
    for seed in range(orders):
        yield full.beside(raced(cell, menu, budget, formats, uniform, seed))


def raced(
    cell: SensitivityCell, menu: Menu, budget: int, formats: tuple[str, ...], uniform: dict[str, tuple[float, ...]], seed: int
) -> SensitivityCell:
    """The cell that an adaptive sweep would have recorded."""
    found = {(item.unit, item.format): item for item in cell.measurements}
    order = racing.in_order([""] * len(cell.sequence_tokens), seed)
    tokens = np.array(cell.sequence_tokens, dtype=np.float64)[list(order)]
    controls = {formats.index(name): np.array(nats)[list(order)] for name, nats in uniform.items()}
    kl, counts = np.zeros((*menu.offered.shape, len(order))), np.zeros(menu.offered.shape, dtype=np.int64)

    def extend(wanted: NDArray[np.bool_], target: int) -> PartialSweep:
        for row, column in np.argwhere(wanted & (counts < target)).tolist():
            nats = found[menu.units[row], formats[column]].kl_nats
            assert nats is not None, "it is offered"
            kl[row, column, :target] = [nats[place] for place in order[:target]]
            counts[row, column] = target
        return PartialSweep(kl.copy(), counts.copy(), tokens, controls)

    partial, standing = racing.run(menu, budget, len(order), seed, extend)
    rows = {name: row for row, name in enumerate(menu.units)}
    measurements = []
    for item in cell.measurements:
        at = rows[item.unit], formats.index(item.format)
        count = int(partial.counts[at])
        stopped = standing.reason(*at) if 0 < count < len(order) else None
        nats = tuple(partial.kl[at][:count].tolist()) if count else None
        measurements.append(item.model_copy(update={"kl_nats": nats, "stopped": stopped, "sampling_variance": None}))
    adaptive = AdaptiveSweep(
        order=order, looks=racing.looks_of(len(order)), uniform_kl_nats=uniform, regret_nats=standing.regret, budget=budget
    )
    return cell.model_copy(update={"measurements": tuple(measurements), "adaptive": adaptive})


class Full:
    """The full sweep, its plan and its zones."""

    def __init__(self, cell: SensitivityCell, menu: Menu, budget: int, formats: tuple[str, ...], agreement: float) -> None:
        self._menu, self._budget, self._formats, self._agreement = menu, budget, formats, agreement
        self._mean = measured_of(cell, formats, 1, 0).mean
        self._plan, self._zones = self._decided(cell)

    def _decided(self, cell: SensitivityCell) -> tuple[NDArray[np.int64], list[str]]:
        measured = measured_of(cell, self._formats, 1, 0)
        costs = separate(measured, self._menu)
        choice, choices = costs.plan(self._budget), costs.plans(measured.weights, self._budget)
        return choice, [item.zone for item in layer_zones(measured, self._menu, choice, choices, self._agreement)]

    def beside(self, cell: SensitivityCell) -> Replay:
        """What an adaptive sweep came to."""
        plan, zones = self._decided(cell)
        units = np.arange(len(plan))
        best = float(self._mean[units, self._plan].sum())
        assert cell.adaptive is not None, "it was raced"
        start = np.maximum(measured_of(cell, self._formats, 1, 0).mean, 0.0)
        taken = solve(self._menu, start, self._budget)
        return Replay(
            saved=1 - cell.measured_share,
            regret=float(self._mean[units, taken].sum()) / best - 1,
            bound=cell.adaptive.regret_nats / best,
            zones=float(np.mean([one == other for one, other in zip(zones, self._zones, strict=True)])),
            same=bool((taken == self._plan).all()),
        )


def row(name: str, bits: float, found: list[Replay]) -> list[str]:
    """A row of the table."""
    n = len(found)
    within = wilson_interval(sum(item.regret <= item.bound + 1e-9 for item in found), n)
    saved, regrets = np.array([item.saved for item in found]), np.array([item.regret for item in found])
    return [
        name,
        f"{bits:g}",
        f"{saved.mean():.0%} ({saved.min():.0%} to {saved.max():.0%})",
        f"{sum(item.same for item in found)} of {n}",
        f"{regrets.mean():.2%} ({regrets.max():.2%})",
        f"{np.mean([item.bound for item in found]):.2%}",
        f"{within.value:.0%} [{within.low:.0%}, {within.high:.0%}]",
        f"{np.mean([item.zones for item in found]):.1%} ({min(item.zones for item in found):.0%})",
    ]


HEAD = (
    "run",
    "average bits",
    "saved (range)",
    "same plan",
    "regret, share of the plan's KL, mean (largest)",
    "bound, mean",
    "races within their bound",
    "layers with the same zone, mean (least)",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_files", nargs="+", type=Path)
    parser.add_argument("--orders", type=int, default=40, help="random orders of the sequences, for each budget")
    asked = parser.parse_args()
    rows, began = [], time.process_time()
    for path in asked.run_files:
        run_file = read_run(path)
        given = run_file.run.profile.budget.average_bits
        assert given is not None, f"{path}: its budget is not one of bits"
        name = path.parent.name if path.name == "run.json" else path.stem
        for bits in (given + step for step in AROUND):
            rows.append(row(name, bits, list(replays(run_file, bits, asked.orders))))
            print(rows[-1], flush=True)
    print(table(list(HEAD), rows))
    races = asked.orders * len(rows)
    print(f"\n{races} races, {(time.process_time() - began) / races:.1f} s of processor time each, zones included")


if __name__ == "__main__":
    main()
