"""A plan applied to a model in memory, in place. Everything is checked before the first weight changes."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from pydantic import ValidationError
from transformers import PreTrainedModel

from bitzones.backends import quantizing, registry
from bitzones.backends.weights import packed_weights
from bitzones.deploy import verify
from bitzones.deploy.plan_file import FORMATS, PlanFile
from bitzones.deploy.prepared import check_modules, ready
from bitzones.models import sources, structure
from bitzones.schema import profile_sections
from bitzones.schema.errors import ArgumentError, ModelError, PlanError
from bitzones.schema.formats import REFERENCE_NAMES, is_calibrated

__all__ = ["by_name", "quantize", "quantize_named"]

MEMORY = "memory:"
"""Opens the source of a model that was measured in memory."""


@torch.no_grad()  # a model as a user loads it would record the search for scales
def quantize(model: PreTrainedModel, plan_file: PlanFile) -> PreTrainedModel:
    """Quantize the model that a plan was made for, in place, and return it.

    Raises:
        ArgumentError: it is no `PreTrainedModel`.
        ModelError: it is quantized already, or a weight did not come out in its format and group size.
        PlanError: the plan is for another model: architecture, dtype, modules, sizes or the hash of the files it was loaded from differ.
    """
    _check_dense(model)
    _check_same(model, plan_file)
    weights = ready(model, plan_file, model.device)
    quantizing.quantize(model, plan_file.formats, weights.packed)
    weights.put_dense(model)
    verify.verify(model, plan_file)
    return model


@torch.no_grad()
def quantize_named(model: PreTrainedModel, formats: Mapping[str, str]) -> PreTrainedModel:
    """Quantize modules by name or pattern, in place, and return the model.

    Raises:
        ArgumentError: it is no `PreTrainedModel`.
        ModelError: it is quantized already, or a named module cannot be quantized.
        PlanError: a format that does not exist or needs sensitivity sequences, or a name that matches no module.
    """
    _check_dense(model)
    quantizing.quantize(model, by_name(formats, model))
    return model


def by_name(formats: Mapping[str, str], model: PreTrainedModel) -> dict[str, str]:
    """Module to format from module name or pattern to format; an exact name goes before patterns, an earlier pattern before a later one.

    Patterns match quantizable modules of the decoder layers; a module outside them, such as the head, takes its exact name. The name of
    a dense dtype (``bf16``, ``fp16``, ``fp32``) leaves a module as it is.

    Raises:
        PlanError: as `quantize_named`.
    """
    inside, names = structure.quantizable_modules(model), dict(model.named_modules())
    for name in formats:
        if name not in names and not any(fnmatchcase(module, name) for module in inside):
            raise PlanError(f"{name!r} matches no module of {type(model).__name__} that can be quantized, such as {next(iter(inside))!r}")
    exact = {name: format_name for name, format_name in formats.items() if name in names}
    patterns = {module: next((formats[name] for name in formats if fnmatchcase(module, name)), None) for module in inside}
    asked = {**{name: format_name for name, format_name in patterns.items() if format_name is not None}, **exact}
    dense = set(REFERENCE_NAMES.values())
    return _known({name: format_name for name, format_name in asked.items() if format_name not in dense})


def _known(asked: dict[str, str]) -> dict[str, str]:
    try:
        found = FORMATS.validate_python(asked)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = first["msg"].removeprefix("Value error, ")
        raise PlanError(f"format {first['input']!r} of module {first['loc'][0]!r}: {what}") from error
    if not found:
        raise PlanError("it leaves every module as it is: there is nothing to apply")
    try:
        registry.check(found.values())
    except ArgumentError as error:
        raise PlanError(str(error)) from error
    for name, format_name in found.items():
        if is_calibrated(format_name):
            raise PlanError(f"module {name!r} is to be {format_name}, which takes sensitivity sequences: give a plan, which holds them")
    return found


def _check_dense(model: Any) -> None:
    """Refuse what is no model, and what is quantized already by quanto or by transformers."""
    if not isinstance(model, PreTrainedModel):
        raise ArgumentError(f"expected a transformers PreTrainedModel in memory, got a {type(model).__name__}; export() takes a name")
    if packed_weights(model):
        raise ModelError("the model is quantized already: load a fresh copy")
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError("the model was loaded quantized (its config has a quantization_config): load it in its own dtype")


def _check_same(model: PreTrainedModel, plan_file: PlanFile) -> None:
    """The plan is for this very model, as far as that can be known of a model in memory."""
    planned, name = plan_file.model, model.name_or_path or type(model).__name__
    check_modules(plan_file, model, name)
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != planned.dtype:
        raise PlanError(f"the plan is for weights in {planned.dtype}, and {name!r} has {dtype}: load it with dtype={planned.dtype!r}")
    weights = {module: model.get_parameter(f"{module}.weight") for module in plan_file.plan.assignment}
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    if size != plan_file.plan.reference_bytes:
        raise PlanError(f"the plan's modules take {plan_file.plan.reference_bytes:,} bytes, and those of {name!r} {size:,}: another model")
    for module, expected in plan_file.group_sizes.items():
        columns = weights[module].shape[1]
        found = quantizing.group_size(plan_file.formats[module], columns)
        if found != expected:
            raise PlanError(f"the plan has group size {expected} for {module!r}, and with its {columns} input features it would be {found}")
    sha256 = _sha256(model, planned.source)
    if sha256 not in {None, planned.sha256}:
        raise PlanError(f"the plan is for other weights: SHA-256 of {name!r} is {sha256[:12]}..., the plan says {planned.sha256[:12]!r}...")


def _sha256(model: PreTrainedModel, planned: str) -> str | None:
    """The model's hash as the plan has it: of its weights where those were measured in memory, else of the safetensors it was loaded from.

    None where the files are not known, or the plan's hash is of others. Changes to weights since they were loaded do not show in it.
    """
    if planned.startswith(MEMORY):
        return structure.weights_sha256(model)
    if planned.endswith(".gguf") or planned.startswith("random:"):  # measured from a file of another kind, or from drawn weights
        return None
    folder = _folder(model)
    if folder is None or not any(folder.glob("*.safetensors")):
        return None
    return sources.locate(profile_sections.Model(source=str(folder.resolve()))).sha256


def _folder(model: PreTrainedModel) -> Path | None:
    """Where the model was loaded from: a folder, or a commit of the hub in its cache."""
    name, commit = model.name_or_path, getattr(model.config, "_commit_hash", None)
    if not name or Path(name).is_dir():
        return Path(name) if name else None
    try:
        config = try_to_load_from_cache(name, "config.json", revision=commit) if commit else None
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None
