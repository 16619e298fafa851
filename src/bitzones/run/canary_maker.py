"""Makes the record that a served model is watched with: what the plan's model and the reference predict after pinned prompts.

Prompts are the beginnings of held-out sequences. A prediction that is nearly certain moves little whatever happens to the weights, so each
sequence is cut where the plan's model is least certain: first once, then once more, until there are enough prompts. Only beginnings that
the tokenizer gives back as they are become prompts, because a server may have to be asked in text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones import __version__
from bitzones.backends import quantizing
from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.data.special_tokens import tokens
from bitzones.deploy import in_memory
from bitzones.deploy.export_request import silent
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.prepared import no_bars
from bitzones.evaluation import kl
from bitzones.monitor.canary_watch import now
from bitzones.monitor.deviation import Listed, deviation
from bitzones.run.session import Session
from bitzones.schema.canary_record import CanaryPrompt, CanaryRecord, Predicted, TrafficRecord, TrafficSequence
from bitzones.schema.errors import ModelError, TaskError
from bitzones.schema.run_record import Run
from bitzones.serve.served_loader import load as load_served
from bitzones.stats.bootstrap import bootstrap_mean

__all__ = ["PROMPTS", "SHORTEST", "TOP", "made", "traffic_of"]

PROMPTS = 200
"""Pinned prompts of a record, where the held-out set has as many places."""

TOP = 20
"""The most log-probabilities that vLLM gives unless it is told otherwise, and that our server gives."""

SHORTEST = 4
"""Tokens of the shortest prompt."""

RESAMPLES, SEED = 2000, 0

DIGITS = 9
"""Decimals of a log-probability: rounding costs less than float32 does."""

Notify = Callable[[str], None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Cuts:
    """Where a sequence may be cut, the least certain place first, as lengths of the prompt, and what the reference, the plan's model and
    the plan's model in the other dtype predict after each token."""

    lengths: tuple[int, ...]
    reference: _Top
    plan: _Top
    other: _Top


@dataclass(frozen=True)
class _Top:
    """The likeliest next tokens after each token of a sequence: log-probabilities and ids of shape (length, `TOP`), on the CPU."""

    logprobs: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> _Top:
        values, ids = rows.double().topk(min(TOP, rows.shape[-1]))
        return cls(values.cpu(), ids.cpu())

    def after(self, length: int) -> Predicted:
        """What is predicted after so many tokens."""
        logprobs = tuple(min(0.0, round(value, DIGITS)) for value in self.logprobs[length - 1].tolist())
        return Predicted(token_ids=tuple(self.ids[length - 1].tolist()), logprobs=logprobs)


def made(
    run: Run, plan: PlanFile | None, served: Path | None, task: str | None, prompts: int = PROMPTS, notify: Notify = silent
) -> CanaryRecord:
    """The record of a plan, or of a folder that is served.

    Args:
        run: gives the model, the held-out sequences and the sensitivity set.
        plan: to watch; None where ``served`` is given.
        served: a bundle or a folder of ``bitzones apply``.
        task: of the bundle, None for its base.
        prompts: to pin.
        notify: told, in a line, of what takes long.

    Raises:
        ModelError: the model is not the one that the run measured.
        PlanError: the plan is for another model.
        TaskError: the held-out sequences have no place to be cut at.
        NonFiniteError: a logit is NaN or infinite.
    """
    session = Session(run.profile, notify)
    with no_bars():
        variants = session.variants
    if run.model is None or variants.loaded.sha256 != run.model.sha256:
        raise ModelError(f"model {run.profile.model.source!r} is not the one that the run measured: its weights have another SHA-256")
    notify("quantizing by the plan" if plan is not None else f"loading {served}")
    model, named = _watched(session, plan, served, task)
    dtype, noise_dtype = variants.compute_dtype, torch.bfloat16 if variants.compute_dtype == torch.float32 else torch.float32
    notify(f"computing {len(session.held_out.sequences)} held-out sequences, in {_name(dtype)} and in {_name(noise_dtype)}")
    per_token, cuts = _computed(session, model, dtype, noise_dtype)
    pinned = tuple(islice(_chosen(session.held_out, cuts, session.tokenizer), prompts))
    if not pinned:
        raise TaskError("no held-out sequence has a beginning that the tokenizer gives back as it is: there is no prompt to pin")
    cost = bootstrap_mean(per_token, RESAMPLES, SEED)
    notify(f"computing {len(session.sensitivity_set.sequences)} sensitivity sequences")
    return CanaryRecord(
        bitzones=__version__,
        made_at=now(),
        source=run.profile.model.source,
        model_sha256=variants.loaded.sha256,
        served=plan.plan.name if plan is not None else str(served),
        task=named,
        dtype=_name(dtype),
        noise_dtype=_name(noise_dtype),
        top=len(pinned[0].plan.token_ids),
        seed=run.profile.seed,
        prompts=pinned,
        tokens=_token_texts(session.tokenizer, pinned),
        kl_nats=max(0.0, cost.value),
        kl_high_nats=cost.high,
        traffic=_traffic(session),
    )


