"""`Cell`, any result in a run file, and the cells that belong to no other module: releases, failures, user-defined kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from bitzones.schema import kinds
from bitzones.schema.cell_key import CellKey
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.duet_cells import DuetCell
from bitzones.schema.instructions_cell import InstructionsCell
from bitzones.schema.layer_statistics import LayersCell
from bitzones.schema.performance_cells import LatencyCell, MemoryCell, UnitLatencyCell
from bitzones.schema.plan_cells import PlansCell, SearchCell
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell, PerplexityCell
from bitzones.schema.record import Measured, Positive
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell
from bitzones.schema.slices_cell import SlicesCell
from bitzones.schema.tuning_cells import TuningCell

__all__ = ["Cell", "FailedCell", "OwnCell", "ReleaseCell", "UnknownCell"]


class ReleaseCell(Measured):
    """What a release of quanto does with a variant, apart from its figures.

    Of the requested ``modules``, those in ``missed`` were not quantized; those in ``unasked`` were quantized without being requested.
    ``reload`` says whether the model computes the same after saving and loading, and ``reason`` why not.
    """

    kind: Literal["release"] = "release"
    modules: Positive
    unasked: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    reload: Literal["same", "differs", "unsupported", "failed"]
    reason: str = ""


class FailedCell(Measured):
    """A cell without a result. It stays in the run file, so that nothing disappears silently.

    ``not measured`` means that this machine cannot measure it; ``failed`` means that it should have worked and did not.
    """

    kind: Literal["failed"] = "failed"
    of: Annotated[str, AfterValidator(kinds.checked_kind)]
    status: Literal["failed", "not measured"] = "failed"
    detail: str = ""
    reason: str

    @property
    def key(self) -> CellKey:
        """The identity of the missing result; a detail that results of this kind do not have (the method of a sweep) is left out."""
        named = self.of in {"accuracy", "perplexity", "domain", "latency", "duet", "instructions"} or kinds.is_own(self.of)
        return CellKey(self.of, self.variant, self.detail if named else "")


class OwnCell(Measured):
    """Base of the cells that a user defines. A subclass gives ``kind`` a default, ``Literal["owner.name"]``, adds the fields that it
    measures, and is registered with `bitzones.schema.kinds.register`. What it measures is identified by kind, ``variant`` and ``detail``.
    """

    kind: str = Field(pattern=rf"^{kinds.OWN_KIND.pattern}$")
    detail: str = ""

    @property
    def _detail(self) -> str:
        return self.detail


class UnknownCell(OwnCell):
    """A cell of a user-defined kind that this process has not imported: kept unchanged and counted, but not judged."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _finite(self) -> UnknownCell:
        for name, value in (self.model_extra or {}).items():
            kinds.require_finite(value, name)
        return self


_BuiltIn = Annotated[
    AccuracyCell
    | PerplexityCell
    | LatencyCell
    | UnitLatencyCell
    | MemoryCell
    | LayersCell
    | SensitivityCell
    | FisherCell
    | SearchCell
    | PlansCell
    | SlicesCell
    | TuningCell
    | DivergenceCell
    | DomainCell
    | ReleaseCell
    | DuetCell
    | InstructionsCell
    | FailedCell,
    Field(discriminator="kind"),
]


class _Open:
    """Validates a cell by its kind: built in, registered, or an unknown kind of the form ``owner.name``."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _by_kind, handler.generate_schema(_BuiltIn), serialization=core_schema.simple_ser_schema("any")
        )


def _by_kind(value: Any, built_in: Callable[[Any], Any]) -> Any:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if isinstance(value, OwnCell):
        return value
    return (
        (kinds.registered(kind) or UnknownCell).model_validate(value) if isinstance(kind, str) and kinds.is_own(kind) else built_in(value)
    )


Cell = Annotated[_BuiltIn | OwnCell, _Open]
