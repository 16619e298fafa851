"""Tunes what a plan stores: its model is quantized, trained towards the reference, and its weights are written beside the new plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.analysis.plan import Plan
from bitzones.backends import quantizing
from bitzones.backends import weights as held
from bitzones.data import encoding, sequences, text
from bitzones.data.dealing import Dealer
from bitzones.data.sequences import SequenceSet
from bitzones.data.text import Texts
from bitzones.deploy import prepared
from bitzones.deploy.export_request import ExportRequest
from bitzones.devices import device as devices
from bitzones.models import loading
from bitzones.schema.errors import OutputError, PlanError
from bitzones.schema.profile_sections import Tuning
from bitzones.tuning import distill, packed_weights, saved_state, weights_file
from bitzones.tuning.distill import Tuned
from bitzones.tuning.packed_weights import Packed
from bitzones.tuning.student import tunable_student
from bitzones.tuning.tuning_record import record

__all__ = ["TuneRequest", "tune"]

NAME = "tuned"


@dataclass(frozen=True)
class TuneRequest:
    """How a plan is tuned.

    Args:
        plan: the plan, its model, and as ``output`` the plan.json to write.
        settings: the section ``[tuning]``.
        texts: what it is tuned on, in equal shares; the plan's calibration sequences where there are none.
        sequence_tokens: the longest sequence that is cut from a text.
        seed: of the split and of the order of the sequences.
        resume: continue an interrupted tuning with this output.
    """

    plan: ExportRequest
    settings: Tuning
    texts: Sequence[Texts]
    sequence_tokens: int
    seed: int
    resume: bool


def tune(request: TuneRequest) -> Plan:
    """Train what a plan stores beside its integers, and write the tuned plan and its file of weights.

    Raises:
        PlanError: the plan is tuned already, does not fit the model, or tuning did not help.
        TaskError: a text cannot be read or is too short.
        ModelError: the model cannot be loaded or quantized.
        NonFiniteError: the loss became NaN or infinite.
        OutputError: the files are there already, or cannot be written.
    """
    exported, plan_file = request.plan, request.plan.plan_file
    if plan_file.plan.tuning is not None:
        raise PlanError(f"plan {plan_file.plan.name!r} is tuned already: give the plan that it was made from")
    if not any(map(packed_weights.tunable, plan_file.formats.values())):
        raise PlanError(f"plan {plan_file.plan.name!r} has no module in 4 or 2 bits of quanto, whose scales and shifts are what is tuned")
    output, weights = exported.output, exported.output.with_suffix(".safetensors")
    if taken := [path for path in (output, weights) if path.exists() and not exported.force]:
        raise OutputError(f"{taken[0]}: is there already; give another name, or --force to replace it")
    with prepared.no_bars():
        _, loaded = prepared.opened(exported)
    device, model = exported.device, loaded.model
    tokens = _tokens(request, model, loaded.tokenizer)
    exported.notify(f"quantizing {len(plan_file.formats)} modules")
    before = _quantized(model, loaded, request)
    reference = copy.deepcopy(model)
    compute = devices.compute_dtype(device, plan_file.model.compute_dtype, model.dtype)
    quantizing.set_compute_dtype(reference, compute)
    place = output.with_name(f".{output.name}.tuning")
    if not request.resume:
        saved_state.remove(place)
    texts = distill.split(tokens, request.settings.validation, request.seed)
    tuned = distill.distill(
        reference,
        lambda: tunable_student(reference, before, plan_file.formats, norms=request.settings.norms, stored_dtype=model.dtype),
        texts,
        request.settings,
        request.seed,
        place=place,
        report=_teller(exported.notify),
    )
    return _written(request, weights, tuned, texts, place)


def _tokens(request: TuneRequest, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SequenceSet:
    """The tuning set.

    Raises:
        PlanError: there is no text, and the plan holds no sequences.
        TaskError: a text cannot be read or is too short.
    """
    made = request.plan.plan_file.plan.calibration
    if not request.texts:
        if made is None:
            raise PlanError("the plan holds no calibration sequences that it could be tuned on: give text")
        return sequences.retold(made.sequences)
    dealer = Dealer(tokenizer, request.sequence_tokens, encoding.positions(model))
    each = -(-request.settings.tokens // len(request.texts))
    taken = [dealer.take(text.opened(given), each, f"tokens ({given})").sequences for given in request.texts]
    return SequenceSet(tuple(row for rows in taken for row in rows))


def _quantized(model: PreTrainedModel, loaded: loading.Loaded, request: TuneRequest) -> dict[str, Packed]:
    """Module -> weight of the plan before tuning."""
    plan_file, made = request.plan.plan_file, copy.deepcopy(loaded.model)
    quantizing.quantize(made, plan_file.formats, prepared.calibrated(model, plan_file, request.plan.device))
    return held.packed_weights(made)


def _teller(notify: Callable[[str], None]) -> distill.Report:
    """Tells the step, the KL so far and, from the second time on, the time left."""
    first: list[tuple[float, int]] = []

    def tell(done: int, steps: int, nats: float) -> None:
        first.append((perf_counter(), done))
        since, at = first[0]
        left = f", at most {(perf_counter() - since) / (done - at) * (steps - done) / 60:.1f} min left" if done > at else ""
        notify(f"step {done} of {steps}: KL {nats:.4g} nats/token on the validation split{left}")

    return tell


def _written(request: TuneRequest, place: Path, tuned: Tuned, texts: distill.Texts, state: Path) -> Plan:
    if tuned.best_step == 0:
        saved_state.remove(state)
        before = tuned.history[0][1]
        least = min((nats for step, nats in tuned.history if step), default=before)
        raise PlanError(
            f"tuning did not lower the KL on its validation split ({before:.4g} nats/token before, {least:.4g} at best): nothing was "
            "written; give more text, or lower the learning rate"
        )
    sha256 = weights_file.write(place, tuned.weights, tuned.dense)
    made = request.plan.plan_file.plan.model_copy(
        update={
            "name": NAME,
            "origin": NAME,
            "tuning": record(tuned, texts, request.settings, place.name, sha256),
            "measured_kl": None,
            "measured_sequences": None,
            "held_out_sha256": None,
            "accuracy": (),  # those of the plan before
        }
    )
    made.write(request.plan.output)
    saved_state.remove(state)
    return made
