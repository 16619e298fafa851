"""`Decision`: what a budget makes of sensitivities, for a whole run or for one task of it."""

from __future__ import annotations

from bitzones.analysis.plan import Around, Decided, Fused, LayerZone, Plan, SplitHalf, UnitPlan, Zone, ZoneWord

__all__ = ["Decision"]


class Decision(Decided):
    """What the budget makes of the sensitivities, and the plan to recommend."""

    plan: Plan
    units: tuple[UnitPlan, ...]
    layer_zones: tuple[LayerZone, ...]
    zones: tuple[Zone, ...]
    """Only zones that have layers."""
    around: Around = "reference"
    """What the resampled plans are solved from: separate sensitivities, or what each change of the plan that the search found would do."""
    contradicted: tuple[int, ...] = ()
    """Layers that are SAFE and not wholly at the fewest bits in the plan, or CRITICAL and not wholly at the most."""
    split_half: tuple[SplitHalf, ...] = ()
    """Zones from two halves of the sequences: decided as the zones are, and where those are around a plan, from separate sensitivities."""
    fused: Fused | None = None
    """What engines that fuse modules make of the plan; null where its units are such groups already, or whole layers."""

    def zone_of(self, layer: int | None) -> ZoneWord | None:
        """The zone of a layer; None for one that was not swept."""
        return next((item.zone for item in self.layer_zones if item.layer == layer), None)
