"""Releases side by side as GitHub Markdown: one row of statuses each, then every metric behind a status."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.reader import RunFile
from bitzones.regression.comparison import STATUSES, CellDelta, Comparison, gravest
from bitzones.regression.metrics import Reading, readings
from bitzones.regression.release_changes import as_asked, reloaded
from bitzones.regression.release_matrix import Matrix, Release
from bitzones.report.markdown.tables import ABSENT, details, markdown, megabytes, nats, percent, plain, table
from bitzones.report.regression.delta import every, judged, metrics_table, telling
from bitzones.schema.cells import ReleaseCell
from bitzones.stats.intervals import Estimate

__all__ = ["matrix_lines", "matrix_page"]

KINDS = {
    "accuracy": "accuracy",
    "divergence": "KL to the reference",
    "memory": "stored bytes",
    "release": "quantized as asked, saved and loaded",
}
"""Kind of cell to the title of its column."""

PACKAGES = ("optimum-quanto", "transformers", "torch")
BOLD = frozenset({"failed", "missing", "worse"})


def matrix_page(found: Matrix) -> str:
    """The whole text."""
    return "\n\n".join([*_top(found), *_baseline(found), *(text for item in found.releases for text in _release(item))]) + "\n"


def matrix_lines(found: Matrix) -> list[str]:
    """One terminal line per release."""
    return [
        plain(f"{item.name}: " + "; ".join(f"{name} {_words(item.compared, kind)}" for kind, name in KINDS.items()), 400).replace("**", "")
        for item in found.releases
    ]


def _top(found: Matrix) -> Iterator[str]:
    run = found.baseline.run
    yield "# Releases"
    formats = ", ".join(f"{markdown(variant)} is {markdown(name)}" for variant, name in run.variants.items())
    model, device = run.model.source if run.model else ABSENT, run.environment.cpu if run.environment else ABSENT
    yield (
        f"{markdown(model)} under releases of quanto and transformers, each compared with {markdown(found.name)} by `bitzones compare`. "
        f"Variants: {formats}. CPU: {markdown(device)}."
    )
    rows = [(f"{markdown(found.name)} (baseline)", *_versions(found.baseline), *(ABSENT for _ in KINDS))]
    rows += [(markdown(item.name), *_versions(item.run), *(_words(item.compared, kind) for kind in KINDS)) for item in found.releases]
    yield table(("release", *PACKAGES, *KINDS.values()), rows, text=range(8))
    yield details("How cells are judged", "\n\n".join(judged(found.baseline.run.profile.gate)))


def _versions(run: RunFile) -> list[str]:
    versions = run.run.environment.versions if run.run.environment else {}
    return [markdown(versions.get(name, ABSENT)) for name in PACKAGES]


def _words(compared: Comparison, kind: str) -> str:
    """The statuses of one kind of cell, gravest first, with their variants where they differ."""
    variants: dict[str, list[CellDelta]] = {}
    for cell in compared.cells:
        if cell.kind == kind:
            variants.setdefault(cell.variant, []).append(cell)
    words = {variant: gravest(tuple(cell.status for cell in cells)) for variant, cells in variants.items()}
    found = [(status, [markdown(variant) for variant in words if words[variant] == status]) for status in STATUSES]
    present = [(f"**{status}**" if status in BOLD else status, names) for status, names in found if names]
    if len(present) == 1:
        return present[0][0]
    return "; ".join(f"{status}: {', '.join(names)}" for status, names in present) or ABSENT


def _baseline(found: Matrix) -> Iterator[str]:
    yield f"## The baseline, {markdown(found.name)}"
    known = readings(found.baseline)
    columns = list(dict.fromkeys(_column(item) for item in known))
    release = {cell.variant: markdown(f"{as_asked(cell)}; {reloaded(cell)}") for cell in found.baseline.of(ReleaseCell)}
    rows = []
    for variant in found.baseline.run.variants:
        figures = {_column(item): _figure(item) for item in known if item.variant == variant}
        rows.append((markdown(variant), *(figures.get(name, ABSENT) for name in columns), release.get(variant, ABSENT)))
    yield table(("", *columns, KINDS["release"]), rows, text=(0, len(columns) + 1))


def _column(item: Reading) -> str:
    return markdown(" ".join(step for step in (item.kind, item.detail) if step))


def _figure(item: Reading) -> str:
    """A metric with its 95% interval and n."""
    if item.unit == "bytes":
        return megabytes(item.value)
    if item.unit != "share":
        return f"{nats(Estimate(value=item.value, low=item.low, high=item.high))}, n = {item.n}"
    return f"{percent(item.value)} [{percent(item.low)}, {percent(item.high)}], n = {item.n}"


def _release(item: Release) -> Iterator[str]:
    shown, rows = telling(item.compared), every(item.compared)
    yield f"## {markdown(item.name)}"
    yield metrics_table(shown) if shown else f"All {len(rows)} metrics are the same."
    yield details(f"Every metric ({len(rows)})", metrics_table(rows))
