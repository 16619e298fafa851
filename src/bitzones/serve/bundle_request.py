"""What a bundle is made of and where. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitzones.deploy.export_request import Notify, silent
from bitzones.deploy.plan_file import PlanFile
from bitzones.schema.errors import PlanError
from bitzones.serve.bundle_record import BASE, check_name
from bitzones.serve.router_record import Router

if TYPE_CHECKING:
    import torch

__all__ = ["BundleRequest", "check_plans", "check_router"]


@dataclass(frozen=True)
class BundleRequest:
    """Plans, and where and how they are written.

    Args:
        base: the plan that is written whole.
        tasks: name -> plan of which only what differs is written.
        output: folder to create.
        device: where scales are searched for.
        source: of the model, if it is not where the plans say; its hash must be the same.
        trust_remote_code: the user, and not only a plan, allows the model's own code to run.
        force: replace the folder of an earlier bundle.
        router: rules and classifier, which name tasks of the bundle.
        keep_rounding: leave modules of the base's format as the base has them, where a task's plan alone rounds them otherwise.
        notify: called with each step.
    """

    base: PlanFile
    tasks: dict[str, PlanFile]
    output: Path
    device: torch.device
    source: str | None = None
    trust_remote_code: bool = False
    force: bool = False
    router: Router | None = None
    keep_rounding: bool = False
    notify: Notify = silent


def check_plans(base: PlanFile, tasks: Sequence[tuple[str, PlanFile]]) -> dict[str, PlanFile]:
    """Name -> plan of every task, where they can be bundled with the base.

    Raises:
        PlanError: there is no task, two have one name or are one plan, or a plan is for another model, dtype or other modules.
        ArgumentError: a name is unsafe as the name of a file.
    """
    if not tasks:
        raise PlanError("a bundle takes a base plan and at least one task's plan: bitzones apply writes a single one")
    found: dict[str, PlanFile] = {}
    for name, planned in tasks:
        check_name(name)
        if name.lower() in (taken := {other.lower() for other in found}):  # some file systems do not tell cases apart
            raise PlanError(f"task {name!r}: two plans have that name ({', '.join(sorted(taken))}): name one otherwise, NAME=PLAN.json")
        _check_same(name, base, planned)
        if twin := next((other for other, given in {"base": base, **found}.items() if given.text == planned.text), None):
            raise PlanError(f"task {name!r}: the same plan as {twin!r}: leave one out")
        found[name] = planned
    return found


def _check_same(name: str, base: PlanFile, planned: PlanFile) -> None:
    """The plan is for the base's model, and decides about the same modules."""
    for key in ("sha256", "architecture", "dtype", "compute_dtype"):
        here, there = getattr(base.model, key), getattr(planned.model, key)
        if here != there:
            raise PlanError(f"task {name!r}: its plan is for a model whose {key} is {there[:12]!r}, the base's is {here[:12]!r}")
    if odd := sorted(set(base.plan.assignment) ^ set(planned.plan.assignment)):
        which = "the base's plan" if odd[0] in base.plan.assignment else "its plan"
        raise PlanError(
            f"task {name!r}: only {which} decides about module {odd[0]!r}" + (f" and {len(odd) - 1} more" if len(odd) > 1 else "")
        )
    if (weights := planned.weights) and not weights.is_file():
        raise PlanError(f"task {name!r}: its plan is tuned, and {str(weights)!r} is not there: the weights belong beside the plan")


def check_router(router: Router, tasks: Collection[str]) -> None:
    """Every rule, and the classifier, leads to a task of the bundle.

    Raises:
        PlanError: naming the first that does not.
    """
    led = [*(rule.task for rule in router.rules), *(router.classifier.tasks if router.classifier else ())]
    if odd := [task for task in led if task != BASE and task not in tasks]:
        raise PlanError(f"routing leads to {odd[0]!r}, and the bundle has no such task; tasks: {', '.join((BASE, *tasks))}")
