"""A run file becomes an analysis: the plan, the zones and every table of the report, as Python values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydantic import BaseModel

from bitzones.analysis import analyze as collect
from bitzones.analysis import plan_verdicts, reader, task_answers
from bitzones.analysis import results as decided
from bitzones.analysis.plan import LayerZone, Plan, UnitPlan, ZoneWord
from bitzones.analysis.reader import RunFile
from bitzones.api.dataframes import chosen, frame
from bitzones.schema.errors import ArgumentError, PlanError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = ["TABLES", "Analysis", "Report", "RunLike", "analyze", "as_run", "read_run", "write_report"]

RunLike: TypeAlias = RunFile | Path | str
"""A run, or the path of its file."""


class Analysis(decided.Analysis):
    """Everything that was decided about one run: the plan, the zones and every table of the report.

    It holds the fields of analysis.json (docs/schema.md): ``accuracy``, ``likelihood``, ``latency``, ``memory``, ``sensitivity``,
    ``ranking``, ``layers``, ``failures`` and others are tuples of records, with a row each in `to_dataframe`.

    Example:
        >>> analysis = bitzones.analyze("run.json")
        >>> analysis  # doctest: +ELLIPSIS
        <Analysis of 'embedded:tiny': 3.83 bits per weight, KL 0.476 [0.414, 0.539] nats/token; 1 SAFE, 3 TRANSITION; ...>
        >>> analysis.zones
        {0: 'TRANSITION', 1: 'TRANSITION', 2: 'TRANSITION', 3: 'SAFE'}
        >>> analysis.accuracy[0].share.value
        0.85
    """

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        model = self.model.source if self.model else "model not recorded"
        failed = f"; cells without a result: {len(self.failures)}" if self.failures else ""
        if self.decision is None:
            return f"<Analysis of {model!r}: no plan, {self.no_decision}{failed}>"
        plan = self.decision.plan
        counts = ", ".join(f"{count} {zone}" for zone, count in sorted(Counter(self.zones.values()).items()))
        return f"<Analysis of {model!r}: {plan.average_bits:.2f} bits per weight, {_kl(plan)}; {counts}{failed}>"

    def _repr_html_(self) -> str:
        from bitzones.api.notebook import analysis_html  # noqa: PLC0415  # drawing is needed in notebooks only

        return analysis_html(self)

    @property
    def plan(self) -> Plan:
        """The recommended plan: a format for every module.

        Raises:
            PlanError: the run gives no plan; the message says why (``no_decision``).
        """
        if self.decision is None:
            raise PlanError(f"there is no plan: {self.no_decision}")
        return self.decision.plan

    @property
    def zones(self) -> dict[int, ZoneWord]:
        """Layer to zone, for every layer whose sensitivity was measured; empty where there is no plan."""
        return {item.layer: item.zone for item in self.decision.layer_zones} if self.decision else {}

    @property
    def headline(self) -> tuple[str, ...]:
        """The result in a few lines of plain text, as `bitzones run` prints it."""
        from bitzones.report.markdown.summary import headline  # noqa: PLC0415  # reports are worded only when they are asked for

        return headline(self)

    def show(self, console: Console | None = None) -> None:
        """Print the result to a terminal, in color where it has colors; to ``console``, or to standard output."""
        from rich import get_console  # noqa: PLC0415

        from bitzones.report.terminal import screen  # noqa: PLC0415

        screen.show(self, console if console is not None else get_console())

    def to_dataframe(self, table: str = "accuracy") -> pd.DataFrame:
        """One table as a pandas DataFrame.

        An estimate takes three columns, such as ``kl``, ``kl_low`` and ``kl_high`` for the ends of its 95% interval. Units are those of
        the records (docs/schema.md): seconds, bytes, nats per token, shares between 0 and 1.

        Args:
            table: one of `bitzones.Analysis.tables`: accuracy, perplexity, likelihood, latency, memory, sensitivity, ranking, zones, units,
                plans, layers, whole, rules, tasks, took, failures.

        Returns:
            A row for each record of the table, in the order of the report; no rows where the run measured nothing of the kind.

        Raises:
            ArgumentError: there is no such table; the message suggests one.
            MissingPackageError: pandas is not installed (``pip install 'bitzones[pandas]'``).

        Example:
            >>> analysis.to_dataframe("zones")[["layer", "zone"]].values.tolist()
            [[0, 'TRANSITION'], [1, 'TRANSITION'], [2, 'TRANSITION'], [3, 'SAFE']]
        """
        kind, records = TABLES[chosen(table, TABLES)]
        return frame(kind, records(self))

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that `to_dataframe` makes."""
        return tuple(TABLES)


def _kl(plan: Plan) -> str:
    if plan.measured_kl is None:
        return "KL not measured as a whole"
    ends = plan.measured_kl.interval
    return f"KL {plan.measured_kl.value:.3g}" + (f" [{ends.low:.3g}, {ends.high:.3g}]" if ends else "") + " nats/token"


