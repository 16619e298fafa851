"""What integer zero points cost: uniform models in formats with whole and with real shifts, paired on one profile's held-out sequences.

From the top of a checkout:

    python -m scripts.whole_zeros tiny
    python -m scripts.whole_zeros smollm2 --data FOLDER --no-gptq

``int`` searches scale and integer zero together; "zero rounded" rounds the shift of another format to whole scales after its search, as
quanto does with ``zeropoint=True``. Prints two tables in Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scripts.calibrated_rounding import Made, average_bits
from tabulate import tabulate

from bitzones.backends.backend_protocol import Weight
from bitzones.backends.integers import Rounded
from bitzones.data import sequences
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.formats import Format, is_calibrated
from bitzones.sensitivity import sweep
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate

FORMATS = ("qint4", "qint2:hqq", "mlx:4g64", "mlx:3g64", "mlx:2g64", "int:8g64", "int:4g64", "int:3g64", "int:2g64", "int:2g32")
CALIBRATED = ("qint2:gptq", "mlx:2g64:gptq", "int:2g64:gptq", "int:3g64:gptq", "int:4g64:gptq")
ROUNDED = ("qint4", "qint2:hqq")
"""Also measured with their zeros rounded."""
PAIRS = (
    ("qint2:hqq, zero rounded", "qint2:hqq"), ("int:2g64", "qint2:hqq, zero rounded"), ("int:2g64", "qint2:hqq"), ("int:2g64", "mlx:2g64"),
    ("int:3g64", "mlx:3g64"), ("int:4g64", "mlx:4g64"), ("int:4g64", "qint4"), ("qint4, zero rounded", "qint4"),
    ("int:2g64:gptq", "qint2:gptq"), ("int:2g64:gptq", "mlx:2g64:gptq"), ("int:2g64:gptq", "int:2g64"),
)  # fmt: skip
RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """KLs of a model, nats summed over each sequence's tokens."""

    made: Made
    nats: np.ndarray


def rounded_zero(session: Session, name: str, weight: Weight) -> torch.Tensor:
    """The values of a module's weight in quanto's scales, with the zero rounded to a whole number and every integer chosen again."""
    assert not isinstance(weight, torch.Tensor)
    parts = weight.parts()
    scale, levels = parts.scale.float(), 2 ** Format.of(weight.format).bits - 1
    shift = (parts.shift.float() / scale).round().clamp(0, levels) * scale
    dense = session.variants.reference.get_parameter(f"{name}.weight").detach().float().unflatten(1, (scale.shape[1], -1))
    integers = ((dense + shift[..., None]) / scale[..., None]).round().clamp(0, levels).to(torch.uint8).flatten(1)
    return Rounded(integers, parts.scale, shift).values()


def models(session: Session) -> Iterator[Made]:
    """Every module that all formats take, in each format; calibrated ones rounded layer by layer."""
    variants = session.variants
    for variant, name in variants.uniform.items():
        made = dict(variants.whole(variant) if is_calibrated(name) else variants.packed(variant))
        yield Made(name, average_bits(session, made), made)
        if name in ROUNDED:
            changed = {module: rounded_zero(session, module, weight) for module, weight in made.items()}
            whole = Made(f"{name}, zero rounded", average_bits(session, made), changed)
            yield replace(whole, bits=whole.bits - _saved(made))


def _saved(made: Mapping[str, Weight]) -> float:
    """Bits a weight that packed zeros save over stored shifts, on average."""
    saved = total = 0.0
    for weight in made.values():
        assert not isinstance(weight, torch.Tensor)
        parts = weight.parts()
        saved += parts.shift.numel() * (parts.shift.element_size() * 8 - Format.of(weight.format).bits)
        total += weight.shape.numel()
    return saved / total


def measured(session: Session, made: list[Made]) -> list[Measured]:
    found = []
    for item in made:  # one at a time, so that no more than one model's dense weights are in memory
        batches = sequences.batches(session.held_out, session.profile.sensitivity.batch, session.device)
        nats = sweep.exact(
            session.variants.reference, session.layers, [sweep.Candidate(0, item.weights)], batches, len(session.held_out.sequences)
        ).candidates[0]
        assert nats is not None
        found.append(Measured(item, np.array(nats)))
        print(item.name, f"{nats and sum(nats) / sum(session.held_out.sequence_tokens):.4f}", flush=True)
    return found


def shown(found: Estimate, sign: str = "") -> str:
    return f"{found.value:{sign}.4f} ({found.low:{sign}.4f} to {found.high:{sign}.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("profile")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    parser.add_argument("--no-gptq", action="store_true", help="leave calibrated formats out")
    asked = parser.parse_args()
    settings = profile_files.load(asked.profile).resolved(asked.data)
    formats = (*asked.formats, *(() if asked.no_gptq else CALIBRATED))
    changes = {"formats": formats}
    session = Session(settings.model_copy(update=changes), lambda line: print(line, flush=True))
    session.check_sequences()
    found = {item.made.name: item for item in measured(session, list(models(session)))}
    held = session.held_out
    tokens, weights = np.array(held.sequence_tokens, dtype=float), resample_weights(len(held.sequences), RESAMPLES, settings.seed)
    print(
        f"\nKL, nats per token, 95% bootstrap intervals over n = {len(held.sequences)} held-out sequences ({int(tokens.sum()):,} tokens)\n"
    )
    rows = [(name, f"{item.made.bits:.2f}", shown(bootstrap_ratio(weights, item.nats, tokens))) for name, item in found.items()]
    print(tabulate(rows, ("format of all modules", "stored bits", "KL"), tablefmt="github", disable_numparse=True))
    pairs = [
        (f"{one} minus {other}", shown(bootstrap_ratio(weights, found[one].nats - found[other].nats, tokens), "+"))
        for one, other in PAIRS
        if one in found and other in found
    ]
    print("\n" + tabulate(pairs, ("paired difference", "KL"), tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
