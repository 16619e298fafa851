"""The sweep of a run, measured by workers of a Ray cluster: a model each, one per GPU or per some CPUs, and a journal on the driver.

Every worker measures one block at a time. If it dies, its block goes to another one, or to the one that replaces it; everything that was
finished is in the journal. The cell is that of a sweep in one process, to the last bit.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from bitzones.run import journal
from bitzones.run.block_queue import MOST_DEATHS, BlockQueue
from bitzones.run.divided_sweep import block_bench, require_divisible
from bitzones.run.ray_options import LOCAL, RayOptions
from bitzones.run.session_record import sweep_fingerprint
from bitzones.run.sweep_worker import Refused, Started, SweepWorker
from bitzones.schema.differences import difference
from bitzones.schema.errors import MeasureError
from bitzones.schema.profile import Profile
from bitzones.schema.progress import Progress
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.schema.shard_record import Block, MeasuredBlock
from bitzones.sensitivity.block_bench import BlockBench
from bitzones.sensitivity.blocks import blocks_of_size, cost

if TYPE_CHECKING:
    from bitzones.run.session import Session

__all__ = ["measured", "require_room"]

REFERENCE_PASSES, FEWEST_BLOCKS = 10, 32
"""A block costs about so many passes of the reference, of which it makes one itself; or less, so that a sweep has so many blocks: eight
workers then have four each on average, and none waits long for the last one. Both do not depend on the workers: any may resume."""

MODEL_COPIES = 2
"""Memory that a worker on CPUs needs, in sizes of the reference as it computes: as stored, as computed, and the quantized weights."""

ANSWER_S = 10.0
"""How long a head node may take to accept a connection."""

PATIENCE_S = 600.0
"""How long no worker may start before the run says so and ends."""


def measured(session: Session, batch: int, options: RayOptions, progress: Progress) -> SensitivityCell:
    """The sweep of a session in batches of this size.

    Raises:
        ProfileError: the sweep cannot be divided.
        MeasureError: there is no such cluster or room for a worker on it, a worker refuses, or block after block ends its worker.
        MemoryError: a worker ran out of memory; smaller batches may fit.
    """
    require_divisible(session.profile)
    fingerprint, bench = sweep_fingerprint(session), block_bench(session, batch)
    kept = _kept(session, batch, fingerprint, resume=options.resume)
    size = min(REFERENCE_PASSES * bench.reference_cost, max(1, sum(bench.costs) * len(bench.tokens) // FEWEST_BLOCKS))
    done = _Done(blocks_of_size(bench.costs, len(bench.tokens), size), bench, kept, progress)
    if done.lacking:
        with _connected(options, session.notify):
            workers = _workers(options, session)
            driver = _Driver(session, batch, options, fingerprint, workers)
            driver.run(BlockQueue(done.lacking, done.cost, workers), done)
    return bench.layout.cell(done.found())


def require_room(session: Session, options: RayOptions) -> None:
    """Refuse at once a cluster that is not there, or where no worker fits.

    Raises:
        ProfileError: the sweep cannot be divided.
        MeasureError: says what is lacking.
    """
    require_divisible(session.profile)
    with _connected(options, session.notify):
        _workers(options, session)


class _Done:
    """The finished blocks of a sweep, in memory and, where the run has a folder, on disk."""

    def __init__(self, blocks: list[Block], bench: BlockBench, kept: journal.Journal[MeasuredBlock] | None, progress: Progress) -> None:
        self._blocks, self._bench, self._kept, self._progress = blocks, bench, kept, progress
        self._found = {str(block): kept.entries[str(block)] for block in blocks if kept is not None and str(block) in kept.entries}
        self._whole = sum(map(self.cost, blocks))

    @property
    def lacking(self) -> list[Block]:
        return [block for block in self._blocks if str(block) not in self._found]

    def cost(self, block: Block) -> int:
        return cost(block, self._bench.costs, self._bench.tokens)

    def add(self, measured: MeasuredBlock) -> None:
        if self._kept is not None:
            self._kept.add(measured)
        self._found[measured.key] = measured
        self._progress(sum(self.cost(found.block) for found in self._found.values()) / self._whole)

    def found(self) -> list[MeasuredBlock]:
        return list(self._found.values())


class _Driver:
    """Starts workers, gives out blocks, and replaces the workers that die."""

    def __init__(self, session: Session, batch: int, options: RayOptions, fingerprint: dict[str, Any], workers: int) -> None:
        self._session, self._batch, self._fingerprint = session, batch, fingerprint
        self._resources = _resources(session, options)
        self._profile = _on(session.device.type, session.profile)
        self._actors: list[Any] = [None] * workers
        self._names = [f"worker {number}" for number in range(workers)]
        self._deaths = [0] * workers
        self._waiting: dict[Any, tuple[int, Block | None]] = {}
        self._idle: set[int] = set()

    def run(self, queue: BlockQueue, done: _Done) -> None:
        """Until no block is lacking."""
        try:
            for worker in range(len(self._actors)):
                self._start(worker)
            while done.lacking:
                self._next(queue, done)
                for worker in sorted(self._idle):
                    self._give(worker, queue)
        finally:
            for actor in filter(None, self._actors):
                ray.kill(actor)

    def _start(self, worker: int) -> None:
        actor = ray.remote(SweepWorker).options(**self._resources).remote()
        self._actors[worker] = actor
        self._waiting[actor.start.remote(self._profile, self._batch)] = worker, None

    def _give(self, worker: int, queue: BlockQueue) -> None:
        block = queue.take(worker)
        if block is None:
            self._idle.add(worker)
            return
        self._idle.discard(worker)
        self._waiting[self._actors[worker].measure.remote(block, queue.ahead(worker))] = worker, block

    def _next(self, queue: BlockQueue, done: _Done) -> None:
        """Take the answer of one worker."""
        ready, _ = ray.wait(list(self._waiting), num_returns=1, timeout=PATIENCE_S)
        if not ready:
            if all(block is None for _, block in self._waiting.values()):
                raise MeasureError(f"Ray started no worker in {PATIENCE_S:.0f} s: the cluster has no room for {_said(self._resources)}")
            return
        worker, block = self._waiting.pop(ready[0])
        try:
            answer: Started | MeasuredBlock | Refused = ray.get(ready[0])
        except RayActorError as error:
            self._replace(worker, block, queue, error)
            return
        if isinstance(answer, Refused):
            raise MemoryError(answer.reason) if answer.out_of_memory else MeasureError(f"{self._names[worker]}: {answer.reason}")
        if isinstance(answer, Started):
            self._welcome(worker, answer)
        else:
            done.add(answer)
        self._give(worker, queue)

    def _welcome(self, worker: int, found: Started) -> None:
        self._names[worker] = f"worker {worker} (process {found.pid} on {found.host})"
        if what := difference(found.fingerprint, self._fingerprint, ("there", "at the driver")):
            raise MeasureError(f"{self._names[worker]} would measure something else: {what}")
        self._session.notify(f"{self._names[worker]} is ready")

    def _replace(self, worker: int, block: Block | None, queue: BlockQueue, error: RayActorError) -> None:
        """Put a dead worker's block back and start another in its place."""
        self._deaths[worker] += block is None
        if self._deaths[worker] >= MOST_DEATHS:
            raise MeasureError(f"{self._names[worker]} died {MOST_DEATHS} times while it loaded the model: {_first_line(error)}")
        if block is not None:
            queue.give_back(worker, block)
        lost = "while it loaded the model" if block is None else f"and {block} is measured again"
        self._session.notify(f"{self._names[worker]} died, {lost}; another one is started")
        self._start(worker)


