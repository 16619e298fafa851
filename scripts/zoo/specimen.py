"""One architecture from a saved folder to a plan that is applied and reloaded, with everything in between, or the line that refuses it."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import bitzones
from bitzones.embedded import TINY
from bitzones.schema.records import FailedCell, LatencyCell, MemoryCell
from scripts.zoo import invariants
from scripts.zoo.architectures import BY_HAND
from scripts.zoo.shrink import tiny_config

__all__ = ["Found", "examine", "save"]

Status: TypeAlias = Literal["supported", "in part", "refused", "fault"]

FORMATS = ("qint8", "qint4", "qint2:hqq", "qint4:gptq")
SETTINGS: dict[str, Any] = {
    "sensitivity": {"tokens": 60, "batch": 8, "fisher_samples": 1},
    "held_out": {"tokens": 60},
    "calibration": {"tokens": 300},
    "plans": {"rounds": 1, "random": 1},
    "latency": {"prompt_tokens": 8, "new_tokens": 2, "rounds": 2, "warmup_rounds": 1},
    "zones": {"resamples": 20},
}
TASKS = ({"name": "science_mini", "limit": 4, "batch": 4}, {"name": "word_problems_mini", "limit": 2, "batch": 2})


@dataclass(frozen=True)
class Found:
    """What became of an architecture.

    ``quantized`` is the share of the decoder layers' weights that can be quantized; ``stays`` names what cannot be, and ``not_measured``
    the measurements that were left out, each with the reason. ``line`` says why the whole was refused, or what broke.
    """

    name: str
    status: Status
    architecture: str = ""
    quantized: float = 0.0
    stays: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()
    line: str = ""
    replayed: Literal["", "exact", "bound"] = ""
    measured: dict[str, int] = field(default_factory=dict)


def save(name: str, folder: Path) -> PreTrainedModel | None:
    """A random model of an architecture in a folder, with the embedded tokenizer, as a user would have it.

    None where transformers has no causal model of it: then the folder holds some other class that takes the configuration.
    """
    kind = CONFIG_MAPPING[name.partition(":")[0]]
    config = tiny_config(kind, BY_HAND.get(name))
    torch.manual_seed(0)
    model = _model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)  # logits of weights as they are drawn hardly differ
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return model


def _model(config: PretrainedConfig) -> Any:
    if type(config) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM.from_config(config)
    return transformers.AutoModelForImageTextToText.from_config(config)


def examine(name: str, folder: Path) -> Found:
    """Make the architecture in a folder, and measure it there; nothing that happens to it is raised."""
    try:
        with warnings.catch_warnings(), (folder / "log.txt").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            warnings.simplefilter("ignore")
            model = save(name, folder / "model")
            return _measured(name, type(model).__name__, folder)
    except AssertionError as error:
        return Found(name, "fault", line=f"{error}")
    except Exception as error:  # noqa: BLE001  (whatever breaks is what is looked for)
        place = _where(error)
        return Found(name, "fault", line=f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({place})")


def _where(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"


def _measured(name: str, architecture: str, folder: Path) -> Found:
    source = folder / "model"
    try:
        run = bitzones.measure(
            source, formats=FORMATS, tasks=TASKS, budget=5.0, output=folder / "run", device="cpu", settings=SETTINGS
        )
    except bitzones.BitzonesError as error:
        return Found(name, "refused", architecture, line=_said(error, folder))
    failures = run.of(FailedCell)
    broken = [cell for cell in failures if cell.status == "failed"]
    assert not broken, f"{broken[0].of} {broken[0].variant} {broken[0].detail}: {broken[0].reason}"
    exact = invariants.check(source)
    analysis = bitzones.analyze(run)
    assert analysis.plan is not None, "no plan"
    bitzones.export(analysis.plan, folder / "applied")
    invariants.check_applied(analysis.plan, source, folder / "applied", run.of(MemoryCell))
    info = run.run.model
    assert info is not None
    shares = invariants.shares(source)
    stays = [f"{kind} ({100 * count / sum(shares.values()):.0f}%)" for kind, count in sorted(shares.items()) if kind]
    staying = [f"{format_}: {why} ({len(modules)} modules)" for format_, found in info.staying.items() for why, modules in found.items()]
    not_measured = sorted({f"{cell.of}: {cell.reason}" for cell in failures})
    partly = bool(stays or staying or not_measured)
    return Found(
        name,
        "in part" if partly else "supported",
        info.architecture,
        shares[""] / sum(shares.values()),
        (*stays, *staying),
        tuple(not_measured),
        replayed="exact" if exact else "bound",
    )


def _said(error: Exception, folder: Path) -> str:
    return " ".join(str(error).replace(str(folder), "...").split())
