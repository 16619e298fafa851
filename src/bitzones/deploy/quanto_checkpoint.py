"""Turns a plan into a folder that any user of quanto can load, and reloads it before reporting success.

quanto fails silently, so everything is read off the tensors: formats and group sizes after freezing and after reloading, and the outputs of
both models must be bit-for-bit equal.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from bitzones.backends import quantizing, registry
from bitzones.deploy import fingerprint, folders, prepared, verify
from bitzones.deploy.export_request import ExportRequest, Notify
from bitzones.deploy.exported import Exported
from bitzones.deploy.model_card import model_card
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.prepared import more
from bitzones.devices import device as devices
from bitzones.models import structure
from bitzones.schema.errors import ModelError, PlanError
from bitzones.schema.formats import REFERENCE_NAMES

__all__ = ["apply"]

_BACKEND = "quanto"
_CHECKED = "reloaded by quanto: formats, group sizes and logits are the same"


def apply(request: ExportRequest) -> Exported:
    """Quantize a fresh copy of the plan's model and write it to a folder: all of it, or nothing.

    Raises:
        PlanError: the plan does not fit the model, or asks for code that the user did not allow.
        ModelError: the model cannot be loaded, quantized, saved or reloaded as it was.
        OutputError: the folder is taken or cannot be written.
    """
    plan_file, output, device, notify = request.plan_file, request.output, request.device, request.notify
    with folders.replacing(output, marker=verify.CHECK_FILE, force=request.force) as folder, prepared.no_bars():
        made = prepared.load(request, check=lambda model: _check_target(plan_file, model, device, notify))
        model = made.model
        notify("saving")
        (folder / verify.PLAN_FILE).write_text(plan_file.text, encoding="utf-8")
        registry.checkpoints(_BACKEND).save(model, folder)
        made.tokenizer.save_pretrained(folder)
        bytes_after = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        card = model_card(plan_file.plan, plan_file.model, made.layers, made.bytes_before, bytes_after)
        (folder / "README.md").write_text(card, encoding="utf-8")
        notify("checking: what was quantized")
        registry.checkpoints(_BACKEND).repack(model)
        expected = fingerprint.answer(model, fingerprint.fixed_tokens(model))
        done = Exported(output, made.bytes_before, bytes_after, made.counts, made.unnamed, _CHECKED, _how(output))
        tied = made.tied
        del model, made
        notify("checking: what a user loads")
        again = registry.checkpoints(_BACKEND).reload(folder)
        torch.nn.Module.to(again, device)
        _check_reloaded(again, plan_file, expected, tied=tied)
        verify.write(folder, again, expected)
    return done


def _how(folder: Path) -> str:
    return f"Load it: QuantizedModelForCausalLM.from_pretrained({str(folder)!r}), from optimum.quanto; README.md there has the lines"


def _check_target(plan_file: PlanFile, model: PreTrainedModel, device: torch.device, notify: Notify) -> None:
    """What quanto asks of the dense model, before anything is quantized."""
    plan_file.check_backends("a checkpoint of quanto", _BACKEND)
    registry.checkpoints(_BACKEND).check(model)
    _check_kernels(plan_file, model, device, notify)


def _check_kernels(plan_file: PlanFile, model: PreTrainedModel, device: torch.device, notify: Notify) -> None:
    """Quanto has kernels here for what the plan asks: the plan may come from another machine, and a wrong kernel can end this process."""
    measured = plan_file.model.compute_dtype
    compute_dtype = devices.compute_dtype(device, measured, model.dtype) if measured in REFERENCE_NAMES else model.dtype
    for format_name, modules in quantizing.unsupported(model, plan_file.formats.items(), compute_dtype, device, notify).items():
        name = next(iter(modules))
        raise PlanError(
            f"the plan quantizes {name!r}{more(list(modules))} to {format_name}, and {modules[name]}; "
            "apply it on the kind of machine that measured it, or measure on this one"
        )


def _check_reloaded(model: PreTrainedModel, plan_file: PlanFile, expected: fingerprint.Answers, *, tied: bool) -> None:
    """What a user loads is what was quantized.

    No tolerance: the same file, the same packing (`Checkpoints.repack`), the same machine, the same kernels.
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
