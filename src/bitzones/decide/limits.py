"""What the data cannot tell, one sentence each, so that a reader does not have to know statistics to know where to stop.

Sentences come from the analysis alone. This module does not know which of them matter to whom: it leaves out nothing that applies. Task and
variant names stand in them as the run file has them: whoever shows a sentence escapes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.decide.analysis import Analysis
from bitzones.decide.zones import ranges
from bitzones.stats import ALPHA, MIN_SEQUENCES

__all__ = ["cannot_tell"]


def cannot_tell(analysis: Analysis) -> tuple[str, ...]:
    """Every limit that applies to this analysis."""
    return (*_sensitivity(analysis), *_plan(analysis), *_accuracy(analysis), *_missing(analysis))


def _sensitivity(analysis: Analysis) -> Iterator[str]:
    n = analysis.sequences
    if n < MIN_SEQUENCES:
        yield (
            f"Zones and the order of layers: cannot tell. The calibration set has {n} sequences, and below {MIN_SEQUENCES} resampling them "
            "understates how much the numbers vary."
        )
    tied = tuple(item.layer for item in analysis.ranking if item.told_from_next is False)
    if n >= MIN_SEQUENCES and tied:
        yield (
            f"The exact order of layers: layers {ranges(tied)} cannot be told from the next less sensitive one "
            f"(the paired 95% interval of the difference holds 0, n = {n} sequences)."
        )
    unmeasured = sorted({item.layer for item in analysis.sensitivity if item.kl is None})
    if unmeasured:
        yield f"Layers {ranges(tuple(unmeasured))}: at least one format could not be measured there, and the plan was not offered it."
    yield (
        f"Sensitivity on other text: it was measured on {analysis.tokens:,} tokens in {n} sequences from the train splits of the tasks, "
        "and the intervals cover the choice of such sequences only."
    )


def _plan(analysis: Analysis) -> Iterator[str]:
    yield "The plan's KL and accuracy as a whole: its KL is predicted as a sum of separate sensitivities and was not measured."
    yield (
        "Whether a SAFE layer does no harm: it is what the budget squeezes first, and what the whole plan does to accuracy was not "
        "measured."
    )
    told = [item for item in analysis.whole if item.ratio is not None]
    for item in told:
        if item.ratio is not None and not item.ratio.low <= 1 <= item.ratio.high:
            yield (
                f"How far that sum can be trusted: for {item.variant} the measured KL is {item.ratio.value:.2f} times the sum "
                f"(95% interval {item.ratio.low:.2f} to {item.ratio.high:.2f})."
            )
    if not told:
        yield "How far that sum can be trusted: no whole variant was measured beside its parts."


def _accuracy(analysis: Analysis) -> Iterator[str]:
    pairs = [(item, item.against) for item in analysis.accuracy if item.against is not None]
    for item, against in pairs:
        if against.verdict.word == "cannot tell":
            drop = against.smallest_drop
            could = f"{item.n} items show a loss of {drop:.1%} or more" if drop is not None else f"{item.n} items can show no loss"
            yield f"Whether {item.variant} is worse on {item.task}: {could} (80% power at the gains seen)."
    for item in analysis.accuracy:
        if item.variant == analysis.reference and item.above_chance_p >= ALPHA:
            yield f"Losses on {item.task}: the reference itself ({item.k}/{item.n}) is not above chance ({item.chance:.1%})."
    if len(pairs) > 1:
        yield (
            f"All {len(pairs)} verdicts on accuracy at once: each allows one false alarm in twenty, "
            "and they are not corrected for being several."
        )


def _missing(analysis: Analysis) -> Iterator[str]:
    for name, found in (
        ("accuracy", analysis.accuracy),
        ("latency", analysis.latency),
        ("memory", analysis.memory),
        ("activation and attention statistics", analysis.layers),
    ):
        if not found:
            yield f"Anything about {name}: the run holds no such cell."
    rounds = min((item.rounds for item in analysis.latency), default=MIN_SEQUENCES)
    if rounds < MIN_SEQUENCES:
        yield f"How much latency varies: {rounds} rounds are fewer than {MIN_SEQUENCES}, so its intervals are too narrow."
    if analysis.latency:
        yield "Latency elsewhere: the rounds come from one process on one machine, and their intervals cover no other."
    if analysis.failures:
        yield f"What {len(analysis.failures)} cells without a result would have shown; they are listed with their reasons."
    if analysis.layers:
        yield "Why a layer is sensitive: activation and attention statistics describe the reference, and no cause is claimed."
