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
from bitzones.schema.files import write_text
from bitzones.serve import bundle_card, bundle_record, served_loader, task_weights
from bitzones.serve.bundle_card import CARD
from bitzones.serve.bundle_record import BASE, BUNDLE_FILE, ROUTER_FILE, TASKS, Bundle, BundledTask
from bitzones.serve.bundle_request import BundleRequest, check_router
from bitzones.serve.cost_record import COST_FILE, BundleCost
from bitzones.serve.routing import read_router

__all__ = ["Bundled", "bundle", "write_cost"]


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
        mixed = [task.name for task in self.record.tasks if task.logits_sha256 is None]
        told += [f"With the base's rounding, so not the model of its plan: {', '.join(mixed)}"] if mixed else []
        checked = "every other task's" if mixed else "every task's"
        return [*told, f"Folder: {self.folder} (reloaded: {checked} logits are those of its plan alone, bit for bit)"]


def bundle(request: BundleRequest) -> Bundled:
    """Write a bundle: all of it, or nothing.

    Raises:
        PlanError: a plan does not fit the model, or asks for code that the user did not allow; or what two plans store cannot be swapped.
        ModelError: the model cannot be loaded, quantized, saved or reloaded as it was.
        OutputError: the folder is taken or cannot be written.
    """
    if request.keep_rounding:
        _check_untuned(request)
    with folders.replacing(request.output, marker=BUNDLE_FILE, force=request.force) as folder:
        (folder / TASKS).mkdir()
        request.notify("the base plan")
        made = quanto_checkpoint.apply(_export(request, request.base, folder / BASE))
        if request.router is not None:
            check_router(request.router, request.tasks)
            (folder / ROUTER_FILE).write_text(request.router.model_dump_json(by_alias=True) + "\n", encoding="utf-8")
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
        (folder / CARD).write_text(bundle_card.card(record, request.router), encoding="utf-8")
        request.notify("checking: what the bundle computes")
        _check(folder, record, request.device)
    return Bundled(request.output, made.bytes_after, record)


def _check_untuned(request: BundleRequest) -> None:
    for name, planned in {BASE: request.base, **request.tasks}.items():
        if planned.plan.tuning is not None:
            raise PlanError(
                f"plan {name!r} is tuned, its scales to its own integers, which keeping the base's rounding would drop: do not keep it"
            )


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
    formats, of_base = planned.plan.assignment, request.base.plan.assignment
    with TemporaryDirectory(dir=folder, prefix=".alone-") as private:
        alone = Path(private) / name
        quanto_checkpoint.apply(_export(request, planned, alone))
        _check_configuration(folder / BASE, alone, name)
        whole = task_weights.difference(folder / BASE, alone, formats)
        found = whole.only([module for module in whole.modules if formats[module] != of_base[module]]) if request.keep_rounding else whole
        if found.tensors:
            save_file(found.tensors, folder / TASKS / f"{name}.safetensors")
        (folder / TASKS / f"{name}.json").write_text(planned.text, encoding="utf-8")
        own = verify.read(alone).logits_sha256 if found.modules == whole.modules else None
    return BundledTask(
        name=name,
        plan=planned.plan.name,
        modules={module: formats[module] for module in found.modules},
        dense=found.dense,
        stored_bytes=found.stored_bytes,
        logits_sha256=own,
    )


def _check_configuration(base: Path, alone: Path, name: str) -> None:
    """What is not a tensor is the same: a plan that quantizes a tied head, for one, makes another model of it."""
    here, there = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (base, alone))
    if odd := sorted(key for key in {*here, *there} if here.get(key) != there.get(key)):
        raise PlanError(f"task {name!r}: its checkpoint has another {odd[0]!r} in config.json than the base's: they cannot share one model")


def _hashes(folder: Path) -> dict[str, str]:
    found = {f"{part}/{name}": sha256 for part in (BASE, TASKS) for name, sha256 in verify.file_hashes(folder / part).items()}
    router = {name: sha256 for name, sha256 in verify.file_hashes(folder).items() if name == ROUTER_FILE}
    return {**found, **router}


def _check(folder: Path, record: Bundle, device: torch.device) -> None:
    """Every plan of the bundle computes what it computes alone, in the model's own dtype.

    Raises:
        ModelError: naming the first that does not.
    """
    dtype = verify.read(folder / BASE).dtype
    served = served_loader.load(folder, str(device), compute_dtype=dtype)
    tokens = fingerprint.fixed_tokens(served.model)
    expected = {BASE: verify.read(folder / BASE).logits_sha256, **{task.name: task.logits_sha256 for task in record.tasks}}
    for name, sha256 in (*expected.items(), (BASE, expected[BASE])):  # the base once more, after all others
        with served.precision(name):
            found = fingerprint.answer(served.model, tokens).sha256
            if sha256 not in {None, found}:
                raise ModelError(f"the bundle computes something else for {name!r} than the plan alone; nothing was written")


def write_cost(folder: Path, cost: BundleCost) -> None:
    """Write what was measured of a finished bundle into it: cost.json, and a section of its README.md.

    Raises:
        PlanError: the bundle's record cannot be read.
        OutputError: the folder cannot be written.
    """
    record, _ = bundle_record.read(folder)
    place = folder / ROUTER_FILE
    router = read_router(place.read_bytes(), place) if ROUTER_FILE in record.files else None
    write_text(folder / COST_FILE, cost.model_dump_json(by_alias=True, indent=1) + "\n")
    write_text(folder / CARD, bundle_card.card(record, router, cost))
