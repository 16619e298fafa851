"""What tuning buys, on one model and in one run: uniform formats and a plan, before and after, on every domain of a profile.

From the top of a checkout, with the data sets in the hub's layouts and text/ under FOLDER:

    python scripts/tuning_table.py smollm2 --data FOLDER --plan docs/reports/smollm2/plan.json --uniform qint2:gptq

The plan's formats are rounded anew on the profile's calibration set and tuned on its tuning set; both are measured on the profile's
domains, which share no document with either, beside every uniform format of the profile. Differences are paired over windows. Prints a
table in Markdown, with the time that tuning took and the peak of memory. ``--norms`` trains the norms too; ``--accuracy TASK``
has every variant answer that task as well. With ``--keep DIR`` weights and cells are kept there as they are made, and a second call goes
on from them: it must be of the same profile and the same settings.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from tabulate import tabulate

from bitzones.backends.weights import stored_bytes
from bitzones.deploy.plan_file import read_plan
from bitzones.evaluation import accuracy, by_domain
from bitzones.models import structure
from bitzones.run.session import Session
from bitzones.schema import environment, profile_files
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.profile import PLAN, Profile
from bitzones.schema.profile_sections import Tuning
from bitzones.schema.quality_cells import AccuracyCell
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate, wilson_interval
from bitzones.tuning import distill, saved_state, weights_file
from bitzones.tuning.distill import Tuned
from bitzones.tuning.student import tunable_student
from bitzones.tuning.weights_file import StoredWeights

RESAMPLES = 10_000
KIB = 1024


@dataclass(frozen=True)
class Took:
    """What one tuning took; ``nats`` are of the validation split, before and after."""

    name: str
    seconds: float
    nats: tuple[float, float]
    step: int
    steps: int
    parameters: int


@dataclass(frozen=True)
class Kept:
    """A session, and the folder in which weights and cells are kept; nothing is kept without one."""

    session: Session
    folder: Path | None

    def place(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name.replace(" ", "-")

    def record(self, name: str, make: Callable[[], str]) -> str:
        """JSON that was kept, or is made and kept now."""
        place = self.place(f"{name}.json")
        if place is not None and place.exists():
            return place.read_text(encoding="utf-8")
        made = make()
        if place is not None:
            place.write_text(made, encoding="utf-8")
        return made

    def rounded(self, variant: str, formats: dict[str, str]) -> None:
        """Define a variant with the weights that were kept, or round it and keep them."""
        place, variants = self.place(f"{variant}.safetensors"), self.session.variants
        if place is not None and place.exists():
            stored = weights_file.read(place, sha256(place.read_bytes()).hexdigest(), variants.loaded.model, formats)
            variants.define_stored(variant, formats, stored)
        else:
            if variant not in variants.uniform:
                variants.define(variant, formats)
            whole = variants.whole(variant)
            if place is not None:
                weights_file.write(place, whole, {})


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tuned(kept: Kept, variant: str, settings: Tuning) -> Took:
    """Tune a variant and define the result as ``VARIANT tuned``."""
    session, name = kept.session, f"{variant} tuned"
    variants, formats = session.variants, session.variants.assignment(variant)
    place = kept.place(f"{name}.safetensors")

    def run() -> str:
        started = perf_counter()
        found = distilled(session, variant, settings, kept.place(f"{variant} state"))
        weights = {**variants.whole(variant), **found.weights}
        if place is not None:
            weights_file.write(place, weights, found.dense)
        variants.define_stored(name, formats, StoredWeights(dict(weights), found.dense))
        nats = [sum(part) / session_tokens(session, settings) for part in (found.before, found.after)]
        return json.dumps([name, perf_counter() - started, nats, found.best_step, found.history[-1][0], found.parameters])

    took = Took(*json.loads(kept.record(name, run)))
    if place is not None and name not in variants.formats:
        stored = weights_file.read(place, sha256(place.read_bytes()).hexdigest(), variants.loaded.model, formats)
        variants.define_stored(name, formats, stored)
    return took


def session_tokens(session: Session, settings: Tuning) -> int:
    """Scored tokens of the validation split."""
    return sum(distill.split(session.sets.tuning, settings.validation, session.profile.seed).validation.sequence_tokens)


def distilled(session: Session, variant: str, settings: Tuning, state: Path | None) -> Tuned:
    variants, seed = session.variants, session.profile.seed
    formats, before = variants.assignment(variant), variants.whole(variant)
    found = distill.distill(
        variants.reference,
        lambda: tunable_student(variants.reference, before, formats, norms=settings.norms, stored_dtype=variants.loaded.model.dtype),
        distill.split(session.sets.tuning, settings.validation, seed),
        settings,
        seed,
        place=state,
        report=lambda done, steps, nats: say(f"{variant}: step {done} of {steps}, KL {nats:.4f} on the validation split"),
    )
    if state is not None:
        saved_state.remove(state)
    return found


def measured(kept: Kept, variant: str) -> dict[str, DomainCell]:
    """Domain -> the variant's cell there."""
    session = kept.session

    def on(domain: str) -> str:
        say(f"measuring {variant} on {domain}")
        reference, model = session.variants.reference, session.variants.model(variant)
        return session.on_domain(
            domain, lambda found, batches: by_domain.domain_cell(variant, reference, model, found, batches())
        ).model_dump_json()

    return {name: DomainCell.model_validate_json(kept.record(f"{variant}.{name}", partial(on, name))) for name in session.sets.domains}


