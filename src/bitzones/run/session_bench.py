"""Calls of one side of a duet, timed as a run times them: the same model, shapes, caches and kernels, through the same session."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bitzones.duets.line_protocol import TimedCell
from bitzones.evaluation import accuracy
from bitzones.profiling import gemm_latency, latency, memory
from bitzones.run.attempts import attempted
from bitzones.run.call_clock import Called, timed_call
from bitzones.run.session import Session
from bitzones.run.session_record import run_record
from bitzones.schema.cells import Cell
from bitzones.schema.profile import Profile
from bitzones.schema.run_record import Run

__all__ = ["SessionBench"]


class SessionBench:
    """One profile, its variants loaded one at a time beside the reference."""

    def __init__(self, profile: Profile) -> None:
        self._session = Session(profile)
        self._timings = {timing.name: timing for timing in profile.latency.timings().values()}
        self._ready: dict[TimedCell, latency.Ready] = {}
        self._products: dict[str, list[gemm_latency.ProductBench]] = {}

    def run(self) -> Run:
        """What all cells share."""
        return run_record(self._session)

    def cells(self) -> list[TimedCell]:
        """What can be timed, variant by variant."""
        units = [sort[0].name for sort in gemm_latency.alike(self._session.variants, self._session.units).values()]
        return [
            cell
            for variant in self._session.variants.formats
            for cell in (
                *(TimedCell(kind="latency", variant=variant, detail=name) for name in self._timings),
                *(TimedCell(kind="unit_latency", variant=variant, detail=unit) for unit in units),
            )
        ]

    def prepare(self, cell: TimedCell) -> tuple[str, float]:
        """Warm a cell up: the shape that is timed, and the seconds of a call."""
        if cell.kind == "unit_latency":
            self._product(cell)
            return cell.detail, min(self.call(cell).wall_s for _ in range(latency.STABLE_ROUNDS))
        for other in [other for other in self._ready if other.variant != cell.variant]:
            del self._ready[other]
        session, shape = self._session, self._timings[cell.detail]
        least = session.profile.latency.warmup_rounds
        made = latency.ready(session.model(cell.variant), shape, session.profile.seed, least, session.hardware.gpu, {})
        self._ready[cell] = made
        return made.timing.name, min(self.call(cell).wall_s for _ in range(latency.STABLE_ROUNDS))

    def call(self, cell: TimedCell) -> Called:
        """One call; its setup is not timed."""
        if cell.kind == "unit_latency":
            product = self._product(cell)
            return timed_call(product.round)
        timed = self._ready[cell].timed
        given = timed.setup()
        return timed_call(lambda: timed.run(*given))

    def _product(self, cell: TimedCell) -> gemm_latency.ProductBench:
        session = self._session
        if not self._products:
            batch = session.profile.latency.batch[0]
            for sort in gemm_latency.alike(session.variants, session.units).values():
                self._products[sort[0].name] = gemm_latency.product_benches(session.variants, sort, batch, session.profile.seed)
        wanted = session.variants.formats[cell.variant]
        return next(bench for bench in self._products[cell.detail] if bench.format == wanted)

    def checks(self) -> Iterator[Cell]:
        """Memory, accuracy and divergence of every variant."""
        session, shape = self._session, self._session.hardware.largest_decoding
        self._ready.clear()
        for variant in session.variants.formats:
            session.model(variant)
            yield attempted("memory", variant, "", partial(memory.measure, variant, session.variants, shape, session.hardware.gpu))
            for task in session.scored:
                yield attempted("accuracy", variant, task, partial(self._accuracy, variant, task))
            if variant != session.reference_id:
                yield attempted("divergence", variant, "", partial(session.divergence, variant))

    def _accuracy(self, variant: str, task: str) -> Cell:
        session = self._session
        model, asked = session.model(variant), session.asked[task]
        return session.hardware.at_half(
            session.task_batch(task), lambda batch: accuracy.measure(model, session.tokenizer, asked, variant, batch)
        )
