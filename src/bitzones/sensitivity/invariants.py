"""What has to hold of the model at hand before anything is measured on it, checked on a few tokens in seconds.

Layers are found by watching one pass, and sensitivities rest on running a model from a layer on. Where an architecture is unlike all that
this was written for, the numbers would be wrong and nothing would say so. So each run asks the model itself, and an invariant that does not
hold ends the run with one line: which one, where, by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from transformers import PreTrainedModel

from bitzones.data.sequences import Batch, TokenSequence
from bitzones.evaluation.kl import kl_nats, log_probabilities, logits_of
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.evaluation.swapping import swapped
from bitzones.models import decoder_list, kv_cache, structure
from bitzones.schema.errors import ModelError
from bitzones.schema.sensitivity_cells import Unit
from bitzones.sensitivity import sweep
from bitzones.sensitivity.sweep import Candidate

__all__ = [
    "LOGITS",
    "NATS",
    "SCALED",
    "SEQUENCES",
    "TOKENS",
    "check",
    "check_bytes",
    "check_cache",
    "check_causal",
    "check_replay",
    "check_sweep",
]

SEQUENCES, TOKENS = 2, 6
"""What a model is asked on: two sequences of different length, so that padding is part of it."""

LOGITS = 1e-3
"""Bound of logits that ought to be equal, by the largest of them. They are equal to the bit where kernels sum in one order, as on a CPU."""

ROUNDING = 2
"""The same in rounding steps of the dtype, where those are more."""

NATS = 1e-4
"""Bound of the difference of KLs that ought to be equal, in nats per token: what logits within `LOGITS` can make of it."""

SCALED = 0.9
"""Factor of the weights in a change that moves logits and breaks nothing."""


@torch.no_grad()
def check(model: PreTrainedModel, stored: PreTrainedModel, units: Sequence[Unit]) -> None:
    """See that every invariant holds.

    Args:
        model: the reference as it computes.
        stored: the same as it is stored.
        units: what is decided separately.

    Raises:
        ModelError: one does not hold; the message says which, where, by how much and what to do.
    """
    check_bytes(stored, units)
    check_causal(model)
    check_cache(model)
    check_replay(model)
    check_sweep(model, units)


def check_bytes(model: PreTrainedModel, units: Sequence[Unit]) -> None:
    """The bytes of all units and of what stays add up to the model's.

    Raises:
        ModelError: they do not.
    """
    inside = {model.get_parameter(f"{name}.weight").data_ptr() for unit in units for name in unit.modules}
    tensors = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    stays = sum(tensor.nbytes for key, tensor in tensors.items() if key not in inside)
    decided, whole = sum(unit.reference_bytes for unit in units), structure.model_bytes(model, {})
    if decided + stays != whole:
        raise _violated(
            model, "bytes", f"units of {decided:,} bytes and {stays:,} bytes that stay are not the {whole:,} bytes of the model", _SHARED
        )


@torch.no_grad()
def check_causal(model: PreTrainedModel) -> None:
    """Logits do not depend on later tokens.

    Raises:
        ModelError: they do.
    """
    batch, other = _few(model), _few(model)
    other.ids[:, -1] = other.ids[:, 0]
    before, after = (logits_of(model, one)[0, :-1] for one in (batch, other))
    if said := _apart(before, after, model.dtype):
        advice = "a model that reads both ways generates no text: where its config.json has is_decoder, set it to true"
        raise _violated(model, "causal", f"another last token moves the logits before it by {said}", advice)


def check_cache(model: PreTrainedModel) -> None:
    """A token decoded on the cache of what came before has the logits of a whole pass: answers and latencies are made so.

    Raises:
        ModelError: it has not, or decoding fails.
    """
    if said := kv_cache.growing_refusal(model):
        raise _violated(model, "cache", f"decoding on its key-value cache: {said}", _CACHE)


@torch.no_grad()
def check_replay(model: PreTrainedModel) -> None:
    """Run again, and entered at a layer with what the layers before it did, the model gives the same logits.

    The second layer, the middle and the last one are entered, and what comes behind the last. Each time other tokens are read in between,
    so that a layer that finds what another left in a module, and not in its arguments, does not find it.

    Raises:
        ModelError: it does not.
    """
    batch, other, layers = _few(model), _few(model), structure.decoder_layers(model)
    other.ids.copy_(batch.ids.flip(0, 1))
    first, logits = passed(model, list(layers.values()), batch)
    names = [*layers, "what comes after the last layer"]
    for start in sorted({0, 1, len(layers) // 2, len(layers) - 1, len(layers)}):
        what = f"entered at {names[start]}, it" if start else "run twice on the same tokens, it"
        logits_of(model, other)
        try:
            with entered_at(list(layers.values()), first.before(start)):
                again = logits_of(model, batch)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise _violated(model, "replay", f"{what} ends in {type(error).__name__}: {str(error)[:100]}", _LAYERS) from error
        if said := _apart(logits[batch.mask.bool()], again[batch.mask.bool()], model.dtype):
            raise _violated(model, "replay", f"{what} gives logits that are off by {said}", _LAYERS if start else _STATE)


@torch.no_grad()
def check_sweep(model: PreTrainedModel, units: Sequence[Unit]) -> None:
    """A sweep measures a KL of 0 for a unit with its own weights, and what the whole model gives for one with weights that are scaled.

    The first, the middle and the last unit are tried.

    Raises:
        ModelError: it does not.
    """
    batch, layers = _few(model), list(structure.decoder_layers(model).values())
    if not logits_of(model, batch)[batch.mask.bool()].isfinite().all():
        return  # cells report it
    tried = [units[number] for number in sorted({0, len(units) // 2, len(units) - 1})]
    for unit, scale in product(tried, (1.0, SCALED)):
        weights = {name: scale * model.get_parameter(f"{name}.weight").detach() for name in unit.modules}
        (kl,) = sweep.exact(model, layers, [Candidate(unit.layer, weights)], [batch], SEQUENCES).candidates
        expected = [0.0] * SEQUENCES if scale == 1 else _whole(model, weights, batch)
        tokens = [len(one.ids) for one in batch.sequences]
        apart = [abs(a - b) / count for a, b, count in zip(kl or [math.inf] * SEQUENCES, expected, tokens, strict=True)]
        if not max(apart) <= NATS:
            what = f"{unit.name} with its weights times {scale:g} measures a KL that is {max(apart):.2g} nats per token off"
            raise _violated(model, "sweep", what, _WEIGHTS)


def _whole(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], batch: Batch) -> list[float]:
    """KL of the model with other weights, by running all of it."""
    reference = log_probabilities(model, batch)
    with swapped(model, weights):
        return kl_nats(reference, logits_of(model, batch), batch.mask).tolist()


def _few(model: PreTrainedModel) -> Batch:
    """Plain tokens, the second sequence shorter by two, padded on the right with its own last token."""
    given = decoder_list.few_tokens(model, SEQUENCES, TOKENS)
    ids, mask = given["input_ids"], given["attention_mask"]
    mask[1, -2:] = 0
    lengths = mask.sum(1).tolist()
    sequences = tuple(TokenSequence(tuple(row[:length]), 0, ()) for row, length in zip(ids.tolist(), lengths, strict=True))
    return Batch(ids, mask, tuple(range(SEQUENCES)), sequences)


def _apart(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> str | None:
    """How far logits are apart, in words; None where they are within the bound. NaN in one place is no difference: cells report it."""
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()):
        return "NaN or infinity in other places"
    if not finite.any():
        return None
    scale = float(one[finite].float().abs().max())
    apart = float((one[finite].float() - other[finite].float()).abs().max())
    if apart <= max(LOGITS, ROUNDING * torch.finfo(dtype).eps) * scale:
        return None
    return f"up to {apart:.2g} (the largest logit is {scale:.2g})"


_CACHE = "the cache that transformers makes from its config.json is not the one that it reads: please report the architecture"
_SHARED = "a weight stands in several units, or a module keeps it under no name: please report the architecture"
_STATE = "it keeps something of what it read before, or draws random numbers: only a model that does neither can be compared with itself"
_WEIGHTS = "its weights are read by another layer than theirs, or are kept in another form: please report the architecture"
_LAYERS = "its layers hand on something besides what they are given and return: please report the architecture"


def _violated(model: PreTrainedModel, name: str, what: str, advice: str) -> ModelError:
    return ModelError(f"{type(model).__name__} cannot be measured: invariant {name!r} does not hold: {what}; {advice}")
