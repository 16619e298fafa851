"""A plan as a compressed-tensors checkpoint (``pack-quantized``), which vLLM loads: 8 bits, and 4 or 2 where zero points are whole numbers.

``weight_packed`` is int32 of shape (rows, columns * bits / 32), lowest bits first, with integers stored as unsigned ones; ``weight_scale``
has shape (rows, groups); ``weight_zero_point`` is packed along the rows; ``weight_shape`` is that of the weight. A weight stands for
``(integer - zero) * scale``: quanto's ``integer * scale - shift`` where the shift is a whole number of scales. One that would have to be
rounded is refused: it would be another quantization than the one that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from bitzones.backends.bit_words import WORD_BITS, pack, unpack
from bitzones.backends.int.int_backend import nearest
from bitzones.backends.integers import Rounded
from bitzones.backends.weights import parts_of
from bitzones.deploy import safetensors_stream
from bitzones.deploy.model_card import Card
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.prepared import Prepared
from bitzones.deploy.safetensors_stream import Entry
from bitzones.deploy.weights_export import Notify, Written, check_names, compare, describe, exporter
from bitzones.deploy.zero_points import zeros
from bitzones.models.units import fused_groups
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import Format, format_bits

__all__ = ["CompressedTensors", "check_fused", "export", "values"]

_WEIGHTS = "model.safetensors"


def check_fused(model: PreTrainedModel, plan_file: PlanFile, engine: str) -> None:
    """Refuse a plan that gives modules different formats that the engine fuses into one product.

    Raises:
        PlanError: naming the modules and their formats.
    """
    for names in fused_groups(model).values():
        found = {name: plan_file.plan.assignment.get(name, plan_file.plan.reference) for name in names}
        if len({(Format.of(format_).plain, plan_file.plan.group_sizes.get(name)) for name, format_ in found.items()}) > 1:
            shown = ", ".join(f"{name!r} {format_}" for name, format_ in found.items())
            raise PlanError(
                f"{engine} fuses {shown} into one product, which has one format: the nearest that fits is the largest of them for all; "
                'plan with sensitivity.granularity = "group"'
            )


@dataclass(frozen=True)
class _Scheme:
    """How a module is stored; ``group`` is None where a row shares a scale."""

    bits: int
    group: int | None
    symmetric: bool

    def described(self, targets: list[str]) -> dict[str, Any]:
        """A config group, in the words of compressed-tensors."""
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": "channel" if self.group is None else "group",
            "group_size": self.group,
            "dynamic": False,
        }
        return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None, "format": "pack-quantized"}


class CompressedTensors:
    """The carrier."""

    name = "compressed-tensors"

    def check(self, model: PreTrainedModel, plan_file: PlanFile) -> None:
        """Refuse modules that vLLM fuses and that differ, and tensors whose names transformers translates.

        Raises:
            PlanError, ModelError: as `Carrier.check`.
        """
        plan_file.check_backends("compressed-tensors", "quanto", "int")
        check_names(model, "vLLM")
        check_fused(model, plan_file, "vLLM")

    def write(self, made: Prepared, folder: Path, notify: Notify) -> Written:
        """Write weights, configuration and tokenizer.

        Raises:
            PlanError: a shift is no whole number of scales.
            ModelError: as `Carrier.write`.
        """
        schemes = {name: _scheme(made, name) for name in made.plan_file.formats}
        entries = [Entry.of(name, tensor) for name, tensor in made.dense().items()]
        for name, scheme in schemes.items():
            entries += _entries(made.model, name, scheme)
        size = safetensors_stream.write(folder / _WEIGHTS, entries)
        describe(made, folder)
        _configure(folder / "config.json", schemes, _left(made))
        notify("checking: what was written")
        compare(values(folder), made)
        return Written(size, _stored(made, schemes), "read back: 0 weights differ")

    def card(self, written: Written) -> Card:
        """What README.md says of it."""
        return Card(
            "vllm",
            "quantized by optimum-quanto and stored as [compressed-tensors](https://github.com/vllm-project/compressed-tensors)",
            "`pip install vllm`. In this folder:\n\n```sh\nvllm serve .\n```",
            written.stored,
        )

    def how(self, folder: Path) -> str:
        """How to load it."""
        return f"Try it: vllm serve {folder}"


def _parts(model: PreTrainedModel, name: str) -> Rounded:
    return parts_of(model.get_submodule(name))


def _scheme(made: Prepared, name: str) -> _Scheme:
    """How a module is stored.

    Raises:
        PlanError: it cannot be.
    """
    format_ = made.plan_file.formats[name]
    bits, group = format_bits(format_), made.plan_file.group_sizes[name]
    if format_ == "qint8":  # quanto's 8 bits are symmetric: its integers plus 128, and a zero at 128
        return _Scheme(bits, group, symmetric=True)
    parts = _parts(made.model, name)
    if zeros(parts, bits) is None:
        off = (parts.shift.float() / parts.scale.float()).flatten()
        worst = float(off[(off - off.round()).abs().argmax()])
        raise PlanError(
            f"module {name!r} is {format_} with a shift of {worst:.3f} scales, and compressed-tensors has whole zero points: rounded, it "
            f"would be another quantization than was measured; the nearest that fits is {nearest(bits, parts.integers.shape[1])} or qint8; "
            "--to mlx and --to gguf hold it as it is"
        )
    return _Scheme(bits, group, symmetric=False)


def _entries(model: PreTrainedModel, name: str, scheme: _Scheme) -> Iterator[Entry]:
    """The tensors of a module, made when they are written."""
    weight = model.get_parameter(f"{name}.weight")
    rows, columns = weight.shape
    groups = columns // (scheme.group or columns)
    yield Entry(f"{name}.weight_packed", torch.int32, (rows, _words(columns, scheme.bits)), partial(_packed, model, name, scheme.bits))
    yield Entry(f"{name}.weight_scale", _parts(model, name).scale.dtype, (rows, groups), lambda: _parts(model, name).scale)
    yield Entry.of(f"{name}.weight_shape", torch.tensor([rows, columns]))
    if not scheme.symmetric:
        yield Entry(
            f"{name}.weight_zero_point", torch.int32, (_words(rows, scheme.bits), groups), partial(_zero_points, model, name, scheme.bits)
        )


def _words(count: int, bits: int) -> int:
    """32-bit words that so many integers fill, the last one perhaps in part."""
    return -(-count * bits // WORD_BITS)


def _packed(model: PreTrainedModel, name: str, bits: int) -> torch.Tensor:
    return pack(_parts(model, name).integers, bits).view(torch.int32)


def _zero_points(model: PreTrainedModel, name: str, bits: int) -> torch.Tensor:
    found = zeros(_parts(model, name), bits)
    assert found is not None  # checked before
    return pack(found.T.contiguous(), bits).view(torch.int32).T


def _left(made: Prepared) -> list[str]:
    """Linear modules that stay as they are, which loaders have to be told."""
    quantized = made.plan_file.formats
    return [name for name, module in made.model.named_modules() if isinstance(module, torch.nn.Linear) and name not in quantized]


def _configure(path: Path, schemes: dict[str, _Scheme], ignore: list[str]) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    kinds = dict.fromkeys(schemes.values())
    groups = {
        f"group_{number}": kind.described([name for name, scheme in schemes.items() if scheme == kind]) for number, kind in enumerate(kinds)
    }
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def values(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Module -> the weights that its integers, scales and zero points stand for, float32, read from a folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    with safe_open(folder / _WEIGHTS, framework="pt") as handle:
        for group in config["config_groups"].values():
            bits = group["weights"]["num_bits"]
            for name in group["targets"]:
                rows, columns = handle.get_tensor(f"{name}.weight_shape").tolist()
                integers = unpack(handle.get_tensor(f"{name}.weight_packed").view(torch.uint32), bits, columns)
                scale = handle.get_tensor(f"{name}.weight_scale")
                zero = torch.full_like(scale, 2.0 ** (bits - 1), dtype=torch.float32)
                if not group["weights"]["symmetric"]:
                    words = handle.get_tensor(f"{name}.weight_zero_point").T.contiguous().view(torch.uint32)
                    zero = unpack(words, bits, rows).T.float()
                yield name, Rounded(integers, scale, scale.float() * zero).values()


def _stored(made: Prepared, schemes: dict[str, _Scheme]) -> tuple[str, ...]:
    """What each format is called."""
    found = {(made.plan_file.formats[name], scheme): None for name, scheme in schemes.items()}
    return tuple(
        f"{format_} as pack-quantized W{scheme.bits}A16, {'a scale a row' if scheme.group is None else f'groups of {scheme.group}'}"
        f"{'' if scheme.symmetric else ', integer zero points'}"
        for format_, scheme in found
    )


export = exporter(CompressedTensors())
"""Export for vLLM; see `bitzones.deploy.targets.Target`."""
