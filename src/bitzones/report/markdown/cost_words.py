"""Slow paths, budgets and layer descriptions in words, for tables, charts and the terminal."""

from __future__ import annotations

from bitzones.analysis.attention import CONCENTRATED, FLAT
from bitzones.analysis.plan import PlanBudget
from bitzones.analysis.results import LayerReading, SlowPath

__all__ = ["budget_words", "layer_description", "slow_path_words"]


def slow_path_words(found: SlowPath, reference: str) -> str:
    """Why a variant is slower, as plain text; kernel names stand in it as the run file has them."""
    slower = f"{found.times:.1f}x slower per token than {reference}"
    if found.code == "unpacked":
        return f"no fused kernel ({found.modules} of {found.of} modules unpack their weights at every product): {slower}"
    return f"slow kernel ({', '.join(found.kernels)}): {slower}"


def budget_words(budget: PlanBudget) -> str:
    """The limit that a budget sets.

    >>> budget_words(PlanBudget(average_bits=3.0, stored_bytes=100))
    '3 average bits'
    """
    return f"{budget.average_bits:.4g} average bits" if budget.latency is None else f"{budget.latency.share:.3g} of the reference's time"


def layer_description(item: LayerReading) -> str:
    """What the statistics of a layer describe, clause by clause."""
    words = [_concentration(item), _focus(item)] if item.statistics.attention else ["attention not measured"]
    if item.outliers:
        words.append(f"outliers in the output (kurtosis {item.statistics.kurtosis:.3g}, peak {item.statistics.peak:.3g})")
    return "; ".join(words)


def _concentration(item: LayerReading) -> str:
    assert item.statistics.attention is not None
    value = f"specialization {item.statistics.attention.head_specialization:.2f}"
    if item.concentration == "concentrated":
        return f"heads concentrate on few positions ({value}, at least {CONCENTRATED:g})"
    if item.concentration == "even":
        return f"heads attend nearly evenly ({value}, at most {FLAT:g})"
    return f"heads attend broadly ({value}, between {FLAT:g} and {CONCENTRATED:g})"


def _focus(item: LayerReading) -> str:
    attention = item.statistics.attention
    assert attention is not None
    if attention.reasoning_focus is None:
        return "no focus on the question: no sequence has one"
    value = f"focus on the question {attention.reasoning_focus:.2f}"
    if item.typical_focus is None or item.focus == "no yardstick":
        return f"{value}, with too few layers or sequences to compare"
    typical = f"the median layer's {item.typical_focus:.2f}"
    return f"{value}, not told from {typical}" if item.focus == "not told" else f"{value}, {item.focus} {typical}"
