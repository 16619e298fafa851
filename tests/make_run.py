"""Run files for tests: valid by construction, with planted answers, no torch.

``run_dict()`` is what a small run writes: 12 layers of which 0 and 5 are planted as sensitive and 3, 7 and 8 as robust. ``planned()`` are
its cells with whole plans (`make_search`) besides.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import make_domains
import numpy as np
from make_search import fisher, held_out, searched

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis, Caveat, Decision
from bitzones.schema.cells import FailedCell
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.layer_statistics import AttentionStatistics, LayersCell, LayerStatistics
from bitzones.schema.performance_cells import LatencyCell, MemoryCell, ShapeTimes, UnitLatencyCell
from bitzones.schema.profile import PLAN, Profile
from bitzones.schema.profile_sections import Budget, Calibration, Model, Zones
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell
from bitzones.schema.record import Figure, Record
from bitzones.schema.run_record import Environment, ModelInfo, Run
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity
from bitzones.schema.task_settings import Task

PARAMETERS = 192 * 192
BITS = {"qint8": 8.08, "qint4": 4.33, "qint2:hqq": 2.33}
HARM = {"qint8": 0.001, "qint4": 0.02, "qint2:hqq": 0.3}
VARIANTS = {"bf16": "bf16", "w8": "qint8", "w4": "qint4", "w2": "qint2:hqq"}
SENSITIVE, ROBUST = (0, 5), (3, 7, 8)
NASTY = (
    "a|b<script>alert(1)</script>`c`\n\n# h \"q\" 's' ]) --> end; %%{init}%% #35; "
    "[x](http://y) ```\x1b[31m\u202e&amp; $x$ @you **b** _i_ \\"
)
LOST_NATS = {"w8": 0.0005, "w4": 0.1, "w2": 1.0}
RIGHT = {"bf16": 440, "w8": 438, "w4": 415, "w2": 160}


def profile(**changes: Any) -> Profile:
    settings: dict[str, Any] = {
        "schema": 2,
        "formats": tuple(BITS),
        "model": Model(source="embedded:tiny"),
        "tasks": (Task(name="science_mini"), Task(name="word_problems_mini")),
        "calibration": Calibration(),
        "budget": Budget(average_bits=4.0),
        "zones": Zones(resamples=50),
    }
    return Profile(**{**settings, **changes})


def factor(layer: int) -> float:
    return 20.0 if layer in SENSITIVE else 0.05 if layer in ROBUST else 1.0


def sensitivity(
    layers: int = 12, sequences: int = 40, formats: Iterable[str] = tuple(BITS), groups: Sequence[str | None] = (None,)
) -> SensitivityCell:
    rng = np.random.default_rng(7)
    tokens = rng.integers(20, 60, sequences)
    units, measurements = [], []
    for layer in range(layers):
        for group in groups:
            name = f"layers.{layer}" + (f".{group}" if group else "")
            modules = tuple(f"model.{name}.{module}" for module in ("q_proj", "o_proj"))
            units.append(Unit(name=name, layer=layer, group=group, modules=modules, parameters=PARAMETERS, reference_bytes=2 * PARAMETERS))
            for format_ in formats:
                kl = HARM[format_] * factor(layer) * (1 + 0.01 * layer) * tokens * rng.lognormal(0, 0.3, sequences)
                measurements.append(
                    UnitSensitivity(
                        unit=name,
                        format=format_,
                        stored_bytes=int(BITS[format_] * PARAMETERS / 8),
                        group_sizes=(None, None) if format_ == "qint8" else (96, 96),
                        kl_nats=tuple(kl.tolist()),
                    )
                )
    return SensitivityCell(
        variant="bf16",
        method="exact",
        granularity="group" if groups[0] else "layer",
        sequences_sha256="c" * 64,
        sequence_tokens=tuple(tokens.tolist()),
        units=tuple(units),
        measurements=tuple(measurements),
    )


def accuracy(task: str, variant: str, right: int, items: int = 500, chance: float = 0.25, worse: float | None = None) -> AccuracyCell:
    """The first ``right`` items of a fixed order are right; ``worse`` nats per answer token more than the reference (`LOST_NATS`).

    With ``chance`` the right answers are A to D in turn, and `acc_norm` has 4 items fewer right; without it they are numbers.
    """
    rng, lost = np.random.default_rng(len(task)), LOST_NATS.get(variant, 0.0) if worse is None else worse
    order, tokens = rng.permutation(items), rng.integers(1, 4, items)
    noise = 0.02 * np.random.default_rng(len(variant) + ord(variant[-1])).standard_normal(items) * (variant != "bf16")
    nll = tokens * (rng.gamma(2.0, 0.1, items) * (1 + noise.clip(-0.9)) + lost * rng.gamma(2.0, 0.5, items))
    correct, normalized = (tuple(np.isin(np.arange(items), order[:k]).tolist()) for k in (right, max(0, right - 4)))
    return AccuracyCell(
        variant=variant,
        task=task,
        task_version=1,
        task_sha256="t" * 64,
        origin=f"embedded:{task}, test split",
        metric="acc" if chance else "exact_match",
        item_ids=tuple(f"{task}-{index}" for index in range(items)),
        correct=correct,
        predictions=_answers(correct, variant, bool(chance)),
        correct_normalized=normalized if chance else None,
        predictions_normalized=_answers(normalized, variant, True) if chance else None,
        gold_nll_nats=tuple(nll.tolist()),
        gold_tokens=tuple(tokens.tolist()),
        chance=(chance,) * items,
        tokens=items * 30,
        seconds_s=2.5,
    )


def _answers(correct: tuple[bool, ...], variant: str, letters: bool) -> tuple[str, ...]:
    """Right answers are alike in all variants; of those that two variants have wrong, w4 and w2 give others than the reference."""
    away = [0 if right else 1 + {"w4": 1, "w2": 2}.get(variant, 0) for right in correct]
    return tuple("ABCD"[(index + step) % 4] if letters else str(index + step) for index, step in enumerate(away))


def latency(variant: str, phase: Any, scale: float) -> LatencyCell:
    rounds = 0.01 * scale * np.random.default_rng(3).lognormal(0, 0.05, 20)
    tokens = 64 if phase == "prefill" else 16
    return LatencyCell(
        variant=variant,
        phase=phase,
        batch=1,
        prompt_tokens=64,
        tokens=tokens,
        warmup_rounds=3,
        rounds_s=tuple(rounds.tolist()),
        kernels={} if variant == "bf16" else {"python": 84},
        kernel_kinds={} if variant == "bf16" else {"python": "unpacked"},
    )


def unit_latency(sweep: SensitivityCell, speed: Mapping[str, float] | None = None, rounds: int = 20) -> UnitLatencyCell:
    """One sort of unit; ``speed`` is format to its time by the reference's, which is 2 ms."""
    took = speed or {"bf16": 1.0, "qint8": 1.2, "qint4": 3.0, "qint2:hqq": 2.5}
    drawn = np.random.default_rng(3).lognormal(0, 0.02, rounds)  # the machine's own drift, which all formats share
    shapes = ((192, 192), (192, 192))
    return UnitLatencyCell(
        variant="bf16",
        batch=1,
        warmup_rounds=3,
        units={unit.name: shapes for unit in sweep.units},
        times=tuple(
            ShapeTimes(shapes=shapes, format=name, repeats=4, rounds_s=tuple((0.008 * by * drawn).tolist()), kernels={"dense": 2})
            for name, by in took.items()
        ),
    )