def _watched(session: Session, plan: PlanFile | None, served: Path | None, task: str | None) -> tuple[PreTrainedModel, str | None]:
    """The model, and which plan of a bundle it computes; None where there is one only."""
    if plan is not None:
        return in_memory.quantize(copy.deepcopy(session.variants.loaded.model), plan).eval(), None
    found = load_served(str(served), str(session.device))
    if task is not None:
        found.use(task)
    return found.model.eval(), found.task if len(found.tasks) > 1 else None


@torch.no_grad()
def _computed(session: Session, model: PreTrainedModel, dtype: torch.dtype, noise_dtype: torch.dtype) -> tuple[Floats, list[_Cuts]]:
    """Per held-out sequence: the mean KL per token, and where it may be cut. Leaves the model in the other dtype."""
    held_out, reference = session.held_out, session.variants.reference
    quantizing.set_compute_dtype(model, dtype)
    per_token, first = np.zeros(len(held_out.sequences)), dict[int, tuple[tuple[int, ...], _Top, _Top]]()
    for batch in session.held_out_batches():
        expected, found = (kl.log_probabilities(one, batch) for one in (reference, model))
        sums, entropies = kl.kl_nats(expected, found, batch.mask), torch.special.entr(found.exp()).sum(-1)
        for row, (index, length) in enumerate(_lengths(batch)):
            per_token[index] = float(sums[row]) / length
            lengths = (int(n) + 1 for n in entropies[row, :length].argsort(descending=True))
            first[index] = tuple(n for n in lengths if n >= SHORTEST), _Top.of(expected[row, :length]), _Top.of(found[row, :length])
    quantizing.set_compute_dtype(model, noise_dtype)
    cuts = dict[int, _Cuts]()
    for batch in session.held_out_batches():
        found = kl.log_probabilities(model, batch)
        cuts |= {index: _Cuts(*first[index], _Top.of(found[row, :length])) for row, (index, length) in enumerate(_lengths(batch))}
    return per_token, [cuts[n] for n in range(len(held_out.sequences))]


def _lengths(batch: Batch) -> Iterator[tuple[int, int]]:
    """Of every row of a batch, its place in the set and its number of tokens."""
    yield from ((index, len(sequence.ids)) for index, sequence in zip(batch.index, batch.sequences, strict=True))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _chosen(held_out: SequenceSet, cuts: Sequence[_Cuts], tokenizer: PreTrainedTokenizerBase) -> Iterator[CanaryPrompt]:
    """Prompts, in turn from each sequence, no prompt twice."""
    seen: set[tuple[int, ...]] = set()
    waiting = [(sequence.ids, found, iter(found.lengths)) for sequence, found in zip(held_out.sequences, cuts, strict=True)]
    while waiting:
        left = []
        for whole, found, lengths in waiting:
            for length in lengths:
                ids = whole[:length]
                if ids not in seen and (text := _text(tokenizer, ids)) is not None:
                    seen.add(ids)
                    yield _prompt(ids, text, found, length)
                    left.append((whole, found, lengths))
                    break
        waiting = left


