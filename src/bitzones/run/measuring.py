"""Measuring from Python: a model in memory or by name, through the same cells, pytest and run file as the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from bitzones.data.text import Texts
from bitzones.run import runner
from bitzones.run.given import MEMORY, Given
from bitzones.run.named_texts import Mixture, NamedTexts, Sources
from bitzones.schema.errors import ModelError, ProfileError
from bitzones.schema.formats import format_bits
from bitzones.schema.profile import PROFILE_SCHEMA, Profile
from bitzones.schema.profile_files import explain
from bitzones.schema.profile_sections import Budget, By, Effort
from bitzones.schema.task_settings import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bitzones.analysis.reader import RunFile

__all__ = ["default_bits", "measure", "profile_of"]

Section: TypeAlias = "Mapping[str, Any]"

COMMON_BITS = 4.0
"""Average bits that most quantized models are shipped at."""
REFERENCE_BITS = 16

DTYPES = ("bfloat16", "float16", "float32")
"""In which a model may be stored."""


def measure(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    formats: Sequence[str],
    tasks: Iterable[str | Mapping[str, Any] | Task] = (),
    sensitivity_text: Texts | Mixture | None = None,
    calibration_text: Texts | Mixture | None = None,
    domains: Mapping[str, Texts | Mapping[str, Any]] | None = None,
    budget: float | str | Mapping[str, Any] | Budget | None = None,
    by: By | None = None,
    effort: Effort | None = None,
    output: str | Path | None = None,
    device: str | None = None,
    seed: int = 0,
    resume: bool = False,
    select: str | None = None,
    settings: Section | None = None,
) -> RunFile:
    """Quantize a model to every format and measure it: accuracy, likelihood, latency, memory, sensitivities and whole plans.

    Args:
        model: a hub id, a folder, a ``.gguf`` file or any other source of a profile; or a ``PreTrainedModel`` in memory, which is copied
            and stays as it is. It has to be stored in bfloat16, float16 or float32.
        tokenizer: of a model in memory; of any other, in place of its own.
        formats: such as ``("qint8", "qint4", "qint2:hqq")``.
        tasks: what is answered: names, or a mapping of a profile's keys (``{"name": "arc_easy", "limit": 200}``). None may be named where
            there are texts.
        sensitivity_text: what sensitivities are measured and plans are judged on, in place of the tasks' train splits: a list of strings, a
            ``datasets.Dataset`` with a column ``text``, a path, a hub id (``owner/name`` or ``owner/name:config``), ``tasks``,
            ``generated`` or ``random``; or a list of several such sources with their shares: ``[("tasks", 0.5), (documents, 0.5)]``.
        calibration_text: what formats with ``:gptq`` are calibrated on; where it is left out, documents of ``sensitivity_text`` that
            nothing else has used.
        domains: name -> text on which the perplexity and the divergence of every variant are measured, in no set; or a mapping of a
            profile's keys (``{"source": documents, "tokens": 4096}``).
        budget: average bits per weight (`default_bits` where it is left out); or ``"like:w4"``, no worse than that variant; or a mapping
            of a profile's ``[budget]``.
        by: ``task`` or ``domain``: also make a plan of the same size for each task, or for each source of ``sensitivity_text``, and
            measure each on the text of all; None is what ``settings`` say of ``plans.by``.
        effort: ``full`` measures every unit and format on all sequences; ``adaptive`` on as many as the plan and the zones need; None is
            what ``settings`` say of ``sensitivity.effort``.
        output: folder of ``run.json``; a temporary one that is kept where it is left out (``run.path`` names it).
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``; where it is left out, that of a model in memory, else ``auto``.
        seed: of everything that is drawn.
        resume: whether to go on where an earlier call into ``output`` ended.
        select: an expression of pytest's ``-k`` that picks cells, such as ``"accuracy or memory"``.
        settings: any other key of a profile, as in its TOML: ``{"latency": {"rounds": 5}, "calibration": {"tokens": 4096}}``.

    Returns:
        The run, read back from its file. Cells that failed are in it, with their reasons.

    Raises:
        ProfileError: an argument is not what a profile allows.
        ModelError: the model cannot be loaded, or is quantized already.
        MeasureError: nothing could be measured.
        OutputError: the folder cannot be written, or another run is writing there.

    Example:
        >>> import bitzones
        >>> run = bitzones.measure(model, tokenizer, formats=["qint8", "qint4"], sensitivity_text=documents)  # doctest: +SKIP
        >>> bitzones.analyze(run).plan.kl.high  # doctest: +SKIP
        0.021
    """
    from bitzones.analysis.reader import read_run

    in_memory = None if isinstance(model, str | Path) else model
    texts = NamedTexts()
    text = {"sensitivity": texts.mixture(sensitivity_text), "calibration": texts.mixture(calibration_text)}
    kinds = [texts.domain(name, found) for name, found in (domains or {}).items()]
    given = Given(in_memory, tokenizer, texts.in_memory)
    chosen = profile_of(
        str(model) if in_memory is None else in_memory,
        formats=formats,
        tasks=tasks,
        text={name: found for name, found in text.items() if found},
        domains=kinds,
        budget=budget,
        device=device,
        seed=seed,
        settings=settings or {},
    )
    folder = Path(tempfile.mkdtemp(prefix="bitzones-")) if output is None else Path(output)
    with runner.alone(folder):
        outcome = runner.measure(chosen, folder, by=by, effort=effort, resume=resume, given=given, select=select)
        found = read_run(outcome.run_file)
        outcome.settle()
    return found


def profile_of(
    model: str | PreTrainedModel,
    *,
    formats: Sequence[str],
    tasks: Iterable[str | Mapping[str, Any] | Task] = (),
    text: Mapping[str, Sources],
    domains: Sources = (),
    budget: float | str | Mapping[str, Any] | Budget | None,
    device: str | None,
    seed: int,
    settings: Section,
) -> Profile:
    """The profile of arguments of `measure`: what a TOML file would say, and what the run file records.

    Raises:
        ProfileError: an argument is not what a profile allows.
        ModelError: a model in memory is stored in a dtype that cannot be a reference.
    """
    sections: dict[str, Any] = {key: value for key, value in settings.items() if key != "model"}
    for name, found in text.items():  # one source for a whole set is read as [text] says, several say it themselves
        short = len(found) == 1 and "share" not in found[0]
        section, said = ("text", {name: found[0]["source"]}) if short else (name, {"text": found})
        sections[section] = {**said, **sections.get(section, {})}
    if domains:
        sections["domains"] = (*domains, *sections.get("domains", ()))
    described = _model(model, device)
    data = {
        "schema": PROFILE_SCHEMA,
        "seed": seed,
        "formats": tuple(formats),
        "tasks": tuple(map(_task, tasks)),
        "budget": _budget(budget, formats),
        "model": {**described, **settings.get("model", {})},
        **sections,
    }
    try:
        return Profile.model_validate(data).resolved()
    except ValidationError as error:
        raise ProfileError(f"bitzones.measure: {explain(error)}") from error


def _task(task: str | Mapping[str, Any] | Task) -> Mapping[str, Any]:
    match task:
        case str():
            return {"name": task}
        case Task():
            return task.model_dump()
        case _:
            return task


def _bits(name: str) -> int | None:
    """Of a format; None where the profile will refuse the name."""
    try:
        return format_bits(name)
    except ValueError:
        return None


def default_bits(formats: Iterable[str]) -> float:
    """Average bits per weight that leave a choice: `COMMON_BITS` where a format is smaller, else halfway to the next larger one.

    >>> default_bits(["qint8", "qint4", "qint2:hqq"]), default_bits(["qint8", "qint4"]), default_bits(["qint4"])
    (4.0, 6.0, 10.0)
    """
    widths = sorted({*filter(None, map(_bits, formats)), REFERENCE_BITS})
    return COMMON_BITS if widths[0] < COMMON_BITS else (widths[0] + widths[min(1, len(widths) - 1)]) / 2


def _budget(budget: float | str | Mapping[str, Any] | Budget | None, formats: Iterable[str]) -> Mapping[str, Any]:
    match budget:
        case None:
            return {"average_bits": default_bits(formats)}
        case str():
            return {"tolerance": budget}
        case Budget():
            return budget.model_dump(exclude_none=True)
        case Mapping():
            return budget
        case _:
            return {"average_bits": float(budget)}


def _model(model: str | PreTrainedModel, device: str | None) -> dict[str, Any]:
    if isinstance(model, str):
        return {"source": model, "device": device or "auto"}
    source = f"{MEMORY}{type(model).__name__}"
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ModelError(f"model {source!r}: it is stored in {dtype}; a reference is stored in one of {', '.join(DTYPES)}")
    return {"source": source, "dtype": dtype, "device": device or str(model.device)}