def memory(variant: str, layers: int = 12) -> MemoryCell:
    format_, head = {**VARIANTS, PLAN: PLAN}[variant], 400_000
    body = int(BITS.get(format_, 16) * PARAMETERS / 8) * layers
    none = Figure(value=None, unit="bytes", status="unsupported")
    return MemoryCell(
        variant=variant,
        stored_bytes=body + head,
        stored_bytes_by_format={"bf16": head, format_: body} if format_ != "bf16" else {"bf16": head + body},
        process_rss=Figure(value=5e8, unit="bytes", status="ok"),
        process_peak_rss=Figure(value=6e8, unit="bytes", status="ok"),
        device_allocated=none,
        device_used=Figure(value=None, unit="bytes", status="no-permission"),
    )


def layers_cell(layers: int = 12) -> LayersCell:
    found = []
    for layer in range(layers):
        attention = AttentionStatistics(
            entropy_nats=1.0 + 0.1 * layer,
            entropy_nats_by_head=(1.0, 1.0),
            head_specialization=min(1.0, 0.1 + 0.08 * (layer % 8)),
            reasoning_focus=0.2 + 0.02 * (layer % 10),
            reasoning_focus_std=0.1,
            reasoning_focus_sequences=40,
        )
        kurtosis = 45.0 if layer == 2 else 3.2
        found.append(
            LayerStatistics(
                layer=layer, mean=0.01, std=1.0 + layer, magnitude=0.8, peak=9.0, sparsity=0.008, kurtosis=kurtosis, attention=attention
            )
        )
    return LayersCell(variant="bf16", sequences=40, tokens=1600, layers=tuple(found))


