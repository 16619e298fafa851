"""Tuning of a plan. Torch is imported when it is called, after everything that can be checked without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bitzones.analysis.plan import Plan
from bitzones.api.planning import PlanLike, check_device, plan_file_of
from bitzones.deploy.export_request import ExportRequest, Notify, silent
from bitzones.schema.errors import ArgumentError
from bitzones.schema.profile_sections import Tuning
from bitzones.schema.requirements import needs
from bitzones.schema.validation_errors import first_error

if TYPE_CHECKING:
    from bitzones.data.text import Texts

__all__ = ["tune"]


def tune(
    plan: PlanLike,
    output: Path | str,
    *,
    text: Sequence[Texts] = (),
    tokens: int | None = None,
    passes: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    norms: bool = False,
    sequence_tokens: int = 256,
    seed: int = 0,
    model: str | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    force: bool = False,
    resume: bool = False,
    notify: Notify = silent,
) -> Plan:
    """Train what a plan stores beside its integers, so that the model predicts what the reference does; the bytes do not change.

    Scales and shifts of all modules of at most 4 bits are trained together on KL(reference || plan), and rounded as quanto stores them.
    A part of the text is kept aside: training ends when it gains nothing on that part any more, and the best state is the result. The
    tuned plan is written to ``output``, its weights beside it as a safetensors file of the same name; `apply` and `export` need both.

    Args:
        plan: an analysis, a plan, or the path of a plan.json, not tuned yet.
        output: path of the plan.json to write.
        text: what to tune on, in equal shares: paths of text files or data sets, hub ids, ``embedded:docs``, lists of strings. By default
            the calibration sequences that the plan holds. What the model is judged on has no place here.
        tokens: of the text to take; 32,768 by default, all of the plan's own sequences where no text is given.
        passes: most passes over the text; 2 by default.
        batch: sequences of a step; 4 by default.
        learning_rate: highest, in steps of a weight's grid; 0.004 by default.
        norms: train the parameters of normalization layers too.
        sequence_tokens: of the longest sequence that is cut from a text.
        seed: of the split and of the order. The same seed gives the same weights on the same machine.
        model: source of the model, where it is not where the plan says; its weights must have the plan's SHA-256.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        trust_remote_code: let code that comes with the model run, if the plan asks for it.
        force: replace ``output`` and its weights.
        resume: continue an interrupted tuning with this output.
        notify: called with one line per step.

    Returns:
        The tuned plan. ``plan.tuning`` says what it was tuned on and what that changed.

    Raises:
        PlanError: the plan is wrong, tuned already, does not fit the model, or tuning did not help: nothing is written then.
        TaskError: a text cannot be read, or holds too few tokens.
        ModelError: the model cannot be loaded or quantized.
        NonFiniteError: the loss became NaN or infinite.
        OutputError: the files are there already, or cannot be written.
        DeviceError: there is no such device.
        ArgumentError: a number is out of its range, the device's name is none, or the plan is of another type.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> tuned = bitzones.tune("tiny_plan.json", "tuned.json", text=["embedded:docs"], tokens=2048, passes=1)
        >>> tuned.tuning.file, tuned.tuning.after < tuned.tuning.before
        ('tuned.safetensors', True)
    """
    planned, settings = plan_file_of(plan), _tuning(tokens=tokens, passes=passes, batch=batch, learning_rate=learning_rate, norms=norms)
    check_device(device)
    with needs("measure"):
        from bitzones.deploy import tuned_plan  # noqa: PLC0415
        from bitzones.devices import device as devices  # noqa: PLC0415
    asked = ExportRequest(planned, Path(output), devices.resolve(device), model, trust_remote_code, force, notify)
    return tuned_plan.tune(tuned_plan.TuneRequest(asked, settings, tuple(text), sequence_tokens, seed, resume))


def _tuning(**given: float | None) -> Tuning:
    """Settings from those that are given.

    Raises:
        ArgumentError: one is out of its range.
    """
    try:
        return Tuning.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = first_error(error)
        raise ArgumentError(f"{first.path} = {first.value!r}: {first.clause}") from error
