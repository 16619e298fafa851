"""Records what an exported model computes, so that any machine can check later whether it still does.

quanto loads an incomplete folder without complaint: missing tensors, another map. So a folder contains a hash of each of its files and the
model's outputs for a few fixed tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from transformers import PreTrainedModel

from bitzones import __version__
from bitzones.backends import quantizing, registry
from bitzones.backends.weights import packed_weights
from bitzones.deploy.fingerprint import Answers, DtypeName, answer
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.models import structure
from bitzones.schema.environment import versions
from bitzones.schema.errors import ModelError, PlanError
from bitzones.schema.record import Record
from bitzones.schema.validation_errors import first_error

__all__ = [
    "CHECK_FILE",
    "KERNEL_TOLERANCE_NATS",
    "PLAN_FILE",
    "TOLERANCE_NATS",
    "Check",
    "check",
    "damage",
    "file_hashes",
    "read",
    "verify",
    "write",
]

CHECK_FILE, PLAN_FILE = "bitzones_check.json", "plan.json"
CHECK_FORMAT: Literal["bitzones-check"] = "bitzones-check"
CHECK_SCHEMA: Literal[1] = 1

TOP = 8
"""Most likely tokens whose log-probabilities are kept at each position: the likely ones move least by rounding alone."""

TOLERANCE_NATS = 1e-3
"""Largest mean |difference| of those log-probabilities in float32 that another machine may show. Between the AVX2 and the SSE4.1 kernels of
one processor it was 1e-5 on SmolLM2-135M at mixed 8, 4 and 2 bits, and 1e-6 on the embedded model: 100 times that is still no damage."""

KERNEL_TOLERANCE_NATS = {"float32": TOLERANCE_NATS, "float16": 0.4, "bfloat16": 2.0}
"""The same between the model's own dtype, which a user computes in, and float32: wide, for kernels that compute something else altogether.
Rounding alone was 0.22 in bfloat16 and 0.04 in float16 on SmolLM2-135M at mixed bits: 10 times that."""

_BLOCK_BYTES = 1 << 20
_NOT_HASHED = {"README.md", CHECK_FILE, ".gitattributes"}
"""What a user may edit, what holds the hashes, and what the hub adds."""
_LOADED = (".safetensors", ".index.json", ".bin", ".py")
"""Endings of files that would change what is loaded if they were added."""

FileName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]+$")]
"""Of a file in the folder itself: no path leads out of it."""


class Check(Record):
    """bitzones_check.json: the files of a folder, and what its model computes.

    ``logits_sha256`` is of all logits bit for bit, in the model's own ``dtype``, on the machine that made the folder. For other machines
    there are ``log_probabilities``, nats, by sequence, position and then the tokens of ``top_tokens``: of the same stored weights, but with
    float32 arithmetic, where machines agree 10,000 times better than in bfloat16.
    """

    format: Literal["bitzones-check"] = CHECK_FORMAT
    schema_number: Literal[1] = Field(default=CHECK_SCHEMA, alias="schema")
    bitzones: str
    versions: dict[str, str]
    device: str
    dtype: DtypeName
    tied_embeddings: bool
    token_ids: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = Field(min_length=1)
    top_tokens: tuple[tuple[tuple[Annotated[int, Field(ge=0)], ...], ...], ...]
    log_probabilities: tuple[tuple[tuple[float, ...], ...], ...]
    logits_sha256: str
    files: dict[FileName, str]
    """File name to SHA-256."""
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


def verify(model: PreTrainedModel, plan_file: PlanFile) -> None:
    """Read off the tensors that exactly the plan's modules are quantized, in its formats and with its group sizes.

    Raises:
        ModelError: naming the first module that is not.
    """
    quantizing.verify(model, plan_file.formats)
    packed = packed_weights(model)
    for name, expected in plan_file.group_sizes.items():
        if (found := packed[name].group_size) != expected:
            raise ModelError(f"module {name!r} should have a scale for {_span(expected)} and has one for {_span(found)}")


def _span(group_size: int | None) -> str:
    return "each row" if group_size is None else f"every {group_size} weights"


def file_hashes(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file that makes the folder what it is."""
    return {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name not in _NOT_HASHED}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write(folder: Path, model: PreTrainedModel, answers: Answers) -> None:
    """Write down what the finished folder holds and computes.

    Args:
        folder: finished.
        model: reloaded from it; is left in float32.
        answers: of that model in its own dtype.

    Raises:
        ModelError: in its own dtype the model computes something else than in float32.
    """
    quantizing.set_compute_dtype(model, torch.float32)
    wide = answer(model, answers.token_ids).log_probabilities
    values, top = wide.topk(min(TOP, wide.shape[-1]))
    record = Check(
        bitzones=__version__,
        versions=versions(),
        device=model.device.type,
        dtype=answers.dtype,
        tied_embeddings=structure.tied_embeddings(model),
        token_ids=answers.token_ids.tolist(),
        top_tokens=top.tolist(),
        log_probabilities=values.tolist(),
        logits_sha256=answers.sha256,
        files=file_hashes(folder),
    )
    if (difference := _far(record, answers, KERNEL_TOLERANCE_NATS[record.dtype])) is not None:
        raise ModelError(f"kernels for {record.dtype} compute something else than float32 arithmetic: {difference}")
    (folder / CHECK_FILE).write_text(record.model_dump_json(by_alias=True) + "\n", encoding="utf-8")


