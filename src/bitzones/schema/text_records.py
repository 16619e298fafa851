"""What a run file says of the text that was read: for every source of a set, where it came from, its hash, its license and its size."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TextPart"]

Count = Annotated[int, Field(ge=0, le=2**60)]
Positive = Annotated[int, Field(ge=1, le=2**60)]


class TextPart(BaseModel):
    """What one source gave a set or a domain.

    ``origin`` says where the documents came from; ``sha256`` is of those used, in order. ``share`` is the share of the set's tokens that
    the profile asked for. ``passed_over`` counts documents that were read and not used, by reason: none is in two sets. ``license`` is
    the profile's note, or what the data set's card says; null where neither says anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    origin: str
    share: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    documents: Positive
    sequences: Positive
    tokens: Positive
    passed_over: dict[str, Count] = {}
    sha256: str
    license: str | None = None
