"""A real regression to catch: the scales of one quantized module are wrong, and its layer is measured again.

Every layer of the embedded model in turn, at every format, alone quantized as in the sweep: the first quantized module of the layer gets
its scales times FACTOR, the KL is measured on the sensitivity sequences, and `compare`'s test says whether it is worse. What is caught is
counted.

    python scripts/wrong_scale.py --factor 1.25
"""

from __future__ import annotations

import argparse
import copy

import torch

from bitzones.evaluation import kl as divergence
from bitzones.models import structure
from bitzones.regression import paired
from bitzones.regression.decision_rule import decided
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.stats.intervals import wilson_interval

CELLS = 40
"""Tests of the family that the one is corrected with: about those of the default run's KLs."""


def alone(reference: torch.nn.Module, variant: torch.nn.Module, layer: int) -> torch.nn.Module:
    """The reference with one layer of a variant in the place of its own."""
    model = copy.deepcopy(reference)
    path, block = list(structure.decoder_layers(variant).items())[layer]
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, block)
    return model


def scaled(model: torch.nn.Module, layer: int, factor: float) -> str:
    """Multiply the scales of a layer's first quantized module; its name."""
    name, block = list(structure.decoder_layers(model).items())[layer]
    for inner, module in block.named_modules():
        scale = getattr(getattr(module, "weight", None), "_scale", None)
        if scale is not None:
            with torch.no_grad():
                scale.mul_(factor)
            return f"{name}.{inner}"
    raise SystemExit(f"{name} has no quantized module with scales")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factor", type=float, nargs="+", default=[1.1, 1.25])
    parser.add_argument("--variants", nargs="+", default=["w8", "w4", "w2"])
    given = parser.parse_args()
    settings = profile_files.load(profile_files.DEFAULT)
    session = Session(settings)
    reference = session.model(session.reference_id)
    for variant in given.variants:
        quantized = session.model(variant)
        models = [alone(reference, quantized, layer) for layer in range(len(session.layers))]

        def kl(model: torch.nn.Module, variant: str = variant) -> tuple[float, ...]:
            cell = divergence.divergence_cell(variant, reference, model, session.sensitivity_set, session.sensitivity_batches())
            return cell.kl_nats

        sequences = paired.Sequences([int(count) for count in session.sensitivity_set.sequence_tokens], settings.seed)
        right = [kl(model) for model in models]
        for factor in given.factor:
            caught, rises = 0, []
            for layer, (model, before) in enumerate(zip(models, right, strict=True)):
                scaled(model, layer, factor)
                after = kl(model)
                scaled(model, layer, 1 / factor)
                null = paired.kl("same", before, before, sequences, settings.gate)
                drafts = [paired.kl("KL", before, after, sequences, settings.gate), *[null] * (CELLS - 1)]
                caught += decided(drafts)[0].status == "worse"
                rises.append(sum(after) / sum(before))
            n = len(session.layers)
            interval = wilson_interval(caught, n)
            print(
                f"{variant}, scales of one module x {factor:g}: caught {caught} of {n} ({interval.low:.0%} to {interval.high:.0%}); "
                f"its KL x {min(rises):.2f} to x {max(rises):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
