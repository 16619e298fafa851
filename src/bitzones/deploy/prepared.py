"""The plan's model, loaded and quantized by the plan: what every export of weights starts from."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from bitzones.backends import quantizing, registry
from bitzones.backends.backend_protocol import Packed
from bitzones.backends.linear import is_quantizable
from bitzones.data import sequences
from bitzones.data.sequences import Batch
from bitzones.deploy import verify
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import PlanFile
from bitzones.devices import device as devices
from bitzones.models import loading, structure, text_config
from bitzones.rounding import layerwise
from bitzones.schema import profile_sections
from bitzones.schema.errors import ArgumentError, ModelError, PlanError
from bitzones.schema.formats import is_calibrated
from bitzones.schema.run_record import CalibrationSet
from bitzones.schema.validation_errors import first_error
from bitzones.tuning import weights_file
from bitzones.tuning.weights_file import StoredWeights

__all__ = [
    "Prepared",
    "calibrated",
    "calibration_batches",
    "check_modules",
    "computing",
    "load",
    "more",
    "no_bars",
    "opened",
    "ready",
]

Notify = Callable[[str], None]
Check = Callable[[PreTrainedModel], None]


def _accept(model: PreTrainedModel) -> None:
    """Refuse nothing: what a target may ask of a model beyond what every target asks."""


@dataclass(frozen=True)
class Prepared:
    """A model quantized in place by its plan.

    ``tensors`` names those of the dense model, tied ones under each of their names; ``layers`` is quantizable module -> number of its
    layer; ``bytes_before`` is of all weights in the model's own dtype; ``tied`` tells whether its embeddings are its head, still.
    """

    plan_file: PlanFile
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: profile_sections.Model
    tensors: tuple[str, ...]
    layers: dict[str, int]
    bytes_before: int
    tied: bool

    @property
    def counts(self) -> dict[str, int]:
        """Modules by the plan's format, the most frequent first."""
        return dict(Counter(self.plan_file.plan.assignment.values()).most_common())

    @property
    def unnamed(self) -> int:
        """Quantizable modules that the plan does not mention."""
        return len(set(self.layers) - set(self.plan_file.plan.assignment))

    def dense(self) -> dict[str, torch.Tensor]:
        """The tensors that stay as they are, by name in the model's own order; a tied one under its first name only."""
        packed, found = {f"{name}.weight" for name in self.plan_file.formats}, dict[str, torch.Tensor]()
        seen: set[int] = set()
        for name in self.tensors:
            if name not in packed and (tensor := _tensor(self.model, name)).data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                found[name] = tensor
        return found


def _tensor(model: torch.nn.Module, name: str) -> torch.Tensor:
    owner, _, own = name.rpartition(".")
    module = model.get_submodule(owner)
    found = module._parameters.get(own)
    tensor = module._buffers[own] if found is None else found.data
    assert tensor is not None
    return tensor


def load(request: ExportRequest, check: Check = _accept) -> Prepared:
    """Load a fresh copy of the plan's model and quantize it in place.

    Args:
        request: what is exported; its folder is not written.
        check: what the target asks of the dense model; raises before anything is quantized.

    Raises:
        PlanError: the plan does not fit the model, or asks for code that the user did not allow.
        ModelError: the model cannot be loaded or quantized.
    """
    plan_file = request.plan_file
    settings, loaded = opened(request)
    model, tokenizer = loaded.model, loaded.tokenizer
    check(model)
    del loaded
    tensors, layers = tuple(model.state_dict()), structure.quantizable_modules(model)
    bytes_before = structure.model_bytes(model, {})
    tied = structure.tied_embeddings(model) and _head(model) not in plan_file.formats  # a quantized head is a tensor of its own
    request.notify(f"quantizing {len(plan_file.formats)} modules")
    weights = ready(model, plan_file, request.device)
    quantizing.quantize(model, plan_file.formats, weights.packed)
    weights.put_dense(model)
    verify.verify(model, plan_file)
    return Prepared(plan_file, model, tokenizer, settings, tensors, layers, bytes_before, tied)


def opened(request: ExportRequest) -> tuple[profile_sections.Model, loading.Loaded]:
    """Load the plan's model as it is, and check that it is the plan's. Raises what `load` raises."""
    settings = _settings(request.plan_file, request.source, trust_remote_code=request.trust_remote_code)
    request.notify(f"loading {settings.source!r}")
    loaded = loading.load(settings, request.device)
    _check_model(request.plan_file, settings.source, loaded)
    return settings, loaded


