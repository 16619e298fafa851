"""One architecture from a saved folder to a plan that is applied and reloaded, with everything in between, or the line that refuses it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import transformers
from scripts.zoo import checks
from scripts.zoo.architectures import BY_HAND
from scripts.zoo.shrink import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import bitzones
from bitzones.embedded import TINY
from bitzones.schema.cells import FailedCell
from bitzones.schema.performance_cells import MemoryCell
from bitzones.schema.run_record import ModelInfo

__all__ = ["Found", "examine", "save"]

Status: TypeAlias = Literal["supported", "in part", "refused", "fault"]

_FIGURE = re.compile(r"up to [-\d.e]+ nats off")
_REFUSAL = re.compile(r": \w+Error: ")
FORMATS = ("qint8", "qint4", "qint2:hqq", "qint4:gptq")
BITS = 5.0
TASKS = ({"name": "science_mini", "limit": 4, "batch": 4}, {"name": "word_problems_mini", "limit": 2, "batch": 2})
SETTINGS: dict[str, Any] = {
    "sensitivity": {"tokens": 60, "batch": 8, "fisher_samples": 1},
    "held_out": {"tokens": 60},
    "calibration": {"tokens": 300},
    "plans": {"rounds": 1, "random": 1},
    "latency": {"prompt_tokens": 8, "new_tokens": 2, "rounds": 2, "warmup_rounds": 1},
    "zones": {"resamples": 20},
}
"""As few tokens as every measurement takes. The embedded tasks are read: their prompts are a few dozen tokens long."""


@dataclass(frozen=True)
class Found:
    """What became of an architecture.

    Args:
        name: its row (`architectures.ZOO`).
        status: what it comes to; a fault is what must not be.
        architecture: class of the model.
        stays: what stays in the reference's format, and why.
        left_out: what is not measured or not written, and why.
        line: why the whole is refused, or what broke.
    """

    name: str
    status: Status
    architecture: str = ""
    stays: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    line: str = ""


def save(name: str, folder: Path) -> str:
    """Save a random model of an architecture in bfloat16, with the embedded tokenizer, as a user would have it; gives its class."""
    torch.manual_seed(0)
    model = _drawn(tiny_config(CONFIG_MAPPING[name.partition(":")[0]], BY_HAND.get(name)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)  # logits of weights as they are drawn hardly differ
    model.save_pretrained(folder)
    type(model).from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)  # what the class keeps in float32 stays
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return type(model).__name__


def _drawn(config: PretrainedConfig) -> PreTrainedModel:
    """A causal model, or where transformers has none of a configuration, its model of images and text."""
    kinds = (AutoModelForCausalLM, transformers.AutoModelForImageTextToText)
    kind = next(kind for kind in kinds if type(config) in kind._model_mapping)
    made_by: Any = kind  # transformers leaves this function untyped
    model: PreTrainedModel = made_by.from_config(config)
    return model


def examine(name: str, folder: Path) -> Found:
    """Make the architecture in a folder, and measure it there; whatever happens to it is in what is returned."""
    architecture = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            architecture = save(name, folder / "model")
            return _measured(name, architecture, folder)
    except AssertionError as error:
        return Found(name, "fault", architecture, line=f"{error}")
    except Exception as error:  # noqa: BLE001  (whatever breaks is what is looked for)
        return Found(name, "fault", architecture, line=f"{type(error).__name__}: {_said(error, folder)[:300]} ({_where(error)})")


def _where(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"


def _measured(name: str, architecture: str, folder: Path) -> Found:
    source = folder / "model"
    try:
        run = bitzones.measure(source, formats=FORMATS, tasks=TASKS, budget=BITS, output=folder / "run", device="cpu", settings=SETTINGS)
    except bitzones.BitzonesError as error:
        return Found(name, "refused", architecture, line=_said(error, folder))
    failures = run.of(FailedCell)
    for cell in failures:
        assert cell.status == "not measured", f"{cell.of} {cell.variant} {cell.detail}: {cell.reason}"
    checks.check(source)
    assert run.run is not None
    assert run.run.model is not None
    stays = _stays(run.run.model)
    left_out = (*dict.fromkeys(_named(cell) for cell in failures), *_applied(run, source, folder))
    return Found(name, "in part" if stays or left_out else "supported", architecture, stays, left_out)


def _named(cell: FailedCell) -> str:
    return cell.reason if cell.reason.startswith(f"{cell.of}:") else f"{cell.of}: {cell.reason}"


def _stays(model: ModelInfo) -> tuple[str, ...]:
    """What is left in the reference's format: kinds of modules, and shapes that quanto takes on no machine.

    A kernel that crashes or is wrong does so on some processors only, and says nothing of the architecture.
    """
    shapes: dict[str, list[str]] = {}
    for format_, found in model.staying.items():
        for why in filter(_REFUSAL.search, found):
            shapes.setdefault(why, []).append(format_)
    kinds = sorted(kind for kind in model.not_quantizable)
    return (*kinds, *(f"{', '.join(formats)}: {why}" for why, formats in shapes.items()))


def _applied(run: bitzones.RunFile, source: Path, folder: Path) -> Iterable[str]:
    """Apply the plan in memory and as a checkpoint; gives the line with which the checkpoint is refused, if it is."""
    plan = bitzones.analyze(run).plan
    assert plan is not None, "there is no plan"
    try:
        bitzones.export(plan, folder / "applied")
    except bitzones.BitzonesError as error:
        checks.check_in_memory(plan, source)
        return (f"apply: {_said(error, folder)}",)
    checks.check_applied(plan, source, folder / "applied", run.of(MemoryCell))
    return ()


def _said(error: Exception, folder: Path) -> str:
    """An error in one line, without what another machine or another folder would have it say."""
    return _FIGURE.sub("off", " ".join(str(error).replace(str(folder), "FOLDER").split()))
