"""A comparison as GitHub Markdown for a pull request: the answer, then the changes, then everything else folded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from bitzones.analysis.zones import ranges
from bitzones.regression.comparison import STATUSES, CellDelta, Comparison, Metric, Side, Status
from bitzones.regression.drift import MIN_FREEDOM
from bitzones.regression.duet_changes import DUET_METRIC
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
from bitzones.schema.profile_sections import Gate
from bitzones.stats.intervals import Estimate

__all__ = ["delta", "delta_json", "delta_lines", "every", "judged", "metrics_table", "telling"]

SHOWN: tuple[Status, ...] = ("failed", "missing", "worse", "inconclusive", "better", "new")
"""Statuses listed above the fold; ``same`` and ``incomparable`` are not."""

LONGEST_TABLE = 40
"""Most rows above the fold."""

LONGEST_REASON = 300
"""Characters: a duet's has four intervals."""

ANSWERS = {OPEN: "no regression", REGRESSION: "regression", CANNOT_COMPARE: "cannot compare"}
HEAD = ("cell", "", "metric", "old", "new", "change", "n", "p")


def delta(comparison: Comparison, code: int) -> str:
    """The whole text."""
    return "\n\n".join([*_top(comparison, code), *_folds(comparison)]) + "\n"


def delta_json(comparison: Comparison) -> str:
    """The same for machines."""
    return json.dumps(comparison.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def delta_lines(comparison: Comparison, code: int) -> list[str]:
    """The answer for a terminal: one line, and one for each failed, missing or worse cell."""
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
    yield f"Differences: {changed}." if changed else "Same releases, model and profile."
    if comparison.other_machine is not None:
        yield f"Times and memory in use are not compared, other machine: {markdown(comparison.other_machine, 300)}."
    if (said := _repeats(comparison)) is not None:
        yield said
    if comparison.duets:
        yield f"{comparison.duets} cells were timed by a duet: both sides by turns on one machine."
    rows = telling(comparison)
    if rows:
        yield metrics_table(rows[:LONGEST_TABLE])
    if len(rows) > LONGEST_TABLE:
        yield f"{len(rows) - LONGEST_TABLE} more rows are folded below."
    if comparison.moved is None:
        yield f"Zones: inconclusive: {markdown(comparison.no_zones or '')}."
    else:
        yield f"Zones moved: {_moved(comparison)}{_basis(comparison)}." if comparison.moved else "Zones: no layer moved."


def _repeats(comparison: Comparison) -> str | None:
    """The run-to-run spread of times; None where no time is compared."""
    of_runs = [metric for cell in comparison.cells if cell.kind == "latency" for metric in cell.metrics if metric.name != DUET_METRIC]
    if not any(metric.change is not None for metric in of_runs):
        return None
    if comparison.repeats is None:
        return (
            "The run-to-run spread of times on this machine is unknown: it needs a `--history` folder with "
            f"{MIN_FREEDOM + 1} runs of one release on this profile, model and machine. Without it, a change of the machine looks like a "
            "change of the release."
        )
    found = comparison.repeats
    return f"Times of one release vary by {percent(found.drift)} between runs on this machine (standard deviation, {found.runs} runs)."


def telling(comparison: Comparison) -> list[tuple[CellDelta, Metric]]:
    """Cells whose status is not ``same``, gravest first, with the metrics behind the status."""
    cells = [cell for status in SHOWN for cell in comparison.cells if cell.status == status]
    return [(cell, metric) for cell in cells for metric in _speaking(cell)]


def every(comparison: Comparison) -> list[tuple[CellDelta, Metric]]:
    """All cells with all their metrics."""
    return [(cell, metric) for cell in comparison.cells for metric in cell.metrics]


def _speaking(cell: CellDelta) -> list[Metric]:
    """The metrics behind a cell's status."""
    return [metric for metric in cell.metrics if metric.status == cell.status]


def _moved(comparison: Comparison) -> str:
    ways: dict[tuple[str, str], list[int]] = {}
    for item in comparison.moved or ():
        ways.setdefault((item.old, item.new), []).append(item.layer)
    return "; ".join(f"{_layers(layers)}: {old} -> {new}" for (old, new), layers in ways.items())


def _layers(layers: list[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {ranges(tuple(layers))}"


def _basis(comparison: Comparison) -> str:
    """What the zones of both runs were drawn around, in parentheses; empty where they were not drawn."""
    words = {"plan": " (drawn around the plan of each run's search)", "reference": " (drawn from separate sensitivities in both runs)"}
    return words.get(comparison.zones_around or "", "")


def metrics_table(rows: Iterable[tuple[CellDelta, Metric]]) -> str:
    """A row per metric with both values, the change, n and p."""
    return table(HEAD, [_row(cell, metric) for cell, metric in rows], text=(0, 1, 2))


def _row(cell: CellDelta, metric: Metric) -> tuple[str, ...]:
    word = f"**{metric.status}**" if metric.status in {"failed", "missing", "worse"} else metric.status
    name = " ".join(markdown(step) for step in (cell.kind, cell.variant, cell.detail) if step)
    measured = metric.old is not None and metric.new is not None
    said = markdown(metric.name) + (
        f": {markdown(metric.reason, LONGEST_REASON)}" if metric.reason and (metric.name or not measured) else ""
    )
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
        case "instructions":
            return f"{value / 1e6:,.1f} M"
        case _:
            return nats(Estimate(value=value, low=None, high=None)).partition(" (")[0]


def _change(metric: Metric) -> str:
    """The change with its interval; a ratio as a percentage."""
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
    yield details("How cells are judged", "\n\n".join(judged(comparison.gate)))
    yield details("The two runs", _sides(comparison.old, comparison.new))


def judged(gate: Gate) -> Iterator[str]:
    """The tests and tolerances behind a status, in two paragraphs."""
    yield (
        "A cell is *worse* if a change within the tolerance is rejected at 5% over all cells (Holm's correction within times, accuracies "
        "and KLs, a third of the 5% each), *same* if its 95% interval excludes a loss above the tolerance, and otherwise "
        "*inconclusive*. p is the corrected p-value of a change beyond the tolerance."
    )
    yield (
        "Times: medians of the raw rounds by a block bootstrap, or by the run-to-run spread of one release (Student's t) if that is "
        f"larger; tolerance {gate.time:.1%}. Times of a duet: a confidence sequence of the ratio in quadruples of rounds, at 5% over "
        f"all of its cells; tolerance {gate.duet_time:.1%}; a change stands if new processes repeat it. Accuracy: McNemar's exact test on "
        f"the same items; same if a loss above {100 * gate.accuracy:.1f} points is excluded. KL: paired bootstrap and sign test over "
        f"sequences, tolerance {gate.kl:.0%} of the old KL and {gate.kl_nats:g} nats/token. Stored bytes: {gate.bytes:.2%}, for searched "
        f"plans {gate.plan_bytes:.1%}. Peak "
        f"memory: {gate.memory:.0%}. Instructions: {gate.instructions:.0%}, in which all processes must agree."
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
