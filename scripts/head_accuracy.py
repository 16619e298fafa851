"""How far the KL from the sampled head is from that of the whole one, and what each costs, candidate by candidate, in one run.

From the top of a checkout, with the data sets in the hub's layouts under FOLDER:

    PYTHONPATH=src:. python -m scripts.head_accuracy smollm2 --data FOLDER

Every so many-th (unit, format) is measured both ways and once more up to the head only, in turns, batch by batch. The last is subtracted
from both, so that the costs are those of head and KL alone. Times are this process's processor time, so that other work on the machine
does not count for much. With ``--around FORMAT``, candidates stand on that uniform variant instead of the reference, as in a search.
Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from time import process_time

import numpy as np
import torch
from scripts.engine_speed import chosen
from tabulate import tabulate

from bitzones.backends.backend_protocol import Weight
from bitzones.data.sequences import Batch
from bitzones.evaluation.kl import as_log_probabilities, log_probabilities
from bitzones.evaluation.layer_calls import Left
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.evaluation.sampled_kl import KlMeter, Measured, entering_head, meter
from bitzones.evaluation.swapping import swapped
from bitzones.run.session import Session
from bitzones.schema import environment, profile_files
from bitzones.sensitivity.sweep import Candidate

WORST = 0.01
"""Most that a KL may be off, as a share of it."""

CHEAPER = 3.0
"""How much cheaper head and KL are to be."""


@dataclass
class Found:
    """Of every candidate, by sequence: KL with the whole head and with the sampled one, and the variance from sampling; and seconds."""

    whole: list[list[float]]
    sampled: list[list[float]]
    variance: list[list[float]]
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, work: Callable[[], Measured]) -> Measured:
        """Do it, and add up its time under a name."""
        started = process_time()
        made = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + process_time() - started
        return made


@torch.no_grad()
def measure(session: Session, candidates: Sequence[Candidate], batches: Sequence[Batch], base: Mapping[str, Weight]) -> Found:
    """Both ways, on every batch."""
    found = Found([[] for _ in candidates], [[] for _ in candidates], [[] for _ in candidates])
    model, layers = session.variants.reference, session.layers
    for batch in batches:
        reference = log_probabilities(model, batch)
        with swapped(model, base):
            with entering_head(model) as entered:
                pass_, logits = passed(model, layers, batch)
            log_q = as_log_probabilities(logits, batch) if base else reference
            started = process_time()
            sampled = meter(model, batch, reference, log_q, entered)
            found.seconds["choosing rows"] = found.seconds.get("choosing rows", 0.0) + process_time() - started
            if sampled.anchor is None:
                raise SystemExit(f"{type(model).__name__}: the head is not sampled here")
            whole = meter(model, batch, reference, log_q)
            for number, candidate in enumerate(candidates):
                with swapped(model, candidate.weights), entered_at(layers, pass_.before(candidate.layer or 0)):
                    ways: dict[str, Callable[[], Measured]] = {
                        "layers": partial(_layers_only, model, whole),
                        "whole": partial(whole.measured, candidate.weights),
                        "sampled": partial(sampled.measured, candidate.weights),
                    }
                    order = sorted(ways, reverse=number % 2 == 1)
                    made = {name: found.timed(name, ways[name]) for name in order}
                for name, into in (("whole", found.whole), ("sampled", found.sampled)):
                    into[number] += made[name].nats.tolist()
                found.variance[number] += made["sampled"].variance.tolist()
    return found


def _layers_only(model: torch.nn.Module, measuring: KlMeter) -> Measured:
    batch, nothing = measuring.batch, torch.zeros(len(measuring.batch.index))
    with entering_head(model, leave=True), suppress(Left):
        model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return Measured(nothing, nothing)


def rows(found: Found, tokens: int) -> list[list[str]]:
    """The table."""
    whole, sampled, variance = (np.array(part) for part in (found.whole, found.sampled, found.variance))
    off = sampled.sum(1) / whole.sum(1) - 1
    standard = np.sqrt(variance.sum(1)) / whole.sum(1)
    alone = {name: found.seconds[name] - found.seconds["layers"] for name in ("whole", "sampled")}
    bootstrap = whole.std(1, ddof=1) * np.sqrt(whole.shape[1]) / whole.sum(1)
    n, chosen_s = f"{len(off)} candidates", found.seconds["choosing rows"]
    kl = whole.sum(1) / tokens
    return [
        ["KL, nats per token", f"median {np.median(kl):.4f}", f"{kl.min():.4f} to {kl.max():.4f}", n, ""],
        [
            "sampled / whole - 1",
            f"rms {np.sqrt((off**2).mean()):.2%}, mean {off.mean():+.2%}",
            f"{off.min():+.2%} to {off.max():+.2%}",
            n,
            f"{WORST:.0%}",
        ],
        [
            "its standard error as estimated",
            f"rms {np.sqrt((standard**2).mean()):.2%}",
            f"{standard.min():.2%} to {standard.max():.2%}",
            n,
            "",
        ],
        [
            "standard error from sequences",
            f"rms {np.sqrt((bootstrap**2).mean()):.2%}",
            f"{bootstrap.min():.2%} to {bootstrap.max():.2%}",
            n,
            "",
        ],
        [
            "head and KL, whole / sampled",
            f"{alone['whole'] / alone['sampled']:.1f}x",
            "",
            f"{found.seconds['whole']:.0f} s",
            f"{CHEAPER:g}x",
        ],
        ["the same with the layers", f"{found.seconds['whole'] / found.seconds['sampled']:.2f}x", "", "", ""],
        ["choosing rows, by a candidate's whole head and KL", f"{chosen_s / alone['whole'] * len(off):.2f}", "", "", ""],
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Hold the sampled head against the whole one.")
    parser.add_argument("profile")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--batches", type=int, help="batches of the sensitivity set that are used; all where it is left out")
    parser.add_argument("--granularity", choices=("layer", "group", "module"), default="group")
    parser.add_argument("--around", help="a format: candidates stand on that uniform variant")
    given = parser.parse_args()
    session = Session(profile_files.load(given.profile).resolved(given.data))
    batches = list(islice(session.sensitivity_batches(), given.batches))
    around = next((variant for variant, name in session.variants.uniform.items() if name == given.around), None)
    if given.around and around is None:
        raise SystemExit(f"--around {given.around}: the profile has {', '.join(session.variants.uniform.values())}")
    candidates = chosen(session, given.granularity, given.candidates)
    tokens = sum(len(row.ids) for batch in batches for row in batch.sequences)
    found = measure(session, candidates, batches, session.variants.packed(around) if around else {})
    print(tabulate(rows(found, tokens), ["what", "found", "smallest to largest", "n", "goal"], tablefmt="github", disable_numparse=True))
    print(
        f"\n{tokens} tokens in {sum(len(batch.index) for batch in batches)} sequences and {len(batches)} batches, by {given.granularity}s"
        f"{f', around {given.around}' if around else ''}, formats {', '.join(session.variants.uniform.values())}, "
        f"threads: {torch.get_num_threads()}, {environment.cpu_name()}, torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