def check(folder: Path, device: torch.device, notify: Callable[[str], None] = lambda message: None) -> str | None:
    """None where a folder is what it was when it was made and computes the same, else what differs, in one line.

    Raises:
        PlanError: the folder or its record cannot be read.
        ModelError: the model cannot be loaded.
    """
    record = read(folder)
    notify("comparing the files with their hashes")
    if (difference := _files_differ(folder, record)) is not None:
        return difference
    plan_file = read_plan(folder / PLAN_FILE)
    notify("loading")
    model = registry.checkpoints(registry.DEFAULT).reload(folder)
    try:
        verify(model, plan_file)
    except ModelError as error:
        return f"{folder}: not what its plan says: {error}"
    if structure.tied_embeddings(model) is not record.tied_embeddings:
        return f"{folder}: its input and output embeddings were {'one tensor' if record.tied_embeddings else 'two'} and are not any more"
    for format_name, modules in quantizing.unsupported(model, plan_file.formats.items(), model.dtype, device, notify).items():
        name = next(iter(modules))
        return f"{folder}: this machine cannot compute it: {name!r} is {format_name}, and {modules[name]}"
    notify("computing")
    torch.nn.Module.to(model, device)
    answers = answer(model, torch.tensor(record.token_ids))
    if answers.sha256 == record.logits_sha256:
        return None
    notify("computing in float32")
    quantizing.set_compute_dtype(model, torch.float32)
    return _answers_differ(folder, record, answers, answer(model, answers.token_ids))


def damage(folder: Path) -> str | None:
    """The first file that is missing, changed or added, in one line; None where the folder is whole.

    Raises:
        PlanError: the folder or its record cannot be read.
    """
    return _files_differ(folder, read(folder))


def read(folder: Path) -> Check:
    """The record of a folder.

    Raises:
        PlanError: it cannot be read, or is something else.
    """
    path = folder / CHECK_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}; bitzones apply writes it") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON, or truncated") from error
    if not isinstance(data, dict) or data.get("format") != CHECK_FORMAT:
        raise PlanError(f"{path}: JSON, but not what bitzones apply writes")
    if (schema := data.get("schema")) != CHECK_SCHEMA:
        raise PlanError(f"{path}: its schema number is {schema!r}, this bitzones reads {CHECK_SCHEMA}: use the version that wrote it")
    try:
        record = Check.model_validate(data)
        tokens, top, values = (torch.tensor(numbers) for numbers in (record.token_ids, record.top_tokens, record.log_probabilities))
    except ValidationError as error:
        first = first_error(error)
        raise PlanError(f"{path}: key {first.path!r}: {first.message}") from error
    except ValueError as error:
        raise PlanError(f"{path}: damaged: {error}") from error
    if top.shape != values.shape or top.shape[:2] != tokens.shape or not top.numel():
        raise PlanError(f"{path}: damaged: tokens and log-probabilities differ in number")
    return record


def _files_differ(folder: Path, record: Check) -> str | None:
    try:
        here = file_hashes(folder)
    except OSError as error:
        raise PlanError(f"{folder}: cannot be read: {error.strerror}") from error
    for name, sha256 in record.files.items():
        if name not in here:
            return f"{folder}: {name!r} is missing"
        if here[name] != sha256:
            return f"{folder}: {name!r} is not as bitzones apply wrote it: it was changed, or did not arrive whole"
    added = [name for name in here if name not in record.files and name.endswith(_LOADED)]
    return f"{folder}: {added[0]!r} was added, and would change what is loaded" if added else None


def _answers_differ(folder: Path, record: Check, narrow: Answers, wide: Answers) -> str | None:
    if narrow.dtype != record.dtype:
        return f"{folder}: it computes in {narrow.dtype} and did in {record.dtype}"
    here = versions()
    changed = [f"{name} {was} there and {here.get(name, 'absent')} here" for name, was in record.versions.items() if here.get(name) != was]
    why = f" (made with {', '.join(changed)})" if changed else ""
    if (difference := _far(record, wide, TOLERANCE_NATS)) is not None:
        return f"{folder}: it computes something else than it did: {difference}{why}"
    if (difference := _far(record, narrow, KERNEL_TOLERANCE_NATS[record.dtype])) is not None:
        return f"{folder}: kernels for {record.dtype} compute something else here: {difference}{why}"
    return None


def _far(record: Check, answers: Answers, tolerance: float) -> str | None:
    """How far answers are from the recorded ones where that is more than the tolerance."""
    top, stored = torch.tensor(record.top_tokens), torch.tensor(record.log_probabilities)
    if int(top.max()) >= answers.logits.shape[-1]:
        return f"its vocabulary has {answers.logits.shape[-1]} tokens and had more"
    apart = float((answers.log_probabilities.gather(-1, top) - stored).abs().mean())
    return None if apart <= tolerance else f"log-probabilities are {apart:.2g} nats off on average, and {tolerance:g} is allowed"
