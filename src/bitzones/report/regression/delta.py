"""A comparison as GitHub Markdown that reads well in a pull request: the answer first, what changed next, everything else folded away.

This module decides nothing: words and numbers are `decide.compare`'s. Every string of a run file is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from bitzones.analysis.zones import ranges
from bitzones.regression.comparison import STATUSES, CellDelta, Comparison, Metric, Side, Status
from bitzones.regression.drift import MIN_FREEDOM
from bitzones.regression.gate import CANNOT_COMPARE, OPEN, REGRESSION
from bitzones.report.markdown.tables import (
    ABSENT,
    details,
    markdown,
    megabytes,
    milliseconds,
    more_nats,
    nats,
    p_value,
    percent,
    plain,
    table,
)
from bitzones.schema.profile import Gate
from bitzones.stats.intervals import Estimate

__all__ = ["delta", "delta_json", "delta_lines", "every", "judged", "metrics_table", "telling"]

SHOWN: tuple[Status, ...] = ("failed", "missing", "worse", "inconclusive", "better", "new")
"""What stands above the fold; ``same`` and ``incomparable`` do not."""

LONGEST_TABLE = 40
"""Rows above the fold: a longer table hides what follows it; the rest is below."""

ANSWERS = {OPEN: "no regression", REGRESSION: "regression", CANNOT_COMPARE: "cannot compare"}
HEAD = ("cell", "", "metric", "old", "new", "change", "n", "p")


def delta(comparison: Comparison, code: int) -> str:
    """The whole text."""
    return "\n\n".join([*_top(comparison, code), *_folds(comparison)]) + "\n"


def delta_json(comparison: Comparison) -> str:
    """The same for machines."""
    return json.dumps(comparison.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def delta_lines(comparison: Comparison, code: int) -> list[str]:
    """The answer for a terminal: one line, and one for each cell that is gone or worse."""
    lines = [f"{ANSWERS[code]}: {_counts(comparison)}"]
    for cell in comparison.cells:
        if cell.status in {"failed", "missing", "worse"}:
            lines += [plain(f"{cell.status}: {_name(cell)}: {_said(metric)}", 300) for metric in _speaking(cell)[:3]]
    if any(cell.kind == "latency" and cell.status == "worse" for cell in comparison.cells) and (said := _repeats(comparison)) is not None:
        lines.append(said.replace("`", ""))
    if comparison.moved:
        lines.append(f"zones moved: {_moved(comparison)}")
    if comparison.other_machine is not None:
        lines.append(plain(f"times and memory in use are not compared, other machine: {comparison.other_machine}", 300))
    return lines


def _counts(comparison: Comparison) -> str:
    return ", ".join(f"{count} {status}" for status in STATUSES if (count := comparison.count(status))) or "no cell"


def _name(cell: CellDelta) -> str:
    return " ".join(step for step in (cell.kind, cell.variant, cell.detail) if step)


def _top(comparison: Comparison, code: int) -> Iterator[str]:
    yield f"## bitzones: {ANSWERS[code]}"
    yield f"{len(comparison.cells)} cells: {_counts(comparison)}."
    changed = "; ".join(markdown(item) for item in comparison.differences)
    yield f"What differs: {changed}." if changed else "Same releases, model and profile."
    if comparison.other_machine is not None:
        yield f"Times and memory in use are not compared, other machine: {markdown(comparison.other_machine, 300)}."
    if (said := _repeats(comparison)) is not None:
        yield said
    rows = telling(comparison)
    if rows:
        yield metrics_table(rows[:LONGEST_TABLE])
    if len(rows) > LONGEST_TABLE:
        yield f"{len(rows) - LONGEST_TABLE} more rows are in the fold below."
    if comparison.moved is None:
        yield f"Zones: inconclusive: {markdown(comparison.no_zones or '')}."
    else:
        yield f"Zones moved: {_moved(comparison)}." if comparison.moved else "Zones: no layer moved."


def _repeats(comparison: Comparison) -> str | None:
    """What is known of how far times differ without a reason; None where no time is compared."""
    if not any(cell.kind == "latency" and any(metric.change is not None for metric in cell.metrics) for cell in comparison.cells):
        return None
    if comparison.repeats is None:
        return (
            "How far times differ between runs of one release on this machine is not known: it takes a `--history` folder with "
            f"{MIN_FREEDOM + 1} runs of one, on this profile, model and machine. A machine that changed looks like a release that did."
        )
    found = comparison.repeats
    return f"Times of one release differ by {percent(found.drift)} between runs on this machine (standard deviation, {found.runs} runs)."


def telling(comparison: Comparison) -> list[tuple[CellDelta, Metric]]:
    """What did not stay the same, the gravest first: cells with the metrics that gave them their status."""
    cells = [cell for status in SHOWN for cell in comparison.cells if cell.status == status]
    return [(cell, metric) for cell in cells for metric in _speaking(cell)]


def every(comparison: Comparison) -> list[tuple[CellDelta, Metric]]:
    """All cells with all their metrics."""
    return [(cell, metric) for cell in comparison.cells for metric in cell.metrics]


def _speaking(cell: CellDelta) -> list[Metric]:
    """The metrics that gave a cell its status."""
    return [metric for metric in cell.metrics if metric.status == cell.status]


def _moved(comparison: Comparison) -> str:
    ways: dict[tuple[str, str], list[int]] = {}
    for item in comparison.moved or ():
        ways.setdefault((item.old, item.new), []).append(item.layer)
    return "; ".join(f"{ranges(tuple(layers))} from {old} to {new}" for (old, new), layers in ways.items())


def metrics_table(rows: Iterable[tuple[CellDelta, Metric]]) -> str:
    """A row for each metric, with both values and what their change rests on."""
    return table(HEAD, [_row(cell, metric) for cell, metric in rows], text=(0, 1, 2))


def _row(cell: CellDelta, metric: Metric) -> tuple[str, ...]:
    word = f"**{metric.status}**" if metric.status in {"failed", "missing", "worse"} else metric.status
    name = " ".join(markdown(step) for step in (cell.kind, cell.variant, cell.detail) if step)
    measured = metric.old is not None and metric.new is not None
    said = markdown(metric.name) + (f": {markdown(metric.reason)}" if metric.reason and (metric.name or not measured) else "")
    units = "" if metric.n is None else f"{metric.n} {metric.units or ''}".strip()
    p = p_value(metric.p).removeprefix("p = ").removeprefix("p ") if metric.p is not None and metric.status != "same" else ABSENT
    return name, word, said.removeprefix(": "), _value(metric, metric.old), _value(metric, metric.new), _change(metric), units or ABSENT, p


def _value(metric: Metric, value: float | None) -> str:
    if value is None:
        return ABSENT
    match metric.unit:
        case "s":
            return milliseconds(value)
        case "share":
            return percent(value)
        case "bytes":
            return megabytes(value)
        case _:
            return nats(Estimate(value=value, low=None, high=None)).partition(" (")[0]


def _change(metric: Metric) -> str:
    """With its interval; a ratio as per cent more or less."""
    if metric.as_ratio:
        if metric.change is None:
            return f"{metric.new / metric.old - 1:+.2%}" if metric.old and metric.new is not None else ABSENT
        return _ends(metric.change, lambda value: f"{value - 1:+.1%}")
    if metric.change is None:
        return ABSENT
    if metric.unit == "share":
        return _ends(metric.change, lambda value: f"{100 * value:+.1f}") + " points"
    return more_nats(metric.change).replace(" (interval: inconclusive)", "")


def _ends(estimate: Estimate, write: Callable[[float], str]) -> str:
    interval, shown = estimate.interval, write(estimate.value)
    return shown if interval is None else f"{shown} [{write(interval.low)}, {write(interval.high)}]"


def _said(metric: Metric) -> str:
    numbers = f"{_value(metric, metric.old)} -> {_value(metric, metric.new)} ({_change(metric)})" if metric.new is not None else ""
    return " ".join(step for step in (metric.name, numbers, metric.reason) if step)


def _folds(comparison: Comparison) -> Iterator[str]:
    rows = every(comparison)
    yield details(f"Every metric ({len(rows)})", metrics_table(rows))
    yield details("How it was judged", "\n\n".join(judged(comparison.gate)))
    yield details("The two runs", _sides(comparison.old, comparison.new))


def judged(gate: Gate) -> Iterator[str]:
    """By which tests and tolerances a word is chosen, in two paragraphs."""
    yield (
        "A change is *worse* where being within the tolerance is refuted at 5% over all cells (Holm's correction within times, accuracies "
        "and KLs, a third of the 5% for each), *same* where its 95% interval excludes a change for the worse above the tolerance, else "
        "*inconclusive*. p is of being worse than the tolerance, corrected."
    )
    yield (
        "Times: medians of the raw rounds by a block bootstrap, or by what runs of one release differ by (Student's t) where that is more; "
        f"tolerance {gate.time:.1%}. Accuracy: McNemar's exact test on the same items; "
        f"same where a loss above {100 * gate.accuracy:.1f} points is excluded. KL: paired bootstrap and sign test over sequences, "
        f"tolerance {gate.kl:.0%} of the old KL and {gate.kl_nats:g} nats/token. Stored bytes: {gate.bytes:.2%}; of searched plans "
        f"{gate.plan_bytes:.1%}. Peaks of memory: {gate.memory:.0%}."
    )


def _sides(old: Side, new: Side) -> str:
    rows = [
        ("file", old.path, new.path),
        ("measured", old.measured_at or ABSENT, new.measured_at or ABSENT),
        ("model", old.model or ABSENT, new.model or ABSENT),
        ("weights", (old.model_sha256 or ABSENT)[:16], (new.model_sha256 or ABSENT)[:16]),
        ("bitzones", old.bitzones, new.bitzones),
        *((name, old.versions.get(name, ABSENT), new.versions.get(name, ABSENT)) for name in {**new.versions, **old.versions}),
        *((name, old.machine.get(name, ABSENT), new.machine.get(name, ABSENT)) for name in {**new.machine, **old.machine}),
    ]
    return table(("", "old", "new"), [tuple(markdown(text) for text in row) for row in rows], text=(0, 1, 2))