def divergence(sweep: SensitivityCell, variant: str, surplus: float) -> DivergenceCell:
    """A whole variant of ``surplus`` times the sum of its units."""
    rows = [np.array(m.kl_nats) for m in sweep.measurements if m.format == VARIANTS[variant] and m.kl_nats is not None]
    total = np.sum(rows, axis=0) * surplus
    return DivergenceCell(
        variant=variant, sequences_sha256=sweep.sequences_sha256, sequence_tokens=sweep.sequence_tokens, kl_nats=tuple(total.tolist())
    )


def cells(layers: int = 12, sequences: int = 40, groups: Sequence[str | None] = (None,)) -> list[Record]:
    sweep = sensitivity(layers, sequences, groups=groups)
    found: list[Record] = []
    for variant, right in RIGHT.items():
        found += [accuracy("science_mini", variant, right), accuracy("word_problems_mini", variant, right - 100, chance=0.0)]
        found += [latency(variant, phase, 1.0 if variant == "bf16" else 1.5) for phase in ("prefill", "decode")]
        found.append(memory(variant, layers))
    found += [divergence(sweep, variant, surplus) for variant, surplus in (("w8", 1.0), ("w4", 1.2), ("w2", 1.8))]
    return [*found, layers_cell(layers), sweep]


def planned(layers: int = 12, sequences: int = 40, groups: Sequence[str | None] = (None,)) -> list[Record]:
    """The cells of a run that searches, screens and compares plans, and measures the searched one as a variant."""
    sweep = sensitivity(layers, sequences, groups=groups)
    found = cells(layers, sequences, groups)
    return [*found, *plan_cells(sweep, layers), accuracy("science_mini", PLAN, 430), accuracy("word_problems_mini", PLAN, 330, chance=0.0)]


def plan_cells(sweep: SensitivityCell, layers: int) -> list[Record]:
    search = searched(sweep)
    whole = DivergenceCell(
        variant=PLAN,
        sequences_sha256=sweep.sequences_sha256,
        sequence_tokens=sweep.sequence_tokens,
        kl_nats=search.found.kl_nats or (),
    )
    stored = memory(PLAN, layers).model_copy(
        update={
            "stored_bytes": search.found.stored_bytes + 400_000,
            "stored_bytes_by_format": {"bf16": 400_000, PLAN: search.found.stored_bytes},
        }
    )
    return [unit_latency(sweep), fisher(sweep), search, held_out(sweep, search), whole, stored]


def decided(analysis: Analysis) -> Decision:
    assert analysis.decision is not None, analysis.no_decision
    return analysis.decision


def caveats(analysis: Analysis) -> dict[str, Caveat]:
    """The caveats by code; of several with one code, the last."""
    return {item.code: item for item in analysis.inconclusive}


def without(kind: type[Record], found: Iterable[Record] | None = None) -> list[Record]:
    """A partial run: the cells of a run but those of one kind."""
    return [cell for cell in (cells() if found is None else found) if not isinstance(cell, kind)]


def run_dict(found: Iterable[Record] | None = None, of: Profile | None = None, **model: Any) -> dict[str, Any]:
    """A run of these cells; the model has as many layers as the cells know of, unless ``model`` says so or anything else of it."""
    found = cells() if found is None else list(found)
    numbers = [len(cell.layers) for cell in found if isinstance(cell, LayersCell)]
    numbers += [1 + max(unit.layer or 0 for unit in cell.units) for cell in found if isinstance(cell, SensitivityCell)]
    facts: dict[str, Any] = {"source": "embedded:tiny", "layers": max(numbers, default=12), **model}
    run = Run(
        bitzones="0.1.0",
        profile=of or profile(domains=make_domains.settings(cell for cell in found if isinstance(cell, DomainCell))),
        model=ModelInfo(
            sha256="m" * 64,
            architecture="LlamaForCausalLM",
            parameters=5_000_000,
            dtype="bfloat16",
            compute_dtype="float32",
            tied_embeddings=True,
            **facts,
        ),
        variants=VARIANTS | ({PLAN: PLAN} if any(getattr(cell, "variant", "") == PLAN for cell in found) else {}),
        environment=Environment(
            python="3.11.7",
            versions={"torch": "2.13.0", "transformers": "5.23.0", "optimum-quanto": "0.2.7"},
            platform="Linux",
            cpu="A CPU",
            threads=2,
            device="cpu",
            device_name="A CPU",
            quanto_extension="built",
        ),
    )
    benchmarks = [
        {
            "fullname": f"bench/test_{getattr(cell, 'kind', 'cell')}.py::test[{index}]",
            "stats": {"total": 1.5 + index},
            "extra_info": {"bitzones": cell.model_dump(mode="json", by_alias=True)},
        }
        for index, cell in enumerate(found)
    ]
    return {
        "machine_info": {},
        "datetime": "2026-11-24T06:00:00+00:00",
        "version": "5.2.0",
        "benchmarks": benchmarks,
        "bitzones": run.model_dump(mode="json", by_alias=True),
    }


