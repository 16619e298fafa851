"""A bundle of a tiny model: a base plan and two tasks that change formats in every way there is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import make_plan
import tiny_models
import torch

from bitzones.analysis.plan import Plan
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.serve.bundle_request import BundleRequest, check_plans
from bitzones.serve.bundle_writer import Bundled, bundle

CPU = torch.device("cpu")
LAYER = "model.layers.0"
CHANGES = {
    "short": {  # narrower, to quantized, to dense
        f"{LAYER}.self_attn.q_proj": "qint2:hqq",
        f"{LAYER}.self_attn.o_proj": "qint8",
        f"{LAYER}.self_attn.v_proj": "bf16",
    },
    "long": {f"{LAYER}.self_attn.k_proj": "qint4", f"{LAYER}.self_attn.q_proj": "qint8"},  # wider; one module is the other task's too
}
"""Task -> module -> format in place of the base's."""


def source(folder: Path) -> Path:
    """The folder of the tiny model."""
    return tiny_models.save(folder, tiny_models.llama(torch.bfloat16))


def base_plan(source: Path, **changes: Any) -> Plan:
    """Of every format, with modules that stay."""
    return make_plan.for_tiny_llama(source, hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest(), **changes)


def changed(plan: Plan, name: str, formats: Mapping[str, str]) -> Plan:
    """The plan with other formats for some modules."""
    assignment = {**plan.assignment, **formats}
    sizes = {module: _group_size(module, chosen) for module, chosen in assignment.items() if chosen != plan.reference}
    return plan.model_copy(update={"name": name, "assignment": assignment, "group_sizes": sizes})


def _group_size(module: str, chosen: str) -> int | None:
    return None if chosen == "qint8" else 128 if module.endswith("down_proj") else 96


def files(folder: Path, source: Path) -> tuple[PlanFile, dict[str, PlanFile]]:
    """The base plan and those of the tasks, as read from files in a folder."""
    base = base_plan(source)
    plans = {"base": base, **{name: changed(base, name, formats) for name, formats in CHANGES.items()}}
    read = {name: read_plan(make_plan.write(folder / f"{name}.json", plan)) for name, plan in plans.items()}
    return read.pop("base"), read


def made(folder: Path, base: PlanFile, tasks: Mapping[str, PlanFile], **options: Any) -> Bundled:
    """The bundle, in a folder."""
    return bundle(BundleRequest(base, check_plans(base, list(tasks.items())), folder, CPU, **options))
