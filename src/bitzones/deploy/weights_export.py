"""What all exports of weights have in common: load and quantize, let a carrier write, put plan, card and manifest beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from bitzones.backends.weights import parts_of
from bitzones.deploy import folders, manifest, prepared, verify
from bitzones.deploy.export_request import ExportRequest, Notify
from bitzones.deploy.exported import Exported
from bitzones.deploy.model_card import Card, model_card
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.prepared import Prepared
from bitzones.deploy.targets import Target
from bitzones.schema.errors import ModelError

__all__ = ["Carrier", "Notify", "Written", "check_names", "compare", "describe", "exporter"]


@dataclass(frozen=True)
class Written:
    """What a carrier wrote: bytes of weights, what each format of the plan is called and takes there, and how that was checked."""

    bytes: int
    stored: tuple[str, ...]
    checked: str


class Carrier(Protocol):
    """A file format of another engine that holds integers, scales and shifts unchanged."""

    name: str

    def check(self, model: PreTrainedModel, plan_file: PlanFile) -> None:
        """Refuse, before anything is quantized, what the format cannot hold.

        Raises:
            PlanError: naming the module, its format and the nearest that fits.
            ModelError: the engine does not have this architecture.
        """

    def write(self, made: Prepared, folder: Path, notify: Notify) -> Written:
        """Write all but the plan, the card and the manifest, and compare what was written with what was quantized.

        Raises:
            ModelError: they differ.
        """

    def card(self, written: Written) -> Card:
        """What README.md says of it."""

    def how(self, folder: Path) -> str:
        """How to load it, in one line."""


def exporter(carrier: Carrier) -> Target:
    """The export that `bitzones.deploy.targets` offers."""
    return partial(_export, carrier)


def _export(carrier: Carrier, request: ExportRequest) -> Exported:
    """Quantize a fresh copy of the plan's model and let a carrier write it to a folder: all of it, or nothing.

    Raises:
        PlanError, ModelError, OutputError: as `bitzones.deploy.targets.Target`.
    """
    plan_file, output, notify = request.plan_file, request.output, request.notify
    with folders.replacing(output, marker=manifest.MANIFEST, force=request.force) as folder, prepared.no_bars():
        made = prepared.load(request, check=lambda model: carrier.check(model, plan_file))
        notify("writing")
        written = carrier.write(made, folder, notify)
        (folder / verify.PLAN_FILE).write_text(plan_file.text, encoding="utf-8")
        card = model_card(plan_file.plan, plan_file.model, made.layers, made.bytes_before, written.bytes, carrier.card(written))
        (folder / "README.md").write_text(card, encoding="utf-8")
        manifest.write(folder, carrier.name)
    return Exported(
        output, made.bytes_before, written.bytes, made.counts, made.unnamed, written.checked, carrier.how(output), written.stored
    )


def check_names(model: PreTrainedModel, engine: str) -> None:
    """Refuse a model whose tensors have other names in memory than in its files.

    Raises:
        ModelError: transformers translates them.
    """
    kind = model.config.model_type
    if get_checkpoint_conversion_mapping(kind) is not None:
        raise ModelError(f"transformers renames the tensors of {kind!r} when it loads them, and {engine} expects the names of the original")


def describe(made: Prepared, folder: Path) -> None:
    """Write configuration, generation settings and tokenizer as transformers does."""
    made.model.config.save_pretrained(folder)
    if made.model.can_generate() and made.model.generation_config is not None:
        made.model.generation_config.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


def compare(stored: Iterable[tuple[str, torch.Tensor]], made: Prepared) -> None:
    """Compare what a folder's weights stand for, by module, with what was quantized.

    Raises:
        ModelError: one weight differs, or a module is missing.
    """
    missing = set(made.plan_file.formats)
    for name, values in stored:
        if not torch.equal(values, parts_of(made.model.get_submodule(name)).values()):
            raise ModelError(f"module {name!r} reads back with other weights than were quantized; nothing was written")
        missing.remove(name)
    if missing:
        raise ModelError(f"module {min(missing)!r} does not read back; nothing was written")
