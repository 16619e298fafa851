"""What the sensitivity engine saves: the exact sweep and the fisher score beside full forward passes, on the same sequences, in one run.

From the top of a checkout, with the data sets in the hub's layouts under FOLDER:

    python scripts/engine_speed.py smollm2 --data FOLDER

The plain way to a sensitivity is a full forward pass with the weights swapped, for every unit and format. Of these pairs every so many-th
is measured both ways in turns, batch by batch; both give the same KL, which is checked. Times are this process's processor time, so that
other work on the machine does not count. Peaks of memory are read off Linux, above what the process held before. Prints a table in
Markdown.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from time import process_time

import psutil
import torch
from tabulate import tabulate

from bitzones.data.sequences import Batch
from bitzones.evaluation import kl, swapping
from bitzones.models.units import Granularity, model_units
from bitzones.run.session import Session
from bitzones.schema import environment, profile_files
from bitzones.schema.profile_sections import HeadUse
from bitzones.sensitivity import fisher, sweep
from bitzones.sensitivity.sweep import Candidate

EXACT_GOALS: dict[HeadUse, float] = {"whole": 0.65, "sampled": 0.5}
"""Full passes that a candidate may take, by how the head is computed."""
AGREEMENT: dict[HeadUse, float] = {"whole": 1e-2, "sampled": 5e-2}
"""Most that a candidate's KL on one batch may be off, as a share of it; sampling is held against less on whole sets (`head_accuracy`)."""
FISHER_GOAL = 40.0
"""Forward passes that the score of every group in two formats may take."""
MEMORY_GOAL = 2.0
"""Peaks of a forward pass, above the weights, that the score may take."""


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time of one call."""
    started = process_time()
    work()
    return process_time() - started


def peak_mib(work: Callable[[], object]) -> float:
    """The most resident memory during one call, above what there was before it."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): the peak starts again from what is resident now
    before = psutil.Process().memory_info().rss
    work()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert peak is not None
    return (int(peak[1]) * 1024 - before) / 2**20


@torch.no_grad()
def plain(session: Session, candidates: Sequence[Candidate], batch: Batch) -> list[float]:
    """KL of every candidate by a full forward pass each, and the reference's once for the batch."""
    model = session.variants.reference
    reference = kl.log_probabilities(model, batch)
    found = []
    for candidate in candidates:
        with swapping.swapped(model, candidate.weights):
            found.append(float(kl.kl_nats(reference, kl.logits_of(model, batch), batch.mask).sum()))
    return found


def both_ways(session: Session, candidates: Sequence[Candidate], batch: Batch, *, exact_first: bool) -> dict[HeadUse, float]:
    """Time of the exact sweep by that of full passes, on one batch, with either head; all have to give the same KL."""
    alone = Batch(batch.ids, batch.mask, tuple(range(len(batch.index))), batch.sequences)
    swept: dict[HeadUse, list[list[float] | None]] = {}
    whole: list[float] = []

    def exact(head: HeadUse) -> None:
        model, layers = session.variants.reference, session.layers
        swept[head] = sweep.exact(model, layers, candidates, [alone], len(alone.index), head=head).candidates

    def full() -> None:
        whole.extend(plain(session, candidates, batch))

    ways: dict[str, Callable[[], object]] = {"whole": partial(exact, "whole"), "sampled": partial(exact, "sampled"), "full": full}
    took = {name: timed(ways[name]) for name in (list(ways) if exact_first else reversed(ways))}
    for head, found in swept.items():
        worst = max(abs(sum(a or ()) - b) / max(b, 1e-3) for a, b in zip(found, whole, strict=True))
        assert worst < AGREEMENT[head], f"the exact sweep with the {head} head and full passes disagree by {worst:.1%}"
    return {head: took[head] / took["full"] for head in EXACT_GOALS}


def chosen(session: Session, granularity: Granularity, count: int) -> list[Candidate]:
    """Every so many-th unit, so that the depth of the sample is that of the whole sweep, and the formats in turn."""
    variants, units, formats = session.variants, model_units(session.variants.loaded.model, granularity), list(session.variants.uniform)
    count = min(count, len(units) * len(formats))
    picked = [(units[(2 * number + 1) * len(units) // (2 * count)], formats[number % len(formats)]) for number in range(count)]
    return [Candidate(unit.layer, {name: variants.packed(variant)[name] for name in unit.modules}) for unit, variant in picked]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the exact sweep and the fisher score beside full forward passes.")
    parser.add_argument("profile")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--candidates", type=int, default=60, help="(unit, format) pairs measured both ways, per granularity")
    parser.add_argument("--batches", type=int, help="batches of the sensitivity set that are used; all where it is left out")
    given = parser.parse_args()
    session = Session(profile_files.load(given.profile).resolved(given.data))
    batches = list(islice(session.sensitivity_batches(), given.batches))
    for variant in session.variants.uniform:
        session.variants.packed(variant)
    rows = [*_fisher(session, batches)]
    kinds: tuple[Granularity, ...] = ("layer", "group")
    for granularity in kinds:
        candidates = chosen(session, granularity, given.candidates)
        found = [both_ways(session, candidates, batch, exact_first=number % 2 == 1) for number, batch in enumerate(batches)]
        for head, goal in EXACT_GOALS.items():
            ratios = [item[head] for item in found]
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            what = f"exact, {len(candidates)} {granularity}s and formats, {head} head"
            rows.append([what, f"{median(ratios):.3f}x of a full pass each", spread, f"{len(ratios)} batches", f"{goal}x"])
    print(tabulate(rows, ["method", "found", "smallest to largest", "n", "goal"], tablefmt="github", disable_numparse=True))
    tokens = sum(len(row.ids) for batch in batches for row in batch.sequences)
    print(
        f"\n{tokens} tokens in {len(batches)} batches, threads: {torch.get_num_threads()}, {environment.cpu_name()}, "
        f"torch {torch.__version__}."
    )


def _fisher(session: Session, batches: Sequence[Batch]) -> list[list[str]]:
    """Time and memory of the score of every group in every format, beside forward passes over the same batches."""
    model = session.variants.reference
    pairs = [(unit, variant) for unit in model_units(session.variants.loaded.model, "group") for variant in session.variants.uniform]
    changes = [{name: session.variants.packed(variant)[name] for name in unit.modules} for unit, variant in pairs]
    samples, sequences = session.profile.sensitivity.fisher_samples, len(session.sensitivity_set.sequences)
    times: dict[str, float] = {}

    def forward() -> None:
        with torch.no_grad():
            times["forward"] = sum(timed(partial(kl.logits_of, model, batch)) for batch in batches)

    def score() -> None:
        times["fisher"] = timed(lambda: fisher.scores(model, changes, batches, sequences, samples, 0))

    forward()  # whatever is made at first is made now
    memory = {work.__name__: peak_mib(work) for work in (forward, score)}
    passes, grown = times["fisher"] / times["forward"], memory["score"] / memory["forward"]
    what, n = f"fisher, {len(changes)} groups and formats", f"{samples} samples"
    return [
        [what, f"{passes:.1f} forward passes", "-", n, f"{FISHER_GOAL:g} passes"],
        [what, f"{grown:.2f}x a forward pass's peak ({memory['score']:.0f} of {memory['forward']:.0f} MiB)", "-", n, f"{MEMORY_GOAL:g}x"],
    ]


if __name__ == "__main__":
    main()
