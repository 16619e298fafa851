"""What is done with a plan: apply it to a model in memory, export it for an engine, verify an export, measure a plan made elsewhere.

Torch is imported when one of these functions is called, after everything that can be checked without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bitzones.analysis.plan import Plan
from bitzones.analysis.reader import RunFile, add_plan, read_run
from bitzones.api.analyzing import Analysis
from bitzones.deploy import plan_file
from bitzones.deploy.export_request import ExportRequest, Notify, silent
from bitzones.deploy.exported import Exported
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.targets import target
from bitzones.schema.errors import ArgumentError, RunFileError
from bitzones.schema.plan_cells import PlansCell
from bitzones.schema.requirements import needs
from bitzones.schema.sensitivity_cells import SensitivityCell

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bitzones.run.engine_check import EngineCheck

__all__ = [
    "DEVICE",
    "PlanLike",
    "apply",
    "check_device",
    "export",
    "measure_export",
    "measure_plan",
    "plan_file_of",
    "read_plan",
    "verify_export",
]

PlanLike: TypeAlias = Analysis | Plan | Path | str
"""An analysis whose plan is meant, a plan, or the path of a plan.json."""

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
"""Names of devices."""


def read_plan(path: Path | str) -> Plan:
    """Read and check a plan.json.

    Args:
        path: of the file, written by ``bitzones run``, ``bitzones collect`` or `bitzones.Plan.write`.

    Returns:
        The plan.

    Raises:
        PlanError: the file is missing, unreadable, truncated, no plan, of another schema, holds a key or value that is not allowed,
            contradicts itself, names no model, or quantizes nothing.

    Example:
        >>> plan = bitzones.read_plan("plan.json")
        >>> plan.formats["model.layers.3.o_proj"], plan.average_bits
        ('qint2:hqq', 3.829861111111111)
    """
    return plan_file.read_plan(Path(path)).plan


def plan_file_of(plan: PlanLike) -> PlanFile:
    """A plan in whatever form, checked.

    Raises:
        PlanError: as `read_plan`.
        ArgumentError: it is of another type.
    """
    match plan:
        case Analysis():
            return plan_file.check_plan(plan.plan)
        case Plan():
            return plan_file.check_plan(plan)
        case str() | Path():
            return plan_file.read_plan(Path(plan))
    raise ArgumentError(f"expected an analysis, a plan or the path of a plan.json, got a {type(plan).__name__}")


def apply(plan: PlanLike | Mapping[str, str], model: PreTrainedModel) -> PreTrainedModel:
    """Quantize a model in memory by a plan, in place.

    A plan fits only the model that it was made for. Architecture, dtype, module names and sizes are checked always, the SHA-256 of the
    weights where the model was loaded from safetensors that are still there; changes made to the weights in memory do not show in it.
    Everything is checked before the first weight changes. Calibrated formats (``qint4:gptq``, ``qint2:gptq``) are rounded on the
    sequences that the plan holds.

    Args:
        plan: an analysis, a plan, the path of a plan.json, or a mapping of module name or pattern to format, such as
            ``{"model.layers.0.*": "qint8", "*.mlp.*": "qint4"}``: an exact name goes before patterns, an earlier pattern before a later
            one, and modules that are not named stay as they are.
        model: a causal language model of transformers, not quantized yet, on any device.

    Returns:
        The same model, its weights quantized and frozen by quanto.

    Raises:
        PlanError: the plan is wrong, or for another model; a format or name of a mapping is wrong.
        ModelError: the model is quantized already, or a weight did not come out in its format.
        ArgumentError: an argument is of another type.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> from bitzones.embedded import TINY
        >>> from transformers import AutoModelForCausalLM
        >>> model = bitzones.apply("tiny_plan.json", AutoModelForCausalLM.from_pretrained(TINY, dtype="bfloat16"))
        >>> model.model.layers[0].mlp.down_proj.weight_qtype.name
        'qint4'
        >>> model = AutoModelForCausalLM.from_pretrained(TINY, dtype="bfloat16")
        >>> model = bitzones.apply({"*.mlp.*": "qint4", "*.self_attn.*": "qint8"}, model)
        >>> model.model.layers[0].self_attn.q_proj.weight_qtype.name
        'qint8'
    """
    planned = dict(plan) if isinstance(plan, Mapping) else plan_file_of(plan)  # a mistake in the plan is reported before torch is loaded
    with needs("measure"):
        from bitzones.deploy import in_memory  # noqa: PLC0415
    return in_memory.quantize(model, planned) if isinstance(planned, PlanFile) else in_memory.quantize_named(model, planned)


def export(
    plan: PlanLike,
    folder: Path | str,
    *,
    to: str = "quanto",
    model: str | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    force: bool = False,
    recipe: bool = False,
    notify: Notify = silent,
) -> Exported:
    """Quantize a fresh copy of the plan's model and write it for an engine: all of it, or nothing.

    What was written is read back, and where the engine is installed loaded by it, before it is there: no weight may differ. What a target
    cannot hold is refused, never rounded to something else.

    Args:
        plan: an analysis, a plan, or the path of a plan.json.
        folder: to make; may be absent or empty.
        to: what is to load it. ``quanto``: ``QuantizedModelForCausalLM.from_pretrained``; ``mlx``: mlx-lm; ``gguf``:
            llama.cpp; ``compressed-tensors``: vLLM; ``auto-round``: transformers with AutoRound; ``gptq``: GPTQModel. Or a recipe for a
            tool that quantizes by itself: ``llama-quantize``, ``modelopt``, ``llm-compressor``, and ``auto-round`` and ``gptq`` where the
            plan has no ``int`` formats, whose weights these two hold.
        model: source of the model, where it is not where the plan says; its weights must have the plan's SHA-256.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``: where to quantize.
        trust_remote_code: let code that comes with the model run, if the plan asks for it.
        force: replace the folder of an earlier export.
        recipe: write a recipe to ``auto-round`` or ``gptq`` for a plan of ``int`` formats too.
        notify: called with one line per step.

    Returns:
        What was made: the folder, the bytes of all weights before and after, the number of modules by format, how each is stored, and how
        that was checked.

    Raises:
        PlanError: the plan is wrong or does not fit the model, or asks for code that was not allowed, or the target cannot hold a format.
        ModelError: the model cannot be loaded, quantized, saved, or reloaded as it was.
        OutputError: the folder is taken or cannot be written.
        DeviceError: there is no such device.
        ArgumentError: there is no such target or device name, the target is never a recipe, or the plan is of another type.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> made = bitzones.export("tiny_plan.json", "model")
        >>> made.modules, made.bytes_after < 0.6 * made.bytes_before
        ({'qint2:hqq': 56, 'qint4': 28}, True)
    """
    planned = plan_file_of(plan)
    check_device(device)
    with needs("measure"):
        write = target(to, recipe=recipe)
        from bitzones.devices import device as devices  # noqa: PLC0415
    return write(
        ExportRequest(
            planned,
            Path(folder),
            devices.resolve(device),
            source=model,
            trust_remote_code=trust_remote_code,
            force=force,
            recipe=recipe,
            notify=notify,
        )
    )


def verify_export(folder: Path | str, *, device: str = "cpu", notify: Notify = silent) -> str | None:
    """Verify an existing export: file hashes, formats, group sizes, and what the model computes on fixed tokens.

    Args:
        folder: written by `bitzones.export` or ``bitzones apply``.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``: where to compute.
        notify: called with one line per step.

    Returns:
        None where it matches the export, else the first difference in one line.

    Raises:
        PlanError: the folder or its record cannot be read.
        ModelError: the model cannot be loaded.
        DeviceError: there is no such device.
        ArgumentError: the device's name is none.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> bitzones.verify_export("model") is None
        True
    """
    check_device(device)
    with needs("measure"):
        from bitzones.deploy import verify  # noqa: PLC0415
        from bitzones.devices import device as devices  # noqa: PLC0415
    return verify.check(Path(folder), devices.resolve(device), notify)


def measure_export(
    folder: Path | str, run: Path | str, *, engine: str, tolerance: float | None = None, notify: Notify = silent
) -> EngineCheck:
    """Measure an exported model in its engine, on the held-out tokens of the run that its plan comes from.

    Args:
        folder: written by `bitzones.export` or ``bitzones export``, with weights, to ``mlx``, ``gguf``, ``compressed-tensors``,
            ``auto-round`` or ``gptq``.
        run: path of the run file.
        engine: ``mlx``, ``llama.cpp``, ``transformers`` or ``gptqmodel``.
        tolerance: nats per token that the engine may cost; by default 0.02.
        notify: called with one line per step.

    Returns:
        KL to the reference in nats per token with intervals: ``shares["quantization"]`` (reference to stored weights), ``shares["engine"]``
        (stored weights to engine) and ``shares["total"]``; ``exceeds`` tells whether the engine's share is larger than the tolerance.

    Raises:
        RunFileError: the run file cannot be used.
        PlanError: the folder is no export, not whole, or of another model or run.
        ModelError: the engine does not load it, or the run's model cannot be loaded.
        NonFiniteError: a logit is NaN or infinite.
        ArgumentError: there is no such engine, or it loads no such folder.
        MissingPackageError: the engine is not installed.

    Example:
        >>> found = bitzones.measure_export("model-mlx", "report/run.json", engine="mlx")  # doctest: +SKIP
        >>> found.shares["engine"].value, found.exceeds  # doctest: +SKIP
        (0.0041, False)
    """
    measured = read_run(run).run
    with needs("measure"):
        from bitzones.run import engine_check  # noqa: PLC0415
    allowed = engine_check.TOLERANCE_NATS if tolerance is None else tolerance
    return engine_check.check(Path(folder), engine, measured.profile, allowed, notify)


def check_device(device: str) -> None:
    """Refuse what is no name of a device.

    Raises:
        ArgumentError: it is none.
    """
    if not DEVICE.fullmatch(device):
        raise ArgumentError(f"{device!r} is not a device: cpu, cuda, cuda:N or auto")


def measure_plan(run: Path | str, plan: Path | str, output: Path | str, *, notify: Notify = silent) -> RunFile:
    """Measure a plan that was made elsewhere beside those of a run, on the same held-out sequences and the same items.

    Args:
        run: path of a run file that holds a sensitivity sweep and whole plans. The file stays as it is, unless it is ``output``.
        plan: path of a plan.json, or of a JSON object of module name or pattern to format. The plan is named by its file.
        output: path of the run file to write: a copy of the run with that plan in it.
        notify: called with one line per step.

    Returns:
        The new run.

    Raises:
        RunFileError: the run file cannot be used, or has no sweep or whole plans.
        PlanError: the plan is wrong or does not fit the run.
        ModelError: the model is not the one that the run measured, or cannot be loaded.
        OutputError: the run file cannot be written.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> run = bitzones.measure_plan("report/run.json", "other.json", "verified/run.json")  # doctest: +SKIP
        >>> bitzones.analyze(run).plans.named("other").measured.value  # doctest: +SKIP
        0.0412
    """
    found = read_run(run)
    swept, whole = found.of(SensitivityCell), found.of(PlansCell)
    if not swept or not whole:
        raise RunFileError(f"{run}: it has no sweep and no whole plans, beside which another could be measured")
    with needs("measure"):
        from bitzones.run import external_plan  # noqa: PLC0415
    verified = external_plan.measure(found.run, swept[0], whole[0], Path(plan), notify)
    return add_plan(run, Path(output), verified.trial, verified.answers)
