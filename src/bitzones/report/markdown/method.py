"""The section on methods: how each number was computed, with formula and source, so that a reader can check or repeat it."""

from __future__ import annotations

from bitzones.analysis.domains import DOMAIN_SEED
from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES
from bitzones.analysis.plan_ranking import HELD_OUT_SEED
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.tables import markdown
from bitzones.schema.formats import Format, is_calibrated
from bitzones.stats.clustered_quantiles import LEAST_BEYOND
from bitzones.stats.intervals import ALPHA, CONFIDENCE, MIN_SEQUENCES
from bitzones.stats.significance import POWER
from bitzones.stats.verdicts import NON_INFERIORITY_MARGIN

__all__ = ["methodology"]


def methodology(analysis: Analysis) -> str:
    """The section."""
    text = f"""\
- Variants are whole models quantized to {", ".join(analysis.formats)}, each from a fresh copy of the {analysis.reference} \
model{_backends(analysis)}.
{_calibrated(analysis)}{_sweep(analysis)}{_by_domain(analysis)}\
- Accuracy: Wilson 95% interval; chance is the mean of the items' chances. Compared with the reference by McNemar's exact test on the \
same items at {ALPHA:.0%}, p-values corrected for the variants of a task and metric (Holm 1979). 'Non-inferior (margin X)' requires the \
95% interval (Bonett and Price 2012) to exclude a loss above {NON_INFERIORITY_MARGIN:.0%}, \
'equivalent' a gain above it too (two one-sided tests, Schuirmann 1987); the minimum detectable effect is for \
{POWER:.0%} power (Connor 1987) in the first step of Holm's method.
- Likelihood of right answers: nats per answer token, percentile bootstrap over items, {INTERVAL_RESAMPLES} resamples, seed \
{analysis.profile.seed}, differences paired; p-values from the same resamples, so at least 0.001, corrected \
in the same way. Below {MIN_SEQUENCES} items: inconclusive.
- Latency: raw rounds after warm-up; median, quartiles and 95th percentile; ratio of medians with a bootstrap interval over rounds.
- Stored bytes: packed data, scales and shifts, read off the tensors, never bits times parameters."""
    if analysis.foreign_benchmarks:
        text += f"\n- {analysis.foreign_benchmarks} benchmarks in the run file are not bitzones cells and were ignored."
    return f"## Method\n\n{text}"


def _backends(analysis: Analysis) -> str:
    """Who computed: quanto's kernels, or for formats of other engines torch, with the values that their weights stand for."""
    names = list(dict.fromkeys(Format.of(name).backend for name in analysis.formats))
    elsewhere = [name for name in names if name != "quanto"]
    own = ", by optimum-quanto" if "quanto" in names else ""
    if not elsewhere:
        return own
    return (
        f"{own}. Formats of {' and '.join(elsewhere)} are measured by the values that their weights stand for; they run in another engine"
    )


def _by_domain(analysis: Analysis) -> str:
    """How perplexity and divergence by domain were measured; empty where they were not."""
    if analysis.domains is None:
        return ""
    return f"""\
- Domains: text is cut into windows, and predictions from place 'context' of a window on are scored, the last excepted: by default the \
second half, as llama-perplexity scores it. Perplexity is exp of the mean negative log-likelihood of all scored tokens, KL is over the \
whole vocabulary. Intervals, and p-values of a change of perplexity, by bootstrap over windows, {INTERVAL_RESAMPLES} resamples, seed \
{analysis.profile.seed + DOMAIN_SEED}; p-values corrected for the variants of a domain (Holm 1979). Quantiles over tokens have an interval \
where {LEAST_BEYOND} tokens or more lie beyond them.
"""


def _sweep(analysis: Analysis) -> str:
    """From sensitivity to plan; empty where none was measured."""
    if not analysis.sensitivity:
        return ""
    profile, zones = analysis.profile, analysis.profile.zones
    resamples = max(INTERVAL_RESAMPLES, zones.resamples)
    return f"""\
- Sensitivity of a {analysis.granularity} at a format is KL(reference || model with only that {analysis.granularity} quantized), in nats \
per scored token, over all {analysis.tokens:,} tokens of {analysis.sequences} sensitivity sequences, padding excluded.{_effort(analysis)}
- Intervals of KL: percentile bootstrap over sequences, {resamples} resamples, seed {profile.seed}; all units, plans and variants share \
the resamples, so differences are paired. Below {MIN_SEQUENCES} sequences: inconclusive.
- Additive plan: lowest sum of KL within the byte budget, an exact multiple-choice knapsack (Lagrangian bound, then \
scipy.optimize.milp). A unit may stay at the reference; a format that failed on a unit is not offered to it.
- Zones: the plan is solved again on {zones.resamples} of those resamples; a layer's zone is what at least {zones.agreement:.0%} of them \
agree on. {_zone_costs(analysis)}
{_whole_plans(analysis)}"""


