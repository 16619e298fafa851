"""Whole plans: how one was searched on the sensitivity set, and how plans compare on the held-out set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bitzones.schema.record import Count, Measured, NonNegative, Record
from bitzones.schema.sensitivity_cells import UnitSensitivity

__all__ = ["NamedTrial", "PlanOrigin", "PlansCell", "SearchCell", "SearchRound", "Trial"]


class Trial(Record):
    """A measured whole plan: ``units`` maps a unit to its format; ``kl_nats`` is per sequence, null if logits were NaN or infinite."""

    units: dict[str, str]
    stored_bytes: Count
    kl_nats: tuple[NonNegative, ...] | None


class SearchRound(Record):
    """One sweep around the current plan, the plans proposed from it, and the index of the accepted one, if any."""

    around: tuple[UnitSensitivity, ...]
    trials: tuple[Trial, ...]
    accepted: Count | None

    @model_validator(mode="after")
    def _accepted_is_there(self) -> SearchRound:
        if self.accepted is not None and self.accepted >= len(self.trials):
            raise ValueError(f"trial {self.accepted} was accepted, and there are {len(self.trials)}")
        return self


class SearchCell(Measured):
    """The search for the plan on the sensitivity set: it measures whole plans, starting from ``start``, the plan of separate sensitivities.

    ``tolerance_nats`` is a KL budget, summed over all sequences, for which the fewest bytes were searched; null for other budgets.
    ``budget_bytes`` is the budget, or the bytes of the plan found for a KL budget. ``budget_ns`` is a budget of time: the most that the
    products of all units may take in a decode step, by `UnitLatencyCell`; ``budget_bytes`` is then the size of the largest plan. ``around``
    is the last sweep if it belongs to no round: a last round that accepted nothing already swept around the plan found.
    """

    kind: Literal["search"] = "search"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    budget_bytes: Count
    tolerance_nats: NonNegative | None = None
    budget_ns: Count | None = None
    start: Trial
    rounds: tuple[SearchRound, ...]
    around: tuple[UnitSensitivity, ...] | None = None

    @property
    def limit(self) -> int:
        """The budget in its own unit: nanoseconds or bytes."""
        return self.budget_bytes if self.budget_ns is None else self.budget_ns

    @property
    def around_found(self) -> tuple[UnitSensitivity, ...] | None:
        """The sweep around the plan that was found; None if there is none."""
        return self.rounds[-1].around if self.rounds and self.rounds[-1].accepted is None else self.around

    @property
    def found(self) -> Trial:
        """The plan that was found."""
        accepted = [item.trials[item.accepted] for item in self.rounds if item.accepted is not None]
        return accepted[-1] if accepted else self.start

    @model_validator(mode="after")
    def _consistent(self) -> SearchCell:
        trials = [self.start, *(trial for item in self.rounds for trial in item.trials)]
        if any(trial.kl_nats is not None and len(trial.kl_nats) != len(self.sequence_tokens) for trial in trials):
            raise ValueError("a trial has another number of sequences than the cell")
        return self


PlanOrigin = Literal["search", "additive", "uniform", "contiguous", "random", "frontier", "foreign", "stock", "separate", "tuned", "slice"]

Rounded = Literal["alone", "in sequence", "tuned"]


class NamedTrial(Trial):
    """A whole plan with a name and an origin; ``rounded`` says how its calibrated formats were rounded, null if it has none.

    ``in sequence`` is layer by layer, as a plan is applied; ``alone`` is each module as if it were the only change; ``tuned`` is a
    plan whose scales and shifts were trained afterwards.
    """

    name: str
    origin: PlanOrigin
    rounded: Rounded | None = None


class PlansCell(Measured):
    """Whole plans side by side on the held-out set, which no plan was made from; budgets as in `SearchCell`."""

    kind: Literal["plans"] = "plans"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    passed_over: Count = 0
    budget_bytes: Count
    budget_ns: Count | None = None
    plans: tuple[NamedTrial, ...] = Field(min_length=1)

    def best_of(self, origin: str) -> NamedTrial | None:
        """The plan of an origin with the least measured KL; None if none was measured."""
        found = [plan for plan in self.plans if plan.origin == origin and plan.kl_nats is not None]
        return min(found, key=lambda plan: sum(plan.kl_nats or ()), default=None)

    @model_validator(mode="after")
    def _consistent(self) -> PlansCell:
        names = [plan.name for plan in self.plans]
        if len(set(names)) < len(names):
            raise ValueError("a plan's name occurs twice")
        for plan in self.plans:
            if plan.kl_nats is not None and len(plan.kl_nats) != len(self.sequence_tokens):
                raise ValueError(f"{plan.name} has {len(plan.kl_nats)} sequences, the cell has {len(self.sequence_tokens)}")
        return self
