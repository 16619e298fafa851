"""The thresholds that a run's rules of thumb have for activations, looked at while a model is used: hooks on a share of its passes.

A sampled pass is repeated on its tokens in two passes that collect what the run collected (`sensitivity.activation_stats`), so a share r
of sampled passes costs about 2r of the time. Only passes over more than one token are sampled, prompts that is: a step of decoding has no
statistics of its own. What the statistics say depends on the rule, and whether a rule holds on this model is the audit's verdict beside it.

Two figures differ from the run's by what is known of a request: the standard deviation behind sparsity is that of one pass, and the focus
on the question's content is read only where that content is known (`ActivationWatch.observe`).
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from time import monotonic
from typing import Any

import torch
from transformers import PreTrainedModel

from bitzones.analysis.plan_verdicts import RuleReading
from bitzones.analysis.rules_of_thumb import RULES, Rule, Statistic
from bitzones.data.sequences import SequenceSet, TokenSequence, batches
from bitzones.models import structure
from bitzones.schema.activation_record import LayerCrossing, RuleWatch, ThresholdReading
from bitzones.schema.errors import ArgumentError, NonFiniteError, OutputError
from bitzones.schema.files import write_text
from bitzones.schema.layer_statistics import LayerStatistics
from bitzones.sensitivity import activation_stats
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, normal_quantile

__all__ = ["WATCHED", "ActivationWatch"]

WATCHED: tuple[Statistic, ...] = ("sparsity", "entropy", "focus", "magnitude")

LONGEST = 2048
"""Tokens of a pass that is sampled: attention weights of longer ones take gigabytes."""

WRITTEN_EVERY_S = 60.0
"""Between two writes of a watch that writes itself: a watch over days is read every few minutes at most."""

Values = dict[tuple[Statistic, int], list[float]]


class ActivationWatch:
    """Samples passes of a model while it is entered as a context, or by `observe`.

    Args:
        model: in memory, quantized or not; it computes as before.
        in_run: the reference's statistics of every layer, as the run has them.
        audit: the audit's readings of the rules, for their verdicts.
        rate: share of the passes to sample.
        seed: of the sample.
        path: where the reading is written, while passes are sampled and at the end; nowhere where it is None.

    Raises:
        ArgumentError: the rate is no share.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        in_run: Sequence[LayerStatistics],
        audit: Sequence[RuleReading],
        rate: float,
        seed: int = 0,
        path: Path | None = None,
    ) -> None:
        if not 0 < rate <= 1:
            raise ArgumentError(f"rate = {rate}: a share of the passes, above 0 and at most 1")
        self._model = model
        self._layers = list(structure.decoder_layers(model).values())
        self._in_run = {layer.layer: layer for layer in in_run}
        self._verdicts: Mapping[str, str] = {reading.rule: reading.verdict for reading in audit}
        self._rate = rate
        self._path, self._written_at = path, -math.inf
        self._random = random.Random(seed)
        self._values: Values = {}
        self._handle: Any = None
        self._busy = threading.local()
        self.passes = 0
        self.sampled = 0
        self.failed = 0
        """Sampled passes whose activations were NaN or infinite."""

    def __enter__(self) -> ActivationWatch:
        self._write_if_due()  # a place that cannot be written is said before anything is used
        self._handle = self._model.register_forward_hook(self._after, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
        if self._path is not None:
            self.write(self._path)

    def _after(self, _model: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any], _output: Any) -> None:
        ids = named.get("input_ids", given[0] if given else None)
        if getattr(self._busy, "now", False) or not isinstance(ids, torch.Tensor) or ids.ndim != 2 or not 1 < ids.shape[1] <= LONGEST:
            return
        self.passes += 1
        if self._random.random() >= self._rate:
            return
        mask = named.get("attention_mask")
        for row in range(len(ids)):
            kept = ids[row] if mask is None or mask.shape != ids.shape else ids[row][mask[row].bool()]
            tokens = tuple(int(token) for token in kept)
            if len(tokens) > 1:
                self.observe(TokenSequence(tokens, len(tokens) - 1, ()))
        with suppress(OutputError):  # a full disk stops no request; it is tried again, and said at the end
            self._write_if_due()

    def _write_if_due(self) -> None:
        if self._path is not None and monotonic() - self._written_at >= WRITTEN_EVERY_S:
            self.write(self._path)
            self._written_at = monotonic()

    def observe(self, sequence: TokenSequence) -> None:
        """Sample one sequence, whatever the rate. ``sequence.content`` are the positions of the question's content, if they are known."""
        self._busy.now = True
        try:
            found = activation_stats.measure(self._model, self._layers, lambda: batches(SequenceSet((sequence,)), 1, self._model.device))
        except NonFiniteError:
            self.failed += 1
            return
        finally:
            self._busy.now = False
        self.sampled += 1
        for layer in found:
            for statistic in WATCHED:
                if (value := _value(layer, statistic)) is not None:
                    self._values.setdefault((statistic, layer.layer), []).append(value)

    def reading(self) -> ThresholdReading:
        """Every rule with a threshold, by what was sampled so far."""
        watched = tuple(rule for rule in RULES if rule.threshold is not None and rule.statistic in WATCHED)
        tests = max(1, len(watched) * len(self._in_run))
        rules = tuple(self._rule(rule, tests) for rule in watched)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return ThresholdReading(at=at, rate=self._rate, passes=self.passes, sampled=self.sampled, failed=self.failed, rules=rules)

    def write(self, path: Path | str) -> None:
        """Write the reading as JSON, for ``bitzones monitor --activations``.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(Path(path), self.reading().model_dump_json() + "\n")

    def _rule(self, rule: Rule, tests: int) -> RuleWatch:
        assert rule.threshold is not None
        expected = {number: value for number, layer in self._in_run.items() if (value := _value(layer, rule.statistic)) is not None}
        served = {layer: values for (statistic, layer), values in self._values.items() if statistic == rule.statistic}
        crossed = [found for layer, values in served.items() if (found := _crossing(rule, layer, expected.get(layer), values, tests))]
        return RuleWatch(
            rule=rule.name,
            statistic=rule.statistic,
            threshold=rule.threshold,
            verdict=self._verdicts.get(rule.name, "not measured"),
            flagged_in_run=tuple(layer for layer, value in sorted(expected.items()) if _beyond(rule, value)),
            flagged=tuple(layer for layer, values in sorted(served.items()) if _beyond(rule, fmean(values))),
            crossed=tuple(sorted(crossed, key=lambda one: one.layer)),
        )


def _beyond(rule: Rule, value: float) -> bool:
    assert rule.threshold is not None
    return rule.sign * value > rule.sign * rule.threshold


def _value(layer: LayerStatistics, statistic: Statistic) -> float | None:
    match statistic:
        case "sparsity":
            return layer.sparsity
        case "magnitude":
            return layer.magnitude
        case "entropy":
            return layer.attention.entropy_nats if layer.attention else None
        case "focus":
            return layer.attention.reasoning_focus if layer.attention else None
    return None


def _crossing(rule: Rule, layer: int, in_run: float | None, values: Sequence[float], tests: int) -> LayerCrossing | None:
    """The layer, where the interval of its mean lies wholly on the other side of the threshold than the run; corrected for all layers and
    rules (Bonferroni)."""
    if in_run is None or len(values) < MIN_SEQUENCES:
        return None
    mean = fmean(values)
    half = normal_quantile(1 - ALPHA / (2 * tests)) * stdev(values) / math.sqrt(len(values))
    low, high = mean - half, mean + half
    if _beyond(rule, low) != _beyond(rule, high) or _beyond(rule, mean) == _beyond(rule, in_run):
        return None
    return LayerCrossing(layer=layer, run=in_run, served=mean, low=low, high=high)
