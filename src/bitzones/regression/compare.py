"""Two runs side by side: what a release changed, cell by cell, and whether the gate opens.

Cells are matched by what they measure, never by a benchmark's name: renaming one hides nothing. Every cell of either run has a word in the
result. It asks `paired`, `time_changes` and `zone_changes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from bitzones.analysis.reader import RunFile
from bitzones.regression import paired, release_changes, time_changes
from bitzones.regression.comparison import CellDelta, Comparison, Metric, Repeats, Side, gravest
from bitzones.regression.decision_rule import Draft, decided, settled
from bitzones.regression.drift import Drift
from bitzones.regression.duet_changes import Duets, duet_draft, duets_in
from bitzones.regression.instruction_changes import instructions
from bitzones.regression.zone_changes import moved_zones
from bitzones.schema.cell_key import CellKey
from bitzones.schema.cells import Cell, FailedCell, ReleaseCell
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.duet_cells import DuetCell
from bitzones.schema.instructions_cell import InstructionsCell
from bitzones.schema.performance_cells import LatencyCell, MemoryCell
from bitzones.schema.plan_cells import NamedTrial, PlansCell, SearchCell
from bitzones.schema.profile import PLAN
from bitzones.schema.profile_sections import Gate
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell, PerplexityCell
from bitzones.schema.record import Figure
from bitzones.schema.sensitivity_cells import SensitivityCell, UnitSensitivity
from bitzones.schema.slices_cell import SlicesCell

__all__ = ["compare", "same_profile"]

JUDGED_FIGURES = ("process_peak_rss", "device_allocated")
"""Peaks of a memory cell. What the process holds at the moment, or other processes do, is no property of a release."""

JUDGED_PLANS = ("search", "uniform", "frontier", "foreign")
"""Origins of whole plans that somebody may ship; random plans and rules of thumb are there to be beaten."""


def _matched(old: RunFile, new: RunFile) -> tuple[dict[CellKey, Cell], dict[CellKey, Cell]]:
    """The cells of both runs by what they measure.

    Where each run timed a phase of a variant at one shape only, and those shapes differ, the old cell stands under the new one's key: it is
    then called incomparable, not missing.
    """
    before, after = ({cell.key: cell for cell in run.cells} for run in (old, new))
    only = [_only_shapes(cells, other) for cells, other in ((before, after), (after, before))]
    for which, key in only[0].items():
        if which in only[1]:
            before[only[1][which]] = before.pop(key)
    return before, after


def _only_shapes(cells: Mapping[CellKey, Cell], other: Mapping[CellKey, Cell]) -> dict[tuple[str, str], CellKey]:
    """(variant, phase) -> key, of phases timed at a single shape which the other run does not have."""
    found: dict[tuple[str, str], list[CellKey]] = {}
    for key, cell in cells.items():
        if isinstance(cell, LatencyCell):
            found.setdefault((key.variant, cell.phase), []).append(key)
    return {which: keys[0] for which, keys in found.items() if len(keys) == 1 and keys[0] not in other}


def compare(old: RunFile, new: RunFile, gate: Gate, repeats: Drift | None = None, duets: Duets | None = None) -> Comparison:
    """Every cell of either run with its word, corrected for how many tests that took.

    Args:
        old: the baseline.
        new: what is judged.
        gate: the tolerances.
        repeats: how far times differ between runs of the same thing on this machine; None where that is not known.
        duets: cells that were timed in pairs, which override times of the two runs; those that the new run recorded are known.
    """
    duets = {**duets_in(old, new), **(duets or {})}
    elsewhere = time_changes.other_machine(old.run.environment, new.run.environment)
    before, after = _matched(old, new)
    after = {key: cell for key, cell in after.items() if not isinstance(cell, DuetCell)}
    before = {key: cell for key, cell in before.items() if not isinstance(cell, DuetCell)}
    keys = list(dict.fromkeys([*after, *before, *duets]))
    drafts: dict[CellKey, list[Draft]] = {}
    pairs = _Pairs(old, new, gate, elsewhere, repeats)
    for key in keys:
        timed = duets.get(key)
        drafts[key] = [duet_draft(timed, gate)] if timed is not None else pairs.drafts(key, before.get(key), after.get(key))
    metrics = iter(decided(draft for key in keys for draft in drafts[key]))
    cells = tuple(_delta(key, [next(metrics) for _ in drafts[key]]) for key in keys)
    zones = moved_zones(old, new)
    return Comparison(
        old=_side(old),
        new=_side(new),
        gate=gate,
        differences=tuple(_differences(old, new)),
        other_machine=elsewhere,
        repeats=Repeats(runs=repeats.runs, drift=repeats.typical) if repeats is not None else None,
        duets=len(duets),
        cells=cells,
        moved=zones.moved,
        no_zones=zones.unknown,
        zones_around=zones.around,
    )


_Swept: TypeAlias = tuple[SensitivityCell, UnitSensitivity | None]
"""A sweep and what it has of one unit in one format."""


class _Pairs:
    """Two cells of one key become metrics that are not yet corrected."""

    def __init__(self, old: RunFile, new: RunFile, gate: Gate, elsewhere: str | None, repeats: Drift | None) -> None:
        self.repeats = repeats
        self.gate = gate
        self.elsewhere = elsewhere
        self.seed = new.run.profile.seed
        self.formats = (old.run.variants, new.run.variants)
        self.judges: dict[type[Any], Callable[[Any, Any], list[Draft]]] = {
            AccuracyCell: lambda a, b: paired.accuracy(a, b, gate),
            PerplexityCell: lambda a, b: paired.perplexity(a, b, self.seed),
            LatencyCell: self._latency,
            MemoryCell: self._memory,
            DivergenceCell: self._divergence,
            DomainCell: self._divergence,
            SensitivityCell: self._sensitivity,
            SearchCell: self._search,
            PlansCell: self._plans,
            SlicesCell: self._slices,
            ReleaseCell: release_changes.judge,
            InstructionsCell: lambda a, b: [instructions(a, b, gate.instructions)],
        }

    def drafts(self, key: CellKey, old: Cell | None, new: Cell | None) -> list[Draft]:
        """At least one metric of every cell."""
        if (word := _absent(key, old, new)) is not None:
            return [word]
        assert old is not None
        assert new is not None
        was, now = (formats.get(key.variant) for formats in self.formats)
        if was != now:
            return [_word("incomparable", f"variant {key.variant} is {now} now and was {was}")]
        judge = self.judges.get(type(new))
        return judge(old, new) if judge is not None else [_word("same", "it is there; its figures are not judged")]

    def _latency(self, old: LatencyCell, new: LatencyCell) -> list[Draft]:
        if (old.timing, old.batch) != (new.timing, new.batch):
            return [_word("incomparable", f"another shape: {_shape(new)}, was {_shape(old)}")]
        drift = self.repeats.of(new) if self.repeats is not None else None
        return [time_changes.latency(old, new, self.gate, self.elsewhere, self.seed, drift)]

    def _memory(self, old: MemoryCell, new: MemoryCell) -> list[Draft]:
        tolerance = self.gate.plan_bytes if new.variant == PLAN else self.gate.bytes
        found = [_exact("stored bytes", old.stored_bytes, new.stored_bytes, tolerance)]
        for name in JUDGED_FIGURES:
            was, now = getattr(old, name), getattr(new, name)
            if was.status == "ok" or now.status == "ok":
                found.append(self._figure(name.replace("_", " "), was, now))
        return found

    def _figure(self, name: str, old: Figure, new: Figure) -> Draft:
        if self.elsewhere is not None:
            return settled(Metric(name=name, unit="bytes", status="incomparable", reason=f"other machine: {self.elsewhere}"))
        if old.value is None or new.value is None:
            reason = f"{'the new' if new.value is None else 'the old'} run says {(new if new.value is None else old).status}"
            return settled(Metric(name=name, unit="bytes", status="incomparable", reason=reason))
        return _exact(name, old.value, new.value, self.gate.memory)

    def _kl(self, name: str, old: Sequence[float] | None, new: Sequence[float] | None, sequences: paired.Sequences) -> Draft:
        if old is None or new is None:
            if new is not None:
                return _word("new", "could not be measured before", name)
            return (
                _word("failed", "could not be measured", name)
                if old is not None
                else _word("incomparable", "measured in neither run", name)
            )
        return paired.kl(name, old, new, sequences, self.gate)

    def _divergence(self, old: DivergenceCell | DomainCell, new: DivergenceCell | DomainCell) -> list[Draft]:
        if (other := _other_sequences(old, new)) is not None:
            return [other]
        return [paired.kl("KL", old.kl_nats, new.kl_nats, paired.Sequences(new.sequence_tokens, self.seed), self.gate)]

    def _sensitivity(self, old: SensitivityCell, new: SensitivityCell) -> list[Draft]:
        if old.granularity != new.granularity:
            return [_word("incomparable", f"swept by {new.granularity} now and by {old.granularity} before")]
        if (other := _other_sequences(old, new)) is not None:
            return [other]
        before, after = ({(item.unit, item.format): item for item in cell.measurements} for cell in (old, new))
        sequences = paired.Sequences(new.sequence_tokens, self.seed)
        found = []
        for unit, name in [*after, *(key for key in before if key not in after)]:
            found += self._unit(f"{unit} at {name}", (old, before.get((unit, name))), (new, after.get((unit, name))), sequences)
        return found or [_word("same", "nothing was swept")]

    def _unit(self, name: str, before: _Swept, after: _Swept, sequences: paired.Sequences) -> list[Draft]:
        (was, old), (now, new) = before, after
        if old is None or new is None:
            return [_word("new", "not swept before", name) if old is None else _word("missing", "not swept any more", name)]
        if old.kl_nats and new.kl_nats and (was.adaptive or now.adaptive):  # measured on some of the sequences
            first, second = (dict(zip(cell.places, kl, strict=False)) for cell, kl in ((was, old.kl_nats), (now, new.kl_nats)))
            common = sorted(first.keys() & second.keys())
            if not common:
                return [_word("incomparable", "measured on other sequences", name)]
            some = paired.Sequences([now.sequence_tokens[place] for place in common], self.seed)
            found = [self._kl(name, [first[place] for place in common], [second[place] for place in common], some)]
        else:
            found = [self._kl(name, old.kl_nats, new.kl_nats, sequences)]
        if old.stored_bytes != new.stored_bytes:
            found.append(_exact(f"{name}, stored bytes", old.stored_bytes, new.stored_bytes, self.gate.bytes))
        return found

    def _search(self, old: SearchCell, new: SearchCell, name: str = "plan found") -> list[Draft]:
        if (other := _other_sequences(old, new)) is not None:
            return [other]
        if old.tolerance_nats is None and new.tolerance_nats is None and old.budget_bytes != new.budget_bytes:
            return [_word("incomparable", f"another budget: {new.budget_bytes} bytes, was {old.budget_bytes}")]
        found = [self._kl(name, old.found.kl_nats, new.found.kl_nats, paired.Sequences(new.sequence_tokens, self.seed))]
        if new.tolerance_nats is not None:  # then bytes are what was searched for
            found.append(_exact(f"{name}, stored bytes", old.found.stored_bytes, new.found.stored_bytes, self.gate.plan_bytes))
        return found

    def _plans(self, old: PlansCell, new: PlansCell) -> list[Draft]:
        if (other := _other_sequences(old, new)) is not None:
            return [other]
        sequences = paired.Sequences(new.sequence_tokens, self.seed)
        before, after = ({plan.name: plan for plan in cell.plans if plan.origin in JUDGED_PLANS} for cell in (old, new))
        return [self._plan(name, before.get(name), after.get(name), sequences) for name in {**after, **before}]

    def _slices(self, old: SlicesCell, new: SlicesCell) -> list[Draft]:
        before, after = ((cell.sequences_sha256, [(item.name, item.sensitivity) for item in cell.slices]) for cell in (old, new))
        if before != after:
            return [_word("incomparable", "plans for other tasks, or from other sequences")]
        pairs = [(was.search, now.search, f"plan for {now.name}") for was, now in zip(old.slices, new.slices, strict=True)]
        return [draft for pair in pairs for draft in self._search(*pair)]

    def _plan(self, name: str, old: NamedTrial | None, new: NamedTrial | None, sequences: paired.Sequences) -> Draft:
        if old is None or new is None:
            return _word("new", "not compared before", name) if old is None else _word("missing", "not compared any more", name)
        return self._kl(name, old.kl_nats, new.kl_nats, sequences)


def _shape(cell: LatencyCell) -> str:
    return f"{cell.timing}{f' (at batch {cell.batch})' if cell.shortages else ''}"


def _absent(key: CellKey, old: Cell | None, new: Cell | None) -> Draft | None:
    """The word of a cell that one of the runs has no result of; None where both have one."""
    if isinstance(new, FailedCell) and new.status == "failed":
        return _word("failed", f"failed: {new.reason}")
    if isinstance(new, FailedCell):
        before = "" if isinstance(old, FailedCell) or old is None else ", and was before"
        return _word("missing" if before else "incomparable", f"not measured{before}: {new.reason}")
    if new is None:
        gone = "it failed before too" if isinstance(old, FailedCell) else "the new run has no such cell"
        return _word("missing", gone)
    if old is None or isinstance(old, FailedCell):
        return _word("new", "the old run has no such cell" if old is None else f"the old run has no result: {old.reason}")
    return None


def _other_sequences(old: Any, new: Any) -> Draft | None:
    same = (old.sequences_sha256, old.sequence_tokens) == (new.sequences_sha256, new.sequence_tokens)
    return None if same else _word("incomparable", "measured on other sequences", "KL")


def _word(status: Any, reason: str, name: str = "") -> Draft:
    return settled(Metric(name=name, unit="share", status=status, reason=reason))


def _exact(name: str, old: float, new: float, tolerance: float) -> Draft:
    """Bytes, which have no spread: worse above the tolerance, better below it."""
    status: Any = "worse" if new > old * (1 + tolerance) else "better" if new < old * (1 - tolerance) else "same"
    return settled(
        Metric(name=name, unit="bytes", status=status, old=float(old), new=float(new), as_ratio=True, tolerance=tolerance, reason="")
    )


def _delta(key: CellKey, metrics: list[Metric]) -> CellDelta:
    status = gravest(tuple(metric.status for metric in metrics))
    speaking = [metric for metric in metrics if metric.status == status]
    first = speaking[0]
    reason = ": ".join(step for step in (first.name if len(metrics) > 1 else "", first.reason) if step)
    more = f" (and {len(speaking) - 1} more)" if len(speaking) > 1 and status != "same" else ""
    return CellDelta(**key._asdict(), status=status, reason=f"{reason}{more}", metrics=tuple(metrics))


def _side(run_file: RunFile) -> Side:
    run = run_file.run
    return Side(
        path=run_file.path,
        measured_at=run_file.measured_at,
        bitzones=run.bitzones,
        model=run.model.source if run.model else None,
        model_sha256=run.model.sha256 if run.model else None,
        machine=time_changes.machine(run.environment),
        versions=dict(run.environment.versions) if run.environment else {},
    )


def same_profile(old: RunFile, new: RunFile) -> bool:
    """Whether both measured the same: every setting agrees, but for the gate's and the description."""
    return old.settings_sha256 == new.settings_sha256


def _differences(old: RunFile, new: RunFile) -> Iterable[str]:
    """What may be the cause: releases, model, profile."""
    was, now = _side(old), _side(new)
    before, after = {"bitzones": was.bitzones, **was.versions}, {"bitzones": now.bitzones, **now.versions}
    for name in {**after, **before}:
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
    if was.model_sha256 != now.model_sha256:
        yield f"model: {was.model or 'unknown'} -> {now.model or 'unknown'}, other weights"
    if not same_profile(old, new):
        yield "profile: other settings"
