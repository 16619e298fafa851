"""What the sensitivity engine saves: the exact sweep and the fisher score beside full forward passes, on the same sequences, in one run.

From the top of a checkout, with the data sets in the hub's layouts under FOLDER:

    python scripts/engine_speed.py smollm2 --data FOLDER

The plain way to a sensitivity is a full forward pass with the weights swapped, for every part and format. A sample of these pairs is
measured both ways in turns, batch by batch; both give the same KL, which is checked. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import random
import resource
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from tabulate import tabulate

from bitzones import environment, profile
from bitzones.measure import divergence, fisher, sensitivity
from bitzones.measure.calibration import Batch
from bitzones.measure.parts import Granularity, model_parts
from bitzones.measure.sensitivity import Candidate
from bitzones.measure.session import Session

EXACT_GOAL = 0.65
FISHER_GOAL = 40.0
"""Forward passes that the score of every group in two formats may take."""


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = perf_counter()
    work()
    return perf_counter() - started


@torch.no_grad()
def plain(session: Session, candidates: Sequence[Candidate], batch: Batch) -> list[float]:
    """KL of every candidate by a full forward pass each, and the reference's once for the batch."""
    model = session.variants.reference
    reference = divergence.log_probabilities(model, batch)
    found = []
    for candidate in candidates:
        with divergence.swapped(model, candidate.weights):
            found.append(float(divergence.kl_nats(reference, divergence.logits_of(model, batch), batch.mask).sum()))
    return found


def both_ways(session: Session, candidates: Sequence[Candidate], batch: Batch, *, exact_first: bool) -> float:
    """Time of the exact sweep by that of full passes, on one batch; both have to give the same KL."""
    alone = Batch(batch.ids, batch.mask, tuple(range(len(batch.index))), batch.sequences)
    swept: list[list[float] | None] = []
    whole: list[float] = []

    def exact() -> None:
        swept.extend(sensitivity.exact(session.variants.reference, session.layers, candidates, [alone], len(alone.index)).candidates)

    def full() -> None:
        whole.extend(plain(session, candidates, batch))

    took = {work: timed(work) for work in ((exact, full) if exact_first else (full, exact))}
    worst = max(abs(sum(a or ()) - b) / max(b, 1e-3) for a, b in zip(swept, whole, strict=True))
    assert worst < 1e-2, f"the two ways disagree by {worst:.1%}"
    return took[exact] / took[full]


def chosen(session: Session, granularity: Granularity, count: int) -> list[Candidate]:
    """A seeded sample of (part, format), spread over the layers."""
    variants = session.variants
    pairs = [(part, variant) for part in model_parts(variants.loaded.model, granularity) for variant in variants.uniform]
    picked = random.Random(0).sample(pairs, min(count, len(pairs)))
    return [Candidate(part.layer, {name: variants.packed(variant)[name] for name in part.modules}) for part, variant in picked]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the exact sweep and the fisher score beside full forward passes.")
    parser.add_argument("profile")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--candidates", type=int, default=30, help="(part, format) pairs measured both ways, per granularity")
    given = parser.parse_args()
    session = Session(profile.load(given.profile).resolved(given.data))
    batches = list(session.calibration_batches())
    model = session.variants.reference
    rows = []
    kinds: tuple[Granularity, ...] = ("layer", "group")
    for granularity in kinds:
        candidates = chosen(session, granularity, given.candidates)
        ratios = [both_ways(session, candidates, batch, exact_first=number % 2 == 1) for number, batch in enumerate(batches)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append(
            [f"exact, {granularity}", f"{median(ratios):.2f}x of a full pass each", spread, f"{len(ratios)} batches", f"{EXACT_GOAL}x"]
        )
    parts = model_parts(session.variants.loaded.model, "group")
    pairs = [(part, variant) for part in parts for variant in session.variants.uniform]
    changes = [{name: session.variants.packed(variant)[name] for name in part.modules} for part, variant in pairs]
    samples = session.profile.sensitivity.fisher_samples
    with torch.no_grad():
        passes = [timed(partial(divergence.logits_of, model, batch)) for batch in batches]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scored = timed(lambda: fisher.scores(model, changes, batches, len(session.calibration.sequences), samples, 0))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    tokens = sum(session.calibration.sequence_tokens)
    rows.append(
        [
            f"fisher, {len(changes)} pairs",
            f"{scored / sum(passes):.1f} forward passes",
            "-",
            f"{samples} samples",
            f"{FISHER_GOAL:g} passes",
        ]
    )
    print(tabulate(rows, ["method", "time", "smallest to largest", "n", "goal"], tablefmt="github", disable_numparse=True))
    print(
        f"\n{tokens} tokens in {len(batches)} batches, {given.candidates} pairs per granularity, threads: {torch.get_num_threads()}, "
        f"{environment.cpu_name()}, torch {torch.__version__}; fisher: {tokens / scored:.0f} tokens/s, peak memory grew by {grown:.0f} MiB."
    )


if __name__ == "__main__":
    main()
