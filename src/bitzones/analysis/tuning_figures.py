"""What tuning a plan bought: records of `bitzones.analysis.results.Analysis`."""

from __future__ import annotations

from bitzones.analysis.domain_figures import DomainWord
from bitzones.analysis.plan import Decided
from bitzones.schema.tuning_cells import TunedWeights
from bitzones.stats.intervals import Estimate

__all__ = ["TuningGain", "TuningReading"]


class TuningGain(Decided):
    """KL before and after on one kind of text, nats per token, and their paired difference: below 0 tuning helped."""

    text: str
    """A domain, or ``held out``."""
    tuned_on: bool
    """Whether the tuning set has documents of its source."""
    unseen: bool
    """Whether no set of the run has any."""
    n: int
    """Windows or sequences."""
    before: Estimate
    after: Estimate
    difference: Estimate
    word: DomainWord
    """Verdict on the tuned plan; not inconclusive only if the paired 95% interval excludes 0."""

    @property
    def share(self) -> float:
        """Change as a share of the KL before."""
        return self.difference.value / self.before.value if self.before.value else 0.0


class TuningReading(Decided):
    """The tuning of a run's plan."""

    weights: TunedWeights
    parameters: int
    """Numbers that were trained."""
    validation: TuningGain
    """On the validation split, which chose the state and so flatters it."""
    gains: tuple[TuningGain, ...]
    """On text that neither training nor early stopping saw: the held-out set, and every domain."""

    @property
    def on_unseen(self) -> tuple[TuningGain, ...]:
        """Gains on domains that no set of the run has any text of."""
        return tuple(item for item in self.gains if item.unseen)

    @property
    def one_sided(self) -> bool:
        """Whether tuning helps on text of the kinds that it was tuned on, and harms on an unseen kind."""
        helps = any(item.tuned_on and item.word == "better" for item in self.gains)
        return helps and any(item.word == "worse" for item in self.on_unseen)
