"""Tries whether quanto's kernels support a shape: one linear module goes through quantizing, computing, saving and reloading.

A kernel that does not support a shape raises, computes something else, or crashes the process. Run as a program, this module reads
questions from standard input and writes one line per answer to standard output. Kernels run in a forked process, so that a crash is an
answer too and the remaining questions are still answered.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from optimum import quanto

from bitzones.backends import quantizing
from bitzones.backends.integers import Rounded
from bitzones.backends.quanto import packing, saving
from bitzones.backends.quanto.quanto_weight import QuantoWeight
from bitzones.schema.formats import Format, format_bits, is_calibrated

__all__ = ["Question", "answer", "answers", "asked", "written"]

TOKENS = (1, 3, 4, 16, 33)
"""Kernels have separate code paths for one token, for less than a block of four, and for the remainder after whole blocks."""

TOLERANCE = 0.02
"""Largest accepted ||difference|| / ||product|| in a 16-bit dtype. Rounding alone gave at most 0.005; the smallest error a kernel can make
here, reading 4 features too many of 3,071, gives 0.036."""

MOST_SECONDS = 60
"""Timeout of one question; the largest takes about a second. A kernel that hangs is not usable."""


@dataclass(frozen=True)
class Question:
    """Does a weight of ``rows`` output and ``columns`` input features work in a format?

    ``dtype`` is the model's dtype, in which quanto's own loader computes; ``compute_dtype`` is that of the run's arithmetic.
    """

    rows: int
    columns: int
    format: str
    dtype: str
    compute_dtype: str
    device: str


@torch.no_grad()
def answer(question: Question) -> str | None:
    """None if the weight works, else the reason in one line. A kernel may crash: do not call this in a process that must survive."""
    dtype, compute_dtype = getattr(torch, question.dtype), getattr(torch, question.compute_dtype)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(question.rows, question.columns, generator=generator).to(question.device, dtype)
    given = [torch.randn(count, question.columns, generator=generator).to(question.device) for count in TOKENS]
    try:
        made = _quantized(weight, question.format)
        computing = _quantized(weight, question.format)  # copy.deepcopy cannot copy every quantized weight
        quantizing.set_compute_dtype(computing, compute_dtype)
        if (apart := _apart(computing, given, compute_dtype)) is not None:
            return apart
        saving.repack_as_reloaded(made)
        if (apart := _apart(made, given, dtype)) is not None:
            return apart
        again = _reloaded(made, question).to(question.device)
        same = all(torch.equal(made(x.to(dtype)), again(x.to(dtype))) for x in given)
    except Exception as error:  # noqa: BLE001  (any error of a kernel is the answer)
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None if same else "it computes something else after a reload"


def _quantized(weight: torch.Tensor, format_name: str) -> torch.nn.Module:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    made = torch.nn.Sequential(linear)
    ready = {}
    if is_calibrated(format_name):
        _quantized(weight, Format.of(format_name).stock.name)  # the fallback of a module that cannot be calibrated must work too
        ready["0"] = QuantoWeight(_packed(weight, format_bits(format_name)))
    quantizing.quantize(made, {"0": format_name}, ready)
    return made


def _packed(weight: torch.Tensor, bits: int) -> packing.Packed:
    """Arbitrary integers, scales and shifts, packed like calibrated ones."""
    group = packing.planned_group_size(weight.shape[1])
    integers = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape).remainder(2**bits).to(torch.uint8)
    scale = weight.abs().reshape(weight.shape[0], -1, group or weight.shape[1]).amax(-1)
    return packing.pack(Rounded(integers, scale, scale * (2**bits - 1) / 2), bits, group)


@torch.no_grad()
def _apart(module: torch.nn.Module, given: Sequence[torch.Tensor], dtype: torch.dtype) -> str | None:
    """The error of the products against float32 products of the same integers, if rounding does not explain it."""
    weight = module.get_submodule("0").get_parameter("weight").data
    wanted = torch.cat([x.to(dtype).float() for x in given]) @ packing.dense(weight, weight.dtype).float().t()
    found = torch.cat([module(x.to(dtype)) for x in given]).float()
    off = float((found - wanted).norm() / wanted.norm())
    return None if off <= TOLERANCE else f"products in {str(dtype).removeprefix('torch.')} are off by {off:.0%}"


def _reloaded(made: torch.nn.Module, question: Question) -> torch.nn.Module:
    """The module as quanto restores it from its state dict."""
    dtype: torch.dtype = getattr(torch, question.dtype)
    again = torch.nn.Sequential(torch.nn.Linear(question.columns, question.rows, bias=False, dtype=dtype, device="meta"))
    state = {name: tensor.cpu() for name, tensor in made.state_dict().items()}
    quanto.requantize(again, state, quanto.quantization_map(made))
    return again


def written(questions: Sequence[Question]) -> str:
    """Questions as lines of JSON."""
    return "".join(json.dumps(asdict(question)) + "\n" for question in questions)


def asked(text: str) -> list[Question]:
    """The questions that `written` wrote."""
    return [Question(**json.loads(line)) for line in text.splitlines()]


def answers(questions: Sequence[Question]) -> Iterator[str | None]:
    """The `answer` to every question, in order, from forks of this process, which must not have used torch's thread pool itself."""
    done = 0
    while done < len(questions):
        reading, writing = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.close(reading)
            _work(questions[done:], writing)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                done += 1
                yield json.loads(line)
        _, status = os.waitpid(worker, 0)
        if done < len(questions):
            done += 1
            yield _ended(status)


def _work(questions: Sequence[Question], writing: int) -> None:
    """Answer until all questions are done or a kernel crashes this process; only whole lines are written."""
    try:
        for question in questions:
            signal.alarm(MOST_SECONDS)
            os.write(writing, (json.dumps(answer(question)) + "\n").encode())
    finally:
        os._exit(0)


def _ended(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return "it ends the process"
    number = os.WTERMSIG(status)
    if number == signal.SIGALRM:
        return f"it takes more than {MOST_SECONDS} seconds"
    return f"it crashes the process ({signal.Signals(number).name})"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # crashes are expected: no core dumps
    for found in answers(asked(sys.stdin.read())):
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
