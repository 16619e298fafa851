"""The cell of one variant on one domain: perplexity, and how far its predictions are from the reference's, window by window."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bitzones.schema.record import Count, Finite, Measured, NonNegative, Positive

__all__ = ["CHANGE_UNIT", "DomainCell"]

CHANGE_UNIT = 1e-4
"""Of a change of probability in `DomainCell.change_tokens`: a hundredth of a percentage point."""

Numbers = Annotated[str, Field(pattern=r"^[-+.e\d]+( [-+.e\d]+)*$")]


class DomainCell(Measured):
    """Predictions of a variant and of the reference on the same scored tokens of the windows of one domain.

    A window has ``window`` tokens, ``stride`` from the start of one to the next; its predictions from place ``context`` on are scored:
    ``scored_tokens`` of each. ``joined`` says whether windows are cut from all documents joined. All sums are over the scored tokens of
    each window: ``nll_nats`` and ``reference_nll_nats`` are negative log-likelihoods of the tokens that follow, ``nll_squares`` (of the
    variant, of the reference, of both multiplied) what their correlation takes; ``kl_nats`` is KL(reference || variant); ``same_top``
    counts tokens of which both find the same one most likely; ``change`` and ``change_squares`` are the probability that the variant gives
    the token that follows, minus that of the reference. ``kl_tokens`` and ``change_tokens`` hold the same KL and change token by token,
    in decimal with one space between: KL in nats to three significant digits, change in units of `CHANGE_UNIT`.
    """

    kind: Literal["domain"] = "domain"
    domain: str
    sequences_sha256: str
    window: Positive
    stride: Positive
    context: Count
    joined: bool
    scored_tokens: tuple[Positive, ...] = Field(min_length=1)
    nll_nats: tuple[NonNegative, ...]
    reference_nll_nats: tuple[NonNegative, ...]
    nll_squares: tuple[tuple[NonNegative, NonNegative, NonNegative], ...]
    kl_nats: tuple[NonNegative, ...]
    same_top: tuple[Count, ...]
    change: tuple[Finite, ...]
    change_squares: tuple[NonNegative, ...]
    kl_tokens: tuple[Numbers, ...]
    change_tokens: tuple[Numbers, ...]

    @property
    def sequence_tokens(self) -> tuple[int, ...]:
        """What other cells of KL call the scored tokens of each sequence."""
        return self.scored_tokens

    @property
    def _detail(self) -> str:
        return self.domain

    @model_validator(mode="after")
    def _same_windows(self) -> DomainCell:
        sums = ("nll_nats", "reference_nll_nats", "nll_squares", "kl_nats", "same_top", "change", "change_squares")
        for name in (*sums, "kl_tokens", "change_tokens"):
            if len(getattr(self, name)) != len(self.scored_tokens):
                raise ValueError(f"{name} and scored_tokens differ in length")
        for name in ("kl_tokens", "change_tokens"):
            if [text.count(" ") + 1 for text in getattr(self, name)] != list(self.scored_tokens):
                raise ValueError(f"{name} holds another number of tokens than are scored")
        if any(same > tokens for same, tokens in zip(self.same_top, self.scored_tokens, strict=True)):
            raise ValueError("same_top counts more tokens than are scored")
        return self
