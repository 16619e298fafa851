"""Our rounding beside llm-compressor's GPTQ, on the same weights, inputs, bits and groups: the error that each leaves at the outputs.

Two steps, because the two want different environments. Where bitzones is installed, with the data sets under FOLDER:

    python scripts/gptq_peer.py gather smollm2 inputs.safetensors --data FOLDER

and where `pip install torch==2.13.0 llmcompressor` was run, from the top of a checkout:

    PYTHONPATH=src python scripts/gptq_peer.py compare inputs.safetensors

Prints a table in Markdown: the relative error ||(W - W') X|| / ||W X|| of each, and ours by the better of theirs. Seen to run with
llm-compressor 0.14.0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

DAMPING = 0.01
"""The same for both: the default of both."""
LAYERS = (0, 14, 29)
OBSERVERS = ("memoryless_minmax", "memoryless_mse")
"""How llm-compressor chooses scale and zero point of a group: its default, and the one that searches."""
MODULES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def gather(name: str, place: Path, data: Path | None) -> None:
    """Weights, and second moments of their inputs on the profile's rounding sequences, of a few layers."""
    from bitzones.models import structure  # noqa: PLC0415
    from bitzones.rounding.hessian import Entering, moments_of, through  # noqa: PLC0415
    from bitzones.run.session import Session  # noqa: PLC0415
    from bitzones.schema import profile_files  # noqa: PLC0415  (the other environment lacks what this needs)

    session = Session(profile_files.load(name).resolved(data))
    model, batches = session.variants.reference, session.calibration_batches()
    blocks, entering = structure.decoder_layers(model), Entering([() for _ in batches]).now
    found: dict[str, torch.Tensor] = {}
    for at, block in enumerate(blocks):
        names = [f"{block}.{module}" for module in MODULES]
        if at in LAYERS:
            moments, _ = moments_of(model, session.layers, names, Entering(entering), batches)
            for module in names:
                found[f"{module}.weight"] = model.get_parameter(f"{module}.weight").detach().clone()
                found[f"{module}.moment"] = moments[module].total.clone()
        entering = through(model, session.layers, entering, batches)
    save_file(found, place)


def theirs(weight: torch.Tensor, moment: torch.Tensor, bits: int, group: int, observer: str) -> torch.Tensor:
    """What llm-compressor makes of a weight: asymmetric groups, its own activation order within what groups allow."""
    from compressed_tensors.quantization import ActivationOrdering, QuantizationArgs  # noqa: PLC0415
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight  # noqa: PLC0415
    from llmcompressor.observers import Observer  # noqa: PLC0415

    arguments = QuantizationArgs(
        num_bits=bits, group_size=group, strategy="group", symmetric=False, actorder=ActivationOrdering.WEIGHT, observer=observer
    )
    seen = Observer.load_from_registry(observer, base_name="weight", args=arguments)
    grid = seen(weight).get_qparams()
    made, _, _ = quantize_weight(
        weights=weight[None].clone(),
        hessians=moment[None].clone(),  # made over in place
        scale=grid["scale"][None],
        zero_point=grid["zero_point"][None],
        global_scale=None,
        quant_args=arguments,
        blocksize=128,
        percdamp=DAMPING,
    )
    assert isinstance(made, torch.Tensor)
    return made[0].float()


def ours(weight: torch.Tensor, moment: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    from bitzones.rounding.gptq import round_rows  # noqa: PLC0415

    levels = torch.full((len(weight),), 2.0**bits - 1)
    return round_rows(weight, moment.double(), levels, group, torch.float32, DAMPING).values()


def left(weight: torch.Tensor, made: torch.Tensor, moment: torch.Tensor) -> float:
    """Relative error at the outputs, from the second moment of the inputs: tr(D M D^T) is ||D X||^2."""

    def size(matrix: torch.Tensor) -> float:
        return float(((matrix.double() @ moment.double()) * matrix.double()).sum())

    return float((size(weight - made) / size(weight)) ** 0.5)


def rows(place: Path) -> Iterator[tuple[str, int, int, tuple[float, ...]]]:
    """Module, bits, group size, the errors: ours, and theirs for each of `OBSERVERS`."""
    tensors = load_file(place)
    for key in sorted(tensors):
        if key.endswith(".weight"):
            weight, moment = tensors[key].float(), tensors[f"{key.removesuffix('weight')}moment"]
            group = 96 if weight.shape[1] % 128 else 128
            for bits in (4, 2):
                made = [ours(weight, moment, bits, group), *(theirs(weight, moment, bits, group, observer) for observer in OBSERVERS)]
                yield key.removesuffix(".weight"), bits, group, tuple(left(weight, values, moment) for values in made)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("step", choices=("gather", "compare"))
    parser.add_argument("names", nargs="+", help="gather: profile and file; compare: file")
    parser.add_argument("--data", type=Path, default=None)
    asked = parser.parse_args()
    if asked.step == "gather":
        gather(asked.names[0], Path(asked.names[1]), asked.data)
        return
    print(f"| module | bits | group | ours | {' | '.join(OBSERVERS)} | ours / the better |\n{'|---' * (5 + len(OBSERVERS))}|")
    for name, bits, group, (mine, *others) in rows(Path(asked.names[0])):
        errors = " | ".join(f"{error:.4f}" for error in (mine, *others))
        print(f"| {name} | {bits} | {group} | {errors} | {mine / min(others):.3f} |", flush=True)


if __name__ == "__main__":
    main()