def _text(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str | None:
    """The text that a server's tokenizer turns into these tokens, its opening special tokens included; None where there is none."""
    opening = tokens(tokenizer, ["a"])[0].opening
    text = str(tokenizer.decode(list(ids[opening:]), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return text if tuple(tokenizer(text)["input_ids"]) == ids else None


def _prompt(ids: tuple[int, ...], text: str, cuts: _Cuts, length: int) -> CanaryPrompt:
    plan, reference, other = (top.after(length) for top in (cuts.plan, cuts.reference, cuts.other))
    return CanaryPrompt(prompt_ids=ids, text=text, plan=plan, reference=reference, noise_nats=deviation(_listed(plan), _listed(other)))


def _listed(predicted: Predicted) -> Listed:
    return dict(zip(predicted.token_ids, predicted.logprobs, strict=True))


def _token_texts(tokenizer: PreTrainedTokenizerBase, pinned: Iterable[CanaryPrompt]) -> dict[str, tuple[str, ...]]:
    ids = sorted({token for prompt in pinned for listed in (prompt.plan, prompt.reference) for token in listed.token_ids})
    found: dict[str, tuple[str, ...]] = {}
    for token in ids:
        text, entry = str(tokenizer.decode([token])), tokenizer.convert_ids_to_tokens(token)
        found[str(token)] = tuple(dict.fromkeys((text, entry if isinstance(entry, str) else text)))  # some vocabularies have gaps
    return found


@torch.no_grad()
def _traffic(session: Session) -> TrafficRecord:
    """What the sensitivity set looks like to the reference."""
    chosen = session.sensitivity_set
    domains, found = _domains(session, chosen.sequences), dict[int, TrafficSequence]()
    for batch in session.sensitivity_batches():
        rows = kl.log_probabilities(session.variants.reference, batch)
        for row, (index, sequence) in enumerate(zip(batch.index, batch.sequences, strict=True)):
            found[index] = traffic_of(domains[index], session.tokenizer, sequence.ids, rows[row, : len(sequence.ids)])
    return TrafficRecord(sequences=tuple(found[n] for n in range(len(chosen.sequences))))


def traffic_of(domain: str, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], rows: torch.Tensor) -> TrafficSequence:
    """The figures of a sequence from the log-probabilities at each of its tokens, shape (tokens, vocabulary)."""
    before = rows[:-1].double().cpu()
    following = torch.tensor(ids[1:]).unsqueeze(-1)
    return TrafficSequence(
        domain=domain,
        characters=max(1, len(str(tokenizer.decode(list(ids), skip_special_tokens=True)))),
        tokens=len(ids),
        nll_nats=max(0.0, float(-before.gather(-1, following).mean())) if len(ids) > 1 else 0.0,
        entropy_nats=float(torch.special.entr(before.exp()).sum(-1).mean()) if len(ids) > 1 else 0.0,
    )


def _domains(session: Session, chosen: Sequence[TokenSequence]) -> list[str]:
    """Of each sequence, the task whose item it is, else the source that it was read from."""
    prompts = {item.prompt: name for name, task in session.scored.items() if task.has_training for item in task.training()}
    origins = [part.origin for part in session.sets.texts["sensitivity"].parts for _ in range(part.sequences)]
    asked = (str(session.tokenizer.decode(list(row.ids[: row.answer_position + 1]), skip_special_tokens=True)) for row in chosen)
    return [prompts.get(text, origin) for text, origin in zip(asked, origins, strict=True)]
