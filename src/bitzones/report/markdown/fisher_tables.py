"""The section on the second-order screen: whether a few backward passes would have put the units in the measured order.

This module decides nothing: ranks and intervals are `decide.screen`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.plan_verdicts import FisherReading
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.tables import ABSENT, markdown, ratio, table
from bitzones.stats.correlation import MIN_PAIRS
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["screen"]


def screen(analysis: Analysis) -> str:
    """A row for each format and a sentence on where the two disagree; empty where one of them was not measured."""
    if not analysis.screen:
        return ""
    rows = [
        (
            item.format,
            str(item.units),
            "inconclusive" if item.spearman is None else ratio(item.spearman),
            ABSENT if item.median_ratio is None else f"{item.median_ratio:.2f}",
        )
        for item in analysis.screen
    ]
    noun = f"{analysis.granularity}s"
    head = ("format", noun, "Spearman [95%]", "median of screen / measured")
    text = (
        f"The fisher score of every {analysis.granularity}, a second-order estimate from "
        f"{analysis.profile.sensitivity.fisher_samples} sampled labels per token, against its measured KL on the same n = "
        f"{analysis.sequences} sequences. Spearman is 1 where both rank alike; "
        f"it needs {MIN_PAIRS} {noun} and {MIN_SEQUENCES} sequences, else: inconclusive. No plan here is made from the screen."
    )
    return "\n\n".join(("## Would a quick screen have ranked alike?", text, table(head, rows), "\n".join(_sentences(analysis))))


def _sentences(analysis: Analysis) -> Iterator[str]:
    for item in analysis.screen:
        if item.disagreements:
            yield f"- At {item.format} they disagree most on {_named(item)} (rank 1 is the most sensitive of {item.units})."
        else:
            yield f"- At {item.format} they rank all {item.units} {analysis.granularity}s alike."


def _named(item: FisherReading) -> str:
    return ", ".join(f"{markdown(at.unit)}: measured {at.exact_rank:g}, screen {at.fisher_rank:g}" for at in item.disagreements)
