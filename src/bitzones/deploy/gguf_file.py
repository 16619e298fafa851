"""A plan as a GGUF for llama.cpp: blocks of its own formats as they were measured, and quanto's weights in blocks that hold them unchanged.

Of quanto's, 8 bits become Q8_0, 4 and 2 bits Q4_1. Scales are float16 in GGUF. One that float16 would change is refused, with the module;
those of a bfloat16 model are nearly always exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from bitzones.backends.gguf.block_types import BlockWeight
from bitzones.backends.integers import Rounded
from bitzones.backends.weights import parts_of, weight_of
from bitzones.deploy import gguf_metadata, gguf_tokenizer
from bitzones.deploy.gguf_blocks import BLOCK, BlockType, block_type, not_representable, q4_1, q8_0, stored_as
from bitzones.deploy.model_card import Card
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.deploy.prepared import Prepared
from bitzones.deploy.verify import PLAN_FILE
from bitzones.deploy.weights_export import Notify, Written, exporter
from bitzones.models import sources
from bitzones.schema.errors import ModelError, PlanError
from bitzones.schema.formats import Format, format_bits

__all__ = ["FILE", "GGUF", "export", "values"]

FILE = "model.gguf"

_DENSE = {
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    torch.float16: gguf.GGMLQuantizationType.F16,
    torch.float32: gguf.GGMLQuantizationType.F32,
}

_Q2_K_BITS, _Q2_K_BLOCK = 2.625, 256


class GGUF:
    """The carrier."""

    name = "gguf"

    def check(self, model: PreTrainedModel, plan_file: PlanFile) -> None:
        """Refuse an architecture that is not here, and columns that make no whole blocks.

        Raises:
            PlanError, ModelError: as `Carrier.check`.
        """
        plan_file.check_backends("GGUF", "quanto", "gguf")
        gguf_metadata.architecture(model)
        for name, format_ in plan_file.formats.items():
            if Format.of(format_).backend == "gguf":
                continue  # blocks are whole, or the format would not have been taken
            columns = model.get_parameter(f"{name}.weight").shape[1]
            if (plan_file.group_sizes[name] or columns) % BLOCK:
                raise PlanError(
                    f"module {name!r} is to be {format_} and has {columns} input features in groups of {plan_file.group_sizes[name]}, and "
                    f"{block_type(format_bits(format_)).name} has blocks of {BLOCK}: the nearest that fits is {plan_file.plan.reference}"
                )

    def write(self, made: Prepared, folder: Path, notify: Notify) -> Written:
        """Write the file.

        Raises:
            PlanError: float16 would change a scale or a shift.
            ModelError: as `Carrier.write`.
        """
        tensors = _Tensors(made)
        _check_scales(tensors)
        origin = sources.locate(made.settings)
        writer = gguf.GGUFWriter(folder / FILE, tensors.architecture)
        if origin.kind == "gguf":
            gguf_metadata.copied(writer, origin.path)
        else:
            gguf_tokenizer.check(made.tokenizer)
            gguf_metadata.described(writer, made.model, made.plan_file.model.source.rstrip("/").rpartition("/")[2])
            gguf_tokenizer.write(writer, made.tokenizer, made.model.config.vocab_size)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType.GUESSED)
        _write_tensors(writer, tensors)
        notify("checking: what was written")
        _check_file(folder / FILE, tensors)
        return Written((folder / FILE).stat().st_size, _stored(made), "read back by gguf: 0 weights differ")

    def card(self, written: Written) -> Card:
        """What README.md says of it."""
        return Card(
            "gguf",
            "quantized by optimum-quanto and stored for [llama.cpp](https://github.com/ggml-org/llama.cpp)",
            f'In this folder:\n\n```sh\nllama-cli -m {FILE} -p "How many legs do two dogs have?"\n```',
            written.stored,
        )

    def how(self, folder: Path) -> str:
        """How to load it."""
        return f'Try it: llama-cli -m {folder / FILE} -p "How many legs do two dogs have?"'


class _Tensors:
    """The tensors of a quantized model under llama.cpp's names, each made when it is asked for."""

    def __init__(self, made: Prepared) -> None:
        self.architecture = gguf_metadata.architecture(made.model)
        self._model, self._config = made.model, made.model.config
        self._formats = made.plan_file.formats
        self._names = gguf_metadata.name_map(self.architecture, self._config.num_hidden_layers)
        self.quantized = {self._named(f"{name}.weight"): name for name in made.plan_file.formats}
        self.dense = {self._named(name): (name, tensor) for name, tensor in made.dense().items()}
        if (factors := gguf_metadata.rope_factors(self._config)) is not None:
            self.dense["rope_freqs.weight"] = ("rope_freqs", factors)

    def _named(self, name: str) -> str:
        found = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"llama.cpp has no name for tensor {name!r} in {self.architecture!r}")
        return str(found)

    def format(self, name: str) -> str:
        """The plan's format of a module."""
        return self._formats[name]

    def type(self, name: str) -> BlockType:
        """What a module's weights are stored as."""
        return stored_as(self._formats[name])

    def parts(self, name: str) -> Rounded | None:
        """A module's integers, scales and shifts, rows in llama.cpp's order; None where it has blocks of llama.cpp's own."""
        if self._weight(name) is not None:
            return None
        parts = parts_of(self._model.get_submodule(name))
        return Rounded(*(self._ordered(f"{name}.weight", part) for part in (parts.integers, parts.scale, parts.shift)))

    def _weight(self, name: str) -> BlockWeight | None:
        found = weight_of(self._model.get_submodule(name))
        return found if isinstance(found, BlockWeight) else None

    def rows(self, name: str) -> tuple[int, int]:
        """Rows of a module's weight, and bytes of one."""
        rows, columns = self._model.get_parameter(f"{name}.weight").shape
        kind = self.type(name)
        return rows, columns // kind.block * kind.bytes

    def blocks(self, name: str) -> np.ndarray:
        """A module's blocks, rows in llama.cpp's order, uint8 of shape `rows`."""
        if (parts := self.parts(name)) is not None:
            return (q8_0 if self.type(name).name == "Q8_0" else q4_1)(parts)
        weight = self._weight(name)
        assert weight is not None  # `parts`
        return self._ordered(f"{name}.weight", weight.blocks.cpu()).numpy()

    def expected(self, name: str) -> torch.Tensor:
        """What a module's blocks stand for, float32."""
        if (parts := self.parts(name)) is not None:
            return parts.values()
        weight = self._weight(name)
        assert weight is not None  # `parts`
        return self._ordered(f"{name}.weight", weight.values(torch.float32).cpu())

    def values(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A dense tensor, rows in llama.cpp's order; vectors as float32, which its kernels expect."""
        ordered = self._ordered(name, tensor.detach().cpu())
        return ordered.float() if ordered.ndim < 2 else ordered

    def _ordered(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        kind = name.rpartition(".")[0].rpartition(".")[2]
        heads = self._config.num_attention_heads if kind == "q_proj" else self._config.num_key_value_heads
        return _rotated(tensor, heads, 2) if self.architecture == "llama" and kind in _ROTATED else tensor


_ROTATED = ("q_proj", "k_proj")


def _rotated(tensor: torch.Tensor, heads: int, first: int) -> torch.Tensor:
    """Rows of a head as pairs, one after the other, where they lay as halves; llama.cpp rotates neighbors, transformers the two halves.

    Args:
        tensor: of a projection to so many heads.
        heads: number of them.
        first: 2 to get from halves to pairs, half a head's rows to get back.
    """
    return tensor.reshape(heads, first, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def values(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Module -> the weights that its blocks stand for, float32, rows in transformers' order, read from a folder."""
    reader = gguf.GGUFReader(folder / FILE)
    read = {tensor.name: tensor for tensor in reader.tensors}
    architecture = reader.fields["general.architecture"].contents()
    names = gguf_metadata.name_map(architecture, reader.fields[f"{architecture}.block_count"].contents())
    for name in read_plan(folder / PLAN_FILE).formats:
        tensor = read[str(names.get_name(f"{name}.weight", try_suffixes=(".weight",)))]
        found = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        kind = name.rpartition(".")[2]
        if architecture == "llama" and kind in _ROTATED:
            heads = reader.fields[f"llama.attention.head_count{'_kv' if kind == 'k_proj' else ''}"].contents()
            found = _rotated(found, heads, len(found) // heads // 2)
        yield name, found


def _check_scales(tensors: _Tensors) -> None:
    """Before anything is written: float16 holds every scale and shift."""
    for name in tensors.quantized.values():
        parts = tensors.parts(name)
        for kind, values in (("scale", parts.scale), ("shift", parts.shift)) if parts else ():
            if kind == "shift" and tensors.type(name).name == "Q8_0":
                continue  # it has none: its integers are signed
            if (found := not_representable(values)) is not None:
                raise PlanError(
                    f"module {name!r} is {tensors.format(name)} with a {kind} of {found:.6g} in {str(values.dtype)[6:]}, "
                    f"which {tensors.type(name).name}'s float16 would round: --to mlx holds it as it is; "
                    "or measure with model.dtype = 'float16', in which scales are float16"
                )


def _write_tensors(writer: gguf.GGUFWriter, tensors: _Tensors) -> None:
    """Announce all, then make and write them one by one."""
    try:
        order = sorted([*tensors.quantized, *tensors.dense], key=_place)
        for gguf_name in order:
            shape, dtype, size, kind = _announced(tensors, gguf_name)
            writer.add_tensor_info(gguf_name, shape, dtype, size, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for gguf_name in order:
            writer.write_tensor_data(_data(tensors, gguf_name))
    finally:
        writer.close()


def _place(name: str) -> tuple[int, str]:
    """Blocks in order, what is outside them first, as llama.cpp's converter does."""
    return (int(name.split(".")[1]) if name.startswith("blk.") else -1, name)


def _announced(tensors: _Tensors, gguf_name: str) -> tuple[tuple[int, ...], np.dtype, int, gguf.GGMLQuantizationType]:
    """Shape (in bytes where it is packed), numpy's dtype, bytes, and type of a tensor."""
    if gguf_name in tensors.quantized:
        name = tensors.quantized[gguf_name]
        shape = tensors.rows(name)
        return shape, np.dtype(np.uint8), shape[0] * shape[1], gguf.GGMLQuantizationType(tensors.type(name).number)
    values = tensors.values(*tensors.dense[gguf_name])
    size, kind_ = values.numel() * values.element_size(), _DENSE[values.dtype]
    if values.dtype == torch.bfloat16:
        return (*values.shape[:-1], values.shape[-1] * 2), np.dtype(np.uint8), size, kind_
    return tuple(values.shape), values[:0].numpy().dtype, size, kind_


def _data(tensors: _Tensors, gguf_name: str) -> np.ndarray:
    if gguf_name in tensors.quantized:
        return tensors.blocks(tensors.quantized[gguf_name])
    values = tensors.values(*tensors.dense[gguf_name]).contiguous()
    return (values.view(torch.uint8) if values.dtype == torch.bfloat16 else values).numpy()


def _expected(tensors: _Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    """What every tensor of the file stands for, float32."""
    for gguf_name, name in tensors.quantized.items():
        yield gguf_name, tensors.expected(name)
    for gguf_name, (name, tensor) in tensors.dense.items():
        yield gguf_name, tensors.values(name, tensor).float()


def _check_file(file: Path, tensors: _Tensors) -> None:
    """Read every tensor back with the gguf package and compare the weights that it stands for."""
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for gguf_name, expected in _expected(tensors):
        found = torch.from_numpy(gguf.dequantize(read[gguf_name].data, read[gguf_name].tensor_type).astype(np.float32))
        if not torch.equal(found.reshape(expected.shape), expected):
            raise ModelError(f"tensor {gguf_name!r} reads back with other weights than were quantized; nothing was written")


def _stored(made: Prepared) -> tuple[str, ...]:
    """What each format is in GGUF, and what it takes; for 2 bits also what takes less and is another quantization."""
    lines = []
    for format_ in dict.fromkeys(made.plan_file.formats.values()):
        kind = stored_as(format_)
        line = f"{format_} as {kind.name}: {kind.bits:.4g} bits a weight"
        lines.append(line + _smaller(made, format_) if kind.name == "Q4_1" and format_bits(format_) == 2 else line)
    return tuple(sorted(lines))


def _smaller(made: Prepared, format_: str) -> str:
    """What llama.cpp has for 2 bits."""
    names = [name for name, found in made.plan_file.formats.items() if found == format_]
    fitting = [name for name in names if made.model.get_parameter(f"{name}.weight").shape[1] % _Q2_K_BLOCK == 0]
    said = "the smallest type that holds its integers and shifts as they are"
    if not fitting:
        return f", {said}; Q2_K ({_Q2_K_BITS} bits) takes only input features in multiples of {_Q2_K_BLOCK}, which none of its modules has"
    return f", {said}; Q2_K ({_Q2_K_BITS} bits) fits {len(fitting)} of {len(names)} modules, as another quantization: --to llama-quantize"


export = exporter(GGUF())
"""Export for llama.cpp; see `bitzones.deploy.targets.Target`."""
