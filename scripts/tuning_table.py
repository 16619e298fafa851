"""What tuning buys, on one model and in one run: uniform formats and a plan, before and after, on every domain of a profile.

From the top of a checkout, with the data sets in the hub's layouts and text/ under FOLDER:

    python scripts/tuning_table.py smollm2 --data FOLDER --plan docs/reports/smollm2/plan.json --uniform qint2:gptq

The plan's formats are rounded anew on the profile's calibration set and tuned on its tuning set; both are measured on the profile's
domains, which share no document with either, beside every uniform format of the profile. Differences are paired over windows. Prints a
table in Markdown, with the time that tuning took and the peak of memory. ``--norms`` trains the norms too.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from tabulate import tabulate

from bitzones.backends.weights import stored_bytes
from bitzones.deploy.plan_file import read_plan
from bitzones.evaluation import by_domain
from bitzones.models import structure
from bitzones.run.session import Session
from bitzones.schema import environment, profile_files
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.profile import PLAN, Profile
from bitzones.schema.profile_sections import Tuning
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate
from bitzones.tuning import distill
from bitzones.tuning.distill import Tuned
from bitzones.tuning.student import tunable_student
from bitzones.tuning.weights_file import StoredWeights

RESAMPLES = 10_000
KIB = 1024


@dataclass(frozen=True)
class Took:
    """What one tuning took."""

    name: str
    seconds: float
    tuned: Tuned
    validation_tokens: int


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tuned(session: Session, variant: str, settings: Tuning) -> Took:
    """Tune a variant and define the result as ``VARIANT tuned``."""
    variants, seed = session.variants, session.profile.seed
    formats, before = variants.assignment(variant), variants.whole(variant)
    texts = distill.split(session.sets.tuning, settings.validation, seed)
    started = perf_counter()
    found = distill.distill(
        variants.reference,
        lambda: tunable_student(variants.reference, before, formats, norms=settings.norms, stored_dtype=variants.loaded.model.dtype),
        texts,
        settings,
        seed,
        report=lambda done, steps, nats: say(f"{variant}: step {done} of {steps}, KL {nats:.4f} on the validation split"),
    )
    variants.define_stored(f"{variant} tuned", formats, StoredWeights({**before, **found.weights}, found.dense))
    return Took(variant, perf_counter() - started, found, sum(texts.validation.sequence_tokens))


def measured(session: Session, variant: str) -> dict[str, DomainCell]:
    """Domain -> the variant's cell there."""
    say(f"measuring {variant}")
    reference, model = session.variants.reference, session.variants.model(variant)
    return {
        name: session.on_domain(name, lambda found, batches: by_domain.domain_cell(variant, reference, model, found, batches()))
        for name in session.sets.domains
    }


def estimate(cell: DomainCell, nats: np.ndarray, seed: int) -> Estimate:
    """Nats per scored token; all variants of a domain are drawn on the same resamples."""
    return bootstrap_ratio(resample_weights(len(cell.scored_tokens), RESAMPLES, seed), nats, np.array(cell.scored_tokens, dtype=float))


def text(found: Estimate, sign: str = "") -> str:
    value = f"{found.value:{sign}.3f}"
    return value if found.low is None else f"{value} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def rows(session: Session, cells: dict[str, dict[str, DomainCell]]) -> Iterator[list[str]]:
    """A row a variant: stored bits and KL by domain; below a tuned one, the paired difference to the one before."""
    seed, weights = session.profile.seed, [session.variants.loaded.model.get_parameter(f"{name}.weight") for name in _modules(session)]
    count = sum(weight.numel() for weight in weights)
    for variant, found in cells.items():
        packed = session.variants.whole(variant)
        bits = 8 * sum(map(stored_bytes, packed.values())) / count if len(packed) == len(weights) else None
        yield [variant, "-" if bits is None else f"{bits:.2f}", *(text(estimate(c, np.array(c.kl_nats), seed)) for c in found.values())]
        if (before := cells.get(variant.removesuffix(" tuned"))) is not None and before is not found:
            pairs = [(cell, np.array(cell.kl_nats) - np.array(before[name].kl_nats)) for name, cell in found.items()]
            shares = [difference.sum() / sum(before[cell.domain].kl_nats) for cell, difference in pairs]
            said = (
                f"{text(estimate(cell, difference, seed), '+')}, {share:+.0%}"
                for (cell, difference), share in zip(pairs, shares, strict=True)
            )
            yield ["  tuned minus before", "", *said]


def _modules(session: Session) -> dict[str, int]:
    return structure.quantizable_modules(session.variants.loaded.model)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("profile")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--plan", type=Path, default=None, help="a plan.json of the profile's model: its formats are tuned")
    parser.add_argument("--uniform", nargs="*", default=[], help="formats of the profile whose uniform variants are tuned")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=Tuning().learning_rate)
    parser.add_argument("--norms", action="store_true")
    return parser.parse_args()


def _profile(asked: argparse.Namespace) -> Profile:
    settings = Tuning(tokens=asked.tokens, passes=asked.passes, batch=asked.batch, learning_rate=asked.learning_rate, norms=asked.norms)
    return profile_files.load(asked.profile).resolved(asked.data).model_copy(update={"tuning": settings})


def main() -> None:
    asked = _arguments()
    session = Session(_profile(asked), say)
    settings = session.profile.tuning
    assert settings is not None
    session.check_sequences()
    names = {name: variant for variant, name in session.variants.uniform.items()}
    chosen = [names[name] for name in asked.uniform]
    if asked.plan is not None:
        session.variants.define(PLAN, read_plan(asked.plan).formats)
        chosen.append(PLAN)
    took = [tuned(session, variant, settings) for variant in chosen]
    variants = [*session.variants.uniform, *([PLAN] if asked.plan else []), *(f"{item.name} tuned" for item in took)]
    cells = {variant: measured(session, variant) for variant in variants}
    domains = session.sets.domains
    head = ["variant", "bits", *(f"{name}, n = {len(found.windows.sequences)}" for name, found in domains.items())]
    print(f"\nKL(reference || variant), nats/token, 95% bootstrap intervals over windows, differences paired; {settings!r}.\n")
    print(tabulate(rows(session, cells), head, tablefmt="github", disable_numparse=True))
    for item in took:
        before, after = (sum(nats) / item.validation_tokens for nats in (item.tuned.before, item.tuned.after))
        machine = f"{item.seconds:.0f} s, {torch.get_num_threads()} threads, {environment.cpu_name()}"
        steps = f"step {item.tuned.best_step} of {item.tuned.history[-1][0]}"
        print(f"\n{item.name}: {machine}; {steps}, validation KL {before:.3f} -> {after:.3f}, {item.tuned.parameters:,} parameters")
    print(f"\nPeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
