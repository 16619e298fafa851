"""Turning a plan into a folder that any user of quanto can load, and not saying that it is done before one was loaded.

quanto fails silently, so everything is read off the tensors: formats and group sizes after freezing, and again after the folder was
reloaded, and what the two models compute has to be the same, bit for bit. This module does not know how a plan was found.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from bitzones.backends.quanto import packing, quantizers, saving, supported
from bitzones.data import sequences
from bitzones.deploy import fingerprint, folders, verify
from bitzones.deploy.model_card import model_card
from bitzones.deploy.plan_file import PlanFile
from bitzones.devices import device as devices
from bitzones.models import loading, structure, text_config
from bitzones.rounding import layerwise
from bitzones.schema import profile_sections
from bitzones.schema.errors import ModelError, PlanError
from bitzones.schema.formats import REFERENCE_NAMES, is_calibrated
from bitzones.schema.validation_errors import first_error

__all__ = ["Applied", "apply", "calibrated", "check_modules"]

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Applied:
    """What was made. Bytes are of all weights: before in the model's own dtype, after as the folder's files.

    ``modules`` counts by format; ``unnamed`` counts quantizable modules that the plan does not mention, which stay as they are.
    """

    folder: Path
    bytes_before: int
    bytes_after: int
    modules: dict[str, int]
    unnamed: int

    def lines(self) -> list[str]:
        """The last lines on the screen."""
        less = 1 - self.bytes_after / self.bytes_before
        counts = ", ".join(f"{count} {format_name}" for format_name, count in self.modules.items())
        unnamed = f"; {self.unnamed} that the plan does not name stay as they are" if self.unnamed else ""
        return [
            f"Weights: {self.bytes_before / 1e6:,.3f} MB before, {self.bytes_after / 1e6:,.3f} MB in this folder ({less:.0%} less)",
            f"Modules: {counts}{unnamed}",
            f"Folder: {self.folder} (reloaded by quanto: formats, group sizes and logits are the same)",
            f"Load it: QuantizedModelForCausalLM.from_pretrained({str(self.folder)!r}), from optimum.quanto; README.md there has the lines",
        ]


def apply(
    plan_file: PlanFile,
    output: Path,
    device: torch.device,
    *,
    source: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
    notify: Notify = lambda message: None,
) -> Applied:
    """Quantize a fresh copy of the plan's model and write it to a folder: all of it, or nothing.

    Args:
        plan_file: from `plan_file.read_plan`.
        output: folder to make.
        device: where scales are searched for.
        source: of the model, where it is not where the plan says; it must be the same by its hash.
        trust_remote_code: that the user, and not only the plan, says that code of the model's own may run.
        force: replace the folder of an earlier run.
        notify: told what is being done.

    Raises:
        PlanError: the plan does not fit the model, or asks for code that the user did not allow.
        ModelError: the model cannot be loaded, quantized, saved or reloaded as it was.
        OutputError: the folder is taken or cannot be written.
    """
    settings = _settings(plan_file, source, trust_remote_code=trust_remote_code)
    with folders.replacing(output, marker=verify.CHECK_FILE, force=force) as folder, _no_bars():
        notify(f"loading {settings.source!r}")
        loaded = loading.load(settings, device)
        model, tokenizer = loaded.model, loaded.tokenizer
        _check_model(plan_file, settings.source, loaded)
        _check_kernels(plan_file, model, device, notify)
        del loaded
        layers = structure.quantizable_modules(model)
        bytes_before = structure.model_bytes(model, {})
        tied = structure.tied_embeddings(model) and _head(model) not in plan_file.formats  # a quantized head is a tensor of its own
        notify(f"quantizing {len(plan_file.formats)} modules")
        quantizers.quantize(model, plan_file.formats, calibrated(model, plan_file, device))
        verify.verify(model, plan_file)
        notify("saving")
        (folder / verify.PLAN_FILE).write_text(plan_file.text, encoding="utf-8")
        saving.save(model, folder)
        tokenizer.save_pretrained(folder)
        bytes_after = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        (folder / "README.md").write_text(model_card(plan_file.plan, plan_file.model, layers, bytes_before, bytes_after), encoding="utf-8")
        notify("checking: what was quantized")
        saving.repack_as_reloaded(model)
        expected = fingerprint.answer(model, fingerprint.fixed_tokens(model))
        del model
        notify("checking: what a user loads")
        again = saving.reload(folder)
        torch.nn.Module.to(again, device)
        _check_reloaded(again, plan_file, expected, tied=tied)
        verify.write(folder, again, expected)
    counts = Counter(plan_file.plan.assignment.values())
    return Applied(output, bytes_before, bytes_after, dict(counts.most_common()), len(set(layers) - set(plan_file.plan.assignment)))


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


def calibrated(model: PreTrainedModel, plan_file: PlanFile, device: torch.device) -> dict[str, packing.Packed]:
    """All weights of a plan with calibrated formats, which depend on each other; nothing for another plan.

    Raises:
        PlanError: the plan's sequences are not this model's.
    """
    made = plan_file.plan.calibration
    if made is None or not any(map(is_calibrated, plan_file.formats.values())):
        return {}
    retold = sequences.retold(made.sequences)
    largest = max(max(sequence.ids) for sequence in retold.sequences)
    if retold.sha256 != made.sequences_sha256 or largest >= text_config.vocabulary(model):
        raise PlanError("the plan's calibration sequences are not whole, or not for this model's tokenizer")
    computing = copy.deepcopy(model)
    quantizers.set_compute_dtype(computing, devices.compute_dtype(device, plan_file.model.compute_dtype, model.dtype))
    batches = list(sequences.batches(retold, made.batch, device))
    return layerwise.in_sequence(computing, plan_file.formats, batches, model.dtype, made.damping).weights


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
    if type(model).__name__ != plan_file.model.architecture:
        raise PlanError(f"the plan is for {plan_file.model.architecture!r}, and {source!r} is {type(model).__name__}")
    names = dict(model.named_modules())
    if unknown := [name for name in plan_file.plan.assignment if name not in names]:
        raise PlanError(f"the plan names {unknown[0]!r}{_and_more(unknown)}, and {type(model).__name__} has no such module")
    if dense := [name for name in plan_file.formats if not quantizers.is_quantizable(names[name])]:
        raise PlanError(f"the plan quantizes {dense[0]!r}{_and_more(dense)}, which quanto cannot: a {type(names[dense[0]]).__name__}")


def _check_kernels(plan_file: PlanFile, model: PreTrainedModel, device: torch.device, notify: Notify) -> None:
    """Quanto has kernels here for what the plan asks: the plan may come from another machine, and a wrong kernel can end this process."""
    measured = plan_file.model.compute_dtype
    compute_dtype = devices.compute_dtype(device, measured, model.dtype) if measured in REFERENCE_NAMES else model.dtype
    for format_name, modules in supported.staying(model, plan_file.formats.items(), compute_dtype, device, notify).items():
        name = next(iter(modules))
        raise PlanError(
            f"the plan quantizes {name!r}{_and_more(list(modules))} to {format_name}, and {modules[name]}; "
            "apply it on the kind of machine that measured it, or measure on this one"
        )


def _head(model: PreTrainedModel) -> str | None:
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _check_reloaded(model: PreTrainedModel, plan_file: PlanFile, expected: fingerprint.Answers, *, tied: bool) -> None:
    """What a user loads is what was quantized.

    No tolerance: the same file, the same packing (`quantizers.repack_as_reloaded`), the same machine, the same kernels.
    """
    verify.verify(model, plan_file)
    if structure.tied_embeddings(model) is not tied:
        raise ModelError(f"input and output embeddings are {'not ' if tied else ''}one tensor after reloading: quanto saved something else")
    found = fingerprint.answer(model, expected.token_ids)
    if not torch.equal(found.logits, expected.logits):
        apart = float((found.log_probabilities - expected.log_probabilities).abs().max())
        raise ModelError(
            f"what quanto reloads computes something else: log-probabilities up to {apart:.2g} nats off; nothing was written. "
            "A model whose configuration does not rebuild it does that"
        )


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' own progress bars off the screen: they are not ours to show, and are drawn where there is no terminal too."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
