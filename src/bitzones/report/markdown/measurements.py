"""The sections on memory, latency, attention, activations, failed cells and time."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.results import Analysis, LatencyFigures, Took, UnitLatencyFigures
from bitzones.report.markdown.cost_words import layer_description, slow_path_words
from bitzones.report.markdown.tables import ABSENT, NO_INTERVAL, figure, fold, markdown, megabytes, milliseconds, percent, ratio, table
from bitzones.stats.intervals import Estimate

__all__ = ["activations", "attention", "failures", "latency", "memory", "took", "unit_latency"]

HOST_BOUND = 1.5
"""Eager by compiled decoding time above which kernel launches dominate: on a GPU, they are nearly all that compiling saves."""


def memory(analysis: Analysis) -> str:
    """Stored bytes of every variant, and what the machine says of the process."""
    if not analysis.memory:
        return "## Memory\n\nNot measured."
    rows = [
        (
            markdown(item.variant),
            megabytes(item.stored_bytes),
            percent(item.share_of_reference),
            megabytes(item.weight_bytes),
            megabytes(item.cache_bytes),
            ", ".join(f"{markdown(name)} {megabytes(count)}" for name, count in item.stored_bytes_by_format.items()),
            *(figure(value) for value in item.process.values()),
        )
        for item in analysis.memory
    ]
    names = [markdown(name.replace("_", " ")) for name in analysis.memory[0].process]
    note = (
        "One reading each, so no intervals. "
        "Stored bytes are read off the tensors of the whole model, embeddings included. Process figures come from the operating system and "
        "the device, or a status says why there is none; the process also holds the reference, and its peak is the highest so far in the "
        "run. Weights are counted as they lie in memory; keys and values are those of the largest decoding timed, and device figures are "
        "peaks during it. 1 MB is 10^6 bytes.\n\n"
    )
    return (
        "## Memory\n\n"
        + note
        + table(("variant", "stored", "of reference", "weights", "keys and values", "by format", *names), rows, text=(0, 5))
    )


def latency(analysis: Analysis) -> str:
    """Median, spread and ratio to the reference, of every phase."""
    if not analysis.latency:
        return "## Latency\n\nNot measured."
    rows = [
        (
            f"{item.phase}, batch {item.batch}, prompt {item.prompt_tokens}{', compiled' if item.compiled else ''}",
            markdown(item.variant),
            milliseconds(item.median_s),
            f"{milliseconds(item.low_quartile_s)} to {milliseconds(item.high_quartile_s)}",
            milliseconds(item.p95_s),
            milliseconds(item.median_s / item.tokens),
            str(item.rounds),
            ratio(item.ratio),
            ABSENT if item.roofline_s is None else milliseconds(item.roofline_s),
            ABSENT if item.times_roofline is None else f"{item.times_roofline:.2f}",
            _energy(item),
        )
        for item in analysis.latency
    ]
    head = ("phase", "variant", "median", "middle half", "p95", "median per token", "rounds", f"ratio to {analysis.reference} [95%]")
    return (
        "## Latency\n\nTime per round; a ratio above 1 is slower than the reference. Intervals cover the rounds of this process only: "
        "variants are timed one after another, and another run can fall outside. The bandwidth roofline is the time to read weights, "
        "keys and values once at the bandwidth of a large copy in the same run; a round can beat it where a CPU cache holds the "
        "weights. Energy is the whole GPU's minus idle.\n\n"
        + table((*head, "roofline", "times roofline", "energy per token"), rows, text=(0, 1))
        + "".join(f"\n\n- {line}" if not number else f"\n- {line}" for number, line in enumerate(_doubts(analysis)))
    )


def _energy(item: LatencyFigures) -> str:
    return ABSENT if item.joules_per_token is None else figure(item.joules_per_token)


def _doubts(analysis: Analysis) -> Iterator[str]:
    """Warnings about the table: slow paths, contention, and smaller batches than asked for."""
    for item in analysis.latency:
        where = f"{markdown(item.variant)}, {item.phase}, batch {item.batch}, prompt {item.prompt_tokens}"
        where += ", compiled" if item.compiled else ""
        if item.slow_path is not None:
            yield f"**{markdown(item.variant)}: {markdown(slow_path_words(item.slow_path, analysis.reference), 200)}** ({where})"
        if item.contended:
            yield f"**contended**: {where}: {markdown('; '.join(item.contended), 300)}"
        if item.asked_batch is not None:
            yield f"{where}: batch {item.asked_batch} ran out of memory"
    on_gpu = [item for item in analysis.latency if item.device_median_s is not None]
    if bound := [item for item in on_gpu if (item.times_compiled or 0) >= HOST_BOUND]:
        named = ", ".join(f"{markdown(item.variant)} at batch {item.batch} {item.times_compiled:.1f} times" for item in bound)
        yield (
            f"**decoding is CPU-bound** where it is not compiled ({named} as long as compiled): these times say little about kernels and "
            "vary from run to run, and so do their ratios"
        )
    if unstable := [item for item in analysis.latency if item.warmup_stable is False]:
        named = ", ".join(dict.fromkeys(f"{markdown(item.variant)} {item.phase}" for item in unstable))
        yield f"warm-up reached its limit before rounds were stable: {named}"


def unit_latency(analysis: Analysis) -> str:
    """Times of a decode step by format: sums over the units, and every unit shape; empty where no unit was timed."""
    found = analysis.unit_latency
    if found is None:
        return ""
    totals = [(markdown(item.name), _milliseconds(item.seconds), ratio(item.ratio)) for item in found.totals]
    rows = [
        (
            ", ".join(f"{rows}x{columns}" for rows, columns in item.shapes),
            str(item.units),
            markdown(item.format),
            milliseconds(item.median_s),
            f"{milliseconds(item.low_quartile_s)} to {milliseconds(item.high_quartile_s)}",
            ratio(item.ratio),
        )
        for item in found.shapes
    ]
    n, against = found.shapes[0].rounds, f"ratio to {analysis.reference} [95%]"
    note = (
        f"Time of the matrix products of all units in one decode step at batch {found.batch}: medians of n = {n} rounds for each unit "
        "shape, formats interleaved, summed over the units. Attention, norms and launch overhead between modules are excluded."
    )
    head = ("stored in", "per decode step [95%]", against)
    sorts = ("shapes of a unit", "units", "format", "median", "middle half", against)
    text = (note, _bought(analysis, found), table(head, totals), fold("Every unit shape", len(rows), table(sorts, rows, text=(0, 2))))
    return "## Decode time by format\n\n" + "\n\n".join(text)


def _bought(analysis: Analysis, found: UnitLatencyFigures) -> str:
    """Whether fewer bits save time on this device."""
    others = [item for item in found.totals if item.ratio is not None and item.name in analysis.formats]
    faster = [item.name for item in others if item.ratio is not None and item.ratio.high is not None and item.ratio.high < 1]
    open_ = [item.name for item in others if item.name not in (*faster, *found.slower)]
    said = [
        f"{', '.join(names)} {'takes' if len(names) == 1 else 'take'} {what} than {analysis.reference}"
        for names, what in ((faster, "less time"), (found.slower, "more time"))
        if names
    ]
    if open_:
        said.append(f"{', '.join(open_)} cannot be told from {analysis.reference}")
    verdict = "fewer bits do not save time." if found.slower and not faster else "" if not found.slower else "not all formats save time."
    return f"**On this device {'; '.join(said)}{': ' + verdict if verdict else '.'}**"


def _milliseconds(seconds: Estimate) -> str:
    if seconds.low is None or seconds.high is None:
        return f"{milliseconds(seconds.value)} {NO_INTERVAL}"
    return f"{milliseconds(seconds.value)} [{milliseconds(seconds.low)}, {milliseconds(seconds.high)}]"


def attention(analysis: Analysis) -> str:
    """Attention statistics of every layer with a description."""
    if not analysis.layers:
        return "## Attention\n\nNot measured."
    rows = []
    for item in analysis.layers:
        a = item.statistics.attention
        numbers = (
            (
                f"{a.entropy_nats:.2f}",
                f"{a.head_specialization:.2f}",
                _focus(a.reasoning_focus, a.reasoning_focus_std, a.reasoning_focus_sequences),
            )
            if a
            else (ABSENT,) * 3
        )
        rows.append((str(item.layer), *numbers, markdown(layer_description(item), 10**3)))
    note = (
        f"Of the reference, over n = {analysis.layer_sequences} sequences ({analysis.layer_tokens:,} tokens): entropy in nats, head "
        "specialization 1 - H/ln(visible keys), focus of the answer position on the question (mean ± standard deviation over sequences). "
        "The description uses fixed thresholds and claims no cause.\n\n"
    )
    head = ("layer", "entropy", "specialization", "focus", "description")
    return "## Attention\n\n" + note + fold("Every layer", len(rows), table(head, rows, text=(0, 4)))


def _focus(value: float | None, spread: float | None, n: int) -> str:
    if value is None:
        return "not defined"
    return f"{value:.2f}" + (f" ± {spread:.2f}" if spread is not None else "") + f" (n={n})"


def activations(analysis: Analysis) -> str:
    """Activation statistics of every layer."""
    if not analysis.layers:
        return ""
    rows = [
        (str(i.layer), *(f"{value:.3g}" for value in (i.mean, i.std, i.magnitude, i.peak)), percent(i.sparsity), f"{i.kurtosis:.3g}")
        for i in (item.statistics for item in analysis.layers)
    ]
    note = (
        f"Of each layer's output in the reference, over n = {analysis.layer_tokens:,} tokens. Magnitude is mean absolute value; "
        "sparsity is the share of values within 0.01 standard deviations of 0; kurtosis is 3 for a normal distribution.\n\n"
    )
    head = ("layer", "mean", "std", "magnitude", "peak", "sparsity", "kurtosis")
    return "## Activations\n\n" + note + fold("Every layer", len(rows), table(head, rows))


def took(analysis: Analysis) -> str:
    """Time by kind of cell; empty where the run file does not record it."""
    whole = sum(item.seconds_s for item in analysis.took)
    if not whole:
        return ""
    rows = [(item.of, _cells(item), f"{item.seconds_s:,.1f} s", percent(item.seconds_s / whole)) for item in analysis.took]
    rows.append(("all", _cells(*analysis.took), f"{whole:,.1f} s", percent(1.0)))
    note = "As timed by pytest-benchmark, without loading, quantizing and warm-up.\n\n"
    return "## Time\n\n" + note + table(("kind", "cells", "time", "share"), rows)


def _cells(*found: Took) -> str:
    cells, timed = sum(item.cells for item in found), sum(item.timed for item in found)
    return str(cells) if cells == timed else f"{timed} of {cells} timed"


def failures(analysis: Analysis) -> str:
    """Every failed cell and measurement with its reason."""
    cells = [(f.of, markdown(f.variant), markdown(f.detail), markdown(f.status), markdown(f.reason, 300)) for f in analysis.failures]
    units = [
        ("sensitivity", s.format, markdown(s.unit), "failed", markdown(s.failure, 300))
        for s in analysis.sensitivity
        if s.failure is not None
    ]
    if not cells and not units:
        return "## Failed cells\n\nNone."
    return "## Failed cells\n\n" + table(("cell", "variant or format", "detail", "status", "reason"), cells + units, text=range(5))