TABLES: Mapping[str, tuple[type[BaseModel], Callable[[decided.Analysis], Sequence[BaseModel]]]] = {
    "accuracy": (task_answers.Accuracy, lambda found: found.accuracy),
    "perplexity": (task_answers.TaskPerplexity, lambda found: found.perplexity),
    "likelihood": (task_answers.Likelihood, lambda found: found.likelihood),
    "latency": (decided.LatencyFigures, lambda found: found.latency),
    "memory": (decided.MemoryFigures, lambda found: found.memory),
    "sensitivity": (decided.UnitReading, lambda found: found.sensitivity),
    "ranking": (decided.LayerRank, lambda found: found.ranking),
    "zones": (LayerZone, lambda found: found.decision.layer_zones if found.decision else ()),
    "units": (UnitPlan, lambda found: found.decision.units if found.decision else ()),
    "plans": (plan_verdicts.PlanReading, lambda found: found.plans.plans if found.plans else ()),
    "whole": (decided.WholeVariant, lambda found: found.whole),
    "layers": (decided.LayerReading, lambda found: found.layers),
    "rules": (plan_verdicts.RuleReading, lambda found: found.rules.rules if found.rules else ()),
    "tasks": (task_answers.Asked, lambda found: found.tasks),
    "took": (decided.Took, lambda found: found.took),
    "failures": (decided.Failure, lambda found: found.failures),
}
"""Name -> the record of a row, and where an analysis holds the rows."""


def read_run(path: Path | str) -> RunFile:
    """Read and check a run file: what ``bitzones run``, ``pytest bench/ --benchmark-json`` or `bitzones.measure` wrote.

    Args:
        path: of the JSON file.

    Returns:
        The run: ``run`` is what all cells share (profile, model, environment), ``cells`` are the measurements in the order of the file.

    Raises:
        RunFileError: the file is missing, unreadable, truncated, not written by bitzones, of an unknown schema, empty, or holds a cell
            that is wrong, duplicated, or contradicts another.

    Example:
        >>> run = bitzones.read_run("run.json")
        >>> run.run.model.source, len(run.cells)
        ('embedded:tiny', 27)
    """
    return reader.read_run(path)


def as_run(run: RunLike) -> RunFile:
    """A run as it is, or read from its file.

    Raises:
        ArgumentError: it is neither a run nor a path.
        RunFileError: as `read_run`.
    """
    if isinstance(run, RunFile):
        return run
    if isinstance(run, str | Path):
        return read_run(run)
    raise ArgumentError(f"expected a run or the path of a run file, got a {type(run).__name__}")


def analyze(run: RunLike) -> Analysis:
    """Decide everything that a run can support: plan, zones, verdicts. The same run gives the same analysis, to the last digit.

    A run without sensitivities, or with a budget that no plan meets, gives an analysis without a plan: ``no_decision`` says why.

    Args:
        run: from `bitzones.read_run` or `bitzones.measure`, or the path of a run file.

    Returns:
        The analysis.

    Raises:
        RunFileError: the file cannot be used, or no cell has a result.
        ArgumentError: it is neither a run nor a path.

    Example:
        >>> analysis = bitzones.analyze("run.json")
        >>> analysis.plan
        <Plan 'plan' for 'embedded:tiny': 3.83 bits per weight, 70,592 bytes, KL 0.476 nats/token on held-out sequences>
        >>> analysis.plan.kl.high < 0.6
        True
    """
    return Analysis(**dict(collect.analyse(as_run(run))))


@dataclass(frozen=True)
class Report:
    """A report that was written: ``path`` is its report.html, ``analyses`` what it shows, one for each run."""

    path: Path
    analyses: tuple[Analysis, ...]


def write_report(runs: RunLike | Sequence[RunLike], folder: Path | str) -> Report:
    """Write report.html, summary.md, diagrams, pictures, analysis.json and, where there is a plan, plan.json.

    Args:
        runs: one run, or several that are shown side by side, with a folder of its own for each inside ``folder``.
        folder: made if it is not there; an earlier report in it is replaced as a whole.

    Returns:
        Where the report is, and the analyses it shows.

    Raises:
        RunFileError: a run file cannot be used, or no cell has a result.
        OutputError: the folder cannot be written; an earlier report is then as it was.
        ArgumentError: no run was given.

    Example:
        >>> report = bitzones.write_report("run.json", "report")
        >>> report.path.name, sorted(path.name for path in report.path.parent.glob("*.json"))
        ('report.html', ['analysis.json', 'plan.json'])
    """
    from bitzones.report.charts import drawing  # noqa: PLC0415

    given = [runs] if isinstance(runs, RunFile | Path | str) else list(runs)
    if not given:
        raise ArgumentError("there is no run to report on")
    with drawing.beside() as draw:  # started first, so that it is ready when there is something to draw
        from bitzones.report import side_by_side, writer  # noqa: PLC0415

        analyses, files = tuple(analyze(run) for run in given), [Path(run.path if isinstance(run, RunFile) else run) for run in given]
        names = side_by_side.names_of(files) if len(given) > 1 else [""]
        if len(given) == 1:
            written = writer.write_report(analyses[0], Path(folder), draw)
        else:
            named = [side_by_side.Named(name, found) for name, found in zip(names, analyses, strict=True)]
            written = writer.write_comparison(named, Path(folder), draw)
    for name, found, file in zip(names, analyses, files, strict=True):
        writer.carry_weights(found, file, Path(folder) / name)
    return Report(written[0], analyses)
