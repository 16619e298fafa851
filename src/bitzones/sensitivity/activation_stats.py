"""Statistics of every layer's output and attention, collected with hooks: the inputs of rules of thumb about quantization.

Padding is excluded. Whether a statistic predicts sensitivity is tested in `bitzones.analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.evaluation.layer_calls import hidden_of
from bitzones.evaluation.layer_replay import by_token
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.layer_statistics import AttentionStatistics, LayersCell, LayerStatistics

__all__ = ["SPARSE_BELOW", "ActivationMoments", "AttentionTotals", "cell", "measure", "reasoning_focus"]

SPARSE_BELOW = 0.01
"""Values below this share of the layer's standard deviation count as zero: exact zeros do not occur after a residual sum."""

MIN_KEYS = 2
"""Fewest visible keys for which specialization is defined: with one key there is no choice."""


class ActivationMoments:
    """Running sums of one layer's output over scored values, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.powers = torch.zeros(4, dtype=torch.float64)
        self.magnitude = 0.0
        self.peak = 0.0
        self.sparse = 0

    def add(self, values: torch.Tensor) -> None:
        """Add values of any shape.

        Raises:
            NonFiniteError: one of them is NaN or infinite.
        """
        if not torch.isfinite(values).all():
            raise NonFiniteError("an activation is NaN or infinite")
        wide = values.double()
        self.count += wide.numel()
        self.powers += torch.stack([wide.pow(power).sum() for power in (1, 2, 3, 4)]).cpu()
        self.magnitude += float(wide.abs().sum())
        self.peak = max(self.peak, float(wide.abs().max()))

    def add_sparse(self, values: torch.Tensor) -> None:
        """Count values close to zero. Needs the standard deviation, hence a second pass."""
        self.sparse += int((values.abs() < SPARSE_BELOW * self.std).sum())

    @property
    def mean(self) -> float:
        return float(self.powers[0]) / self.count

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(max(0.0, float(self.powers[1]) / self.count - self.mean**2))

    @property
    def kurtosis(self) -> float:
        """Fourth central moment over the squared variance (Pearson): 3 for a normal distribution, 0 if all values are equal."""
        m1, m2, m3, m4 = (self.powers / self.count).tolist()
        central = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        return max(0.0, central) / float(self.std**4) if self.std else 0.0


class AttentionTotals:
    """Running sums of one layer's attention over heads and the query positions of non-padding tokens."""

    def __init__(self) -> None:
        self.entropy: torch.Tensor | None = None
        self.queries = 0
        self.specialization = 0.0
        self.specialized = 0
        self.focus: list[float] = []

    def add(self, weights: torch.Tensor, batch: Batch) -> None:
        """Add attention weights of shape (sequences, heads, queries, keys), each row of keys summing to 1."""
        weights = weights.to(batch.mask.device)
        heads = weights.shape[1]
        entropy = torch.special.entr(weights.double()).sum(-1)  # (sequences, heads, queries)
        real = batch.mask.bool()
        visible = batch.mask.cumsum(-1).double()  # causal and right-padded: position q sees keys 0..q
        by_head = torch.where(real[:, None], entropy, 0.0).sum((0, 2)).cpu()
        self.entropy = by_head if self.entropy is None else self.entropy + by_head
        self.queries += int(real.sum())
        choosing = real & (visible >= MIN_KEYS)
        spread = (entropy / visible.clamp_min(MIN_KEYS).log()[:, None]).clamp(0.0, 1.0)
        self.specialization += float(torch.where(choosing[:, None], 1.0 - spread, 0.0).sum())
        self.specialized += int(choosing.sum()) * heads
        self.focus += [float(reasoning_focus(w, s)) for w, s in zip(weights, batch.sequences, strict=True) if s.content]

    def statistics(self) -> AttentionStatistics:
        """The means over everything that was added."""
        assert self.entropy is not None
        by_head = (self.entropy / self.queries).clamp_min(0.0)
        focus = torch.tensor(self.focus, dtype=torch.float64)
        return AttentionStatistics(
            entropy_nats=float(by_head.mean()),
            entropy_nats_by_head=tuple(by_head.tolist()),
            head_specialization=self.specialization / self.specialized,
            reasoning_focus=float(focus.mean()) if self.focus else None,
            reasoning_focus_std=float(focus.std(correction=1)) if len(self.focus) > 1 else None,
            reasoning_focus_sequences=len(self.focus),
        )


