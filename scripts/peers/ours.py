"""Our side of the comparison with peers: the material that all plans are made from, our own plans, and how every plan is measured.

Everything that takes long is kept in the work folder under the hash of the sensitivity tokens, so that a run that was cut off goes on. This
module does not know how a peer makes a plan: one of theirs is a map of module name to format, like ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from bitzones.allocation.knapsack import budget_bytes, solve
from bitzones.backends.backend_protocol import Packed
from bitzones.data import sequences as calibration
from bitzones.data import tasks
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.models import loading, structure
from bitzones.models.units import model_units
from bitzones.schema import profile, profile_sections
from bitzones.schema.formats import format_bits
from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.profile_sections import Budget
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell, Unit
from bitzones.search import goals, local_search
from bitzones.search.local_search import Workbench
from bitzones.sensitivity import fisher
from bitzones.sensitivity import sweep as sensitivity
from bitzones.sensitivity.sweep import Candidate
from bitzones.sensitivity.variants import Variants

__all__ = ["FORMATS", "Measured", "Ours", "Plan", "load"]

FORMATS = {"w2": "qint2:hqq", "w4": "qint4"}
"""Variant id -> the formats between which every plan decides."""

BATCH = 16
FISHER_SAMPLES = 2
SEED = 0

Plan = Mapping[str, str]
"""Module name -> format, of every linear layer in the decoder layers."""


@dataclass(frozen=True)
class Measured:
    """A plan as quanto stores it and as it was measured on held-out sequences, nats per sequence."""

    stored_bytes: int
    kl_nats: Sequence[float]


@dataclass(frozen=True)
class Ours:
    """The reference with its sequences: ``calibration`` is what every plan is made from, ``held_out`` what none has seen."""

    variants: Variants
    units: tuple[Unit, ...]
    sensitivity_set: SequenceSet
    held_out: SequenceSet
    work: Path

    @property
    def parameters(self) -> int:
        """Weights that a plan decides about."""
        return sum(unit.parameters for unit in self.units)

    @property
    def shared_bits(self) -> float:
        """Stored bits per weight that any plan of 2 and 4 bits spends on scales and shifts: the groups are the same in both formats."""
        found = {
            self.bits({module: name for unit in self.units for module in unit.modules}) - format_bits(name) for name in FORMATS.values()
        }
        low, high = min(found), max(found)
        assert high - low < 1e-9, f"scales and shifts take {low:.4f} and {high:.4f} bits by format"
        return low

    def sizes(self) -> dict[str, int | None]:
        """Module -> weights that share a scale."""
        return {name: weight.group_size for name, weight in self.variants.packed("w4").items()}

    def stored_bytes(self, plan: Plan) -> int:
        """Bytes of the planned weights as quanto stores them, scales and shifts counted."""
        return sum(weight.stored_bytes for weight in self._weights(plan).values())

    def bits(self, plan: Plan) -> float:
        """Average stored bits per weight."""
        return self.stored_bytes(plan) * 8 / self.parameters

    def _weights(self, plan: Plan) -> dict[str, Packed]:
        wanted = {module for unit in self.units for module in unit.modules}
        if set(plan) != wanted:
            raise SystemExit(
                f"a plan names {len(plan)} modules and the model has {len(wanted)}: differing {sorted(set(plan) ^ wanted)[:3]}"
            )
        variants = {name: variant for variant, name in FORMATS.items()}
        return {module: self.variants.packed(variants[name])[module] for module, name in plan.items()}

    def batches(self) -> Sequence[Batch]:
        """The sensitivity sequences."""
        return list(calibration.batches(self.sensitivity_set, BATCH, self.variants.device))

    def sweep(self) -> SensitivityCell:
        """The separate sensitivities of groups."""
        path = self._path("exact")
        if not path.exists():
            print(f"exact sweep: {2 * len(self.units)} candidates", flush=True)
            self._keep(
                path,
                sensitivity.exact_cell(self.variants, self.units, "group", self.sensitivity_set, self.batches(), _told()).model_dump_json(),
            )
        return SensitivityCell.model_validate_json(path.read_text())

    def screen(self) -> FisherCell:
        """The scores of groups."""
        path = self._path("fisher")
        if not path.exists():
            found = fisher.fisher_cell(self.variants, self.units, self.sensitivity_set, self.batches(), FISHER_SAMPLES, SEED, _told())
            self._keep(path, found.model_dump_json())
        return FisherCell.model_validate_json(path.read_text())

    def additive(self, average_bits: float) -> Plan:
        """The plan of the separate sensitivities."""
        bench = self.bench()
        return self._modules(
            bench.named(solve(bench.menu, local_search.summed(bench, self.sweep()), budget_bytes(bench.menu, average_bits)))
        )

    def by_fisher(self, average_bits: float) -> Plan:
        """The plan of the scores' own estimates of KL, unit by unit."""
        bench = self.bench()
        kl, rows = np.zeros(bench.menu.offered.shape), {unit.name: row for row, unit in enumerate(self.units)}
        for item in self.screen().scores:
            kl[rows[item.unit], bench.menu.formats.index(item.format)] = np.square(item.nats).sum() / 2 / FISHER_SAMPLES
        return self._modules(bench.named(solve(bench.menu, kl, budget_bytes(bench.menu, average_bits))))

    def searched(self, average_bits: float, rounds: int) -> SearchCell:
        """The search from the plan of the separate sensitivities."""
        path = self._path(f"search-{average_bits:.4f}-{rounds}")
        if not path.exists():
            self._keep(
                path,
                goals.search_cell(self.bench(), self.sweep(), Budget(average_bits=average_bits), {}, rounds, _told()).model_dump_json(),
            )
        return SearchCell.model_validate_json(path.read_text())

    def found(self, cell: SearchCell) -> Plan:
        """The plan that a search found."""
        return self._modules(cell.found.units)

    def bench(self) -> Workbench:
        """What a search works on; leaving a unit as it is may not be chosen, by nobody here."""
        made = local_search.workbench(self.variants, self.sweep(), self.batches, len(self.sensitivity_set.sequences))
        quantized = made.menu.offered.copy()
        quantized[:, -1] = False
        return replace(made, menu=replace(made.menu, offered=quantized))

    def measured(self, plan: Plan) -> Measured:
        """KL to the reference on the held-out sequences; the same for every plan, whoever made it, module by module."""
        path = self.work / "held_out.json"
        known: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
        key = hashlib.sha256(f"{self.held_out.sha256} {sorted(plan.items())}".encode()).hexdigest()
        if key not in known:
            layers = list(structure.decoder_layers(self.variants.reference).values())
            batches = calibration.batches(self.held_out, BATCH, self.variants.device)
            found = sensitivity.exact(
                self.variants.reference, layers, [Candidate(0, self._weights(plan))], batches, len(self.held_out.sequences)
            )
            if (kl := found.candidates[0]) is None:
                raise SystemExit("a plan gives NaN or infinity")
            known[key] = kl
            self._keep(path, json.dumps(known))
        return Measured(self.stored_bytes(plan), known[key])

    def values(self) -> Path:
        """A file of what both formats make of every weight, ``MODULE.BITS``, in float32."""
        path = self.work / "values.safetensors"
        if not path.exists():
            partial = path.with_suffix(".partial")
            save_file(
                {
                    f"{module}.{format_bits(name)}": weight.values(torch.float32).contiguous()
                    for variant, name in FORMATS.items()
                    for module, weight in self.variants.packed(variant).items()
                },
                partial,
            )
            partial.replace(path)
        return path

    def _modules(self, units: Mapping[str, str]) -> Plan:
        return {module: units[unit.name] for unit in self.units for module in unit.modules}

    def _path(self, what: str) -> Path:
        return self.work / f"{what}-{self.sensitivity_set.sha256[:12]}.json"

    def _keep(self, path: Path, text: str) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(path)


