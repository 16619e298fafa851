"""An exported model in its engine, on the held-out tokens of its plan's run: what quantization costs, and what the engine costs.

Three models answer the same sequences: the reference, the reference with the weights that the exported folder stands for (both in
transformers, in the run's arithmetic), and the engine. Three KLs per token follow: reference to stored weights is quantization's share,
stored weights to engine is the engine's, reference to engine is the total. KLs do not add up, so the total is no sum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from bitzones.data.sequences import TokenSequence
from bitzones.deploy import engines, manifest
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.deploy.verify import PLAN_FILE
from bitzones.evaluation import kl
from bitzones.run.session import Session
from bitzones.schema.errors import ModelError, NonFiniteError, PlanError
from bitzones.schema.profile import Profile
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate

__all__ = ["TOLERANCE_NATS", "EngineCheck", "Share", "check"]

TOLERANCE_NATS = 0.02
"""Largest KL of the stored weights to the engine, nats per token, that is taken for arithmetic. On the embedded model it was 0.0005 for mlx
in bfloat16 (0.004 with another plan) and 0.00004 for llama.cpp, whose kernels round activations to 8 bits."""

Share = Literal["quantization", "engine", "total"]

_RESAMPLES, _SEED = 2000, 0


@dataclass(frozen=True)
class EngineCheck:
    """KLs in nats per token over ``sequences`` held-out sequences of ``tokens`` tokens together.

    ``predicted`` is what was measured with the plan; ``kl_nats`` are the sums per sequence behind ``shares``.
    """

    folder: Path
    engine: str
    sequences: int
    tokens: int
    shares: dict[Share, Estimate]
    kl_nats: dict[Share, tuple[float, ...]]
    predicted: Estimate | None
    tolerance: float = TOLERANCE_NATS

    @property
    def exceeds(self) -> bool:
        """Whether the engine's share is larger than the tolerance."""
        return self.shares["engine"].value > self.tolerance

    def lines(self) -> list[str]:
        """A table for the screen."""
        said = "more than" if self.exceeds else "within"
        return [
            f"{self.folder} in {self.engine}: nats per token (95% interval), {self.sequences} held-out sequences, {self.tokens:,} tokens",
            *([f"  plan, as measured with it  {_interval(self.predicted)}"] if self.predicted else []),
            f"  quantization               {_interval(self.shares['quantization'])}  reference to stored weights, in transformers",
            f"  engine                     {_interval(self.shares['engine'])}  stored weights in transformers to {self.engine}",
            f"  total                      {_interval(self.shares['total'])}  reference to {self.engine}",
            f"The engine's share is {said} the tolerance of {self.tolerance:g}",
        ]


def _interval(found: Estimate) -> str:
    ends = "too few sequences" if found.interval is None else f"{found.low:.3g} to {found.high:.3g}"
    return f"{found.value:<8.3g} ({ends})"


def check(
    folder: Path, engine: str, profile: Profile, tolerance: float = TOLERANCE_NATS, notify: Callable[[str], None] = lambda message: None
) -> EngineCheck:
    """Compare.

    Args:
        folder: written by ``bitzones export``.
        engine: one of `engines.ENGINES`.
        profile: of the run that the folder's plan comes from.
        tolerance: nats per token.
        notify: told what is being done.

    Raises:
        PlanError: the folder is no export, not whole, or of another model or run.
        ArgumentError: there is no such engine, or it loads no such folder.
        MissingPackageError: the engine is not installed.
        ModelError: the engine does not load it, or the run's model is not there any more.
        NonFiniteError: a logit is NaN or infinite.
    """
    record = manifest.read(folder)
    if (difference := manifest.damage(folder, record)) is not None:
        raise PlanError(difference)
    plan_file = read_plan(folder / PLAN_FILE)
    open_in = engines.engine(engine, record.target)
    values = engines.stored_values(folder, record.target)
    session = Session(profile, notify)
    reference = session.variants.reference
    _check_same(plan_file, session, folder)
    stored = copy.deepcopy(reference)
    for name, weights in values:
        parameter = stored.get_parameter(f"{name}.weight")
        parameter.data = weights.to(parameter)
    sequences = session.held_out.sequences
    notify(f"loading {folder} in {engine}")
    answer = open_in(folder, max(len(sequence.ids) for sequence in sequences))
    notify(f"computing {len(sequences)} held-out sequences")
    rows = [_nats(reference, stored, answer, sequence) for sequence in sequences]
    return _judged(folder, engine, rows, session.held_out.sequence_tokens, plan_file.plan.measured_kl, tolerance)


def _check_same(plan_file: PlanFile, session: Session, folder: Path) -> None:
    if session.variants.loaded.sha256 != plan_file.model.sha256:
        raise PlanError(f"{folder}: its plan is for other weights than the run's model: SHA-256 {plan_file.model.sha256[:12]}...")
    if plan_file.plan.held_out_sha256 not in {None, session.held_out.sha256}:
        raise PlanError(f"{folder}: its plan was measured on other held-out sequences than this run's: give the run that it comes from")


@torch.no_grad()
def _nats(reference: PreTrainedModel, stored: PreTrainedModel, answer: engines.Answering, sequence: TokenSequence) -> dict[Share, float]:
    """The three KLs of one sequence, summed over its tokens."""
    ids = torch.tensor([sequence.ids], device=reference.device)
    first, second = (model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1).cpu() for model in (reference, stored))
    third = answer(sequence.ids)[None]
    if third.shape[-1] != first.shape[-1]:
        raise ModelError(f"the engine's vocabulary has {third.shape[-1]} tokens, and the model's {first.shape[-1]}")
    if not all(torch.isfinite(found).all() for found in (first, second, third)):
        raise NonFiniteError("logits are NaN or infinite")
    mask = torch.ones(1, len(sequence.ids))
    pairs: dict[Share, tuple[torch.Tensor, torch.Tensor]] = {
        "quantization": (first, second),
        "engine": (second, third),
        "total": (first, third),
    }
    return {share: float(kl.kl_nats(one, other, mask)[0]) for share, (one, other) in pairs.items()}


def _judged(
    folder: Path, engine: str, rows: list[dict[Share, float]], tokens: tuple[int, ...], predicted: Estimate | None, tolerance: float
) -> EngineCheck:
    weights = resample_weights(len(rows), _RESAMPLES, _SEED)
    sums: dict[Share, tuple[float, ...]] = {share: tuple(row[share] for row in rows) for share in rows[0]}
    shares = {share: bootstrap_ratio(weights, np.array(found), np.array(tokens, dtype=float)) for share, found in sums.items()}
    return EngineCheck(folder, engine, len(rows), sum(tokens), shares, sums, predicted, tolerance)
