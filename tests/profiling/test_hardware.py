"""What cells get from the machine: measured once, and the decoding that needs the most memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch

from bitzones.devices import device, energy, nvml
from bitzones.models import loading
from bitzones.profiling.hardware import Hardware
from bitzones.schema.latency_grid import Latency, Timing
from bitzones.schema.profile import Profile
from bitzones.schema.profile_sections import Model
from bitzones.schema.quality_cells import DivergenceCell
from bitzones.schema.task_settings import Task
from bitzones.sensitivity.variants import Variants

SHAPES = Latency(batch=(1, 3), prompt_tokens=(4, 6), new_tokens=2, rounds=2, warmup_rounds=1)


@pytest.fixture(scope="module")
def hardware() -> Hardware:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    variants = Variants(loaded, {"bf16": "bf16", "w8": "qint8"}, torch.device("cpu"), torch.float32)
    tasks = (Task(name="science_mini"),)
    return Hardware(
        variants, Profile(schema=2, formats=("qint8", "qint2"), model=Model(source="embedded:tiny"), tasks=tasks, latency=SHAPES)
    )


def test_a_cell_of_the_grid_from_warm_up_to_record(hardware: Hardware) -> None:
    made = hardware.ready("w8", "decode-b3-p4-n2")
    with made.watch:
        made.timed.run(*made.timed.setup())
    cell = hardware.latency_cell("w8", made, [0.5])
    assert (cell.variant, cell.batch, cell.prompt_tokens, cell.tokens) == ("w8", 3, 4, 6)
    assert cell.bandwidth == hardware.bandwidth
    assert cell.bandwidth is not None
    assert cell.bandwidth.value
    assert cell.kernels_by_group["mlp.down"] == {"WeightQBytesTensor": tiny_models.LAYERS}
    assert cell.energy is not None
    assert cell.energy.per_token.status == nvml.NO_DEVICE


class Numbered(device.Clock):
    """Counts rounds: what the last ones are is seen without a GPU."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.stopped = 0

    def stop(self) -> None:
        self.stopped += 1

    def rounds_s(self, last: int) -> tuple[float, ...]:
        return tuple(float(number) for number in range(self.stopped - last + 1, self.stopped + 1))


def test_the_device_s_rounds_are_the_timed_ones_and_not_those_for_energy(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    made, clock = hardware.ready("w8", "decode-b1-p4-n2"), Numbered()
    timed = replace(made.timed, clock=clock, again=clock.stop)
    monkeypatch.setattr(energy, "per_token", lambda gpu, idle, run, tokens: [run() for _ in range(5)] and None)
    with made.watch:
        for _ in range(3):
            clock.stop()
    cell = hardware.latency_cell("w8", replace(made, timed=timed), [0.5, 0.4])
    assert clock.stopped == 8, "energy was measured"
    assert cell.device_rounds_s == (2.0, 3.0)


def test_the_largest_decoding(hardware: Hardware) -> None:
    assert hardware.largest_decoding == Timing("decode", 3, 6, 2)


def test_a_record_at_a_smaller_batch_says_what_ran_out(hardware: Hardware) -> None:
    def work(batch: int) -> DivergenceCell:
        if batch > 2:
            torch.empty(1 << 50, dtype=torch.uint8)
        return DivergenceCell(variant="w8", sequences_sha256="0", sequence_tokens=(batch,), kl_nats=(0.0,))

    found = hardware.at_half(4, work)
    assert (found.sequence_tokens, [item.batch for item in found.shortages]) == ((2,), [4])
    assert hardware.at_half(2, work).shortages == ()
