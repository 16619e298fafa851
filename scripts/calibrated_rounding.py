"""What calibrated rounding buys, on one model and in one run: uniform formats and plans with it and without, on two kinds of text.

From the top of a checkout, with the data sets in the hub's layouts under FOLDER:

    python scripts/calibrated_rounding.py smollm2 --data FOLDER --bits 2.5 3.0 3.5

Everything is rounded on the profile's rounding sequences and measured on held-out sequences of the same tasks, and on text of another kind:
the descriptions of the Python packages that are installed. Prints a table in Markdown, with the time that rounding took.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from tabulate import tabulate

from bitzones.allocation.knapsack import budget_bytes, solve
from bitzones.backends.backend_protocol import Weight
from bitzones.backends.weights import stored_bytes
from bitzones.data import sequences
from bitzones.data.sequences import Sequences, SequenceSet, TokenSequence
from bitzones.run.session import Session
from bitzones.schema import environment, profile_files
from bitzones.schema.formats import is_calibrated
from bitzones.schema.profile_sections import Budget, Calibration
from bitzones.search import goals, local_search
from bitzones.sensitivity import sweep
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate

FORMATS = ("qint4:hqq", "qint4:gptq", "qint2:hqq", "qint2:gptq")
OTHER_TOKENS, OTHER_LENGTH = 2048, 64
"""Of the text of another kind: as many tokens as the held-out sequences, in pieces of about their length."""
RESAMPLES = 1000

Weights = Mapping[str, Weight]


@dataclass(frozen=True)
class Made:
    """A whole model in some formats, before it is measured."""

    name: str
    bits: float
    weights: Weights


def described(session: Session) -> SequenceSet:
    """Pieces of the descriptions of installed packages, in the order of their names."""

    def pieces() -> Iterator[TokenSequence]:
        for package in sorted(distributions(), key=lambda item: item.metadata["Name"].lower()):
            text = package.metadata.json.get("description", "")
            ids = session.tokenizer(str(text)[:4000])["input_ids"][:OTHER_LENGTH]
            if len(ids) == OTHER_LENGTH:
                yield TokenSequence(tuple(ids), OTHER_LENGTH - 2, ())

    return sequences.take(Sequences(pieces()), OTHER_TOKENS)


def measured(session: Session, made: Sequence[Made], on: SequenceSet) -> list[Estimate]:
    """KL of each in nats per token, with a 95% bootstrap interval over sequences."""
    candidates = [sweep.Candidate(0, item.weights) for item in made]
    batches = sequences.batches(on, session.profile.sensitivity.batch, session.device)
    found = sweep.exact(session.variants.reference, session.layers, candidates, batches, len(on.sequences)).candidates
    tokens, weights = np.array(on.sequence_tokens), resample_weights(len(on.sequences), RESAMPLES, session.profile.seed)
    return [bootstrap_ratio(weights, np.array(kl), tokens) for kl in found if kl is not None]


def average_bits(session: Session, weights: Weights) -> float:
    """Stored bits per weight of the quantized modules."""
    return 8 * sum(map(stored_bytes, weights.values())) / sum(weight.shape.numel() for weight in weights.values())


def uniforms(session: Session) -> Iterator[Made]:
    """Every format for all, and the calibrated ones rounded in sequence too."""
    variants = session.variants
    for variant, name in variants.uniform.items():
        alone = variants.packed(variant)
        yield Made(f"uniform {name}" + (", modules alone" if is_calibrated(name) else ""), average_bits(session, alone), alone)
        if is_calibrated(name):
            yield Made(f"uniform {name}, in sequence", average_bits(session, alone), variants.whole(variant))


def planned(session: Session, bits: float, rounds: int) -> Iterator[Made]:
    """The plans that a search finds at a budget: among all formats, and among quanto's own."""
    bench = local_search.workbench(session.variants, session.sweep(), session.sensitivity_batches, len(session.sensitivity_set.sequences))
    separate, budget = local_search.summed(bench, session.sweep()), budget_bytes(bench.menu, bits)
    if rounds:
        cell = goals.search_cell(bench, session.sweep(), Budget(average_bits=bits), session.variants.uniform, rounds)
        found = bench.choice(cell.found.units)
    else:
        found = solve(bench.menu, separate, budget)
    name = f"plan{bits:g}"
    formats = bench.named(found)
    session.variants.define(name, {module: formats[unit.name] for unit in bench.units for module in unit.modules})
    whole = session.variants.whole(name)
    how = "searched" if rounds else "least sum"
    yield Made(f"{bits:g} bits, {how}, in sequence", average_bits(session, whole), whole)
    alone = local_search.weights_of(bench, found)
    yield Made(f"{bits:g} bits, {how}, modules alone", average_bits(session, alone), alone)
    if (stock := goals.without_calibration(bench, session.sweep(), budget, rounds)) is not None:
        weights = local_search.weights_of(bench, bench.choice(stock.units))
        yield Made(f"{bits:g} bits, {how}, without calibration", average_bits(session, weights), weights)


def text(found: Estimate) -> str:
    return f"{found.value:.3f}" if found.low is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("profile")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--bits", type=float, nargs="*", default=[], help="budgets of plans that are searched")
    parser.add_argument("--least-sum", type=float, nargs="*", default=[], help="budgets of plans that are not searched")
    parser.add_argument("--tokens", type=int, default=8192, help="to round on")
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    settings = profile_files.load(asked.profile).resolved(asked.data)
    settings = settings.model_copy(update={"formats": FORMATS, "calibration": Calibration(tokens=asked.tokens)})
    session = Session(settings, lambda line: print(line, flush=True))
    calibrated = [variant for variant, name in session.variants.uniform.items() if is_calibrated(name)]
    session.check_sequences()  # reads the sequences, which is not to be timed
    started = perf_counter()
    session.variants.packed(calibrated[0])  # all calibrated formats at once
    took = perf_counter() - started
    made = list(uniforms(session))
    for bits in asked.bits:
        made += planned(session, bits, asked.rounds)
    for bits in asked.least_sum:
        made += planned(session, bits, 0)
    other = described(session)
    rows = [
        (item.name, f"{item.bits:.2f}", text(here), text(there), f"{there.value / here.value:.2f}")
        for item, here, there in zip(made, measured(session, made, session.held_out), measured(session, made, other), strict=True)
    ]
    held, used = session.held_out, session.calibration_set
    print(
        f"\nKL(reference || model), nats/token, 95% bootstrap intervals over sequences. Rounded on {len(used.sequences)} sequences "
        f"({sum(used.sequence_tokens):,} tokens); held out: {len(held.sequences)} ({sum(held.sequence_tokens):,}); other text: "
        f"{len(other.sequences)} ({sum(other.sequence_tokens):,}). {len(calibrated)} formats of every module, rounded alone: {took:.0f} s, "
        f"{torch.get_num_threads()} threads, {environment.cpu_name()}.\n"
    )
    print(
        tabulate(rows, ("model", "bits", "held-out sequences", "other text", "other / held-out"), tablefmt="github", disable_numparse=True)
    )


if __name__ == "__main__":
    main()
