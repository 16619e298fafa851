"""A plan for llama.cpp's own quantizer: a type for each tensor, in a file for ``llama-quantize --tensor-type-file``.

Formats of llama.cpp's own stay what they are. Of other backends 8 bits become Q8_0, 4 bits Q4_K and 2 bits Q2_K. K types have blocks of 256
weights; where a row is no whole number of them llama.cpp takes another type without a word, so 4 bits become Q4_1 there (blocks of 32), and
2 bits are refused. A plan that holds calibration sequences has the importance matrix written too.
"""

from __future__ import annotations

import re

import gguf
from transformers import PreTrainedModel

from bitzones.deploy import gguf_metadata, imatrix_file
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.recipe_export import exporter
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import Format

__all__ = ["FILE", "LlamaQuantize", "export"]

FILE = "tensor-types.txt"

_K_BLOCK, _BLOCK = 256, 32
_DENSE = {"bf16": "bf16", "f16": "f16", "f32": "f32"}


class LlamaQuantize:
    """The recipe."""

    name = "llama-quantize"
    tool = "[llama-quantize](https://github.com/ggml-org/llama.cpp/tree/master/tools/quantize)"

    def files(self, model: PreTrainedModel, plan_file: PlanFile) -> dict[str, str]:
        """A line for each module: an expression that its name alone matches, and a type.

        Raises:
            PlanError, ModelError: as `Recipe.files`.
        """
        names = gguf_metadata.tensor_names(model)
        lines = []
        for module, format_ in plan_file.plan.assignment.items():
            tensor = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
            assert tensor is not None  # these architectures have a name for every module
            lines.append(f"^{re.escape(tensor)}$={_type(module, format_, model.get_parameter(f'{module}.weight').shape[1], plan_file)}")
        return {FILE: "\n".join(lines) + "\n"}

    def usage(self, plan_file: PlanFile) -> str:
        """The two commands."""
        dense, made = _DENSE[plan_file.plan.reference], plan_file.plan.calibration
        given = f"--imatrix {imatrix_file.FILE} " if made is not None else ""
        advice = (
            f"`{imatrix_file.FILE}` is of the {len(made.sequences)} sequences that the plan's formats were calibrated on."
            if made is not None
            else f"Give `--imatrix imatrix.gguf` too if you have one (`llama-imatrix -m model-{dense}.gguf -f text.txt`)."
        )
        return f"""\
```sh
python convert_hf_to_gguf.py MODEL --outtype {dense} --outfile model-{dense}.gguf
llama-quantize {given}--tensor-type-file {FILE} --token-embedding-type {dense} --output-tensor-type {dense} \\
    model-{dense}.gguf model.gguf Q8_0
```

{advice} `Q8_0` only names what no line covers, which is nothing."""


def _type(module: str, format_: str, columns: int, plan_file: PlanFile) -> str:
    if format_ in _DENSE:
        return _DENSE[format_]
    found = Format.of(format_)
    if found.backend == "gguf":
        return gguf.GGMLQuantizationType[found.width].name.lower().replace("_k", "_K")  # as ggml_type_name says it
    bits = found.bits
    whole = columns % _K_BLOCK == 0
    if columns % _BLOCK or (bits == 2 and not whole):
        wanted, block, nearest = ("q2_K", _K_BLOCK, "qint4 (q4_1)") if bits == 2 else ("q8_0 or q4_1", _BLOCK, plan_file.plan.reference)
        raise PlanError(
            f"module {module!r} is to be {format_} and has {columns} input features, of which {wanted}'s blocks of {block} make no whole "
            f"number: the nearest that fits is {nearest if columns % _BLOCK == 0 else plan_file.plan.reference}"
        )
    return {8: "q8_0", 4: "q4_K" if whole else "q4_1", 2: "q2_K"}[bits]


export = exporter(LlamaQuantize(), imatrix_file.write)
"""Write the recipe; see `bitzones.deploy.targets.Target`."""