def cell_of(data: dict[str, Any], kind: str) -> dict[str, Any]:
    """The first cell of a kind in the contents of a run file."""
    return next(b["extra_info"]["bitzones"] for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] == kind)


def write(folder: Path, data: dict[str, Any] | None = None, name: str = "run.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(run_dict() if data is None else data), encoding="utf-8")
    return path


def analysed(folder: Path, found: Iterable[Record], **model: Any) -> Analysis:
    """What is decided of some cells, through the door: written as a run file and read again."""
    return analyse(read_run(write(folder, run_dict(found, **model))))


def hostile() -> dict[str, Any]:
    """The same run with every string that is not checked made as hostile as it can be."""
    data = copy.deepcopy(
        run_dict([*planned(), *make_domains.domains(), FailedCell(variant=NASTY, of="latency", detail=NASTY, reason=NASTY)])
    )
    data["bitzones"]["model"] |= {"source": NASTY, "architecture": NASTY, "revision": NASTY, "not_quantizable": {NASTY: 7}}
    data["bitzones"]["profile"]["model"]["source"] = NASTY
    data["bitzones"]["environment"] |= {"cpu": NASTY, "device_name": NASTY, "versions": {NASTY: NASTY}}
    for benchmark in data["benchmarks"]:
        cell = benchmark["extra_info"]["bitzones"]
        benchmark["fullname"] = NASTY
        if "domain" in cell:
            cell["domain"] += NASTY
        if "task" in cell:
            cell |= {"task": cell["task"] + NASTY, "origin": NASTY, "task_sha256": NASTY}
        if cell["variant"] == "w4":
            cell["variant"] = "w4" + NASTY
        if cell["kind"] == "latency":
            cell |= {"kernels": {NASTY: 3}, "kernel_kinds": {NASTY: "unpacked"}}
        if cell["kind"] == "memory":
            cell["device_used"]["status"] = NASTY
        if cell["kind"] == "sensitivity":
            cell["measurements"][HOSTILE] |= {"kl_nats": None, "failure": NASTY}
        if cell["kind"] == "plans":
            cell["plans"] = [plan | {"name": plan["name"] + NASTY} for plan in cell["plans"] if plan["units"]["layers.0"] != "qint2:hqq"]
        benchmark["extra_info"]["bitzones"] = _renamed(cell)
    return data


HOSTILE = 2
"""Layer 0 at 2 bits, which is left unmeasured: no plan may hold it then."""


def _renamed(value: Any, key: str = "") -> Any:
    """The same with every name of a unit made hostile, wherever it stands."""
    if isinstance(value, dict):
        if "status" in value:
            return value  # a figure, whose unit is one of measurement
        return {name + NASTY if key == "units" else name: _renamed(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [item | {"name": item["name"] + NASTY} if key == "units" else _renamed(item) for item in value]
    return value + NASTY if key == "unit" else value


def small() -> list[Record]:
    """The golden run: 4 layers, 24 sequences, 40 items, one failed cell and one failed measurement; a plan is searched and compared."""
    sweep = sensitivity(4, 24)
    failed = sweep.measurements[5].model_copy(update={"kl_nats": None, "failure": "NonFiniteError: NaN in the logits"})
    sweep = sweep.model_copy(update={"measurements": (*sweep.measurements[:5], failed, *sweep.measurements[6:])})
    found: list[Record] = []
    for variant, right in (("bf16", 34), ("w8", 34), ("w4", 31), ("w2", 12)):
        found += [accuracy("science_mini", variant, right, items=40), latency(variant, "decode", 1.0), memory(variant, 4)]
    found.append(FailedCell(variant="w2", of="latency", detail="prefill-b1-p64", reason="out of memory"))
    found.append(accuracy("science_mini", PLAN, 33, items=40))
    found += make_domains.domains(variants=("w4", "plan"))
    return [*found, divergence(sensitivity(4, 24), "w4", 1.2), layers_cell(4), sweep, *plan_cells(sweep, 4)]


GOLDEN = ("summary.md", "overview_diagram.md", "technical_diagram.md", "analysis.json", "plan.json")
"""Files of a report that are kept as goldens: the texts. The page and the images hold megabytes of a library."""


def golden() -> None:
    """Rewrite tests/golden, as ``pytest --update-goldens`` does."""
    from bitzones.report.writer import write_report

    folder = Path(__file__).parent / "golden"
    folder.mkdir(exist_ok=True)
    analysis = analyse(read_run(write(folder, run_dict(small()))))
    with tempfile.TemporaryDirectory() as scratch:
        for path in write_report(analysis, Path(scratch)):
            if path.name in GOLDEN:
                shutil.copyfile(path, folder / path.name)
