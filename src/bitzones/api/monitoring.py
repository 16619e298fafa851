"""A served model is watched against its run: the record that it is held against, and a check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitzones.analysis.reader import read_run
from bitzones.api.analyzing import RunLike, analyze, as_run
from bitzones.api.planning import PlanLike, plan_file_of
from bitzones.deploy.export_request import Notify, silent
from bitzones.monitor.canary import Tolerance
from bitzones.monitor.canary_choice import canary_of
from bitzones.monitor.overview import Overview
from bitzones.schema.canary_record import CanaryRecord
from bitzones.schema.errors import ArgumentError, RunFileError
from bitzones.schema.files import write_text
from bitzones.schema.layer_statistics import LayersCell
from bitzones.schema.requirements import needs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bitzones.serve.activation_watch import ActivationWatch

__all__ = ["MOST_PROMPTS", "check_server", "make_canary", "watch_activations"]

MOST_PROMPTS = 10_000
"""Of a record: a check of all of them would take minutes."""


def make_canary(
    run: Path | str,
    output: Path | str | None = None,
    *,
    plan: PlanLike | None = None,
    model: Path | str | None = None,
    task: str | None = None,
    prompts: int = 200,
    notify: Notify = silent,
) -> CanaryRecord:
    """Record what a plan's model predicts after pinned prompts of the run's held-out set, so that whoever serves it can be watched.

    Args:
        run: path of the run file. Its model and data have to be there still.
        output: file to write, usually ``canary.json`` beside the run; None to write none.
        plan: an analysis, a plan, or the path of a plan.json that is served; by default the plan of the run.
        model: in place of ``plan``, the folder that is served: a bundle, or one of `export`.
        task: of a bundle; by default its base.
        prompts: to pin; fewer where the held-out set has fewer places.
        notify: called with one line per step.

    Returns:
        The record.

    Raises:
        RunFileError: the run file cannot be used.
        PlanError: there is no plan, it is wrong, or for another model.
        ModelError: the model is not the one that the run measured, or cannot be loaded.
        TaskError: the data are not there any more.
        ArgumentError: a number is out of its range, or both a plan and a folder are given.
        OutputError: the file cannot be written.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> record = bitzones.make_canary("report/run.json", "report/canary.json")  # doctest: +SKIP
        >>> len(record.prompts), record.kl_nats  # doctest: +SKIP
        (200, 0.0412)
    """
    if not 1 <= prompts <= MOST_PROMPTS:
        raise ArgumentError(f"prompts = {prompts}: pin 1 to {MOST_PROMPTS:,}")
    if plan is not None and model is not None:
        raise ArgumentError("give a plan or the folder of a served model, not both")
    if task is not None and model is None:
        raise ArgumentError(f"task {task!r}: give the folder of its bundle with model=")
    measured = read_run(run)
    planned = None if model is not None else plan_file_of(plan if plan is not None else analyze(measured))
    with needs("measure"):
        from bitzones.run import canary_maker  # noqa: PLC0415
    record = canary_maker.made(measured.run, planned, None if model is None else Path(model), task, prompts, notify)
    if output is not None:
        write_text(Path(output), record.model_dump_json(by_alias=True) + "\n")
    return record


def check_server(
    run: Path | str,
    server: str,
    *,
    canary: Path | str | None = None,
    state: Path | str | None = None,
    requests: Path | str | None = None,
    model: str | None = None,
    prompts: int = 50,
    tolerance: float | None = None,
    noise: float | None = None,
    enroll: bool = False,
    key: str | None = None,
    timeout_s: float = 60.0,
    notify: Notify = silent,
) -> Overview:
    """One round of watching a served model, as ``bitzones monitor --once`` makes it.

    Args:
        run: path of the run file whose plan is served.
        server: address of an OpenAI-compatible server that gives log-probabilities.
        canary: the record of `make_canary`; by default ``canary.json`` beside the run.
        state: the SQLite file in which everything is kept; by default ``monitor.sqlite`` beside the run.
        requests: a log of requests, JSON lines, to compare with what the plan was made on.
        model: the model's name on the server; by default the first that it lists.
        prompts: of a check; the first check asks every prompt twice.
        tolerance: the mean deviation from the record that a good engine may have, in nats; by default twice what another dtype costs.
        noise: the least mean deviation between two answers that is noise, in nats; by default what enrolling saw.
        enroll: take the server as it is now for good, and begin again.
        key: the server's, sent as a bearer token.
        timeout_s: longest wait for one answer.
        notify: called with one line per step.

    Returns:
        Everything that the state says; ``alarms`` is empty where nothing is wrong.

    Raises:
        ServerError: the server cannot be reached or stopped answering; what it answered is kept.
        RunFileError: a file cannot be used, or the record is of another model.
        ArgumentError: the server refuses to be asked, or the state belongs to another server.
        OutputError: the state cannot be kept, or another process is at work on it.
        MissingPackageError: the packages that ask a server are not installed (``pip install 'bitzones[monitor]'``).

    Example:
        >>> found = bitzones.check_server("report/run.json", "http://127.0.0.1:8000")  # doctest: +SKIP
        >>> [alarm.what for alarm in found.alarms]  # doctest: +SKIP
        []
    """
    place = Path(run)
    record = canary_of(place, None if canary is None else Path(canary))
    with needs("monitor"):
        from bitzones.monitor.canary_watch import CanaryWatch  # noqa: PLC0415
        from bitzones.monitor.completions import Completions  # noqa: PLC0415
        from bitzones.monitor.once import round_of  # noqa: PLC0415
        from bitzones.monitor.state import opened  # noqa: PLC0415
    with (
        opened(Path(state) if state is not None else place.parent / "monitor.sqlite") as kept,
        Completions(server, model, key, timeout_s, task=record.task) as asked,
    ):
        watch = CanaryWatch(record, kept, asked, prompts, Tolerance(tolerance, noise), notify)
        if enroll:
            watch.enroll_again()
        found, failed = round_of(watch, None if requests is None else Path(requests))
    if failed is not None:
        raise failed
    return found


def watch_activations(
    model: PreTrainedModel, run: RunLike, *, rate: float = 0.01, seed: int = 0, path: Path | str | None = None
) -> ActivationWatch:
    """Look at the run's thresholds of activations while a model is used.

    Enter the result as a context: hooks then repeat a share of the model's passes over prompts, to collect sparsity, magnitude and
    attention's entropy of every layer. ``reading`` says which layers lie beyond each rule's threshold and which crossed it since the run,
    beside the audit's verdict on the rule; ``write`` writes that for ``bitzones monitor --activations``.

    Args:
        model: in memory, quantized or not; what it computes does not change.
        run: a run with statistics of its layers, or the path of its file.
        rate: share of the passes; 0.01 costs about 2% of the time.
        seed: of the sample.
        path: where the reading is written, at most once a minute, and at the end of the context; None writes nothing.

    Returns:
        The watch, to be entered.

    Raises:
        RunFileError: the run file cannot be used, or has no statistics of layers.
        ArgumentError: the rate is no share.
        MissingPackageError: the packages that measure are not installed (``pip install 'bitzones[measure]'``).

    Example:
        >>> with bitzones.watch_activations(model, "report/run.json", rate=0.1) as watch:  # doctest: +SKIP
        ...     model.generate(**prompt)
        >>> watch.write("activations.json")  # doctest: +SKIP
    """
    measured = as_run(run)
    cells = measured.of(LayersCell)
    if not cells:
        raise RunFileError(f"{measured.path}: it has no statistics of layers, whose thresholds could be watched")
    audit = analyze(measured).rules
    with needs("measure"):
        from bitzones.serve.activation_watch import ActivationWatch  # noqa: PLC0415
    return ActivationWatch(
        model, cells[0].layers, audit.rules if audit is not None else (), rate, seed, None if path is None else Path(path)
    )