def _told() -> Callable[[float], None]:
    """Prints every tenth of the way."""
    tenths = 0

    def told(share: float) -> None:
        nonlocal tenths
        if int(share * 10) > tenths:
            tenths = int(share * 10)
            print(f"  {tenths}0%", flush=True)

    return told


def load(source: str, data: Path, work: Path, tokens: int, held_out_tokens: int, device: torch.device) -> Ours:
    """Load the model, take the sequences, and write both for the peers.

    The folder gets ``model/`` (safetensors and tokenizer) and ``calibration.json`` (a list of token lists).
    """
    loaded = loading.load(profile_sections.Model(source=source), device)
    train = [tasks.training(name, data / profile.DATA_FOLDERS[name]) for name in ("arc_easy", "svamp")]
    rest = calibration.sequences(loaded.tokenizer, train)
    used, held_out = calibration.take(rest, tokens), calibration.take(rest, held_out_tokens)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model" / "tokenizer.json").exists():
        loaded.model.save_pretrained(work / "model")
        loaded.tokenizer.save_pretrained(work / "model")
    (work / "calibration.json").write_text(json.dumps([list(sequence.ids) for sequence in used.sequences]))
    units = model_units(loaded.model, "group")
    variants = Variants(loaded, {"bf16": "bf16", **FORMATS}, device, torch.float32)
    return Ours(variants, units, used, held_out, work)
