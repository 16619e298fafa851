"""Switches of a bundle on a real model: what they take, what stays in memory, and whether any output under load is another plan's.

A bundle of data-free plans is made of a profile's model, by layer: the base alternates 4 and 2 bits, and each of two tasks changes one
layer in four. Then, in this order:

1. memory: resident bytes of the bundle, and of the base and the differing modules counted one by one;
2. time: switches between random plans, nothing else running in this process;
3. load: threads that each choose a plan, switch, and compute logits, compared bit for bit with those of the plan's own checkpoint.

    python scripts/bundle_proof.py tiny
    python scripts/bundle_proof.py smollm2          # ten minutes on two cores, most of it the outputs under load
    python scripts/bundle_proof.py tiny --rounding  # instead: how much calibrated rounding makes plans differ, on the embedded model
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bitzones import __version__, serve
from bitzones.analysis.plan import Plan, PlanBudget, PlannedModel
from bitzones.backends import quantizing
from bitzones.backends.backend_protocol import Packed
from bitzones.backends.weights import plain_tensors
from bitzones.deploy import quanto_checkpoint
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import PlanFile, check_plan
from bitzones.evaluation import kl
from bitzones.models import loading, structure
from bitzones.run import bundle_speed
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.environment import versions
from bitzones.schema.profile import Profile
from bitzones.serve.bundle_request import BundleRequest, check_plans
from bitzones.serve.bundle_writer import Bundled, bundle
from bitzones.serve.served_model import ServedModel
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate
from bitzones.tuning.weights_file import StoredWeights

CPU = torch.device("cpu")
THREADS = 8
DATA_FREE, CALIBRATED = ("qint4", "qint2"), ("qint4:gptq", "qint2:gptq")
EVERY = 4
"""A task changes one layer in so many."""
BASE = "base"


def planned(loaded: loading.Loaded, name: str, wide: set[int]) -> PlanFile:
    """A plan whose layers are at 4 bits where they are in ``wide``, and at 2 bits elsewhere."""
    modules = structure.quantizable_modules(loaded.model)
    assignment = {module: DATA_FREE[layer not in wide] for module, layer in modules.items()}
    weights = {module: loaded.model.get_parameter(f"{module}.weight") for module in modules}
    stored = 0
    for module, chosen in assignment.items():
        rows, columns = weights[module].shape
        stored += quantizing.expected_bytes(rows, columns, loaded.model.dtype, chosen)
    count = sum(weight.numel() for weight in weights.values())
    size = PlanBudget(average_bits=stored * 8 / count, stored_bytes=stored)
    info = loaded.info(torch.float32)
    return check_plan(
        Plan(
            bitzones=__version__,
            model=PlannedModel(
                source=info.source,
                sha256=info.sha256,
                architecture=info.architecture,
                dtype=info.dtype,
                compute_dtype=info.compute_dtype,
                trust_remote_code=False,
            ),
            reference="bf16",
            budget=size,
            achieved=size,
            reference_bytes=sum(weight.nbytes for weight in weights.values()),
            predicted_kl=Estimate(value=0.0, low=None, high=None),  # not measured: these plans are here for their bytes
            name=name,
            units={},
            assignment=assignment,
            group_sizes={module: quantizing.group_size(chosen, weights[module].shape[1]) for module, chosen in assignment.items()},
            sequences_sha256="",
            profile_sha256="",
            versions=versions(),
        )
    )


def layers_of(loaded: loading.Loaded) -> dict[str, set[int]]:
    """Wide layers of the base, and of two tasks that each change one layer in `EVERY`."""
    layers = range(len(structure.decoder_layers(loaded.model)))
    base = {layer for layer in layers if layer % 2 == 0}
    return {BASE: base, "first": base ^ {n for n in layers if n % EVERY == 0}, "second": base ^ {n for n in layers if n % EVERY == 1}}


def plans_of(loaded: loading.Loaded) -> dict[str, PlanFile]:
    """The plans of these layers."""
    return {name: planned(loaded, name, wide) for name, wide in layers_of(loaded).items()}


def bundled(plans: Mapping[str, PlanFile], folder: Path) -> Bundled:
    """A bundle of the plans."""
    tasks = [(name, plan) for name, plan in plans.items() if name != BASE]
    return bundle(BundleRequest(plans[BASE], check_plans(plans[BASE], tasks), folder, CPU, notify=print))


def counted(served: ServedModel) -> tuple[int, int]:
    """Bytes of the base, and of the modules that tasks put in its modules' places, tensor by tensor."""
    base = {id(module) for module in served.model.modules()}
    extra = 0
    for task in served.tasks[1:]:
        with served.precision(task):
            extra += sum(_bytes(module) for module in served.model.modules() if id(module) not in base)
    return _bytes(served.model), extra


def _bytes(module: torch.nn.Module) -> int:
    owned = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(part.nbytes for tensor in owned.values() for part in plain_tensors(tensor))


