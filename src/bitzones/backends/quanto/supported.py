"""Finds the modules whose shape quanto's kernels do not support in a format; those stay in the reference's format.

Shapes are tried in a child process (`kernel_probe`), because an unsupported one can crash the process. Support depends only on remainders
of the shape, on the dtypes, on the versions and on the machine, so answers are cached in the user's cache folder, and a model with known
shapes starts no child process.
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
"""Format -> module that this format leaves in the reference's format -> reason."""

ROWS, COLUMNS = 256, 1536
"""Kernels depend on remainders of the shape and on thresholds up to 128 rows, so a larger shape is tried as a smaller one with the same
remainders by these. 1536 is a multiple of every group size of quanto (128, 96, 64, 32) and of every power of two up to 512."""

MOST_SECONDS = 600
"""Timeout of the child process, for all shapes of a model."""


def staying(
    model: torch.nn.Module,
    wanted: Iterable[tuple[str, str]],
    compute_dtype: torch.dtype,
    device: torch.device,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, str]]:
    """Format -> module -> why no kernel supports it: in the dtype of the arithmetic, or in the model's own dtype after a reload.

    Args:
        model: its weights may already be quantized.
        wanted: names of linear modules, each with a stock or calibrated format.
        compute_dtype: the dtype of the arithmetic.
        device: the device of the arithmetic.
        notify: receives a line about anything that takes long or fails.

    Returns:
        Only formats that some module does not support.
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
    """The question for a weight; a large one is replaced by a smaller one with the same remainders."""
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
    """The answers, without those that could not be found out."""
    extensions.extension_failure(notify)  # compile here if needed, not in the child process with its timeout
    known = _read(_place())
    if missing := [asked for asked in questions if _key(asked) not in known]:
        known |= dict(zip(map(_key, missing), _ask(missing, notify), strict=False))
        _keep(known)
    return {asked: known[_key(asked)] for asked in questions if _key(asked) in known}


def _ask(questions: list[Question], notify: Callable[[str], None]) -> list[str | None]:
    """The answers in order. Only float32 on a CPU, which uses torch's own matrix product, is tried in this process."""
    if all({asked.dtype, asked.compute_dtype, asked.device} == {"float32", "cpu"} for asked in questions):
        return [kernel_probe.answer(asked) for asked in questions]
    notify(f"checking which of {len(questions)} shapes and formats quanto's kernels support")
    package = str(Path(bitzones.__file__).parents[1])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        child = subprocess.run(  # noqa: S603  (this interpreter and a module of this package)
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
        lines = [line for line in said.splitlines() if line.strip()] or ["no error message"]
        notify(f"{len(questions) - len(answers)} shapes could not be checked and are assumed to be supported: {lines[-1][:200]}")
    return answers


def _key(asked: Question) -> str:
    return f"{asked.rows}x{asked.columns} {asked.format} {asked.dtype} {asked.compute_dtype} {asked.device}"


def _place() -> Path:
    """The cache file for these versions on this machine."""
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
    """Update the cache. If the folder is not writable, every run starts the child process again."""
    with suppress(OSError), beside(_place()) as place:
        place.write_text(json.dumps({**_read(_place()), **known}, indent=1), encoding="utf-8")
