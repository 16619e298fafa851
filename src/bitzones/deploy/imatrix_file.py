"""The importance matrix of a plan's calibration set as a file for ``llama-quantize --imatrix``.

A GGUF of the type ``imatrix`` (llama.cpp, tools/imatrix/README.md): for each tensor ``NAME.in_sum2``, the sum of squares of each of its
input features, and ``NAME.counts``, over how many tokens.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from bitzones.deploy import gguf_metadata, prepared
from bitzones.deploy.plan_file import PlanFile
from bitzones.models import structure
from bitzones.rounding.importance import importance_of

__all__ = ["FILE", "write"]

FILE = "imatrix.gguf"


def write(model: PreTrainedModel, plan_file: PlanFile, folder: Path, device: torch.device) -> None:
    """Write the file for every quantizable module; nothing for a plan without calibration sequences.

    Args:
        model: the plan's, as it is stored.
        plan_file: the plan.
        folder: of the recipe.
        device: where the model runs.

    Raises:
        PlanError: the sequences are not this model's.
        NonFiniteError: an input of a module is NaN or infinite.
    """
    made = plan_file.plan.calibration
    if made is None:
        return
    batches = prepared.calibration_batches(model, made, device)
    found = importance_of(prepared.computing(model, plan_file, device), list(structure.quantizable_modules(model)), batches)
    names = gguf_metadata.tensor_names(model)
    writer = gguf.GGUFWriter(folder / FILE, gguf_metadata.architecture(model))
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [f"bitzones calibration set {made.sequences_sha256[:12]}"])
    writer.add_uint32("imatrix.chunk_count", len(made.sequences))
    writer.add_uint32("imatrix.chunk_size", max(len(row.ids) for batch in batches for row in batch.sequences))
    for module, item in found.items():
        tensor = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        assert tensor is not None  # these architectures have a name for every module
        writer.add_tensor(f"{tensor}.in_sum2", item.squares.cpu().numpy().astype(np.float32)[None])
        writer.add_tensor(f"{tensor}.counts", np.array([[item.tokens]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
