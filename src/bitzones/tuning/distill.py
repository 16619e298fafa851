"""Distils a quantized model's stored values on what the reference predicts: KL over tuning text, stopped early on text kept aside.

What is trained is what is stored beside the integers (`student`), so the bytes do not change. After every part of a pass the model is
measured as it would be stored, on a validation split of the tuning text; the best state so far is kept, and it is the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint as recomputed
from transformers import PreTrainedModel

from bitzones.data import sequences
from bitzones.data.sequences import SequenceSet, TokenSequence
from bitzones.devices import oom_retry
from bitzones.models import structure, text_config
from bitzones.schema.errors import NonFiniteError, TaskError
from bitzones.schema.profile_sections import Tuning
from bitzones.tuning import saved_state
from bitzones.tuning.packed_weights import Packed
from bitzones.tuning.saved_state import State
from bitzones.tuning.student import Student, TunedLinear
from bitzones.tuning.teacher import Teacher, top_kl

__all__ = ["Report", "Texts", "Tuned", "distill", "split"]

CHECKS_A_PASS = 4
"""Measurements on the validation split in a pass over the tuning text: each costs a tenth of the text, without a backward pass."""

WARMUP_SHARE = 0.05
"""Of all steps, over which the learning rate rises to its highest; Adam's second moments are noise before."""

LAST_RATE = 0.1
"""Learning rate of the last step, as a share of the highest; a cosine leads there (arXiv:1608.03983)."""

BETAS = (0.9, 0.95)
"""Of AdamW: the second moment forgets within 20 steps, as is usual for runs of some hundred steps."""

LEAST_DENOMINATOR = 1e-12
"""Added to Adam's denominator: gradients of a single scale are about 1e-6 nats a step of the grid, and must not drown in it."""

LOGITS_BYTES, FLOAT_BYTES = 1 << 28, 4
"""Of the logits of the sequences that pass at once; a step adds up the gradients of several such passes."""

ACTIVATION_BYTES = 1 << 32
"""Above which hidden states are computed again in the backward pass, layer by layer, and not kept: a third more time."""

Report = Callable[[int, int, float], None]
"""Told, after each validation, the steps done and to do, and the KL as stored on the validation split in nats per token."""


@dataclass(frozen=True)
class Texts:
    """Sequences to train on, and others to stop early on; neither is held out."""

    training: SequenceSet
    validation: SequenceSet


@dataclass(frozen=True)
class Tuned:
    """What tuning made: module -> weight and name -> dense parameter as stored, and how the validation split saw it.

    ``before`` and ``after`` are nats per validation sequence, summed over its tokens; ``history`` is (step, nats per token).
    """

    weights: dict[str, Packed]
    dense: dict[str, torch.Tensor]
    before: tuple[float, ...]
    after: tuple[float, ...]
    history: tuple[tuple[int, float], ...]
    best_step: int
    parameters: int


def split(found: SequenceSet, share: float, seed: int) -> Texts:
    """Sequences dealt into a training and a validation part, at least one each.

    Raises:
        TaskError: there are fewer than two.
    """
    if len(found.sequences) < 2:
        raise TaskError("tuning needs two sequences, one to train on and one to stop early on: give more text")
    order = torch.randperm(len(found.sequences), generator=torch.Generator().manual_seed(seed)).tolist()
    aside = set(order[: min(len(order) - 1, max(1, round(share * len(order))))])
    parts = [[row for place, row in enumerate(found.sequences) if (place in aside) is chosen] for chosen in (False, True)]
    return Texts(SequenceSet(tuple(parts[0])), SequenceSet(tuple(parts[1])))


@dataclass
class _Run:
    """One tuning: models, text and settings, at a number of sequences that pass at once."""

    student: Student
    teacher: Teacher
    texts: Texts
    settings: Tuning
    seed: int
    at_once: int
    state: State = field(default_factory=State)

    @property
    def steps_a_pass(self) -> int:
        return math.ceil(len(self.texts.training.sequences) / self.settings.batch)

    @property
    def steps(self) -> int:
        return self.steps_a_pass * self.settings.passes

    def rows(self, step: int) -> Sequence[TokenSequence]:
        """The sequences of a step: a pass takes all of them in an order of its own."""
        number, place = divmod(step, self.steps_a_pass)
        known = self.texts.training.sequences
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(self.seed + number)).tolist()
        return [known[index] for index in order[place * self.settings.batch :][: self.settings.batch]]

    def batches(self, rows: Sequence[TokenSequence]) -> Iterator[sequences.Batch]:
        return sequences.batches(SequenceSet(tuple(rows)), self.at_once, self.student.model.device)

    def train(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """One step of the optimizer.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        for group in optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * _rate(step, self.steps)
        rows = self.rows(step)
        tokens = sum(len(row.ids) for row in rows)
        for batch in self.batches(rows):
            loss = (top_kl(self.teacher.top(batch), self.student.logits(batch)) * batch.mask).sum() / tokens
            if not torch.isfinite(loss):
                raise NonFiniteError(f"tuning step {step + 1}: the loss is NaN or infinite; lower tuning.learning_rate")
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Nats per validation sequence of the model as it would be stored now."""
        rows = self.texts.validation.sequences
        found = [0.0] * len(rows)
        for batch in self.batches(rows):
            nats = (top_kl(self.teacher.top(batch), self.student.logits(batch)) * batch.mask).sum(-1)
            for index, value in zip(batch.index, nats.tolist(), strict=True):
                found[index] = value
        return found


def _rate(step: int, steps: int) -> float:
    """The learning rate of a step as a share of the highest: a linear rise, then a cosine down to `LAST_RATE`."""
    rising = (step + 1) / max(1.0, WARMUP_SHARE * steps)
    return min(1.0, rising) * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2)


