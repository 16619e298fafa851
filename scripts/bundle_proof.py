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

import torch

from bitzones import __version__, serve
from bitzones.analysis.plan import Plan, PlanBudget, PlannedModel
from bitzones.backends import quantizing
from bitzones.backends.weights import plain_tensors
from bitzones.data import sequences
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
from bitzones.schema.run_record import CalibrationSet
from bitzones.serve.bundle_request import BundleRequest, check_plans
from bitzones.serve.bundle_writer import Bundled, bundle
from bitzones.serve.served_model import ServedModel
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate

CPU = torch.device("cpu")
THREADS = 8
WIDE, NARROW = "qint4", "qint2"
EVERY = 4
"""A task changes one layer in so many."""
BASE = "base"


def planned(
    loaded: loading.Loaded, name: str, wide: set[int], formats: tuple[str, str], calibration: CalibrationSet | None = None
) -> PlanFile:
    """A plan whose layers are at the first format where they are in ``wide``, and at the second elsewhere."""
    modules = structure.quantizable_modules(loaded.model)
    assignment = {module: formats[layer not in wide] for module, layer in modules.items()}
    weights = {module: loaded.model.get_parameter(f"{module}.weight") for module in modules}
    stored = sum(quantizing.expected_bytes(*weights[module].shape, loaded.model.dtype, chosen) for module, chosen in assignment.items())
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
            calibration=calibration,
            sequences_sha256="",
            profile_sha256="",
            versions=versions(),
        )
    )


def plans_of(loaded: loading.Loaded, formats: tuple[str, str], calibration: CalibrationSet | None = None) -> dict[str, PlanFile]:
    """The base, and two tasks that each change one layer in `EVERY`."""
    layers = range(len(structure.decoder_layers(loaded.model)))
    base = {layer for layer in layers if layer % 2 == 0}
    wide = {BASE: base, "first": base ^ {n for n in layers if n % EVERY == 0}, "second": base ^ {n for n in layers if n % EVERY == 1}}
    return {name: planned(loaded, name, chosen, formats, calibration) for name, chosen in wide.items()}


def bundled(plans: Mapping[str, PlanFile], folder: Path, **options: bool) -> Bundled:
    """A bundle of the plans."""
    tasks = [(name, plan) for name, plan in plans.items() if name != BASE]
    return bundle(BundleRequest(plans[BASE], check_plans(plans[BASE], tasks), folder, CPU, notify=print, **options))


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
    plans = plans_of(loaded, (WIDE, NARROW))
    print("\n".join(bundled(plans, folder / "bundle").lines()))
    alone = {name: folder / name for name in plans}
    for name, plan in plans.items():
        quanto_checkpoint.apply(ExportRequest(plan, alone[name], CPU))
    served = serve.load(folder / "bundle")
    base, extra = counted(served)
    print(f"resident bytes: {served.resident_bytes:,}; base {base:,} + what differs {extra:,} = {base + extra:,}")
    timed = bundle_speed.switching(served, 0)
    print(f"switch: median {timed.median_s * 1e6:.1f} us, 99th percentile {timed.p99_s * 1e6:.1f} us, n = {timed.n:,}")
    done, wrong = under_load(served, alone, switches)
    print(f"under {THREADS} threads: {done:,} switches, {wrong} outputs were not bit for bit those of the plan alone")


def rounding(profile: Profile, folder: Path) -> None:
    """Two calibrated plans: what a task stores with its own rounding and with the base's, and the KL of both on held-out sequences."""
    session = Session(profile.model_copy(update={"formats": ("qint4:gptq", "qint2:gptq")}), print)
    chosen = session.calibration_set
    calibration = CalibrationSet(
        sequences_sha256=chosen.sha256,
        sequences=tuple(" ".join(map(str, sequence.ids)) for sequence in chosen.sequences),
        batch=session.calibration_batch,
        damping=session.profile.calibration.damping,
    )
    plans = plans_of(session.variants.loaded, ("qint4:gptq", "qint2:gptq"), calibration)
    held_out = session.held_out
    weights = resample_weights(len(held_out.sequences), 2000, 0)
    for label, keep in (("own rounding", False), ("the base's rounding", True)):
        made = bundled(plans, folder / label, keep_rounding=keep)
        served = serve.load(made.folder)
        for task in made.record.tasks:
            batches = sequences.batches(held_out, profile.sensitivity.batch, CPU)
            with served.precision(task.name):
                nats = kl.whole(session.variants.reference, served.model, batches, len(held_out.sequences))
            found = bootstrap_ratio(weights, torch.tensor(nats).double().numpy(), torch.tensor(held_out.sequence_tokens).double().numpy())
            print(
                f"{label}, {task.name}: {len(task.modules)} of {len(plans[BASE].plan.assignment)} modules, {task.stored_bytes:,} bytes; "
                f"KL {found.value:.4g} ({found.low:.4g} to {found.high:.4g}) nats/token, n = {len(nats)} sequences"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--switches", type=int, default=1000, help="under load")
    parser.add_argument("--rounding", action="store_true")
    given = parser.parse_args()
    profile = profile_files.load(given.profile)
    with tempfile.TemporaryDirectory() as folder:
        if given.rounding:
            rounding(profile, Path(folder))
        else:
            proof(profile, given.switches, Path(folder))


if __name__ == "__main__":
    main()
