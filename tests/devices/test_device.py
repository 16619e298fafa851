"""A device that was asked for is there or it is said, and the dtype of the arithmetic follows the device."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from bitzones.devices import device
from bitzones.schema.environment import cpu_name
from bitzones.schema.errors import DeviceError

CPU = torch.device("cpu")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def test_cpu_is_cpu() -> None:
    assert device.resolve("cpu") == CPU
    assert device.name_of(CPU) == cpu_name()
    device.synchronize(CPU)
    device.free(CPU)


@no_cuda
def test_auto_without_cuda_is_cpu() -> None:
    assert device.resolve("auto") == CPU
    assert device.cuda_names() == []


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_that_is_not_there_is_one_line_that_says_what_to_do(name: str) -> None:
    with pytest.raises(DeviceError, match=rf"device '{name}' was asked for, but .*; use device = 'auto' or 'cpu'"):
        device.resolve(name)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_found_and_counted() -> None:
    assert device.resolve("auto") == device.resolve("cuda") == torch.device("cuda", 0)
    assert device.name_of(device.resolve("auto")) == device.cuda_names()[0]
    with pytest.raises(DeviceError, match="there are only cuda:0 to"):
        device.resolve("cuda:99")
    assert device.allocated_bytes(torch.device("cuda", 0)).status == "ok"
    assert device.reserved_bytes(torch.device("cuda", 0)).status == "ok"
    assert len(device.uuid_of(torch.device("cuda", 0)) or "") == 36


@pytest.mark.parametrize(
    ("kind", "asked", "stored", "expected"),
    [
        ("cpu", "auto", torch.bfloat16, torch.float32),
        ("cpu", "auto", torch.float16, torch.float32),
        ("cuda", "auto", torch.bfloat16, torch.bfloat16),
        ("cuda", "auto", torch.float16, torch.float16),
        ("cpu", "bfloat16", torch.bfloat16, torch.bfloat16),
        ("cuda", "float32", torch.bfloat16, torch.float32),
    ],
)
def test_the_dtype_of_the_arithmetic(kind: str, asked: str, stored: torch.dtype, expected: torch.dtype) -> None:
    assert device.compute_dtype(torch.device(kind), asked, stored) == expected


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002


def test_every_generator_is_seeded() -> None:
    device.seed_everything(5)
    first = draw()
    device.seed_everything(5)
    again = draw()
    device.seed_everything(6)
    other = draw()
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_memory_that_ran_out_is_recognized(error: Exception, out: bool) -> None:
    assert device.is_out_of_memory(error) is out


def test_a_real_allocation_that_is_too_large_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert device.is_out_of_memory(caught.value)
    assert device.shortage(caught.value, 4, CPU).asked_bytes == 1 << 50


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        (
            "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 5.06 MiB is free.",
            22011707392,
        ),
        ("CUDA out of memory. Tried to allocate 512.00 KiB. GPU 0 has ...", 524288),
        ("something else", None),
    ],
)
def test_what_was_asked_for_is_read_from_the_error(message: str, asked: int | None) -> None:
    found = device.shortage(torch.OutOfMemoryError(message), 2, CPU)
    assert (found.batch, found.asked_bytes) == (2, asked)
    assert found.free_bytes is not None
    assert found.free_bytes > 0


def test_a_compiler_s_refusal_is_told_from_a_model_s_error() -> None:
    from torch._dynamo.exc import Unsupported

    assert device.is_compiler_error(Unsupported("a tensor subclass"))
    assert not device.is_compiler_error(RuntimeError("shape mismatch"))
    assert not device.is_compiler_error(torch.OutOfMemoryError("x"))


def test_a_large_copy_has_a_bandwidth() -> None:
    found = device.copy_bandwidth(CPU)
    assert (found.unit, found.status) == ("bytes/s", "ok")
    assert found.value is not None
    assert 1e8 < found.value < 1e13, "bytes per second of any memory"


def test_a_cpu_has_no_clock_of_its_own() -> None:
    clock = device.Clock(CPU)
    clock.start()
    clock.stop()
    assert clock.rounds_s(1) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_events_time_what_is_between_them() -> None:
    gpu = torch.device("cuda", 0)
    clock, made = device.Clock(gpu), torch.ones(2**24, device=gpu)
    for _ in range(3):
        clock.start()
        made.mul_(1.0)
        clock.stop()
    rounds = clock.rounds_s(2)
    assert rounds is not None
    assert len(rounds) == 2
    assert all(took > 0 for took in rounds)
