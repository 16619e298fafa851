"""What all cells of a run file share: the profile, the model, the environment and the sequences.

A run file is a pytest-benchmark JSON with a `Run` under the top-level key ``bitzones`` and a `Cell` under ``extra_info["bitzones"]`` of
each benchmark. History of ``SCHEMA``:

    1   2026-11   first
    2   2026-11   accuracy: acc_norm, NLL of the gold answer, how it was asked; sensitivity: granularity; model: revision, random weights
    3   2026-11   calibrated formats and their sequences; latency as a cost; NVML, energy, the bandwidth roofline; sweeps around plans; what
                a release does with a variant
    4   2026-11   renamed: unit (part), sequences_sha256 (calibration_sha256), calibration (rounding), contended (disturbed)

`bitzones.schema.migrations` reads the older ones.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from bitzones.schema.profile import Profile
from bitzones.schema.record import Count, Layers, Positive, Record
from bitzones.schema.text_records import TextPart

__all__ = ["FILES", "KEY", "SCHEMA", "SHARED_WEIGHTS", "CalibrationSet", "Environment", "ModelInfo", "Run", "TextSet"]

SCHEMA = 4

KEY = "bitzones"
"""Key of bitzones' data in a run file: at the top level, and in ``extra_info`` of every benchmark."""

FILES = "files"
"""In `ModelInfo.placement`: the layers stay in their files, and one is in memory at a time."""

SHARED_WEIGHTS = "with shared weights"
"""Suffix of a kind in `ModelInfo.not_quantizable` whose weights are shared by several modules."""


class ModelInfo(Record):
    """The model that was measured. ``dtype`` is the reference's storage dtype, ``compute_dtype`` that of the arithmetic.

    ``revision`` is the resolved commit of a model from the hub; ``sha256`` is the hash of the weights, or of the configuration if
    ``random_weights`` is true. ``placement`` has the devices of the layers of a model that is too large for one GPU, such as
    ``{"0-17": "cuda:0", "18-31": "cpu"}``: weights on the CPU are copied to the run's device for every pass; or ``{"0-31": "files"}`` if
    the layers are streamed. ``staying`` maps a format and a reason to the modules that it leaves in the reference's format, because quanto
    has no kernel for them on this machine.
    ``unexpected_weights`` counts weights in its files that its architecture does not have, left out because the profile allows it.
    """

    source: str
    revision: str | None = None
    sha256: str
    random_weights: bool = False
    architecture: str
    parameters: Count
    layers: Layers
    dtype: str
    compute_dtype: str
    tied_embeddings: bool
    not_quantizable: dict[str, Count] = {}
    placement: dict[str, str] = {}
    staying: dict[str, dict[str, tuple[str, ...]]] = {}
    unexpected_weights: Count = 0
    unexpected_bytes: Count = 0


class Environment(Record):
    """The machine and versions of a run; times of two runs are compared only if these agree."""

    python: str
    versions: dict[str, str]
    platform: str
    cpu: str
    threads: Count
    device: str
    device_name: str
    quanto_extension: str


class CalibrationSet(Record):
    """The complete calibration set: together with the model, it is enough to reproduce the integers of calibrated formats.

    ``sequences`` are decimal token IDs separated by spaces, in batches of ``batch``. ``fallbacks`` maps a variant and a module to the
    reason why that module has the stock format's integers.
    """

    sequences_sha256: str
    sequences: tuple[Annotated[str, Field(pattern=r"^\d+( \d+)*$")], ...] = Field(min_length=1)
    batch: Positive
    damping: float = Field(gt=0, le=1)
    fallbacks: dict[str, dict[str, str]] = {}

    @property
    def tokens(self) -> int:
        """Number of tokens in all sequences."""
        return sum(sequence.count(" ") + 1 for sequence in self.sequences)


class TextSet(Record):
    """Sequences of a set (``sensitivity``, ``held_out``, ``calibration``, ``tuning``) or domain, and the documents that they were cut from.

    ``origin`` is the source of the documents; ``sha256`` is the hash of those used, in order. ``passed_over`` counts documents that were
    read but not used, by reason; no document is in two sets. ``parts`` has the same for each source; empty in older run files.
    """

    origin: str
    documents: Positive
    sequences: Positive
    tokens: Positive
    sequence_tokens: Positive
    passed_over: dict[str, Count] = {}
    sha256: str
    parts: tuple[TextPart, ...] = ()


class Run(Record):
    """The data that all cells of a run share."""

    schema_number: Literal[4] = Field(default=4, alias="schema")
    bitzones: str
    profile: Profile
    model: ModelInfo | None
    variants: dict[str, str]
    environment: Environment | None
    calibration: CalibrationSet | None = None
    texts: dict[Literal["sensitivity", "held_out", "calibration", "tuning"], TextSet] = {}
    domains: dict[str, TextSet] = {}
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @property
    def releases(self) -> dict[str, str]:
        """Versions that may be the cause of a difference between two runs."""
        return {"bitzones": self.bitzones, **(self.environment.versions if self.environment else {})}
