"""The section on the Fisher proxy: whether a few backward passes rank the units as the sweep does."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.plan_verdicts import FisherReading
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.tables import ABSENT, markdown, ratio, table
from bitzones.stats.correlation import MIN_PAIRS
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["fisher_proxy"]


def fisher_proxy(analysis: Analysis) -> str:
    """A row per format and a sentence on the largest disagreements; empty where either was not measured."""
    if not analysis.fisher_proxy:
        return ""
    rows = [
        (
            item.format,
            str(item.units),
            "inconclusive" if item.spearman is None else ratio(item.spearman),
            ABSENT if item.median_ratio is None else f"{item.median_ratio:.2f}",
        )
        for item in analysis.fisher_proxy
    ]
    noun = f"{analysis.granularity}s"
    head = ("format", noun, "Spearman [95%]", "median proxy / measured")
    text = (
        f"The Fisher score of every {analysis.granularity}, a second-order estimate from "
        f"{analysis.profile.sensitivity.fisher_samples} sampled labels per token, against its measured KL on the same n = "
        f"{analysis.sequences} sequences. Spearman is 1 if both rank alike, and needs {MIN_PAIRS} {noun} and {MIN_SEQUENCES} sequences. "
        "No plan uses the Fisher proxy."
    )
    return "\n\n".join(("## Fisher proxy", text, table(head, rows), "\n".join(_sentences(analysis))))


def _sentences(analysis: Analysis) -> Iterator[str]:
    for item in analysis.fisher_proxy:
        if item.disagreements:
            yield f"- At {item.format} they disagree most on {_named(item)} (rank 1 of {item.units} is the most sensitive)."
        else:
            yield f"- At {item.format} they rank all {item.units} {analysis.granularity}s alike."


def _named(item: FisherReading) -> str:
    return ", ".join(f"{markdown(at.unit)}: measured rank {at.exact_rank:g}, proxy rank {at.fisher_rank:g}" for at in item.disagreements)
