"""Whether quanto's kernels take a shape: one linear module goes the whole way of a model's, from quantizing to a reloaded weight.

A kernel that does not take a shape raises, computes something else, or ends the process. Run as a program this module reads questions from
its standard input and answers each in a line on its standard output; kernels run in a fork, so that one that ends its process is an answer
too and the questions after it are still asked.
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

from bitzones.backends.integers import Rounded
from bitzones.backends.quanto import packing, quantizers, saving
from bitzones.schema.formats import Format, format_bits, is_calibrated

__all__ = ["Question", "answer", "answers", "asked", "written"]

TOKENS = (1, 3, 4, 16, 33)
"""Kernels have a path of their own for one token, for fewer than a block of four, and for what is left over behind whole blocks."""

TOLERANCE = 0.02
"""Largest ||difference|| / ||product|| in a 16-bit dtype. Rounding alone was at most 0.005; a kernel that reads four features too many of
3,071, the least that it can do wrong here, is off by 0.036."""

MOST_SECONDS = 60
"""For one question, of which the largest takes about a second: a kernel that hangs is none that can be used."""


@dataclass(frozen=True)
class Question:
    """Does a weight of ``rows`` output and ``columns`` input features work in a format?

    ``dtype`` is that of the model, which quanto's own loader computes in, ``compute_dtype`` that of the run's arithmetic.
    """

    rows: int
    columns: int
    format: str
    dtype: str
    compute_dtype: str
    device: str


@torch.no_grad()
def answer(question: Question) -> str | None:
    """None where the weight works, else why not, in one line; must not be asked in a process that may not end where a kernel may crash."""
    dtype, compute_dtype = getattr(torch, question.dtype), getattr(torch, question.compute_dtype)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(question.rows, question.columns, generator=generator).to(question.device, dtype)
    given = [torch.randn(count, question.columns, generator=generator).to(question.device) for count in TOKENS]
    try:
        made = _quantized(weight, question.format)
        computing = _quantized(weight, question.format)  # a quantized weight is not always copied by copy.deepcopy
        quantizers.set_compute_dtype(computing, compute_dtype)
        if (apart := _apart(computing, given, compute_dtype)) is not None:
            return apart
        saving.repack_as_reloaded(made)
        if (apart := _apart(made, given, dtype)) is not None:
            return apart
        again = _reloaded(made, question).to(question.device)
        same = all(torch.equal(made(x.to(dtype)), again(x.to(dtype))) for x in given)
    except Exception as error:  # noqa: BLE001  (whatever a kernel raises is the answer)
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None if same else "reloaded it computes something else"


def _quantized(weight: torch.Tensor, format_name: str) -> torch.nn.Module:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    made = torch.nn.Sequential(linear)
    ready = {}
    if is_calibrated(format_name):
        _quantized(weight, Format.of(format_name).stock.name)  # what a module gets that could not be calibrated has to work too
        ready["0"] = _packed(weight, format_bits(format_name))
    quantizers.quantize(made, {"0": format_name}, ready)
    return made


def _packed(weight: torch.Tensor, bits: int) -> packing.Packed:
    """Some integers, scales and shifts in the packing that calibrated ones get."""
    group = packing.planned_group_size(weight.shape[1])
    integers = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape).remainder(2**bits).to(torch.uint8)
    scale = weight.abs().reshape(weight.shape[0], -1, group or weight.shape[1]).amax(-1)
    return packing.pack(Rounded(integers, scale, scale * (2**bits - 1) / 2), bits, group)


@torch.no_grad()
def _apart(module: torch.nn.Module, given: Sequence[torch.Tensor], dtype: torch.dtype) -> str | None:
    """What products are off by, where that is more than rounding explains; compared with float32 products of the same integers."""
    weight = module.get_submodule("0").get_parameter("weight").data
    wanted = torch.cat([x.to(dtype).float() for x in given]) @ packing.dense(weight, weight.dtype).float().t()
    found = torch.cat([module(x.to(dtype)) for x in given]).float()
    off = float((found - wanted).norm() / wanted.norm())
    return None if off <= TOLERANCE else f"its products in {str(dtype).removeprefix('torch.')} are off by {off:.0%}"


def _reloaded(made: torch.nn.Module, question: Question) -> torch.nn.Module:
    """As quanto makes it from a state that was saved."""
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
    """`answer` to every question, in order, computed in forks of this process, which must not have computed anything itself."""
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
    """Answer until a kernel ends this process; what is read on the other side are whole lines."""
    try:
        for question in questions:
            signal.alarm(MOST_SECONDS)
            os.write(writing, (json.dumps(answer(question)) + "\n").encode())
    finally:
        os._exit(0)


def _ended(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return "the process that computes it ends"
    number = os.WTERMSIG(status)
    if number == signal.SIGALRM:
        return f"it takes more than {MOST_SECONDS} seconds"
    return f"the process that computes it is killed ({signal.Signals(number).name})"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # crashes are expected, and no news
    for found in answers(asked(sys.stdin.read())):
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