def distill(
    reference: PreTrainedModel,
    student: Callable[[], Student],
    texts: Texts,
    settings: Tuning,
    seed: int,
    *,
    place: Path | None = None,
    report: Report = lambda done, steps, nats: None,
) -> Tuned:
    """Train what a plan stores beside its integers.

    The same seed gives the same weights on the same machine with as many threads; a tuning that is continued from ``place`` gives those
    of one that was not interrupted.

    Args:
        reference: in its compute dtype, which is also that of the student's arithmetic; not modified.
        student: makes the quantized model as it is before tuning.
        texts: from `split`; held-out text has no place here.
        settings: the section ``[tuning]``.
        seed: of the order of the sequences.
        place: where the state is kept while it runs, as ``place.safetensors`` and ``place.json``; a state there is continued.
        report: see `Report`.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
        PlanError: the state at ``place`` is of another tuning, or cannot be read.
    """
    longest = max(len(row.ids) for part in (texts.training, texts.validation) for row in part.sequences)
    most = max(1, LOGITS_BYTES // (longest * text_config.vocabulary(reference) * FLOAT_BYTES))
    tokens = sum(texts.training.sequence_tokens) + sum(texts.validation.sequence_tokens)
    teacher = Teacher(reference, tokens, settings.top)

    def at(size: int) -> Tuned:
        made = student()
        with torch.enable_grad(), _recomputing(made.model, size * longest):
            return _tuned(_Run(made, teacher, texts, settings, seed, size), place, report)

    return oom_retry.halving(min(most, settings.batch), at, reference.device)[0]


def _tuned(run: _Run, place: Path | None, report: Report) -> Tuned:
    trained = run.student.parameters()
    optimizer = torch.optim.AdamW(
        list(trained.values()), lr=run.settings.learning_rate, betas=BETAS, eps=LEAST_DENOMINATOR, weight_decay=0.0
    )
    identity = saved_state.identity(run.settings, run.seed, [run.texts.training.sha256, run.texts.validation.sha256], run.student.weights())
    if place is not None and saved_state.exists(place):
        run.state = saved_state.load(place, identity, trained, optimizer)
    else:
        _note(run, trained, 0)
    every = max(1, run.steps_a_pass // CHECKS_A_PASS)
    for step in range(run.state.step, run.steps):
        if run.state.checks_since_best >= run.settings.patience:
            break
        run.train(optimizer, step)
        if (step + 1) % every == 0 or step + 1 == run.steps:
            _note(run, trained, step + 1)
            report(step + 1, run.steps, run.state.history[-1][1])
            if place is not None:
                saved_state.save(place, identity, trained, optimizer, run.state)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(run.state.best[name])
    return Tuned(
        run.student.weights(),
        run.student.norms(),
        tuple(run.state.before),
        tuple(run.state.after),
        tuple(run.state.history),
        run.state.best_step,
        sum(parameter.numel() for parameter in trained.values()),
    )


def _note(run: _Run, trained: dict[str, torch.nn.Parameter], step: int) -> None:
    """Measure the state after a step on the validation split, and keep it if it is the best."""
    nats, tokens = run.validate(), sum(run.texts.validation.sequence_tokens)
    run.state.note(step, nats, tokens, {name: parameter.detach().clone() for name, parameter in trained.items()})


@contextmanager
def _recomputing(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Within the block, decoder layers keep no hidden states for the backward pass if those of ``tokens`` would be too large."""
    kinds = (TunedLinear, torch.nn.Linear)
    widths = [module.in_features + module.out_features for module in model.modules() if isinstance(module, kinds)]
    bytes_ = tokens * sum(widths) * model.dtype.itemsize
    with ExitStack() as changed:
        for layer in structure.decoder_layers(model).values() if bytes_ > ACTIVATION_BYTES else ():
            layer.forward = partial(recomputed, layer.forward, use_reentrant=False)
            changed.callback(layer.__dict__.pop, "forward")
        yield
