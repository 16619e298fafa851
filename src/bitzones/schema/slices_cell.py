"""Which sequences are of which task or text domain, and the plan that was searched for each on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.record import Count, Measured, Record
from bitzones.schema.slices import file_name

__all__ = ["FOR_ALL", "Slice", "SlicesCell"]

Places = tuple[Count, ...]

FOR_ALL = ""
"""In place of a slice's name: all of them together."""


class Slice(Record):
    """One task or text domain: the places of its sequences in the sensitivity set and in the held-out set, and its search.

    ``search`` is as in the run's own search cell, on the slice's sensitivity sequences only and within the same budget, in bytes or
    nanoseconds; its separate sensitivities are those of the run's sweep on these sequences.
    """

    name: str = Field(min_length=1)
    sensitivity: Places = Field(min_length=1)
    held_out: Places = Field(min_length=1)
    held_out_sha256: str
    search: SearchCell

    @model_validator(mode="after")
    def _consistent(self) -> Slice:
        for key, places in (("sensitivity", self.sensitivity), ("held_out", self.held_out)):
            if list(places) != sorted(set(places)):
                raise ValueError(f"{self.name}: places in {key} have to ascend")
        if len(self.search.sequence_tokens) != len(self.sensitivity):
            raise ValueError(
                f"{self.name} has {len(self.sensitivity)} sequences, and {len(self.search.sequence_tokens)} tokens of sequences"
            )
        return self


class SlicesCell(Measured):
    """The slices of a run by task or by domain; ``variant`` is the reference. Their plans are measured in the plans cell.

    The hashes are those of the sets that places refer to. A sequence is of one slice, or of none: text beside the tasks, where slices
    are tasks.
    """

    kind: Literal["slices"] = "slices"
    by: Literal["task", "domain"]
    sequences_sha256: str
    held_out_sha256: str
    slices: tuple[Slice, ...] = Field(min_length=2)

    def same_as(self, name: str, for_all: Mapping[str, str]) -> str | None:
        """Whose plan a slice's plan is: an earlier slice's, or `FOR_ALL`; None where it is one of its own."""
        plans = {FOR_ALL: dict(for_all)} | {item.name: item.search.found.units for item in self.slices}
        owner = next(other for other, units in plans.items() if units == plans[name])
        return None if owner == name else owner

    @model_validator(mode="after")
    def _consistent(self) -> SlicesCell:
        files = [file_name(item.name) for item in self.slices]
        if len(set(files)) < len(files):
            raise ValueError("two slices have one name, or one file for their plans")
        for key in ("sensitivity", "held_out"):
            every = [place for item in self.slices for place in getattr(item, key)]
            if len(set(every)) < len(every):
                raise ValueError(f"a sequence of {key} is of two slices")
        return self