def answered(kept: Kept, variant: str, tasks: list[str]) -> dict[str, AccuracyCell]:
    """Task -> the variant's answers."""
    session = kept.session

    def on(task: str) -> str:
        say(f"measuring {variant} on {task}")
        model = session.variants.model(variant)
        return accuracy.measure(model, session.tokenizer, session.asked[task], variant, session.task_batch(task)).model_dump_json()

    return {name: AccuracyCell.model_validate_json(kept.record(f"{variant}.answers.{name}", partial(on, name))) for name in tasks}


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
    parser.add_argument("--beside", nargs="*", default=None, help="formats whose uniform variants are measured too; all by default")
    parser.add_argument("--accuracy", nargs="*", default=[], metavar="TASK", help="tasks of the profile that are measured as well")
    parser.add_argument("--keep", type=Path, default=None, metavar="DIR", help="keep weights and cells here, and go on from them")
    return parser.parse_args()


def _profile(asked: argparse.Namespace) -> Profile:
    settings = Tuning(tokens=asked.tokens, passes=asked.passes, batch=asked.batch, learning_rate=asked.learning_rate, norms=asked.norms)
    return profile_files.load(asked.profile).resolved(asked.data).model_copy(update={"tuning": settings})


def _chosen(kept: Kept, asked: argparse.Namespace) -> list[str]:
    """The variants to tune, defined and rounded."""
    variants = kept.session.variants
    names = {name: variant for variant, name in variants.uniform.items()}
    chosen = {names[name]: variants.assignment(names[name]) for name in asked.uniform}
    if asked.plan is not None:
        chosen[PLAN] = dict(read_plan(asked.plan).formats)
    for variant, formats in chosen.items():
        kept.rounded(variant, formats)
    return list(chosen)


def _table(kept: Kept, variants: list[str]) -> str:
    domains = kept.session.sets.domains
    head = ["variant", "bits", *(f"{name}, n = {len(found.windows.sequences)}" for name, found in domains.items())]
    return tabulate(
        rows(kept.session, {variant: measured(kept, variant) for variant in variants}), head, tablefmt="github", disable_numparse=True
    )


def _answers(kept: Kept, variants: list[str], tasks: list[str]) -> str:
    """Accuracy by task with Wilson's interval, and the paired difference of a tuned variant to the one before."""
    cells = {variant: answered(kept, variant, tasks) for variant in variants}
    return tabulate(
        [[variant, *(f"{_share(cell)}" for cell in found.values())] for variant, found in cells.items()],
        ["variant", *(f"{name}, n = {len(cell.correct)}" for name, cell in next(iter(cells.values())).items())],
        tablefmt="github",
        disable_numparse=True,
    )


def _share(cell: AccuracyCell) -> str:
    right, count = sum(cell.correct), len(cell.correct)
    interval = wilson_interval(right, count)
    return f"{right / count:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def main() -> None:
    asked = _arguments()
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
    session = Session(_profile(asked), say)
    settings = session.profile.tuning
    assert settings is not None
    session.check_sequences()
    kept = Kept(session, asked.keep)
    chosen = _chosen(kept, asked)
    took = [tuned(kept, variant, settings) for variant in chosen]
    names = {name: variant for variant, name in session.variants.uniform.items()}
    beside = [names[name] for name in asked.beside] if asked.beside is not None else list(names.values())
    variants = list(dict.fromkeys([*beside, *chosen, *(item.name for item in took)]))
    print(f"\nKL(reference || variant), nats/token, 95% bootstrap intervals over windows, differences paired; {settings!r}.\n")
    print(_table(kept, variants))
    if asked.accuracy:
        print(f"\nAccuracy, 95% Wilson intervals.\n\n{_answers(kept, [session.reference_id, *variants], asked.accuracy)}")
    for item in took:
        machine = f"{item.seconds:.0f} s, {torch.get_num_threads()} threads, {environment.cpu_name()}"
        before, after = item.nats
        steps = f"step {item.step} of {item.steps}"
        print(f"\n{item.name}: {machine}; {steps}, validation KL {before:.3f} -> {after:.3f}, {item.parameters:,} parameters")
    print(f"\nPeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
