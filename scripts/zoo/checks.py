"""What holds for every model, whatever its architecture: structure that is misread shows here as an error, and not as a number.

The model is loaded anew, as a run loads it, and computes in float32 as a run on a CPU does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from optimum import quanto
from transformers import PreTrainedModel

import bitzones
from bitzones.analysis.plan import Plan
from bitzones.backends import quantizing, registry
from bitzones.backends.weights import packed_weights
from bitzones.data import sequences
from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.evaluation.kl import kl_nats, log_probabilities, logits_of
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.evaluation.swapping import swapped
from bitzones.models import loading, structure
from bitzones.models.units import model_units
from bitzones.schema import profile_sections
from bitzones.schema.performance_cells import MemoryCell
from bitzones.schema.profile import PLAN
from bitzones.sensitivity import sweep
from bitzones.sensitivity.sweep import Candidate

__all__ = ["check", "check_applied", "check_in_memory"]

CPU = torch.device("cpu")
LENGTHS = (21, 13, 2)
"""Sequences of one batch; the shorter ones are padded."""


@torch.no_grad()
def check(source: Path) -> None:
    """What holds of a model as it is loaded: bytes, replay, own weights, and that the decoder is what the text goes through.

    Raises:
        AssertionError: naming what does not hold.
    """
    stored = _loaded(source)
    _check_bytes(stored, source)
    model = copy.deepcopy(stored)
    quantizing.set_compute_dtype(model, torch.float32)
    batch = _batch(model)
    layers = list(structure.decoder_layers(model).values())
    _check_replay(model, layers, batch)
    _check_own_weights(model, layers, batch)
    _check_changes(model, layers, batch)
    _check_layers(model, layers, batch)


def _check_bytes(model: PreTrainedModel, source: Path) -> None:
    """The bytes of all units and what stays add up to the file, and no tensor is in both."""
    units = model_units(model, "module")
    inside = sum(unit.reference_bytes for unit in units)
    names = {f"{name}.weight" for unit in units for name in unit.modules}
    rest = {tensor.data_ptr(): tensor for name, tensor in model.state_dict().items() if name not in names}
    outside = sum(tensor.numel() * tensor.element_size() for tensor in rest.values())
    found = _file_bytes(source)
    assert inside + outside == found, f"units of {inside} bytes and others of {outside} are not the {found} of the file"


def _check_replay(model: PreTrainedModel, layers: list[torch.nn.Module], batch: Batch) -> None:
    pass_, logits = passed(model, layers, batch)
    assert torch.equal(logits, logits_of(model, batch)), "two passes differ"
    for start in range(len(layers) + 1):
        with entered_at(layers, pass_.before(start)):
            again = logits_of(model, batch)
        off = float((again - logits)[batch.mask.bool()].abs().max())
        assert off == 0.0, f"entered at layer {start}, logits are up to {off:.2g} off"


def _check_own_weights(model: PreTrainedModel, layers: list[torch.nn.Module], batch: Batch) -> None:
    units = model_units(model, "module")
    own = [Candidate(unit.layer, {name: model.get_parameter(f"{name}.weight").data.clone() for name in unit.modules}) for unit in units]
    for unit, values in zip(units, sweep.exact(model, layers, own, [batch], len(LENGTHS)).candidates, strict=True):
        assert values == [0.0] * len(LENGTHS), f"the own weights of {unit.name} give a KL of {values}"


def _check_changes(model: PreTrainedModel, layers: list[torch.nn.Module], batch: Batch) -> None:
    """A unit that is changed has the KL in a sweep, where only the layers from its own on are run, that it has in a whole pass."""
    units = model_units(model, "layer")
    halved = [{name: model.get_parameter(f"{name}.weight").data / 2 for name in unit.modules} for unit in units]
    candidates = [Candidate(unit.layer, weights) for unit, weights in zip(units, halved, strict=True)]
    swept = sweep.exact(model, layers, candidates, [batch], len(LENGTHS)).candidates
    reference = log_probabilities(model, batch)
    for unit, weights, found in zip(units, halved, swept, strict=True):
        with swapped(model, weights):
            values = kl_nats(reference, logits_of(model, batch), batch.mask).tolist()
        whole = [value for _, value in sorted(zip(batch.index, values, strict=True))]
        assert max(whole) > 0, f"halved, {unit.name} computes the same"
        assert found == whole, f"halved, {unit.name} has a KL of {found} in a sweep and {whole} in a whole pass"


def _check_layers(model: PreTrainedModel, layers: list[torch.nn.Module], batch: Batch) -> None:
    """Every layer has a part in what is computed: one whose matrices are zero changes the logits."""
    reference = logits_of(model, batch)
    for number, layer in enumerate(layers):
        matrices = [parameter for parameter in layer.parameters() if parameter.ndim > 1]
        kept = [matrix.data for matrix in matrices]
        for matrix in matrices:
            matrix.data = torch.zeros_like(matrix)
        same = torch.equal(logits_of(model, batch), reference)
        for matrix, data in zip(matrices, kept, strict=True):
            matrix.data = data
        assert not same, f"without its weights, layer {number} computes the same"


@torch.no_grad()
def check_in_memory(plan: Plan, source: Path) -> PreTrainedModel:
    """A plan applied in memory quantizes exactly its modules; gives the model, in the packing that it has once it is reloaded.

    Raises:
        AssertionError: it does not.
    """
    model = bitzones.apply(plan, _loaded(source))
    planned = {name for name, format_ in plan.assignment.items() if format_ != plan.reference}
    assert set(packed_weights(model)) == planned, "other modules are quantized than the plan says"
    registry.checkpoints(registry.DEFAULT).repack(model)
    return model


@torch.no_grad()
def check_applied(plan: Plan, source: Path, folder: Path, memory: Iterable[MemoryCell]) -> None:
    """A plan applied in memory computes what plain quanto reloads from a checkpoint of it, and the files have the bytes that the run says.

    Raises:
        AssertionError: naming what does not hold.
    """
    mine = check_in_memory(plan, source)
    theirs = quanto.QuantizedModelForCausalLM.from_pretrained(folder)._wrapped
    batch = _batch(mine)
    off = float((logits_of(mine, batch) - logits_of(theirs, batch)).abs().max())
    assert off == 0.0, f"what quanto reloads is up to {off:.2g} off in its logits"
    packed = packed_weights(mine)
    unused = 2 * mine.dtype.itemsize * len(packed)  # quanto stores two scales of activations with each module
    expected, found = structure.model_bytes(_loaded(source), packed) + unused, _file_bytes(folder)
    assert expected == found, f"the plan's weights have {expected} bytes, and its files {found}"
    said = next((cell.stored_bytes for cell in memory if cell.variant == PLAN), None)
    assert plan.name != PLAN or said == expected - unused, f"the run says {said} bytes of the plan, and its files have {expected - unused}"


def _loaded(source: Path) -> PreTrainedModel:
    return loading.load(profile_sections.Model(source=str(source), dtype="bfloat16"), CPU).model


def _batch(model: PreTrainedModel) -> Batch:
    generator = torch.Generator().manual_seed(1)
    most = model.config.get_text_config().vocab_size
    made = [tuple(torch.randint(1, most, (length,), generator=generator).tolist()) for length in LENGTHS]
    chosen = SequenceSet(tuple(TokenSequence(ids, len(ids) - 1, ()) for ids in made))
    (batch,) = sequences.batches(chosen, len(LENGTHS), CPU)
    return batch


def _file_bytes(folder: Path) -> int:
    """Bytes of all tensors in a folder's safetensors, without the headers."""
    return sum(
        info.data_offsets[1] - info.data_offsets[0]
        for file in folder.glob("*.safetensors")
        for info in parse_local_safetensors_file_metadata(file).tensors.values()
    )
