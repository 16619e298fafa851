"""Writes a bundle: the base plan's checkpoint, of every other plan what differs from it, and the record of both.

Every plan is applied whole, as `bitzones apply` does with all its checks, and what it stores is compared with the base bit for bit. The
finished bundle is loaded, and must compute for every task what that task's own checkpoint computes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from bitzones import __version__
from bitzones.deploy import fingerprint, folders, quanto_checkpoint, verify
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import PlanFile
from bitzones.schema.environment import versions
from bitzones.schema.errors import ModelError, PlanError
from bitzones.serve import bundle_record, loading, task_weights
from bitzones.serve.bundle_record import BASE, BUNDLE_FILE, TASKS, Bundle, BundledTask
from bitzones.serve.bundle_request import BundleRequest

__all__ = ["Bundled", "bundle"]


@dataclass(frozen=True)
class Bundled:
    """What was made; bytes are of weights in the files."""

    folder: Path
    base_bytes: int
    record: Bundle

    def lines(self) -> list[str]:
        """The last lines on the screen."""
        told = [f"Base: {self.base_bytes / 1e6:.3f} MB"]
        for task in self.record.tasks:
            what = f"{len(task.modules)} modules" + (f" and {len(task.dense)} other parameters" if task.dense else "")
            more = f"{what} differ, {task.stored_bytes / 1e6:.3f} MB" if task.stored_bytes else "nothing differs from the base"
            told.append(f"Task {task.name}: {more}")
        return [*told, f"Folder: {self.folder} (reloaded: every task's logits are those of its plan alone, bit for bit)"]


def bundle(request: BundleRequest) -> Bundled:
    """Write a bundle: all of it, or nothing.

    Raises:
        PlanError: a plan does not fit the model, or asks for code that the user did not allow; or what two plans store cannot be swapped.
        ModelError: the model cannot be loaded, quantized, saved or reloaded as it was.
        OutputError: the folder is taken or cannot be written.
    """
    with folders.replacing(request.output, marker=BUNDLE_FILE, force=request.force) as folder:
        (folder / TASKS).mkdir()
        request.notify("the base plan")
        made = quanto_checkpoint.apply(_export(request, request.base, folder / BASE))
        tasks = tuple(_task(request, folder, name, planned) for name, planned in request.tasks.items())
        record = Bundle(
            bitzones=__version__,
            versions=versions(),
            source=request.base.model.source,
            model_sha256=request.base.model.sha256,
            tasks=tasks,
            files=_hashes(folder),
        )
        bundle_record.write(folder, record)
        request.notify("checking: what the bundle computes")
        _check(folder, record, request.device)
    return Bundled(request.output, made.bytes_after, record)


def _export(request: BundleRequest, planned: PlanFile, folder: Path) -> ExportRequest:
    return ExportRequest(
        planned,
        folder,
        request.device,
        source=request.source,
        trust_remote_code=request.trust_remote_code,
        notify=request.notify,
    )


def _task(request: BundleRequest, folder: Path, name: str, planned: PlanFile) -> BundledTask:
    """Apply one plan beside the bundle, and keep what differs."""
    request.notify(f"the plan of {name}")
    with TemporaryDirectory(dir=folder, prefix=".alone-") as private:
        alone = Path(private) / name
        quanto_checkpoint.apply(_export(request, planned, alone))
        _check_configuration(folder / BASE, alone, name)
        found = task_weights.difference(folder / BASE, alone, planned.plan.assignment)
        if found.tensors:
            save_file(found.tensors, folder / TASKS / f"{name}.safetensors")
        (folder / TASKS / f"{name}.json").write_text(planned.text, encoding="utf-8")
        logits_sha256 = verify.read(alone).logits_sha256
    return BundledTask(
        name=name,
        plan=planned.plan.name,
        modules={module: planned.plan.assignment[module] for module in found.modules},
        dense=found.dense,
        stored_bytes=found.stored_bytes,
        logits_sha256=logits_sha256,
    )


def _check_configuration(base: Path, alone: Path, name: str) -> None:
    """What is not a tensor is the same: a plan that quantizes a tied head, for one, makes another model of it."""
    here, there = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (base, alone))
    if odd := sorted(key for key in {*here, *there} if here.get(key) != there.get(key)):
        raise PlanError(f"task {name!r}: its checkpoint has another {odd[0]!r} in config.json than the base's: they cannot share one model")


def _hashes(folder: Path) -> dict[str, str]:
    return {f"{part}/{name}": sha256 for part in (BASE, TASKS) for name, sha256 in verify.file_hashes(folder / part).items()}


def _check(folder: Path, record: Bundle, device: torch.device) -> None:
    """Every plan of the bundle computes what it computes alone, in the model's own dtype.

    Raises:
        ModelError: naming the first that does not.
    """
    dtype = verify.read(folder / BASE).dtype
    served = loading.load(folder, str(device), compute_dtype=dtype)
    tokens = fingerprint.fixed_tokens(served.model)
    expected = {BASE: verify.read(folder / BASE).logits_sha256, **{task.name: task.logits_sha256 for task in record.tasks}}
    for name, sha256 in (*expected.items(), (BASE, expected[BASE])):  # the base once more, after all others
        with served.precision(name):
            if fingerprint.answer(served.model, tokens).sha256 != sha256:
                raise ModelError(f"the bundle computes something else for {name!r} than the plan alone; nothing was written")
