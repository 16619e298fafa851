"""Bundles of plans: made, and measured. Torch is imported when one of these is called, after everything that can be checked without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitzones.analysis.reader import read_run
from bitzones.api.planning import PlanLike, check_device, plan_file_of
from bitzones.deploy.export_request import Notify, silent
from bitzones.schema.requirements import needs

if TYPE_CHECKING:
    from bitzones.serve.bundle_writer import Bundled
    from bitzones.serve.cost_record import BundleCost

__all__ = ["bundle", "measure_bundle"]


def bundle(
    base: PlanLike,
    tasks: Mapping[str, PlanLike] | Sequence[PlanLike | tuple[str, PlanLike]],
    folder: Path | str,
    *,
    routes: Path | str | None = None,
    classify: Path | str | None = None,
    keep_rounding: bool = False,
    model: str | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    force: bool = False,
    notify: Notify = silent,
) -> Bundled:
    """Put several plans of one model into a folder that `bitzones.serve.load` makes one model of: the base plan's checkpoint, and for every
    task the packed weights of the modules that its plan stores otherwise.

    Every plan is applied with all checks of `export`. The finished bundle is loaded, and computes for every task what the plan alone does,
    bit for bit.

    Args:
        base: the plan that is written whole, and that answers where no task does.
        tasks: the other plans: by name, as pairs of a name and a plan, or plans that name themselves.
        folder: to make; may be absent or empty.
        routes: path of a routes.toml, whose rules choose a task for a request.
        classify: path of a run file, on the train splits of whose tasks a classifier of prompts is trained.
        keep_rounding: leave modules that have one format in both plans as the base has them, where a calibrated plan alone would round
            them otherwise. It takes less memory, and is another model than the plan's: measure it.
        model: source of the model, where it is not where the plans say.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``: where to quantize.
        trust_remote_code: let code that comes with the model run, if a plan asks for it.
        force: replace the folder of an earlier bundle.
        notify: called with one line per step.

    Returns:
        What was made: the folder, the base's bytes, and the record of bundle.json with every task's modules and bytes.

    Raises:
        PlanError: a plan is wrong, for another model or other modules, or there twice; or routing leads to no task.
        ArgumentError: a task's name is unsafe as the name of a file, or an argument is of another type.
        RunFileError: the run to classify by cannot be used.
        TaskError: a train split cannot be read.
        ModelError: the model cannot be loaded, quantized, saved, or reloaded as it was.
        OutputError: the folder is taken or cannot be written.
        DeviceError: there is no such device.
        MissingPackageError: the packages of the extras ``measure`` or ``serve`` are not installed.

    Example:
        >>> made = bitzones.bundle("tiny_plan.json", {"arc": "tiny_task.json"}, "bundle")
        >>> [(task.name, len(task.modules)) for task in made.record.tasks]
        [('arc', 7)]
    """
    planned = plan_file_of(base)
    check_device(device)
    named = [plan if isinstance(plan, tuple) else ("", plan) for plan in (tasks.items() if isinstance(tasks, Mapping) else tasks)]
    given = [(name, plan_file_of(plan)) for name, plan in named]
    with needs("measure"):
        from bitzones.devices import device as devices  # noqa: PLC0415
        from bitzones.serve import bundle_request, bundle_writer, classifier  # noqa: PLC0415
        from bitzones.serve.routing import Routes, read_routes  # noqa: PLC0415
    found = bundle_request.check_plans(planned, [(name or plan.plan.name, plan) for name, plan in given])
    settings = Routes() if routes is None else read_routes(Path(routes))
    router = classifier.router(settings, None if classify is None else read_run(classify).run.profile, found)
    return bundle_writer.bundle(
        bundle_request.BundleRequest(
            planned,
            found,
            Path(folder),
            devices.resolve(device),
            source=model,
            trust_remote_code=trust_remote_code,
            force=force,
            router=router,
            keep_rounding=keep_rounding,
            notify=notify,
        )
    )


def measure_bundle(folder: Path | str, run: Path | str, *, notify: Notify = silent) -> BundleCost:
    """Measure what a bundle costs, and what it gains over the one plan of the same memory.

    Writes cost.json into the folder, and a section into its README.md that says whether the bundle is worth it.

    Args:
        folder: written by `bundle`.
        run: path of the run file that the plans come from; its tasks and domains are measured.
        notify: called with one line per step.

    Returns:
        Resident bytes, the time of a switch (median and 99th percentile), tokens per second, the one plan, for every task KL and accuracy
        beside the one plan's, and ``worth``: ``worth it``, ``not worth it`` or ``inconclusive``.

    Raises:
        PlanError: the folder is no bundle, not whole, or holds a task that the run does not know.
        RunFileError: the run file cannot be used, or has no sweep.
        ModelError: the run's model is another, or cannot be loaded.
        TaskError: a task's items cannot be read.
        OutputError: the folder cannot be written.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> cost = bitzones.measure_bundle("bundle", "report/run.json")  # doctest: +SKIP
        >>> cost.worth, cost.switching.median_s  # doctest: +SKIP
        ('not worth it', 4.7e-06)
    """
    found = read_run(run)
    with needs("measure"):
        from bitzones.deploy.prepared import no_bars  # noqa: PLC0415
        from bitzones.run import bundle_cost  # noqa: PLC0415
        from bitzones.serve import bundle_writer  # noqa: PLC0415
    with no_bars():
        cost = bundle_cost.measure(Path(folder), found, notify)
    bundle_writer.write_cost(Path(folder), cost)
    return cost
