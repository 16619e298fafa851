"""What holds for every model, whatever its architecture: structure that is misread shows here as an error, and not as a number.

The model is loaded anew, as a run loads it, and computes in float32 as a run on a CPU does.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from optimum import quanto
from transformers import AutoModelForCausalLM, PreTrainedModel

import bitzones
from bitzones.analysis.plan import Plan
from bitzones.backends.quanto import quantizers
from bitzones.data import sequences
from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.deploy.plan_file import check_plan
from bitzones.evaluation.kl import logits_of
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.models import loading, structure
from bitzones.models.units import model_units
from bitzones.schema import profile
from bitzones.schema.records import MemoryCell
from bitzones.sensitivity import sweep
from bitzones.sensitivity.sweep import Candidate

__all__ = ["REPLAY_BOUND", "check", "check_applied", "shares"]

CPU = torch.device("cpu")
LENGTHS = (21, 13, 2)
"""Sequences of one batch; the shorter ones are padded."""

REPLAY_BOUND = 1e-4
"""Largest |difference| of replayed logits: float32 kernels may add in another order where a tensor lies elsewhere in memory."""


@torch.no_grad()
def check(source: Path) -> bool:
    """Replay, own weights, and bytes; gives whether what was replayed is the same to the bit.

    Raises:
        AssertionError: naming what does not hold.
    """
    stored = _loaded(source)
    units = model_units(stored, "module")
    rest = structure.model_bytes(stored, {}) - sum(unit.reference_bytes for unit in units)
    assert rest + sum(unit.reference_bytes for unit in units) == _file_bytes(source), "units and the rest do not add up to the file"
    assert rest >= _outside(stored, {f"{name}.weight" for unit in units for name in unit.modules}), "a unit's bytes count twice"
    model = copy.deepcopy(stored)
    quantizers.set_compute_dtype(model, torch.float32)
    batch, found = _batch(model), 0.0
    layers = list(structure.decoder_layers(model).values())
    pass_, logits = passed(model, layers, batch)
    assert torch.equal(logits, logits_of(model, batch)), "two passes differ"
    for start in range(len(layers) + 1):
        with entered_at(layers, start, pass_.entering(start)):
            again = logits_of(model, batch)
        found = max(found, float((again - logits)[batch.mask.bool()].abs().max()))
        assert found <= REPLAY_BOUND, f"replayed from layer {start}, logits are up to {found:.2g} off"
    own = [Candidate(unit.layer, {name: model.get_parameter(f"{name}.weight").data.clone() for name in unit.modules}) for unit in units]
    swept = sweep.exact(model, layers, own, [batch], len(LENGTHS))
    largest = max(value for values in swept.candidates for value in (values or [float("inf")]))
    assert largest <= (REPLAY_BOUND if found else 0.0), f"a unit's own weights give a KL of {largest:.2g}"
    _check_order(model, layers, batch)
    return found == 0.0


def _check_order(model: PreTrainedModel, layers: list[torch.nn.Module], batch: Batch) -> None:
    """Noise in a layer's weights changes what the model computes: the list is that of the layers that the text runs through."""
    reference = logits_of(model, batch)
    for number, layer in enumerate(layers):
        weights = [module.weight for module in layer.modules() if quantizers.is_quantizable(module)]
        kept = [weight.data for weight in weights]
        for weight in weights:
            weight.data = weight.data * 0
        changed = bool(weights) and torch.equal(logits_of(model, batch), reference)
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data
        assert not changed, f"layer {number} without its weights computes the same"


@torch.no_grad()
def check_applied(plan: Plan, source: Path, folder: Path, memory: Iterable[MemoryCell]) -> None:
    """A plan applied in memory computes what plain quanto reloads from the folder, and takes the bytes that the run says.

    Raises:
        AssertionError: naming what does not hold.
    """
    mine = bitzones.apply(plan, AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval())
    quantizers.repack_as_reloaded(mine)
    theirs = quanto.QuantizedModelForCausalLM.from_pretrained(folder)._wrapped
    batch = _batch(mine)
    assert torch.equal(logits_of(mine, batch), logits_of(theirs, batch)), "what quanto reloads computes something else"
    packed = quantizers.packed_weights(mine)
    assert set(packed) == set(check_plan(plan).formats), "other modules are quantized than the plan says"
    expected = structure.model_bytes(_loaded(source), packed)
    scales = 2 * mine.dtype.itemsize * len(packed)  # quanto stores two numbers of activations that are not used
    assert _file_bytes(folder) == expected + scales, f"{_file_bytes(folder)} bytes in the folder, {expected + scales} expected"
    said = {cell.variant: cell.stored_bytes for cell in memory}
    assert plan.origin != "searched" or said.get("plan", expected) == expected, "the run gives the plan other bytes"


def shares(source: Path) -> Counter[str]:
    """Kind of module -> weights of the decoder layers that quanto cannot quantize; under the empty name, those that it can."""
    model = _loaded(source)
    quantizable = sum(model.get_parameter(f"{name}.weight").numel() for name in structure.quantizable_modules(model))
    return Counter({"": quantizable, **structure.not_quantizable(model)})


def _loaded(source: Path) -> PreTrainedModel:
    return loading.load(profile.Model(source=str(source), dtype="bfloat16"), CPU).model


def _batch(model: PreTrainedModel) -> Batch:
    generator = torch.Generator().manual_seed(1)
    most = model.config.get_text_config().vocab_size
    made = [tuple(torch.randint(1, most, (length,), generator=generator).tolist()) for length in LENGTHS]
    chosen = SequenceSet(tuple(TokenSequence(ids, len(ids) - 1, ()) for ids in made))
    (batch,) = sequences.batches(chosen, len(LENGTHS), CPU)
    return batch


def _outside(model: torch.nn.Module, weights: set[str]) -> int:
    """Bytes of the parameters that are in no unit, tied ones once."""
    inside = {model.get_parameter(name).data_ptr() for name in weights}
    tensors = {p.data_ptr(): p for p in model.parameters() if p.data_ptr() not in inside}
    return sum(p.numel() * p.element_size() for p in tensors.values())


def _file_bytes(folder: Path) -> int:
    """Bytes of all tensors in a folder's safetensors, without the headers."""
    return sum(
        info.data_offsets[1] - info.data_offsets[0]
        for file in folder.glob("*.safetensors")
        for info in parse_local_safetensors_file_metadata(file).tensors.values()
    )