def _effort(analysis: Analysis) -> str:
    """What an adaptive sweep saved and can cost, in one line; empty of a full one."""
    if (made := analysis.effort) is None:
        return ""
    share = "" if made.regret_share is None else f" ({made.regret_share:.2%} of its summed KL)"
    return (
        f"\n- Adaptive effort: {1 - made.measured_share:.0%} of the sweep was saved. {made.partial} of {made.options} options were "
        f"measured on some sequences only, {made.fewest} or more, as many as plan and zones needed; the others are estimated by "
        "regression on their length, the KL of the whole model in that format and that of a neighboring unit. With "
        f"{CONFIDENCE:.0%} confidence the additive plan costs at most {made.regret:.2g} nats/token{share} more than a full sweep's."
    )


def _calibrated(analysis: Analysis) -> str:
    """How calibrated formats were rounded; empty where there is none."""
    if not any(map(is_calibrated, analysis.formats)) or analysis.calibration is None:
        return ""
    made = analysis.calibration
    fallbacks = [f"{markdown(variant)} {len(found)}" for variant, found in made.fallbacks.items()]
    short = f" Modules with too few tokens, rounded without calibration: {', '.join(fallbacks)}." if fallbacks else ""
    return (
        f"- Calibrated formats: gptq is rounded with error feedback (Frantar et al. 2022, arXiv:2210.17323) on {made.tokens:,} tokens of "
        f"{made.sequences} sequences ({made.sequences_sha256[:16]}) used for nothing else, damping {made.damping:g}; "
        "stored in the format's own layout. For sensitivities, each module is rounded on the reference's activations. Variants, the plan, "
        "the "
        "additive plan and plans at other budgets are rounded layer by layer on the quantized model's activations, moved 0.3 of the way "
        "to the reference's outputs (Li et al. 2025, arXiv:2504.02692). Other plans are rounded module by module and compared with the "
        f"searched plan rounded the same way.{short}\n"
    )


def _zone_costs(analysis: Analysis) -> str:
    if analysis.decision is None or analysis.decision.around == "reference":
        return "These plans minimize the sum of separate sensitivities."
    return (
        "The cost of a format is the KL of the searched plan with that one unit changed minus that of the plan, on the same sequences; "
        "it can be negative. The reference is not tried around a plan. Each change also costs a fixed price, the least at which the "
        "searched plan is optimal on all sequences (Dinkelbach 1967), because plans with many changes measured worse than the sum of "
        "their changes."
    )


def _whole_plans(analysis: Analysis) -> str:
    """How plans were searched and compared, and the Fisher proxy computed; a line for each that was done."""
    text = ""
    if analysis.search is not None:
        text += (
            "- Search: starts from the additive plan. Each unit is tried in every other format with all other units unchanged; the "
            "knapsack proposes plans from these marginal costs, from many changes to few; the plan with the lowest measured KL is "
            "accepted if it improves on the current one. Uses the sensitivity set only.\n"
        )
    if analysis.plans is not None:
        text += (
            f"- Whole plans: measured on held-out sequences, percentile bootstrap over these, seed "
            f"{analysis.profile.seed + HELD_OUT_SEED}. Comparisons are paired; a verdict other than 'inconclusive' needs a 95% interval of "
            "the difference that excludes 0, without correction for the number of comparisons. KL / sum: the two sets of sequences are "
            "resampled independently. Another plan replaces the searched one only if it is better by this rule.\n"
        )
    if analysis.fisher_proxy:
        text += (
            "- Second order: mean(a^2) / 2 per sequence over sampled labels, a = sum(gradient * change) with random signs per token "
            "(Fisher information; Kullback 1959); for a plan, a is the sum over its units. Rank correlation with both sides resampled "
            "(Bonett and Wright 2000).\n"
        )
    return text
