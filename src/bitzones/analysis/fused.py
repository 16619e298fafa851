"""Whether engines that fuse modules can serve a plan: all modules of a fused group must have one format.

Only a plan of single modules can split a group. The run file records which modules read the same tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bitzones.analysis.plan import Fused, SplitGroup
from bitzones.schema.sensitivity_cells import Unit

__all__ = ["fused"]


def fused(units: Iterable[Unit], formats: Mapping[str, str]) -> Fused | None:
    """How many fused groups a plan splits, and which; None where no unit belongs to such a group.

    Args:
        units: of the run.
        formats: unit to format.
    """
    groups: dict[tuple[int, str], dict[str, str]] = {}
    for unit in units:
        if unit.fused is not None and unit.layer is not None:
            groups.setdefault((unit.layer, unit.fused), {})[unit.name] = formats[unit.name]
    if not groups:
        return None
    several = {where: stored for where, stored in groups.items() if len(stored) > 1}
    split = (SplitGroup(layer=layer, group=group) for (layer, group), stored in several.items() if len(set(stored.values())) > 1)
    return Fused(groups=len(several), split=tuple(split))
