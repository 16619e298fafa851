"""What packed checkpoints for AutoRound and GPTQModel have in common, and when a recipe for the tool is written instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel

from bitzones.backends.int.int_backend import Int, nearest
from bitzones.backends.weights import parts_of
from bitzones.deploy import gptq_layout, safetensors_stream
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.exported import Exported
from bitzones.deploy.model_card import Card
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.prepared import Prepared
from bitzones.deploy.safetensors_stream import Entry
from bitzones.deploy.targets import Target
from bitzones.deploy.weights_export import Notify, Written, check_names, compare, describe, exporter
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import Format

__all__ = ["Dialect", "PackedCheckpoint", "Stored", "packed_or_recipe"]

PORTABLE = Int.name
"""The backend of the formats that these checkpoints hold; its plans are exported with their weights, others as a recipe."""


@dataclass(frozen=True)
class Stored:
    """How a module is stored; ``group`` is None where a row shares a scale."""

    bits: int
    group: int | None
    symmetric: bool

    def described(self) -> dict[str, Any]:
        """In the words of both tools."""
        return {"bits": self.bits, "group_size": self.group or -1, "sym": self.symmetric}


class Dialect(Protocol):
    """What one tool asks of such a checkpoint."""

    name: str
    tool: str
    """In Markdown, with a link."""

    install: str
    indices: bool
    """Whether the group of each column is stored."""

    def files(self, stored: Mapping[str, Stored], left: list[str]) -> dict[str, dict[str, Any]]:
        """The ``quantization_config`` of ``config.json`` under that name, and other files with their content.

        Args:
            stored: module -> how it is stored.
            left: quantizable modules that stay as they are.
        """

    def usage(self, folder: str) -> str:
        """How to load it, as lines of Python."""


class PackedCheckpoint:
    """The carrier of a dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect, self.name = dialect, dialect.name

    def check(self, model: PreTrainedModel, plan_file: PlanFile) -> None:
        """Refuse formats with other zero points than integers, and shapes that fill no words.

        Raises:
            PlanError, ModelError: as `Carrier.check`.
        """
        check_names(model, self.name)
        for name, format_ in plan_file.formats.items():
            found, (rows, columns) = Format.of(format_), model.get_parameter(f"{name}.weight").shape
            if found.backend != PORTABLE and format_ != "qint8":
                raise PlanError(
                    f"module {name!r} is to be {format_}, and the packed weights of {self.name} have integer zero points: the nearest "
                    f"that fits is {nearest(found.bits, columns)}; --recipe writes settings for the tool instead"
                )
            if (why := Int().why_not(Format.of("int:8") if format_ == "qint8" else found, rows, columns)) is not None:
                raise PlanError(f"module {name!r} is to be {format_}: {why}")

    def write(self, made: Prepared, folder: Path, notify: Notify) -> Written:
        """Write weights, configuration and tokenizer.

        Raises:
            PlanError: a scale is no float16.
            ModelError: as `Carrier.write`.
        """
        stored = {name: _stored(made, name) for name in made.plan_file.formats}
        entries = [Entry.of(name, tensor) for name, tensor in made.dense().items()]
        for name, how in stored.items():
            entries += gptq_layout.entries(made.model, name, how.bits, how.group, indices=self.dialect.indices)
        size = safetensors_stream.write(folder / gptq_layout.WEIGHTS, entries)
        describe(made, folder)
        _configure(folder, self.dialect.files(stored, [name for name in made.layers if name not in stored]))
        notify("checking: what was written")
        compare(gptq_layout.values(folder), made)
        return Written(size, _described(made, stored), "read back: 0 weights differ")

    def card(self, written: Written) -> Card:
        """What README.md says of it."""
        return Card(
            "transformers",
            f"quantized by a plan and stored for {self.dialect.tool}",
            f"`{self.dialect.install}`. In this folder:\n\n```python\n{self.dialect.usage('.')}\n```",
            written.stored,
        )

    def how(self, folder: Path) -> str:
        """How to load it."""
        return f"Try it: {self.dialect.install}; then as README.md there says"


def _stored(made: Prepared, name: str) -> Stored:
    """How a module is stored.

    Raises:
        PlanError: it cannot be.
    """
    format_ = Format.of(made.plan_file.formats[name])
    if (why := gptq_layout.rounds(parts_of(made.model.get_submodule(name)), format_.bits)) is not None:
        raise PlanError(f"module {name!r} is {format_.name} with {why}, and would be rounded; the nearest that fits is int:{format_.bits}")
    return Stored(format_.bits, made.plan_file.group_sizes[name], symmetric=format_.backend != PORTABLE)


def _configure(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Put the quantization into ``config.json``, and the other files beside it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = files.pop("config.json")
    for name, content in {"config.json": config, **files}.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _described(made: Prepared, stored: Mapping[str, Stored]) -> tuple[str, ...]:
    """What each format is called, and what it takes with scales and zeros."""
    found = {(made.plan_file.formats[name], how): None for name, how in stored.items()}
    return tuple(
        f"{format_} as {how.bits} bits with integer zero points, "
        + ("a scale a row" if how.group is None else f"groups of {how.group}: {how.bits + (16 + how.bits) / how.group:.4g} bits a weight")
        for format_, how in found
    )


def packed_or_recipe(dialect: Dialect, recipe: Target) -> Target:
    """The export to a tool that quantizes by itself and loads checkpoints too: packed weights where a plan has portable formats."""
    return partial(_export, exporter(PackedCheckpoint(dialect)), recipe)


def _export(weights: Target, recipe: Target, request: ExportRequest) -> Exported:
    """Write weights or a recipe; see `bitzones.deploy.targets.Target`."""
    portable = any(Format.of(format_).backend == PORTABLE for format_ in request.plan_file.formats.values())
    if portable and not request.recipe:
        return weights(request)
    made = recipe(request)
    return made if portable else replace(made, how=f"{made.how}; a plan of int formats is exported with its weights")
