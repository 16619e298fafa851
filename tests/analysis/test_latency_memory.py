"""Floor, slow path, disturbance and a smaller batch, decided from cells with known answers."""

from __future__ import annotations

from typing import Any

import pytest
from make_run import latency

from bitzones.analysis import latency_memory
from bitzones.schema.performance_cells import Energy, GpuWatch, LatencyCell
from bitzones.schema.record import Figure, Shortage

VARIANTS = {"bf16": "bf16", "w4": "qint4", "w2": "qint2:hqq"}


def cell(variant: str, scale: float = 1.0, **changes: Any) -> LatencyCell:
    return LatencyCell.model_validate({**latency(variant, "decode", scale).model_dump(), **changes})


def bandwidth(value: float) -> Figure:
    return Figure(value=value, unit="bytes/s", status="ok")


def decided(*cells: LatencyCell) -> Any:
    return latency_memory.latencies(cells, VARIANTS, "bf16", 0)


def test_the_floor_is_what_every_step_reads_by_the_bandwidth() -> None:
    (found,) = decided(cell("bf16", batch=2, tokens=32, weight_bytes=900, cache_bytes=100, bandwidth=bandwidth(1e6), rounds_s=(0.04,) * 5))
    assert found.roofline_s == pytest.approx(16 * 1000 / 1e6)
    assert found.times_roofline == pytest.approx(2.5)


@pytest.mark.parametrize("changes", [{}, {"weight_bytes": 9}, {"bandwidth": bandwidth(1e6)}, {"phase": "prefill", "weight_bytes": 9}])
def test_no_floor_where_something_of_it_is_missing(changes: dict[str, Any]) -> None:
    (found,) = decided(cell("bf16", **{"bandwidth": None, **changes}))
    assert (found.roofline_s, found.times_roofline) == (None, None)


@pytest.mark.parametrize(
    ("kernels", "scale", "code", "modules"),
    [
        ({"unpacked": 84}, 3.1, "unpacked", 84),
        ({"dense": 4, "unpacked": 80}, 2.0, "unpacked", 80),
        ({"unpacked": 84}, 0.8, None, 0),
        ({"fused": 84}, 3.1, "slow_kernel", 84),
        ({"fused": 84}, 1.4, None, 0),
        ({"dense": 84}, 3.1, None, 0),
        ({"of no known kind": 84}, 3.1, None, 0),
    ],
)
def test_a_variant_on_the_slow_path_is_flagged_with_what_it_costs(
    kernels: dict[str, int], scale: float, code: str | None, modules: int
) -> None:
    """Each kernel is called after its kind here."""
    kinds = {name: name for name in kernels if name in ("dense", "fused", "unpacked")}
    _, found = decided(cell("bf16"), cell("w2", scale, kernels=kernels, kernel_kinds=kinds))
    if code is None:
        assert found.slow_path is None
        return
    assert (found.slow_path.code, found.slow_path.modules, found.slow_path.of) == (code, modules, 84)
    assert found.slow_path.kernels == (next(name for name in kernels if name != "dense"),)
    assert found.slow_path.times == pytest.approx(scale)


def test_a_few_rounds_do_not_show_a_slow_path() -> None:
    kernels = {"kernels": {"plain": 84}, "kernel_kinds": {"plain": "unpacked"}}
    _, found = decided(cell("bf16", rounds_s=(1.0, 1.1)), cell("w2", rounds_s=(2.0, 2.1), **kernels))
    assert (found.slow_path, found.ratio.low) == (None, None)


def test_a_compiled_decoding_is_compared_with_a_compiled_reference() -> None:
    plain, compiled = cell("bf16"), cell("bf16", 0.5, compiled=True)
    found = {(item.variant, item.compiled): item for item in decided(plain, compiled, cell("w4", 2.0), cell("w4", 2.0, compiled=True))}
    assert found["w4", False].ratio.value == pytest.approx(2)
    assert found["w4", True].ratio.value == pytest.approx(4)


def test_what_the_driver_saw_is_carried() -> None:
    none = Figure(value=None, unit="bytes", status="not-listed")
    watch = GpuWatch(
        device_used_peak=none,
        process_used_peak=none,
        other_processes=none,
        clocks_held_share=none,
        contended=("power cap in 50% of 8 samples",),
        period_s=0.05,
        samples=8,
    )
    joules = Figure(value=0.5, unit="J/token", status="ok")
    energy = Energy(per_token=joules, idle=Figure(value=70, unit="W", status="ok"), window_s=2, tokens=9)
    (found,) = decided(cell("bf16", gpu=watch, energy=energy, rounds_s=(0.5,) * 20, device_rounds_s=(0.5,) * 20, warmup_stable=False))
    assert (found.contended, found.joules_per_token, found.device_median_s, found.warmup_stable) == (watch.contended, joules, 0.5, False)


def test_rounds_of_a_gpu_that_differ_are_not_its_own_time() -> None:
    apart, together = (1.0, 1.3) * 10, (1.0, 1.01) * 10
    steady, waits, on_a_cpu = decided(
        cell("bf16", rounds_s=together, device_rounds_s=together),
        cell("w4", rounds_s=apart, device_rounds_s=apart),
        cell("w2", rounds_s=apart),
    )
    assert (steady.contended, on_a_cpu.contended) == ((), ())
    assert waits.contended == ("the middle 80% of 20 rounds spread by 26%, more than kernels alone do",)


def test_a_cell_that_had_to_halve_its_batch_is_no_reference_for_one_that_had_not() -> None:
    short = (Shortage(batch=2, asked_bytes=10, free_bytes=5),)
    found = decided(cell("bf16", 7.0, shortages=short), cell("bf16"), cell("w4", 2.0))
    assert [item.asked_batch for item in found] == [2, None, None]
    assert found[2].ratio.value == pytest.approx(2)


def test_a_kernel_that_is_slow_at_reading_prompts_is_flagged_and_unpacking_for_one_is_not() -> None:
    kernels = {"kernels": {"dense": 1, "tiny": 84}, "kernel_kinds": {"dense": "dense", "tiny": "fused"}}
    _, found = decided(cell("bf16", phase="prefill"), cell("w4", 17.3, phase="prefill", **kernels))
    assert (found.slow_path.code, found.slow_path.kernels, found.slow_path.of) == ("slow_kernel", ("tiny",), 85)
    kernels = {"kernels": {"plain": 84}, "kernel_kinds": {"plain": "unpacked"}}
    _, found = decided(cell("bf16", phase="prefill"), cell("w2", 1.3, phase="prefill", **kernels))
    assert found.slow_path is None


def test_how_much_longer_than_compiled_is_said_of_what_is_not_at_the_same_batch() -> None:
    rounds = {"rounds_s": (0.06,) * 5}, {"rounds_s": (0.01,) * 5, "compiled": True}, {"rounds_s": (0.08,) * 5, "batch": 8}
    found = decided(*(cell("bf16", **changes) for changes in rounds))
    assert [(item.compiled, item.batch, item.times_compiled) for item in found] == [
        (False, 1, pytest.approx(6.0)),
        (True, 1, None),
        (False, 8, None),
    ]
