"""Which modules quanto's kernels do not take in a format, asked before anything is quantized: those stay in the reference's format.

The questions go to a child process (`kernel_probe`), since a kernel that does not take a shape may end its process. What a kernel takes
depends on remainders of the shape, the dtypes, the versions and the machine, and on nothing else of a model: the answers are kept in the
user's cache folder, and a model whose shapes are known starts no child.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

import bitzones
from bitzones.backends.quanto import extensions, kernel_probe
from bitzones.backends.quanto.kernel_probe import Question
from bitzones.devices import device as devices
from bitzones.schema import environment
from bitzones.schema.cache import cache_folder
from bitzones.schema.files import beside

__all__ = ["Staying", "question", "staying"]

Staying = Mapping[str, Mapping[str, str]]
"""Format -> module that stays as it is in that format -> why."""

ROWS, COLUMNS = 256, 1536
"""Kernels ask for remainders of a shape and for thresholds up to 128 rows: larger shapes are asked for at the same remainders of these.
1536 holds every group size of quanto (128, 96, 64, 32) and every power of two up to 512."""

MOST_SECONDS = 600
"""For all questions of a model: a child that takes longer is given up."""


def staying(
    model: torch.nn.Module,
    wanted: Iterable[tuple[str, str]],
    compute_dtype: torch.dtype,
    device: torch.device,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, str]]:
    """Format -> module -> why it cannot be quantized to it: in the dtype of the arithmetic, or in the model's own once it is reloaded.

    Args:
        model: its weights may be quantized already.
        wanted: names of linear modules, each with a format, stock or calibrated.
        compute_dtype: of the arithmetic.
        device: where it is done.
        notify: told, in a line, what takes long or could not be found out.

    Returns:
        Formats that every module takes are absent.
    """
    questions = {
        (name, format_): question(model.get_parameter(f"{name}.weight"), format_, compute_dtype, device) for name, format_ in wanted
    }
    failures = _failures(list(dict.fromkeys(questions.values())), notify)
    found: dict[str, dict[str, str]] = {}
    for (name, format_), asked in questions.items():
        if (failure := failures.get(asked)) is not None:
            rows, columns = model.get_parameter(f"{name}.weight").shape
            why = f"quanto has no kernel for {rows} output and {columns} input features in {asked.dtype} on {asked.device}: {failure}"
            found.setdefault(format_, {})[name] = why
    return found


def question(weight: torch.Tensor, format_name: str, compute_dtype: torch.dtype, device: torch.device) -> Question:
    """What to ask for a weight: of a large one, at the same remainders."""
    rows, columns = weight.shape
    return Question(
        rows if rows < 2 * ROWS else ROWS + rows % ROWS,
        columns if columns < 2 * COLUMNS else COLUMNS + columns % COLUMNS,
        format_name,
        _name(weight.dtype),
        _name(compute_dtype),
        device.type,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _failures(questions: list[Question], notify: Callable[[str], None]) -> dict[Question, str | None]:
    """Answers to all questions; one that could not be had is absent."""
    extensions.extension_failure(notify)  # compiled here, if it has to be, and not by a child that is given little time
    known = _read(_place())
    if missing := [asked for asked in questions if _key(asked) not in known]:
        known |= dict(zip(map(_key, missing), _ask(missing, notify), strict=False))
        _keep(known)
    return {asked: known[_key(asked)] for asked in questions if _key(asked) in known}


def _ask(questions: list[Question], notify: Callable[[str], None]) -> list[str | None]:
    """Answers in order: in this process where nothing but float32 on a CPU is asked, which is torch's own product; else in a child."""
    if all({asked.dtype, asked.compute_dtype, asked.device} == {"float32", "cpu"} for asked in questions):
        return [kernel_probe.answer(asked) for asked in questions]
    notify(f"asking quanto's kernels which of {len(questions)} shapes and formats they take")
    package = str(Path(bitzones.__file__).parents[1])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        child = subprocess.run(  # noqa: S603  (this very Python, and a module of this package)
            [sys.executable, "-P", "-m", kernel_probe.__name__],
            input=kernel_probe.written(questions),
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
            check=False,
        )
        answers = [json.loads(line) for line in child.stdout.splitlines()]
        said = child.stderr
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        answers, said = [], str(error)
    if len(answers) < len(questions):
        lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
        notify(f"{len(questions) - len(answers)} shapes could not be asked for, and are taken to work: {lines[-1][:200]}")
    return answers


def _key(asked: Question) -> str:
    return f"{asked.rows}x{asked.columns} {asked.format} {asked.dtype} {asked.compute_dtype} {asked.device}"


def _place() -> Path:
    """The answers of these versions on this machine, which nothing else may answer for."""
    source = Path(kernel_probe.__file__).read_bytes()
    versions = {name: version for name, version in environment.versions().items() if name in {"torch", "optimum-quanto"}}
    machine = [versions, environment.cpu_name(), torch.backends.cpu.get_cpu_capability(), *devices.cuda_names()]
    digest = hashlib.sha256(json.dumps(machine).encode() + source)
    return cache_folder() / "kernels" / f"{digest.hexdigest()[:32]}.json"


def _read(place: Path) -> dict[str, str | None]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(answer is None or isinstance(answer, str) for answer in found.values()):
        return {}
    return found


def _keep(known: Mapping[str, str | None]) -> None:
    """A cache folder that cannot be written costs a child in every run, and no more."""
    with suppress(OSError), beside(_place()) as place:
        place.write_text(json.dumps({**_read(_place()), **known}, indent=1), encoding="utf-8")
