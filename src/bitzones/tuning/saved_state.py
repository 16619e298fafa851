"""The state of a tuning, in memory and on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bitzones.backends.backend_protocol import Packed
from bitzones.schema.errors import OutputError, PlanError
from bitzones.schema.files import beside, write_text
from bitzones.schema.profile_sections import Tuning
from bitzones.tuning import packed_weights

__all__ = ["State", "exists", "identity", "load", "remove", "save"]

FORMAT = "bitzones-tuning-state"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's names of its running means."""


@dataclass
class State:
    """What a tuning knows besides its parameters; ``before`` and ``after`` are of the first and the best state (`distill.Tuned`)."""

    step: int = 0
    best_step: int = 0
    checks_since_best: int = 0
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    history: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def note(self, step: int, nats: list[float], tokens: int, parameters: dict[str, torch.Tensor]) -> None:
        """A measurement on the validation split: nats per sequence, over so many tokens."""
        self.step = step
        self.history.append((step, sum(nats) / tokens))
        self.before = self.before or nats
        if not self.after or sum(nats) < sum(self.after):
            self.after, self.best_step, self.checks_since_best, self.best = nats, step, 0, parameters
        else:
            self.checks_since_best += 1


def identity(settings: Tuning, seed: int, texts: Sequence[str], weights: Mapping[str, Packed]) -> str:
    """Hash of everything that a tuning's result depends on but for the machine: settings, seed, text and the weights before it."""
    digest = hashlib.sha256(f"{settings.model_dump_json()} {seed} {' '.join(texts)}".encode())
    for name, weight in weights.items():
        rounded = packed_weights.parts(weight)
        digest.update(name.encode())
        for part in (rounded.integers, rounded.scale.float(), rounded.shift.float()):
            digest.update(part.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _files(place: Path) -> tuple[Path, Path]:
    return place.with_name(f"{place.name}.safetensors"), place.with_name(f"{place.name}.json")


def exists(place: Path) -> bool:
    """Whether a state was saved there."""
    return _files(place)[1].is_file()


def remove(place: Path) -> None:
    """Remove what was saved there, if anything."""
    for file in _files(place):
        file.unlink(missing_ok=True)


def save(place: Path, key: str, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write the state; the JSON comes last and names the hash of the tensors, so that a crash between the two is noticed.

    Raises:
        OutputError: it cannot be written.
    """
    tensors, record = _files(place)
    moments = {f"{kind}/{name}": optimizer.state[p][kind] for name, p in parameters.items() for kind in MOMENTS if p in optimizer.state}
    found = {f"now/{name}": p.detach() for name, p in parameters.items()} | {f"best/{name}": p for name, p in state.best.items()} | moments
    try:
        with beside(tensors) as part:
            save_file({name: tensor.cpu().contiguous() for name, tensor in found.items()}, part)
            sha256 = _sha256(part)
    except OSError as error:
        raise OutputError(f"{tensors}: cannot be written: {error.strerror or error}") from error
    kept = {name: value for name, value in vars(state).items() if name != "best"}
    write_text(record, json.dumps({"format": FORMAT, "identity": key, "sha256": sha256, **kept}) + "\n")


def load(place: Path, key: str, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> State:
    """Continue a state: parameters and optimizer are set to it.

    Raises:
        PlanError: it cannot be read, is damaged, or is of another tuning.
    """
    tensors, record = _files(place)
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        kept, same = told.pop("format", None) == FORMAT and told.pop("sha256") == _sha256(tensors), told.pop("identity") == key
        state = State(**{**told, "history": [(int(step), float(nats)) for step, nats in told["history"]]})
        found = load_file(tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise PlanError(f"{record}: cannot be continued, it is damaged: remove it, or do not resume") from error
    if not same:
        raise PlanError(f"{record}: the state of another tuning (plan, text, settings or seed differ): remove it, or do not resume")
    if not kept:
        raise PlanError(f"{record}: cannot be continued, its tensors are others: remove it, or do not resume")
    state.best = {name: found[f"best/{name}"].to(parameter.device) for name, parameter in parameters.items()}
    _restore(found, parameters, optimizer, state.step)
    return state


def _restore(
    found: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, step: int
) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[f"now/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                **{kind: found[f"{kind}/{name}"].to(parameter.device) for kind in MOMENTS},
            }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
