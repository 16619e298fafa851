"""A plan as a folder for mlx-lm: its own formats, and those of quanto, whose integers, scales and shifts they hold unchanged.

MLX stores ``weight`` as uint32 of shape (rows, columns * bits / 32), lowest bits first, and ``scales`` and ``biases`` of shape
(rows, columns / group): a weight stands for ``integer * scale + bias``, so the bias is minus quanto's shift. Groups have 32, 64 or 128
columns; a longer group is written as several with the same scale. ``config.json`` gives each module's bits and group size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from bitzones.backends.bit_words import WORD_BITS, pack, unpack
from bitzones.backends.integers import Rounded
from bitzones.backends.weights import parts_of
from bitzones.deploy import safetensors_stream
from bitzones.deploy.model_card import Card
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.prepared import Prepared
from bitzones.deploy.safetensors_stream import Entry
from bitzones.deploy.weights_export import Notify, Written, check_names, compare, describe, exporter
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import format_bits

__all__ = ["GROUPS", "MLX", "export", "shared_group", "values"]

GROUPS = (128, 64, 32)
"""Columns that may share a scale in MLX's affine formats, the largest first."""

_WEIGHTS = "model.safetensors"


def shared_group(columns: int, group: int | None) -> int | None:
    """The largest of MLX's groups that divides the plan's, None being a whole row; None where there is none.

    >>> shared_group(576, 96), shared_group(576, None), shared_group(100, None)
    (32, 64, None)
    """
    return next((size for size in GROUPS if (group or columns) % size == 0), None)


class MLX:
    """The carrier."""

    name = "mlx"

    def check(self, model: PreTrainedModel, plan_file: PlanFile) -> None:
        """Refuse columns that no group divides, and tensors whose names in a file transformers would translate.

        Raises:
            PlanError, ModelError: as `Carrier.check`.
        """
        plan_file.check_backends("MLX", "quanto", "mlx")
        check_names(model, "mlx-lm")
        if (engine := _engine()) is not None:
            engine.check_architecture(model.config.model_type)
        for name, size in plan_file.group_sizes.items():
            columns = model.get_parameter(f"{name}.weight").shape[1]
            if shared_group(columns, size) is None:
                raise PlanError(
                    f"module {name!r} is to be {plan_file.formats[name]} and has {columns} input features, of which MLX's groups of "
                    f"{', '.join(map(str, GROUPS))} make no whole number: the nearest that fits is {plan_file.plan.reference}"
                )

    def write(self, made: Prepared, folder: Path, notify: Notify) -> Written:
        """Write weights, configuration and tokenizer.

        Raises:
            ModelError: as `Carrier.write`.
        """
        settings = {name: _settings(made, name) for name in made.plan_file.formats}
        entries = [Entry.of(name, tensor) for name, tensor in made.dense().items()]
        for name, (bits, group) in settings.items():
            entries += _entries(made.model, name, bits, group)
        size = safetensors_stream.write(folder / _WEIGHTS, entries)
        describe(made, folder)
        _configure(folder / "config.json", settings)
        notify("checking: what was written")
        compare(values(folder), made)
        return Written(size, _stored(made, settings), _check_engine(made, folder, notify))

    def card(self, written: Written) -> Card:
        """What README.md says of it."""
        return Card(
            "mlx",
            "quantized by a plan and stored for [MLX](https://github.com/ml-explore/mlx-lm)",
            "`pip install mlx-lm` (on Linux `mlx[cpu]` too). In this folder:\n\n"
            '```sh\nmlx_lm.generate --model . --prompt "How many legs do two dogs have?"\n```',
            written.stored,
        )

    def how(self, folder: Path) -> str:
        """How to load it."""
        return f'Try it: mlx_lm.generate --model {folder} --prompt "How many legs do two dogs have?"'


def _settings(made: Prepared, name: str) -> tuple[int, int]:
    """Bits and group size in MLX of a module."""
    group = shared_group(made.model.get_parameter(f"{name}.weight").shape[1], made.plan_file.group_sizes[name])
    assert group is not None  # checked before
    return format_bits(made.plan_file.formats[name]), group


def _parts(model: PreTrainedModel, name: str) -> Rounded:
    return parts_of(model.get_submodule(name))


def _entries(model: PreTrainedModel, name: str, bits: int, group: int) -> Iterator[Entry]:
    """The three tensors of a module, made when they are written."""
    weight = model.get_parameter(f"{name}.weight")
    rows, columns = weight.shape
    yield Entry(f"{name}.weight", torch.uint32, (rows, columns * bits // WORD_BITS), lambda: pack(_parts(model, name).integers, bits))
    for kind in ("scales", "biases"):
        yield Entry(f"{name}.{kind}", weight.dtype, (rows, columns // group), partial(_spread, model, name, kind, columns // group))


def _spread(model: PreTrainedModel, name: str, kind: str, groups: int) -> torch.Tensor:
    """Scales or biases, one for each of so many groups of a row."""
    parts = _parts(model, name)
    values = parts.scale if kind == "scales" else -parts.shift
    return values.repeat_interleave(groups // values.shape[1], dim=1)


def _configure(path: Path, settings: dict[str, tuple[int, int]]) -> None:
    """Tell mlx-lm bits and groups, and a rotary embedding where it looks for it: transformers 5 nests those keys."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})
    bits, group = max(set(settings.values()), key=list(settings.values()).count)
    modules = {name: {"group_size": group, "bits": bits} for name, (bits, group) in settings.items()}
    config["quantization"] = config["quantization_config"] = {"group_size": group, "bits": bits, "mode": "affine", **modules}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _stored(made: Prepared, settings: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    """What each format is in MLX, and what it takes, scales and biases counted."""
    scale_bits = made.model.dtype.itemsize * 8
    found = {(made.plan_file.formats[name], bits, group): None for name, (bits, group) in settings.items()}
    return tuple(
        f"{format_} as MLX affine, {bits} bits in groups of {group}: {bits + 2 * scale_bits / group:.4g} bits a weight"
        for format_, bits, group in sorted(found)
    )


def values(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Module -> the weights that its integers, scales and biases stand for, float32, read from a folder."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization"]
    with safe_open(folder / _WEIGHTS, framework="pt") as handle:
        for name, setting in settings.items():
            if isinstance(setting, dict):
                weight, scales, biases = (handle.get_tensor(f"{name}.{kind}") for kind in ("weight", "scales", "biases"))
                yield name, Rounded(unpack(weight, setting["bits"]), scales, -biases).values()


def _engine() -> ModuleType | None:
    """What loads mlx; None where it is not installed, or does not start (on Linux, mlx without mlx-cpu)."""
    try:
        return import_module("bitzones.deploy.mlx_engine")
    except ImportError:
        return None


def _check_engine(made: Prepared, folder: Path, notify: Notify) -> str:
    """Load the folder in mlx-lm where it is installed: every tensor has its place, and the logits are the same."""
    if (engine := _engine()) is None:
        return "read back: 0 weights differ; mlx-lm cannot be imported here, so loading was not tried: bitzones verify --in mlx does"
    notify("checking: what mlx-lm loads")
    apart = engine.check(folder, made.model)
    return f"loaded by mlx-lm: 0 weights differ, log-probabilities at most {apart:.1e} nats off in float32"


export = exporter(MLX())
"""Export for mlx-lm; see `bitzones.deploy.targets.Target`."""
