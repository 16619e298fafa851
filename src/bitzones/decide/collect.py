"""The door: the only module that knows what a run file looks like, and where one becomes an analysis.

Everything is checked here, once, so that nothing behind it has to ask whether a file was truncated, foreign, doubled or holds NaN. It does
not know how anything was measured, nor how an analysis is shown.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bitzones.decide import accuracy, attention, costs, likelihood, limits, planner, sensitivity, zones
from bitzones.decide.analysis import Analysis, Decision, Failure
from bitzones.errors import PlanError, RunFileError
from bitzones.profile import REFERENCE_NAMES, variant_formats
from bitzones.records import (
    KEY,
    SCHEMA,
    AccuracyCell,
    Cell,
    DivergenceCell,
    FailedCell,
    LatencyCell,
    LayersCell,
    MemoryCell,
    Record,
    Run,
    SensitivityCell,
)

__all__ = ["RunFile", "analyse", "read_run"]

MOST_BYTES = 2**50
"""A part of a pebibyte or more is a mistake, and sums of such would leave 64-bit integers."""

_CELL: TypeAdapter[Cell] = TypeAdapter(Cell)
CellT = TypeVar("CellT")


class RunFile(Record):
    """A run file that passed the door: cells in the order of the file, ``foreign`` benchmarks counted and left out."""

    path: str
    measured_at: str | None
    run: Run
    cells: tuple[Cell, ...]
    foreign: int = 0

    def of(self, kind: type[CellT]) -> tuple[CellT, ...]:
        """All cells of one kind, by task as the profile lists them and by variant as the run does."""
        tasks, variants = [task.name for task in self.run.profile.tasks], list(self.run.variants)

        def place(cell: Any) -> tuple[int, int]:
            task = getattr(cell, "task", None)
            return _index(tasks, task), _index(variants, cell.variant)

        return tuple(sorted((cell for cell in self.cells if isinstance(cell, kind)), key=place))


def _index(names: list[str], name: str | None) -> int:
    return names.index(name) if name in names else len(names)


def read_run(path: Path | str) -> RunFile:
    """Read and check a run file.

    Raises:
        RunFileError: the file is missing, unreadable, truncated, no pytest-benchmark JSON, not of bitzones, of another schema, empty, or
            holds a cell that is wrong, doubled, or contradicts another.
    """
    data = _load(path)
    run = _run(path, data)
    found = [_cell(path, benchmark) for benchmark in data["benchmarks"]]
    cells = tuple(cell for cell in found if cell is not None)
    if not cells:
        raise _error(path, "the run is empty: no benchmark holds a bitzones cell, so there is nothing to report")
    moment = data.get("datetime")
    measured_at = _clean(moment) if isinstance(moment, str) else None
    run_file = RunFile(path=_clean(str(path)), measured_at=measured_at, run=run, cells=cells, foreign=len(found) - len(cells))
    _check(run_file)
    return run_file


def _clean(text: str) -> str:
    """Text for one line of a terminal: nothing that moves the cursor or cannot be encoded."""
    return "".join("\ufffd" if unicodedata.category(letter) in {"Cc", "Cf", "Cs"} else letter for letter in " ".join(text.split()))


def _error(path: Path | str, message: str) -> RunFileError:
    return RunFileError(_clean(f"{path}: {message}"))


def _load(path: Path | str) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise _error(path, f"not JSON, or truncated: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise _error(path, f"not JSON that can be read: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("benchmarks"), list):
        raise _error(path, "JSON, but not written by pytest-benchmark: it has no list 'benchmarks'")
    if KEY not in data:
        raise _error(path, "written by pytest-benchmark, but not by a bitzones run: it has no key 'bitzones'")
    return data


def _run(path: Path | str, data: dict[str, Any]) -> Run:
    schema = data[KEY].get("schema") if isinstance(data[KEY], dict) else None
    if isinstance(schema, int) and schema != SCHEMA:
        raise _error(path, f"its schema number is {schema}, this bitzones reads {SCHEMA}: measure again, or use the version that wrote it")
    try:
        return Run.model_validate(data[KEY])
    except ValidationError as error:
        raise _error(path, f"key 'bitzones': {_first(error, ())}") from error


def _cell(path: Path | str, benchmark: Any) -> Cell | None:
    """The cell of one benchmark; None for a benchmark that is not of bitzones."""
    extra = benchmark.get("extra_info") if isinstance(benchmark, dict) else None
    if not isinstance(extra, dict) or KEY not in extra:
        return None
    cell, name = extra[KEY], str(benchmark.get("fullname", "without a name"))
    schema = cell.get("schema") if isinstance(cell, dict) else None
    if isinstance(schema, int) and schema != SCHEMA:
        raise _error(path, f"benchmark {name}: its schema number is {schema}, this bitzones reads {SCHEMA}")
    try:
        return _CELL.validate_python(cell)
    except ValidationError as error:
        kind = cell.get("kind") if isinstance(cell, dict) else None
        raise _error(path, f"benchmark {name}: {_first(error, (kind,))}") from error


def _first(error: ValidationError, tags: tuple[Any, ...]) -> str:
    """The first mistake: the path to it in the cell, and what is wrong."""
    first = error.errors(include_url=False)[0]
    steps = first["loc"][1:] if first["loc"][:1] == tags else first["loc"]
    where = ".".join(str(step) for step in steps) or "the cell"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "finite_number":
        return f"{where} is {first['input']}, not a finite number{more}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{more}"


def _slot(cell: Cell) -> tuple[object, ...]:
    """What may stand once in a run."""
    match cell:
        case AccuracyCell():
            return cell.kind, cell.variant, cell.task
        case LatencyCell():
            return cell.kind, cell.variant, cell.phase, cell.batch, cell.prompt_tokens, cell.tokens
        case FailedCell():
            return cell.kind, cell.of, cell.variant, cell.detail
        case _:
            return cell.kind, cell.variant


def _check(run_file: RunFile) -> None:
    """What no single cell can know: whether the cells agree."""
    seen: set[tuple[object, ...]] = set()
    for cell in run_file.cells:
        if _slot(cell) in seen:
            raise _error(run_file.path, f"duplicate cells: {' '.join(str(step) for step in _slot(cell))} stands twice")
        seen.add(_slot(cell))
    tasks: dict[str, AccuracyCell] = {}
    for asked in run_file.of(AccuracyCell):
        first = tasks.setdefault(asked.task, asked)
        if (asked.task_sha256, set(asked.item_ids)) != (first.task_sha256, set(first.item_ids)):
            raise _error(run_file.path, f"task {asked.task}: {asked.variant} was asked other items than {first.variant}")
        if _manner(asked) != _manner(first):
            raise _error(run_file.path, f"task {asked.task}: {asked.variant} was asked in another way than {first.variant}")
    swept = run_file.of(SensitivityCell)
    if len(swept) > 1:
        raise _error(run_file.path, f"{len(swept)} sensitivity cells; a run has one")
    for sweep in swept:
        _check_sweep(run_file, sweep)
    whole = run_file.of(DivergenceCell)
    if any(not sum(cell.sequence_tokens) for cell in whole):
        raise _error(run_file.path, "divergence cell: no sequence has a scored token")
    if len({_calibration(cell) for cell in swept} | {_calibration(cell) for cell in whole}) > 1:
        raise _error(run_file.path, "a sensitivity or divergence cell was measured on other calibration sequences than another")


def _manner(cell: AccuracyCell) -> tuple[object, ...]:
    """What the variants of a task must have in common to be compared: how it was asked, and the tokens of every answer."""
    answers = sorted(zip(cell.item_ids, cell.gold_tokens, cell.chance, strict=True))
    normalized = cell.correct_normalized is not None and cell.predictions_normalized is not None
    return cell.task_version, cell.origin, cell.fewshot, cell.chat_template, cell.metric, cell.dropped, normalized, answers


def _check_sweep(run_file: RunFile, cell: SensitivityCell) -> None:
    names = [part.name for part in cell.parts]
    modules = [module for part in cell.parts for module in part.modules]
    formats = set(run_file.run.profile.formats)
    unknown = sorted({item.format for item in cell.measurements} - formats)
    sizes = [part.reference_bytes for part in cell.parts] + [item.stored_bytes for item in cell.measurements]
    for wrong, message in (
        (len(set(names)) < len(names), "a part stands twice"),
        (len(set(modules)) < len(modules), "a module belongs to two parts"),
        (bool(unknown), f"format {unknown[:1]} is not one of the profile's"),
        (not sum(part.parameters for part in cell.parts), "its parts have no weights"),
        (not sum(cell.sequence_tokens), "no sequence has a scored token"),
        (max(sizes) > MOST_BYTES, f"a part of {max(sizes)} bytes cannot be"),
    ):
        if wrong:
            raise _error(run_file.path, f"sensitivity cell: {message}")


def _calibration(cell: SensitivityCell | DivergenceCell) -> tuple[str, tuple[int, ...]]:
    return cell.calibration_sha256, cell.sequence_tokens


def _without_sweep(run_file: RunFile) -> str:
    """Why there is no plan in a run without a sensitivity cell."""
    for cell in run_file.of(FailedCell):
        if cell.of == "sensitivity":
            return _clean(f"sensitivity {cell.status}: {cell.reason}")
    if run_file.run.model is not None and run_file.run.model.random_weights:
        return "the model's weights are random, and the sensitivity of such says nothing"
    return "no sensitivity was measured (was bench/test_sensitivity.py deselected?)"


def _failure(cell: FailedCell) -> Failure:
    return Failure(variant=cell.variant, status=cell.status, of=cell.of, detail=cell.detail, reason=cell.reason)


def _reference_layers(cells: Iterable[LayersCell], reference: str) -> LayersCell | None:
    return next((cell for cell in cells if cell.variant == reference), None)


def _decided(
    run_file: RunFile, measured: sensitivity.Measured | None, formats: tuple[str, ...], reference: str
) -> tuple[Decision | None, str | None]:
    """The decision, or why there is none."""
    if measured is None:
        return None, _without_sweep(run_file)
    try:
        return zones.decide(measured, planner.menu_of(measured.cell, formats, reference), run_file.run), None
    except PlanError as error:
        return None, _clean(f"the budget cannot be met; {error}")


def _unswept(run: Run, sweep: SensitivityCell | None) -> tuple[int, ...]:
    """Layers of the model that the sweep left out."""
    if sweep is None or run.model is None:
        return ()
    return tuple(sorted(set(range(run.model.layers)) - {part.layer for part in sweep.parts}))


def analyse(run_file: RunFile) -> Analysis:
    """Decide everything that the run can carry. The same run file gives the same analysis, to the last digit.

    A run without sensitivities, or with a budget that no plan meets, gives an analysis without a decision, which says why.

    Raises:
        RunFileError: no cell has a result.
    """
    run, profile = run_file.run, run_file.run.profile
    failed = run_file.of(FailedCell)
    if len(failed) == len(run_file.cells):
        raise _error(run_file.path, f"no cell has a result, so there is nothing to report; the first of {len(failed)}: {failed[0].reason}")
    reference = REFERENCE_NAMES[profile.model.dtype]
    formats = tuple(variant_formats(profile).values())[1:]
    sweep, whole = next(iter(run_file.of(SensitivityCell)), None), run_file.of(DivergenceCell)
    measured = sensitivity.measured_of(sweep, formats, profile.zones.resamples, profile.seed) if sweep else None
    sample = measured.sample if measured else None
    if sample is None and whole:
        sample = sensitivity.sample_of(whole[0].sequence_tokens, profile.zones.resamples, profile.seed)
    decision, no_decision = _decided(run_file, measured, formats, reference)
    layers, answers = _reference_layers(run_file.of(LayersCell), reference), run_file.of(AccuracyCell)
    analysis = Analysis(
        bitzones=run.bitzones,
        measured_at=run_file.measured_at,
        profile=profile,
        model=run.model,
        environment=run.environment,
        reference=reference,
        variants=run.variants,
        formats=formats,
        sequences=sample.sequences if sample else 0,
        tokens=int(sample.tokens.sum()) if sample else 0,
        granularity=sweep.granularity if sweep else None,
        unswept=_unswept(run, sweep),
        tasks=accuracy.asked(answers),
        accuracy=accuracy.accuracies(answers, run.variants, reference),
        likelihood=likelihood.likelihoods(answers, run.variants, reference, profile.seed),
        latency=costs.latencies(run_file.of(LatencyCell), run.variants, reference, profile.seed),
        memory=costs.memories(run_file.of(MemoryCell), run.variants, reference),
        sensitivity=sensitivity.readings(measured) if measured else (),
        ranking=sensitivity.ranking(measured) if measured else (),
        whole=sensitivity.whole_variants(sample, measured, whole, run.variants) if sample else (),
        decision=decision,
        no_decision=no_decision,
        layers=attention.layer_readings(layers),
        layer_sequences=layers.sequences if layers else 0,
        layer_tokens=layers.tokens if layers else 0,
        failures=tuple(_failure(cell) for cell in failed),
        foreign_benchmarks=run_file.foreign,
        cannot_tell=(),
    )
    return analysis.model_copy(update={"cannot_tell": limits.cannot_tell(analysis)})