@contextmanager
def _connected(options: RayOptions, notify: Callable[[str], None]) -> Iterator[None]:
    """Join the cluster, or start one of this machine; a connection that the caller's program has is used and left.

    Raises:
        MeasureError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    _require_answer(options.address)
    notify("starting Ray on this machine" if options.address == LOCAL else f"joining the Ray cluster at {options.address}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a benchmark tells nobody that it runs
    settings = {"include_dashboard": False} if options.address == LOCAL else {}
    try:
        ray.init(address=options.address, log_to_driver=False, logging_level="ERROR", **settings)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise MeasureError(f"--ray {options.address}: no Ray cluster there: {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try it for minutes.

    Raises:
        MeasureError: there is no answer.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator:  # a name, as auto
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise MeasureError(
            f"--ray {address}: nothing answers there ({error}): give HOST:PORT of the head node, auto on a node of the cluster, or local"
        ) from error


def _workers(options: RayOptions, session: Session) -> int:
    """How many workers the nodes have room for.

    Raises:
        MeasureError: none.
    """
    asked = {"GPU": "num_gpus", "CPU": "num_cpus", "memory": "memory"}
    takes = _resources(session, options)
    need = {name: takes[key] for name, key in asked.items() if key in takes}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(node.get(name, 0) // amount) for name, amount in need.items()) for node in nodes)
    if room < 1:
        raise MeasureError(
            f"--ray {options.address}: none of {len(nodes)} nodes has room for a worker: {_said(_resources(session, options))}"
        )
    return room if options.workers is None else min(room, options.workers)


def _resources(session: Session, options: RayOptions) -> dict[str, Any]:
    """What a worker takes, as Ray's options of an actor."""
    if session.device.type == "cuda":
        return {"num_gpus": options.gpus, "num_cpus": 1}
    reference = sum(p.numel() * p.element_size() for p in session.variants.reference.parameters())
    return {"num_cpus": options.cpus, "memory": MODEL_COPIES * reference}


def _said(resources: dict[str, Any]) -> str:
    if "num_gpus" in resources:
        return f"it takes {resources['num_gpus']} GPUs (--ray-gpus) and a CPU"
    return f"it takes {resources['num_cpus']} CPUs and {resources['memory'] / 2**30:.1f} GiB of memory (--ray-cpus)"


def _kept(session: Session, batch: int, fingerprint: dict[str, Any], *, resume: bool) -> journal.Journal[MeasuredBlock] | None:
    if session.folder is None:
        return None
    opening = journal.resume if resume else journal.start
    return opening(journal.sweep_journal(session.folder, batch), fingerprint, session.notify, MeasuredBlock)


def _on(device: str, profile: Profile) -> Profile:
    """The profile on the kind of device of the driver: a worker sees its own GPUs only, as the first ones."""
    if profile.model.device == "auto":  # spreads a model over several
        return profile
    return profile.model_copy(update={"model": profile.model.model_copy(update={"device": device})})


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
