"""Shadowing: a sample of the requests is computed by the served model and by the reference, offline and in batches.

A request is sampled by the hash of its text and its place in the log, so that the same log gives the same sample. Of every domain it is
tested, for as long as it is shadowed, whether the mean over requests of KL(reference || served) per token is at most `MARGIN` times the
upper end of what was measured on held-out sequences (`stats.e_process`). Above that, the domain is to be calibrated on again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from bitzones.analysis.reader import read_run
from bitzones.data.encoding import positions
from bitzones.data.sequences import SequenceSet, TokenSequence, batches
from bitzones.data.special_tokens import tokens
from bitzones.deploy.prepared import no_bars
from bitzones.evaluation import kl
from bitzones.models import text_config
from bitzones.monitor import request_drift
from bitzones.monitor.canary_watch import now
from bitzones.monitor.records import DomainShadow, ShadowBatch, ShadowSample
from bitzones.monitor.request_log import LogPlace, Request, read_requests
from bitzones.monitor.state import State
from bitzones.run.canary_maker import traffic_of
from bitzones.run.session import FLOAT_BYTES, LOGITS_BYTES, Session
from bitzones.schema.canary_record import CanaryRecord, TrafficSequence
from bitzones.schema.errors import ArgumentError, ModelError, NonFiniteError
from bitzones.serve.served_loader import load as load_served
from bitzones.serve.served_model import ServedModel
from bitzones.stats.bootstrap import bootstrap_mean
from bitzones.stats.e_process import AboveBound

__all__ = ["ALPHA", "EVERYTHING", "MARGIN", "batch", "is_sampled"]

ALPHA = 0.01
"""Chance that there is ever an alarm about a domain on which the plan costs no more than where it was measured, over all domains."""

MARGIN = 1.5
"""A domain may cost half as much again: between the domains of one run the KL differs by more (docs/findings/by-domain.md)."""

EVERYTHING = "all requests"
"""The domain of requests that name none, and no task."""

TEST = "shadow "
"""Before the name of a domain, the name of its test in the state."""

LEAST_BOUND = 1e-6
"""Nats per token: of a plan that costs nothing, rounding is no cause to calibrate."""

RESAMPLES = 2000

Notify = Callable[[str], None]


@dataclass(frozen=True)
class _Sampled:
    """A request that is computed: its domain, the task by whose plan, and its tokens."""

    domain: str
    task: str
    sequence: TokenSequence


@dataclass(frozen=True)
class _Computed:
    """What computing a request gave."""

    sample: ShadowSample
    figures: TrafficSequence


def batch(
    run: Path, record: CanaryRecord, state: State, log: Path, folder: Path, task: str | None, rate: float, device: str, notify: Notify
) -> ShadowBatch:
    """Compute a sample of what the log has had since the last batch, and keep the result; all of it, or nothing.

    Args:
        run: the run file, whose model is the reference.
        record: the run's canary record, for what was measured.
        state: to go on from.
        log: of requests, with their prompts.
        folder: what is served.
        task: by whose plan; None for the one that a request names, else the one that is routed to.
        rate: share of the requests.
        device: where the served model is computed.
        notify: told, in a line, of what takes long.

    Raises:
        ArgumentError: the log cannot be read or has no prompts, or there is no such task.
        ModelError: a model cannot be loaded, or is another.
        NonFiniteError: logits are NaN or infinite.
    """
    key = f"shadow {log.resolve()}"
    place = LogPlace.of(state.value(key))
    requests, _, after = read_requests(log, place)
    with_text = [request for request in requests if request.prompt]
    if requests and not with_text:
        raise ArgumentError(f"{log}: its requests have no 'prompt': there is nothing to compute")
    chosen = [request for number, request in enumerate(with_text) if is_sampled(request, place.offset + number, rate)]
    notify(f"{len(chosen)} of {len(requests)} new requests sampled")
    computed, passed_over = _computed(run, chosen, folder, task, device, notify) if chosen else ([], 0)
    with state.together():
        state.keep(key, after.to_text())
        made = ShadowBatch(
            number=_next(state, "shadow batches"),
            at=now(),
            rate=rate,
            requests=len(requests),
            sampled=len(chosen),
            passed_over=passed_over,
            domains=(),
        )
        return _kept(state, record, computed, made)


def is_sampled(request: Request, place: int, rate: float) -> bool:
    """Whether a request is in the sample: the same answer for the same text at the same place."""
    digest = hashlib.sha256(f"{place} {request.prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < rate * 2**64


def _next(state: State, name: str) -> int:
    number = int(state.value(name) or 0) + 1
    state.keep(name, str(number))
    return number


def _computed(
    run: Path, chosen: Sequence[Request], folder: Path, task: str | None, device: str, notify: Notify
) -> tuple[list[_Computed], int]:
    """What both models say of the requests that they can read, and how many they cannot."""
    measured = read_run(run).run
    session = Session(measured.profile, notify)
    with no_bars():
        loaded = session.variants.loaded
    if measured.model is None or loaded.sha256 != measured.model.sha256:
        raise ModelError(f"model {measured.profile.model.source!r} is not the one that the run measured: its weights have another SHA-256")
    served = load_served(folder, device, notify=notify)
    if text_config.vocabulary(served.model) != text_config.vocabulary(session.variants.reference):
        raise ModelError(f"{folder}: its vocabulary is not that of the run's model: another model")
    if task is not None and task not in served.tasks:
        raise ArgumentError(f"--task {task!r}: {folder} has {', '.join(served.tasks)}")
    room = positions(session.variants.reference)
    taken = list(_taken(served, session, chosen, task, room))
    found: list[_Computed] = []
    for name, group in groupby(sorted(taken, key=lambda item: item.task), key=lambda item: item.task):
        found += _by_both(session, served, name, list(group))
    return found, len(chosen) - len(taken)


def _taken(served: ServedModel, session: Session, chosen: Iterable[Request], task: str | None, room: int | None) -> Iterator[_Sampled]:
    """The requests that are not too short and not too long, as tokens."""
    for request in chosen:
        assert request.prompt is not None
        ids = tuple(tokens(session.tokenizer, [request.prompt])[0].ids)
        if len(ids) < 2 or (room is not None and len(ids) > room):
            continue
        named = task or (request.task if request.task in served.tasks else None)
        routed = named or served.route(request.prompt).task
        yield _Sampled(request.domain or request.task or EVERYTHING, routed, TokenSequence(ids, len(ids) - 1, ()))


@torch.no_grad()
def _by_both(session: Session, served: ServedModel, task: str, taken: Sequence[_Sampled]) -> Iterator[_Computed]:
    reference, rows = session.variants.reference, SequenceSet(tuple(item.sequence for item in taken))
    longest = max(len(sequence.ids) for sequence in rows.sequences)
    room = max(1, LOGITS_BYTES // (longest * text_config.vocabulary(reference) * FLOAT_BYTES))
    for here in batches(rows, min(session.profile.sensitivity.batch, room), session.device):
        expected = kl.log_probabilities(reference, here)
        there = replace(here, ids=here.ids.to(served.model.device), mask=here.mask.to(served.model.device))
        with served.precision(task):
            found = kl.logits_of(served.model, there).to(expected.device)
        sums = kl.kl_nats(expected, found, here.mask)
        if not torch.isfinite(sums).all():
            raise NonFiniteError("the served model's logits are NaN or infinite")
        for row, (index, sequence) in enumerate(zip(here.index, here.sequences, strict=True)):
            domain, length = taken[index].domain, len(sequence.ids)
            figures = traffic_of(domain, session.tokenizer, sequence.ids, expected[row, :length])
            yield _Computed(ShadowSample(domain=domain, tokens=length, kl_nats=float(sums[row])), figures)


def _kept(state: State, record: CanaryRecord, computed: Sequence[_Computed], made: ShadowBatch) -> ShadowBatch:
    """Keep samples, tests, the batch and, where there are enough requests, the window of their figures."""
    bound = MARGIN * (record.kl_nats if record.kl_high_nats is None else record.kl_high_nats)
    fresh: dict[str, list[ShadowSample]] = {}
    for item in computed:
        state.record(item.sample)
        fresh.setdefault(item.sample.domain, []).append(item.sample)
    for domain, samples in fresh.items():
        test = state.test(TEST + domain) or AboveBound(max(bound, LEAST_BOUND))
        if state.value(f"domain {domain}") is None:
            state.keep(f"domain {domain}", str(_next(state, "domains")))
        state.keep_test(TEST + domain, test.after(sample.kl_nats / sample.tokens for sample in samples))
    every: dict[str, list[ShadowSample]] = {}
    for sample in state.records(ShadowSample):
        every.setdefault(sample.domain, []).append(sample)
    result = made.model_copy(update={"domains": tuple(_domain(state, name, samples) for name, samples in sorted(every.items()))})
    state.record(result)
    if len(computed) >= request_drift.FEWEST:
        requests = [
            Request(characters=seen.characters, tokens=seen.tokens, nll_nats=seen.nll_nats, entropy_nats=seen.entropy_nats)
            for seen in (item.figures for item in computed)
        ]
        state.record(request_drift.window(_next(state, "windows"), requests, 0, record.traffic, made.at, "shadow"))
    return result


def _domain(state: State, name: str, samples: Sequence[ShadowSample]) -> DomainShadow:
    test = state.test(TEST + name)
    assert test is not None
    number = int(state.value(f"domain {name}") or 1)
    found = bootstrap_mean(np.array([sample.kl_nats / sample.tokens for sample in samples]), RESAMPLES, 0)
    return DomainShadow(
        domain=name,
        prompts=len(samples),
        tokens=sum(sample.tokens for sample in samples),
        kl_nats=found.value,
        low=found.low,
        high=found.high,
        bound_nats=test.bound,
        evidence=test.evidence,
        peak=test.peak,
        alarm=test.above(ALPHA / (number * (number + 1))),
    )
