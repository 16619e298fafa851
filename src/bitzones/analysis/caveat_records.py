"""What the data of a run do not show, as codes with numbers; `bitzones.report.markdown.caveat_words` words them."""

from __future__ import annotations

from typing import Literal

from bitzones.analysis.plan import Decided
from bitzones.stats.intervals import Estimate

__all__ = ["Caveat", "CaveatCode"]

CaveatCode = Literal[
    "no_plan",
    "layers_not_swept",
    "not_quantizable",
    "modules_stay",
    "few_sensitivity_sequences",
    "layer_order",
    "layers_not_measured",
    "other_text_sensitivity",
    "plan_kl_not_measured",
    "plan_accuracy_not_measured",
    "plan_not_measured",
    "safe_layers_not_tested",
    "safe_layers_tested_together",
    "sum_is_off",
    "sum_not_checked",
    "search_not_held_out",
    "few_held_out_sequences",
    "plans_not_told_apart",
    "other_text_held_out",
    "many_comparisons",
    "random_plans",
    "search_not_exhaustive",
    "fisher_order",
    "accuracy_change",
    "reference_at_chance",
    "likelihood_change",
    "many_families",
    "kind_not_measured",
    "static_cache_refused",
    "few_rounds",
    "one_process",
    "cells_failed",
    "no_cause",
]
"""One code for each question that stays open."""


class Caveat(Decided):
    """One question that these data leave open. A field that a code does not use is null or empty."""

    code: CaveatCode
    n: int | None = None
    """Size of the sample behind it: sequences, items or rounds."""
    count: int | None = None
    """How many: tokens (other_text_sensitivity), parameters (not_quantizable), modules (modules_stay), comparisons, plans, cells."""
    layers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    """Variants, plans, formats, a module class or a kind of cell, as the run file spells them; format, module, reason (modules_stay);
    reasons (static_cache_refused)."""
    task: str | None = None
    metric: str | None = None
    effect: float | None = None
    """The minimum detectable effect, a share (accuracy_change); null where no loss can be detected."""
    ratio: Estimate | None = None
    """Measured KL by the sum of separate sensitivities (sum_is_off)."""
    right: int | None = None
    """Items that the reference has right (reference_at_chance)."""
    chance: float | None = None
    """Expected share right by guessing (reference_at_chance)."""