def reasoning_focus(weights: torch.Tensor, sequence: TokenSequence) -> torch.Tensor:
    """Share of the answer position's attention, mean over heads, that falls on the question's content.

    The first token attracts attention whatever it is (the attention sink, Xiao et al. 2023, arXiv:2309.17453), so both sums exclude it.

    Args:
        weights: shape (heads, queries, keys).
        sequence: has the position of the answer and those of the content.
    """
    row = weights[:, sequence.answer_position, 1 : sequence.answer_position + 1].double()
    content = torch.zeros(row.shape[-1], dtype=torch.bool, device=row.device)
    content[[position - 1 for position in sequence.content]] = True
    return (row[:, content].sum(-1) / row.sum(-1).clamp_min(torch.finfo(torch.float64).tiny)).mean()


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    layers: Sequence[torch.nn.Module],
    batches: Callable[[], Iterator[Batch]],
) -> tuple[LayerStatistics, ...]:
    """Statistics of every layer over all scored tokens of the batches.

    Two passes, because the threshold for zeros depends on the standard deviation over all tokens, and keeping every layer's output would
    need memory for more than a batch.

    Raises:
        NonFiniteError: an activation is NaN or infinite.
    """
    moments = [ActivationMoments() for _ in layers]
    attention = [AttentionTotals() for _ in layers]
    with _attention_returned(model):
        for batch in batches():
            with _watched(layers, lambda n, out: moments[n].add(_scored(out, batch)), lambda n, w: _attend(attention[n], w, batch)):  # noqa: B023
                model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    for batch in batches():
        with _watched(layers, lambda n, out: moments[n].add_sparse(_scored(out, batch))):  # noqa: B023
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return tuple(_statistics(number, m, a) for number, (m, a) in enumerate(zip(moments, attention, strict=True)))


def cell(
    variant: str,
    model: PreTrainedModel,
    layers: Sequence[torch.nn.Module],
    batches: Callable[[], Iterator[Batch]],
    sequence_set: SequenceSet,
) -> LayersCell:
    """The record of `measure` on a sensitivity set."""
    return LayersCell(
        variant=variant,
        sequences=len(sequence_set.sequences),
        tokens=sum(sequence_set.sequence_tokens),
        layers=measure(model, layers, batches),
    )


def _statistics(number: int, moments: ActivationMoments, attention: AttentionTotals) -> LayerStatistics:
    return LayerStatistics(
        layer=number,
        mean=moments.mean,
        std=moments.std,
        magnitude=moments.magnitude / moments.count,
        peak=moments.peak,
        sparsity=moments.sparse / moments.count,
        kurtosis=moments.kurtosis,
        attention=attention.statistics() if attention.entropy is not None else None,
    )


def _attend(totals: AttentionTotals, weights: torch.Tensor, batch: Batch) -> None:
    """Add weights from each token to each; linear attention (MiniMax) returns its state in their place."""
    if weights.shape[2:] == 2 * batch.mask.shape[1:]:
        totals.add(weights, batch)


def _scored(output: Any, batch: Batch) -> torch.Tensor:
    return by_token(hidden_of(output), batch.mask)[batch.mask.bool()]


@contextmanager
def _attention_returned(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, attention modules return their weights. Fused kernels never materialize them, so eager attention is used.

    Each part of a composite model has its own implementation, which is restored.
    """
    parts = {"": model.config, **{key: getattr(model.config, key, None) for key in model.config.sub_configs}}
    own = {key: kind for key, part in parts.items() if (kind := getattr(part, "_attn_implementation", None)) is not None}
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@contextmanager
def _watched(
    layers: Sequence[torch.nn.Module],
    on_output: Callable[[int, Any], None],
    on_attention: Callable[[int, torch.Tensor], None] | None = None,
) -> Iterator[None]:
    """Call back with every layer's output, and with the attention weights of children that return them, while the model runs."""
    handles = []
    for number, layer in enumerate(layers):
        handles.append(layer.register_forward_hook(lambda _m, _a, out, number=number: on_output(number, out)))
        for child in layer.children() if on_attention else ():

            def look(_m: torch.nn.Module, _a: Any, out: Any, number: int = number) -> None:
                if on_attention and isinstance(out, tuple) and len(out) > 1 and isinstance(out[1], torch.Tensor) and out[1].ndim == 4:
                    on_attention(number, out[1])

            handles.append(child.register_forward_hook(look))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