def _settings(plan_file: PlanFile, source: str | None, *, trust_remote_code: bool) -> profile_sections.Model:
    planned = plan_file.model
    if planned.trust_remote_code and not trust_remote_code:
        raise PlanError(
            "the plan wants to run code that comes with its model: look at that code, and if you trust it, say so with --trust-remote-code"
        )
    taken = source if source is not None else planned.source
    pinned: dict[str, str] = {"sha256": planned.sha256} if taken.startswith("pypi:") else {}
    if source is None and planned.revision is not None:
        pinned["revision"] = planned.revision
    try:
        return profile_sections.Model.model_validate(
            {
                "source": taken,
                "dtype": planned.dtype,
                "trust_remote_code": planned.trust_remote_code and trust_remote_code,
                "allow_unexpected_weights": True,  # the run allowed them, and the hash says that the files are the same
                **pinned,
            }
        )
    except ValidationError as error:
        raise PlanError(f"model source {taken!r}: {first_error(error).message}") from error


def _head(model: PreTrainedModel) -> str | None:
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def ready(model: PreTrainedModel, plan_file: PlanFile, device: torch.device) -> StoredWeights:
    """Weights of a plan that quantizing module by module would not give: tuned ones from their file, else calibrated ones.

    Raises:
        PlanError: the file is missing, another one or of another model; or as `calibrated`.
    """
    place, tuned = plan_file.weights, plan_file.plan.tuning
    if place is None or tuned is None:
        return StoredWeights(calibrated(model, plan_file, device))
    return weights_file.read(place, tuned.sha256, model, plan_file.formats)


def calibrated(model: PreTrainedModel, plan_file: PlanFile, device: torch.device) -> dict[str, Packed]:
    """All weights of a plan with calibrated formats, which depend on each other; nothing for another plan.

    Raises:
        PlanError: the plan's sequences are not this model's.
    """
    made = plan_file.plan.calibration
    if made is None or not any(map(is_calibrated, plan_file.formats.values())):
        return {}
    batches = calibration_batches(model, made, device)
    return layerwise.in_sequence(computing(model, plan_file, device), plan_file.formats, batches, model.dtype, made.damping).weights


def calibration_batches(model: PreTrainedModel, made: CalibrationSet, device: torch.device) -> list[Batch]:
    """The sequences that a plan's calibrated formats were rounded on, in the same batches.

    Raises:
        PlanError: they are not this model's.
    """
    retold = sequences.retold(made.sequences)
    largest = max(max(sequence.ids) for sequence in retold.sequences)
    if retold.sha256 != made.sequences_sha256 or largest >= text_config.vocabulary(model):
        raise PlanError("the plan's calibration sequences are not whole, or not for this model's tokenizer")
    return list(sequences.batches(retold, made.batch, device))


def computing(model: PreTrainedModel, plan_file: PlanFile, device: torch.device) -> PreTrainedModel:
    """A copy of the plan's model in the dtype in which it was measured."""
    made = copy.deepcopy(model)
    quantizing.set_compute_dtype(made, devices.compute_dtype(device, plan_file.model.compute_dtype, model.dtype))
    return made


def _check_model(plan_file: PlanFile, source: str, loaded: loading.Loaded) -> None:
    """Before anything is quantized: the plan is for this very model."""
    planned, model = plan_file.model, loaded.model
    if loaded.sha256 != planned.sha256:
        raise PlanError(
            f"the plan is for other weights: SHA-256 of those of {source!r} is {loaded.sha256[:12]}..., the plan says "
            f"{planned.sha256[:12]!r}...; give the model that was measured with --model"
        )
    if type(model).__module__.partition(".")[0] != "transformers":
        raise ModelError(f"{source!r} is made of code that comes with it, and quanto reloads only what transformers itself has")
    check_modules(plan_file, model, source)


def check_modules(plan_file: PlanFile, model: PreTrainedModel, source: str) -> None:
    """The model has the plan's architecture and all its modules.

    Raises:
        PlanError: naming the first difference.
    """
    try:
        registry.check(plan_file.formats.values())
    except ArgumentError as error:
        raise PlanError(f"the plan's {error}") from error
    if type(model).__name__ != plan_file.model.architecture:
        raise PlanError(f"the plan is for {plan_file.model.architecture!r}, and {source!r} is {type(model).__name__}")
    names = dict(model.named_modules())
    if unknown := [name for name in plan_file.plan.assignment if name not in names]:
        raise PlanError(f"the plan names {unknown[0]!r}{more(unknown)}, and {type(model).__name__} has no such module")
    if dense := [name for name in plan_file.formats if not is_quantizable(names[name])]:
        raise PlanError(f"the plan quantizes {dense[0]!r}{more(dense)}, which cannot be: a {type(names[dense[0]]).__name__}")


def more(names: list[str]) -> str:
    """What follows the first of several names: that there are others."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep transformers' own progress bars off the screen: they are not ours to show, and are drawn where there is no terminal too."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