def under_load(served: ServedModel, alone: Mapping[str, Path], switches: int) -> tuple[int, int]:
    """Outputs under threads, and how many of them were not bit for bit those of the plan's own checkpoint."""
    prompts = [torch.tensor([[1 + n, 7 + n, 11 + n, 5 + n]]) for n in range(4)]
    expected = {name: [_logits(model, prompt) for prompt in prompts] for name, model in _models(alone)}

    def work(seed: int) -> int:
        rng, wrong = random.Random(seed), 0
        for _ in range(switches // THREADS):
            task, place = rng.choice(served.tasks), rng.randrange(len(prompts))
            with served.precision(task):
                wrong += _logits(served.model, prompts[place]) != expected[task][place]
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        return switches // THREADS * THREADS, sum(pool.map(work, range(THREADS)))


def _models(alone: Mapping[str, Path]) -> list[tuple[str, torch.nn.Module]]:
    return [(name, serve.load(folder).model) for name, folder in alone.items()]


@torch.no_grad()
def _logits(model: torch.nn.Module, prompt: torch.Tensor) -> bytes:
    return model(input_ids=prompt, use_cache=False).logits.contiguous().view(torch.uint8).numpy().tobytes()  # type: ignore[no-any-return]


def proof(profile: Profile, switches: int, folder: Path) -> None:
    """Print what was measured, line by line."""
    loaded = loading.load(profile.model, CPU, print)
    plans = plans_of(loaded)
    print("\n".join(bundled(plans, folder / "bundle").lines()))
    served = serve.load(folder / "bundle")
    base, extra = counted(served)
    print(f"resident bytes: {served.resident_bytes:,}; base {base:,} + what differs {extra:,} = {base + extra:,}")
    timed = bundle_speed.switching(served, 0)
    print(f"switch: median {timed.median_s * 1e6:.1f} us, 99th percentile {timed.p99_s * 1e6:.1f} us, n = {timed.n:,}")
    alone = {name: folder / name for name in plans}
    for name, plan in plans.items():
        quanto_checkpoint.apply(ExportRequest(plan, alone[name], CPU))
    done, wrong = under_load(served, alone, switches)
    print(f"under {THREADS} threads: {done:,} switches, {wrong} outputs were not bit for bit those of the plan alone")


def rounding(profile: Profile) -> None:
    """Plans rounded in sequence: what a task stores with its own rounding and with the base's, and the KL of both on held-out sequences."""
    session = Session(profile.model_copy(update={"formats": CALIBRATED}), print)
    variants, modules = session.variants, structure.quantizable_modules(session.variants.loaded.model)
    formats = {
        name: {module: CALIBRATED[layer not in wide] for module, layer in modules.items()}
        for name, wide in layers_of(variants.loaded).items()
    }
    made = {name: variants.in_sequence(name, chosen).weights for name, chosen in formats.items()}
    for task in list(formats)[1:]:
        other = {module for module, chosen in formats[task].items() if chosen != formats[BASE][module]}
        reached = {module for module, weight in made[task].items() if module in other or not _same(weight, made[BASE][module])}
        mixed = {module: made[task if module in other else BASE][module] for module in modules}
        for label, stored, weights in (("own rounding", reached, made[task]), ("the base's rounding", other, mixed)):
            found, n = _kl(session, f"{task}, {label}", formats[task], weights)
            size = sum(made[task][module].stored_bytes for module in stored)
            ends = f"{found.low:.4g} to {found.high:.4g}"
            print(
                f"{task}, {label}: stores {len(stored)} of {len(modules)} modules, {size:,} bytes; KL {found.value:.4g} ({ends}), n = {n}"
            )
        whole = sum(weight.stored_bytes for weight in made[task].values())
        print(f"{task}: {whole:,} bytes in all its modules")


def _same(one: Packed, other: Packed) -> bool:
    parts = zip(vars(one.parts()).values(), vars(other.parts()).values(), strict=True)
    return all(torch.equal(here, there) for here, there in parts)


def _kl(session: Session, name: str, formats: Mapping[str, str], weights: Mapping[str, Packed]) -> tuple[Estimate, int]:
    held_out = session.held_out
    session.variants.define_stored(name, formats, StoredWeights(dict(weights)))
    nats = kl.whole(session.variants.reference, session.variants.model(name), session.held_out_batches(), len(held_out.sequences))
    drawn = resample_weights(len(nats), 2000, 0)
    return bootstrap_ratio(drawn, np.array(nats), np.array(held_out.sequence_tokens, dtype=np.float64)), len(nats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--switches", type=int, default=1000, help="under load")
    parser.add_argument("--rounding", action="store_true")
    given = parser.parse_args()
    profile = profile_files.load(given.profile)
    with tempfile.TemporaryDirectory() as folder:
        if given.rounding:
            rounding(profile)
        else:
            proof(profile, given.switches, Path(folder))


if __name__ == "__main__":
    main()
