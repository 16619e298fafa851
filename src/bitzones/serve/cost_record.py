"""cost.json: what a bundle was measured to cost, and to gain over one plan that takes the same memory."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from bitzones.schema.record import Count, NonNegative, Positive, Record
from bitzones.stats.intervals import ALPHA, Estimate, Interval
from bitzones.stats.verdicts import Verdict

__all__ = ["COST_FILE", "BundleCost", "OnePlan", "Switching", "TaskAccuracy", "TaskCost", "Worth"]

COST_FILE = "cost.json"

Worth = Literal["worth it", "not worth it", "inconclusive"]


_WORDS: dict[Worth, str] = {"worth it": "yes", "not worth it": "no", "inconclusive": "inconclusive"}


class Switching(Record):
    """Seconds of changes from one plan to another, on an idle machine; ``modules`` is the most that one of them changed."""

    n: Positive
    median_s: NonNegative
    p99_s: NonNegative
    modules: Count


class OnePlan(Record):
    """The plan that was searched for the memory of the whole bundle. ``formats`` counts units."""

    budget_bytes: Positive
    stored_bytes: Positive
    average_bits: NonNegative
    formats: dict[str, Positive]


class TaskAccuracy(Record):
    """Right answers of the bundle's task and of the one plan, to the same ``n`` items.

    ``lost`` items are right with the one plan and wrong with the task's; ``gained`` the reverse.
    """

    metric: str
    n: Positive
    task: Interval
    one_plan: Interval
    base: Interval
    lost: Count
    gained: Count
    verdict: Verdict
    """On the task's plan against the one plan; its p-value is corrected for all tests of the bundle."""


class TaskCost(Record):
    """Quality of one task's plan on its own task: KL to the reference in nats per token, on ``sequences`` of its test split."""

    name: str
    sequences: Positive
    tokens: Positive
    sequences_sha256: str
    kl: Estimate
    kl_one_plan: Estimate
    kl_base: Estimate
    kl_difference: Estimate
    """The task's plan minus the one plan, paired by sequence: below 0 where the bundle is better."""
    kl_p: NonNegative
    """Of no difference, corrected for all tests of the bundle."""
    accuracy: TaskAccuracy | None

    @property
    def better(self) -> bool:
        """Whether some measure is told better than the one plan's."""
        return (self.kl_p < ALPHA and self.kl_difference.value < 0) or (
            self.accuracy is not None and self.accuracy.verdict.word == "better"
        )

    @property
    def worse(self) -> bool:
        """Whether some measure is told worse."""
        return (self.kl_p < ALPHA and self.kl_difference.value > 0) or (self.accuracy is not None and self.accuracy.verdict.word == "worse")


class BundleCost(Record):
    """All that was measured. Bytes: ``resident`` in memory in ``dtype``, ``stored`` of the modules that plans decide about, as in files."""

    format: Literal["bitzones-bundle-cost"] = "bitzones-bundle-cost"
    schema_number: Literal[1] = Field(default=1, alias="schema")
    bitzones: str
    bundle_sha256: str
    run_sha256: str
    device: str
    threads: Positive
    dtype: str
    resident_bytes: Positive
    base_resident_bytes: Positive
    stored_bytes: Positive
    base_stored_bytes: Positive
    switching: Switching
    tokens_per_s: dict[str, NonNegative]
    """Plan -> tokens that greedy generation writes per second, one sequence at a time: a median. ``one plan`` is among them."""
    one_plan: OnePlan
    tasks: tuple[TaskCost, ...] = Field(min_length=1)
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @property
    def worth(self) -> Worth:
        """``worth it`` where some task is told better than with the one plan and none is told worse; ``not worth it`` where some is told
        worse and none better; else the data do not tell, or tell both."""
        better, worse = any(task.better for task in self.tasks), any(task.worse for task in self.tasks)
        if better and not worse:
            return "worth it"
        return "not worth it" if worse and not better else "inconclusive"

    def lines(self) -> list[str]:
        """The last lines on the screen."""
        switching, more = self.switching, self.resident_bytes - self.base_resident_bytes
        return [
            f"Memory: {self.resident_bytes / 1e6:.3f} MB resident, {more / 1e6:.3f} MB more than the base alone",
            f"Switch: median {switching.median_s * 1e6:.1f} us, 99th percentile {switching.p99_s * 1e6:.1f} us, n = {switching.n:,}",
            *(
                f"Task {task.name}: KL {task.kl.value:.3g} nats/token with its plan, {task.kl_one_plan.value:.3g} with one plan of the "
                f"same memory (p = {task.kl_p:.2g}), {task.kl_base.value:.3g} with the base; n = {task.sequences} sequences"
                for task in self.tasks
            ),
            f"Worth it, against one plan of the same memory ({self.one_plan.average_bits:.2f} bits)? {_WORDS[self.worth]}: see README.md",
        ]
