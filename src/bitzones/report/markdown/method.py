"""The methodology section: how each number came about and by which formula, so that a reader can check or repeat it.

This module does not know the numbers, only the settings that made them.
"""

from __future__ import annotations

from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES
from bitzones.analysis.plan_ranking import HELD_OUT_SEED
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.tables import markdown
from bitzones.schema.profile import is_calibrated
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, NON_INFERIORITY_MARGIN, POWER

__all__ = ["methodology"]


def methodology(analysis: Analysis) -> str:
    """How it was measured and decided."""
    text = f"""\
- Variants are whole models really quantized by optimum-quanto to {", ".join(analysis.formats)}, each from a fresh copy of the \
{analysis.reference} model.
{_calibrated(analysis)}{_sweep(analysis)}\
- Accuracy: Wilson 95% interval; chance is the mean over items, each with its own. Against the reference by McNemar's exact test on the \
same items at {ALPHA:.0%}, p-values corrected for the variants of a task and metric (Holm 1979). 'No worse within X' is said only where \
the 95% interval (Bonett and Price 2012) excludes a loss above {NON_INFERIORITY_MARGIN:.0%}; the minimum detectable effect is for {POWER:.0%} power \
(Connor 1987) in the first step of Holm's method.
- Likelihood of right answers: nats per answer token, percentile bootstrap over items, {INTERVAL_RESAMPLES} resamples, seed \
{analysis.profile.seed}, differences paired; p-values from the same resamples, so never below 1 in 1,000, corrected \
alike. Below {MIN_SEQUENCES} items: inconclusive.
- Latency: raw rounds after warm-up; median, quartiles and 95th percentile; ratio of medians with a bootstrap interval over rounds.
- Stored bytes: packed data, scales and shifts, read off the tensors, never bits times parameters."""
    if analysis.foreign_benchmarks:
        text += f"\n- {analysis.foreign_benchmarks} other benchmarks in the run file are not of bitzones and were not read."
    return f"## Method\n\n{text}"


def _sweep(analysis: Analysis) -> str:
    """How sensitivity became a plan; empty where none was measured."""
    if not analysis.sensitivity:
        return ""
    profile, zones = analysis.profile, analysis.profile.zones
    resamples = max(INTERVAL_RESAMPLES, zones.resamples)
    return f"""\
- Sensitivity of a {analysis.granularity} at a format is KL(reference || model with only that {analysis.granularity} quantized), in nats \
per scored token, over all {analysis.tokens:,} tokens of {analysis.sequences} sensitivity sequences, padding excluded.
- Intervals of KL: percentile bootstrap over sequences, {resamples} resamples, seed {profile.seed}; all units, plans and variants are \
resampled alike, so differences are paired. Below {MIN_SEQUENCES} sequences: inconclusive.
- Plan: least sum of KL within the byte budget, an exact multiple-choice knapsack (a Lagrangian bound, then scipy.optimize.milp). A unit \
may stay at the reference; a format that failed on a unit is not offered to it.
- Zones: the plan is solved again on {zones.resamples} of those resamples; a layer's zone is what at least {zones.agreement:.0%} of them \
agree on. {_zone_costs(analysis)}
{_whole_plans(analysis)}"""


def _calibrated(analysis: Analysis) -> str:
    """How calibrated formats came by their integers; empty where there is none."""
    if not any(map(is_calibrated, analysis.formats)) or analysis.rounding is None:
        return ""
    made = analysis.rounding
    fallbacks = [f"{markdown(variant)} {len(found)}" for variant, found in made.fallbacks.items()]
    short = f" Modules with too few tokens, which have quanto's own integers: {', '.join(fallbacks)}." if fallbacks else ""
    return (
        f"- Calibrated formats (gptq): rounded with error feedback (Frantar et al. 2022, arXiv:2210.17323) on {made.tokens:,} tokens of "
        f"{made.sequences} sequences ({made.sequences_sha256[:16]}) that nothing else is measured on, damping {made.damping:g}; "
        "stored as quanto stores its own. For a sensitivity each module is rounded on the reference's activations; variants and the plan "
        "are rounded layer after layer on the activations of the layers before, 0.3 of the way back towards the reference's outputs "
        f"(Li et al. 2025, arXiv:2504.02692), and so are the plan of least sum and those of other budgets; rules and random plans have "
        f"their modules rounded alone, and are compared with the searched plan rounded so too.{short}\n"
    )


def _zone_costs(analysis: Analysis) -> str:
    if analysis.decision is None or analysis.decision.around == "reference":
        return "These plans are of least sum of the separate sensitivities."
    return (
        "A format's cost is the KL of the plan found with that unit changed less that of the plan found, on the same sequences, and can "
        "be negative; the reference is not tried around a plan, so a unit leaves it or stays; every "
        "change costs the least price besides at which the plan found is the best one from all sequences (Dinkelbach "
        "1967): the search measured what bolder plans bring, and it was less than their changes promise one by one."
    )


def _whole_plans(analysis: Analysis) -> str:
    """How plans were searched, proxy_scores and compared; a line for each that was done."""
    text = ""
    if analysis.search is not None:
        text += (
            "- Search: from the plan of least sum. Around the plan at hand each unit is tried in each other format, all others as "
            "they are; "
            "the knapsack proposes plans from these marginal costs, bold to timid; the one of least measured KL is accepted if that "
            "is below "
            "the KL at hand. Calibration sequences only.\n"
        )
    if analysis.plans is not None:
        text += (
            f"- Whole plans: measured on held-out sequences, percentile bootstrap of their own over them, seed "
            f"{analysis.profile.seed + HELD_OUT_SEED}; comparisons are paired, a word other than 'inconclusive' needs the 95% interval "
            "of the "
            "difference to exclude 0, and no correction is made for their number. Measured / sum: the two sets of sequences are resampled "
            "apart. Another plan is recommended instead of the searched one only where it is told to be better.\n"
        )
    if analysis.screen:
        text += (
            "- Second order: mean(a^2) / 2 per sequence over sampled labels, a = sum(gradient * change) with random signs per token "
            "(Fisher "
            "information; Kullback 1959); of a plan, a is the sum over its units. Rank correlation with both sides resampled (Bonett and "
            "Wright 2000).\n"
        )
    return text
